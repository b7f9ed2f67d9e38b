"""Dashboards and alerts use these names: new ones may be added, but none is removed or renamed."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from helpers.home import RelayHome
from helpers.watched import Watched
from sandbox import Sandbox

METRICS = {
    'acceptance_seconds_bucket{le=""}',
    "acceptance_seconds_count",
    "acceptance_seconds_sum",
    "counting_since_seconds",
    "credential_days",
    "incident",
    "last_error_seconds",
    'messages_total{outcome=""}',
    "notices_held",
    "oldest_deferred_seconds",
    "paused_seconds",
    'queue_messages{queue=""}',
    "recipients_limit",
    'recipients_today{sender=""}',
    "status",
    'storm_messages{sender=""}',
    "window_calls",
    "window_limit",
    "window_refused",
    'window_sender_calls{sender=""}',
    "window_waiting",
}
# The values of the labels that do not depend on the site.
OUTCOMES = ("delivered", "deferred", "bounced", "rejected", "overridden", "notices")
QUEUES = ("incoming", "active", "deferred", "hold")
BOUNDS = ("1", "2", "5", "10", "30", "60", "120", "300", "600", "1800", "3600", "14400", "86400", "+Inf")
WINDOW = {
    *("scope", "limit", "calls", "calls_by_sender.*", "waiting", "recipients_today.*", "recipients_limit"),
    *("paused_seconds.*", "pause_reason", "unfinished", "drafts_left", "last_error.time", "last_error.text"),
    *(f"refused.*.{name}" for name in ("since", "asked_again_seconds", "one_message", "text")),
    *(f"incident.{name}" for name in ("since", "attempts", "told", "text")),
    *(f"counters.{name}" for name in ("since", *OUTCOMES)),
    *("acceptance_seconds.sum", "acceptance_seconds.count"),
    *(f"acceptance_seconds.buckets.{bound}" for bound in BOUNDS),
}
QUEUE = {
    *("running", *QUEUES, "oldest_deferred_seconds"),
    *(f"storm.{name}" for name in ("sender", "messages", "command")),
}
FIELDS = {
    *("status", "problems", "version", "home", "provider", "notices_held", "credential_days"),
    *("credential_next.in_use", "credential_next.since"),
    *(f"window.{name}" for name in WINDOW),
    *(f"queue.{name}" for name in QUEUE),
}
# Objects whose members are mailboxes.
OF_MAILBOXES = ("calls_by_sender", "recipients_today", "paused_seconds", "refused")


@pytest.fixture
def watched(sandbox: Sandbox, home: RelayHome) -> Watched:
    """A relay that has something to report in each place."""
    relay = Watched(home)
    relay.have_something_of_all(sandbox)
    return relay


def paths(value: Any, path: str = "") -> set[str]:
    """Return the paths to the values in an object, with "*" for a mailbox."""
    if not isinstance(value, dict):
        return {path}
    assert value, path
    names = {name: "*" if path.rpartition(".")[2] in OF_MAILBOXES else name for name in value}
    return set().union(*(paths(value[name], f"{path}.{names[name]}".lstrip(".")) for name in value))


def test_names_of_metrics_stay(watched: Watched) -> None:
    text = watched.show("prometheus").text
    samples = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    names = {re.sub('="[^"]*"', '=""', name).removeprefix("postfix_api_relay_") for name in samples}
    assert METRICS - names == set()
    for label, values in (("outcome", OUTCOMES), ("queue", QUEUES), ("le", BOUNDS)):
        assert set(values) <= set(re.findall(f'{label}="([^"]*)"', text))


def test_names_of_fields_stay(watched: Watched) -> None:
    shown = watched.show("json").text
    assert FIELDS - paths(json.loads(shown)) == set()


def test_new_names_are_in_the_lists(watched: Watched) -> None:
    """A name that is not in the lists is not promised to anyone: add it there."""
    families = re.findall("^# TYPE postfix_api_relay_(.*) ", watched.show("prometheus").text, re.MULTILINE)
    known = {re.sub("(_bucket|_sum|_count)?({.*)?$", "", name) for name in METRICS}
    assert set(families) - known == set()
    assert paths(watched.json()) - FIELDS == set()
