"""Each check of the runbooks catches a page that is wrong: mutants, as those of broken/ are for the templates."""

import inspect

import pytest

import alarms
import test_assumptions
import test_runbooks

# The check, the page, what is in it, what is put in its place, and a part of what is then said.
BROKEN = [
    ("test_each_page_has_the_four_headings_and_says_something", "db-cpu", "## Fix", "## Repair", "db-cpu"),
    ("test_each_page_has_the_four_headings_and_says_something", "db-cpu", "\n\nThe database computes", "\nThe database computes", "db-cpu"),
    ("test_what_is_done_by_day_says_when_how_whether_it_worked_and_the_way_back", "../escalate", "## The way back", "## Back", "escalate"),
    ("test_titles_are_names_of_alarms", "db-cpu", "# DbCpu", "# DbLoad", "db-cpu"),
    ("test_the_index_lists_every_alarm", "README", "| [TokenOld](token-old.md) |", "| [TokenOld](credentials-fail.md) |", "TokenOld"),
    ("test_the_index_lists_every_alarm", "README", "renewed | pager |", "renewed | chat |", "pager"),
    ("test_links_lead_somewhere", "db-cpu", "(db-acu.md)", "(db-capacity.md)", "db-capacity"),
    ("test_links_lead_somewhere", "db-cpu", "#take-a-version-back", "#roll-back", "roll-back"),
    ("test_programs_are_known", "db-cpu", "figures AWS/RDS", "metrics AWS/RDS", "metrics"),
    ("test_aws_commands_are_there_with_their_options", "db-events", "aws rds describe-events", "aws rds list-events", "list-events"),
    ("test_aws_commands_are_there_with_their_options", "db-events", "--source-type", "--source-kind", "source-kind"),
    ("test_aws_commands_are_there_with_their_options", "db-events", "'DBClusters[].[", "'DBClusters[[", "DBClusters"),
    ("test_figures_are_metrics_that_are_told", "db-cpu", "CPUUtilization", "CpuUtilization", "CpuUtilization"),
    ("test_figures_are_metrics_that_are_told", "token-old", "service=api ", "", "salebell_database_tokens_total"),
    ("test_figures_are_metrics_that_are_told", "delivery-lag", "salebell_sent_lag_seconds;", "salebell_bell_lag_seconds;", "bell_lag"),
    ("test_logs_are_asked_for_what_they_have", "panics", "ask application", "ask salebell", "salebell"),
    ("test_logs_are_asked_for_what_they_have", "panics", "code_place", "file_and_line", "file_and_line"),
    ("test_logs_are_asked_for_what_they_have", "group-cpu", "count(*) as n by account_id", "count(*) as n by code_place", "code_place"),
    ("test_logs_are_asked_for_what_they_have", "reports-wait", "`salebell::record`", "`salebell::recorder`", "recorder"),
    ("test_logs_are_asked_for_what_they_have", "reports-wait", "until the database is back", "until it is back", "until it is back"),
    ("test_logs_are_asked_for_what_they_have", "db-events", "/the database is away/", "/the database is gone/", "is gone"),
    ("test_logs_are_asked_for_what_they_have", "reports-wait", "/prices/", "/reports/", "no message has reports"),
    ("test_logs_are_asked_for_what_they_have", "dead-letters", 'target = "salebell::record"', 'target = "salebell::bus"', "not recorded"),
    ("test_settings_and_commands_of_ours_are_there", "dead-man-fired", "`instance.dead_man_s`", "`instance.dead_man`", "dead_man"),
    ("test_settings_and_commands_of_ours_are_there", "dead-letters", "salebell bus redrive", "salebell queue redrive", "queue"),
    ("test_settings_and_commands_of_ours_are_there", "dead-man-fired", "make status", "make state", "state"),
    ("test_shell_blocks_are_shell", "db-cpu", "figures AWS/RDS ACU", "figures 'AWS/RDS ACU", "db-cpu"),
    ("test_sql_is_understood_by_the_schema", "notices-wait", "last_watch_id from events", "last_watch from events", "last_watch"),
]  # fmt: skip


@pytest.mark.parametrize("mutant", BROKEN, ids=[f"{check[5:30]}-{page}-{at}" for at, (check, page, *_) in enumerate(BROKEN)])
def test_broken_page_is_caught(monkeypatch, mutant):
    check, page, before, after, said = mutant
    pages = dict(test_runbooks.pages())
    assert before in pages[page]
    runbooks, pages[page] = set(alarms.pages()), pages[page].replace(before, after, 1)
    monkeypatch.setattr(test_runbooks, "pages", lambda: pages)
    monkeypatch.setattr(alarms, "pages", lambda: {name: text for name, text in pages.items() if name in runbooks})
    with pytest.raises((AssertionError, ValueError), match=said):
        getattr(test_runbooks, check)()


def test_every_check_of_the_pages_catches_one():
    checks = {
        name for name, check in vars(test_runbooks).items() if name.startswith("test_") and not inspect.signature(check).parameters
    }
    assert checks == {check for check, *_ in BROKEN}


@pytest.mark.parametrize(
    "check, before, after",
    [
        ("test_assumptions_are_numbered_and_say_how_to_see_them", "\n| 7 |", "\n| 8 |"),
        ("test_every_stand_in_is_listed", "| `AWS::EC2::FlowLog` |", "| `AWS::EC2::FlowLogs` |"),
        ("test_every_stand_in_is_listed", "may write to the archive: ", "may write to the archive: 9"),
        ("test_what_is_asserted_on_the_template_is_asserted", "::test_", "::test_no_"),
    ],
)
def test_a_broken_list_of_assumptions_is_caught(monkeypatch, check, before, after):
    assert before in test_assumptions.PAGE
    monkeypatch.setattr(test_assumptions, "PAGE", test_assumptions.PAGE.replace(before, after))
    with pytest.raises((AssertionError, FileNotFoundError)):
        getattr(test_assumptions, check)()
