"""Every message, however odd, is soon sent to the envelope's recipients or bounced for a stated reason."""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode

import pytest
from conftest import Deliver, Figures
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.odd_messages import LF_TO_CRLF, SHAPES, TO
from helpers.pipe import Delivery
from helpers.variants import use_ses
from sandbox import Sandbox

MANY = [f"user{number}@external.com" for number in range(10_000)]
ENVELOPE = MANY[:400]
# Seconds of processor time for a message that needs little work.
SOON = 10.0


def spent() -> float:
    """Return the processor time of all deliveries so far, which does not include the machine's other work."""
    times = os.times()
    return times.children_user + times.children_system


def expect_bounced(delivery: Delivery, code: str) -> None:
    """Assert that the message bounced, and that this code comes first."""
    assert (delivery.verdict, delivery.status, delivery.dsn) == ("bounced", 1, code)
    assert delivery.text.startswith(f"{code} ")


def body_of(message: bytes) -> bytes:
    """Return what follows the first blank line, with the line ends of the wire; b"" without one."""
    return message.replace(b"\r\n", b"\n").partition(b"\n\n")[2].replace(*LF_TO_CRLF)


@pytest.mark.parametrize(("message", "code"), SHAPES.values(), ids=SHAPES)
def test_a_shape(sandbox: Sandbox, home: RelayHome, deliver: Deliver, message: bytes, code: str) -> None:
    before = spent()
    # From the null sender, so the bounce is not reported.
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
    """A request of 4,000,000 bytes is made; with four letters more the message goes as a draft."""
    fixed = len(mail(b"").replace(*LF_TO_CRLF))
    for excess in (0, 1):
        assert deliver(mail(b"x" * (3_000_000 - fixed + excess)), TO, sender="").verdict == "sent"
    assert [message.via for message in sandbox.accepted] == ["mime", "draft"]
    (request,) = [request for request in sandbox.requests if request.role == "sendMail"]
    assert len(request.body) == 4_000_000
