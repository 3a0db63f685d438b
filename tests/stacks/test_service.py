"""What no emulator shows of the service: which rule of the listener a request meets and where it goes, how groups are
replaced, and what scales them."""

import fnmatch
import re

import reference
from resolve import ENVIRONMENTS, of_type
from stacks import summary

RULE, GROUP = "AWS::ElasticLoadBalancingV2::ListenerRule", "AWS::AutoScaling::AutoScalingGroup"
CANARY = {"CanaryInstances": "1", "CanaryWeight": "10"}
JWT, KEY = {"Authorization": "Bearer eyJhbGciOiJSUzI1NiJ9.e30.x"}, {"Authorization": "bearer sbk_1_2"}
OPENED = {"Sec-Fetch-Mode": "navigate"}


def service(stacks, environment="prod", **parameters):
    return stacks.resolved(environment, **parameters)["service"]


def rules(resolved, stacks, port=443):
    """The rules of a listener in their order: name and properties."""
    edge = stacks.resolved(resolved["Environment"])["edge"]["Outputs"]
    listener = edge["HttpsListenerArn" if port == 443 else "GrpcListenerArn"]["Value"]
    found = [(name, one["Properties"]) for name, one in of_type(resolved, RULE) if one["Properties"]["ListenerArn"] == listener]
    return sorted(found, key=lambda one: int(one[1]["Priority"]))


def fits(condition, path, headers):
    """As the balancer compares: paths with regard to case, headers without."""
    if condition["Field"] == "path-pattern":
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in condition["PathPatternConfig"]["Values"])
    wanted = condition["HttpHeaderConfig"]
    given = {name.lower(): value.lower() for name, value in headers.items()}.get(wanted["HttpHeaderName"].lower())
    return given is not None and any(fnmatch.fnmatchcase(given, value.lower()) for value in wanted["Values"])


def met(stacks, path, headers):
    """The rule on 443 that a request meets; None: the listener's 404."""
    for name, rule in rules(service(stacks), stacks):
        if all(fits(condition, path, headers) for condition in rule["Conditions"]):
            return name
    return None


def routes():
    """Every path of the API, with something in place of its parameters."""
    assert len(reference.routes()) > 40
    return sorted({re.sub(r"\{\w+\}", "01a1fb7d", path) for path in reference.routes()})


def test_forwards_go_to_both_groups_by_the_weight(stacks):
    problems = []
    for environment in ENVIRONMENTS:
        for parameters, weights in (({}, ["100", "0"]), (CANARY, ["90", "10"])):
            resolved = service(stacks, environment, **parameters)
            for port, kind in ((443, "Http"), (9000, "Grpc")):
                wanted = [resolved["Refs"][f"{whose}{kind}TargetGroup"] for whose in ("Live", "Canary")]
                for name, rule in rules(resolved, stacks, port):
                    last = rule["Actions"][-1]
                    targets = last["ForwardConfig"]["TargetGroups"]
                    if [one["TargetGroupArn"] for one in targets] != wanted or last["Type"] != "forward":
                        problems.append((f"{name} goes to others", environment))
                    if [str(one["Weight"]) for one in targets] != weights:
                        problems.append((f"{name} has other weights than {weights}", environment))
    assert not problems, summary(problems)


def test_no_weight_without_a_canary(stacks):
    """A tenth of the requests would meet an empty target group."""
    assert stacks.refused("prod", CanaryWeight="10")
    assert not stacks.refused("prod", **CANARY)


def test_requests_meet_the_rule_that_is_for_them(stacks):
    wrong = []
    for path in routes():
        inside = path in ("/healthz", "/readyz")
        page = path == "/style.css" or path.startswith("/problems")
        alone = None if inside else "BrowserRule" if path.startswith("/v1/") else "PageRule" if page else "PublicRule"
        for headers, rule in ((JWT, "TokenRule"), (KEY, "ApiKeyRule"), ({}, alone), ({"Authorization": "Basic eDp5"}, alone)):
            if met(stacks, path, headers) != rule:
                wrong.append(f"{path} with {headers or 'nothing'} meets {met(stacks, path, headers)}, not {rule}")
    for path in ("/v1/me", "/v1/watches", "/v1/watches/01a1fb7d", "/v1/notices", "/v1/stats/weekly", "/v1/admin/stats/weekly"):
        if met(stacks, path, OPENED) != "LoginRule":
            wrong.append(f"{path} opened in a browser meets {met(stacks, path, OPENED)}")
    open_paths = ("/", "/problems", "/problems/invalid", "/style.css", "/openapi.json", "/v1/deals", "/v1/games")
    for path in (*open_paths, "/v1/stores", "/d/01a1fb7d"):
        if met(stacks, path, OPENED) == "LoginRule":
            wrong.append(f"{path} is open, and a browser has to log in")
    assert not wrong, summary(wrong)


def test_rules_do_with_a_request_what_they_are_for(stacks):
    """What comes before the forward. A redirect to a log-in is no answer to a program."""
    before = {
        name: [(one["Type"], one.get("AuthenticateCognitoConfig", {}).get("OnUnauthenticatedRequest")) for one in rule["Actions"]][:-1]
        for port in (443, 9000)
        for name, rule in rules(service(stacks), stacks, port)
    }
    assert before == {
        "TokenRule": [("jwt-validation", None)],
        "ApiKeyRule": [],
        "LoginRule": [("authenticate-cognito", "authenticate")],
        "BrowserRule": [("authenticate-cognito", "allow")],
        "PublicRule": [],
        "PageRule": [],
        "GrpcRule": [],
    }


