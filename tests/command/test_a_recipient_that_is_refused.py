"""A recipient that the provider refuses and names does not keep the mail from the other recipients."""

from __future__ import annotations

import json
import re

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.state import WINDOW, put_calls, read
from helpers.variants import use_ses
from helpers.waiting import expect_full
from sandbox import Answer, Sandbox

BAD = "bad@x.test"
PROVIDERS = pytest.mark.parametrize("provider", ["graph", "ses"])


@pytest.fixture
def refusing(sandbox: Sandbox, home: RelayHome, provider: str) -> Sandbox:
    """A provider that does not know bad@x.test."""
    if provider == "ses":
        use_ses(home)
    home.configure(RATE_LIMIT_PER_MINUTE=28)
    sandbox.bad_recipients = {BAD}
    sandbox.names_bad_recipients = True
    sandbox.illegal_address = f"Illegal address: {BAD}"
    return sandbox


def calls(sandbox: Sandbox) -> int:
    return sum(request.path.endswith(("/sendMail", "/outbound-emails")) for request in sandbox.requests)


@PROVIDERS
def test_the_others_get_the_message_and_the_admin_a_notice(
    refusing: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    message = mail(To=f"to@external.com, {BAD}", Cc="cc@x.test")
    delivery = deliver(message, "to@external.com", BAD, "cc@x.test", "bcc@x.test", client="10.9.9.9")
    assert delivery == ("sent", "2.0.0", 0, b"")
    accepted, notice = refusing.accepted
    assert (accepted.to, accepted.cc) == (["to@external.com"], ["cc@x.test"])
    assert accepted.bcc == ["bcc@x.test"]
    assert notice.to == ["admin@domain.com"]
    assert notice.subject == "[postfix-api-relay] Recipient left out: alerts@domain.com"
    text = notice.raw.decode()
    assert "which the provider refuses" in text and f"{BAD}: " in text and "10.9.9.9" in text
    (delivered,) = re.findall("DELIVERED: .*", home.log())
    assert BAD not in delivered
    assert f"left out because the provider refuses them: recipients=['{BAD}']" in home.log()
    state = read(home, WINDOW)
    # The refused call has a slot of its own, and so does the notice.
    assert len(state["calls"]) == 3
    assert (state["counters"]["delivered"], state["counters"]["bounced"]) == (1, 0)
    assert "refused" not in state and "trouble" not in state


@PROVIDERS
def test_it_bounces_where_nobody_else_is_left(
    refusing: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    delivery = deliver(mail(To=BAD), BAD)
    assert (delivery.verdict, delivery.dsn) == ("bounced", "5.1.3" if provider == "graph" else "5.6.0")
    assert BAD in delivery.text
    assert refusing.mailed.keys() == {"admin@domain.com"}
    refusing.bad_recipients.add("to@external.com")
    assert deliver(mail(), "to@external.com", BAD).verdict == "bounced"
    assert refusing.mailed.keys() == {"admin@domain.com"}


def test_a_recipient_that_is_not_verified(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.unverified = {"a@x.test", "b@x.test"}
    assert deliver(mail(), "to@external.com", "a@x.test", "b@x.test").verdict == "sent"
    assert [call.recipients for call in sandbox.accepted] == [{"to@external.com"}, {"admin@domain.com"}]
    delivery = deliver(mail(To="a@x.test"), "a@x.test", "b@x.test")
    assert (delivery.verdict, delivery.dsn) == ("deferred", "4.7.1")


def test_nobody_is_left_out_for_a_sender_that_is_not_verified(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("ses", provided("ses/not-verified", addresses="network@domain.com"))
    delivery = deliver(mail(From="network@domain.com"), "to@external.com", "b@x.test")
    assert delivery.verdict != "sent"
    assert "left out" not in ses.log()


def test_a_name_within_another_is_another(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    text = f"Recipient 'not{BAD}.example' is not."
    sandbox.answer("sendMail", provided("graph/invalid-recipients", message=text)._replace(times=3))
    assert deliver(mail(), "to@external.com", BAD).dsn == "5.1.3"
    # Each of the two on its own.
    assert calls(sandbox) == 3 + 1


@PROVIDERS
def test_what_fails_after_it_begins_anew(
    refusing: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    """The refusal was definite: nobody had got the message."""
    refusing.answer("sendMail" if provider == "graph" else "ses", Answer(), Answer(503))
    assert deliver(mail(), "to@external.com", BAD).verdict == "deferred"
    assert refusing.accepted == []
    assert deliver(mail(), "to@external.com", BAD).verdict == "sent"
    assert refusing.mailed["to@external.com"] == 1


@PROVIDERS
def test_the_second_call_needs_a_place(
    refusing: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=1)
    expect_full(deliver(mail(), "to@external.com", BAD), "1/1")
    put_calls(home, [])
    home.configure(RATE_LIMIT_PER_MINUTE=2)
    assert deliver(mail(), "to@external.com", BAD).verdict == "sent"


def test_the_calls_have_a_bound(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """Graph names them one by one."""
    everyone = [f"r{number}@x.test" for number in range(40)]
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    refusals = [
        provided("graph/invalid-recipients", message=f"Recipient '{name}' is not valid.") for name in everyone
    ]
    sandbox.answer("sendMail", *refusals)
    assert deliver(mail(), "to@external.com", *everyone).dsn == "5.1.3"
    # The last call is the notice's.
    assert calls(sandbox) == 11 + 1


@PROVIDERS
def test_a_bounce_makes_no_notice(
    refusing: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    assert deliver(mail(), "to@external.com", BAD, sender="").verdict == "sent"
    assert [call.recipients for call in refusing.accepted] == [{"to@external.com"}]


def test_who_is_left_may_be_hidden(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """The policy applies to the message, and the message did name somebody."""
    sandbox.bad_recipients, sandbox.names_bad_recipients = {BAD}, True
    assert deliver(mail(To=BAD), BAD, "bcc@x.test").verdict == "sent"
    accepted = sandbox.accepted[0]
    assert (accepted.to, accepted.bcc) == ([], ["bcc@x.test"])
    assert accepted.message["To"] == "undisclosed-recipients:;"
    assert json.dumps(BAD) not in accepted.raw.decode()
