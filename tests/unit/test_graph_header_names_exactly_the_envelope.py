"""Graph has no envelope: everybody whom the header names gets the mail, so it names the envelope's recipients
and nobody else.
"""

from __future__ import annotations

from helpers.mail_shapes import ADDRESSES, Shape, shapes
from helpers.readers import READERS, field_names, same_address
from helpers.script import load_script
from helpers.unit import CONFIG, address_message
from hypothesis import given, settings
from hypothesis import strategies as st

relay = load_script()

APPROVED = {same_address(text) for text in (CONFIG["DEFAULT_FROM_ADDRESS"], *CONFIG["VALID_FROM_ADDRESSES"])}


def edit(shape: Shape, sender: str = "alerts@domain.com") -> bytes:
    """Return what Graph gets, even if the header names none of the envelope."""
    message = shape.header + shape.body
    changes = {"sender": sender, "MISSING_VISIBLE_RECIPIENT": "deliver"}
    return bytes(address_message(relay, message, shape.envelope, **changes).data)


@settings(max_examples=300, deadline=None)
@given(shapes)
def test_every_reader_finds_the_envelope_and_nobody_else(shape: Shape) -> None:
    data = edit(shape)

    for reader in READERS:
        found = [reader(data, name) for name in ("to", "cc", "bcc")]
        if None not in found:
            delivered_to = {same_address(text) for part in found for text in part or ()}
            assert delivered_to == set(map(same_address, shape.envelope)), (reader.__name__, data)


@settings(max_examples=300, deadline=None)
@given(shapes, st.sampled_from(ADDRESSES))
def test_every_reader_finds_one_approved_author(shape: Shape, sender: str) -> None:
    data = edit(shape, sender)

    assert field_names(data).count("from") == 1
    for reader in READERS:
        authors = reader(data, "from")
        if authors is not None:
            assert len(authors) == 1 and same_address(authors[0]) in APPROVED, (reader.__name__, data)


@settings(max_examples=200, deadline=None)
@given(shapes, st.sampled_from(ADDRESSES))
def test_no_line_of_the_header_can_pass_for_its_end(shape: Shape, sender: str) -> None:
    header = edit(shape, sender).split(b"\r\n\r\n")[0]

    for line in header.split(b"\r\n"):
        assert line.strip(b" \t") and not set(line) & set(b"\r\n\0"), header


@settings(max_examples=100, deadline=None)
@given(shapes, st.sampled_from(["Bcc", "bCC ", "Resent-Bcc", "Return-Path"]))
def test_what_the_sender_wrote_for_nobodys_eyes_is_gone(shape: Shape, name: str) -> None:
    hidden = b"%s: hidden@x.org,\r\n hidden@x.org\n" % name.encode()

    data = edit(shape._replace(header=hidden + shape.header))

    assert b"hidden@x.org" not in data
    assert not {"return-path", "resent-bcc"} & set(field_names(data))
