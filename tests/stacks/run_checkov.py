"""Asks checkov about the templates, and holds what it says against checkov.yaml: `run_checkov.py <checkov>`."""

import json
import pathlib
import subprocess
import sys

import skips

HERE = pathlib.Path(__file__).parent
FOLDER = HERE.parents[1] / "cloudformation"


def failed(checkov):
    """Check, resource, and what was checked in which template."""
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
        yield check["check_id"], resource, f"{check['check_name']} ({pathlib.Path(check['file_path']).name})"


def main():
    problems = skips.problems(failed(sys.argv[1]), HERE / "checkov.yaml")
    for problem in problems:
        print(problem)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
