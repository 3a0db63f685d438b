"""A change set of CloudFormation: made, described to the operator, executed. Stacks of ours are changed in no other way."""

import contextlib
import os
import time
import uuid

import botocore.exceptions
import templates
from cloud import Refusal, outputs, pauses, say


class ChangeSet:
    """A change set of the stack `name`. `existing` is the existing stack, None for a first create."""

    def __init__(self, account, name, existing, parameters, tags, revert=False, what="deploy", **more):
        self.account, self.existing, self.asked = account, existing, False
        self.path = next(path for path in templates.paths() if templates.name(path) == name)
        self.request = {
            "StackName": account.prefix + name,
            "ChangeSetName": f"{what}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            "ChangeSetType": "UPDATE" if existing else "CREATE",
            "Parameters": parameters,
            "Capabilities": ["CAPABILITY_NAMED_IAM"],
            # For resources that a template cannot tag.
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            # Otherwise the alarms of the previous update would apply to this one, too.
            "RollbackConfiguration": {"RollbackTriggers": [], "MonitoringTimeInMinutes": 0},
        } | more
        if not existing:
            # No ROLLBACK_COMPLETE has to be deleted by hand; what `make destroy` has left under its name is imported.
            self.request |= {"OnStackFailure": "DELETE", "ImportExistingResources": True}
        elif revert:
            self.request["DeploymentMode"] = "REVERT_DRIFT"
        role = outputs(account.stack(f"{account.prefix}bootstrap")).get("ExecutionRoleArn")
        self.request |= {"RoleARN": role} if role and name != "bootstrap" else {}
        self.body = {} if "UsePreviousTemplate" in more else {"TemplateBody": self.path.read_text()}

    def create(self):
        """Makes it, and returns whether there is anything to change."""
        self.account.change_set, self.account.subject = self, self.request["StackName"]
        for attempt in range(20):
            try:
                made = self.account.cloudformation.create_change_set(**self.body, **self.request)
                break
            except botocore.exceptions.ClientError as error:
                # The execution role was just created, and is not known everywhere in AWS yet.
                if attempt == 19 or "cannot be assumed" not in str(error):
                    raise
                time.sleep(3)
        self.id, self.stack_id = made["Id"], made["StackId"]
        descriptions = (self.account.cloudformation.describe_change_set(ChangeSetName=self.id) for _ in pauses())
        described = next(seen for seen in descriptions if seen["Status"] in ("CREATE_COMPLETE", "FAILED"))
        if described["Status"] == "FAILED":
            reason = described.get("StatusReason", "") + self.account.validation(ChangeSetName=self.id)
            self.discard()
            if "didn't contain changes" in reason or "No updates are to be performed" in reason:
                return False
            raise Refusal(f"{self.request['StackName']}: CloudFormation refuses the change set: {reason}")
        of = {"ChangeSetName": self.id, "IncludePropertyValues": True}
        every = self.account.pages("cloudformation", "describe_change_set", "Changes", **of)
        self.changes = [change["ResourceChange"] for change in every if "ResourceChange" in change]
        return True

    def show(self):
        """The changes, and the commands of the AWS CLI that do the same."""
        for change in sorted(self.changes, key=lambda one: one["LogicalResourceId"]):
            say(*line(change))
        file = dict.fromkeys(self.body, f"file://{os.path.relpath(self.path)}")
        say(self.account.command("create-change-set", **self.request, **file))
        say(self.account.command("execute-change-set", **{key: self.request[key] for key in ("StackName", "ChangeSetName")}))

    def execute(self, also=lambda _: None):
        """Executes it with its events shown, and what `also` shows. A new image is named in each event (for make rollback)."""
        image = [one.get("ParameterValue", "") for one in self.request["Parameters"] if one["ParameterKey"] == "ImageId"]
        token = "-".join([self.request["ChangeSetName"], *image]).strip("-")
        try:
            self.asked = True
            self.account.cloudformation.execute_change_set(ChangeSetName=self.id, ClientRequestToken=token)
        except botocore.exceptions.ClientError as error:
            raise Refusal(f"{error}\n    Has somebody else changed the stack since? Run the same command again") from None
        stack, failure = self.account.follow(self.stack_id, token, also)
        if stack["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            failure += "\n    Mend that, and run the same command again: it goes on from here"
            raise Refusal(f"{stack['StackName']} is in {stack['StackStatus']}, because of{failure}")
        return stack

    def discard(self):
        """Deletes it, and with it a stack that consists of nothing else. A caller that may not delete that leaves it to the next run.
        By name, because the answer with its id may not have arrived. Returns whether it is gone."""
        name = self.request["StackName"]
        with contextlib.suppress(botocore.exceptions.ClientError):
            self.account.cloudformation.delete_change_set(StackName=name, ChangeSetName=self.request["ChangeSetName"])
            stack = None if self.existing else self.account.stack(name)
            # Not if another person has executed a change set of theirs: then it is their stack, with everything in it.
            if stack and stack["StackStatus"] == "REVIEW_IN_PROGRESS":
                self.account.cloudformation.delete_stack(StackName=name)
            self.account.change_set = None
            return True


def line(change):
    """The change of a resource, and its colour: red if something is lost."""
    what, why = f"{change['LogicalResourceId']} {change['ResourceType']}", set()
    for detail in change.get("Details", []):
        target, cause = detail["Target"], f" by {detail['CausingEntity']}" if "CausingEntity" in detail else ""
        values = f" {target['BeforeValue']} → {target.get('AfterValue')}" if "BeforeValue" in target else ""
        why.add(target.get("Name", target["Attribute"]) + values + cause)
    because = f" ({', '.join(sorted(why))})" if why else ""
    # Conditional: reported for everything that refers to what changes, because the new value is not known yet.
    return {
        "Add": (f"    + {what}", None),
        "Import": (f"    + {what} is there already and taken over", None),
        "Remove": (f"    - {what} is REMOVED", "red"),
        "True": (f"    ! {what} is REPLACED{because}", "red"),
        "Conditional": (f"    ? {what} may be replaced{because}", "yellow"),
    }.get(change.get("Replacement") if change["Action"] == "Modify" else change["Action"], (f"    ~ {what}{because}", None))
