"""A message to more recipients than one call takes goes in several calls, and reaches each of them once."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.by_hand import by_hand, make_sound
from helpers.crowds import MOST, ROLES, calls, crowd, file_for, kept_files, mailed, sizes, taken
from helpers.home import RelayHome
from helpers.large_mail import scan
from helpers.mail import mail
from helpers.script import change_constants
from helpers.state import WINDOW, put_calls, read
from helpers.state_faults import (
    CONTENTS,
    Fault,
    dangling_link,
    full_directory,
    holding,
    link_to_itself,
    plant,
)
from helpers.variants import use_ses
from helpers.waiting import expect_full, processes, wait_until
from sandbox import Accepted, Answer, Recorded, Sandbox

PROVIDERS = pytest.mark.parametrize("provider", ["graph", "ses"])
# Three calls of SES's.
EVERYONE = crowd(120)
MESSAGE = mail(To=EVERYONE[0], Cc=EVERYONE[1])
SIZES = [50, 50, 20]
DAY = 86400


@pytest.fixture
def provider(sandbox: Sandbox, home: RelayHome, request: pytest.FixtureRequest) -> str:
    """The provider's name; the home is set up for it, without a limit."""
    if request.param == "ses":
        use_ses(home)
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    return str(request.param)


BOTH = pytest.mark.parametrize("provider", ["graph", "ses"], indirect=True)
SES = pytest.mark.parametrize("provider", ["ses"], indirect=True)
GRAPH = pytest.mark.parametrize("provider", ["graph"], indirect=True)


def three_calls(provider: str) -> list[str]:
    return crowd(2 * MOST[provider] + 1)


def at_acceptance(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, number: int, action: Callable[[], object]
) -> None:
    """Do something when the provider accepts the message with this number."""

    def on_accepted(_message: Accepted) -> None:
        if len(sandbox.accepted) == number:
            action()

    monkeypatch.setattr(sandbox, "on_accepted", on_accepted)


@BOTH
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_as_few_calls_as_the_provider_allows(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, more: int
) -> None:
    most = MOST[provider]
    everyone = crowd(2 * most + more)
    message = mail(To=everyone[5])
    assert deliver(message, *everyone) == ("sent", "2.0.0", 0, b"")
    assert mailed(sandbox) == dict.fromkeys(everyone, 1)
    assert sizes(sandbox) == ([most, most, more] if more > 0 else [most, most + more])
    # There is no notice.
    assert len(sandbox.accepted) == len(calls(sandbox))
    state = read(home, WINDOW)
    assert (len(state["calls"]), state["counters"]["delivered"]) == (len(calls(sandbox)), 1)
    log = home.log()
    last = sandbox.accepted[-1].id
    assert f"ACCEPTED: {most} recipients, {most + more} are left, id={sandbox.accepted[0].id!r}" in log
    assert log.count("ACCEPTED: ") == len(calls(sandbox)) - 1
    delivered = log.partition("DELIVERED: ")[2]
    assert delivered.count("@x.test") == len(everyone) and f"id={last!r}" in delivered
    assert log.count("DELIVERED: ") == 1
    assert kept_files(home) == []


@BOTH
def test_one_call_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    """Even if its message has many recipients."""
    found: list[Path] = []
    at_acceptance(monkeypatch, sandbox, 1, lambda: found.extend(kept_files(home)))
    everyone = crowd(MOST[provider])
    assert deliver(mail(To=everyone[0]), *everyone).verdict == "sent"
    assert sizes(sandbox) == [len(everyone)]
    assert (found, kept_files(home)) == ([], [])
    sandbox.answer(ROLES[provider], Answer(503))
    assert deliver(mail(To=everyone[0]), *everyone).verdict == "deferred"
    assert kept_files(home) == []


