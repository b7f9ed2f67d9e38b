"""Each envelope recipient is To, Cc or Bcc by where the header names it."""

from __future__ import annotations

import pytest
from helpers.readers import raw_values
from helpers.script import load_script
from helpers.unit import address_message, shown

relay = load_script()


def classes(header: str, *envelope: str) -> tuple[list[str], list[str], list[str]]:
    mail = address_message(relay, header.encode() + b"\nbody", list(envelope), provider="ses")
    return mail.recipients.to, mail.recipients.cc, mail.recipients.bcc


def graph_fields(header: str, *envelope: str) -> dict[str, list[str]]:
    """Return the recipient fields that Graph gets."""
    data = address_message(relay, header.encode() + b"\nbody", list(envelope)).data
    return {name: raw_values(data, name) for name in ("to", "cc", "bcc") if raw_values(data, name)}


def test_to_comes_before_cc_and_the_rest_is_bcc() -> None:
    header = "To: a@x.org, both@x.org\nCc: c@x.org, both@x.org\n"

    assert classes(header, "hidden@x.org", "c@x.org", "both@x.org", "a@x.org") == (
        ["both@x.org", "a@x.org"],
        ["c@x.org"],
        ["hidden@x.org"],
    )


@pytest.mark.parametrize(
    "to",
    [
        "A@X.ORG",
        "Anna <a@x.org>",
        "a@x.org (Anna)",
        "(Anna) a@x.org",
        "Friends: a@x.org;",
        '"Anna, B." <a@x.org>, c@x.org',
        "=?utf-8?q?Anna=2C?= <a@x.org>",
        "c@x.org,\n\ta@x.org",
        "c@x.org\nTo: a@x.org",
        '"a"@x.org',
        "<a@x.org",
        '"Anna <a@x.org>',
        "c@x.org; a@x.org",
        "c@x.org a@x.org",
        "<@route.example:a@x.org>",
        "mailto:a@x.org",
        "[a@x.org]",
        "c@x.org, a@x.org.",
        "<<a@x.org>>",
    ],
)
def test_a_recipient_whose_address_stands_in_to_is_visible(to: str) -> None:
    assert classes(f"To: {to}\n", "a@x.org") == (["a@x.org"], [], [])


@pytest.mark.parametrize(
    "to",
    [
        "aa@x.org",
        "a@x.org.evil.example",
        '"a@x.org" <c@x.org>',
        "undisclosed-recipients:;",
        "",
        "=?utf-8?q?a=40x.org?=",
    ],
)
def test_a_message_that_names_nobody_of_the_envelope_is_rejected(to: str) -> None:
    with pytest.raises(relay.Bounced) as rejection:
        classes(f"To: {to}\nBcc: a@x.org\n", "a@x.org")

    assert rejection.value.code == "5.7.1"
    assert shown(relay, rejection.value).startswith("REJECTED (no visible recipient)")
    assert "'a@x.org'" in shown(relay, rejection.value)


@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "a",
        "a@",
        "@x.org",
        "a@x.org, b@x.org",
        "a@x.org\nBcc: b@x.org",
        "<a@x.org>",
        "a b@x.org",
        "a@x.org\udcff",
        "ä..b@x.org",
        "a" * 400 + "@x.org",
    ],
)
def test_a_recipient_that_no_header_can_carry_is_refused_by_name(recipient: str) -> None:
    with pytest.raises(relay.Bounced) as refusal:
        relay.check_recipients([recipient])

    assert refusal.value.code == "5.1.3"
    assert recipient.split("\n")[0].rstrip("\udcff")[:190] in shown(relay, refusal.value)
    assert shown(relay, refusal.value).isprintable()
    # The others get the message.
    assert relay.check_recipients(["a@x.org", recipient]) == [recipient]


def test_ses_keeps_a_tidy_to_and_cc_as_written() -> None:
    header = b'From: alerts@domain.com\r\nTo: A  <A@x.org>, "S, T"\r\n <s@x.org>\r\nCc: G: b@x.org;\r\n'

    mail = address_message(relay, header + b"\r\nbody", ["a@x.org"], provider="ses")

    assert mail.data == header + b"\r\nbody"


def test_graph_keeps_the_names_and_the_order_of_those_who_stay() -> None:
    header = 'To: C <c@x.org>, "Stranger" <s@x.org>, "A, B" <a@x.org>, b@x.org (B)\nCc: s@x.org\n'

    assert graph_fields(header, "a@x.org", "b@x.org", "c@x.org") == {
        "to": ['C <c@x.org>, "A, B" <a@x.org>, "B" <b@x.org>']
    }


def test_a_comma_in_a_comment_or_in_quotes_divides_nothing() -> None:
    header = 'To: b@x.org (B (inner), s@x.org), "C, \\", s@x.org" <c@x.org>, s@x.org\n'

    assert graph_fields(header, "b@x.org", "c@x.org") == {
        "to": ['"B inner, s@x.org" <b@x.org>, "C, \\", s@x.org" <c@x.org>']
    }


def test_graph_is_told_of_bcc_recipients_in_one_field() -> None:
    header = "To: a@x.org\nBcc: s@x.org\nBcc: s@x.org\n"

    assert graph_fields(header, "a@x.org", "b@x.org", "c@x.org") == {
        "to": ["a@x.org"],
        "bcc": ["b@x.org, c@x.org"],
    }


def test_graph_gets_one_to_for_several() -> None:
    assert graph_fields("To: a@x.org\nCC: c@x.org\nTO: b@x.org\n", "a@x.org", "b@x.org", "c@x.org") == {
        "to": ["a@x.org, b@x.org"],
        "cc": ["c@x.org"],
    }


def test_who_is_in_to_and_cc_gets_one_copy() -> None:
    assert graph_fields("To: a@x.org\nCc: a@x.org, b@x.org\n", "a@x.org", "A@x.org", "b@x.org") == {
        "to": ["a@x.org"],
        "cc": ["b@x.org"],
    }


def test_ten_thousand_recipients_stay_on_lines_that_mail_allows() -> None:
    envelope = [f"user{number}@x.org" for number in range(10_000)]
    to = ", ".join([*envelope, "stranger@x.org"])

    data = address_message(relay, f"To: {to}\n\nbody".encode(), envelope).data

    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert [value.strip() for value in raw_values(data, "to")[0].split(",")] == envelope


def test_a_message_beyond_graphs_limit_is_refused_with_its_size() -> None:
    header = b"From: alerts@domain.com\r\nTo: a@x.org\r\n\r\n"
    fits = header + bytes((4 << 20) // 4 * 3 - len(header))

    assert address_message(relay, fits, ["a@x.org"], LARGE_MESSAGES="refuse").data == fits
    with pytest.raises(relay.Bounced) as refusal:
        address_message(relay, fits + b"x", ["a@x.org"], LARGE_MESSAGES="refuse")
    assert refusal.value.code == "5.3.4"
    assert "4194308" in shown(relay, refusal.value) and "4194304" in shown(relay, refusal.value)
