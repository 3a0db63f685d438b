"""What the program logs arrives in CloudWatch: systemd/salebell/carry-logs.py, on entries of the journal with its fields."""

import importlib.util
import json

import reference
from resolve import ROOT


def carried(monkeypatch, **fields):
    """File and line that an entry of the API becomes."""
    monkeypatch.setenv("LOGS_DIRECTORY", "/nowhere")
    spec = importlib.util.spec_from_file_location("carry_logs", ROOT / "systemd/salebell/carry-logs.py")
    carry_logs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(carry_logs)
    of_journal = {
        "_SYSTEMD_UNIT": "salebell-api.service", "__REALTIME_TIMESTAMP": "1767225600000000", "__CURSOR": "s=1", "PRIORITY": "4",
        "MESSAGE": "m", "CODE_FILE": "src/main.rs", "CODE_LINE": "7", "CODE_MODULE": "salebell", "SYSLOG_IDENTIFIER": "salebell",
    }  # fmt: skip
    log, line = carry_logs.describe(of_journal | fields)
    return log, json.loads(line)


def test_every_field_of_the_program_is_carried(monkeypatch):
    for field, parts in reference.log_fields().items():
        for part in parts:
            # As the journal has it.
            entry = {"TARGET": f"salebell::{part}", field.upper().replace(".", "_"): "value"}
            log, line = carried(monkeypatch, **entry)
            assert log == ("access" if part == "access" else "application")
            assert line.keys() == {"time", "level", "unit", "message", "target", field.replace(".", "_")}
            assert line[field.replace(".", "_")] == "value", field


def test_levels_are_words(monkeypatch):
    _, line = carried(monkeypatch, TARGET="salebell::panic")
    assert (line["level"], line["unit"], line["target"]) == ("warning", "salebell-api", "salebell::panic")