@GRAPH
@pytest.mark.parametrize("saved", [True, False])
def test_graph_names_in_the_first_call_alone(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, saved: bool
) -> None:
    """As MIME, and as JSON."""
    home.configure(RATE_LIMIT_PER_MINUTE=0, SAVE_TO_SENT_ITEMS=saved)
    everyone = crowd(1001)
    to, cc = everyone[-2:], everyone[500:502]
    assert deliver(mail(To=", ".join(to), Cc=", ".join(cc)), *everyone).verdict == "sent"
    first, *rest = sandbox.accepted
    assert (sorted(first.to), sorted(first.cc), len(first.bcc)) == (sorted(to), cc, 496)
    assert [(one.to, one.cc, len(one.bcc)) for one in rest] == [([], [], 500), ([], [], 1)]
    assert {one.via for one in sandbox.accepted} == {"mime" if saved else "json"}
    if saved:
        assert {str(one.message["To"]) for one in rest} == {"undisclosed-recipients:;"}
        assert all(one.message["Cc"] is None for one in rest)
    assert mailed(sandbox) == dict.fromkeys(everyone, 1)


@GRAPH
def test_graph_shows_five_hundred_at_most(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    """A recipient that the header does not name gets a copy that does not show it either."""
    everyone = crowd(502)
    assert deliver(mail(To=",\n ".join(everyone)), *everyone).verdict == "sent"
    first, second = sandbox.accepted
    assert (len(first.to), first.bcc) == (500, [])
    assert (second.to, second.cc, len(second.bcc)) == ([], [], 2)


@SES
def test_ses_gets_the_same_message_in_all_calls(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    to, cc = EVERYONE[10:70], EVERYONE[70:80]
    message = mail(To=",\n ".join(to), Cc=",\n ".join(cc))
    assert deliver(message, *EVERYONE).verdict == "sent"
    assert len({one.raw for one in sandbox.accepted}) == 1
    assert sandbox.accepted[0].message["Cc"].replace("\r\n", "") == ", ".join(cc)
    split = [(one.to, one.cc, one.bcc) for one in sandbox.accepted]
    assert split == [
        (to[:50], [], []),
        (to[50:], cc, EVERYONE[:10] + EVERYONE[80:100]),
        ([], [], EVERYONE[100:]),
    ]


@BOTH
def test_who_has_to_be_visible_is_anyone_of_the_message(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    everyone = three_calls(provider)
    delivery = deliver(mail(To="other@x.test"), *everyone)
    assert (delivery.dsn, mailed(sandbox), kept_files(home)) == ("5.7.1", {}, [])
    # The last one would be in a call without the others.
    assert deliver(mail(To="other@x.test", Cc=everyone[-1]), *everyone).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(everyone, 1)
    assert [one.cc for one in taken(sandbox)] == [[everyone[-1]], [], []]
    home.configure(RATE_LIMIT_PER_MINUTE=0, MISSING_VISIBLE_RECIPIENT="deliver")
    assert deliver(mail(To="other@x.test"), *everyone).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(everyone, 2)


@SES
@pytest.mark.parametrize("limit", [1, 2])
def test_each_call_has_a_place_in_the_window(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, limit: int
) -> None:
    """Calls for which there is no room wait, and the next attempt continues."""
    home.configure(RATE_LIMIT_PER_MINUTE=limit, RATE_LIMIT_MAX_WAIT_SECONDS=0)
    for number in range(limit, 3, limit):
        expect_full(deliver(MESSAGE, *EVERYONE), f"{limit}/{limit}")
        assert sizes(sandbox) == SIZES[:number]
        (file,) = kept_files(home)
        status = file.stat()
        assert (status.st_mode & 0o777, status.st_uid) == (0o600, home.account.pw_uid)
        # Nothing happens before there is a slot.
        expect_full(deliver(MESSAGE, *EVERYONE), f"{limit}/{limit}")
        put_calls(home, [])
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert sizes(sandbox) == SIZES
    assert mailed(sandbox) == dict.fromkeys(EVERYONE, 1)
    assert kept_files(home) == []


@SES
def test_the_wait_is_for_the_message_as_a_whole(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=1, RATE_LIMIT_MAX_WAIT_SECONDS=3)
    change_constants(home, WINDOW_SECONDS=2)
    began = time.monotonic()
    expect_full(deliver(MESSAGE, *EVERYONE), "1/1")
    # The third slot would open after more than 4 s.
    assert sizes(sandbox) == SIZES[:2] and time.monotonic() - began >= 2
    put_calls(home, [])
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(EVERYONE, 1)


FAULTS = {
    "503": Answer(503),
    "429": Answer(429, {"Retry-After": "30"}),
    "reset": Answer(action="reset-in-request"),
    "lost answer": Answer(action="accept-then-reset"),
}


@SES
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_keeps_the_rest(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, fault: str, number: int
) -> None:
    sandbox.answer("ses", *[Answer()] * (number - 1), FAULTS[fault])
    assert deliver(MESSAGE, *EVERYONE).verdict == "deferred"
    lost = fault == "lost answer"
    assert sizes(sandbox) == SIZES[: number - 1 + lost]
    assert len(kept_files(home)) == 1
    if fault == "429":
        assert "asked for a pause" in deliver(MESSAGE, *EVERYONE).text
    put_calls(home, [])
    # Postfix gives them in any order.
    assert deliver(MESSAGE, *reversed(EVERYONE)).verdict == "sent"
    once = dict.fromkeys(EVERYONE, 1)
    # An answer that is lost leaves it open whether its call was accepted, as with any message.
    twice = dict.fromkeys(EVERYONE[50 * (number - 1) : 50 * number], 2) if lost else {}
    assert mailed(sandbox) == {**once, **twice}
    assert kept_files(home) == []
    assert read(home, WINDOW)["counters"]["delivered"] == 1


@GRAPH
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_acceptance_that_wants_a_pause(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, number: int
) -> None:
    everyone = three_calls(provider)
    sandbox.answer("sendMail", *[Answer()] * (number - 1), Answer(headers={"Retry-After": "30"}))
    delivery = deliver(mail(To=everyone[0]), *everyone)
    if number == 3:
        assert delivery.verdict == "sent"
    else:
        assert delivery.dsn == "4.4.5" and "asked for a pause" in delivery.text
        assert len(sandbox.accepted) == number
        put_calls(home, [])
        assert deliver(mail(To=everyone[0]), *everyone).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(everyone, 1)
    assert kept_files(home) == []


@GRAPH
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_between_calls_of_graph(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, fault: str
) -> None:
    everyone = three_calls(provider)
    sandbox.answer("sendMail", Answer(), FAULTS[fault])
    assert deliver(mail(To=everyone[0]), *everyone).verdict == "deferred"
    put_calls(home, [])
    assert deliver(mail(To=everyone[0]), *reversed(everyone)).verdict == "sent"
    twice = everyone[500:1000] if fault == "lost answer" else []
    assert mailed(sandbox) == {**dict.fromkeys(everyone, 1), **dict.fromkeys(twice, 2)}
    assert kept_files(home) == []


@SES
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGALRM])
def test_a_death_between_two_calls(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, number: signal.Signals
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=1, RATE_LIMIT_MAX_WAIT_SECONDS=250)
    with ThreadPoolExecutor(1) as thread:
        delivery = thread.submit(deliver, MESSAGE, *EVERYONE)
        wait_until(lambda: "WAITING: " in home.log() or delivery.done())
        [pid] = processes(home)
        os.kill(pid, number)
        assert delivery.result()[:3] == ("deferred", "4.3.0", -number)
    assert sizes(sandbox) == SIZES[:1]
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(EVERYONE, 1)
    assert kept_files(home) == []


@SES
def test_a_death_within_a_call(sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str) -> None:
    """The provider has not accepted it."""
    sandbox.answer("ses", Answer(), Answer(action="hang"))
    with ThreadPoolExecutor(1) as thread:
        delivery = thread.submit(deliver, MESSAGE, *EVERYONE)
        wait_until(lambda: len(calls(sandbox)) == 2)
        [pid] = processes(home)
        os.kill(pid, signal.SIGKILL)
        assert delivery.result().verdict == "deferred"
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(EVERYONE, 1)


def block(home: RelayHome, relay: ModuleType) -> Path:
    """Make the file unwritable: something of root's replaces it and cannot be removed."""
    file = home.path / (file_for(relay, MESSAGE, *EVERYONE) + ".new")
    file.write_bytes(b"")
    return file


@SES
def test_a_file_that_cannot_be_written_stops_the_first_call(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, relay: ModuleType, provider: str
) -> None:
    home.give_to_root()
    file = block(home, relay)
    delivery = deliver(MESSAGE, *EVERYONE)
    assert (delivery.verdict, delivery.dsn) == ("deferred", "4.3.0")
    assert "cannot write" in delivery.text and file.name.removesuffix(".new") in delivery.text
    assert sandbox.accepted == []
    file.unlink()
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(EVERYONE, 1)
    assert kept_files(home) == []


@SES
@pytest.mark.parametrize("bad", [None, 60, 110])
def test_a_file_that_cannot_be_written_later_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
    sandbox: Sandbox,
    home: RelayHome,
    deliver: Deliver,
    relay: ModuleType,
    provider: str,
    bad: int | None,
) -> None:
    """Otherwise those who have got the message would get it again; the others are refused."""
    home.give_to_root()
    at_acceptance(monkeypatch, sandbox, 1, lambda: block(home, relay))
    sandbox.bad_recipients = set() if bad is None else {EVERYONE[bad]}
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(set(EVERYONE) - sandbox.bad_recipients, 1)
    assert "WARNING: cannot write" in home.log()
    # Root's files remain.
    assert [file.suffix for file in kept_files(home)] == [".new"]


