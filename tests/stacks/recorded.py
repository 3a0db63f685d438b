"""recorded.py FILE [--all]: whether the tables of cloudformation/calls have each call that the product made in the tests.

The file holds lines such as `instance sqs:ReceiveMessage`, by tests/clients/calls.py: the name of a table, and an operation.
With --all every check has run, and a file without any call of a service is an error: then nobody has written it.
"""

import pathlib
import re
import sys

import policies
from calls import Table
from resolve import ROOT

# The action of IAM, where its name is not the operation's.
ACTIONS = {
    "sns:PublishBatch": ["sns:Publish"],
    "sqs:SendMessageBatch": ["sqs:SendMessage"],
    "sqs:DeleteMessageBatch": ["sqs:DeleteMessage"],
    "sqs:ChangeMessageVisibilityBatch": ["sqs:ChangeMessageVisibility"],
    "s3:HeadObject": ["s3:GetObject"],
    "s3:HeadBucket": ["s3:ListBucket"],
    "s3:ListObjects": ["s3:ListBucket"],
    "s3:ListObjectsV2": ["s3:ListBucket"],
    "s3:CreateMultipartUpload": ["s3:PutObject"],
    "s3:UploadPart": ["s3:PutObject"],
    "s3:CompleteMultipartUpload": ["s3:PutObject"],
    "s3:CopyObject": ["s3:GetObject", "s3:PutObject"],
    "s3:UploadPartCopy": ["s3:GetObject", "s3:PutObject"],
    "s3:DeleteObjects": ["s3:DeleteObject"],
    "s3:ListMultipartUploads": ["s3:ListBucketMultipartUploads"],
    "s3:ListParts": ["s3:ListMultipartUploadParts"],
    # Everybody may.
    "sts:GetCallerIdentity": [],
}

# What the tests make the instance call, at the least.
SERVICES = {"autoscaling", "s3", "secretsmanager", "sns", "sqs", "ssm"}


def missing(lines, folder=ROOT / "cloudformation" / "calls", complete=False):
    """What is wrong with recorded lines: calls that no table has, operations that nobody knows."""
    found, calls = [], sorted({tuple(line.split()) for line in lines if line.strip()})
    for who, operation in calls:
        path = folder / f"{who}.yaml"
        if not path.exists():
            found.append(f"{operation} was called as {who}, and there is no calls/{who}.yaml")
            continue
        listed = {call["action"].lower() for call in Table(path).lines()}
        for action in ACTIONS.get(operation, [operation]):
            if not re.fullmatch(r"[a-z0-9-]+:[A-Za-z0-9]+", action) or not policies.details(action):
                found.append(f"{operation} is no action of IAM: say in tests/stacks/recorded.py which it needs")
            elif action.lower() not in listed:
                found.append(f"{operation} was called, and calls/{who}.yaml has no {action}")
    if complete:
        never = SERVICES - {operation.split(":")[0] for who, operation in calls if who == "instance"}
        found += [f"no call of {service} was recorded: who records them?" for service in sorted(never)]
    return found


if __name__ == "__main__":
    recorded = pathlib.Path(sys.argv[1])
    problems = missing(recorded.read_text().splitlines() if recorded.exists() else [], complete="--all" in sys.argv[2:])
    for problem in problems:
        print(f"{problem}", file=sys.stderr)
    sys.exit(bool(problems))
