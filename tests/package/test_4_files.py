"""What can be said of the package and the image without running them."""

import filecmp
import json
import os
import pathlib
import subprocess

import page
from conftest import wanted
from machine import REPOSITORY


def test_the_same_commit_gives_the_same_bytes(tmp_path):
    made = [pathlib.Path(wanted(name)) for name in ("SALEBELL_TEST_PACKAGE", "SALEBELL_TEST_OCI")]
    again = os.environ | {"SALEBELL_PACKAGES": str(tmp_path), "SALEBELL_PACKAGE_QUICK": "yes"}
    subprocess.run([REPOSITORY / "scripts/make-package.sh"], env=again, check=True, capture_output=True)
    for one in made:
        assert filecmp.cmp(one, tmp_path / one.name, shallow=False), one.name


def test_the_task_definition_of_the_page_is_one():
    import botocore.session
    import botocore.validate

    [definition] = page.blocks(page.section("Containers"), "json")
    model = botocore.session.get_session().get_service_model("ecs").operation_model("RegisterTaskDefinition").input_shape
    report = botocore.validate.ParamValidator().validate(json.loads(definition), model)
    assert not report.has_errors(), report.generate_report()
    # Each setting is one.
    task = json.loads(definition)["containerDefinitions"][0]
    settings_page = (REPOSITORY / "docs/reference/settings.md").read_text()
    for setting in task["environment"] + task["secrets"]:
        area, key = setting["name"].removeprefix("SALEBELL_").lower().split("__")
        assert f"`{area}.{key}`" in settings_page, setting["name"]
