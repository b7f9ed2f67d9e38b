"""The admin is notified of everything: at once if there is room, otherwise in the next notice of its kind."""

from __future__ import annotations

import email.utils
import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import ModuleType

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.by_hand import in_days
from helpers.home import RelayHome
from helpers.interrupted import interrupted
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.postfix import add_settings, make_settings
from helpers.script import change_constants
from helpers.state import NOTICES, WINDOW, clock, fill_window, held_notices, hold_notices, read
from helpers.variants import use_ses
from sandbox import Accepted, Answer, Sandbox

STRANGER = "stranger@domain.com"
PROVIDER_LIMIT = 30
BUSY = provided("graph/server-busy")
SINCE = r"since \d\d:\d\d"
HEADER = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "X-Auto-Response-Suppress",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
]
NULL_SENDERS = ["", "<>", "MAILER-DAEMON", "double-bounce@relay.domain.com"]


def send(deliver: Deliver, sender: str = STRANGER) -> Delivery:
    return deliver(mail(From=None), "to@external.com", sender=sender)


def notices(sandbox: Sandbox) -> list[Accepted]:
    """Return the admin's mail."""
    return [message for message in sandbox.accepted if message.to == ["admin@domain.com"]]


def subjects(sandbox: Sandbox) -> list[str]:
    return [notice.subject for notice in notices(sandbox)]


def text(notice: Accepted) -> str:
    """Return the body of a notice."""
    return notice.raw.decode().partition("\r\n\r\n")[2]


