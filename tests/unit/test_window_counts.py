"""The window holds every call that the provider may still count, and nothing else."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.script import load_script
from helpers.unit import load_config, load_secrets
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

relay = load_script()

NOW = 10_000.0
ALIVE = os.getpid()
HUGE = 10**400


@pytest.fixture(scope="module")
def dead() -> int:
    """Return an id that no process can have: that of a dead one may be reused."""
    return int(Path("/proc/sys/kernel/pid_max").read_text())


def count(*entries: object, now: float = NOW) -> int:
    return len(relay.calls_in_window({"calls": list(entries)}, now))


def test_a_call_counts_until_sixty_seconds_after_its_end() -> None:
    call = [NOW - 100, NOW, ALIVE]

    assert [count(call, now=NOW + later) for later in (0, 1, 59.9, 60, 60.1)] == [1, 1, 1, 0, 0]


def test_a_call_under_way_counts_for_as_long_as_a_delivery_can_last() -> None:
    call = [NOW, None, ALIVE]

    assert [count(call, now=NOW + later) for later in (0, 61, 599, 600, 659, 661)] == [1, 1, 1, 1, 1, 0]


def test_a_call_of_a_process_that_died_counts_as_ended_when_that_is_seen(dead: int) -> None:
    calls = relay.calls_in_window({"calls": [[NOW - 300, None, dead]]}, NOW)

    assert [call.ended for call in calls] == [NOW]
    assert count(*map(list, calls), now=NOW + 59) == 1
    assert count(*map(list, calls), now=NOW + 60) == 0


def test_calls_from_the_future_do_not_count() -> None:
    assert count([NOW + 1, None, ALIVE], [NOW + 1, NOW + 2, ALIVE], [NOW - 1, NOW + 1, ALIVE]) == 0


@pytest.mark.parametrize(
    "entry",
    [
        None,
        NOW,
        "x",
        {},
        [],
        [NOW, NOW],
        [NOW, NOW, ALIVE, 0],
        [str(NOW), NOW, ALIVE],
        [NOW, "x", ALIVE],
        [NOW, NOW, "x"],
        [NOW, NOW, 1.5],
        [True, NOW, ALIVE],
        [None, NOW, ALIVE],
        [math.nan, None, ALIVE],
        [NOW, math.nan, ALIVE],
        [-math.inf, None, ALIVE],
        [math.inf, None, ALIVE],
        [-HUGE, None, ALIVE],
        [HUGE, None, ALIVE],
        [-HUGE, HUGE, ALIVE],
    ],
)
def test_an_entry_that_is_no_call_does_not_count_and_hides_no_other(entry: object) -> None:
    good = [NOW - 10, NOW - 5, ALIVE]

    assert count(entry, good, entry) == 1


@pytest.mark.parametrize("pid", [0, -1, -HUGE, HUGE])
def test_an_impossible_process_counts_as_gone(pid: int) -> None:
    assert count([NOW - 1, None, pid]) == 1
    assert relay.calls_in_window({"calls": [[NOW - 1, None, pid]]}, NOW)[0].ended == NOW


@pytest.mark.parametrize("state", [{}, {"calls": None}, {"calls": {}}, {"calls": "x"}, {"calls": 1}])
def test_a_state_without_a_list_of_calls_is_an_empty_window(state: dict[str, Any]) -> None:
    assert relay.calls_in_window(state, NOW) == []


def test_a_place_that_is_given_back_before_the_sleep_begins_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window, other = (relay.Window(str(tmp_path), relay.Log()) for _ in range(2))
    place, sleep = other.take(1), window.sleep_until

    def sleep_later(when: float) -> None:
        other.settle([place], False)
        sleep(when)

    monkeypatch.setattr(window, "sleep_until", sleep_later)
    monkeypatch.setattr(relay.time, "sleep", lambda _seconds: pytest.fail("it sleeps"))

    assert window.take(1, until=relay.clock() + 200).ended is None


def test_who_gives_up_leaves_the_line_at_once(tmp_path: Path) -> None:
    """Its slot would open later than it may wait: a call under way takes too long."""
    now = relay.clock()
    ticket = [now + 30, ALIVE, ""]
    state = tmp_path / ".rate-limit-state"
    state.write_text(json.dumps({"calls": [[now - 20, None, ALIVE]], "waiting": [ticket]}))

    window = relay.Window(str(tmp_path), relay.Log())
    with pytest.raises(relay.Deferred) as raised:
        window.take(1, until=ticket[0])
    window.settle([], False, relay.Ended("", "", None, raised.value, ("deferred",)))

    assert "waiting" not in json.loads(state.read_text())


@pytest.mark.parametrize(
    ("leaving", "ahead", "extra", "opens"),
    [
        ([], 0, 0, 0),
        ([5], 0, 0, 0),
        ([9, 5], 0, 0, 5),
        # More than the limit, as after a notice: the first that leaves frees no slot.
        ([3, 5, 9], 0, 0, 5),
        # What is under way may end now, and then counts for a minute.
        ([None, 9], 0, 0, 9),
        ([None, None], 0, 0, 60),
        # Waiting messages get the slots that are free, and those that open first.
        ([5], 1, 0, 5),
        ([5, 9], 1, 0, 9),
        ([5, 9], 2, 0, 65),
        ([5], 2, 0, 60),
        # But not those beyond the limit.
        ([5, 9], 0, 1, 0),
        ([5, 9], 3, 1, 0),
        ([5], 3, 1, 0),
        ([3, 5, 9], 3, 1, 69),
    ],
)
def test_when_the_next_of_two_places_opens(
    leaving: list[float | None], ahead: int, extra: int, opens: float
) -> None:
    """leaving: after how many seconds each call leaves the window, None while it is under way."""
    calls = [
        relay.PastCall(NOW - 90, None if after is None else NOW + after - 60, ALIVE) for after in leaving
    ]

    assert relay.when_open(calls, 2, extra, ahead, NOW) - NOW == opens
    assert relay.when_open(calls, 0, 0, ahead, NOW) == NOW


def test_who_waits_is_alive_and_has_time_left(dead: int) -> None:
    line = [[NOW + 10, ALIVE, "b"], [NOW, ALIVE, ""], [NOW + 300, ALIVE, "a"]]
    gone = [[NOW - 1, ALIVE, ""], [NOW + 301, ALIVE, ""], [NOW + 10, dead, ""], [NOW + 10, -1, ""]]
    odd = [None, [], [NOW + 10, ALIVE], ["x", ALIVE, ""], [NOW + 10, 1.5, ""], [NOW + 10, ALIVE, None]]

    assert [list(waiter) for waiter in relay.waiters({"waiting": [*gone, *line, *odd]}, NOW)] == line
    assert relay.waiters({"waiting": "x"}, NOW) == []


def test_what_has_no_mailbox_counts_in_every_window() -> None:
    calls = [relay.PastCall(NOW, NOW, ALIVE, key) for key in ("a", "b", "")]

    assert [call.key for call in relay.of_window(calls, "a")] == ["a", ""]
    assert relay.of_window(calls, "") == calls


def test_only_pauses_that_can_be_count() -> None:
    now = relay.clock()
    pauses = {"past": now - 1, "for a day": now + 86400, "odd": "soon", "huge": HUGE, "good": now + 300}

    found = relay.pauses_of({"paused": pauses, "paused_until": now + 500})
    assert found == {"good": now + 300, "": now + 500}
    assert relay.pauses_of({"paused": [1], "paused_until": [2]}) == {}


def test_the_reason_of_a_pause_is_kept_to_a_length() -> None:
    state: dict[str, Any] = {}

    relay.keep_pause(state, "", 5, "x" * 9999)

    assert len(state["pause_reason"]) == relay.ERROR_LIMIT


NUMBERS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([HUGE, -HUGE, math.nan, math.inf, -math.inf, ALIVE, 1, 0, NOW, NOW - 1, NOW + 1e9]),
    st.floats(NOW - 2000, NOW + 2000),
)
ENTRIES = st.lists(NUMBERS, min_size=2, max_size=4)
KEYS = st.sampled_from(["calls", "quota", "limit", "until", "boot", "refused", "files", "by"])
VALUES = st.recursive(
    NUMBERS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ENTRIES | VALUES, max_size=5) | VALUES)
def test_whatever_is_in_the_state_the_window_is_empty_once_it_has_passed(calls: object) -> None:
    kept = [list(call) for call in relay.calls_in_window({"calls": calls}, NOW)]

    assert count(*kept, now=NOW + relay.HARD_STOP_SECONDS + relay.WINDOW_SECONDS) == 0


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=20) | VALUES.map(lambda value: json.dumps(value).encode()))
@example(b'{"calls":[[-1%s,null,1]]}' % (b"0" * 400))
@example(b'{"calls":' + b"[" * 100_000)
@example(b'{"quota":{"limit":Infinity,"until":1}}')
@example(b'{"calls":[]}')
@example(b'{"boot":[1],"refused":{"files":[],"by":{"":[1,1,1,[],"",{}]}}}')
def test_whatever_is_in_the_file_a_call_is_made_and_recorded(tmp_path: Path, content: bytes) -> None:
    window = relay.Window(str(tmp_path), relay.Log())
    (tmp_path / ".rate-limit-state").write_bytes(content)

    window.settle(
        [window.take(1000)], True, relay.Ended("a@x.org", "4Zx", relay.Receipt("graph", "id"), None, ())
    )

    calls = json.loads((tmp_path / ".rate-limit-state").read_bytes())["calls"]
    assert calls[-1][2] == ALIVE and calls[-1][0] <= calls[-1][1] <= relay.clock()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["limit", "until"]), NUMBERS | VALUES) | VALUES)
@example({"limit": math.inf, "until": 1e9})
@example({"limit": 14, "until": HUGE})
def test_a_quota_that_makes_no_sense_is_asked_for_again(tmp_path: Path, quota: object) -> None:
    window = relay.Window(str(tmp_path), relay.Log())
    (tmp_path / ".rate-limit-state").write_text(json.dumps({"quota": quota}))
    ses = relay.Ses(str(tmp_path), load_config(relay), load_secrets(relay, API_PROVIDER="ses"), relay.Log())

    with pytest.MonkeyPatch.context() as patch:
        # So far from the times and process ids above that none of them is a quota to use.
        patch.setattr(relay, "clock", lambda: 1e8)
        assert ses.known_limit(window) is None


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["obtained", "ends"]), NUMBERS | VALUES))
@example({"obtained": 0.5, "ends": HUGE})
@example({"obtained": -HUGE, "ends": math.inf})
def test_a_token_whose_times_make_no_sense_is_not_used(tmp_path: Path, times: dict[str, object]) -> None:
    assert cached_token(tmp_path, times) == ""


@pytest.mark.parametrize(
    ("obtained", "ends", "token"),
    [(-3000, 600, "t"), (-3500, 100, ""), (1e6, 1e6 + 3600, ""), (-1e5, 3600, "")],
)
def test_a_token_is_used_while_it_lasts_for_long_enough(
    tmp_path: Path, obtained: float, ends: float, token: str
) -> None:
    now = time.time()

    assert cached_token(tmp_path, {"obtained": now + obtained, "ends": now + ends}) == token


def cached_token(home: Path, times: dict[str, object]) -> str:
    """Return Graph's token from a cache with these times."""
    graph = relay.Graph(str(home), load_config(relay), load_secrets(relay), relay.Log())
    cache = home / ".graph-token-cache"
    cache.touch(0o600)
    cache.write_text(json.dumps({"key": "k", "token": "t", **times}))
    return str(graph.cached_token("k"))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.floats(0, 40), st.floats(0, 90), st.floats(0, 1)), min_size=2, max_size=12),
)
def test_no_sixty_seconds_of_the_providers_clock_hold_more_than_the_limit(
    limit: int, plan: list[tuple[float, float, float]]
) -> None:
    """plan: each attempt's pause, its call's duration, and at which fraction it counts."""
    now = 0.0
    calls: list[tuple[float, float]] = []
    counted: list[float] = []
    for pause, lasts, part in plan:
        now += pause
        state = [[began, ended if ended <= now else None, ALIVE] for began, ended in calls]
        if count(*state, now=now) < limit:
            calls.append((now, now + lasts))
            counted.append(now + lasts * part)

    assert all(sum(start <= moment < start + 60 for moment in counted) <= limit for start in counted)


