"""The two switches: mail that the guide bounces can wait in the queue, and mail that it rejects can be
delivered.
"""

from __future__ import annotations

import json
import time
from types import ModuleType

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.state import NOTICES
from helpers.variants import use_ses
from sandbox import Accepted, Answer, Sandbox, Where

DEFER = {"DEFER_ON_CREDENTIAL_FAILURE": True, "RATE_LIMIT_PER_MINUTE": 28}
CREDENTIALS = ("4.7.0", "5.7.8")
PERMISSION = ("4.7.1", "5.7.1")
GRAPH: dict[str, tuple[Where, Answer, tuple[str, str]]] = {
    "wrong secret": ("token", provided("entra/wrong-secret"), CREDENTIALS),
    "expired secret": ("token", provided("entra/secret-expired"), CREDENTIALS),
    "no such app": ("token", provided("entra/unknown-application"), CREDENTIALS),
    "no such tenant": ("token", provided("entra/unknown-tenant"), CREDENTIALS),
    "token refused": (
        "sendMail",
        provided("graph/token-refused")._replace(times=2),
        CREDENTIALS,
    ),
    "send as denied": ("sendMail", provided("graph/sender-denied"), PERMISSION),
    "access denied": ("sendMail", provided("graph/access-denied"), PERMISSION),
}
SES = {
    "no such key": (provided("ses/unknown-key"), CREDENTIALS),
    "unknown client": (provided("ses/unrecognized-client"), CREDENTIALS),
    "wrong secret": (provided("ses/wrong-signature"), CREDENTIALS),
    "access denied": (provided("ses/access-denied"), PERMISSION),
    "suspended": (provided("ses/account-suspended"), PERMISSION),
    "paused": (provided("ses/sending-paused"), PERMISSION),
    "MAIL FROM": (provided("ses/mail-from-not-verified"), PERMISSION),
    "not verified": (provided("ses/not-verified"), PERMISSION),
}
HIDDEN = {
    "nobody": mail(To=None),
    "strangers": mail(To="someone@else.org", Cc="another@else.org"),
    "undisclosed": mail(To="undisclosed-recipients:;"),
    "unreadable": mail(To="<<>>,,@", Cc="("),
    "Bcc": mail(To=None, Bcc="to@external.com, someone@else.org"),
}


def send(deliver: Deliver) -> Delivery:
    sender = "network@domain.com"
    return deliver(mail(From=sender), "to@external.com", sender=sender)


def to_admin(sandbox: Sandbox) -> list[Accepted]:
    return [message for message in sandbox.accepted if message.to == ["admin@domain.com"]]


def expect_deferred(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, where: Where, answer: Answer, code: str
) -> None:
    """Assert that the mail is deferred and the admin notified: at once, or about refused credentials once
    mail goes out again."""
    home.configure(**DEFER)
    sandbox.answer(where, answer)
    delivery = send(deliver)
    assert (delivery.verdict, delivery.status, delivery.dsn) == ("deferred", 75, code)
    waiting = "Mail is waiting"
    if code == CREDENTIALS[0]:
        assert to_admin(sandbox) == []
        home.configure(**DEFER, NOTIFY_INTERVAL_MINUTES=1)
        assert send(deliver).verdict == "sent"
        waiting = "Mail goes out again"
    (notice,) = to_admin(sandbox)
    assert notice.subject.startswith(f"[postfix-api-relay] {waiting}")
    assert ("the credentials" if code == CREDENTIALS[0] else "network@domain.com") in notice.raw.decode()


@pytest.mark.parametrize(("where", "answer", "codes"), GRAPH.values(), ids=GRAPH)
def test_graph(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, where: Where, answer: Answer, codes: tuple[str, str]
) -> None:
    expect_deferred(sandbox, home, deliver, where, answer, codes[0])


@pytest.mark.parametrize(("answer", "codes"), SES.values(), ids=SES)
def test_ses(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer, codes: tuple[str, str]
) -> None:
    use_ses(home)
    expect_deferred(sandbox, home, deliver, "ses", answer, codes[0])


