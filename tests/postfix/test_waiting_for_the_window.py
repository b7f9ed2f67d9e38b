"""Deliveries that wait for a slot in the window, under a real Postfix that may end meanwhile."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from functools import partial

import pytest
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import PrivatePostfix, signal_process
from helpers.script import change_constants
from helpers.state import open_slots
from helpers.storm_figures import busiest
from helpers.waiting import FAR, in_state, occupy, processes, wait_until
from sandbox import Sandbox

WINDOW = 3
LIMIT = 3
MESSAGES = 8
# Seconds; longer than any stall of the machine.
LONGEST = 300
# More than a pipe holds, so that pipe(8) is still writing it while the relay waits.
BODIES = {"small": "Text.\n", "large": "A line of text.\n" * 60_000}


@pytest.fixture
def four(home: RelayHome) -> Iterator[PrivatePostfix]:
    """A Postfix that runs four deliveries at a time."""
    with PrivatePostfix(home.script, user=home.account.pw_name, maxproc=4) as running:
        yield running


@pytest.fixture
def patient(home: RelayHome) -> Iterator[PrivatePostfix]:
    """A Postfix that soon restarts a daemon that has died."""
    settings = {"transport_retry_time": "1s", "service_throttle_time": "1s"}
    with PrivatePostfix(home.script, user=home.account.pw_name, settings=settings) as running:
        yield running


def submit(postfix: PrivatePostfix, subject: str, body: str = "Text.\n") -> None:
    postfix.smtp("alerts@domain.com", ["to@external.com"], mail(body.encode(), Subject=subject).decode())


def submit_waiting(home: RelayHome, postfix: PrivatePostfix, body: str = "Text.\n") -> int:
    """Submit a message that has to wait until open_slots(); return the id of the waiting process."""
    occupy(home, FAR, wait=LONGEST)
    submit(postfix, "waits", body)
    wait_until(lambda: set(processes(home)) & in_state(home))
    [pid] = processes(home)
    return pid


def subjects(sandbox: Sandbox) -> list[str]:
    return [message.subject for message in sandbox.accepted]


def has_taken(postfix: PrivatePostfix, messages: int) -> bool:
    """Tell whether the queue manager has put this number of messages into its line."""
    return postfix.log().count("(queue active)") >= messages


def storm(home: RelayHome, postfix: PrivatePostfix) -> list[str]:
    """Submit more messages than two windows hold, and wait until all are gone; return their subjects."""
    change_constants(home, WINDOW_SECONDS=WINDOW)
    home.configure(RATE_LIMIT_PER_MINUTE=LIMIT, RATE_LIMIT_MAX_WAIT_SECONDS=LONGEST)
    names = [f"storm {number}" for number in range(MESSAGES)]
    for number, name in enumerate(names, 1):
        submit(postfix, name)
        # The queue manager takes messages that arrive together in any order.
        postfix.wait_for("its place in the queue", partial(has_taken, postfix, number))
    postfix.wait_until_empty()
    return names


def expect_one_start_for_each(home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix) -> None:
    """Assert that nothing was deferred, that no window held more than the limit, and that none had room when
    the first message had to wait; on a slow machine none has to."""
    assert home.log().count("] PROCESSING:") == MESSAGES
    assert [outcome.status for outcome in postfix.outcomes()] == ["sent"] * MESSAGES
    assert busiest([message.when for message in sandbox.accepted], WINDOW) <= LIMIT
    first_wait = re.search(r"\] WAITING: .*", home.log())
    assert first_wait is None or f"({LIMIT}/{LIMIT} per minute)" in first_wait[0]


def test_one_at_a_time_the_queue_is_the_waiting_line(
    home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix
) -> None:
    names = storm(home, postfix)
    assert subjects(sandbox) == names
    expect_one_start_for_each(home, sandbox, postfix)


def test_four_at_a_time_never_pass_the_limit_and_nobody_starves(
    home: RelayHome, sandbox: Sandbox, four: PrivatePostfix
) -> None:
    names = storm(home, four)
    assert sorted(subjects(sandbox)) == names
    expect_one_start_for_each(home, sandbox, four)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_in_the_wait_keeps_the_mail(
    home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix, number: signal.Signals
) -> None:
    pid = submit_waiting(home, postfix)
    os.kill(pid, number)
    [outcome] = postfix.wait_for("the attempt", postfix.outcomes)
    assert (outcome.status, outcome.dsn[0]) == ("deferred", "4")
    assert sandbox.requests == []
    open_slots(home)
    postfix.wait_until_empty()
    assert subjects(sandbox) == ["waits"]


def end_of_daemons(postfix: PrivatePostfix, how: str) -> None:
    """End Postfix as `postfix stop` does, or only the pipe(8) that writes to the relay, as a crash does."""
    if how == "stop":
        signal_process(postfix.master(), signal.SIGTERM)
    else:
        [pid] = [pid for pid, name in postfix.programs().items() if name == "pipe"]
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("size", BODIES)
@pytest.mark.parametrize("how", ["stop", "crash"])
def test_who_waits_for_a_postfix_that_ended_sends_nothing(
    home: RelayHome, sandbox: Sandbox, patient: PrivatePostfix, how: str, size: str
) -> None:
    pid = submit_waiting(home, patient, BODIES[size])
    end_of_daemons(patient, how)
    # Long before its slot opens, the relay sees that nobody would learn of a delivery.
    wait_until(lambda: pid not in processes(home))
    open_slots(home)
    if how == "stop":
        assert sandbox.requests == []
        assert "] DELIVERED:" not in home.log()
        wait_until(lambda: not patient.processes())
        patient.start()
    patient.wait_until_empty()
    [message] = sandbox.accepted
    assert message.message.get_payload() == BODIES[size].replace("\n", "\r\n")
    assert home.log().count("] DELIVERED:") == 1


def test_a_reload_in_the_wait_changes_nothing(
    home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix
) -> None:
    pid = submit_waiting(home, postfix)
    postfix.reload()
    assert processes(home) == [pid]
    assert sandbox.requests == []
    open_slots(home)
    postfix.wait_until_empty()
    assert subjects(sandbox) == ["waits"]
    assert [outcome.status for outcome in postfix.outcomes()] == ["sent"]
