"""Graph refuses a From that is not the mailbox, and nobody may write as somebody else."""

from __future__ import annotations

import pytest
from helpers.readers import raw_values
from helpers.script import load_script
from helpers.unit import address_message

relay = load_script()

SPELLINGS = {
    "angle brackets": ("Al <network@domain.com>", "network@domain.com"),
    "other case": ("NETWORK@Domain.COM", "NETWORK@Domain.COM"),
    "needless quotes": ('"network"@domain.com', '"network"@domain.com'),
}


def edited(
    header: str, sender: str = "alerts@domain.com", provider: str = "graph"
) -> tuple[list[str], list[str], str]:
    """Return the edited From and X-Original-From fields, and the sending mailbox."""
    message = header.encode("utf-8", "surrogateescape") + b"To: a@x.org\n\nbody"
    mail = address_message(relay, message, ["a@x.org"], sender=sender, provider=provider)
    return raw_values(mail.data, "from"), raw_values(mail.data, "x-original-from"), mail.sender


@pytest.mark.parametrize(("written", "mailbox"), SPELLINGS.values(), ids=SPELLINGS)
def test_an_approved_author_stays_and_names_graphs_mailbox(written: str, mailbox: str) -> None:
    assert edited(f"From: {written}\n") == ([written], [], mailbox)


def test_ses_is_given_the_sender_of_the_envelope() -> None:
    header = "From: Al <network@domain.com>\n"

    assert edited(header, provider="ses") == (["Al <network@domain.com>"], [], "alerts@domain.com")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("stranger@x.org", "alerts@domain.com"),
        ("Anna <stranger@x.org>", "Anna <alerts@domain.com>"),
        ('"Anna, B." <stranger@x.org>', '"Anna, B." <alerts@domain.com>'),
        ("=?utf-8?q?J=C3=B6rg?= <stranger@x.org>", "=?utf-8?q?J=C3=B6rg?= <alerts@domain.com>"),
        ("stranger@x.org (Anna)", '"Anna" <alerts@domain.com>'),
        ("alerts@domain.com.x.org", "alerts@domain.com"),
        ("networ\u212a@domain.com", "alerts@domain.com"),
        ("undisclosed-recipients:;", "alerts@domain.com"),
        ("not an address", "alerts@domain.com"),
        ("", "alerts@domain.com"),
    ],
)
def test_another_author_is_replaced_and_the_original_kept(written: str, shown: str) -> None:
    fields, originals, mailbox = edited(f"From: {written}\n")

    assert fields == [shown]
    assert "".join(originals).encode("utf-8", "surrogateescape") == written.encode()
    assert mailbox == "alerts@domain.com"


@pytest.mark.parametrize(
    "header",
    [
        "From: network@domain.com, stranger@x.org\n",
        "From: stranger@x.org\nFrom: network@domain.com\n",
        "From: Friends: network@domain.com, stranger@x.org;\n",
        "From: network@domain.com <stranger@x.org>, network@domain.com\n",
    ],
)
def test_of_several_authors_the_approved_one_stays(header: str) -> None:
    fields, originals, mailbox = edited(header)

    assert fields == ["network@domain.com"] and mailbox == "network@domain.com"
    assert len(originals) == 1 and "stranger@x.org" in originals[0]


@pytest.mark.parametrize(
    "written",
    [
        "<alerts@domain.com",
        "alerts@domain.com stranger@x.org",
        "stranger@x.org <alerts@domain.com>",
        "a, <alerts@domain.com>",
    ],
)
def test_a_from_that_readers_may_read_differently_is_written_anew(written: str) -> None:
    fields, originals, mailbox = edited(f"From: {written}\n")

    assert len(fields) == 1 and fields[0].endswith(
        "alerts@domain.com" if "<" not in fields[0] else "<alerts@domain.com>"
    )
    assert "stranger@x.org" not in fields[0]
    assert originals == [written] and mailbox == "alerts@domain.com"


@pytest.mark.parametrize(
    "header",
    [
        "From:\nFrom: network@domain.com\n",
        "From: network@domain.com,\n",
        "From: network@domain.com;\n",
        "From: a:b:network@domain.com;\n",
    ],
)
def test_an_approved_author_in_an_untidy_header_is_written_anew(header: str) -> None:
    fields, _, mailbox = edited(header)

    assert (fields, mailbox) == (["network@domain.com"], "network@domain.com")


def test_a_missing_from_is_added_without_an_original() -> None:
    assert edited("") == (["alerts@domain.com"], [], "alerts@domain.com")


@pytest.mark.parametrize(
    "header",
    [
        "From:\nFrom:\n",
        "From: s@x.org\nFrom:\n\ts@x.org\n",
        "From: s@x.org,\n s@x.org\n",
        "From:\n s@x.org\n",
        "From:\n",
    ],
)
def test_originals_leave_no_blank_line_in_the_header(header: str) -> None:
    data = address_message(relay, header.encode() + b"To: a@x.org\n\nbody", ["a@x.org"]).data

    assert all(line.strip() for line in data.split(b"\r\n\r\n")[0].split(b"\r\n")), data


def test_an_original_that_the_sender_made_up_is_replaced() -> None:
    fields, originals, _ = edited("X-Original-From: made@up.example\nFrom: stranger@x.org\n")

    assert originals == ["stranger@x.org"]


def test_a_trusted_devices_own_address_is_approved() -> None:
    header = b"From: printer@domain.com\nTo: a@x.org\n\n"

    mail = address_message(relay, header, ["a@x.org"], sender="printer@domain.com", client="10.1.1.20")

    assert (raw_values(mail.data, "from"), mail.sender) == (["printer@domain.com"], "printer@domain.com")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("network@domain.com", True),
        ("Net <NETWORK@domain.com>", True),
        ("stranger@x.org", False),
        ("network@domain.com, network@domain.com", False),
        ("network@domain.com stranger@x.org", False),
        ("", False),
    ],
)
def test_a_sender_field_stays_only_where_it_names_one_approved_address(written: str, kept: bool) -> None:
    message = f"Sender: {written}\nFrom: alerts@domain.com\nTo: a@x.org\n\n".encode()

    data = address_message(relay, message, ["a@x.org"]).data

    assert raw_values(data, "sender") == ([written] if kept else [])
