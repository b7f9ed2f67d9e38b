"""Every message, however odd, is sent to whom the envelope names or bounced for a stated reason, and soon."""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode

import pytest
from conftest import Deliver, Figures
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.variants import use_ses
from sandbox import Sandbox

TO = "to@external.com"
MANY = [f"user{number}@external.com" for number in range(10_000)]
ENVELOPE = MANY[:400]
# Processor time for a message of which nothing takes long.
SOON = 10.0
NOBODY_VISIBLE = "5.7.1"
LF_TO_CRLF = (b"\n", b"\r\n")

# Name: the message, and the code with which it bounces, if it does.
SHAPES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", NOBODY_VISIBLE),
    "one line end": (b"\n", NOBODY_VISIBLE),
    "only NUL": (b"\0" * 1000, NOBODY_VISIBLE),
    "body only": (b"\nTo: to@external.com\n", NOBODY_VISIBLE),
    "no header but text": (b"Hello,\nTo: to@external.com\n\n", NOBODY_VISIBLE),
    "header only": (b"From: alerts@domain.com\nTo: to@external.com\n", ""),
    "header only, last line open": (b"From: alerts@domain.com\nTo: to@external.com", ""),
    "no blank line": (
        b"From: alerts@domain.com\nTo: to@external.com\nText without a colon\nSubject: body\n",
        "",
    ),
    "mbox": (b"From alerts@domain.com Thu Jan  1 00:00:00 1970\n" + mail(), ""),
    "CRLF": (mail().replace(*LF_TO_CRLF), ""),
    "bare CR as line end": (mail().replace(b"\n", b"\r"), NOBODY_VISIBLE),
    "bare CR in the header": (mail(Subject="a\rb\r\rTo: evil@evil.example"), ""),
    "NUL in the header": (mail(Subject="a\0b", X_Nul="\0"), ""),
    "NUL and bare CR in the body": (mail(b"a\0b\rc\n\r\r\n\0"), ""),
    "Latin-1 header": (mail(Subject="S").replace(b"Subject: S", b"Subject: St\xf6rung, To: \xe9"), ""),
    "UTF-8 header": (mail(From="J\u00f6rg <alerts@domain.com>", Subject="St\u00f6rung \U0001f525"), ""),
    "half a UTF-8 character": (mail().replace(b"Subject: Test", b"Subject: \xe2\x82"), ""),
    "1 MB in one field": (mail(X_Long="x" * 1_000_000), ""),
    "1 MB in short fields": (b"X: y\n" * 200_000 + mail(), ""),
    "1 MB of continuation": (b"X: y\n" + b" z\n" * 330_000 + mail(), ""),
    "1 MB of blanks before a colon": (b"X" + b" " * 1_000_000 + b": y\n" + mail(), ""),
    "1 MB without a colon": (b"x" * 1_000_000 + b"\n" + mail(), NOBODY_VISIBLE),
    "1 MB word in To": (mail(To=f"{TO}, {'a' * 1_000_000}"), ""),
    "1 MB of dots in To": (mail(To=f"{TO}, {'a.' * 500_000}"), ""),
    "1 MB of at signs in To": (mail(To=f"{TO}, {'@' * 1_000_000}"), ""),
    "1 MB of quotes in To": (mail(To=f"{TO}, {chr(34) * 999_999}"), ""),
    "1 MB of parentheses in To": (mail(To=f"{TO}, {'(' * 1_000_000}"), ""),
    "1 MB of brackets in To": (mail(To=f"{TO}, {'<' * 1_000_000}"), ""),
    "1 MB of backslashes in To": (mail(To=f'{TO}, "{chr(92) * 1_000_000}'), ""),
    "1 MB of commas in To": (mail(To=f"{TO}{',' * 1_000_000}"), ""),
    "1 MB of groups in To": (mail(To=f"{TO}, {'a:;' * 333_333}"), ""),
    "comments in comments": (mail(To=f"{TO}, {'(' * 2000}{')' * 2000} x@y.org"), ""),
    "words in brackets": (mail(To=f"{TO}, {'<a' * 2000}"), ""),
    "group": (mail(To=f"Friends: {TO}, stranger@x.org;"), ""),
    "empty group": (mail(To="undisclosed-recipients:;"), NOBODY_VISIBLE),
    "route": (mail(To=f"<@relay.example,@other.example:{TO}>"), ""),
    "comment": (mail(To=f"(a (nested) comment) {TO} (another)"), ""),
    "quoted comma": (mail(To=f'"External, To" <{TO}>'), ""),
    "semicolons": (mail(To=f"stranger@x.org; {TO}"), ""),
    "no brackets": (mail(To=f"External To {TO}"), ""),
    "folded": (mail(To=f"External\n\tTo\n <{TO}\n >,\n"), ""),
    "folded by blanks": (mail(To=f"\n \n\t\n {TO}"), ""),
    "blank before the colon": (mail(To=None).replace(b"From:", b"To : to@external.com\nFrom :"), ""),
    "upper case": (mail(To=None).replace(b"From:", b"TO:TO@EXTERNAL.COM\nFROM:"), ""),
    "To twice": (mail(To=f"stranger@x.org\nTo: {TO}"), ""),
    "in Cc only": (mail(To=None, Cc=TO), ""),
    "in Bcc only": (mail(To=None, Bcc=TO), NOBODY_VISIBLE),
    "in Resent-To only": (mail(To=None, Resent_To=TO), NOBODY_VISIBLE),
    "encoded address": (mail(To="=?utf-8?q?to=40external=2Ecom?="), NOBODY_VISIBLE),
    "two From": (mail(From="alerts@domain.com\nFrom: stranger@x.org"), ""),
    "two addresses in From": (mail(From="stranger@x.org, alerts@domain.com"), ""),
    "no From": (mail(From=None), ""),
    "unreadable From": (mail(From='"<>,(\\@'), ""),
    "field without a name": (mail().replace(b"Subject:", b": nothing\nSubject:", 1), ""),
    "field of one name only": (mail(Subject=""), ""),
    "starts with a blank": (b" folded nothing\n" + mail(), NOBODY_VISIBLE),
    "a line of 100 kB in the body": (mail(b"x" * 100_000), ""),
    "broken MIME": (mail(b"--x\n--x--\n", Content_Type="multipart/mixed; boundary=y", MIME_Version="?"), ""),
    "broken base64": (mail(b"====\n", Content_Transfer_Encoding="base64"), ""),
    "bounce in it": (mail(b"--b\nContent-Type: message/rfc822\n\nTo: x@y\n\n--b--\n"), ""),
    "dot lines": (mail(b".\n..\nFrom here\n>From there\n"), ""),
}


