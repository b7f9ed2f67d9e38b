"""SES refuses invalid and empty lists, and a second field where only one is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.readers import field_names, raw_values
from helpers.script import load_script
from helpers.unit import address_message

relay = load_script()

# docs: Amazon SES header fields, without those that the relay itself writes or always removes.
ONCE = """
    Accept-Language acceptLanguage Archived-At Auto-Submitted Bounces-to Comments Content-Alternative
    Content-Base Content-Class Content-Description Content-Disposition Content-Duration Content-ID
    Content-Language Content-Length Content-Location Content-MD5 Content-Transfer-Encoding Content-Type
    Date Delivered-To Disposition-Notification-Options Disposition-Notification-To DKIM-Signature
    DomainKey-Signature Errors-To Importance In-Reply-To Keywords List-Archive List-Help List-Id
    List-Owner List-Post List-Subscribe List-Unsubscribe List-Unsubscribe-Post Message-Context
    Message-ID MIME-Version Organization Original-From Original-Message-ID Original-Recipient
    Original-Subject Precedence Priority References Return-Receipt-To Sensitivity Solicitation Subject
    Thread-Index Thread-Topic User-Agent VBR-Info
"""


def sent(header: str, *recipients: str, **config: str) -> Any:
    """Return what SES gets for a message with this header and From."""
    message = f"From: alerts@domain.com\n{header}\nbody".encode("utf-8", "surrogateescape")
    return address_message(relay, message, list(recipients), provider="ses", **config)


def lists(header: str, *recipients: str, **config: str) -> dict[str, list[str]]:
    """Return the To, Cc and Reply-To that SES gets."""
    data = sent(header, *recipients, **config).data
    return {name: values for name in ("to", "cc", "reply-to") if (values := raw_values(data, name))}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("To: a@x.test\nTo: b@x.test\n", {"to": ["a@x.test, b@x.test"]}),
        ("To: a@x.test; b@x.test\n", {"to": ["a@x.test, b@x.test"]}),
        ("To: Administrator, a@x.test\n", {"to": ["a@x.test"]}),
        ("To:\nCc: a@x.test\n", {"cc": ["a@x.test"]}),
        ("To: \nCc: a@x.test\n", {"cc": ["a@x.test"]}),
        ("To: a@x.test\nCc:\n", {"to": ["a@x.test"]}),
        ("To: <a@x.test\n", {"to": ["a@x.test"]}),
        ("To: Al <a@x.test, b@x.test\n", {"to": ['"Al" <a@x.test>, b@x.test']}),
        ("To: a@x.test,\n", {"to": ["a@x.test"]}),
        ('To: "A" <a@x.test>; stranger@x.test\n', {"to": ['"A" <a@x.test>']}),
        ("To: a@x.test\nCc: nobody; nothing\n", {"to": ["a@x.test"]}),
    ],
)
def test_an_untidy_list_becomes_one_of_the_envelope_s_recipients(header: str, expected: object) -> None:
    assert lists(header, "a@x.test", "b@x.test") == expected


@pytest.mark.parametrize(
    "value",
    [
        "a@x.test",
        "List <list@x.test>, A <a@x.test>",
        "undisclosed-recipients:;",
        "Group: a@x.test, s@x.test;, b@x.test",
        '"S, T" <s@x.test>',
    ],
)
def test_a_tidy_list_stays_as_written(value: str) -> None:
    header = f"To: {value}\nCc: a@x.test\n"

    assert lists(header, "a@x.test") == {"to": [value], "cc": ["a@x.test"]}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("To: list@x.test\n", {"to": ["list@x.test"]}),
        (
            "To: undisclosed-recipients:;\nCc: s@x.test\n",
            {"to": ["undisclosed-recipients:;"], "cc": ["s@x.test"]},
        ),
        ("To: list; list2\n", {"to": ["undisclosed-recipients:;"]}),
        ("To:\n", {"to": ["undisclosed-recipients:;"]}),
        ("", {"to": ["undisclosed-recipients:;"]}),
    ],
)
def test_a_message_that_names_none_of_its_recipients_keeps_its_to(header: str, expected: object) -> None:
    assert lists(header, "a@x.test", MISSING_VISIBLE_RECIPIENT="deliver") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("help@x.test", ["help@x.test"]),
        ("help@x.test; desk@x.test", ["help@x.test, desk@x.test"]),
        ("Help Desk", []),
        ("", []),
    ],
)
def test_a_reply_to_stays_where_it_can_be_read(value: str, expected: list[str]) -> None:
    assert lists(f"To: a@x.test\nReply-To: {value}\n", "a@x.test").get("reply-to", []) == expected


@pytest.mark.parametrize("name", ONCE.split())
def test_of_a_field_that_may_be_there_once_the_first_stays(name: str) -> None:
    data = sent(
        f"{name}: first\nX-Other: 1\n{name.upper()}: second\nX-Other: 2\nTo: a@x.test\n", "a@x.test"
    ).data

    assert raw_values(data, name.lower()) == ["first"]
    assert raw_values(data, "x-other") == ["1", "2"]


def test_fields_that_may_be_repeated_stay() -> None:
    header = "Received: a\nReceived: b\nX-Mailer: c\nX-Mailer: d\nTo: a@x.test\n"

    assert field_names(sent(header, "a@x.test").data).count("received") == 2


def test_graph_is_given_every_field() -> None:
    message = b"From: alerts@domain.com\nComments: a\nComments: b\nTo: a@x.test\n\nbody"

    assert raw_values(address_message(relay, message, ["a@x.test"]).data, "comments") == ["a", "b"]


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_what_only_the_provider_s_own_may_set_goes(provider: str) -> None:
    header = b"X-MS-Exchange-Organization-SCL: -1\nx-ms-exchange-organization-AuthAs: Internal\n"
    header += b"X-SES-CONFIGURATION-SET: evil\nx-ses-source-arn: arn:evil\n"
    message = header + b"From: alerts@domain.com\nX-MS-Has-Attach: yes\nTo: a@x.test\n\nbody"

    data = address_message(relay, message, ["a@x.test"], provider=provider).data

    assert field_names(data) == ["from", "x-ms-has-attach", "to"]


@pytest.mark.parametrize("provider", ["graph", "ses"])
@pytest.mark.parametrize(
    "name", ["A" * 3000, "word " * 700, '"' + "quoted word " * 300 + '"', "=?utf-8?q?w=C3=B6rd?= " * 160]
)
@pytest.mark.parametrize("address", ["stranger@x.org", "network@domain.com"])
def test_a_field_that_is_rewritten_keeps_to_lines_that_mail_allows(
    provider: str, name: str, address: str
) -> None:
    message = f"From: {name} <{address}>, second@x.org\nTo: {name} <a@x.test>; {name} <b@x.test>\n\n".encode()

    data = address_message(relay, message, ["a@x.test", "b@x.test", "c@x.test"], provider=provider).data

    header = data.split(b"\r\n\r\n")[0]
    assert max(map(len, header.split(b"\r\n"))) <= 998
    assert all(line.strip() for line in header.split(b"\r\n"))
    for reader_name in ("from", "to"):
        assert len(raw_values(data, reader_name)) == 1
    found = relay.read_addresses([value.encode() for value in raw_values(data, "to")])
    assert (found.addresses, found.tidy) == (["a@x.test", "b@x.test"], True)
