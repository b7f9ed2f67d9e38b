"""Values from outside stay text: in headers, in URLs, in log lines and in notices."""

from __future__ import annotations

import os
import re
import urllib.parse

import pytest
from conftest import Deliver
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.variants import use_ses
from sandbox import Accepted, Sandbox

RECORD = re.compile(r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d\] [\x20-\x7e\x80-\U0010ffff]*")
TARGET = re.compile(r"/v1\.0/users/[A-Za-z0-9%@._~-]+/sendMail")
LONG = "a" * 65536
ODD = {
    "CR LF": "a\r\nX-Injected: 1\r\nBcc: evil@evil.example\r\n@domain.com",
    "LF": "a\n[2030-01-01T00:00:00+00:00] DELIVERED: forged\n@domain.com",
    "CR": "a\rBcc: evil@evil.example\r@domain.com",
    "quoted CR LF": '"\r\nBcc: evil@evil.example\r\n"@domain.com',
    "other line ends": "a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029X-Injected: 1@domain.com",
    "escape": "\x1b[31m\x07\x7f@domain.com",
    "right to left": "\u202egro.live@domain.com",
    "not UTF-8": os.fsdecode(b"\xff\xfe\xe9@domain.com"),
    "half a character": os.fsdecode(b"\xe2\x80@domain.com"),
    "--home": "--home",
    "--help": "--help",
    "--": "--",
    "-x": "-x@y.org",
    "option": "--config=/etc/passwd@domain.com",
    "two": "a@domain.com, evil@evil.example",
    "brackets": "<evil@evil.example>",
    "encoded word": "=?utf-8?q?=0D=0ABcc=3A_evil=40evil.example?=",
    "percent": "%s%n{0}{}$(id)`id`@",
    "64 KiB": f"{LONG}@domain.com",
    "64 KiB of dots": "a." * 32768 + "a@domain.com",
    "64 KiB of CR LF": "\r\n" * 32768,
}
DEVICES = [
    "a/b@domain.com",
    "me/sendMail?x=1#y@domain.com",
    '"../../evil@evil.example/"@domain.com',
    "%2e%2e%2fevil@domain.com",
    "-x@domain.com",
    '"-x y"@domain.com',
    "{x}|y'z&=$+!*^`~@domain.com",
    "geraet\u00e9@domain.com",
    "x\u2028y\u0085z@domain.com",
]


def expect_sound(sandbox: Sandbox, home: RelayHome, *mailboxes: str) -> None:
    """Assert that no message, request or log line contains more than it should."""
    for message in sandbox.accepted:
        expect_sound_message(message)
    for request in sandbox.requests:
        if request.role != "token":
            assert TARGET.fullmatch(request.path), request.path
            name = urllib.parse.unquote(request.path.split("/")[3])
            assert name in (*mailboxes, "alerts@domain.com")
    for line in home.log().rstrip("\n").split("\n"):
        assert RECORD.fullmatch(line), line[:300]


def expect_sound_message(message: Accepted) -> None:
    """Assert that a message has only the fields and recipients that it should have."""
    names = [name.lower() for name, _ in message.message.items()]
    assert len(names) == len(set(names)), names
    assert "x-injected" not in names
    assert (message.cc, message.bcc) == ([], [])
    assert message.to in (["to@external.com"], ["admin@domain.com"])
    header = message.raw.partition(b"\r\n\r\n")[0]
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", header)


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_a_sender(sandbox: Sandbox, home: RelayHome, deliver: Deliver, text: str) -> None:
    delivery = deliver(mail(From=None), "to@external.com", sender=text)
    # An option instead of the sender is a mistake in master.cf, not a verdict.
    if text in ("--home", "--"):
        assert (delivery.verdict, delivery.dsn) == ("deferred", "4.3.5")
        assert sandbox.requests == []
        return
    assert delivery.verdict == "sent"
    # The message, and the notice about its sender.
    assert [message.to for message in sandbox.accepted] == [["to@external.com"], ["admin@domain.com"]]
    expect_sound(sandbox, home)


