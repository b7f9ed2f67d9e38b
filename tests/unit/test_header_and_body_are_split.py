"""The header ends where every later reader sees it end."""

from __future__ import annotations

import pytest
from helpers.readers import field_names
from helpers.script import load_script
from helpers.unit import parse

relay = load_script()


def names_of(message: bytes) -> list[bytes]:
    return [field.name for field in parse(relay, message).fields]


@pytest.mark.parametrize(
    ("message", "names", "body"),
    [
        (b"", [], b""),
        (b"\n", [], b""),
        (b"\r\nbody", [], b"body"),
        (b"To: a\n", [b"To"], b""),
        (b"To: a", [b"To"], b""),
        (b"To: a\r", [b"To"], b""),
        (b"To: a\n\nbody", [b"To"], b"body"),
        (b"To: a\r\n\r\n\r\nbody", [b"To"], b"\r\nbody"),
        (b"To: a\nno colon here\nCc: b\n", [b"To"], b"no colon here\r\nCc: b\r\n"),
        (b"To: a\n: no name\n", [b"To"], b": no name\r\n"),
        (b"To: a\nX\x80Y: b\n", [b"To"], b"X\x80Y: b\r\n"),
        (b"To: a\nFrom b\n\nc", [b"To"], b"From b\r\n\r\nc"),
        (b" not a continuation\nTo: a\n", [], b" not a continuation\r\nTo: a\r\n"),
        (b"From a@x.org Thu Jan  1 00:00:00 1970\nTo: a\n\nbody", [b"To"], b"body"),
        (b">From a@x.org Thu Jan  1 00:00:00 1970\nTo: a\n\nbody", [b"To"], b"body"),
    ],
)
def test_the_first_line_that_is_no_field_begins_the_body(
    message: bytes, names: list[bytes], body: bytes
) -> None:
    parsed = parse(relay, message)

    assert [field.name for field in parsed.fields] == names
    assert parsed.body == body


def test_a_from_field_with_a_blank_before_its_colon_is_no_mbox_separator() -> None:
    assert names_of(b"From : alerts@domain.com\nTo: a\n\n") == [b"From", b"To"]


def test_text_that_follows_the_header_directly_does_not_become_one() -> None:
    message = parse(relay, b"To: a@x.org\nHello!\nBcc: b@x.org\n").encode()

    assert message == b"To: a@x.org\r\n\r\nHello!\r\nBcc: b@x.org\r\n"


@pytest.mark.parametrize(
    ("header", "encoded"),
    [
        (b"To : a@x.org\n", b"To: a@x.org\r\n"),
        (b"To \t: a@x.org\n", b"To: a@x.org\r\n"),
        (b"To:\r\n\ta@x.org,\r\n  b@x.org\r\n", b"To:\r\n\ta@x.org,\r\n  b@x.org\r\n"),
        (b"To: a@x.org\n \nCc: b@x.org\n", b"To: a@x.org\r\nCc: b@x.org\r\n"),
        (b"To: a@x.org,\n \t \n b@x.org\n", b"To: a@x.org,\r\n b@x.org\r\n"),
        (b"Subject: a\rBcc: b@x.org\n", b"Subject: a Bcc: b@x.org\r\n"),
        (b"Subject: a\0b\n", b"Subject: a b\r\n"),
        (b"Subject: a\r\r\nTo: a@x.org\n", b"Subject: a \r\nTo: a@x.org\r\n"),
        (b"Subject:\xfcber\xc3\xa9\n", b"Subject:\xfcber\xc3\xa9\r\n"),
        (b"X-Empty:\nX-Blank: \n", b"X-Empty:\r\nX-Blank: \r\n"),
    ],
)
def test_only_what_readers_disagree_about_is_changed(header: bytes, encoded: bytes) -> None:
    assert parse(relay, header + b"\nbody").encode() == encoded + b"\r\nbody"


@pytest.mark.parametrize(
    "trick", [b"a\rBcc: b@x.org", b"a\n \r\nBcc: b@x.org", b"a\n\r\rBcc: b@x.org", b"a\r\n \0\r\n x"]
)
def test_another_reader_sees_no_field_and_no_end_that_the_relay_does_not(trick: bytes) -> None:
    parsed = parse(relay, b"X-First: " + trick + b"\nX-Last: 1\n\nbody")

    assert field_names(parsed.encode()) == [field.name.decode().lower() for field in parsed.fields]
