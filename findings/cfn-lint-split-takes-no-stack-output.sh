#!/usr/bin/env bash
# cfn-lint 1.58.0: Fn::Split of Fn::GetStackOutput is an error (E1018), although Fn::Split of Fn::ImportValue, which it is
# to replace, is none, and the value of GetStackOutput is accepted wherever text is wanted. A list of subnets that one
# stack gives to another cannot be split as it comes; Fn::Split of an Fn::Join of it alone passes.
#
# Output seen:
#   ImportValue: nothing  GetStackOutput: E1018  Join of GetStackOutput: nothing
#
# Ends with 0 when that is so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv tools
tools/bin/pip install --quiet --disable-pip-version-check cfn-lint==1.58.0
found() {
  cat >template.yaml <<YAML
Resources:
  Group:
    Type: AWS::RDS::DBSubnetGroup
    Properties: { DBSubnetGroupDescription: three, SubnetIds: { Fn::Split: [",", $1] } }
YAML
  tools/bin/cfn-lint --regions eu-central-1 --format parseable --template template.yaml | cut -d: -f6 || true
}
output='{ Fn::GetStackOutput: { StackName: network, OutputName: Subnets } }'
imported=$(found '{ Fn::ImportValue: Subnets }')
plain=$(found "$output")
joined=$(found "{ Fn::Join: [\"\", [$output]] }")
echo "ImportValue: ${imported:-nothing}  GetStackOutput: ${plain:-nothing}  Join of GetStackOutput: ${joined:-nothing}"
[[ -z $imported && $plain == E1018 && -z $joined ]]
