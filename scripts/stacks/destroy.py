"""Deletes the stacks of an environment, the last one first, and lists what remains. Refuses prod."""

import templates
import yaml
from cloud import Refusal, agree, in_progress, run, say

STAYS = {"Retain": "stays", "RetainExceptOnCreate": "stays", "Snapshot": "goes, and a snapshot of it stays"}


def kept(account, stack):
    """The resources that outlive the stack, by the template with which it was deployed."""
    if stack["StackStatus"] == "REVIEW_IN_PROGRESS":
        return
    body = account.cloudformation.get_template(StackName=stack["StackId"])["TemplateBody"]
    declared = body if isinstance(body, dict) else yaml.load(body, templates.Loader)
    for one in account.pages("cloudformation", "list_stack_resources", "StackResourceSummaries", StackName=stack["StackId"]):
        policy = declared["Resources"].get(one["LogicalResourceId"], {}).get("DeletionPolicy")
        if policy in STAYS:
            yield f"{one['ResourceType']} {one['PhysicalResourceId']} {STAYS[policy]}"


def destroy(account, stack):
    say(f"==> {stack['StackName']}")
    if in_progress(stack):
        say(f"    is in {stack['StackStatus']}: waiting for it")
        stack, _ = account.follow(stack["StackId"])
    if stack.get("EnableTerminationProtection"):
        off = account.command("update-termination-protection", StackName=stack["StackName"], NoEnableTerminationProtection=True)
        say(f"    takes its protection off\n{off}")
        account.cloudformation.update_termination_protection(StackName=stack["StackId"], EnableTerminationProtection=False)
    stack, failure = account.delete(stack) if stack["StackStatus"] != "DELETE_COMPLETE" else (stack, "")
    if stack["StackStatus"] != "DELETE_COMPLETE":
        failure += "\nMend that (a bucket must be empty) and run this again: it goes on from here"
        raise Refusal(f"{stack['StackName']} is in {stack['StackStatus']}, because of{failure}")


def main(account, options):
    if account.environment == "prod":
        raise Refusal("prod is not destroyed by a command: delete its stacks one by one, with a second person looking on")
    account.introduce("deletes all stacks of this environment, the last one first")
    found = [stack for name in reversed(account.names()) if (stack := account.stack(account.prefix + name))]
    stays = [line for stack in found for line in kept(account, stack)]
    say("\n    ".join([f"    {len(found)} stacks:", *map("{StackName} {StackStatus}".format_map, found), *stays]), "yellow")
    if found and not options.yes:
        agree(f"delete all of it in account {account.number}?", account.environment)
    for stack in found:
        destroy(account, stack)
    say("\n    ".join(["==> all is gone" + ", but for what is deleted by hand:" * bool(stays), *stays]))
    say(f"next: make deploy ENV={account.environment}")


if __name__ == "__main__":
    run(main, __doc__, yes="does not ask")
