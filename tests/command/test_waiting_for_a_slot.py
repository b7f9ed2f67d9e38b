"""A delivery that finds the window full waits for its slot, if that is allowed and soon enough."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from types import ModuleType

import pytest
from conftest import Deliver
from helpers.accounting import read_process
from helpers.answers import provided
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.script import change_constants
from helpers.state import WINDOW, held_notices, let_calls_count_for_long, lock_held, open_slots, read
from helpers.storm_figures import busiest
from helpers.strace import TRACE_ALARMS, alarms, command, read_calls, trace_file
from helpers.variants import use_ses
from helpers.waiting import (
    FAR,
    SOON,
    Start,
    background,
    expect_full,
    occupy,
    process_state,
    processes,
    stopped,
    wait_until,
)
from sandbox import Accepted, Answer, Sandbox

STRANGER = "stranger@else.com"


@pytest.fixture
def start(home: RelayHome) -> Iterator[Start]:
    """A function that starts a delivery in the background."""
    with background(home) as function:
        yield function


def sent_at(sandbox: Sandbox) -> dict[str, float]:
    """Return when the provider got the messages that it accepted, by subject, in this order."""
    return {message.subject: message.when for message in sandbox.accepted}


def expect_just_after(moment: float, opened: float) -> None:
    """Assert that a request came once its slot was open, and not much later."""
    assert opened <= moment <= opened + SOON


def cpu(pid: int) -> float:
    """Return the processor time of a process so far, in seconds."""
    process = read_process(pid)
    assert process, "it has ended"
    return process.first_thread


def status_number(pid: int, name: str) -> int:
    """Return a number from a process's status in proc(5)."""
    found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def peak_memory(pid: int) -> int:
    """Return the peak memory of a process so far, in KiB."""
    return status_number(pid, "VmHWM")


