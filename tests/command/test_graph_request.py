"""The request to Graph: one, from the mailbox in From, to the envelope's recipients."""

from __future__ import annotations

import base64

import pytest
from conftest import Deliver
from helpers.home import RelayHome
from helpers.mail import mail
from sandbox import GRAPH_REQUEST_LIMIT, Sandbox

MESSAGE_LIMIT = GRAPH_REQUEST_LIMIT // 4 * 3


def test_one_message_is_one_request(sandbox: Sandbox, deliver: Deliver) -> None:
    deliver(mail(Cc="cc@other.com"), "to@external.com", "cc@other.com", "bcc@domain.com")
    token, request = sandbox.requests
    assert token.role == "token"
    assert (request.method, request.path) == ("POST", "/v1.0/users/alerts@domain.com/sendMail")
    assert request.headers["content-type"] == "text/plain"
    (message,) = sandbox.accepted
    assert base64.b64decode(request.body, validate=True) == message.raw
    assert (message.to, message.cc, message.bcc) == (
        ["to@external.com"],
        ["cc@other.com"],
        ["bcc@domain.com"],
    )


def test_a_message_comes_through_byte_for_byte(sandbox: Sandbox, deliver: Deliver) -> None:
    header = (
        b"Received: from x by y;\n\tThu, 1 Jan 2026 00:00:00 +0000\n"
        b'From: "A. Lert" <alerts@domain.com>\nTo: To <to@external.com>\n'
        b"Subject: =?utf-8?q?caf=C3=A9?= \xe9\nX-Long: a\n  b\n"
    )
    body = b"8-bit \xff\xfe\n.\n\nFrom here\n--x\n\x00end without newline"
    deliver(b"Return-Path: <a@b>\n" + header + b"\n" + body, "to@external.com")
    assert sandbox.accepted[0].raw == (header + b"\n" + body).replace(b"\n", b"\r\n")


@pytest.mark.parametrize(
    ("field", "mailbox", "edited"),
    [
        ("network@domain.com", "network@domain.com", "network@domain.com"),
        ("Net <Network@Domain.com>", "Network@Domain.com", "Net <Network@Domain.com>"),
        ("someone@else.com", "alerts@domain.com", "alerts@domain.com"),
        ("Some One <someone@else.com>", "alerts@domain.com", "Some One <alerts@domain.com>"),
        ("a@b.com, network@domain.com", "network@domain.com", "network@domain.com"),
        (None, "alerts@domain.com", "alerts@domain.com"),
    ],
    ids=str,
)
def test_the_mailbox_is_the_address_in_the_edited_from(
    sandbox: Sandbox, deliver: Deliver, field: str | None, mailbox: str, edited: str
) -> None:
    assert deliver(mail(From=field), "to@external.com").verdict == "sent"
    # If another author is replaced, the admin is notified, too.
    message = sandbox.accepted[0]
    assert message.mailbox == mailbox
    assert message.message.get_all("From") == [edited]
    assert message.message["X-Original-From"] == (None if field is None or edited == field else field)


def test_a_sender_cannot_change_the_path(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sender = "a/b?c#d%2Fe@domain.com"
    home.configure(VALID_FROM_ADDRESSES=[sender])
    assert deliver(mail(From=None), "to@external.com", sender=sender).verdict == "sent"
    assert sandbox.requests[-1].path == "/v1.0/users/a%2Fb%3Fc%23d%252Fe@domain.com/sendMail"
    assert sandbox.accepted[0].mailbox == sender


def test_a_stranger_in_a_header_gets_nothing(sandbox: Sandbox, deliver: Deliver) -> None:
    message = mail(To="Old List <list@x.com>, To <to@external.com>", Cc="c@y.com", Bcc="b@z.com")
    deliver(message, "to@external.com", "bcc@domain.com")
    (accepted,) = sandbox.accepted
    assert (accepted.to, accepted.cc, accepted.bcc) == (["to@external.com"], [], ["bcc@domain.com"])
    assert accepted.message["To"] == "To <to@external.com>"


def test_nothing_of_the_environment_is_used(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.put(".netrc", b"machine localhost login x password y\n")
    prefix = ("env", f"HOME={home.path}", "https_proxy=http://127.0.0.1:1", "REQUESTS_CA_BUNDLE=/dev/null")
    assert deliver(mail(), "to@external.com", prefix=prefix).verdict == "sent"
    assert sandbox.requests[-1].headers["authorization"].startswith("Bearer ")


def sized(sandbox: Sandbox, deliver: Deliver, size: int) -> bytes:
    """Return a message that has this size when it reaches Graph."""
    deliver(mail(b""), "to@external.com", sender="MAILER-DAEMON")
    smallest = len(sandbox.accepted[0].raw)
    sandbox.reset()
    return mail(b"x" * (size - smallest))


def test_a_request_of_exactly_the_limit_passes(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(LARGE_MESSAGES="refuse")
    message = sized(sandbox, deliver, MESSAGE_LIMIT)
    assert deliver(message, "to@external.com", sender="MAILER-DAEMON").verdict == "sent"
    assert len(sandbox.requests[-1].body) == GRAPH_REQUEST_LIMIT


def test_a_larger_message_is_refused_before_any_request(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.configure(LARGE_MESSAGES="refuse")
    message = sized(sandbox, deliver, MESSAGE_LIMIT + 1)
    (home.path / ".graph-token-cache").unlink()
    delivery = deliver(message, "to@external.com", sender="MAILER-DAEMON")
    assert delivery[:3] == ("bounced", "5.3.4", 1)
    for number in (MESSAGE_LIMIT + 1, GRAPH_REQUEST_LIMIT + 4, GRAPH_REQUEST_LIMIT):
        assert str(number) in delivery.text
    assert sandbox.requests == []


def test_line_ends_count_in_the_size(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(LARGE_MESSAGES="refuse")
    message = mail(b"\n" * (MESSAGE_LIMIT // 2 + 1))
    assert len(message) < MESSAGE_LIMIT
    assert deliver(message, "to@external.com", sender="MAILER-DAEMON").dsn == "5.3.4"
    assert sandbox.requests == []


def test_the_admin_is_told_of_a_message_that_is_too_large(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.configure(LARGE_MESSAGES="refuse")
    assert deliver(mail(b"x" * MESSAGE_LIMIT), "to@external.com").dsn == "5.3.4"
    (alert,) = sandbox.accepted
    assert alert.to == ["admin@domain.com"]
    assert "larger than the provider accepts" in alert.subject
