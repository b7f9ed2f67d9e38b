"""A recipient that the provider refuses but does not name does not keep the mail from the other
recipients."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.by_hand import by_hand, make_sound
from helpers.crowds import ADMIN, calls, crowd, file_for, kept_files, mailed, sizes, taken
from helpers.home import RelayHome
from helpers.large_mail import scan
from helpers.mail import mail
from helpers.state import WINDOW, put_calls, read
from helpers.variants import use_ses
from helpers.waiting import expect_full
from sandbox import Answer, Sandbox

PROVIDERS = pytest.mark.parametrize("provider", ["graph", "ses"])
BAD = "bad@x.test"
DSN = {"graph": "5.1.3", "ses": "5.6.0"}
# The most refused calls for the recipients of one call.
BOUND = 40


@pytest.fixture
def silent(sandbox: Sandbox, home: RelayHome, provider: str) -> Sandbox:
    """A provider that does not know bad@x.test, and does not say so."""
    if provider == "ses":
        use_ses(home)
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    sandbox.bad_recipients = {BAD}
    return sandbox


def refused(sandbox: Sandbox) -> int:
    return sum((request.status or 0) >= 400 for request in calls(sandbox))


@PROVIDERS
def test_the_other_of_two_gets_it_and_the_admin_a_notice(
    silent: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    delivery = deliver(mail(To=f"{BAD}, to@external.com"), BAD, "to@external.com", client="10.9.9.9")
    assert delivery == ("sent", "2.0.0", 0, b"")
    accepted, notice = silent.accepted
    assert (accepted.to, accepted.cc, accepted.bcc) == (["to@external.com"], [], [])
    assert notice.to == [ADMIN]
    assert notice.subject == "[postfix-api-relay] Recipient left out: alerts@domain.com"
    text = notice.raw.decode()
    assert "which the provider refuses" in text and f"\n{BAD}: " in text and "10.9.9.9" in text
    assert "\nto@external.com: " not in text
    assert f"left out because the provider refuses them: recipients=['{BAD}']" in home.log()
    (delivered,) = re.findall("DELIVERED: .*", home.log())
    assert "to=['to@external.com'] cc=[] bcc=[]" in delivered and repr(accepted.id) in delivered
    assert kept_files(home) == []
    counters = read(home, WINDOW)["counters"]
    assert (counters["delivered"], counters["bounced"], counters["notices"]) == (1, 0, 1)
    # Each of the two on its own, and the notice: each in its own slot.
    assert len(calls(silent)) == 4 == len(read(home, WINDOW)["calls"])
    assert not {"refused", "trouble"} & read(home, WINDOW).keys()


@PROVIDERS
@pytest.mark.parametrize("number", [50, 120])
@pytest.mark.parametrize("bad", [[0], [-1], [7, 8, 31]])
def test_all_others_of_a_crowd_get_it_once(
    silent: Sandbox, home: RelayHome, deliver: Deliver, provider: str, number: int, bad: list[int]
) -> None:
    everyone = crowd(number)
    silent.bad_recipients = {everyone[place] for place in bad}
    assert deliver(mail(To=everyone[3]), *everyone).verdict == "sent"
    assert mailed(silent) == dict.fromkeys(set(everyone) - silent.bad_recipients, 1)
    assert refused(silent) <= BOUND
    notice = silent.accepted[-1].raw.decode()
    assert set(re.findall(r"^(\S+@x\.test): ", notice, re.MULTILINE)) == silent.bad_recipients
    assert kept_files(home) == []


@PROVIDERS
@pytest.mark.parametrize("number", [2, 50, 120])
def test_it_bounces_where_all_are_refused(
    silent: Sandbox, home: RelayHome, deliver: Deliver, provider: str, number: int
) -> None:
    everyone = crowd(number)
    silent.bad_recipients = set(everyone)
    delivery = deliver(mail(To=everyone[0]), *everyone)
    assert (delivery.verdict, delivery.dsn) == ("bounced", DSN[provider])
    assert mailed(silent) == {}
    # What remains of a call after the bound is refused as a whole, however it was divided.
    assert refused(silent) <= (BOUND + 7) * (3 if provider == "ses" and number > 50 else 1)
    (notice,) = silent.accepted
    assert "Recipient left out" not in notice.subject
    assert kept_files(home) == []
    assert read(home, WINDOW)["counters"]["bounced"] == 1


@PROVIDERS
def test_one_alone_bounces_after_one_call(
    silent: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    assert deliver(mail(To=BAD), BAD).dsn == DSN[provider]
    assert refused(silent) == 1
    assert kept_files(home) == []


@PROVIDERS
def test_the_search_has_a_bound(silent: Sandbox, home: RelayHome, deliver: Deliver, provider: str) -> None:
    """A recipient that is not found within it is left out, with the others of the same call."""
    everyone = crowd(50)
    silent.bad_recipients = set(everyone[::2])
    assert deliver(mail(To=everyone[0]), *everyone).verdict == "sent"
    assert refused(silent) <= BOUND + 7
    got = mailed(silent)
    assert got == dict.fromkeys(got, 1)
    assert got and not got.keys() & silent.bad_recipients
    out = re.findall(r"refuses them: recipients=\[(.*)\]", home.log())
    # Nobody is forgotten.
    assert {name.strip("' ") for part in out for name in part.split(",")} == set(everyone) - got.keys()


def test_a_call_of_refused_recipients_costs_the_next_calls_nothing(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver
) -> None:
    """SES names one of them at a time, for longer than the relay asks."""
    ses.configure(RATE_LIMIT_PER_MINUTE=0)
    everyone = crowd(120)
    refusals = [provided("ses/illegal-address", address=name) for name in everyone[:50]]
    sandbox.answer("ses", *refusals[:31])
    assert deliver(mail(To=everyone[0]), *everyone).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(everyone[50:], 1)
    notice = sandbox.accepted[-1].raw.decode()
    assert len(re.findall(r"^\S+@x\.test: ", notice, re.MULTILINE)) == 20
    assert "\nand 30 more; see the log\r\n" in notice
    assert all(f"'{name}'" in ses.log().partition("DELIVERED")[0] for name in everyone[:50])


@PROVIDERS
def test_the_search_goes_on_with_the_next_attempt(
    silent: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    """In a full window the message waits, and nobody who has got it gets it again."""
    home.configure(RATE_LIMIT_PER_MINUTE=1, RATE_LIMIT_MAX_WAIT_SECONDS=0)
    everyone = [*crowd(3), BAD]
    for _ in range(20):
        delivery = deliver(mail(To=BAD), *everyone)
        if delivery.verdict == "sent":
            break
        expect_full(delivery, "1/1")
        assert len(kept_files(home)) == 1
        put_calls(home, [])
    assert delivery.verdict == "sent"
    assert mailed(silent) == dict.fromkeys(crowd(3), 1)
    # All, a half and its two halves, the other half.
    assert (refused(silent), sizes(silent)) == (3, [1, 2])
    assert kept_files(home) == []


@PROVIDERS
def test_a_fault_in_the_search(silent: Sandbox, home: RelayHome, deliver: Deliver, provider: str) -> None:
    silent.answer("sendMail" if provider == "graph" else "ses", *[Answer()] * 4, Answer(503))
    everyone = [*crowd(3), BAD]
    assert deliver(mail(To=BAD), *everyone).dsn == "4.3.2"
    assert mailed(silent) == dict.fromkeys(crowd(1), 1)
    assert deliver(mail(To=BAD), *reversed(everyone)).verdict == "sent"
    assert mailed(silent) == dict.fromkeys(crowd(3), 1)
    assert f"{BAD}: " in silent.accepted[-1].raw.decode()
    assert kept_files(home) == []


@PROVIDERS
def test_a_search_that_cannot_be_written_down_does_not_begin(
    silent: Sandbox, home: RelayHome, deliver: Deliver, relay: ModuleType, provider: str
) -> None:
    home.give_to_root()
    everyone = [BAD, *crowd(3)]
    file = home.path / (file_for(relay, mail(To=BAD), *everyone) + ".new")
    file.write_bytes(b"")
    assert deliver(mail(To=BAD), *everyone).dsn == "4.3.0"
    assert mailed(silent) == {}
    file.unlink()
    assert deliver(mail(To=BAD), *everyone).verdict == "sent"
    assert mailed(silent) == dict.fromkeys(crowd(3), 1)
    assert kept_files(home) == []


@PROVIDERS
def test_a_bounce_makes_no_notice(silent: Sandbox, home: RelayHome, deliver: Deliver, provider: str) -> None:
    assert deliver(mail(), "to@external.com", BAD, sender="").verdict == "sent"
    assert [one.recipients for one in silent.accepted] == [{"to@external.com"}]


def test_who_is_named_and_who_is_not(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    """An unverified address is named, and a recipient that is not an address is not."""
    ses.configure(RATE_LIMIT_PER_MINUTE=0)
    sandbox.unverified, sandbox.bad_recipients = {"u@x.test"}, {BAD}
    assert deliver(mail(To=BAD), "u@x.test", *crowd(20), BAD).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(crowd(20), 1)
    text = sandbox.accepted[-1].raw.decode()
    assert "\nu@x.test: " in text and f"\n{BAD}: " in text


def test_what_is_wrong_with_the_message_is_no_search(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("ses", provided("ses/rejected"))
    assert deliver(mail(), "to@external.com", *crowd(9)).dsn == "5.6.0"
    assert (len(calls(sandbox)), mailed(sandbox)) == (2, {})


def test_a_refusal_that_is_gone_when_it_is_repeated(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("sendMail", provided("graph/invalid-recipients"))
    assert deliver(mail(), "to@external.com", *crowd(3)).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(["to@external.com", *crowd(3)], 1)
    assert sizes(sandbox) == [2, 2]
    assert len(sandbox.accepted) == 2


def test_a_draft_is_made_for_those_alone_whom_it_is_for(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """A large message's draft names its recipients."""
    sandbox.bad_recipients = {BAD}
    message = scan(3.2, To=f"to@external.com, {BAD}", Cc="cc@x.test")
    assert deliver(message, "to@external.com", BAD, "cc@x.test").verdict == "sent"
    assert mailed(sandbox) == {"to@external.com": 1, "cc@x.test": 1}
    assert {one.via for one in taken(sandbox)} == {"draft"}
    assert (sandbox.drafts, kept_files(home)) == ({}, [])


