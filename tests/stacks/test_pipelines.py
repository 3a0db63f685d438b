"""The two pipelines: what starts them, what their stages hand on, and that everything which they call is there and allowed."""

import re
import subprocess

import access
import calls
import pytest
import yaml
from access import ANYBODY, decide
from pipelines import commands, filters, jobs, made, matches, pipelines, starts, targets
from resolve import ACCOUNTS, ROOT, of_type

MUTANTS = {"pipelines.yaml"}
BUILDSPECS = sorted((ROOT / "pipelines").glob("*.yaml"))
OTHERS = {f"{one.capitalize()}Account": ACCOUNTS[one] for one in ("dev", "stage", "prod")}
ENVIRONMENTS = ["dev", "stage", "prod"]
# What the issue of each pipeline is, at the least.
APPLICATION = ["src/main.rs", "core/src/lib.rs", "Cargo.toml", "Cargo.lock", "build.rs", "proto/salebell/v1/prices.proto", "migrations/1.sql", "packer/x", "systemd/system/x", "userdata/first-boot.sh"]
INFRASTRUCTURE = ["cloudformation/20-network.yaml", "scripts/stacks/deploy.py", "pipelines/deploy.yaml"]
BOTH = ("Application", "Infrastructure")


def files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in listed.split("\0") if path]


# What starts them


def test_each_file_starts_one_pipeline(stacks):
    both = pipelines(stacks)
    started = {path: [name for name in BOTH if starts(both[name], path)] for path in files()}
    assert len(started) > 500
    assert {path: names for path, names in started.items() if len(names) != 1} == {}
    # Each pattern is there for something, or for what is to come.
    for name in BOTH:
        for includes, excludes in filters(both[name]):
            idle = [one for one in includes + excludes if not any(matches(one, path) for path in started)]
            assert idle == [], f"{name}: {idle}"


def test_the_least_of_what_starts_them_is_there(stacks):
    both = pipelines(stacks)
    assert [path for path in APPLICATION if not starts(both["Application"], path)] == []
    assert [path for path in INFRASTRUCTURE if not starts(both["Infrastructure"], path)] == []


def test_a_new_place_would_be_noticed(stacks):
    both = pipelines(stacks)
    assert [name for name in BOTH if starts(both[name], "new/file.rs") or starts(both[name], "file.txt")] == []


def test_filters_are_within_the_limits_of_the_service(stacks):
    """CodePipeline takes eight patterns in a list and three filters of pushes; neither the schema nor cfn-lint knows."""
    for name, pipeline in pipelines(stacks).items():
        pushes = pipeline["Triggers"][0]["GitConfiguration"]["Push"]
        assert 1 <= len(pushes) <= 3, name
        for includes, excludes in filters(pipeline):
            assert 1 <= len(includes) <= 8 and len(excludes) <= 8, f"{name}: {len(includes)}, {len(excludes)}"
        assert all(push["Branches"] == {"Includes": ["main"]} for push in pushes)


# What they are made of


def test_they_wait_for_each_other_and_go_by_the_branch(stacks):
    for name, pipeline in pipelines(stacks).items():
        assert (pipeline["PipelineType"], pipeline["ExecutionMode"]) == ("V2", "QUEUED"), name
        (source,) = pipeline["Stages"][0]["Actions"]
        # The whole repository with its history: the image is named by the commit.
        assert source["Configuration"]["OutputArtifactFormat"] == "CODEBUILD_CLONE_REF"
        assert pipeline["Triggers"][0]["GitConfiguration"]["SourceActionName"] == source["Name"]


def test_stages_come_in_their_order(stacks):
    order = {name: [stage["Name"] for stage in one["Stages"]] for name, one in pipelines(stacks).items()}
    assert order == {
        "Application": ["source", "test", "bake", "verify", "dev", "stage", "approve", "prod"],
        "Infrastructure": ["source", "check", "dev", "stage", "approve", "prod"],
    }


def test_a_person_approves_before_prod_and_sees_what(stacks):
    for name, pipeline in pipelines(stacks).items():
        stages = {stage["Name"]: stage for stage in pipeline["Stages"]}
        approvals = [one for one in stages["approve"]["Actions"] if one["ActionTypeId"]["Category"] == "Approval"]
        assert len(approvals) == 1, name
        assert approvals[0]["Configuration"]["ExternalEntityLink"].startswith("https://eu-central-1.console.aws.amazon.com/s3/object/")
        # It comes last in its stage.
        assert approvals[0].get("RunOrder", 1) == max(one.get("RunOrder", 1) for one in stages["approve"]["Actions"])
    (changes,) = [job for job in jobs(stacks, "Infrastructure") if job.stage == "approve"]
    bucket, key = re.fullmatch(r"s3://([^/]+)/(.+)", changes.variables["CHANGES"]).groups()
    assert approvals[0]["Configuration"]["ExternalEntityLink"].endswith(f"/object/{bucket}?prefix={key}")
    assert changes.variables["ENVIRONMENT"] == "prod"


