# shellcheck shell=bash
# Functions for on-call engineers: short forms of the `aws` commands that the runbooks use (docs/guides/runbooks/).
#   . scripts/stacks/at-night.sh prod
# They only read. Credentials and region come from the environment, as for any `aws` command; `aws` is version 1 or 2.
ENV=${1:?an environment: dev, stage or prod}
export AWS_PAGER=''
# Version 1 does not read AWS_REGION.
[[ -z ${AWS_REGION:-} ]] || export AWS_DEFAULT_REGION=$AWS_REGION

# out STACK NAME: an output of a stack, such as `out service LiveGroup`.
out() {
  aws cloudformation describe-stacks --stack-name "salebell-$ENV-$1" --output text \
    --query "Stacks[0].Outputs[?OutputKey=='$2'].OutputValue"
}

# alarms: the alarms in state ALARM, each with its description and its runbook.
alarms() {
  aws cloudwatch describe-alarms --alarm-types MetricAlarm CompositeAlarm --state-value ALARM --output text \
    --query "[MetricAlarms, CompositeAlarms][].[StateUpdatedTimestamp, AlarmName, AlarmDescription]"
}

# ask GROUP QUERY [MINUTES]: a query of CloudWatch Logs Insights, by default over the last hour. GROUP is access,
# application, system, metrics or sessions of /salebell/, or the full name of another group.
ask() {
  local now id lines group=/salebell/$1
  [[ $1 != *[-/]* ]] || group=$1
  now=$(date +%s)
  id=$(aws logs start-query --log-group-name "$group" --query-string "$2" \
    --start-time "$((now - ${3:-60} * 60))" --end-time "$now" --query queryId --output text) || return
  while [[ $(aws logs get-query-results --query-id "$id" --query status --output text) =~ Scheduled|Running|Unknown ]]; do
    sleep 1
  done
  lines=$(aws logs get-query-results --query-id "$id" --output text --query "results[*][?field!='@ptr'].value") || return
  # Log lines contain input from strangers: remove everything that a terminal acts on, and what changes the direction of
  # writing.
  LC_ALL=C sed -E 's/\xe2\x80[\x8e\x8f\xaa-\xae]|\xe2\x81[\xa6-\xa9]|\xd8\x9c/?/g' <<<"$lines" | LC_ALL=C.UTF-8 sed 's/[^[:print:]\t]/?/g'
}

# errors [MINUTES]: warnings and errors of Salebell's services, the most frequent first.
errors() {
  ask application 'filter level in ["error", "warning"] | stats count(*) as n by target, message | sort n desc | limit 20' "${1:-60}"
}

# figures NAMESPACE METRIC STATISTIC [DIMENSION=VALUE…]: a metric of the last hour by the minute, newest last.
figures() {
  local namespace=$1 metric=$2 statistic=$3 pair dimensions=()
  shift 3
  for pair in "$@"; do
    dimensions+=("Name=${pair%%=*},Value=${pair#*=}")
  done
  case $statistic in
    p[0-9]*) set -- --extended-statistics "$statistic" --query "sort_by(Datapoints, &Timestamp)[].[Timestamp, ExtendedStatistics.$statistic]" ;;
    *) set -- --statistics "$statistic" --query "sort_by(Datapoints, &Timestamp)[].[Timestamp, $statistic]" ;;
  esac
  aws cloudwatch get-metric-statistics --namespace "$namespace" --metric-name "$metric" \
    ${dimensions[@]+--dimensions "${dimensions[@]}"} --period 60 --start-time "$(date -u -d '-1 hour' +%FT%TZ)" \
    --end-time "$(date -u +%FT%TZ)" --output text "$@"
}

# instances [OUTPUT]: instances of a group (LiveGroup, or CanaryGroup): zone, state, health, version of the launch
# template.
instances() {
  aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names "$(out service "${1:-LiveGroup}")" --output text \
    --query 'AutoScalingGroups[].Instances[].[InstanceId, AvailabilityZone, LifecycleState, HealthStatus, LaunchTemplate.Version]'
}

# activities [OUTPUT]: the latest activities of a group, and their causes.
activities() {
  aws autoscaling describe-scaling-activities --auto-scaling-group-name "$(out service "${1:-LiveGroup}")" --max-items 10 \
    --output text --query 'Activities[].[StartTime, StatusCode, Description, StatusMessage]'
}

# targets OUTPUT: health of the load balancer's targets (LiveHttpTargetGroup, LiveGrpcTargetGroup, Canary…).
targets() {
  local name arn
  name=$(out service "$1")
  # arn:aws:elasticloadbalancing:REGION:ACCOUNT:loadbalancer/… of the load balancer, up to the account.
  arn=$(out edge BalancerArn)
  aws elbv2 describe-target-health --target-group-arn "${arn%%:loadbalancer/*}:targetgroup/${name#targetgroup/}" --output text \
    --query 'TargetHealthDescriptions[].[Target.Id, TargetHealth.State, TargetHealth.Reason, TargetHealth.Description]'
}

# queue OUTPUT: numbers of messages that wait in a queue (PricesQueueName, PricesDeadQueueName), and that are being
# processed.
queue() {
  local url
  url=$(aws sqs get-queue-url --queue-name "$(out bus "$1")" --query QueueUrl --output text) || return
  aws sqs get-queue-attributes --queue-url "$url" --output text \
    --attribute-names ApproximateNumberOfMessages ApproximateNumberOfMessagesNotVisible --query \
    "Attributes.join(' ', [ApproximateNumberOfMessages, 'wait,', ApproximateNumberOfMessagesNotVisible, 'are worked on'])"
}