def held_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, slept: float) -> Any:
    """Return a delivery after `seconds`, suspended for `slept` of them, and its alarms."""
    relay_of = relay.Relay(
        str(tmp_path),
        relay.Envelope("alerts@domain.com", "4Zx", ["a@x.org"], ""),
        load_config(relay, RATE_LIMIT_MAX_WAIT_SECONDS=90),
        load_secrets(relay),
        relay.Log(),
    )
    now = relay.clock() + seconds
    monkeypatch.setattr(relay, "clock", lambda: now)
    awake = relay.time.clock_gettime(relay.time.CLOCK_MONOTONIC) + seconds - slept
    monkeypatch.setattr(relay.time, "clock_gettime", lambda _clock: awake)
    alarms: list[int] = []
    monkeypatch.setattr(relay.signal, "alarm", alarms.append)
    return relay_of, alarms


@pytest.mark.parametrize(("seconds", "alarm"), [(0, 600), (90, 600), (150, 540)])
def test_a_delivery_has_its_full_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, alarm: int
) -> None:
    delivery, alarms = held_up(monkeypatch, tmp_path, seconds, 0)

    delivery.take()

    assert len(alarms) == 1 and alarm - 2 <= alarms[0] <= alarm


@pytest.mark.parametrize(("seconds", "slept"), [(60, 50), (7200, 7200), (100_000, 99_999), (500, 0)])
def test_a_machine_that_was_suspended_does_not_begin_a_delivery(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, slept: float
) -> None:
    delivery, alarms = held_up(monkeypatch, tmp_path, seconds, slept)

    with pytest.raises(relay.Deferred) as raised:
        delivery.take()

    assert raised.value.code == "4.3.2" and alarms == []
    assert json.loads((tmp_path / ".rate-limit-state").read_text())["calls"] == []