@SES
def test_a_home_that_cannot_be_written_later_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    """The window cannot be written either, for example, on a full disk."""
    home.configure(RATE_LIMIT_PER_MINUTE=28)
    at_acceptance(monkeypatch, sandbox, 1, lambda: os.chown(home.path, 0, 0))
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(EVERYONE, 1)
    assert "WARNING: cannot write" in home.log()


@SES
def test_where_it_is_known_who_has_got_the_message_the_others_wait_for_the_disk(
    monkeypatch: pytest.MonkeyPatch,
    sandbox: Sandbox,
    home: RelayHome,
    deliver: Deliver,
    relay: ModuleType,
    provider: str,
) -> None:
    home.give_to_root()
    sandbox.bad_recipients = {EVERYONE[60]}
    judge = sandbox.judge

    def judging(seen: Recorded) -> tuple[Answer, Accepted | None]:
        answer, message = judge(seen)
        if seen.role == "ses" and not message and not file.exists():
            block(home, relay)
        return answer, message

    file = block(home, relay)
    file.unlink()
    monkeypatch.setattr(sandbox, "judge", judging)
    assert deliver(MESSAGE, *EVERYONE).dsn == "4.3.0"
    assert sizes(sandbox) == SIZES[:1]
    monkeypatch.setattr(sandbox, "judge", judge)
    file.unlink()
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(set(EVERYONE) - sandbox.bad_recipients, 1)
    assert kept_files(home) == []


