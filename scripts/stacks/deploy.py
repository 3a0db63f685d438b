"""Updates the stacks of an environment to their templates. Each change set is shown and has to be confirmed first."""

import json

import settings
import templates
from changes import ChangeSet
from cloud import Refusal, agree, in_progress, outputs, run, say

# States after a failed first create, when the stack can only be deleted; and states that a person must repair first,
# each with the operation that ends the repair.
FAILED_CREATE = ("CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED")
STUCK = dict(UPDATE_ROLLBACK_FAILED="continue-update-rollback", UPDATE_FAILED="rollback-stack", DELETE_FAILED="delete-stack")


def settle(account, full_name):
    """The stack, at rest: waits for a running operation, and deletes the remains of a failed first create. None: no stack."""
    stack = account.stack(full_name)
    if stack and in_progress(stack):
        say(f"    is in {stack['StackStatus']}, begun by an earlier run or somebody else: waiting for it")
        stack, failure = account.follow(stack["StackId"])
        if "ROLLBACK" in stack["StackStatus"] or stack["StackStatus"] == "DELETE_COMPLETE":
            say(f"    that has ended in {stack['StackStatus']}, because of{failure}", "yellow")
    status = stack["StackStatus"] if stack else "DELETE_COMPLETE"
    if status == "REVIEW_IN_PROGRESS":
        say("    an earlier run has stopped before it executed its change set; here is a new one")
    elif status in STUCK:
        failure = account.first_failure(account.events(stack["StackId"], None)) + "\n    Mend that, then: "
        raise Refusal(f"{full_name} is in {status}, because of{failure}{account.command(STUCK[status], StackName=full_name)}")
    elif status in FAILED_CREATE:
        say(f"    is in {status}, the rest of a create that has failed: deletes it first")
        stack, failure = account.delete(stack)
        if stack["StackStatus"] != "DELETE_COMPLETE":
            raise Refusal(f"{full_name} cannot be deleted, because of{failure}")
    elif status != "DELETE_COMPLETE":
        return stack


def protect(account, name, stack):
    """Sets termination protection, and the stack policy if there is one. Both are missing after a run that was killed."""
    full_name, path = account.prefix + name, templates.FOLDER / "stack-policies" / f"{name}.json"
    if (name == "bootstrap" or account.environment == "prod") and not stack.get("EnableTerminationProtection"):
        say("    protects it from being deleted")
        say(account.command("update-termination-protection", StackName=full_name, EnableTerminationProtection=True))
        account.cloudformation.update_termination_protection(StackName=full_name, EnableTerminationProtection=True)
    if path.exists():
        there = account.cloudformation.get_stack_policy(StackName=full_name).get("StackPolicyBody") or "null"
        if json.loads(there) != json.loads(path.read_text()):
            say(f"    sets its stack policy, {path.name}")
            account.cloudformation.set_stack_policy(StackName=full_name, StackPolicyBody=path.read_text())


def change(account, name, template, stack, from_file, given, revert=False):
    """The change set from the existing stack to its template."""
    computed = {"Environment": account.environment, "Version": settings.VERSION}
    if "SettingsHash" in template.get("Parameters", {}):
        computed["SettingsHash"] = settings.settings_hash(account)
    parameters, _ = settings.parameters(name, template, from_file, stack, given, computed)
    centre = [one["ParameterValue"] for one in parameters if one["ParameterKey"] == "CostCentre"] or ["salebell"]
    tags = {"Project": "salebell", "Environment": account.environment, "Component": name, "Version": computed["Version"]}
    tags |= {"CostCentre": centre[0], "ManagedBy": "cloudformation"}
    return ChangeSet(account, name, stack, parameters, tags, revert)


def deploy(account, name, template, options, from_file, given):
    say(f"==> {(full_name := account.prefix + name)}")
    stack = settle(account, full_name)
    change_set = change(account, name, template, stack, from_file, given, options.revert)
    if not change_set.create():
        say("    nothing to change")
        return protect(account, name, stack)
    try:
        change_set.show()
        replaced = [one["LogicalResourceId"] for one in change_set.changes if one.get("Replacement") == "True"]
        if options.yes and replaced and not options.replace:
            raise Refusal(f"{name}: {', '.join(replaced)} would be replaced. REPLACE=1 says that this is meant")
        if not options.yes:
            needs = "" if stack else template.get("Metadata", {}).get("Needs", "")
            agree(f"{needs}change {full_name} in account {account.number} ({account.region})?")
            if replaced:
                # With another word, because `y` is typed too quickly.
                agree(f"REPLACE {', '.join(replaced)}, with all that is in them?", "replace")
        if stack:
            protect(account, name, stack)
    except Exception:
        change_set.discard()
        raise
    stack = change_set.execute()
    say(f"    {stack['StackStatus']}", "green")
    protect(account, name, stack)
    if defaults := outputs(stack).get("AccountDefaultsCommand"):
        say(f"    CloudFormation has no type for some defaults of an account. Run this once:\n{defaults}")


def main(account, options):
    stacks, given = templates.stacks(), dict(word.partition("=")[::2] for word in options.parameters)
    if options.stack and options.stack not in account.names():
        raise Refusal(f"{account.environment} has no stack {options.stack!r}: STACK= may be {', '.join(account.names())}")
    names = [options.stack] if options.stack else account.names()
    templates.check(given, [stacks[name] for name in names], "PARAMETERS")
    from_file = templates.values(account.environment, known=stacks)
    account.introduce(f"deploys {', '.join(names)}{', with what was changed by hand changed back' * options.revert}")
    # Missing values are reported before anything is changed.
    there = ((name, stacks[name], from_file, account.stack(account.prefix + name), given, {}) for name in names)
    if wrong := [problem for one in there for problem in settings.parameters(*one)[1]]:
        where = f'fill in cloudformation/parameters/{account.environment}.json, or add PARAMETERS="Name=… Name=…":'
        raise Refusal("\n    ".join([where, *wrong]))
    for name in names:
        if name == "bootstrap" and f":assumed-role/{account.prefix}deploy/" in account.caller:
            say("==> bootstrap is an administrator's: left as it is")
        else:
            deploy(account, name, stacks[name], options, from_file, given)
    missing = [f" STACK={name}" for name in account.names() if not account.stack(account.prefix + name)]
    say(f"next: make {'deploy' if missing else 'status'} ENV={account.environment}{[*missing, ''][0]}")


if __name__ == "__main__":
    words = {"nargs": "*", "metavar": "Name=value", "default": [], "help": "values that replace those of the file"}
    stack, revert = {"help": "only this stack, such as network"}, "also reverts manual changes (drift)"
    yes, replace = "does not ask, and refuses to replace resources", "with --yes: replaces resources, too"
    run(main, __doc__, stack=stack, revert=revert, yes=yes, replace=replace, parameters=words)