MB = 1_000_000


def window_with(home: Path, uploads: list[list[Any]], calls: tuple[list[Any], ...] = ()) -> Any:
    """Return a window with uploads: seconds ago, octets and mailbox of each."""
    now = relay.clock()
    entries = [[now - ago, octets, key] for ago, octets, key in uploads]
    (home / ".rate-limit-state").write_text(json.dumps({"calls": calls, "uploads": entries}))
    return relay.Window(str(home), relay.Log())


def octets_in(home: Path) -> dict[str, int]:
    """Return octets by mailbox."""
    entries = json.loads((home / ".rate-limit-state").read_text())["uploads"]
    keys = {key for _, _, key in entries}
    return {key: sum(octets for _, octets, of in entries if of == key) for key in keys}


def test_octets_are_claimed_until_none_are_left(tmp_path: Path) -> None:
    window = window_with(tmp_path, [[100, 40 * MB, "a"], [10, 100 * MB, "b"], [400, 90 * MB, "a"]])

    window.claim("a", 60 * MB, 150 * MB, 0)
    window.claim("a", 50 * MB, 150 * MB, 0)
    with pytest.raises(relay.Deferred) as raised:
        window.claim("a", 1, 150 * MB, relay.clock() + 150)

    assert raised.value.text == "upload limit reached (150 of 150 MB in 5 minutes for a), deferring"
    assert raised.value.code == "4.4.5"
    assert octets_in(tmp_path) == {"a": 150 * MB, "b": 100 * MB}


