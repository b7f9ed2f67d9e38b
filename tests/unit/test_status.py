"""Whatever a state file contains, --status prints something that its readers can read."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.script import load_script
from helpers.unit import CONFIG, SECRETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

relay = load_script()


def seconds_from_now(least: float, most: float) -> st.SearchStrategy[float]:
    """Return times of the window's clock, relative to when they are drawn."""
    return st.floats(least, most).map(lambda seconds: relay.clock() + seconds)


NUMBERS = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -1, True, 10**16, 10**400, 2**53]),
    seconds_from_now(-700, 700),
    st.floats(-1e6, 1e6).map(lambda seconds: time.time() + seconds),
)
# What could end a line, a label or the summary before the figures.
TEXT = st.one_of(st.text(max_size=20), st.sampled_from(["a\nb", "a | b=1", 'a"\\b', "\ud800", "x" * 999]))
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


def either(expected: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return what fits, or anything else."""
    return st.one_of(expected, ANYTHING)


KEYS = st.one_of(TEXT, st.sampled_from(["ups@example.org", ""]))
COUNTS = st.dictionaries(st.sampled_from([*relay.COUNTERS, "since", "other"]), either(NUMBERS))
PID = st.just(os.getpid())
LIVE_CALL = st.tuples(seconds_from_now(-50, -20), seconds_from_now(-15, -5), PID, KEYS).map(list)
CALL = st.tuples(NUMBERS, st.one_of(st.none(), NUMBERS), either(PID), KEYS).map(list)
LATER = seconds_from_now(100, 500)
HOURS = st.integers(-30, 3).map(lambda hours: int(time.time() // 3600) + hours)
RECIPIENTS = st.tuples(either(HOURS), either(st.integers(0, 20_000)), KEYS).map(list)
BOUNDS = st.one_of(st.just([*relay.ACCEPTANCE_SECONDS]), ANYTHING)
PLACES = len(relay.ACCEPTANCE_SECONDS) + 1
NUMBERS_WITHIN = st.lists(st.one_of(st.integers(0, 2**53), NUMBERS), min_size=PLACES, max_size=PLACES)
ACCEPTANCE = st.fixed_dictionaries(
    {}, optional={"bounds": BOUNDS, "numbers": either(NUMBERS_WITHIN), "sum": either(NUMBERS)}
)
PAST = st.floats(1, 1e6).map(lambda seconds: time.time() - seconds)
CAUSE = st.sampled_from([*relay.OUTAGES, "credentials", "recipient"])
STAGE = st.sampled_from(["", *relay.TITLES])
INCIDENT = st.tuples(PAST, st.integers(0), CAUSE, TEXT, STAGE, PAST, PAST, st.lists(TEXT, max_size=3)).map(
    list
)
WINDOW = st.fixed_dictionaries(
    {},
    optional={
        "acceptance": either(ACCEPTANCE),
        "calls": either(st.lists(st.one_of(LIVE_CALL, CALL, ANYTHING), max_size=4)),
        "waiting": either(st.lists(either(st.tuples(NUMBERS, PID, KEYS).map(list)), max_size=3)),
        "paused_until": st.one_of(LATER, ANYTHING),
        "paused": either(st.dictionaries(KEYS, st.one_of(LATER, ANYTHING), max_size=3)),
        "pause_reason": either(TEXT),
        "recipients": either(st.lists(either(RECIPIENTS), max_size=4)),
        "counters": either(COUNTS),
        "last_error": either(st.tuples(NUMBERS, either(TEXT)).map(list)),
        "incident": either(INCIDENT),
    },
)
KEPT = st.fixed_dictionaries(
    {}, optional={"last": ANYTHING, "held": either(st.dictionaries(KEYS, NUMBERS)), "since": either(NUMBERS)}
)
NOTICES = st.dictionaries(KEYS, either(KEPT), max_size=3)
# What a Prometheus sample looks like (docs: Exposition formats); a label's value may have escapes.
SAMPLE = re.compile(r'[a-z_]+(\{[a-z]+="([^"\\\n]|\\["\\n])*"\})? -?\d+(\.\d+)?(e[+-]?\d+)?')


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a configured home that belongs to the tests' user."""
    directory = tmp_path_factory.mktemp("home")
    for name, values in {"relay-config.json": CONFIG, "api-secrets.json": SECRETS}.items():
        (directory / name).write_text(json.dumps(values))
        (directory / name).chmod(0o600)
    return directory


def found(home: Path) -> Any:
    """Return what --status finds in this process, which must keep its user."""
    queue = dict.fromkeys((*relay.QUEUES, "oldest_deferred_seconds"), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "become_owner", lambda _home: None)
        patch.setattr(relay, "queue_status", lambda _postfix: {"running": True, **queue})
        return relay.status_of(str(home), relay.Postfix(None))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(window=either(WINDOW), notices=either(NOTICES))
def test_any_state_can_be_shown(home: Path, window: Any, notices: Any) -> None:
    (home / ".rate-limit-state").write_text(json.dumps(window))
    (home / ".notice-state").write_text(json.dumps(notices))
    status = found(home)
    assert status["window"] is not None
    # A reason or error from the provider cannot make a line of its own.
    text = relay.status_text(status).encode().decode()
    assert re.fullmatch(
        r"POSTFIX-API-RELAY (OK|WARNING|CRITICAL) - [^|]+ \|( [a-z_]+=-?[\d.e+]+)+", text.split("\n")[0]
    )
    incident = status["window"]["incident"]
    assert (status["status"] == "CRITICAL") == (incident is not None)
    lines = [line.split(" ")[0] for line in text.split("\n")[1:]]
    assert ("recipients:" in lines) == bool(status["window"]["recipients_today"])
    assert ("incident:" in lines) == (incident is not None)
    assert [line for line in lines if line not in ("recipients:", "incident:")] == [
        "window:",
        "paused:",
        "counted:",
        "last",
        "credentials:",
        "queue:",
    ]
    assert text == "".join(c for c in text if c.isprintable() or c == "\n")
    assert json.loads(relay.status_json(status), parse_constant=pytest.fail) == status
    for line in relay.status_prometheus(status).split("\n"):
        assert line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.fullmatch(line), line


@settings(max_examples=250, deadline=None)
@given(state=st.fixed_dictionaries({}, optional={"counters": either(COUNTS), "last_error": ANYTHING}))
def test_any_counters_can_be_raised(state: Any) -> None:
    now = time.time()
    with pytest.MonkeyPatch.context() as patch:
        # Without a stored time, the counters start at this second.
        patch.setattr(relay.time, "time", lambda: now)
        before = dict(relay.counters_in(state))
        relay.count(state, ("delivered", "overridden"), "")
        after = relay.counters_in(json.loads(json.dumps(state)))
    assert set(before) == {"since", *relay.COUNTERS}
    assert all(type(value) is int and value >= 0 for value in before.values())
    assert before["since"] <= now
    assert after == {**before, "delivered": before["delivered"] + 1, "overridden": before["overridden"] + 1}


def test_what_crashes_is_a_problem_like_any_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor gets CRITICAL, not a traceback and Postfix's 75."""

    def crash(_home: str) -> int:
        raise ZeroDivisionError("held by nobody")

    monkeypatch.setattr(relay, "notices_held", crash)
    status = found(home)
    assert (status["status"], status["problems"]) == (
        "CRITICAL",
        ["unexpected ZeroDivisionError: held by nobody"],
    )
    assert relay.status_text(status).startswith("POSTFIX-API-RELAY CRITICAL - unexpected ZeroDivisionError: ")


def test_numbers_that_cannot_be_shown_do_not_count(home: Path) -> None:
    """Python prints no number over 4300 digits, but two that it reads can add up to one."""
    held = {"held": {"a": 9 * 10**4299, "b": 9 * 10**4299, "c": 2}, "since": 1}
    (home / ".notice-state").write_text(json.dumps({"override": held}))
    status = found(home)
    assert status["notices_held"] == 2
    assert "2 notices held" in relay.status_text(status)


def test_what_an_error_says_is_kept_to_a_length() -> None:
    state: dict[str, Any] = {}
    relay.count(state, ("bounced",), "5.0.0 " + "x" * 9999)
    assert len(state["last_error"][1]) == relay.ERROR_LIMIT
    relay.count(state, ("deferred",), "")
    assert state["last_error"][1].startswith("5.0.0 x")
    assert state["counters"]["deferred"] == 1