def test_notices_use_the_headroom_and_no_more(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """27 calls, one mail, an override notice and a warning make 30: the fourth has to wait."""
    home.secrets(API_EXPIRATION_DATE=in_days(7))
    hold_notices(home, "failure", {"device@domain.com": 3}, age=300)
    fill_window(home, 27)
    assert send(deliver).verdict == "sent"
    assert [request.role for request in sandbox.requests].count("sendMail") == PROVIDER_LIMIT - 27
    assert ["Sender replaced" in subjects(sandbox)[0], "expire in 7 days" in subjects(sandbox)[1]] == [
        True,
        True,
    ]
    assert held_notices(home, "failure") == {"device@domain.com": 3}
    assert f"rate limit reached ({PROVIDER_LIMIT}/{PROVIDER_LIMIT} per minute)" in home.log()
    assert send(deliver).dsn == "4.4.5"


def test_ses_has_no_headroom(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    use_ses(home)
    fill_window(home, 27)
    assert send(deliver).verdict == "sent"
    assert notices(sandbox) == []
    assert held_notices(home, "override") == {STRANGER: 1}


def test_a_notice_without_room_is_in_the_next_of_its_kind(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=40)
    fill_window(home, 39)
    assert send(deliver, "other@domain.com").verdict == "sent"
    assert notices(sandbox) == []
    assert held_notices(home, "override") == {"other@domain.com": 1}
    fill_window(home, 0)
    assert send(deliver).verdict == "sent"
    assert re.search(rf"Sender replaced: {STRANGER} \(and 1 more {SINCE}\)$", subjects(sandbox)[0])
    assert re.search(rf"and 1 more {SINCE}:\r\n *1 x other@domain\.com\r\n", text(notices(sandbox)[0]))
    assert held_notices(home, "override") == {}
    assert send(deliver).verdict == "sent"
    assert "more since" not in subjects(sandbox)[1] + text(notices(sandbox)[1])


def test_many_held_notices_are_one(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    hold_notices(home, "override", {"a@x.org": 7, "b@x.org": 5}, age=300)
    hold_notices(home, "failure", {"c@x.org": 2}, age=0)
    since = read(home, NOTICES)["override"]["since"]
    assert send(deliver).verdict == "sent"
    assert len(notices(sandbox)) == 1
    start = time.strftime("%H:%M", time.gmtime(since))
    assert f"(and 12 more since {start})" in subjects(sandbox)[0]
    assert re.search(r"\n *7 x a@x\.org\r\n *5 x b@x\.org\r\n", text(notices(sandbox)[0]))
    assert (held_notices(home, "override"), held_notices(home, "failure")) == ({}, {"c@x.org": 2})


@pytest.mark.parametrize(
    "answer",
    [BUSY, Answer(action="reset-after-read"), provided("graph/invalid-recipients")],
    ids=["busy", "reset", "refused"],
)
def test_held_ones_survive_a_notice_that_is_refused(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    hold_notices(home, "override", {"a@x.org": 2}, age=0)
    sandbox.answer("sendMail", Answer(), answer)
    assert send(deliver).verdict == "sent"
    assert held_notices(home, "override") == {"a@x.org": 2, STRANGER: 1}
    assert "WARNING: override notice not sent" in home.log()
    assert read(home, WINDOW)["counters"]["notices"] == 0
    assert send(deliver).verdict == "sent"
    assert read(home, WINDOW)["counters"]["notices"] == 1
    assert "(and 3 more since" in subjects(sandbox)[0]


def test_a_notice_in_which_the_process_dies_is_held(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("sendMail", Answer(), Answer(action="hang"))
    assert interrupted(sandbox, home, mail(From=None), STRANGER, 2, signal.SIGALRM).verdict == "sent"
    assert held_notices(home, "override") == {STRANGER: 1}
    assert send(deliver).verdict == "sent"
    assert "(and 1 more since" in subjects(sandbox)[0]


def test_one_notice_for_each_override_by_default(sandbox: Sandbox, deliver: Deliver) -> None:
    for _ in range(3):
        assert send(deliver).verdict == "sent"
    assert len(notices(sandbox)) == 3


def test_notices_are_spaced_by_kind_and_sender(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(NOTIFY_INTERVAL_MINUTES=10)
    for sender in (STRANGER, STRANGER, STRANGER, "other@domain.com"):
        assert send(deliver, sender).verdict == "sent"
    assert len(notices(sandbox)) == 2
    assert STRANGER in subjects(sandbox)[0]
    assert "other@domain.com (and 2 more since" in subjects(sandbox)[1]
    assert f"2 x {STRANGER}\r\n" in text(notices(sandbox)[1])
    # Another kind about the same sender is not held back.
    sandbox.answer("sendMail", provided("graph/invalid-recipients"))
    assert send(deliver).verdict == "bounced"
    assert "Permanent failure" in subjects(sandbox)[2]


def test_the_interval_ends(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(NOTIFY_INTERVAL_MINUTES=60)
    # A slow machine must not see the interval end early.
    for age, told in ((3540, 0), (3600, 1)):
        state = {"override": {"last": {STRANGER: time.time() - age}, "held": {}, "since": 0}}
        home.put(NOTICES, repr(state).replace("'", '"').encode())
        assert send(deliver).verdict == "sent"
        assert len(notices(sandbox)) == told


@pytest.mark.parametrize(
    ("minutes", "age", "told"), [(0, 540, False), (0, 600, True), (60, 3540, False), (60, 3600, True)]
)
def test_what_was_held_for_too_long_is_told_by_any_mail(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, minutes: int, age: int, told: bool
) -> None:
    """After the interval, and after a window at least."""
    # A slow machine must not see the window end early.
    change_constants(home, WINDOW_SECONDS=600)
    home.configure(NOTIFY_INTERVAL_MINUTES=minutes)
    hold_notices(home, "override", {STRANGER: 12}, age)
    assert send(deliver, "alerts@domain.com").verdict == "sent"
    assert len(notices(sandbox)) == told
    assert held_notices(home, "override") == ({} if told else {STRANGER: 12})
    if told:
        assert "12 override notices were held" in subjects(sandbox)[0]
        assert f"12 x {STRANGER}\r\n" in text(notices(sandbox)[0])


def test_a_summary_that_is_refused_counts_as_nothing(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    for _ in range(2):
        hold_notices(home, "override", {STRANGER: 12}, age=300)
        sandbox.answer("sendMail", Answer(), BUSY)
        assert send(deliver, "alerts@domain.com").verdict == "sent"
        assert held_notices(home, "override") == {STRANGER: 12}


def test_a_warning_without_room_is_not_lost(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.secrets(API_EXPIRATION_DATE=in_days(0))
    home.configure(RATE_LIMIT_PER_MINUTE=40)
    fill_window(home, 39)
    assert send(deliver, "alerts@domain.com").verdict == "sent"
    assert notices(sandbox) == []
    fill_window(home, 0)
    assert send(deliver, "alerts@domain.com").verdict == "sent"
    assert ["expire today" in subject for subject in subjects(sandbox)] == [True]
    assert send(deliver, "alerts@domain.com").verdict == "sent"
    assert len(notices(sandbox)) == 1


@pytest.mark.parametrize("sender", NULL_SENDERS)
def test_bounces_cause_no_notice(sandbox: Sandbox, home: RelayHome, deliver: Deliver, sender: str) -> None:
    assert send(deliver, sender).verdict == "sent"
    sandbox.answer("sendMail", provided("graph/invalid-recipients"))
    assert send(deliver, sender).verdict == "bounced"
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer("sendMail", provided("graph/access-denied"))
    assert send(deliver, sender).verdict == "deferred"
    assert notices(sandbox) == []
    assert [request.role for request in sandbox.requests].count("sendMail") == 3
    assert read(home, NOTICES) == {}


def test_a_notice_that_bounces_causes_no_other(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("sendMail", provided("graph/invalid-recipients")._replace(times=None))
    assert send(deliver).verdict == "bounced"
    assert [request.role for request in sandbox.requests].count("sendMail") == 2
    assert home.log().count("NOTICE:") == 0


def test_ses_notices_are_told_of_too(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    use_ses(home)
    sandbox.answer("ses", provided("ses/rejected"))
    assert send(deliver).verdict == "bounced"
    assert ["Permanent failure" in subject for subject in subjects(sandbox)] == [True]


def test_the_header_of_a_notice(sandbox: Sandbox, deliver: Deliver) -> None:
    before = clock()
    odd = "stränger\r\nX-Injected: 1\u2028@domain.com" + "\U0001f600" * 300
    assert deliver(mail(Subject="Störung", From=None), "to@external.com", sender=odd).verdict == "sent"
    (notice,) = notices(sandbox)
    header = notice.raw.partition(b"\r\n\r\n")[0]
    assert header.isascii()
    assert all(len(line) <= 998 for line in header.split(b"\r\n"))
    message = notice.message
    assert [name for name, _ in message.items()] == HEADER
    assert (message["From"], message["To"]) == ("alerts@domain.com", "admin@domain.com")
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Auto-Response-Suppress"] == "All"
    assert re.fullmatch(r"<[^<>@\s]+@domain\.com>", message["Message-ID"])
    date = email.utils.parsedate_to_datetime(message["Date"]).timestamp()
    assert abs(time.time() - date) < clock() - before + 2
    assert "St\u00f6rung" in text(notice)
    assert notice.bcc == notice.cc == []


def test_a_held_notice_is_told_once_by_several_processes(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    hold_notices(home, "override", {"a@x.org": 7}, age=300)
    hold_notices(home, "failure", {"b@x.org": 5}, age=300)
    gate = Event()
    # The first one to notify the admin is held up; the others arrive meanwhile.
    sandbox.answer("sendMail", Answer(), Answer(gate=gate))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(send, deliver, "alerts@domain.com")
        sandbox.wait_for(2)
        others = [pool.submit(send, deliver, sender) for sender in ("alerts@domain.com", STRANGER)]
        assert [other.result().verdict for other in others] == ["sent"] * 2
        gate.set()
        assert first.result().verdict == "sent"
    bodies = "".join(map(text, notices(sandbox)))
    assert (bodies.count("7 x a@x.org"), bodies.count("5 x b@x.org")) == (1, 1)
    assert (held_notices(home, "override"), held_notices(home, "failure")) == ({}, {})


def test_who_died_while_it_told_the_admin_keeps_nothing_back(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    hold_notices(home, "override", {"a@x.org": 7}, age=300)
    sandbox.answer("sendMail", Answer(), Answer(action="hang"))
    delivery = interrupted(sandbox, home, mail(), "alerts@domain.com", 2, signal.SIGKILL)
    assert delivery.status == -signal.SIGKILL
    assert send(deliver, "alerts@domain.com").verdict == "sent"
    assert [re.findall(r"7 x a@x\.org", text(notice)) for notice in notices(sandbox)] == [["7 x a@x.org"]]


@pytest.mark.parametrize("letter", ["x", "\u00e4", "\U0001f600", "\n"])
def test_the_state_of_notices_stays_small_enough_to_be_read(
    relay: ModuleType, home: RelayHome, letter: str
) -> None:
    """For any senders: state that is too large to be read back counts as missing."""
    names = [relay.memorable(f"{number}{letter * 5000}@x.org") for number in range(300)]
    state = {}
    for kind in ("override", "failure", "credentials", "expiry"):
        kept = relay.Kept({}, time.time())
        for name in names:
            kept.hold(name, time.time())
            kept.last[name] = time.time()
        state[kind] = kept.state()
    assert len(json.dumps(state)) < relay.STATE_SIZE_LIMIT
    assert len(relay.Kept(state["override"], time.time()).held) >= relay.REMEMBERED_SENDERS


def test_with_soft_bounce_a_notice_does_not_say_that_mail_is_returned(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """The relay asks the Postfix that has started it."""
    for soft, said in (("yes", "Postfix keeps it"), ("no", "Postfix returns it")):
        config = home.queue / soft
        config.mkdir()
        make_settings(config)
        add_settings(config, [f"soft_bounce = {soft}"])
        sandbox.accepted.clear()
        delivery = deliver(mail(To=None), "to@external.com", prefix=("env", f"MAIL_CONFIG={config}"))
        assert delivery.verdict == "bounced"
        (notice,) = notices(sandbox)
        assert said in text(notice)
        assert ("returns" in text(notice)) == (soft == "no")


def test_what_is_on_its_way_is_not_held(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """Several processes send at the same time, each its own notice."""
    hold_notices(home, "override", {"a@x.org": 5}, age=300)
    senders = [f"e{number}@x.org" for number in range(5)]
    sandbox.answer("sendMail", Answer(delay=0.3, times=None))
    with ThreadPoolExecutor() as pool:
        deliveries = list(pool.map(lambda sender: send(deliver, sender), senders))
    assert {delivery.verdict for delivery in deliveries} == {"sent"}
    told = "".join(map(text, notices(sandbox)))
    assert told.count("5 x a@x.org") == 1
    assert not re.search(r"\d x e", told)
    assert held_notices(home, "override") == {}
