"""If a provider asks for a pause, all deliveries pause, but never for longer than ten minutes."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime, formatdate
from threading import Event
from types import ModuleType

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.state import WINDOW as STATE
from helpers.state import clock, read
from helpers.variants import use_ses
from helpers.waiting import wait_until
from sandbox import Answer, Sandbox, Where, graph_error

SENDERS = ["alerts@domain.com", "network@domain.com", "third@d.com"]
# If a provider says "too many" without a time.
THROTTLED = 10.0
LONGEST = 600.0
GARBAGE = ["", "-5", "soon", "1e3", "5.5", "٣", "Fri, 99 Foo 2099 99:99:99 GMT", ",", "0x10", "\x00", "1, 2"]


def send(deliver: Deliver, **options: str) -> Delivery:
    return deliver(mail(), "to@external.com", **options)


def send_from(deliver: Deliver, sender: str) -> Delivery:
    """Deliver as a trusted device, with its own address in From."""
    return deliver(mail(From=None), "to@external.com", sender=sender, client="10.1.1.1")


def paused_until(home: RelayHome) -> float:
    """Return the time by clock() until which no mailbox may make a call; 0 without a pause."""
    state = read(home, STATE)
    return max(float(state.get("paused", {}).get(SENDERS[0], 0)), float(state.get("paused_until", 0)))


def end_pause(home: RelayHome, seconds: float = -1.0) -> None:
    """End the pause in this number of seconds, without the wait."""
    home.put(STATE, json.dumps({**read(home, STATE), "paused_until": clock() + seconds}).encode())


def expect_pause(home: RelayHome, seconds: float, since: float) -> None:
    """Assert a pause of this many seconds that began after a time of clock(). Dates have no fractions of a
    second."""
    assert since + seconds - 1 <= paused_until(home) <= clock() + seconds


def expect_paused(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """Assert that the next delivery defers without a request, and says until when."""
    before, began = len(sandbox.requests), clock()
    end = datetime.now(timezone.utc) + timedelta(seconds=paused_until(home) - began)
    delivery = send(deliver)
    assert (delivery.verdict, delivery.status, delivery.dsn) == ("deferred", 75, "4.4.5")
    assert len(sandbox.requests) == before
    said = re.search(r"the provider asked for a pause, deferring until (\d\d:\d\d:\d\d)", delivery.text)
    assert said, delivery.text
    # The relay reads the two clocks in turn, and may be held up in between.
    late = range(-1, int(clock() - began) + 2)
    # TZ is empty in pipe(8)'s environment, so this is UTC.
    assert said[1] in [(end + timedelta(seconds=seconds)).strftime("%H:%M:%S") for seconds in late]


def http_date(seconds: float) -> str:
    """Return an HTTP date this number of seconds from now."""
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 70 ", 70.0),
        ("in 90 s", 90.0),
        ("86400", LONGEST),
        ("9" * 5000, LONGEST),
        (format_datetime(datetime(9999, 12, 31, tzinfo=timezone.utc), usegmt=True), LONGEST),
    ],
    ids=["seconds", "blanks", "date", "a day", "5000 digits", "the year 9999"],
)
def test_retry_after_is_kept(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int, value: str, seconds: float
) -> None:
    value = http_date(90) if value == "in 90 s" else value
    answer = provided("graph/throttled", retry_after=value)
    sandbox.answer("sendMail", answer._replace(status=status))
    began = clock()
    assert send(deliver).verdict == "deferred"
    expect_pause(home, seconds, began)
    expect_paused(sandbox, home, deliver)


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_that_says_nothing(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int
) -> None:
    """429 still means a short pause, and 503 none: neither garbage nor the past is a wish."""
    values = ["-5", "soon", "Fri, 99 Foo 2099 99:99:99 GMT", http_date(-3600), "0"]
    for value in values if status == 429 else values[:2]:
        sandbox.answer("sendMail", graph_error(status, "Busy", "Slow down.", {"Retry-After": value}))
        began = clock()
        assert send(deliver).dsn == ("4.4.5" if status == 429 else "4.3.2"), value
        if status == 429:
            expect_pause(home, THROTTLED, began)
            end_pause(home)
        else:
            assert not paused_until(home), value


@pytest.mark.parametrize("value", GARBAGE)
def test_no_retry_after_is_too_odd_to_be_read(relay: ModuleType, value: str) -> None:
    assert relay.retry_after(value) == 0


@pytest.mark.parametrize("status", [429, 503])
def test_the_token_endpoint_can_ask_as_well(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int
) -> None:
    sandbox.answer("token", Answer(status, {"Retry-After": "120"}, b"busy"))
    began = clock()
    assert send(deliver).verdict == "deferred"
    expect_pause(home, 120, began)
    expect_paused(sandbox, home, deliver)


def test_only_the_mailbox_that_sent_too_much_is_held_up(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """If each has its own window. A pause for a second one does not end the first one's."""
    devices = {"TRUSTED_DEVICE_IPS": ["10.1.1.1"], "TRUSTED_DEVICE_DOMAINS": ["d.com"]}
    home.configure(RATE_LIMIT_SCOPE="sender", **devices)
    throttled = provided("graph/application-throttled", retry_after="120")
    for sender in SENDERS[:2]:
        sandbox.answer("sendMail", throttled)
        assert send_from(deliver, sender).text.startswith("4.4.5 Graph sendMail failed: HTTP 429")
    before = len(sandbox.requests)
    for sender in SENDERS[:2]:
        assert send_from(deliver, sender).text.startswith("4.4.5 the provider asked for a pause")
    assert len(sandbox.requests) == before
    assert send_from(deliver, SENDERS[2]).verdict == "sent"


