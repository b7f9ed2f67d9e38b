"""The manual's rules for Prometheus are valid and use what --status prints; each one fires when it should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Optional

import pytest
from helpers.home import RelayHome
from helpers.readme import section
from helpers.watched import Watched
from sandbox import Sandbox

Changes = dict[str, Optional[str]]
TARGET = 'instance="relay:9100",job="node"'
# node_exporter's sample for the file that the manual's cron line writes.
FILE = 'node_textfile_mtime_seconds{file="/var/lib/prometheus/node-exporter/mail-relay.prom"}'
# The same on Debian 11.
OLD_FILE = 'node_textfile_mtime_seconds{file="mail-relay.prom"}'
MINUTES = 120
# A relay with nothing to report, in promtool's notation: first value, step and number of steps.
QUIET = {
    "status": "0",
    "oldest_deferred_seconds": "1200",
    "messages_total": "7",
    "window_refused": "0",
    "credential_days": "31",
    "recipients_today": "7900",
    "recipients_limit": "10000",
}
BUCKETS = ["1", "2", "5", "10", "30", "60", "120", "300", "600", "1800", "3600", "14400", "86400", "+Inf"]


def constant(value: str) -> str:
    return f"{value}+0x{MINUTES}"


def rising(minute: int, value: int) -> str:
    """Return a counter that rises by `value` a minute from this minute on."""
    return f"7+0x{minute} {7 + value}+{value}x{MINUTES - minute}"


def growing(outcome: str, minute: int) -> Changes:
    """Return changes in which one message a minute ends with this outcome, from this minute on."""
    return {f'messages_total{{outcome="{outcome}"}}': rising(minute, 1)}


def accepted(within: str) -> Changes:
    """Return changes in which one message a minute is accepted within this bound, but not within a lower
    one."""
    place = BUCKETS.index(within)
    return {
        f'acceptance_seconds_bucket{{le="{bound}"}}': rising(0, int(BUCKETS.index(bound) >= place))
        for bound in BUCKETS
    }


STORM = 'storm_messages{sender="copier@example.org"}'
LIMIT = 'recipients_today{sender="ups@example.org"}'
# The samples that differ when an alert fires ("file" is node_exporter's); None: the sample is missing.
FIRES: dict[str, list[Changes]] = {
    "MailRelayCritical": [{"status": constant("2")}],
    "MailRelayUnwatched": [
        {"file": constant("1")},
        {"file": None, "old file": constant("1")},
        {"status": None, "file": None},
    ],
    "MailRelayMailWaits": [{"oldest_deferred_seconds": constant("1801")}],
    "MailRelayMailWentBack": [growing(outcome, MINUTES - 10) for outcome in ("bounced", "rejected")],
    "MailRelayRefused": [{"window_refused": constant("1")}],
    "MailRelayCredentialsExpire": [{"credential_days": constant("30")}, {"credential_days": constant("-1")}],
    "MailRelaySlow": [accepted("600"), accepted("+Inf")],
    "MailRelayStorm": [{STORM: constant("25")}],
    "MailRelayNearItsLimit": [{LIMIT: constant("8001")}],
}
# What comes close to an alert without firing it.
SILENT: dict[str, list[Changes]] = {
    "MailRelayCritical": [{"status": constant("1")}, {"status": f"0+0x{MINUTES - 4} 2x10"}],
    "MailRelayUnwatched": [{}],
    "MailRelayMailWaits": [{"oldest_deferred_seconds": constant("1800")}],
    "MailRelayMailWentBack": [
        *(growing(outcome, 0) for outcome in ("delivered", "deferred", "overridden", "notices")),
        # An hour ago.
        {'messages_total{outcome="bounced"}': f"7+0x{MINUTES - 60} 8+0x60"},
    ],
    "MailRelayRefused": [{"window_refused": f"0+0x{MINUTES - 9} 1x10"}],
    "MailRelayCredentialsExpire": [{"credential_days": None}],
    "MailRelaySlow": [accepted("60"), accepted("300")],
    "MailRelayStorm": [{STORM: f"_x{MINUTES - 9} 25x10"}],
    "MailRelayNearItsLimit": [{LIMIT: constant("8000")}, {"recipients_limit": None}],
}
CASES = [
    pytest.param(alert, changes, count, id=f"{alert} {'fires' if count else 'is silent'} {number}")
    for cases, count in ((FIRES, 1), (SILENT, 0))
    for alert, all_changes in cases.items()
    for number, changes in enumerate(all_changes)
]


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the rules from the manual."""
    [text] = [block.text for block in section("Alert rules").blocks if block.language == "yaml"]
    file = tmp_path_factory.mktemp("rules") / "mail-relay.yml"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def printed() -> str:
    """What --status prints when it has something to report everywhere."""
    with Sandbox() as sandbox, RelayHome(sandbox.url, sandbox.ca_file) as home:
        watched = Watched(home)
        watched.have_something_of_all(sandbox)
        return watched.show("prometheus").text