def test_tokens_and_sessions_are_those_of_the_pool(stacks):
    for environment in ENVIRONMENTS:
        edge = {name: one["Value"] for name, one in stacks.resolved(environment)["edge"]["Outputs"].items()}
        actions = {name: rule["Actions"][0] for name, rule in rules(service(stacks, environment), stacks)}
        token = actions["TokenRule"]["JwtValidationConfig"]
        assert token["Issuer"] == edge["Issuer"]
        assert token["JwksEndpoint"] == f"{edge['Issuer']}/.well-known/jwks.json"
        pinned = {claim["Name"]: claim["Values"] for claim in token["AdditionalClaims"]}
        assert pinned == {"client_id": [edge["MachineClientId"]]}
        for name in ("LoginRule", "BrowserRule"):
            session = actions[name]["AuthenticateCognitoConfig"]
            of_pool = [session[f"UserPool{part}"] for part in ("Arn", "ClientId", "Domain")]
            assert of_pool == [edge[part] for part in ("UserPoolArn", "BrowserClientId", "UserPoolDomain")]


def test_groups_have_their_target_groups_and_the_role_that_may_use_the_key(stacks):
    for environment in ENVIRONMENTS:
        resolved = service(stacks, environment)
        role = stacks.resolved(environment)["bootstrap"]["Outputs"]["GroupsRoleArn"]["Value"]
        for whose in ("Live", "Canary"):
            group = resolved["Resources"][f"{whose}Group"]["Properties"]
            assert group["TargetGroupARNs"] == [resolved["Refs"][f"{whose}{kind}TargetGroup"] for kind in ("Http", "Grpc")]
            assert group["ServiceLinkedRoleARN"] == role
            assert set(group["HealthCheckType"].split(",")) == {"ELB", "EBS"}


def test_instances_are_replaced_beside_those_that_serve(stacks):
    for environment in ENVIRONMENTS:
        group = service(stacks, environment)["Resources"]["LiveGroup"]["Properties"]
        assert group["InstanceMaintenancePolicy"] == {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 200}
        assert group["MaxInstanceLifetime"] == 30 * 86_400
        assert int(group["MinSize"]) < int(group["MaxSize"])


def test_the_canary_is_one_instance_or_none(stacks):
    for parameters, wanted in (({}, 0), (CANARY, 1)):
        group = service(stacks, **parameters)["Resources"]["CanaryGroup"]["Properties"]
        assert int(group["MinSize"]) == int(group["MaxSize"]) == wanted


def test_a_roll_is_a_refresh_that_the_gate_ends(stacks):
    """Or a classic update with the same hooks, never both; and no refresh is left to wait for somebody."""
    resolved = service(stacks)
    # Each part by itself: a refresh may not know a composite alarm.
    parts = re.findall(r'ALARM\("(.+?)"\)', resolved["Resources"]["ServiceGate"]["Properties"]["AlarmRule"])
    metric = {resolved["Refs"][id] for id, _ in of_type(resolved, "AWS::CloudWatch::Alarm")}
    assert parts and set(parts) <= metric and len(parts) <= 10
    for parameters, alarms in (({}, parts), ({"Gates": "off"}, None)):
        policy = service(stacks, **parameters)["Resources"]["LiveGroup"]["UpdatePolicy"]
        assert "AutoScalingRollingUpdate" not in policy
        refresh = policy["AutoScalingInstanceRefresh"]["Preferences"]
        assert refresh.get("AlarmSpecification", {}).get("Alarms") == alarms
        assert (refresh["MaxHealthyPercentage"], refresh["BakeTime"], refresh["SkipMatching"]) == (200, 300, True)
    policy = service(stacks, Rollout="classic", InServiceDuringRoll="3")["Resources"]["LiveGroup"]["UpdatePolicy"]
    assert "AutoScalingInstanceRefresh" not in policy
    assert str(policy["AutoScalingRollingUpdate"]["MinInstancesInService"]) == "3"
    for _, resolved in stacks.variants("service"):
        for _, group in of_type(resolved, GROUP):
            assert group["UpdatePolicy"]["AutoScalingScheduledAction"]["IgnoreUnmodifiedGroupSizeProperties"] in (True, "true")


def test_only_the_live_group_is_scaled(stacks):
    resolved = service(stacks)
    policies = [one["Properties"] for _, one in of_type(resolved, "AWS::AutoScaling::ScalingPolicy")]
    assert {policy["AutoScalingGroupName"] for policy in policies} == {resolved["Refs"]["LiveGroup"]}
    followed = {}
    for policy in policies:
        target = policy["TargetTrackingConfiguration"]
        what = target.get("PredefinedMetricSpecification", {}).get("PredefinedMetricType")
        followed[what or target["CustomizedMetricSpecification"]["MetricName"]] = target
    assert followed.keys() == {"ASGAverageCPUUtilization", "ALBRequestCountPerTarget", "ApproximateAgeOfOldestMessage"}
    label = followed["ALBRequestCountPerTarget"]["PredefinedMetricSpecification"]["ResourceLabel"]
    balancer = stacks.resolved("prod")["edge"]["Outputs"]["BalancerFullName"]["Value"]
    assert label == f"{balancer}/{resolved['Outputs']['LiveHttpTargetGroup']['Value']}"
    # An age of 0 does not say that there are too many.
    assert followed["ApproximateAgeOfOldestMessage"]["DisableScaleIn"] in (True, "true")
