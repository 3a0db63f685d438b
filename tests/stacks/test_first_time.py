"""What docs/guides/deploy.md has an operator do in the database before the first instance is launched suffices for good."""

import re
import shutil
import subprocess

import pytest

from resolve import ROOT

PAGE = (ROOT / "docs/guides/deploy.md").read_text()


def test_users_of_the_database_share_what_they_make():
    """On PostgreSQL as RDS has it: the master user is no superuser, and `rds_iam` is there. The worker makes partitions of
    a table that the migrations have made, and the next migration changes both."""
    if not shutil.which("psql") or subprocess.run([ROOT / "scripts/lib/find-postgres.sh"], capture_output=True).returncode:
        pytest.skip("needs the programs of PostgreSQL")
    (users,) = re.findall(r"<<'END'\n(.*?)^END$", PAGE, re.M | re.S)
    migrations = [f"\\i {path}" for path in sorted((ROOT / "migrations").glob("*.sql"))]
    script = [
        "\\set ON_ERROR_STOP 1",
        "create role rds_iam; create role master createrole; grant rds_iam to master with admin option;",
        "create database salebell owner master;",
        "\\c salebell",
        "set session authorization master;",
        users,
        # What a log-in does with `alter role … set role`; a change of authorization alone does not.
        "reset session authorization; set session authorization migrator; set role salebell_owner;",
        *migrations,
        "reset role; reset session authorization; set session authorization app; set role salebell_owner;",
        "select ensure_price_history_partitions(now() + interval '2 years');",
        "reset role; reset session authorization; set session authorization migrator; set role salebell_owner;",
        "alter table price_history add column tried integer;",
        "reset role; reset session authorization; \\drds",
    ]
    done = subprocess.run(
        ["scripts/with-postgres.sh", "sh", "-c", 'psql -qX "$DATABASE_URL"'],
        input="\n".join(script), text=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-1000:]
    for user in ("app", "migrator"):
        assert any(user in line and "role=salebell_owner" in line for line in done.stdout.splitlines()), done.stdout[-500:]
