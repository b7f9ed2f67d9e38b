"""The guide's test messages, through a real Postfix to what the provider accepted."""

from __future__ import annotations

import smtplib

import pytest
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import PrivatePostfix
from sandbox import Accepted, Sandbox


@pytest.fixture(params=["graph", "ses"])
def provider(request: pytest.FixtureRequest, home: RelayHome) -> str:
    """Each provider in turn, with the home configured for it."""
    name: str = request.param
    if name == "ses":
        home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="us-east-1")
    return name


def delivered(postfix: PrivatePostfix, sandbox: Sandbox, count: int = 1) -> list[Accepted]:
    """Return what the provider accepted once the queue is empty; it has to be COUNT messages."""
    postfix.wait_until_empty()
    assert len(sandbox.accepted) == count, postfix.log()
    return sandbox.accepted


def lines(home: RelayHome, word: str) -> list[str]:
    """Return the lines of the relay's log that begin with WORD and a colon, without their time."""
    texts = [line.partition("] ")[2] for line in home.log().splitlines()]
    return [text for text in texts if text.startswith(f"{word}:")]


def test_basic(home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix, provider: str) -> None:
    postfix.sendmail("alerts@domain.com", ["admin@domain.com"], mail(To="admin@domain.com").decode())
    [message] = delivered(postfix, sandbox)
    assert (message.provider, message.mailbox) == (provider, "alerts@domain.com")
    assert (message.to, message.cc, message.bcc) == (["admin@domain.com"], [], [])
    assert message.message.get_payload() == "Text.\r\n"
    [outcome] = postfix.outcomes()
    assert (outcome.status, outcome.dsn) == ("sent", "2.0.0")
    assert lines(home, "PROCESSING") == [
        "PROCESSING: sender='alerts@domain.com' recipients=['admin@domain.com'] client_ip=''"
        f" queue_id='{outcome.queue_id}'"
    ]


def test_cc_and_bcc_in_several_domains_are_one_delivery(
    home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix, provider: str
) -> None:
    recipients = ["to@external.com", "cc@partner.org", "bcc@domain.com"]
    text = mail(To="to@external.com", Cc="Partner <cc@partner.org>", Subject="BCC").decode()
    postfix.sendmail("alerts@domain.com", recipients, text)
    [message] = delivered(postfix, sandbox)
    assert message.provider == provider
    assert [message.to, message.cc, message.bcc] == [[recipient] for recipient in recipients]
    assert len(lines(home, "PROCESSING")) == 1
    assert lines(home, "CLASSIFIED") == [
        "CLASSIFIED: to=['to@external.com'] cc=['cc@partner.org'] bcc=['bcc@domain.com']"
        " (mime_to=['to@external.com'] mime_cc=['cc@partner.org'])"
        f" queue_id={postfix.outcomes()[0].queue_id!r}"
    ]
    [line] = lines(home, "DELIVERED")
    assert line.startswith(
        "DELIVERED: from='alerts@domain.com' to=['to@external.com'] cc=['cc@partner.org']"
        " bcc=['bcc@domain.com'] subject='BCC' queue_id="
    )
    assert [(outcome.recipient, outcome.status) for outcome in sorted(postfix.outcomes(), key=str)] == [
        (recipient, "sent") for recipient in sorted(recipients)
    ]


def test_an_unknown_sender_is_replaced_and_the_admin_told(
    home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix, provider: str
) -> None:
    text = mail(From="unknown-device@local", To="admin@domain.com").decode()
    postfix.sendmail("unknown-device@local", ["admin@domain.com"], text)
    message, notice = delivered(postfix, sandbox, 2)
    assert (message.provider, message.mailbox) == (provider, "alerts@domain.com")
    assert message.message["From"] == "alerts@domain.com"
    assert message.message["X-Original-From"] == "unknown-device@local"
    assert (notice.mailbox, notice.to) == ("alerts@domain.com", ["admin@domain.com"])
    assert "unknown-device@local" in notice.subject
    assert notice.message["Auto-Submitted"] == "auto-generated"


