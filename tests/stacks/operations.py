"""Stand-ins for operations that MiniStack does not know: sessions of Systems Manager, mute rules of CloudWatch, a cluster of RDS from
a point in time. Each keeps what it was told and gives it back by the operation that does so on AWS, in the shapes of botocore's model,
whose client checks them. None of them opens a shell or mutes an alarm, and the cluster is an empty one.

An operation that MiniStack has learnt must leave the list: it refuses to start then.
"""

import datetime
import importlib
import json
import re
import time
import urllib.parse

# Rules begin with a full minute. The stand-in is ahead of the command's clock, so that no test waits for it.
AHEAD = 75

rules, sessions = {}, {}


class Refused(Exception):
    """A code of the service, and what it says."""


def put_alarm_mute_rule(given, account):
    schedule, names = given["Rule"]["Schedule"], given.get("MuteTargets", {}).get("AlarmNames", [])
    if not re.fullmatch(r"at\(\d{4}-\d\d-\d\dT\d\d:\d\d\)", schedule["Expression"]) or not re.fullmatch(r"PT\d+M", schedule["Duration"]):
        raise Refused("ValidationError", f"this stand-in knows at(…) and PT…M alone, not {schedule}")
    if len(names) > 100:
        raise Refused("ValidationError", "a rule takes 100 alarms")
    rules[account, given["Name"]] = given
    return {}


def shown(account, rule):
    begin = datetime.datetime.strptime(rule["Rule"]["Schedule"]["Expression"], "at(%Y-%m-%dT%H:%M)").replace(tzinfo=datetime.UTC)
    end = begin + datetime.timedelta(minutes=int(rule["Rule"]["Schedule"]["Duration"][2:-1]))
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=AHEAD)
    status = "SCHEDULED" if now < begin else "ACTIVE" if now < end else "EXPIRED"
    arn = f"arn:aws:cloudwatch:eu-central-1:{account}:alarm-mute-rule:{rule['Name']}"
    told = {"AlarmMuteRuleArn": arn, "Status": status, "MuteType": "ONE_TIME", "LastUpdatedTimestamp": begin.timestamp()}
    return {**told, **({"ExpireDate": rule["ExpireDate"]} if "ExpireDate" in rule else {})}


def list_alarm_mute_rules(given, account):
    found = [shown(account, rule) for (owner, _), rule in sorted(rules.items()) if owner == account]
    found = [one for one in found if one["Status"] in given.get("Statuses", [one["Status"]])]
    # A page of one, so that whoever forgets the next page is found out.
    at = int(given.get("NextToken", 0))
    return {"AlarmMuteRuleSummaries": found[at : at + 1], **({"NextToken": str(at + 1)} if at + 1 < len(found) else {})}


def get_alarm_mute_rule(given, account):
    try:
        rule = rules[account, given["AlarmMuteRuleName"]]
    except KeyError:
        raise Refused("ResourceNotFoundException", "no such rule") from None
    return {**rule, **shown(account, rule)}


def delete_alarm_mute_rule(given, account):
    rules.pop((account, given["AlarmMuteRuleName"]), None)
    return {}


def start_session(given, account):
    id = f"anna-{len(sessions):017x}"
    sessions[id] = {"SessionId": id, "Target": given["Target"], "Status": "Active", "StartDate": time.time(),
                    "DocumentName": given.get("DocumentName", ""), "Reason": given.get("Reason", ""), "Owner": account}  # fmt: skip
    url = f"wss://ssmmessages.eu-central-1.amazonaws.com/v1/data-channel/{id}?role=publish_subscribe"
    return {"SessionId": id, "TokenValue": f"token-of-{id}", "StreamUrl": url}


def terminate_session(given, account):
    if given["SessionId"] in sessions:
        sessions[given["SessionId"]] |= {"Status": "Terminated", "EndDate": time.time()}
    return {"SessionId": given["SessionId"]}


def describe_sessions(given, account):
    wanted = {"Active": ["Active"], "History": ["Terminated"]}[given["State"]]
    return {"Sessions": [one for one in sessions.values() if one["Status"] in wanted]}


def get_connection_status(given, account):
    """Connected, unless the instance says by a tag that it is not."""
    from ministack.services import ec2

    away = {"Key": "agent", "Value": "away"} in ec2._tags.get(given["Target"], [])
    return {"Target": given["Target"], "Status": "notconnected" if away else "connected"}


OPERATIONS = {
    "cloudwatch": (put_alarm_mute_rule, list_alarm_mute_rules, get_alarm_mute_rule, delete_alarm_mute_rule),
    "ssm": (start_session, terminate_session, describe_sessions, get_connection_status),
}


def camel(function):
    return "".join(part.capitalize() for part in function.__name__.split("_"))


def register():
    """Puts the stand-ins before the services."""
    for service, functions in OPERATIONS.items():
        module = importlib.import_module(f"ministack.services.{service}")
        known = {camel(function): function for function in functions}
        text = open(module.__file__).read()
        if learnt := [name for name in known if f'"{name}":' in text]:
            raise SystemExit(f"MiniStack does {', '.join(learnt)} by now: take it out of {__file__}")
        module.handle_request = before(module.handle_request, known)
    rds = importlib.import_module("ministack.services.rds")
    if f'"{RESTORE}":' in open(rds.__file__).read():
        raise SystemExit(f"MiniStack does {RESTORE} by now: take it out of {__file__}")
    rds.handle_request = restoring(rds.handle_request)


RESTORE = "RestoreDBClusterToPointInTime"


def restoring(real):
    """RDS, with a restore that makes a cluster of the same parameters. Of the source it must know the name."""

    async def handle_request(method, path, headers, body, query_params):
        given = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True)) if f"Action={RESTORE}".encode() in body else {}
        if not given:
            return await real(method, path, headers, body, query_params)
        source = {"Action": "DescribeDBClusters", "Version": given["Version"], "DBClusterIdentifier": given["SourceDBClusterIdentifier"]}
        code, kind, answer = await real(method, path, headers, urllib.parse.urlencode(source).encode(), query_params)
        if code == 200:
            as_made = {"Action": "CreateDBCluster", "Engine": "aurora-postgresql", "MasterUsername": "x", "MasterUserPassword": "a-secret-of-none"}
            body = urllib.parse.urlencode({**given, **as_made}).encode()
            code, kind, answer = await real(method, path, headers, body, query_params)
        return code, kind, answer.replace(b"CreateDBCluster", RESTORE.encode())

    return handle_request


def before(real, known):
    async def handle_request(method, path, headers, body, query_params):
        from ministack.core.responses import get_account_id

        operation = headers.get("x-amz-target", "").split(".")[-1]
        if operation not in known:
            return await real(method, path, headers, body, query_params)
        # botocore speaks JSON to both services.
        kind = {"Content-Type": "application/x-amz-json-1.1"}
        try:
            return 200, kind, json.dumps(known[operation](json.loads(body), get_account_id())).encode()
        except Refused as refused:
            return 400, kind, json.dumps({"__type": refused.args[0], "message": refused.args[1]}).encode()

    return handle_request
