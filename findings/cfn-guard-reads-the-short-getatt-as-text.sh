#!/usr/bin/env bash
# cfn-guard reads `!GetAtt A.Arn` as {"Fn::GetAtt": "A.Arn"} and not as {"Fn::GetAtt": ["A", "Arn"]}, which CloudFormation's guide
# gives as the same in full, and which the guard makes of the long form. So a rule that looks for the resource in
# 'Fn::GetAtt'[0], as AWS's own rules of Control Tower do, fails for a valid template only because it has the short form.
# Seen with cfn-guard 3.1.1 in @cdklabs/cdk-validator-cfnguard 0.0.62 (x86_64). Output:
#   Fn::GetAtt: [A, Arn]: PASS
#   Fn::GetAtt: A.Arn: FAIL
#   !GetAtt A.Arn: FAIL
# What works: resolve the template before the guard sees it, or take both forms in own rules.
# Needs npm and its registry.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --ignore-scripts --legacy-peer-deps @cdklabs/cdk-validator-cfnguard@0.0.62 >&2
guard=$folder/node_modules/@cdklabs/cdk-validator-cfnguard/bin/ubuntu/x86_64/cfn-guard
chmod +x "$guard"
"$guard" --version >&2
cat >queue.guard <<'RULE'
rule names_a_resource { Resources.B.Properties.RedrivePolicy.deadLetterTargetArn.'Fn::GetAtt'[0] == 'A' }
RULE

# verdict FORM: PASS or FAIL of a template whose one reference has this form.
verdict() {
  cat >template.yaml <<TEMPLATE
Resources:
  A: { Type: AWS::SQS::Queue }
  B:
    Type: AWS::SQS::Queue
    Properties:
      RedrivePolicy:
        maxReceiveCount: 5
        deadLetterTargetArn: $1
TEMPLATE
  local status=0
  "$guard" validate --data template.yaml --rules queue.guard --show-summary none >report 2>&1 || status=$?
  case $status in
    0) echo PASS ;;
    19) echo FAIL ;;
    *) cat report >&2 && echo "status $status" ;;
  esac
}

list=$(verdict '{ "Fn::GetAtt": [A, Arn] }') text=$(verdict '{ "Fn::GetAtt": A.Arn }') short=$(verdict '!GetAtt A.Arn')
echo "Fn::GetAtt: [A, Arn]: $list"
echo "Fn::GetAtt: A.Arn: $text"
echo "!GetAtt A.Arn: $short"
[ "$list $text $short" = "PASS FAIL FAIL" ]