def spent() -> float:
    """The processor time of all deliveries so far, which does not go by while others have the machine."""
    times = os.times()
    return times.children_user + times.children_system


def expect_bounced(delivery: Delivery, code: str) -> None:
    """Bounced with this code in front."""
    assert (delivery.verdict, delivery.status, delivery.dsn) == ("bounced", 1, code)
    assert delivery.text.startswith(f"{code} ")


def body_of(message: bytes) -> bytes:
    """What follows the first blank line, with the line ends of the wire; b"" without one."""
    return message.replace(b"\r\n", b"\n").partition(b"\n\n")[2].replace(*LF_TO_CRLF)


@pytest.mark.parametrize(("message", "code"), SHAPES.values(), ids=SHAPES)
def test_a_shape(sandbox: Sandbox, home: RelayHome, deliver: Deliver, message: bytes, code: str) -> None:
    before = spent()
    # From the null sender: a bounce is not told of.
    delivery = deliver(message, TO, "hidden@external.com", sender="")
    assert spent() - before < SOON
    if code:
        expect_bounced(delivery, code)
        assert sandbox.requests == []
        return
    assert delivery.verdict == "sent", delivery
    (accepted,) = sandbox.accepted
    visible = [address.lower() for address in accepted.to + accepted.cc]
    assert (visible, accepted.bcc) == ([TO], ["hidden@external.com"])
    assert accepted.mailbox == "alerts@domain.com"
    assert accepted.raw.endswith(body_of(message))
    assert "Traceback" not in home.log()


@pytest.mark.parametrize(
    "name", ["1 MB in short fields", "NUL and bare CR in the body", "Latin-1 header", "two From"]
)
def test_a_shape_through_ses(sandbox: Sandbox, home: RelayHome, deliver: Deliver, name: str) -> None:
    use_ses(home)
    message = SHAPES[name][0]
    assert deliver(message, TO, "hidden@external.com", sender="").verdict == "sent"
    (accepted,) = sandbox.accepted
    assert (accepted.to, accepted.cc, accepted.bcc) == ([TO], [], ["hidden@external.com"])
    assert accepted.raw.endswith(b"\r\n\r\n" + body_of(message))


def test_ten_thousand_in_to(sandbox: Sandbox, deliver: Deliver, figures: Figures) -> None:
    before, began = spent(), time.monotonic()
    assert deliver(mail(To=",\n ".join(MANY)), *ENVELOPE, sender="").verdict == "sent"
    assert spent() - before < SOON
    (accepted,) = sandbox.accepted
    assert (accepted.to, accepted.cc, accepted.bcc) == (ENVELOPE, [], [])
    figures("10,000 recipients in To, 400 in the envelope", seconds=f"{time.monotonic() - began:.1f}")


def test_25_megabytes(sandbox: Sandbox, home: RelayHome, deliver: Deliver, figures: Figures) -> None:
    body = b"".join(b"%070d\n" % number for number in range(25_000_000 // 71))
    assert deliver(mail(body), TO, sender="").verdict == "sent"
    (accepted,) = sandbox.accepted
    # A text too large for a draft is attached to it.
    (file,) = accepted.received.attachments
    assert (accepted.via, file.name, file.data) == ("draft", "message.txt", body.replace(*LF_TO_CRLF))
    sandbox.reset()
    use_ses(home)
    began = time.monotonic()
    assert deliver(mail(body), TO, sender="").verdict == "sent"
    figures("25 MB through SES", seconds=f"{time.monotonic() - began:.1f}")
    (accepted,) = sandbox.accepted
    assert accepted.raw.partition(b"\r\n\r\n")[2] == body.replace(*LF_TO_CRLF)
    (request,) = sandbox.requests
    assert b64decode(json.loads(request.body)["Content"]["Raw"]["Data"]) == accepted.raw


def test_graph_s_largest(sandbox: Sandbox, deliver: Deliver) -> None:
    """A request of 4,000,000 bytes is made, and what would be four letters more goes as a draft."""
    fixed = len(mail(b"").replace(*LF_TO_CRLF))
    for excess in (0, 1):
        assert deliver(mail(b"x" * (3_000_000 - fixed + excess)), TO, sender="").verdict == "sent"
    assert [message.via for message in sandbox.accepted] == ["mime", "draft"]
    (request,) = [request for request in sandbox.requests if request.role == "sendMail"]
    assert len(request.body) == 4_000_000