def test_octets_that_are_claimed_share_buckets(tmp_path: Path) -> None:
    window = window_with(tmp_path, [])

    for _ in range(50):
        window.claim("", 1000, 150 * MB, 0)

    assert octets_in(tmp_path) == {"": 50_000}
    # The next bucket may have begun.
    assert len(json.loads((tmp_path / ".rate-limit-state").read_text())["uploads"]) <= 2


def test_who_uploads_is_noted_once_and_until_it_has_ended(tmp_path: Path) -> None:
    window = window_with(tmp_path, [])

    for _ in range(2):
        window.claim("a@x.org", 1000, 150 * MB, 0)
    state = tmp_path / ".rate-limit-state"

    assert json.loads(state.read_text())["uploading"] == [[os.getpid(), "a@x.org"]]
    window.settle([], False)
    assert "uploading" not in json.loads(state.read_text())


def test_what_is_larger_than_the_limit_goes_alone(tmp_path: Path) -> None:
    window = window_with(tmp_path, [[10, 1, ""]])

    with pytest.raises(relay.Deferred, match="window full"):
        window.claim("", 200 * MB, 150 * MB, relay.clock() + 300)
    window_with(tmp_path, [[331, 1, ""]])
    window.claim("", 200 * MB, 150 * MB, 0)

    assert octets_in(tmp_path) == {"": 200 * MB}


