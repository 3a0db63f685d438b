import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from machine import Machine  # noqa: E402


def wanted(name):
    """A setting of run.sh: a test that has not what it looks at fails, it is not skipped."""
    value = os.environ.get(name)
    assert value, f"{name} is not set: tests/package/run.sh runs these tests"
    return value


def boot(folder, name, address):
    machine = Machine(folder / name, wanted("SALEBELL_TEST_ROOT"), address)
    return machine


@pytest.fixture(scope="session")
def package():
    return pathlib.Path(wanted("SALEBELL_TEST_PACKAGE"))


@pytest.fixture(scope="session")
def old(tmp_path_factory):
    """The machine on which the package is installed, upgraded, and from which everything is moved away."""
    machine = boot(tmp_path_factory.mktemp("machines"), "old", "10.77.0.11")
    yield machine
    machine.stop()


@pytest.fixture(scope="session")
def new(tmp_path_factory):
    machine = boot(tmp_path_factory.mktemp("machines"), "new", "10.77.0.12")
    yield machine
    machine.stop()