def test_a_sender_that_looks_like_an_option_loses_nobody(sandbox: Sandbox, deliver: Deliver) -> None:
    delivery = deliver(mail(), "to@external.com", "second@external.com", sender="--")
    assert (delivery.verdict, delivery.dsn) == ("deferred", "4.3.5")
    assert sandbox.requests == []


@pytest.mark.parametrize(
    "name", [name for name in ODD if name not in ("-x", "option", "64 KiB", "right to left")]
)
def test_a_recipient(sandbox: Sandbox, home: RelayHome, deliver: Deliver, name: str) -> None:
    delivery = deliver(mail(), ODD[name], sender="")
    assert (delivery.verdict, delivery.dsn) == ("bounced", "5.1.3")
    assert sandbox.requests == []
    # Beside a valid address it is left out.
    assert deliver(mail(), "to@external.com", ODD[name], sender="").verdict == "sent"
    (accepted,) = sandbox.accepted
    expect_sound_message(accepted)
    assert "WARNING: left out" in home.log()
    for line in home.log().rstrip("\n").split("\n"):
        assert RECORD.fullmatch(line), line[:300]


@pytest.mark.parametrize("name", ["CR LF", "other line ends", "not UTF-8", "64 KiB"])
@pytest.mark.parametrize("argument", ["queue_id", "client"])
def test_another_argument(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, name: str, argument: str
) -> None:
    text = ODD[name].replace("@", " at ")
    arguments = {argument: text}
    assert (
        deliver(mail(From=None), "to@external.com", sender="stranger@domain.com", **arguments).verdict
        == "sent"
    )
    assert len(sandbox.accepted) == 2
    expect_sound(sandbox, home)


@pytest.mark.parametrize("device", DEVICES, ids=lambda text: str(text)[:20])
def test_a_device_s_address_is_one_part_of_the_url(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, device: str
) -> None:
    home.configure(TRUSTED_DEVICE_IPS=["10.1.1.20"], TRUSTED_DEVICE_DOMAINS=["domain.com"])
    delivery = deliver(mail(From=None), "to@external.com", sender=device, client="10.1.1.20")
    assert f"trusted device '10.1.1.20' goes out as {device!r}" in home.log()
    sent = [request for request in sandbox.requests if request.role == "sendMail"]
    # The first request; a warning to the admin may follow.
    assert urllib.parse.unquote(sent[0].path.split("/")[3]) == device
    expect_sound(sandbox, home, device)
    # The sandbox cannot read an address in raw UTF-8, and refuses it as another sender's.
    assert delivery.verdict == ("sent" if device.isascii() else "bounced")


def test_header_fields_of_a_message(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    message = (
        b'From: "a\rBcc: evil@evil.example" <stranger@x.org>\n'
        b"To: to@external.com\n"
        b"Subject: a\rBcc: evil@evil.example\r[2030-01-01T00:00:00+00:00] DELIVERED: forged\0\x0b\x85\xff\n"
        b" \r\n\tX-Injected: 1\n"
        b"Message-ID: <a\rX-Injected: 1@x>\n"
        b"\nBcc: evil@evil.example\n"
    )
    assert deliver(message, "to@external.com", sender="stranger@x.org").verdict == "sent"
    assert len(sandbox.accepted) == 2
    expect_sound(sandbox, home)


def test_ses_as_well(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    use_ses(home)
    for name in ("CR LF", "not UTF-8"):
        assert deliver(mail(From=None), "to@external.com", sender=ODD[name]).verdict == "sent"
        assert deliver(mail(), ODD[name], sender="").dsn == "5.1.3"
    assert len(sandbox.accepted) == 4
    for message in sandbox.accepted:
        expect_sound_message(message)
        assert message.mailbox == "alerts@domain.com"
