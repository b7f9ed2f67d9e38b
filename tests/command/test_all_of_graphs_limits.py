"""Graph's limits other than messages a minute: concurrent requests, octets in five minutes, recipients a
day."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from types import ModuleType

import pytest
from conftest import Deliver
from helpers.answers import Role
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.script import change_constants
from helpers.state import WINDOW, clock, read
from helpers.variants import use_ses
from helpers.waiting import SOON, Start, background, processes, wait_until
from sandbox import Answer, Sandbox

SENDER, OTHER = "alerts@domain.com", "network@domain.com"
AT_A_TIME = 4
UPLOADS = 150_000_000
TOO_MANY = b"4.4.5 request limit reached (4 at a time), deferring"


@pytest.fixture
def strict(sandbox: Sandbox) -> Sandbox:
    """The sandbox, which refuses the fifth concurrent request of any kind."""
    sandbox.concurrency_exempt.clear()
    sandbox.upload_limit = UPLOADS
    return sandbox


@pytest.fixture
def start(home: RelayHome) -> Iterator[Start]:
    """A function that starts a delivery in the background."""
    with background(home) as function:
        yield function


@pytest.fixture
def gate(start: Start) -> Iterator[Event]:
    """The gate that requests wait for; it is opened at the end in any case."""
    event = Event()
    yield event
    event.set()


def roles(sandbox: Sandbox) -> list[str]:
    return [seen.role for seen in sandbox.requests if seen.role != "token"]


def hold(
    sandbox: Sandbox, start: Start, gate: Event, role: Role = "sendMail", number: int = AT_A_TIME
) -> list[Future[Delivery]]:
    """Start this number of messages, which are under way until the gate is opened."""
    sandbox.answer(role, *[Answer(gate=gate)] * number)
    held = [start(f"held {place}") for place in range(number)]
    wait_until(lambda: roles(sandbox).count(role) == number)
    return held


def uploaded(home: RelayHome, octets: int, ago: float = 10.0, **more: object) -> None:
    """Pretend that this number of octets was sent this number of seconds ago."""
    home.put(WINDOW, json.dumps({"calls": [], "uploads": [[clock() - ago, octets, ""]], **more}).encode())


def noted(home: RelayHome) -> int:
    return sum(octets for _, octets, _ in read(home, WINDOW).get("uploads", []))


def large(size: int) -> bytes:
    """Return a message of this number of octets in base64, or a few more."""
    return mail(b"x" * 71 + b"\n" + (b"y" * 71 + b"\n") * (size * 3 // 4 // 73))


# Requests at a time.


@pytest.mark.parametrize("scope", ["relay", "sender"])
def test_never_more_than_four_at_a_time(
    strict: Sandbox, home: RelayHome, deliver: Deliver, scope: str
) -> None:
    change_constants(home, BUSY_SECONDS=200)
    home.configure(RATE_LIMIT_SCOPE=scope)
    strict.answer("sendMail", Answer(delay=1, times=8))
    with ThreadPoolExecutor(8) as threads:
        deliveries = list(threads.map(lambda _: deliver(mail(), "to@external.com"), range(8)))
    assert [delivery.verdict for delivery in deliveries] == ["sent"] * 8
    assert [seen.status for seen in strict.requests if seen.role == "sendMail"] == [202] * 8
    assert strict.traffic.most_at_once == {SENDER: AT_A_TIME}
    assert "waiting" not in read(home, WINDOW)


def test_a_request_that_ends_soon_is_waited_for_without_leave_to_wait(
    strict: Sandbox, home: RelayHome, start: Start, gate: Event
) -> None:
    change_constants(home, BUSY_SECONDS=200)
    held = hold(strict, start, gate)
    fifth = start("fifth")
    assert f"WAITING: {TOO_MANY.decode()[6:-11]}, one ends soon" in home.log()
    assert roles(strict).count("sendMail") == AT_A_TIME
    gate.set()
    assert fifth.result().verdict == "sent"
    assert [delivery.result().verdict for delivery in held] == ["sent"] * AT_A_TIME
    assert strict.traffic.most_at_once == {SENDER: AT_A_TIME}


def test_it_is_not_waited_for_long(
    strict: Sandbox, home: RelayHome, relay: ModuleType, start: Start, gate: Event
) -> None:
    held = hold(strict, start, gate)
    began = time.monotonic()
    fifth = start("fifth").result()
    assert relay.BUSY_SECONDS - 0.5 <= time.monotonic() - began < relay.BUSY_SECONDS + SOON
    assert fifth == ("deferred", "4.4.5", 75, TOO_MANY)
    gate.set()
    assert [delivery.result().verdict for delivery in held] == ["sent"] * AT_A_TIME
    assert read(home, WINDOW)["counters"]["deferred"] == 1


def test_who_may_wait_waits_for_it(
    strict: Sandbox, home: RelayHome, relay: ModuleType, start: Start, gate: Event
) -> None:
    home.configure(RATE_LIMIT_MAX_WAIT_SECONDS=200)
    hold(strict, start, gate)
    fifth = start("fifth")
    time.sleep(relay.BUSY_SECONDS + 2)
    assert not fifth.done()
    gate.set()
    assert fifth.result().verdict == "sent"


def test_a_process_that_dies_gives_its_request_to_the_next(
    strict: Sandbox, home: RelayHome, start: Start, gate: Event
) -> None:
    change_constants(home, BUSY_SECONDS=200)
    held = hold(strict, start, gate)
    strict.concurrency_limit = None  # the stand-in does not see that the other end is gone
    fifth = start("fifth")
    [pid] = processes(home, "held 0")
    os.kill(pid, signal.SIGKILL)
    assert fifth.result().verdict == "sent"
    assert not any(delivery.done() for delivery in held[1:])
    gate.set()


def test_each_mailbox_has_four(
    strict: Sandbox, home: RelayHome, deliver: Deliver, start: Start, gate: Event
) -> None:
    home.configure(RATE_LIMIT_SCOPE="sender")
    hold(strict, start, gate)
    assert deliver(mail(From=OTHER), "to@external.com", sender=OTHER).verdict == "sent"
    assert start("fifth").result().text.endswith(f"(4 at a time for {SENDER}), deferring")
    gate.set()


def test_ses_takes_any_number_at_a_time(sandbox: Sandbox, home: RelayHome, start: Start, gate: Event) -> None:
    use_ses(home)
    held = hold(sandbox, start, gate, "ses", 6)
    gate.set()
    assert [delivery.result().verdict for delivery in held] == ["sent"] * 6


# Octets in five minutes.


def test_what_leaves_is_noted_to_the_octet(strict: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    assert deliver(mail(), "to@external.com").verdict == "sent"
    first = noted(home)
    assert deliver(large(1_000_000), "to@external.com").verdict == "sent"
    bodies = [len(seen.body) for seen in strict.requests if seen.role == "sendMail"]
    assert noted(home) - first == bodies[1] > 1_000_000
    # The first had to get a token, too.
    assert bodies[0] <= first <= bodies[0] + 1000


def test_what_never_left_is_not_noted(strict: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    assert deliver(mail(), "to@external.com").verdict == "sent"
    before = noted(home)
    strict.stop()
    assert deliver(large(1_000_000), "to@external.com").dsn == "4.4.1"
    strict.start()
    assert noted(home) == before


def test_a_message_that_may_pass_the_octets_is_deferred(
    strict: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    uploaded(home, 149_000_000)
    delivery = deliver(large(3_000_000), "to@external.com")
    text = b"4.4.5 upload limit reached (149 of 150 MB in 5 minutes), deferring"
    assert delivery == ("deferred", "4.4.5", 75, text)
    assert strict.requests == []
    uploaded(home, 140_000_000)
    assert deliver(large(3_000_000), "to@external.com").verdict == "sent"
    # Five minutes after the end of the bucket in which they were sent.
    uploaded(home, 149_000_000, ago=331)
    assert deliver(large(3_000_000), "to@external.com").verdict == "sent"
    assert 3_000_000 < noted(home) < 4_000_000


def test_it_waits_for_them_where_it_may(strict: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_MAX_WAIT_SECONDS=200)
    uploaded(home, 149_000_000, ago=327)
    opens = time.monotonic() + 3
    assert deliver(large(3_000_000), "to@external.com").verdict == "sent"
    assert strict.accepted[0].when >= opens - 0.1
    assert "WAITING: upload limit reached (149 of 150 MB in 5 minutes), a slot opens at " in home.log()


def test_octets_of_another_mailbox_are_its_own(strict: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_SCOPE="sender")
    state = {"calls": [], "uploads": [[clock() - 10, 149_000_000, OTHER]]}
    home.put(WINDOW, json.dumps(state).encode())
    assert deliver(mail(), "to@external.com").verdict == "sent"
    full = deliver(mail(From=OTHER), "to@external.com", sender=OTHER)
    assert full.text.endswith(f"(149 of 150 MB in 5 minutes for {OTHER}), deferring")


def test_eight_at_a_time_pass_neither_limit(strict: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """They are as large as allowed, and near the limit: messages under way count as well."""
    change_constants(home, BUSY_SECONDS=200)
    strict.upload_limit = 10_000_000
    uploaded(home, UPLOADS - strict.upload_limit)
    with ThreadPoolExecutor(8) as threads:
        deliveries = list(threads.map(lambda _: deliver(large(3_900_000), "to@external.com"), range(8)))
    assert {seen.status for seen in strict.requests if seen.role == "sendMail"} == {202}
    verdicts = [delivery.verdict for delivery in deliveries]
    assert (verdicts.count("sent"), verdicts.count("deferred")) == (
        len(strict.accepted),
        8 - len(strict.accepted),
    )
    assert 1 <= len(strict.accepted) <= 2
    assert all(b"upload limit" in delivery.output for delivery in deliveries if delivery.verdict != "sent")


def test_ses_has_no_such_limit(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    use_ses(home)
    uploaded(home, 149_000_000)
    assert deliver(large(3_000_000), "to@external.com").verdict == "sent"


# Recipients of a day.


def recipients(home: RelayHome) -> dict[str, int]:
    found: dict[str, int] = {}
    for hour, number, key in read(home, WINDOW).get("recipients", []):
        assert time.time() // 3600 - 1 <= hour <= time.time() // 3600
        found[key] = found.get(key, 0) + number
    return found


def test_the_recipients_of_what_is_accepted_are_counted(
    strict: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    assert deliver(mail(Cc="cc@x.org"), "to@external.com", "cc@x.org", "bcc@x.org").verdict == "sent"
    assert deliver(mail(From="NETWORK@domain.com"), "to@external.com", sender=OTHER).verdict == "sent"
    strict.answer("sendMail", Answer(503))
    assert deliver(mail(), "to@external.com").verdict == "deferred"
    assert recipients(home) == {SENDER: 3, OTHER: 1}
    # The notice goes out as the default address.
    assert deliver(mail(From=None), "to@external.com", sender="stranger@else.com").verdict == "sent"
    assert len(strict.accepted) == 4
    assert recipients(home) == {SENDER: 5, OTHER: 1}


def test_those_of_ses_are_the_accounts(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    sandbox.daily_quota = 200.0
    for sender in (SENDER, OTHER):
        assert deliver(mail(From=sender), "to@external.com", "bcc@x.org", sender=sender).verdict == "sent"
    assert recipients(home) == {"": 4}
    assert read(home, WINDOW)["quota"]["day"] == 200


def test_a_boot_does_not_end_the_day(strict: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    hour = int(time.time() // 3600)
    state = {"boot": "another", "uploads": [[5.0, UPLOADS, ""]], "recipients": [[hour, 9_000, SENDER]]}
    home.put(WINDOW, json.dumps(state).encode())
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert recipients(home) == {SENDER: 9_001}
    assert noted(home) < UPLOADS


def test_a_day_is_over_after_24_hours_and_none_is_from_the_future(
    strict: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    hour = int(time.time() // 3600)
    hours = [[hour - 26, 5, SENDER], [hour - 25, 7, SENDER], [hour + 2, 11, SENDER]]
    home.put(WINDOW, json.dumps({"calls": [], "recipients": hours}).encode())
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert recipients(home) == {SENDER: 1}


@pytest.mark.parametrize(
    "entry", [None, 5, [], [1], ["x", 5, ""], [1, None, ""], [1, 5, None], [1, -5, ""], {}]
)
@pytest.mark.parametrize("name", ["uploads", "recipients"])
def test_what_is_malformed_counts_as_nothing(
    strict: Sandbox, home: RelayHome, deliver: Deliver, name: str, entry: object
) -> None:
    home.put(WINDOW, json.dumps({"calls": [], name: [entry]}).encode())
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert recipients(home) == {SENDER: 1}
    assert 0 < noted(home) < 10_000


def test_the_state_stays_small(strict: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    hour = int(time.time() // 3600)
    many = [[hour - age, 1, f"mailbox-{number}@domain.com"] for age in range(24) for number in range(100)]
    home.put(WINDOW, json.dumps({"calls": [], "recipients": many}).encode())
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(read(home, WINDOW)["recipients"]) == 1000
    assert recipients_of(home, SENDER) == 1


def recipients_of(home: RelayHome, key: str) -> int:
    return sum(number for _, number, of in read(home, WINDOW)["recipients"] if of == key)
