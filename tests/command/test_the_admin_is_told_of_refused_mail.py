"""Mail that waits because of the account or a mailbox is reported: by mail as soon as any goes out, and by
--status."""

from __future__ import annotations

import json

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.by_hand import by_hand
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.state import NOTICES, pass_by, read
from sandbox import Accepted, Answer, Sandbox, graph_error

ALERTS, NETWORK = "alerts@domain.com", "network@domain.com"
GONE = provided("graph/no-rest-mailbox")
REFUSALS = {
    "mailbox": (GONE, "the provider does not know the sending mailbox"),
    "permission": (provided("graph/access-denied"), "refuses this sender or account"),
    "full": (provided("graph/mailbox-full"), "the sending mailbox is full"),
    "quota": (provided("graph/submission-quota"), "quota is used up"),
    "unknown": (graph_error(400, "NeverHeardOf", "What?"), "the provider refuses the request"),
}


@pytest.fixture(autouse=True)
def shipped(home: RelayHome) -> RelayHome:
    """As shipped: mail that is refused for the account is deferred."""
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    return home


def send(deliver: Deliver, mailbox: str) -> Delivery:
    """Send a message from this mailbox."""
    return deliver(mail(From=mailbox), "to@external.com", sender=mailbox)


def told(sandbox: Sandbox) -> list[Accepted]:
    """Return the admin's mail."""
    return [message for message in sandbox.accepted if message.to == ["admin@domain.com"]]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_at_once_where_another_mailbox_can_tell(sandbox: Sandbox, deliver: Deliver, refusal: str) -> None:
    answer, meaning = REFUSALS[refusal]
    sandbox.answer("sendMail", answer)
    assert send(deliver, NETWORK).verdict == "deferred"
    (notice,) = told(sandbox)
    assert notice.mailbox == ALERTS
    assert meaning in notice.subject
    assert notice.subject.startswith("[postfix-api-relay] Mail is waiting: ")
    text = notice.raw.decode()
    for word in ("to@external.com", "4ZxTestQid", "--send-test", "postqueue -f", f"HTTP {answer.status}"):
        assert word in text


def test_once_a_day_for_a_mailbox(sandbox: Sandbox, shipped: RelayHome, deliver: Deliver) -> None:
    for _ in range(3):
        sandbox.answer("sendMail", REFUSALS["unknown"][0])
        send(deliver, NETWORK)
        assert len(told(sandbox)) == 1
    # The admin knows: an accepted message does not cause a second report.
    assert send(deliver, ALERTS).verdict == "sent"
    assert len(told(sandbox)) == 1


@pytest.mark.parametrize("refusal", [name for name in REFUSALS if name != "unknown"])
def test_by_the_first_mailbox_that_works_where_the_default_one_does_not(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver, refusal: str
) -> None:
    answer, _ = REFUSALS[refusal]
    sandbox.answer("sendMail", answer)
    for _ in range(3):
        assert send(deliver, ALERTS).verdict == "deferred"
    assert told(sandbox) == []
    assert send(deliver, NETWORK).verdict == "sent"
    (notice,) = told(sandbox)
    assert notice.mailbox == NETWORK
    subject = "[postfix-api-relay] Mail is waiting: the provider refused it and the notices about it"
    assert notice.subject == subject
    text = notice.raw.decode()
    assert f"HTTP {answer.status}" in text
    assert f"1 x {ALERTS}" in text
    assert read(shipped, NOTICES)["credentials"]["held"] == {}
    # For a day the admin is not notified again, however often that mailbox is tried.
    for _ in range(3):
        pass_by(shipped, 1800)
        sandbox.answer("sendMail", answer)
        assert "asked again" not in send(deliver, ALERTS).text
        assert send(deliver, NETWORK).verdict == "sent"
    assert len(told(sandbox)) == 1


def test_as_soon_as_the_credentials_work_again(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("token", provided("entra/secret-expired"))
    assert send(deliver, ALERTS).dsn == "4.7.0"
    assert told(sandbox) == []
    # The file changes, as when an admin renews the secret.
    shipped.secrets(API_EXPIRATION_DATE="2099-01-01")
    assert send(deliver, ALERTS).verdict == "sent"
    (notice,) = told(sandbox)
    assert notice.subject.startswith("[postfix-api-relay] Mail goes out again; the cause was: ")
    assert "AADSTS7000222" in notice.raw.decode()
    assert "the credentials" in notice.raw.decode()


def test_a_bounce_that_is_the_first_to_be_refused_keeps_nothing_back(
    sandbox: Sandbox, deliver: Deliver
) -> None:
    """It causes no notice, but the next message does, though that makes no call."""
    sandbox.answer("sendMail", GONE)
    assert deliver(mail(From=NETWORK), "to@external.com", sender="").verdict == "deferred"
    assert told(sandbox) == []
    for _ in range(2):
        assert "asked again" in send(deliver, NETWORK).text
        assert len(told(sandbox)) == 1


def test_status_warns_meanwhile(sandbox: Sandbox, shipped: RelayHome, deliver: Deliver) -> None:
    """It exits with 2 here because there is no Postfix."""

    def problems() -> list[str]:
        found = json.loads(by_hand(shipped, "--status", "--format", "json").stdout)
        assert found["status"] == "CRITICAL"
        return [text for text in found["problems"] if "the provider has refused" in text]

    assert problems() == []
    sandbox.answer("sendMail", GONE)
    send(deliver, ALERTS)
    (problem,) = problems()
    assert f"the provider has refused mail of {ALERTS} since " in problem
    assert "4.1.8 Graph sendMail failed: HTTP 404 MailboxNotEnabledForRESTAPI" in problem
    done = by_hand(shipped, "--status")
    assert done.returncode == 2
    assert f"refused:     {ALERTS} (asked again in " in done.stdout
    assert (
        "postfix_api_relay_window_refused 1" in by_hand(shipped, "--status", "--format", "prometheus").stdout
    )
    pass_by(shipped, 60)
    assert send(deliver, ALERTS).verdict == "sent"
    assert problems() == []


@pytest.mark.parametrize("answer", [graph_error(400, "NeverHeardOf", "What?"), graph_error(405, "x", "y")])
def test_status_names_a_message_that_is_refused_alone(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    sandbox.answer("sendMail", answer)
    assert deliver(mail(), "to@external.com", queue_id="4zStuck").dsn == "4.6.0"
    assert (
        f"the provider has refused mail of {ALERTS}, message 4zStuck since "
        in by_hand(shipped, "--status").stdout
    )
    # It does not stop others, and ends when it is accepted itself.
    assert deliver(mail(), "to@external.com", queue_id="4zOther").verdict == "sent"
    assert by_hand(shipped, "--status").returncode == 2
    assert deliver(mail(), "to@external.com", queue_id="4zStuck").verdict == "sent"
    assert "the provider has refused" not in by_hand(shipped, "--status").stdout


def test_status_names_refused_credentials(sandbox: Sandbox, shipped: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("token", provided("entra/secret-expired"))
    send(deliver, ALERTS)
    said = by_hand(shipped, "--status").stdout
    assert "no mail has gone out since " in said
    assert "the provider has refused all mail since " not in said
    assert "refused:     the credentials (asked again in " in said


def test_nobody_is_told_of_what_passes(sandbox: Sandbox, shipped: RelayHome, deliver: Deliver) -> None:
    for answer in (provided("graph/server-busy-400"), Answer(403, body=b"<html>"), Answer(503)):
        sandbox.answer("sendMail", answer)
        assert send(deliver, NETWORK).verdict == "deferred"
    assert send(deliver, NETWORK).verdict == "sent"
    assert told(sandbox) == []