def test_a_mailbox_that_is_closed_is_closed_alone(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """sendMail speaks for one mailbox; the next one may be on another server."""
    devices = {"TRUSTED_DEVICE_IPS": ["10.1.1.1"], "TRUSTED_DEVICE_DOMAINS": ["d.com"]}
    home.configure(RATE_LIMIT_SCOPE="sender", **devices)
    sandbox.answer("sendMail", provided("graph/mailbox-store-unavailable", retry_after="120"))
    began = clock()
    assert send_from(deliver, SENDERS[0]).dsn == "4.3.2"
    expect_pause(home, 120, began)
    assert send_from(deliver, SENDERS[0]).text.startswith("4.4.5 the provider asked for a pause")
    assert send_from(deliver, SENDERS[1]).verdict == "sent"


@pytest.mark.parametrize("scope", ["relay", "sender"])
def test_an_acceptance_can_ask_for_a_pause(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, scope: str
) -> None:
    home.configure(RATE_LIMIT_SCOPE=scope)
    sandbox.answer("sendMail", Answer(headers={"Retry-After": "120"}))
    began = clock()
    assert send(deliver).verdict == "sent"
    expect_pause(home, 120, began)
    expect_paused(sandbox, home, deliver)
    other = send_from(deliver, SENDERS[1])
    assert other.verdict == ("sent" if scope == "sender" else "deferred")


@pytest.mark.parametrize(("where", "status", "code"), [("token", 503, "4.3.2"), ("token", 429, "4.4.5")])
def test_a_provider_that_is_closed_is_closed_to_every_mailbox(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, where: Where, status: int, code: str
) -> None:
    home.configure(RATE_LIMIT_SCOPE="sender")
    sandbox.answer(where, graph_error(status, "Busy", "Later.", {"Retry-After": "120"}))
    began = clock()
    assert send_from(deliver, SENDERS[0]).dsn == code
    expect_pause(home, 120, began)
    assert send_from(deliver, SENDERS[1]).text.startswith("4.4.5 the provider asked for a pause")


@pytest.mark.parametrize("until", [-1.0, LONGEST + 60, None, "soon", 10**400], ids=lambda text: str(text)[:9])
def test_a_pause_of_a_mailbox_that_cannot_be_is_ignored(
    home: RelayHome, deliver: Deliver, until: float | str | None
) -> None:
    home.configure(RATE_LIMIT_SCOPE="sender")
    when = clock() + until if isinstance(until, float) else until
    home.put(STATE, json.dumps({"paused": {SENDERS[0]: when}}).encode())
    assert send_from(deliver, SENDERS[0]).verdict == "sent"


def test_mail_flows_once_the_pause_is_over(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("sendMail", provided("graph/throttled", retry_after="120"))
    assert send(deliver).verdict == "deferred"
    assert send(deliver).dsn == "4.4.5"
    end_pause(home, 2.0)
    until = paused_until(home)
    wait_until(lambda: send(deliver).verdict == "sent", 60)
    assert clock() >= until
    assert [request.status for request in sandbox.requests] == [200, 429, 202]


@pytest.mark.parametrize("scope", ["relay", "sender"])
def test_a_shorter_pause_does_not_end_a_longer_one(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, scope: str
) -> None:
    """Two calls at the same time ask for different pauses; the shorter one arrives when the longer is
    known."""
    home.configure(RATE_LIMIT_SCOPE=scope)
    gates = {"120": Event(), "5": Event()}
    for seconds, gate in gates.items():
        answer = provided("graph/throttled", retry_after=seconds)
        sandbox.answer("sendMail", answer._replace(gate=gate))
    began = clock()
    with ThreadPoolExecutor() as pool:
        deliveries = [pool.submit(send, deliver) for _ in gates]
        wait_until(lambda: [request.role for request in sandbox.requests].count("sendMail") == len(gates))
        gates["120"].set()
        wait_until(lambda: paused_until(home))
        gates["5"].set()
        assert [delivery.result().dsn for delivery in deliveries] == ["4.4.5"] * 2
    assert [request.status for request in sandbox.requests if request.role == "sendMail"] == [429, 429]
    expect_pause(home, 120, began)
    expect_paused(sandbox, home, deliver)


def test_a_notice_can_be_told_to_wait_as_well(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("sendMail", Answer(), provided("graph/throttled", retry_after="120"))
    began = clock()
    assert deliver(mail(From=None), "to@external.com", sender="stranger@domain.com").verdict == "sent"
    expect_pause(home, 120, began)
    expect_paused(sandbox, home, deliver)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (provided("ses/too-many-requests"), THROTTLED),
        (provided("ses/throttling"), THROTTLED),
        (provided("ses/daily-quota"), LONGEST),
        (provided("ses/limit-exceeded"), THROTTLED),
        (provided("ses/too-many-requests")._replace(headers={"Retry-After": "90"}), 90.0),
        (Answer(503, {"Retry-After": "90"}, b"busy"), 90.0),
    ],
    ids=["rate", "old code", "day", "limit", "Retry-After", "503"],
)
def test_ses_throttling_is_a_pause(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer, seconds: float
) -> None:
    use_ses(home)
    sandbox.answer("ses", answer)
    began = clock()
    assert send(deliver).verdict == "deferred"
    expect_pause(home, seconds, began)
    if seconds == THROTTLED:
        # A slow machine must not see the pause end.
        end_pause(home, 10 * seconds)
    expect_paused(sandbox, home, deliver)


def test_a_pause_holds_before_the_quota_is_asked_for(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    home.put(STATE, json.dumps({"paused_until": clock() + 120}).encode())
    expect_paused(sandbox, home, deliver)


@pytest.mark.parametrize(
    "until",
    ["1e999", "NaN", "1" + "0" * 400, "-1" + "0" * 400, '"soon"', "true", "[1]", "beyond"],
    ids=lambda text: str(text)[:8],
)
def test_a_pause_that_cannot_be_is_ignored(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, until: str
) -> None:
    home.put(STATE, b'{"paused_until": %s}' % (until.replace("beyond", str(clock() + LONGEST + 60)).encode()))
    assert send(deliver).verdict == "sent"
    assert len([request for request in sandbox.requests if request.role == "sendMail"]) == 1