def promtool(*arguments: object, fed: str = "") -> tuple[int, str]:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], input=fed, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def samples(printed: str) -> list[str]:
    """The names of the samples with their labels, without the common prefix."""
    lines = [line for line in printed.splitlines() if not line.startswith("#")]
    return [line.rpartition(" ")[0].removeprefix("postfix_api_relay_") for line in lines]


def series(printed: str, changes: Changes) -> dict[str, str]:
    """Return the values of every sample that --status prints, with these changes."""
    quiet = {name: constant(QUIET.get(name.partition("{")[0], "0")) for name in samples(printed)}
    # A rule cannot fire for a sample that is not printed.
    assert set(changes) - {"file", "old file"} <= set(quiet)
    found: Changes = {**quiet, STORM: None, **accepted("5"), "file": f"0+60x{MINUTES}", **changes}
    files = {"file": FILE, "old file": OLD_FILE}
    full = {files.get(name, f"postfix_api_relay_{name}"): found[name] for name in found}
    return {with_target(name): value for name, value in full.items() if value is not None}


def with_target(name: str) -> str:
    """Return the sample's name with the machine's label, as Prometheus stores it."""
    plain, _, labels = name.partition("{")
    return f"{plain}{{{TARGET}{',' + labels if labels else '}'}"


def test_the_rules_are_valid(rules: Path) -> None:
    status, said = promtool("check", "rules", rules)
    assert status == 0, said
    names = re.findall(r"alert: (\w+)", rules.read_text())
    assert set(names) == set(FIRES) == set(SILENT)
    assert f"{len(names)} rules found" in said


def test_nothing_is_wrong_with_the_metrics(printed: str) -> None:
    _, said = promtool("check", "metrics", fed=printed)
    # The name has been promised to users.
    complaints = [line for line in said.splitlines() if line]
    assert complaints == ['postfix_api_relay_credential_days use base unit "seconds" instead of "days"']


def test_what_the_rules_ask_for_is_printed(rules: Path, printed: str) -> None:
    asked = set(re.findall(r"\bpostfix_api_relay_(\w+)", rules.read_text()))
    assert len(asked) > 5
    assert asked <= {name.partition("{")[0] for name in samples(printed)}


@pytest.mark.parametrize(("alert", "changes", "count"), CASES)
def test_an_alert(
    rules: Path, printed: str, tmp_path: Path, alert: str, changes: Changes, count: int
) -> None:
    values = series(printed, changes)
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": value} for name, value in values.items()],
        "promql_expr_test": [
            {
                "expr": firing,
                "eval_time": f"{MINUTES}m",
                "exp_samples": [{"labels": "{}", "value": count}],
            }
        ],
    }
    file = tmp_path / "test.yml"
    # JSON is YAML.
    file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]}))
    status, said = promtool("test", "rules", file)
    assert status == 0, said
