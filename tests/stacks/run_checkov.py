"""Asks checkov about the templates, and holds what it says against checkov.yaml: `run_checkov.py <checkov>`."""

import json
import pathlib
import subprocess
import sys

import yaml

HERE = pathlib.Path(__file__).parent
FOLDER = HERE.parents[1] / "cloudformation"


def failed(checkov):
    """Check, template, resource and what was checked."""
    command = [checkov, "--directory", FOLDER, "--framework", "cloudformation", "--skip-download", "--quiet", "--output", "json"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    try:
        report = json.loads(ended.stdout)
    except ValueError:
        sys.exit(f"checkov has failed: {ended.stderr or ended.stdout}")
    if report["summary"]["parsing_errors"]:
        sys.exit(f"checkov cannot read {report['results']['parsing_errors']}")
    for check in report["results"]["failed_checks"]:
        resource = check["resource"].rsplit(".", 1)[-1]
        yield check["check_id"], pathlib.Path(check["file_path"]).name, resource, check["check_name"]


def main():
    skipped = yaml.safe_load((HERE / "checkov.yaml").read_text()) or {}
    needed, problems = set(), set()
    for check, file, resource, what in failed(sys.argv[1]):
        skip = skipped.get(check, {})
        resources = skip.get("resources") if skip else []
        if skip and resources is None:
            needed.add((check, None))
        elif resource in resources:
            needed.add((check, resource))
        else:
            problems.add(f"{check} {file} {resource}: {what}")
    for check, skip in skipped.items():
        if not skip.get("reason"):
            problems.add(f"{check} is skipped without a reason")
        for resource in skip.get("resources") or [None]:
            if (check, resource) not in needed:
                problems.add(f"{check} is skipped{f' for {resource}' if resource else ''}, and need not be")
    for problem in sorted(problems):
        print(problem)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