def test_a_draft_for_those_who_are_not_named(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.bad_recipients, sandbox.names_bad_recipients = {BAD}, True
    assert deliver(scan(3.2), "to@external.com", BAD).verdict == "sent"
    assert mailed(sandbox) == {"to@external.com": 1}
    assert (sandbox.drafts, kept_files(home)) == ({}, [])


def test_a_draft_that_cannot_be_deleted_keeps_the_message(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """Sent later, it would go to those who have got another draft."""
    sandbox.bad_recipients = {BAD}
    sandbox.answer("delete", Answer(503))
    assert deliver(scan(3.2), "to@external.com", BAD).dsn == "4.3.2"
    assert (mailed(sandbox), len(kept_files(home))) == ({}, 1)
    assert deliver(scan(3.2), "to@external.com", BAD).verdict == "sent"
    assert mailed(sandbox) == {"to@external.com": 1}
    assert (sandbox.drafts, kept_files(home)) == ({}, [])


def test_by_hand_one_is_refused_as_in_a_delivery(sandbox: Sandbox, home: RelayHome) -> None:
    make_sound(home)
    sandbox.bad_recipients = {BAD}
    done = by_hand(home, "--send-test", BAD)
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL  5.1.3 Graph sendMail failed: HTTP 400 ErrorInvalidRecipients")
    assert (len(calls(sandbox)), kept_files(home)) == (1, [])
