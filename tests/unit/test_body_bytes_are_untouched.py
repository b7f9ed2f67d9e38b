"""Signatures and attachments survive only if no byte of the body changes except line ends."""

from __future__ import annotations

import re

import pytest
from helpers.mail_shapes import Shape, shapes
from helpers.script import load_script
from helpers.unit import address_message, parse
from hypothesis import given, reject, settings
from hypothesis import strategies as st

relay = load_script()

BODIES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b".", b"\xff"]), max_size=8).map(b"".join)
HEADER = b"From: alerts@domain.com\nTo: a@x.org\n\n"


def with_crlf(data: bytes) -> bytes:
    """Return the bytes with each line end, a bare LF or a CRLF, as CRLF."""
    return re.sub(rb"\r?\n", b"\r\n", data)


@pytest.mark.parametrize("provider", ["graph", "ses"])
@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=60) | BODIES)
def test_the_body_keeps_every_byte_but_its_line_ends(provider: str, body: bytes) -> None:
    mail = address_message(relay, HEADER + body, ["a@x.org", "b@x.org"], provider=provider)

    assert mail.data.split(b"\r\n\r\n", 1)[1] == with_crlf(body)


@settings(max_examples=150, deadline=None)
@given(body=BODIES, octets=st.integers(1, 4))
def test_no_line_end_is_lost_where_a_piece_ends_in_it(body: bytes, octets: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "PIECE", octets)
        assert parse(relay, HEADER + body).body == with_crlf(body)


@settings(max_examples=150, deadline=None)
@given(shapes)
def test_whatever_the_header_the_end_of_the_message_comes_through(shape: Shape) -> None:
    body = b"\nno colon, so no header\nTo: a@x.org\r\n\xff\0end"
    try:
        mail = address_message(relay, shape.header + body, shape.envelope)
    except relay.Bounced:
        reject()

    assert mail.data.endswith(with_crlf(body))


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_fields_that_need_no_change_keep_every_byte(provider: str) -> None:
    kept = (
        b'DKIM-Signature: v=1;\r\n\tb=abc==\r\nfrom:  "Al, Erts" <ALERTS@domain.com>\r\n'
        b"TO:a@x.org,\r\n\tFriends: =?utf-8?q?J=C3=B6rg?= <B@x.org>;\r\n"
        b"Subject: \xff raw\r\nMime-Version : 1.0\r\n"
    )

    mail = address_message(relay, kept + b"\r\nbody", ["a@x.org", "b@x.org"], provider=provider)

    assert mail.data == kept.replace(b"Mime-Version :", b"Mime-Version:") + b"\r\nbody"