def wake_ups(pid: int) -> int:
    """Return how often a process has gone to sleep so far."""
    return status_number(pid, "voluntary_ctxt_switches")


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_a_slot_is_taken_as_it_opens(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    if provider == "ses":
        use_ses(home)
    opened, _ = occupy(home, 1.5, FAR)
    assert deliver(mail(Subject="waits"), "to@external.com") == ("sent", "2.0.0", 0, b"")
    assert list(sent_at(sandbox)) == ["waits"]
    assert min(request.when for request in sandbox.requests) >= opened
    expect_just_after(sent_at(sandbox)["waits"], opened)
    assert "waiting" not in read(home, WINDOW)


def test_the_time_of_a_delivery_begins_after_its_wait(
    relay: ModuleType, home: RelayHome, start: Start
) -> None:
    occupy(home, FAR)
    with trace_file(home) as file:
        waiting = start("waits", prefix=command(file, TRACE_ALARMS))
        time.sleep(1.5)
        open_slots(home)
        assert waiting.result().verdict == "sent"
        first, second, last = alarms(read_calls(file.read_text()))
    assert first == (relay.HARD_STOP_SECONDS, 0)
    # All of it again, although some was over.
    assert second.seconds == relay.HARD_STOP_SECONDS > second.left
    assert last.seconds == relay.AFTERWARDS_SECONDS


def test_a_slot_that_opens_too_late_is_not_waited_for(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    occupy(home, FAR, FAR + 5, wait=5)
    began = time.monotonic()
    expect_full(deliver(mail(), "to@external.com"), "2/2")
    assert time.monotonic() - began < SOON
    assert sandbox.requests == []


@pytest.mark.parametrize("wait", [None, 0])
def test_without_leave_nobody_waits(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, wait: int | None
) -> None:
    occupy(home, FAR)
    home.configure(RATE_LIMIT_PER_MINUTE=1, RATE_LIMIT_MAX_WAIT_SECONDS=wait)
    began = time.monotonic()
    expect_full(deliver(mail(), "to@external.com"), "1/1")
    assert time.monotonic() - began < SOON
    assert sandbox.requests == []


def test_the_slot_of_a_waiter_is_no_one_elses(sandbox: Sandbox, home: RelayHome, start: Start) -> None:
    occupy(home, FAR)
    first = start("first")
    expect_full(start("second").result(0), "1/1")
    open_slots(home)
    assert first.result().verdict == "sent"
    assert list(sent_at(sandbox)) == ["first"]


def test_first_in_first_out(sandbox: Sandbox, home: RelayHome, start: Start) -> None:
    occupy(home, *[FAR] * 4)
    names = ["one", "two", "three", "four"]
    waiting = [start(name) for name in names]
    # If several were open, each delivery would get one, but in any order.
    for number, delivery in enumerate(waiting, 1):
        open_slots(home)
        assert delivery.result().verdict == "sent"
        assert list(sent_at(sandbox)) == names[:number]


def test_a_newcomer_does_not_pass_who_waits(sandbox: Sandbox, home: RelayHome, start: Start) -> None:
    occupy(home, FAR)
    waiting = start("waits")
    [pid] = processes(home, "waits")
    # It sleeps when its slot opens, as can happen on a busy machine.
    with stopped(home, pid):
        open_slots(home)
        newcomer = start("newcomer").result()
    assert waiting.result().verdict == "sent"
    assert newcomer.verdict == "deferred"
    assert list(sent_at(sandbox)) == ["waits"]


def test_four_at_a_time_never_pass_the_limit_and_nobody_starves(
    sandbox: Sandbox, home: RelayHome, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    window, limit = 3, 3
    change_constants(home, WINDOW_SECONDS=window)
    # The waiting time depends on the machine; that nobody is overtaken does not.
    home.configure(RATE_LIMIT_PER_MINUTE=limit, RATE_LIMIT_MAX_WAIT_SECONDS=300)
    names = [f"number {number}" for number in range(10)]
    claims = []

    def claim(message: Accepted) -> None:
        """Count the calls in the window, and the messages that came before this one and still wait."""
        state = read(home, WINDOW)
        line = {pid for _, pid, _ in state.get("waiting", [])}
        before = [name for name in names[: names.index(message.subject)] if line & set(processes(home, name))]
        claims.append(len(state["calls"]) + len(before))

    monkeypatch.setattr(sandbox, "on_accepted", claim)
    deliveries: list[Future[Delivery]] = []
    for name in names:
        wait_until(lambda: sum(not delivery.done() for delivery in deliveries) < 4)
        deliveries.append(start(name))
    assert [delivery.result().verdict for delivery in deliveries] == ["sent"] * len(names)
    assert sorted(sent_at(sandbox)) == names
    assert busiest(list(sent_at(sandbox).values()), window) <= limit
    # There is a slot left for everybody who came earlier.
    assert max(claims) <= limit


def test_who_waits_holds_no_lock(home: RelayHome, start: Start) -> None:
    [opened] = occupy(home, FAR)
    waiting = start("waits")
    # Each time at most for as long as a state file takes to write.
    for _ in range(10):
        with lock_held(home):
            time.sleep(0.05)
    assert time.monotonic() < opened
    assert not waiting.done()
    open_slots(home)
    assert waiting.result().verdict == "sent"


def test_a_long_wait_costs_no_cpu_and_a_large_message_no_memory(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, start: Start
) -> None:
    use_ses(home)
    # The first start of all compiles the program, which takes more memory; the others are spared that.
    assert deliver(mail(), "to@external.com").verdict == "sent"
    occupy(home, FAR)
    body = b"A line of text.\n" * (20 * 1024 * 1024 // 16)
    waiting = start("large", body)
    [pid] = processes(home, "large")
    wait_until(lambda: process_state(pid) == b"S")
    began, woken, used = time.monotonic(), wake_ups(pid), cpu(pid)
    time.sleep(2.5)
    woken, used, seconds = wake_ups(pid) - woken, cpu(pid) - used, time.monotonic() - began
    # Once a second; a virtual machine's host may charge its time to whoever runs at that moment.
    assert woken <= 3 * seconds
    assert used < 0.02 * seconds
    assert peak_memory(pid) <= 20 * 1024
    assert not waiting.done()
    open_slots(home)
    assert waiting.result().verdict == "sent"
    [_, message] = sandbox.accepted
    assert message.raw.endswith(b"\r\n\r\n" + body.replace(b"\n", b"\r\n"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_keeps_the_mail_and_gives_the_slot_to_the_next(
    sandbox: Sandbox, home: RelayHome, start: Start, number: signal.Signals
) -> None:
    opened, _ = occupy(home, FAR, FAR + 1)
    struck, behind = start("struck"), start("behind")
    [pid] = processes(home, "struck")
    os.kill(pid, number)
    delivery = struck.result()
    assert time.monotonic() < opened
    assert delivery.verdict == "deferred"
    assert delivery.status in (75, -number)
    assert sandbox.requests == []
    later = start("later")
    open_slots(home, 2)
    # Two slots for two: neither was lost with the process that should have had it, because no other opens in
    # time.
    assert [behind.result().verdict, later.result().verdict] == ["sent", "sent"]


def test_a_pause_that_begins_in_the_wait_is_kept(sandbox: Sandbox, home: RelayHome, start: Start) -> None:
    """One message is on its way, another waits; then the provider asks for a lower rate."""
    [opened, _] = occupy(home, FAR, -1)
    answer = provided("graph/application-throttled", retry_after="300")
    gate = Event()
    sandbox.answer("sendMail", answer._replace(gate=gate))
    refused, waiting = start("refused"), start("waits")
    gate.set()
    assert refused.result().dsn == "4.4.5"
    delivery = waiting.result()
    assert delivery[:3] == ("deferred", "4.4.5", 75)
    assert "the provider asked for a pause, deferring until" in delivery.text
    assert time.monotonic() < opened
    assert [request.role for request in sandbox.requests].count("sendMail") == 1


def test_a_notice_does_not_pass_who_waits(sandbox: Sandbox, home: RelayHome, start: Start) -> None:
    """SES's notices have no slots of their own: the one that opens belongs to the message that waits."""
    use_ses(home)
    occupy(home, FAR, -1)
    gate = Event()
    sandbox.answer("ses", Answer(gate=gate))
    noticed, waiting = start("noticed", sender=STRANGER), start("waits")
    [pid] = processes(home, "waits")
    with stopped(home, pid):
        open_slots(home)
        gate.set()
        assert noticed.result().verdict == "sent"
        assert list(sent_at(sandbox)) == ["noticed"]
        assert held_notices(home, "override") == {STRANGER: 1}
    assert waiting.result().verdict == "sent"
    assert list(sent_at(sandbox)) == ["noticed", "waits"]


def test_each_sender_has_a_window_of_its_own(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    let_calls_count_for_long(home)
    home.configure(RATE_LIMIT_PER_MINUTE=1, RATE_LIMIT_SCOPE="sender", NOTIFY_ON_OVERRIDE=False)
    assert deliver(mail(), "to@external.com", sender="alerts@domain.com").verdict == "sent"
    # Mail from the default address shares its mailbox.
    for sender in ("alerts@domain.com", "ALERTS@Domain.com", STRANGER, "MAILER-DAEMON"):
        for message in (mail(), mail(From=None)):
            expect_full(deliver(message, "to@external.com", sender=sender), "1/1", "alerts@domain.com")
    assert deliver(mail(From=None), "to@external.com", sender="network@domain.com").verdict == "sent"
    full = deliver(mail(From=None), "to@external.com", sender="network@domain.com")
    expect_full(full, "1/1", "network@domain.com")
    assert len(sandbox.accepted) == 2
    assert [file.name for file in home.path.glob(".rate-limit-state*")] == [".rate-limit-state"]


def keys(home: RelayHome) -> list[str]:
    """Return the mailboxes in whose windows the calls count, "" for the window of all."""
    return [call[3] if len(call) > 3 else "" for call in read(home, WINDOW)["calls"]]


def test_the_window_is_that_of_the_mailbox_in_from(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=1, RATE_LIMIT_SCOPE="sender")
    message = mail(From="network@domain.com")
    assert deliver(message, "to@external.com", sender="alerts@domain.com").verdict == "sent"
    assert keys(home) == [message.mailbox for message in sandbox.accepted] == ["network@domain.com"]
    expect_full(deliver(message, "to@external.com", sender="alerts@domain.com"), "1/1", "network@domain.com")
    assert deliver(mail(), "to@external.com", sender="alerts@domain.com").verdict == "sent"


def test_a_notice_counts_in_the_window_of_the_default_address(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.configure(RATE_LIMIT_SCOPE="sender")
    sandbox.answer("sendMail", provided("graph/mime-invalid"))
    assert deliver(mail(From=None), "to@external.com", sender="network@domain.com").verdict == "bounced"
    assert keys(home) == ["network@domain.com", "alerts@domain.com"]


def test_the_senders_of_ses_share_one(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    use_ses(home)
    home.configure(RATE_LIMIT_PER_MINUTE=1, RATE_LIMIT_SCOPE="sender")
    assert deliver(mail(), "to@external.com", sender="alerts@domain.com").verdict == "sent"
    expect_full(deliver(mail(From=None), "to@external.com", sender="network@domain.com"), "1/1")


@pytest.mark.parametrize("scope", [None, "relay"])
def test_otherwise_all_senders_share_one(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, scope: str | None
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=1, RATE_LIMIT_SCOPE=scope)
    assert deliver(mail(), "to@external.com", sender="alerts@domain.com").verdict == "sent"
    expect_full(deliver(mail(From=None), "to@external.com", sender="network@domain.com"), "1/1")
    assert len(sandbox.accepted) == 1


def test_a_sender_that_waits_holds_up_no_other(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, start: Start
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=1, RATE_LIMIT_MAX_WAIT_SECONDS=300, RATE_LIMIT_SCOPE="sender")
    assert deliver(mail(Subject="first"), "to@external.com").verdict == "sent"
    waiting = start("waits")
    other = deliver(mail(From=None, Subject="other"), "to@external.com", sender="network@domain.com")
    assert other.verdict == "sent"
    assert not waiting.done()
    open_slots(home)
    assert waiting.result().verdict == "sent"
    assert list(sent_at(sandbox)) == ["first", "other", "waits"]


def test_one_message_of_a_mailbox_waits_and_the_others_leave_the_processes_to_others(
    sandbox: Sandbox, home: RelayHome, start: Start
) -> None:
    """Even if the window opens for another one just after."""
    occupy(home, FAR, FAR + 0.1, RATE_LIMIT_SCOPE="sender")
    first = start("first")
    expect_full(start("second").result(), "2/2", "alerts@domain.com")
    open_slots(home)
    assert first.result().verdict == "sent"
    assert [message.subject for message in sandbox.accepted] == ["first"]


def test_a_place_that_is_given_back_is_taken_at_once(sandbox: Sandbox, home: RelayHome, start: Start) -> None:
    [opened] = occupy(home, FAR)
    waiting = start("waits")
    open_slots(home)
    assert waiting.result().verdict == "sent"
    assert time.monotonic() < opened
