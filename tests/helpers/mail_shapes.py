"""Hypothesis strategies for messages and envelopes, from well-formed to hopeless."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

# Few, so that header and envelope overlap; some differ only in case or quotes.
ADDRESSES = [
    "a@x.org",
    "A@X.org",
    "b@x.org",
    "k@x.org",
    "alerts@domain.com",
    "network@domain.com",
    "-dash/slash+tag@domain.com",
    '"a"@x.org',
    '"a b"@x.org',
    '"<b@x.org>,"@x.org',
    '"q\\"uote"@x.org',
    "a@[192.0.2.1]",
    "a@[IPv6:2001:db8::1]",
    "jörg@x.org",
    "a@bücher.example",
]
# Addresses in the header only, never in the envelope. The first begins with the Kelvin sign.
STRANGERS = [
    "\u212a@x.org",
    "stranger@evil.example",
    "b@x.org.evil.example",
    "alerts@domain.com.evil.example",
]
FIELD_NAMES = [
    "To",
    "TO",
    "To ",
    "To\t",
    "Cc",
    "cC",
    "Bcc",
    "BCC ",
    "Resent-Bcc",
    "Return-Path",
    "From",
    "fROM ",
]
OTHER_NAMES = ["Sender", "Resent-To", "Subject", "X-Original-From", "DKIM-Signature", "Received"]
PHRASES = [
    "Anna",
    '"Anna, B."',
    "J. Doe",
    "=?utf-8?q?J=C3=B6rg?=",
    "=?utf-8?q?a=40evil=2Eexample=2C?=",
    '"@"',
    "é",
    "",
]
SEPARATORS = [",", ", ", ",\r\n ", " ,\n\t", ",,", ";", "; ", ""]
GROUPS = [
    "undisclosed-recipients:;",
    "Some People:{},a@x.org;",
    ":{};",
    '"a:b": {};',
    "a@x.org:{};",
    "a:b:{};;",
    "a:{}",
]
# Bytes with a meaning in address lists or header fields.
MARKS = [
    *'<>"\\(),;:@.[] \t=?',
    "\r\n ",
    "\n\t",
    "\n \n",
    "\r",
    "\0",
    "\x0c",
    "\x1f",
    "\x7f",
    "=?utf-8?q?=2C?=",
]
EIGHT_BIT = [b"\xe9", b"\xc3", b"\x80", b"\xff"]

# Strategies are made once: making them takes hypothesis longer than drawing from them.
_spelled = st.sampled_from([form for text in ADDRESSES + STRANGERS for form in (text, text.upper())])
_named = st.tuples(st.sampled_from(PHRASES), _spelled).map(lambda pair: f"{pair[0]} <{pair[1]}>")
_mailbox = _spelled | _named
_group = st.tuples(st.sampled_from(GROUPS), _mailbox).map(lambda pair: pair[0].replace("{}", pair[1]))
_items = st.lists(st.tuples(_mailbox | _group, st.sampled_from(SEPARATORS)).map("".join), max_size=4)
_orderly = _items.map("".join).map(str.encode)
_pieces = st.sampled_from([piece.encode() for piece in MARKS + PHRASES] + EIGHT_BIT) | _mailbox.map(
    str.encode
)
_mangled = st.lists(_pieces, max_size=8).map(b"".join)
_name = st.sampled_from([f"{name}:".encode() for name in FIELD_NAMES * 3 + OTHER_NAMES])
_line_end = st.sampled_from([b"\n", b"\r\n", b"\r\r\n"])
_field = st.tuples(_name, _orderly | _mangled, _line_end).map(b"".join)
_odd_line = st.binary(max_size=20) | st.sampled_from(
    [
        b"From a@x.org Thu Jan  1 00:00:00 1970\n",
        b">From a@x.org\n",
        b"no colon\n",
        b": no name\n",
        b" \n",
        b"\t",
    ]
)
_visible = st.sampled_from(
    [b"To: %s\n", b"Cc: %s\n", b"to :Somebody\r\n <%s>,\n", b"CC:(%s\n"] * 2 + [b"X-Not-%s: \n"]
)
_lines = st.tuples(st.lists(_field, max_size=3), st.lists(_field | _odd_line, max_size=3))
_envelope = st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=5)
_end = st.tuples(st.sampled_from([b"\n", b"\r\n", b"", b"\n\n"]), st.binary(max_size=40) | _field)


class Shape(NamedTuple):
    """A message (its header with the blank line, and its body) and its recipients."""

    header: bytes
    body: bytes
    envelope: list[str]


def _shape(
    drawn: tuple[list[str], tuple[list[bytes], list[bytes]], bytes, tuple[bytes, bytes]],
) -> Shape:
    envelope, (before, after), visible, (blank, body) = drawn
    middle = visible.replace(b"%s", envelope[0].encode())
    return Shape(b"".join([*before, middle, *after, blank]), body, envelope)


# Messages with an envelope; the header usually names some of its recipients.
shapes = st.tuples(_envelope, _lines, _visible, _end).map(_shape)
