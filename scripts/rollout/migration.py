"""Migrates the database before a rollout: starts the job of CodeBuild that is inside its network (pipelines/migrate.yaml) and
follows it. It runs `salebell migrate` of the image's own bake."""

import json
import shlex

import botocore.exceptions
from cloud import Refusal, outputs, pauses, say


def request(account, image):
    """The call that starts the job. Refuses if the environment has none."""
    source = outputs(account.stack(f"{account.prefix}data")).get("MigrationSource")
    if not source:
        by_hand = "migrate by hand (docs/reference/stack-commands.md), then say MIGRATED=1"
        raise Refusal(f"{account.environment} has no job that migrates (the parameter ReleasesBucket of data): {by_hand}")
    if not image.get("Name"):
        raise Refusal("the image has no name, by which the job would find its binary: MIGRATED=1 once it is migrated")
    return {
        "projectName": f"{account.prefix}migrate",
        "sourceLocationOverride": f"{source}/{image['Name']}/migrate.zip",
        "environmentVariablesOverride": [{"name": "IMAGE_NAME", "value": image["Name"], "type": "PLAINTEXT"}],
    }


def migrate(account, image):
    """True if the job has succeeded, otherwise the reason why it has not. A second job waits for the first, because the
    migration takes a lock."""
    wanted, client = request(account, image), account.client("codebuild")
    words = ["--project-name", wanted["projectName"], "--source-location-override", wanted["sourceLocationOverride"]]
    words += ["--environment-variables-override", json.dumps(wanted["environmentVariablesOverride"])]
    say(f"$ {shlex.join(['aws', 'codebuild', 'start-build', *words, '--region', account.region])}")
    account.job = f"of {wanted['projectName']}, if it was started,"
    try:
        build = client.start_build(**wanted)["build"]
    except botocore.exceptions.ClientError as error:
        account.job = ""
        return str(error)
    said, account.job = "", build["id"]
    for _ in pauses():
        build = client.batch_get_builds(ids=[build["id"]])["builds"][0]
        if build.get("currentPhase") != said:
            said = build.get("currentPhase")
            say(f"    {build['id']}: {said}")
        if build["buildComplete"]:
            account.job = ""
            return True if build["buildStatus"] == "SUCCEEDED" else f"{build['id']} has ended in {build['buildStatus']}{why(build)}"


def why(build):
    """The job's error message, and the address of its log."""
    messages = [context["message"] for phase in build.get("phases", []) for context in phase.get("contexts", []) if context.get("message")]
    logs = build.get("logs", {})
    where = f"\n    its log: {logs['groupName']}, stream {logs['streamName']}" if logs.get("streamName") else ""
    return "".join(f"\n    {one}" for one in messages) + where
