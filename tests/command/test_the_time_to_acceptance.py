"""The time from arrival to acceptance, as --status counts it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.by_hand import by_hand
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.queue_ids import long_id
from helpers.state import WINDOW, read
from helpers.watched import Watched
from sandbox import Answer, Sandbox

RECIPIENT = "to@external.com"
BOUNDS = ["1", "2", "5", "10", "30", "60", "120", "300", "600", "1800", "3600", "14400", "86400", "+Inf"]
EMPTY = {"buckets": dict.fromkeys(BOUNDS, 0), "sum": 0.0, "count": 0}
DAY = 86400


@pytest.fixture
def watched(home: RelayHome) -> Watched:
    return Watched(home)


def counted(watched: Watched) -> dict[str, Any]:
    """Return the values on which both formats that have them agree."""
    found: dict[str, Any] = watched.json()["window"]["acceptance_seconds"]
    metrics = watched.show("prometheus").metrics
    assert {
        "buckets": {bound: metrics[f"acceptance_seconds_bucket {bound}"] for bound in BOUNDS},
        "sum": metrics["acceptance_seconds_sum"],
        "count": metrics["acceptance_seconds_count"],
    } == found
    return found


def test_each_accepted_message_counts(watched: Watched, deliver: Deliver) -> None:
    assert counted(watched) == EMPTY
    ages = [0, 45, 45, 400, 5 * DAY]
    for age in ages:
        assert deliver(mail(), RECIPIENT, queue_id=long_id(time.time() - age)).verdict == "sent"
    found = counted(watched)
    # Each delivery takes a moment itself, with enough room before the next bound.
    assert found["buckets"] == {
        **dict.fromkeys(BOUNDS[:5], 1),
        "60": 3,
        "120": 3,
        "300": 3,
        "600": 4,
        "1800": 4,
        "3600": 4,
        "14400": 4,
        "86400": 4,
        "+Inf": 5,
        "1": found["buckets"]["1"],
        "2": found["buckets"]["2"],
        "5": found["buckets"]["5"],
    }
    assert found["count"] == 5
    assert sum(ages) < found["sum"] < sum(ages) + 50
    # A plugin's figures stay few.
    assert "acceptance" not in watched.show().text


def test_what_is_not_accepted_does_not_count(sandbox: Sandbox, watched: Watched, deliver: Deliver) -> None:
    refusals = [Answer(503), provided("graph/mime-invalid")]
    for answer, verdict in zip(refusals, ("deferred", "bounced")):
        sandbox.answer("sendMail", answer)
        assert deliver(mail(), RECIPIENT, queue_id=long_id(time.time() - 5)).verdict == verdict
    # The admin was notified of the bounce.
    assert watched.json()["window"]["counters"]["notices"] == 1
    assert counted(watched) == EMPTY


@pytest.mark.parametrize(
    "queue_id",
    ["3F5A21C0B7", long_id(time.time() + DAY), long_id(time.time() - 400 * DAY), long_id(0)],
    ids=["short", "of a clock that was set back", "of a clock that was wrong", "of the epoch"],
)
def test_what_tells_no_arrival_does_not_count(watched: Watched, deliver: Deliver, queue_id: str) -> None:
    assert deliver(mail(), RECIPIENT, queue_id=queue_id).verdict == "sent"
    assert watched.json()["window"]["counters"]["delivered"] == 1
    assert counted(watched) == EMPTY


def test_what_goes_out_by_hand_does_not_count(watched: Watched) -> None:
    assert by_hand(watched.home, "--send-test", RECIPIENT).returncode == 0
    assert counted(watched) == EMPTY


def test_a_crowd_is_one_message(sandbox: Sandbox, watched: Watched, deliver: Deliver) -> None:
    crowd = [RECIPIENT, *(f"user{number}@external.com" for number in range(1_100))]
    assert deliver(mail(), *crowd, queue_id=long_id(time.time() - 45)).verdict == "sent"
    assert len(sandbox.accepted) > 1
    assert counted(watched)["count"] == 1


def test_it_survives_a_reboot(watched: Watched, deliver: Deliver) -> None:
    for count in (1, 2):
        assert deliver(mail(), RECIPIENT, queue_id=long_id(time.time() - 45)).verdict == "sent"
        state = {**read(watched.home, WINDOW), "boot": "11111111-2222-3333-4444-555555555555"}
        watched.home.put(WINDOW, json.dumps(state).encode())
        assert counted(watched)["count"] == count


def damaged(state: dict[str, Any]) -> dict[str, Any]:
    """Return values that may replace a valid one."""
    numbers = state["numbers"]
    return {
        "nothing": None,
        "a list": [1],
        "no numbers": {**state, "numbers": None},
        "too few numbers": {**state, "numbers": numbers[:-1]},
        "too many numbers": {**state, "numbers": [*numbers, 1]},
        "a negative number": {**state, "numbers": [-1, *numbers[1:]]},
        "a huge number": {**state, "numbers": [10**400, *numbers[1:]]},
        "a fraction": {**state, "numbers": [0.5, *numbers[1:]]},
        "true": {**state, "numbers": [True, *numbers[1:]]},
        "text": {**state, "numbers": ["1", *numbers[1:]]},
        "no sum": {**state, "sum": None},
        "a negative sum": {**state, "sum": -1},
        "a huge sum": {**state, "sum": 10**400},
        "other bounds": {**state, "bounds": [2 * bound for bound in state["bounds"]]},
        "no bounds": {**state, "bounds": None},
        "bounds of another length": {**state, "bounds": state["bounds"][1:], "numbers": numbers[1:]},
    }


def test_what_is_damaged_counts_as_empty(watched: Watched, deliver: Deliver) -> None:
    deliver(mail(), RECIPIENT, queue_id=long_id(time.time() - 45))
    state = read(watched.home, WINDOW)
    for name, content in damaged(state["acceptance"]).items():
        watched.home.put(WINDOW, json.dumps({**state, "acceptance": content}).encode())
        assert watched.json()["window"]["acceptance_seconds"] == EMPTY, name
    assert deliver(mail(), RECIPIENT, queue_id=long_id(time.time() - 45)).verdict == "sent"
    assert counted(watched)["count"] == 1