def test_what_an_action_takes_was_given_before(stacks):
    for name, pipeline in pipelines(stacks).items():
        given = set()
        for stage in pipeline["Stages"]:
            for action in stage["Actions"]:
                taken = [one["Name"] for one in action.get("InputArtifacts", [])]
                assert set(taken) <= given, f"{name}, {stage['Name']}: {taken}"
                if len(taken) > 1:
                    assert action["Configuration"]["PrimarySource"] == taken[0] == "source"
            new = [one["Name"] for action in stage["Actions"] for one in action.get("OutputArtifacts", [])]
            assert not given & set(new), f"{name}, {stage['Name']} gives {new} anew"
            given |= set(new)


def test_one_image_goes_everywhere(stacks):
    """A stage that is rolled back runs with the artifacts of an earlier execution, so the image is in one."""
    application = list(jobs(stacks, "Application"))
    (bake,) = [job for job in application if job.outputs]
    assert bake.stage == "bake" and bake.outputs == ("image",)
    wanted = yaml.safe_load(bake.buildspec.read_text())["artifacts"]["files"]
    assert wanted == ["image.json"] and "IMAGE_FILE=image.json" in bake.commands[0]
    takers = [job for job in application if "image" in job.inputs]
    assert [job.stage for job in takers] == ["verify", *ENVIRONMENTS]
    for job in takers:
        (image,) = [made(one)[1]["IMAGE"] for one in job.commands if made(one) and "IMAGE" in made(one)[1]]
        assert image == "$CODEBUILD_SRC_DIR_image/image.json"


def test_the_binary_is_built_on_the_debian_that_it_runs_on(stacks):
    resolved = stacks.resolved("prod", ReleasesBucket="a-bucket")
    projects = [one["Properties"] for stack in ("delivery", "data") for _, one in of_type(resolved[stack], "AWS::CodeBuild::Project")]
    assert len(projects) == 8
    for project in projects:
        assert project["Environment"]["Image"].endswith("-trixie") and project["Environment"]["Type"] == "ARM_CONTAINER"
    assert 'debian_release = "trixie"' in re.sub(" +", " ", (ROOT / "packer/versions.pkrvars.hcl").read_text())


def test_environments_are_rolled_back_and_others_are_not(stacks):
    gates = {f"{one.capitalize()}Gate": f"salebell-{one}-service-ServiceGate-1" for one in ENVIRONMENTS}
    for name, pipeline in pipelines(stacks, **gates, **OTHERS).items():
        role = {"Application": "rollout", "Infrastructure": "deploy"}[name]
        for stage in pipeline["Stages"]:
            if stage["Name"] not in ENVIRONMENTS:
                assert not {"OnFailure", "OnSuccess"} & stage.keys(), stage["Name"]
                continue
            assert stage["OnFailure"] == {"Result": "ROLLBACK"}
            (condition,) = stage["OnSuccess"]["Conditions"]
            (rule,) = condition["Rules"]
            assert (condition["Result"], rule["RuleTypeId"]["Provider"]) == ("ROLLBACK", "CloudWatchAlarm")
            assert rule["Configuration"]["AlarmName"] == gates[f"{stage['Name'].capitalize()}Gate"]
            # Minutes; many examples have seconds. The longest wait of a rule is an hour.
            assert 5 <= int(rule["Configuration"]["WaitTime"]) <= 60
            # The alarm is in the environment's account.
            assert rule["RoleArn"] == f"arn:aws:iam::{ACCOUNTS[stage['Name']]}:role/salebell-{stage['Name']}-{role}"


# What they call


def everything(stacks):
    return [job for name in BOTH for job in jobs(stacks, name, **OTHERS)]


def test_buildspecs_are_those_of_the_jobs(stacks):
    resolved = stacks.resolved("prod", ReleasesBucket="a-bucket")
    used = [one["Properties"]["Source"]["BuildSpec"] for stack in ("delivery", "data")
            for _, one in of_type(resolved[stack], "AWS::CodeBuild::Project")]  # fmt: skip
    assert sorted(used) == [str(path.relative_to(ROOT)) for path in BUILDSPECS]


@pytest.mark.parametrize("path", BUILDSPECS, ids=lambda path: path.stem)
def test_a_buildspec_is_short_and_calls_make_alone(path):
    assert len(path.read_text().splitlines()) <= 15
    there = targets()
    for command in commands(path):
        if command == ".ci/run" and path.stem == "test":
            continue
        wanted, variables = made(command) or pytest.fail(f"{command} is no make")
        assert len(wanted) == 1 and wanted[0] in there, command
        for name in variables:
            assert re.search(rf"\$\({name}\b|\(call \w+,{name}\b", there[wanted[0]]), f"make {wanted[0]} knows no {name}"


