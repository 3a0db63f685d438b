"""Shows what `make deploy` would change in an environment, stack by stack. Changes nothing: the change sets are deleted again."""

import os
import urllib.parse

import boto3
import templates
from botocore import config
from changes import line
from cloud import FAILURES, Refusal, in_progress, run, say
from deploy import change


def look(account, name, template, from_file):
    """The lines about one stack."""
    full_name = account.prefix + name
    stack = account.stack(full_name)
    if not stack or stack["StackStatus"] == "REVIEW_IN_PROGRESS":
        # A change set of a stack that does not exist leaves an empty stack, which not every role may delete.
        yield f"    + is made, with {len(template['Resources'])} resources or less"
        return
    if in_progress(stack):
        raise Refusal(f"{full_name} is in {stack['StackStatus']}: look again when it is at rest")
    change_set = change(account, name, template, stack, from_file, {})
    if not change_set.create():
        yield "    nothing to change"
        return
    try:
        for one in sorted(change_set.changes, key=lambda one: one["LogicalResourceId"]):
            yield line(one)[0]
    finally:
        change_set.discard()


def publish(text, address, endpoint):
    """Puts the text where the approval links to, with the job's own role: the environment's may not write there."""
    target = urllib.parse.urlsplit(address)
    if target.scheme != "s3" or not target.netloc or not target.path.strip("/"):
        raise Refusal(f"TO={address}: must be s3://bucket/key")
    profile = os.environ.pop("AWS_PROFILE", None)
    try:
        session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
        settings = config.Config(connect_timeout=5, read_timeout=20, user_agent_appid="pipeline")
        s3 = session.client("s3", endpoint_url=endpoint, config=settings)
        s3.put_object(Bucket=target.netloc, Key=target.path.lstrip("/"), Body=text.encode(), ContentType="text/plain; charset=utf-8")
    except FAILURES as error:
        raise Refusal(f"{address} cannot be written: {error}") from None
    finally:
        if profile is not None:
            os.environ["AWS_PROFILE"] = profile
    say(f"next: it is at {address}")


def main(account, options):
    stacks, lines = templates.stacks(), []
    from_file = templates.values(account.environment, known=stacks)

    def tell(text):
        say(text)
        lines.append(text)

    account.introduce("looks at what a deploy would change, and changes nothing")
    tell(f"What a deploy of {account.environment} in account {account.number} ({account.region}) would change. What a stack takes from")
    tell("one before it is seen as it is now; where that changes, a deploy may change more.")
    for name in account.names():
        tell(f"==> {account.prefix}{name}")
        if name == "bootstrap":
            tell("    an administrator's: a deploy of the pipeline leaves it as it is")
            continue
        for one in look(account, name, stacks[name], from_file):
            tell(one)
    if options.to:
        publish("\n".join(lines) + "\n", options.to, account.endpoint)


if __name__ == "__main__":
    run(main, __doc__, to={"default": "", "help": "address for a copy, such as s3://bucket/key.txt"})
