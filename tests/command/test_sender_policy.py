"""The sender that a message is sent from, and the notices to the admin."""

from __future__ import annotations

import email.utils
import re

import pytest
from conftest import Deliver
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.state import WINDOW, read
from sandbox import Accepted, Sandbox

STRANGER = "unknown-device@local"


def notices(sandbox: Sandbox) -> list[Accepted]:
    """Return the admin's mail among what the provider accepted."""
    return [message for message in sandbox.accepted if message.to == ["admin@domain.com"]]


@pytest.mark.parametrize("sender", ["alerts@domain.com", "Network@DOMAIN.com", "NETWORK@domain.com"])
def test_an_approved_sender_goes_out_as_it_is(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sender: str
) -> None:
    assert deliver(mail(From=f"Net <{sender}>"), "to@external.com", sender=sender).verdict == "sent"
    (message,) = sandbox.accepted
    assert message.mailbox == sender
    assert message.message["From"] == f"Net <{sender}>"
    assert message.message["X-Original-From"] is None
    assert f"approved sender {sender!r}" in home.log()


def test_the_default_address_needs_no_approval(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(VALID_FROM_ADDRESSES=None)
    deliver(mail(From="ALERTS@domain.com"), "to@external.com", sender="Alerts@Domain.com")
    assert [message.mailbox.lower() for message in sandbox.accepted] == ["alerts@domain.com"]


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_another_sender_is_replaced_and_the_admin_is_told(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=28)
    if provider == "ses":
        home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    message = mail(From=f"Pump 7 <{STRANGER}>", Subject="Pressure")
    delivery = deliver(message, "to@external.com", sender=STRANGER, client="10.9.9.9")
    assert delivery == ("sent", "2.0.0", 0, b"")
    sent, notice = sandbox.accepted
    assert (sent.mailbox, sent.to) == ("alerts@domain.com", ["to@external.com"])
    assert sent.message["From"] == "Pump 7 <alerts@domain.com>"
    assert sent.message["X-Original-From"] == f"Pump 7 <{STRANGER}>"
    assert (notice.mailbox, notice.to, notice.cc, notice.bcc) == (
        "alerts@domain.com",
        ["admin@domain.com"],
        [],
        [],
    )
    assert "OVERRIDE" in home.log()
    assert "NOTICE: override" in home.log()
    assert home.log().index("DELIVERED") < home.log().index("NOTICE: override")


def test_the_notice_names_what_happened(sandbox: Sandbox, deliver: Deliver) -> None:
    message = mail(From=STRANGER, Subject="Pressure")
    deliver(message, "to@external.com", "bcc@domain.com", sender=STRANGER, client="10.9.9.9")
    (notice,) = notices(sandbox)
    header = notice.message
    assert header["Auto-Submitted"] == "auto-generated"
    assert header["X-Auto-Response-Suppress"] == "All"
    assert header["From"] == "alerts@domain.com"
    assert header["To"] == "admin@domain.com"
    assert header["Message-ID"].endswith("@domain.com>")
    assert email.utils.parsedate_to_datetime(header["Date"])
    assert STRANGER in notice.subject
    body = notice.raw.decode().partition("\r\n\r\n")[2]
    for word in (STRANGER, "10.9.9.9", "to@external.com", "bcc@domain.com", "Pressure", "4ZxTestQid"):
        assert word in body
    for word in ("VALID_FROM_ADDRESSES", "SILENT_OVERRIDE_ADDRESSES"):
        assert word in body


@pytest.mark.parametrize("sender", ["device@domain.com", "DEVICE@Domain.COM"])
def test_a_silent_address_is_replaced_without_a_notice(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sender: str
) -> None:
    home.configure(SILENT_OVERRIDE_ADDRESSES=["Device@domain.com"])
    deliver(mail(From=sender), "to@external.com", sender=sender)
    assert [(message.mailbox, message.to) for message in sandbox.accepted] == [
        ("alerts@domain.com", ["to@external.com"])
    ]
    assert "OVERRIDE" in home.log()


def test_notices_can_be_switched_off(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(NOTIFY_ON_OVERRIDE=False)
    deliver(mail(From=STRANGER), "to@external.com", sender=STRANGER)
    assert notices(sandbox) == []
    assert [message.mailbox for message in sandbox.accepted] == ["alerts@domain.com"]


@pytest.mark.parametrize("sender", ["", "MAILER-DAEMON", "mailer-daemon"])
def test_the_null_sender_goes_out_from_the_default_without_a_notice(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sender: str
) -> None:
    message = mail(From="MAILER-DAEMON@relay.local (Mail Delivery System)")
    assert deliver(message, "to@external.com", sender=sender).verdict == "sent"
    assert [(message.mailbox, message.to) for message in sandbox.accepted] == [
        ("alerts@domain.com", ["to@external.com"])
    ]
    assert "OVERRIDE" not in home.log()
    assert "null sender" in home.log()


@pytest.mark.parametrize("sender", ["", "MAILER-DAEMON", "double-bounce@relay.local"])
def test_a_bounce_that_is_refused_makes_no_alert(sandbox: Sandbox, deliver: Deliver, sender: str) -> None:
    assert deliver(mail(To=None), "to@external.com", sender=sender).verdict == "bounced"
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("client", "sender", "trusted"),
    [
        ("10.1.1.20", "scan@domain.com", True),
        ("10.1.2.99", "scan@domain.com", True),
        ("2001:db8:1::7", "scan@domain.com", True),
        ("2001:0DB8::0005", "scan@domain.com", True),
        ("::ffff:10.1.1.20", "scan@domain.com", True),
        ("10.1.3.1", "scan@domain.com", False),
        ("10.1.1.20", "scan@other.com", False),
        ("10.1.1.20", "scan@notdomain.com", False),
        ("10.1.1.20", "scan", False),
        ("", "scan@domain.com", False),
        ("unknown", "scan@domain.com", False),
    ],
)
def test_a_trusted_device_needs_address_and_domain(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, client: str, sender: str, trusted: bool
) -> None:
    home.configure(
        TRUSTED_DEVICE_IPS=["10.1.1.X", "10.1.1.20", "10.1.2.0/24", "2001:db8::5", "2001:db8:1::/48"],
        TRUSTED_DEVICE_DOMAINS=["Domain.com"],
    )
    deliver(mail(From=f"Copier <{sender}>"), "to@external.com", sender=sender, client=client)
    assert sandbox.accepted[0].mailbox == (sender if trusted else "alerts@domain.com")
    assert len(notices(sandbox)) == (0 if trusted else 1)
    assert ("trusted device" in home.log()) == trusted


def test_what_a_header_claims_is_not_the_sender(sandbox: Sandbox, deliver: Deliver) -> None:
    """An approved envelope sender does not let a forged From through."""
    deliver(mail(From="Boss <ceo@domain.com>", Sender="ceo@domain.com"), "to@external.com")
    message, notice = sandbox.accepted
    assert "ceo@domain.com" in notice.subject
    assert message.mailbox == "alerts@domain.com"
    assert message.message["From"] == "Boss <alerts@domain.com>"
    assert message.message["Sender"] is None
    assert message.message["X-Original-From"] == "Boss <ceo@domain.com>"


def test_a_hostile_sender_cannot_shape_the_notice(sandbox: Sandbox, deliver: Deliver) -> None:
    sender = "x\r\nBcc: evil@evil.example\r\n\r\né\udcff@local"
    assert deliver(mail(From=None), "to@external.com", sender=sender).verdict == "sent"
    (notice,) = notices(sandbox)
    assert (notice.to, notice.cc, notice.bcc) == (["admin@domain.com"], [], [])
    assert notice.message["Bcc"] is None


def test_an_approved_from_of_another_envelope_is_no_override(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """Graph has no envelope: the message is unchanged."""
    message = mail(From="network@domain.com")
    assert deliver(message, "to@external.com", sender="www-data@web.local").verdict == "sent"
    (accepted,) = sandbox.accepted
    assert (accepted.mailbox, accepted.message["X-Original-From"]) == ("network@domain.com", None)
    assert "OVERRIDE" not in home.log()
    assert (
        "SENDER: sender 'www-data@web.local' is not approved, goes out as 'network@domain.com'" in home.log()
    )
    assert read(home, WINDOW)["counters"]["overridden"] == 0


def test_a_from_that_is_replaced_is_an_override_of_it(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    message = mail(From=f"Web <{STRANGER}>")
    assert deliver(message, "to@external.com", sender="network@domain.com").verdict == "sent"
    accepted, notice = sandbox.accepted
    assert accepted.message["From"] == "Web <network@domain.com>"
    assert notice.subject == f"[postfix-api-relay] Sender replaced: {STRANGER}"
    assert f"From '{STRANGER}' is not approved, goes out from 'network@domain.com' (OVERRIDE)" in home.log()
    assert read(home, WINDOW)["counters"]["overridden"] == 1


@pytest.mark.parametrize(("silent", "told"), [(STRANGER, 0), ("network@domain.com", 1)])
def test_a_silent_from_is_replaced_without_a_notice(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, silent: str, told: int
) -> None:
    home.configure(SILENT_OVERRIDE_ADDRESSES=[silent])
    assert deliver(mail(From=STRANGER), "to@external.com", sender="network@domain.com").verdict == "sent"
    assert len(notices(sandbox)) == told
    for notice in notices(sandbox):
        assert re.search(rf"Replaced: +{STRANGER}\r\n", notice.raw.decode())


@pytest.mark.parametrize("sender", ["alerts@domain.com", "printer@domain.com", ""])
def test_the_log_says_as_whom_a_message_really_goes_out(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sender: str
) -> None:
    home.configure(TRUSTED_DEVICE_IPS=["10.1.1.20"], TRUSTED_DEVICE_DOMAINS=["domain.com"])
    deliver(mail(From="network@domain.com"), "to@external.com", sender=sender, client="10.1.1.20")
    assert [message.mailbox for message in sandbox.accepted] == ["network@domain.com"]
    assert re.search(
        r"SENDER: .* goes out as 'network@domain.com', the approved address in its From", home.log()
    )


def test_a_null_sender_of_a_device_silences_no_failure(sandbox: Sandbox, deliver: Deliver) -> None:
    """Postfix takes MAIL FROM:<MAILER-DAEMON> for it."""
    assert deliver(mail(To=None), "to@external.com", sender="", client="10.9.9.9").verdict == "bounced"
    assert len(notices(sandbox)) == 1


@pytest.mark.parametrize(
    ("author", "client", "kept"),
    [
        ("user@domain.com", "10.1.1.20", True),
        ("User <USER@Domain.com>", "10.1.1.20", True),
        ("user@domain.com", "10.1.1.21", False),
        ("user@domain.com", "", False),
        ("user@other.com", "10.1.1.20", False),
    ],
)
@pytest.mark.parametrize("envelope", ["copier@domain.com", "network@domain.com"])
def test_a_trusted_device_may_send_for_its_users(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, author: str, client: str, kept: bool, envelope: str
) -> None:
    """MAIL FROM is the device, and From is the person who scans."""
    home.configure(TRUSTED_DEVICE_IPS=["10.1.1.20"], TRUSTED_DEVICE_DOMAINS=["domain.com"])
    deliver(mail(From=author), "to@external.com", sender=envelope, client=client)
    first = sandbox.accepted[0]
    assert (first.message["From"] == author) == kept
    assert (first.mailbox.lower() == "user@domain.com") == kept
    assert len(notices(sandbox)) == (0 if kept else 1)


def test_the_domain_of_the_envelope_counts(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(TRUSTED_DEVICE_IPS=["10.1.1.20"], TRUSTED_DEVICE_DOMAINS=["domain.com"])
    deliver(mail(From="user@domain.com"), "to@external.com", sender="root@copier.local", client="10.1.1.20")
    assert sandbox.accepted[0].mailbox == "alerts@domain.com"


@pytest.mark.parametrize("sender", ["MAILER-DAEMON", "mailer-daemon", "double-bounce@domain.com"])
def test_a_device_that_calls_itself_postfix_silences_nothing(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sender: str
) -> None:
    assert deliver(mail(From=STRANGER), "to@external.com", sender=sender, client="10.9.9.9").verdict == "sent"
    assert [notice.subject for notice in notices(sandbox)] == [
        f"[postfix-api-relay] Sender replaced: {sender}"
    ]
    assert deliver(mail(To=None), "to@external.com", sender=sender, client="10.9.9.9").verdict == "bounced"
    assert len(notices(sandbox)) == 2