def test_what_commands_take_from_their_surroundings_is_there(stacks):
    for job in everything(stacks):
        asked = set(re.findall(r"\$(\w+)", " ".join(job.commands)))
        artifacts = {f"CODEBUILD_SRC_DIR_{name}" for name in job.inputs[1:]}
        assert asked <= artifacts | job.variables.keys(), f"{job.stage}: {asked - artifacts - job.variables.keys()}"
        assert artifacts | job.variables.keys() <= asked, f"{job.stage}: {artifacts | job.variables.keys() - asked} is for nobody"


def test_stages_work_on_their_own_environment(stacks):
    found = [(job.stage, job.variables["ENVIRONMENT"], job.variables["ACCOUNT"]) for job in everything(stacks) if "ACCOUNT" in job.variables]
    assert len(found) == 7
    assert [one for one in found if (one[0] if one[0] != "approve" else "prod") != one[1] or one[2] != ACCOUNTS[one[1]]] == []


# What the commands call by name of their target: with the role of the job (a table of cloudformation/calls), or as the profile.
BY_TARGET = {
    "check-stacks": "test", "bake": "bake", "verify-image": "verify", "rollout": "rollout", "smoke": "rollout", "deploy": "deploy",
    "status": "deploy", "change-sets": "deploy", "pipeline-profile": None,
}  # fmt: skip


def test_each_stage_works_with_the_role_of_its_commands(stacks):
    """What these roles may is decided call by call in test_iam.py, by the tables that are named here."""
    tables = {table.name for table in calls.tables(stacks.folder).values()}
    for job in everything(stacks):
        profile = [made(one)[1]["ROLE"] for one in job.commands if made(one) and made(one)[0] == ["pipeline-profile"]]
        uses_it = "AWS_PROFILE" in yaml.safe_load(job.buildspec.read_text()).get("env", {}).get("variables", {})
        assert bool(profile) == uses_it and job.role in tables, job
        # That one alone may become another.
        assert (job.role == "pipeline") == bool(profile), job
        as_whom = profile[0] if profile else job.role
        for command in job.commands:
            target = made(command)[0][0] if made(command) else "check-stacks"
            assert BY_TARGET[target] in (None, as_whom), f"{job.stage}: make {target} as {as_whom}"


def test_the_pipeline_may_become_what_its_stages_work_as(stacks):
    world = next(world for label, world in calls.worlds(stacks) if "DevAccount" in label)
    role, wanted = world.roles["pipelines/PipelineRole"], set()
    for job in everything(stacks):
        for variables in (made(one)[1] for one in job.commands if made(one) and made(one)[0] == ["pipeline-profile"]):
            wanted.add(f"arn:aws:iam::{job.variables['ACCOUNT']}:role/salebell-{job.variables['ENVIRONMENT']}-{variables['ROLE']}")
    assert len(wanted) == 6
    # Whether they let it in is decided in test_trust.py.
    answers = decide([world.request(role, "sts:AssumeRole", arn, {}, policy=ANYBODY) for arn in sorted(wanted)])
    assert [answer["result"] for answer in answers] == ["Allowed"] * 6


@pytest.mark.parametrize(
    "role, action, stack",
    [("RolloutRole", "cloudformation:DescribeStacks", "edge"), ("DeployRole", "cloudformation:DeleteChangeSet", "network")],
)
def test_roles_may_do_what_the_own_commands_of_a_pipeline_call(stacks, role, action, stack):
    """`make smoke` asks for a name, `make change-sets` takes back what it has made."""
    _, world = calls.worlds(stacks)[0]
    resource = f"arn:aws:cloudformation:{access.REGION}:{world.account}:stack/salebell-{world.environment}-{stack}/0a"
    (answer,) = decide([world.request(world.roles[f"bootstrap/{role}"], action, resource, {})])
    assert answer["result"] == "Allowed"


def test_there_is_no_key_anywhere():
    places = [*BUILDSPECS, *(ROOT / "scripts/pipelines").iterdir(), *(ROOT / "cloudformation").glob("9*.yaml")]
    key = re.compile(r"(AKIA|ASIA)[A-Z0-9]{16}|AWS_(ACCESS_KEY_ID|SECRET)|aws_(access_key_id|secret)|AWS::IAM::AccessKey", re.I)
    found = [f"{path.name}: {match[0]}" for path in places if path.is_file() for match in key.finditer(path.read_text())]
    assert found == []