def test_who_claims_waits_until_enough_has_left(tmp_path: Path) -> None:
    window = window_with(tmp_path, [[329.5, 60 * MB, ""], [200, 80 * MB, ""]])
    began = relay.clock()

    window.claim("", 50 * MB, 150 * MB, began + 60)

    assert 0.4 <= relay.clock() - began < 30
    assert octets_in(tmp_path) == {"": 130 * MB}


def test_what_others_have_under_way_counts_as_much_as_it_may_be(tmp_path: Path) -> None:
    """It claims for its own call; one that has ended is already noted."""
    now, other = relay.clock(), os.getppid()
    calls = ([now - 1, None, ALIVE], [now - 5, now - 2, other], [now - 1, None, other])
    window = window_with(tmp_path, [[10, 100 * MB, ""]], calls)

    with pytest.raises(relay.Deferred):
        window.claim("", 50 * MB - relay.LARGEST_REQUEST + 1, 150 * MB, 0)
    window.claim("", 50 * MB - relay.LARGEST_REQUEST, 150 * MB, 0)


def test_octets_that_were_claimed_are_not_noted_again(tmp_path: Path) -> None:
    window = window_with(tmp_path, [])
    window.upload_limit = 150 * MB
    place = window.take(28)
    window.claim("", 5000, 150 * MB, 0)

    window.settle([place], True, relay.Ended("a@x.org", "4Zx", None, None, (), octets=5200))

    assert octets_in(tmp_path) == {"": 5200}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["uploads", "recipients"]),
    st.lists(st.lists(NUMBERS | VALUES, max_size=4) | VALUES) | VALUES,
)
@example("uploads", [[-1, HUGE, ""], [math.inf, 5, ""]])
def test_whatever_was_counted_more_can_be(tmp_path: Path, name: str, content: object) -> None:
    window = relay.Window(str(tmp_path), relay.Log())
    (tmp_path / ".rate-limit-state").write_text(json.dumps({name: content}))
    receipt = relay.Receipt("graph", "id")

    window.upload_limit = 150 * MB
    ended = relay.Ended("A@x.org", "4Zx", receipt, None, (), octets=700, recipients=3)
    window.settle([window.take(28, until=relay.clock() + 500)], True, ended)

    state = json.loads((tmp_path / ".rate-limit-state").read_text())
    assert state["recipients"][-1][1:] == [3, "a@x.org"]
    assert state["uploads"][-1][1] >= 700


@pytest.mark.parametrize(
    ("at_a_time", "key", "until"),
    [(2, "", 0), (1, "a", 200)],
    ids=["the free request is for who came earlier", "one message of a mailbox waits for long"],
)
def test_who_comes_while_another_waits_for_a_request_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_a_time: int, key: str, until: float
) -> None:
    now, other = relay.clock(), os.getppid()
    state = {"calls": [[now - 1, None, other, key]], "waiting": [[now + 100, other, key]]}
    (tmp_path / ".rate-limit-state").write_text(json.dumps(state))
    window = relay.Window(str(tmp_path), relay.Log())
    window.at_a_time = at_a_time
    monkeypatch.setattr(relay, "BUSY_SECONDS", 0)
    monkeypatch.setattr(window, "sleep_until", lambda _when: pytest.fail("it waits"))

    with pytest.raises(relay.Deferred) as raised:
        window.take(28, key, now + until)

    whose = f" for {key}" if key else ""
    assert raised.value.text == f"request limit reached ({at_a_time} at a time{whose}), deferring"