def content(**changes: object) -> str:
    """Return the file as it is once everybody has got the message, with these changes."""
    whole: dict[str, Any] = {"left": [], "accepted": [EVERYONE[:1], EVERYONE[1:2], EVERYONE[2:]]}
    fields = {"refused": {}, "refusals": 0, "id": "kept-id", "draft": {}, "over": False}
    return json.dumps({**whole, **fields, **changes})


def wide(path: Path) -> None:
    path.write_text(content())
    path.chmod(0o640)


def linked(path: Path) -> None:
    other = path.with_name("other")
    other.write_text(content())
    other.chmod(0o600)
    os.chown(other, path.parent.stat().st_uid, -1)
    path.symlink_to(other.name)


WORTHLESS: dict[str, Fault] = {
    **{name: CONTENTS[name] for name in ("empty", "truncated", "not UTF-8", "an array", "nested")},
    "a wide mode": wide,
    "a link": linked,
    "a dangling link": dangling_link,
    "a link to itself": link_to_itself,
    "a FIFO": os.mkfifo,
    "huge": holding(content().ljust((16 << 20) + 1)),
    "other recipients": holding(content(accepted=[EVERYONE[:1], EVERYONE[1:2], crowd(121)[3:]])),
    "one too few": holding(content(accepted=[[], EVERYONE[1:2], EVERYONE[2:]])),
    "one twice": holding(content(accepted=[EVERYONE[:1], EVERYONE[1:2], [*EVERYONE[2:], EVERYONE[2]]])),
    "no lists": holding(content(accepted=dict.fromkeys(EVERYONE))),
    "no names": holding(content(accepted=[[1], [None], EVERYONE])),
    "a string for a list": holding(content(accepted=["r0@x.test", "", ""])),
    "fields of other types": holding(content(left=7, accepted=0, refused=[], refusals="x", id=[], draft=1)),
    "calls of all sorts": holding(content(left=[1, None, [], [[], []], [EVERYONE, 2, 3], {}], accepted=[])),
}