def test_a_device_in_the_network(home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix) -> None:
    text = mail(To="admin@domain.com").decode()
    postfix.smtp("alerts@domain.com", ["admin@domain.com"], text, source_address="127.0.0.21")
    [message] = delivered(postfix, sandbox)
    assert message.to == ["admin@domain.com"]
    [line] = lines(home, "PROCESSING")
    assert "client_ip='127.0.0.21'" in line


def test_a_device_outside_the_networks_is_turned_away(home: RelayHome, sandbox: Sandbox) -> None:
    settings = {"mynetworks": "127.0.0.1/32"}
    with PrivatePostfix(home.script, user=home.account.pw_name, settings=settings) as postfix:
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="5.7.1"):
            postfix.smtp("alerts@domain.com", ["a@external.com"], mail().decode(), source_address="127.0.0.2")
        postfix.smtp("alerts@domain.com", ["a@external.com"], mail(To="a@external.com").decode())
        [message] = delivered(postfix, sandbox)
    assert message.to == ["a@external.com"]


def test_a_trusted_device_sends_as_it_is(home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix) -> None:
    home.configure(TRUSTED_DEVICE_IPS=["127.0.0.32/29"], TRUSTED_DEVICE_DOMAINS=["domain.com"])
    text = mail(From="Copier <copier@domain.com>", To="admin@domain.com").decode()
    postfix.smtp("copier@domain.com", ["admin@domain.com"], text, source_address="127.0.0.35")
    [message] = delivered(postfix, sandbox)
    assert message.mailbox == "copier@domain.com"
    assert message.message["From"] == "Copier <copier@domain.com>"
    # From any other address the sender is unknown.
    postfix.smtp("copier@domain.com", ["admin@domain.com"], text, source_address="127.0.0.41")
    _, untrusted, notice = delivered(postfix, sandbox, 3)
    assert untrusted.mailbox == "alerts@domain.com"
    assert untrusted.message["From"] == "Copier <alerts@domain.com>"
    assert "copier@domain.com" in notice.subject


def test_a_rejected_message_returns_to_its_sender(
    sandbox: Sandbox, postfix: PrivatePostfix, provider: str
) -> None:
    postfix.sendmail("network@domain.com", ["admin@domain.com"], mail(To=None, Subject="No To").decode())
    notice, bounce = delivered(postfix, sandbox, 2)
    rejected, returned = postfix.outcomes()
    assert (rejected.status, rejected.dsn) == ("bounced", "5.7.1")
    assert rejected.text.startswith("REJECTED (no visible recipient)")
    assert (notice.mailbox, notice.to) == ("alerts@domain.com", ["admin@domain.com"])
    assert "Permanent failure" in notice.subject
    assert (returned.status, returned.recipient) == ("sent", "network@domain.com")
    assert (bounce.provider, bounce.mailbox) == (provider, "alerts@domain.com")
    assert bounce.to == ["network@domain.com"]
    assert b"REJECTED (no visible recipient)" in bounce.raw
    assert b"Subject: No To" in bounce.raw


def test_two_tenants_share_a_host(home: RelayHome, sandbox: Sandbox) -> None:
    with RelayHome(sandbox.url, sandbox.ca_file) as tenant:
        tenant.configure(DEFAULT_FROM_ADDRESS="tenant@other.example", VALID_FROM_ADDRESSES=[])
        command = f"{home.script} --home {tenant.path}"
        with PrivatePostfix(command, user=home.account.pw_name) as postfix:
            postfix.sendmail("", ["admin@domain.com"], mail(To="admin@domain.com").decode())
            [message] = delivered(postfix, sandbox)
        assert message.mailbox == "tenant@other.example"
        assert len(lines(tenant, "DELIVERED")) == 1
    assert home.log() == ""