@pytest.mark.parametrize("name", ["wrong secret", "access denied"])
def test_both_bounce_by_default(sandbox: Sandbox, home: RelayHome, deliver: Deliver, name: str) -> None:
    where, answer, codes = GRAPH[name]
    sandbox.answer(where, answer)
    delivery = send(deliver)
    assert (delivery.verdict, delivery.status, delivery.dsn) == ("bounced", 1, codes[1])
    answer, codes = SES[name]
    use_ses(home)
    sandbox.answer("ses", answer)
    delivery = send(deliver)
    assert (delivery.verdict, delivery.status, delivery.dsn) == ("bounced", 1, codes[1])


@pytest.mark.parametrize(
    ("answer", "dsn"),
    [
        (provided("graph/invalid-recipients"), "5.1.3"),
        (provided("graph/mime-invalid"), "5.6.0"),
        (provided("graph/message-too-large-413"), "5.3.4"),
    ],
    ids=["recipient", "content", "size"],
)
def test_a_verdict_about_the_message_bounces_even_so(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer, dsn: str
) -> None:
    home.configure(**DEFER)
    sandbox.answer("sendMail", answer)
    delivery = send(deliver)
    assert (delivery.verdict, delivery.dsn) == ("bounced", dsn)


def test_the_admin_is_alerted_once_a_day(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, relay: ModuleType
) -> None:
    denied = provided("graph/access-denied")
    day = relay.CREDENTIALS_NOTICE_SECONDS
    assert day == 86400
    # A slow machine must not see the day end early.
    for number, (age, told) in enumerate(((None, 1), (day - 60, 0), (day, 1))):
        sandbox.accepted.clear()
        # The file has changed, so the mailbox is tried again.
        home.configure(**DEFER, NOTIFY_INTERVAL_MINUTES=number)
        if age is not None:
            last = {"network@domain.com": time.time() - age}
            state = {"credentials": {"last": last, "held": {}, "since": 0}}
            home.put(NOTICES, json.dumps(state).encode())
        sandbox.answer("sendMail", denied)
        assert send(deliver).dsn == "4.7.1"
        assert len(to_admin(sandbox)) == told


def test_a_wrong_secret_costs_a_delay_only(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(**DEFER)
    home.secrets(API_SECRET="expired-secret")
    assert [send(deliver).dsn for _ in range(3)] == ["4.7.0"] * 3
    # Neither the other messages nor the alert ask for a token, which would be refused as well.
    assert [request.role for request in sandbox.requests] == ["token"]
    # No mail can report it, so none is tried.
    assert "notice not sent" not in home.log()
    home.secrets()
    assert send(deliver).verdict == "sent"
    assert [message.to for message in sandbox.accepted] == [["to@external.com"], ["admin@domain.com"]]
    assert "AADSTS7000215" in to_admin(sandbox)[0].raw.decode()


@pytest.mark.parametrize("provider", ["graph", "ses"])
@pytest.mark.parametrize("message", HIDDEN.values(), ids=HIDDEN)
def test_nobody_visible(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, message: bytes
) -> None:
    if provider == "ses":
        use_ses(home)
    recipients = ("to@external.com", "second@external.com")
    if provider == "graph":
        delivery = deliver(message, *recipients, sender="")
        assert (delivery.verdict, delivery.dsn) == ("bounced", "5.7.1")
        assert sandbox.requests == []
    home.configure(MISSING_VISIBLE_RECIPIENT="deliver", RATE_LIMIT_PER_MINUTE=28)
    assert deliver(message, *recipients, sender="").verdict == "sent"
    (accepted,) = sandbox.accepted
    assert (accepted.to, accepted.cc, sorted(accepted.bcc)) == ([], [], sorted(recipients))
    fields = accepted.message
    # SES has an envelope, so header fields that it can read stay.
    kept = provider == "ses" and message == HIDDEN["strangers"]
    assert fields.get_all("To") == ["someone@else.org" if kept else "undisclosed-recipients:;"]
    assert fields["Cc"] == ("another@else.org" if kept else None)
    assert (fields["Bcc"] is None) == (provider == "ses")
    assert kept or "someone@else.org" not in accepted.raw.decode()
    assert accepted.raw.endswith(b"\r\n\r\nText.\r\n")


def test_somebody_visible_stays_so(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(MISSING_VISIBLE_RECIPIENT="deliver")
    assert deliver(mail(), "to@external.com", "second@external.com").verdict == "sent"
    assert (sandbox.accepted[0].to, sandbox.accepted[0].bcc) == (["to@external.com"], ["second@external.com"])
