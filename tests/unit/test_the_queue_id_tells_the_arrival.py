"""A long queue id shows when its message arrived, and anything else in its place shows nothing."""

from __future__ import annotations

import time
from types import ModuleType

import pytest
from helpers.queue_ids import DIGITS, long_id
from hypothesis import given
from hypothesis import strategies as st

DAY = 86400
# What postqueue -j of Postfix 3.7 has shown for one: "arrival_time": 1795774565.
REAL = "4jbTpF4Qr0zJ9Hg"


def test_of_a_real_one(relay: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay.time, "time", lambda: 1795774570.0)
    assert relay.arrival(REAL) == pytest.approx(1795774565.624208)


@given(age=st.integers(0, 365 * DAY * 1_000_000), inode=st.text(DIGITS[:-1], min_size=1, max_size=11))
def test_any_time(relay: ModuleType, age: int, inode: str) -> None:
    when = time.time() - age / 1_000_000 - 0.001
    assert relay.arrival(long_id(when, inode)) == pytest.approx(when, abs=0.0001)


@pytest.mark.parametrize("age", [-5, -400 * DAY, 367 * DAY, 20_000 * DAY])
def test_a_time_that_cannot_be(relay: ModuleType, age: float) -> None:
    assert relay.arrival(long_id(time.time() - age)) is None


def malformed() -> dict[str, str]:
    good = long_id(time.time() - 5)
    return {
        "none, as of a notice": "",
        "of --send-test": "test",
        "a short one": "3F5A21C0B7",
        "a short one of much": "0123456789ABCDEF01",
        "without an inode": good[:11],
        "without a mark": good.replace("z", "y"),
        "too few digits": good[1:],
        "too many digits": "0000" + good,
        "far too many digits": "z" * 100_000 + good,
        "a vowel": "a" + good[1:],
        "a vowel in the inode": good + "a",
        "a newline": good + "\n",
        "a digit of another script": "٤" + good[1:],
        "too many microseconds": good[:6] + "yyyy" + good[10:],
        "a lone surrogate": good + "\udce9",
    }


@pytest.mark.parametrize("name", malformed())
def test_what_tells_nothing(relay: ModuleType, name: str) -> None:
    assert relay.arrival(malformed()[name]) is None


@given(queue_id=st.one_of(st.text(max_size=30), st.text(DIGITS, max_size=30)))
def test_anything_else(relay: ModuleType, queue_id: str) -> None:
    found, now = relay.arrival(queue_id), time.time()
    assert found is None or now - 366 * DAY - 60 <= found <= now
