"""What the product calls in the tests must be in its table (P9): recorded.py, on lines that are not and lines that are."""

import pytest
import recorded

TABLE = """
template: 60-service
role: InstanceRole
calls:
  - { action: sns:Publish, resources: [x] }
  - { action: s3:PutObject, resources: [x] }
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "instance.yaml").write_text(TABLE)
    return tmp_path


@pytest.mark.parametrize("operation", ["sns:PublishBatch", "s3:UploadPart", "s3:PutObject", "sts:GetCallerIdentity"])
def test_a_call_of_the_table_is_good(folder, operation):
    assert recorded.missing([f"instance {operation}"], folder) == []


@pytest.mark.parametrize(
    "line, word",
    [
        ("instance sqs:ReceiveMessage", "has no sqs:ReceiveMessage"),
        ("instance s3:DeleteObjects", "has no s3:DeleteObject"),
        ("instance s3:PUT?acl", "no action of IAM"),
        ("instance sqs:Recieve", "no action of IAM"),
        ("bake ec2:RunInstances", "no calls/bake.yaml"),
    ],
)
def test_a_call_that_the_table_lacks_is_found(folder, line, word):
    (problem,) = recorded.missing([line], folder)
    assert word in problem


def test_nothing_recorded_is_found(folder):
    assert len(recorded.missing([], folder, complete=True)) == len(recorded.SERVICES)