def file_of_root(path: Path) -> None:
    path.write_text(content())
    path.chmod(0o600)


@SES
@pytest.mark.parametrize("fault", WORTHLESS)
def test_a_file_that_is_worth_nothing_loses_nobody(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, relay: ModuleType, provider: str, fault: str
) -> None:
    plant(home, file_for(relay, MESSAGE, *EVERYONE), WORTHLESS[fault])
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(EVERYONE, 1)
    assert kept_files(home) == []
    if fault == "a link":
        assert (home.path / "other").read_text() == content()


@SES
def test_another_owners_file_is_worth_nothing(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, relay: ModuleType, provider: str
) -> None:
    file = home.path / file_for(relay, MESSAGE, *EVERYONE)
    file_of_root(file)
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(EVERYONE, 1)
    assert kept_files(home) == []


@SES
def test_a_directory_is_set_aside(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, relay: ModuleType, provider: str
) -> None:
    plant(home, file_for(relay, MESSAGE, *EVERYONE), full_directory)
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(EVERYONE, 1)
    (aside,) = kept_files(home)
    assert ".broken-" in aside.name and (aside / "file").read_text() == "kept"
    # It does not hold up the next message either.
    assert deliver(mail(), "to@external.com").verdict == "sent"


@SES
def test_what_everybody_has_got_is_not_sent_again(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, relay: ModuleType, provider: str
) -> None:
    """A death after the last acceptance."""
    home.put(file_for(relay, MESSAGE, *EVERYONE), content().encode())
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert calls(sandbox) == []
    assert "id='kept-id'" in home.log()
    assert kept_files(home) == []


