#!/usr/bin/env bash
# The schema of AWS::CodePipeline::Pipeline has no limit on the lists of a trigger, so cfn-lint passes a filter with nine patterns
# of paths and four filters of pushes. The service takes eight and three: its own model, as botocore ships it, says so, and
# CreatePipeline refuses the rest, which is first heard of when the stack is deployed. Other lists of that model are not in the
# schema either. A template that sorts a repository's folders to two pipelines comes to nine soon.
# Seen with cfn-lint 1.58.0 and botocore 1.43.106. Output:
#   the service: at most 8 patterns, 3 filters of pushes
#   cfn-lint on 9 patterns in each of 4 filters: nothing
# What works: more filters, which are or, and a check of one's own.
# Needs python3 with venv, and the registry of Python packages.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check cfn-lint==1.58.0 botocore==1.43.106
cat >"$folder/template.json" <<'JSON'
{"Resources": {"Pipeline": {"Type": "AWS::CodePipeline::Pipeline", "Properties": {
  "RoleArn": "arn:aws:iam::123456789012:role/x", "PipelineType": "V2", "ArtifactStore": {"Type": "S3", "Location": "bucket"},
  "Triggers": [{"ProviderType": "CodeStarSourceConnection", "GitConfiguration": {"SourceActionName": "source", "Push": [
    {"FilePaths": {"Includes": ["1", "2", "3", "4", "5", "6", "7", "8", "a"]}}, {"FilePaths": {"Includes": ["1", "2", "3", "4", "5", "6", "7", "8", "b"]}},
    {"FilePaths": {"Includes": ["1", "2", "3", "4", "5", "6", "7", "8", "c"]}}, {"FilePaths": {"Includes": ["1", "2", "3", "4", "5", "6", "7", "8", "d"]}}]}}],
  "Stages": [
    {"Name": "source", "Actions": [{"Name": "source", "OutputArtifacts": [{"Name": "source"}],
      "ActionTypeId": {"Category": "Source", "Owner": "AWS", "Provider": "CodeStarSourceConnection", "Version": "1"},
      "Configuration": {"ConnectionArn": "arn:aws:codeconnections:eu-central-1:123456789012:connection/x", "FullRepositoryId": "a/b", "BranchName": "main"}}]},
    {"Name": "approve", "Actions": [{"Name": "approve", "ActionTypeId": {"Category": "Approval", "Owner": "AWS", "Provider": "Manual", "Version": "1"}}]}]
}}}}
JSON
"$folder/bin/python" - <<'PYTHON'
import botocore.session

model = botocore.session.get_session().get_service_model("codepipeline")
patterns = model.shape_for("GitFilePathFilterCriteria").members["includes"].metadata["max"]
pushes = model.shape_for("GitConfiguration").members["push"].metadata["max"]
print(f"the service: at most {patterns} patterns, {pushes} filters of pushes")
assert (patterns, pushes) == (8, 3)
PYTHON
found=$("$folder/bin/cfn-lint" --regions eu-central-1 -- "$folder/template.json" </dev/null) || true
echo "cfn-lint on 9 patterns in each of 4 filters: ${found:-nothing}"
[ -z "$found" ]