@SES
def test_another_message_of_the_same_queue_id(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    """Ids repeat, and Postfix may split an envelope: these are different deliveries."""
    sandbox.answer("ses", Answer(), Answer(503))
    assert deliver(MESSAGE, *EVERYONE).verdict == "deferred"
    (kept,) = kept_files(home)
    before = kept.read_bytes()
    for message, recipients in (
        (mail(), ["to@external.com"]),
        (MESSAGE + b"More.\n", EVERYONE),
        (MESSAGE, EVERYONE[:60]),
    ):
        assert deliver(message, *recipients).verdict == "sent"
        assert (kept_files(home), kept.read_bytes()) == ([kept], before)
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    expected = {name: 2 + (name in EVERYONE[:60]) for name in EVERYONE}
    assert mailed(sandbox) == {**expected, "to@external.com": 1}
    assert kept_files(home) == []


@SES
def test_what_postfix_no_longer_has_goes_away(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    names = {".progress-4ZxTestQid-" + "0" * 32: 2, ".progress-4ZxGone-" + "1" * 32: 7}
    for name, days in {**names, ".progress-4ZxYoung-" + "2" * 32: 0}.items():
        home.put(name, b"{}")
        then = time.time() - days * DAY
        os.utime(home.path / name, (then, then))
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert [file.name for file in kept_files(home)] == [".progress-4ZxYoung-" + "2" * 32]


def test_ten_thousand(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, ses: RelayHome, deliver: Deliver
) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=0)
    everyone = crowd(10_000)
    found: list[int] = []
    monkeypatch.setattr(
        sandbox, "on_accepted", lambda _: found.extend(file.stat().st_size for file in kept_files(ses))
    )
    began = time.monotonic()
    assert deliver(mail(To=everyone[0]), *everyone).verdict == "sent"
    # The sandbox, which is Python as well, uses most of it.
    assert time.monotonic() - began < 120
    assert mailed(sandbox) == dict.fromkeys(everyone, 1)
    assert sizes(sandbox) == [50] * 200
    # The names, once, and little more.
    assert 0 < max(found) < 2 * sum(map(len, everyone))
    assert (ses.path / WINDOW).stat().st_size < 1 << 15
    assert kept_files(ses) == []


DENIED = provided("ses/access-denied")


@SES
@pytest.mark.parametrize("number", [1, 2])
def test_an_account_that_is_refused(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, number: int
) -> None:
    """If some have got the message, the others wait, regardless of DEFER_ON_CREDENTIAL_FAILURE."""
    sandbox.answer("ses", *[Answer()] * (number - 1), DENIED)
    delivery = deliver(MESSAGE, *EVERYONE)
    if number == 1:
        assert (delivery.dsn, mailed(sandbox), kept_files(home)) == ("5.7.1", {}, [])
        return
    assert (delivery.verdict, delivery.dsn) == ("deferred", "4.7.1")
    assert sizes(sandbox) == SIZES[:1]
    assert "left out" not in home.log()
    put_calls(home, [])
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(EVERYONE, 1)
    assert kept_files(home) == []


@SES
def test_a_message_that_is_refused_later(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    """Those who have got it must not read otherwise: a notice names the others."""
    virus = provided("ses/rejected", message="The attachment has a virus.")
    sandbox.answer("ses", Answer(), virus)
    assert deliver(MESSAGE, *EVERYONE) == ("sent", "2.0.0", 0, b"")
    assert mailed(sandbox) == dict.fromkeys(EVERYONE[:50] + EVERYONE[100:], 1)
    text = sandbox.accepted[-1].raw.decode()
    assert "\nr50@x.test: " in text and "and 30 more" in text and "virus" in text
    assert kept_files(home) == []


@SES
def test_who_is_left_for_the_next_attempt_may_all_be_refused(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    """Some have got it, and no bounce may deny that."""
    sandbox.answer("ses", Answer(), Answer(503))
    assert deliver(MESSAGE, *EVERYONE).verdict == "deferred"
    sandbox.bad_recipients = set(EVERYONE[50:])
    assert deliver(MESSAGE, *EVERYONE).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(EVERYONE[:50], 1)
    assert "and 50 more; see the log" in sandbox.accepted[-1].raw.decode()
    assert kept_files(home) == []


@GRAPH
def test_another_provider_goes_on(sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str) -> None:
    """The service takes fewer recipients in a call, and says so."""
    everyone = crowd(1001)
    sandbox.answer("sendMail", Answer(), Answer(503))
    assert deliver(mail(To=everyone[0]), *everyone).verdict == "deferred"
    use_ses(home)
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    assert deliver(mail(To=everyone[0]), *everyone).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(everyone, 1)
    assert kept_files(home) == []


@SES
def test_nothing_is_kept_of_a_message_that_the_relay_itself_refuses_later(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=0, MISSING_VISIBLE_RECIPIENT="deliver")
    sandbox.answer("ses", Answer(503))
    assert deliver(mail(), *EVERYONE).verdict == "deferred"
    assert len(kept_files(home)) == 1
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    assert deliver(mail(), *EVERYONE).dsn == "5.7.1"
    assert (mailed(sandbox), kept_files(home)) == ({}, [])


@GRAPH
def test_nothing_is_kept_of_a_large_message_that_is_no_longer_wanted(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    sandbox.answer("send", Answer(503))
    assert deliver(scan(3.2), "to@external.com").verdict == "deferred"
    assert len(kept_files(home)) == len(sandbox.drafts) == 1
    home.configure(RATE_LIMIT_PER_MINUTE=0, LARGE_MESSAGES="refuse")
    assert deliver(scan(3.2), "to@external.com").dsn == "5.3.4"
    assert (mailed(sandbox), kept_files(home), sandbox.drafts) == ({}, [], {})


@GRAPH
def test_another_provider_leaves_the_draft_alone(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    """Its credentials are not Graph's."""
    sandbox.answer("send", Answer(503))
    assert deliver(scan(3.2), "to@external.com").verdict == "deferred"
    use_ses(home)
    assert deliver(scan(3.2), "to@external.com").verdict == "sent"
    assert mailed(sandbox) == {"to@external.com": 1}
    assert "DELIVERED: " in home.log() and "failed: " not in home.log().partition("DELIVERED: ")[2]
    assert kept_files(home) == []


@GRAPH
@pytest.mark.parametrize("bad", [3, 500])
def test_a_large_message_to_a_crowd(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, bad: int
) -> None:
    """A draft for each call, and for the remainder of each call that is refused."""
    everyone = crowd(501)
    sandbox.bad_recipients = {everyone[bad]}
    assert deliver(scan(3.2, To=everyone[0]), *everyone).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(set(everyone) - sandbox.bad_recipients, 1)
    assert {one.via for one in taken(sandbox)} == {"draft"}
    assert (sandbox.drafts, kept_files(home)) == ({}, [])


@GRAPH
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("fault", ["503", "lost answer"])
def test_a_fault_at_the_sending_of_a_draft(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, fault: str, number: int
) -> None:
    """A lost answer costs nothing here: the draft shows what happened."""
    everyone = crowd(501)
    message = scan(3.2, To=everyone[0])
    sandbox.answer("send", *[Answer()] * (number - 1), FAULTS[fault])
    assert deliver(message, *everyone).verdict == "deferred"
    assert sizes(sandbox) == [500, 1][: number - (fault == "503")]
    assert deliver(message, *everyone).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(everyone, 1)
    assert (sandbox.drafts, kept_files(home)) == ({}, [])


@GRAPH
@pytest.mark.parametrize("fault", [Answer(), Answer(503)])
def test_a_draft_that_is_there_twice_is_not_the_next_calls(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, fault: Answer
) -> None:
    """The answer to its creation was lost, and the draft is not found at first."""
    everyone = crowd(501)
    message = scan(3.2, To=everyone[0])
    sandbox.find_lag = 1
    sandbox.answer("draft", Answer(action="accept-then-reset"))
    assert deliver(message, *everyone).verdict == "deferred"
    assert len(sandbox.drafts["alerts@domain.com"]) == 1
    sandbox.answer("delete", fault)
    while deliver(message, *everyone).verdict != "sent":
        assert fault.status and sizes(sandbox) == [500]
        fault = Answer()
    assert sizes(sandbox) == [500, 1]
    assert mailed(sandbox) == dict.fromkeys(everyone, 1)
    assert (sandbox.drafts, kept_files(home)) == ({}, [])


@PROVIDERS
def test_by_hand_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, home: RelayHome, provider: str
) -> None:
    make_sound(home)
    if provider == "ses":
        home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    found: list[Path] = []
    at_acceptance(monkeypatch, sandbox, 1, lambda: found.extend(kept_files(home)))
    done = by_hand(home, "--send-test", "to@external.com")
    assert done.stdout == f"ok    {provider} accepted the message, id {sandbox.accepted[0].id!r}\n"
    assert (found, kept_files(home)) == ([], [])
