"""A local part with or without quotes is one mailbox, and goes out in its valid form."""

from __future__ import annotations

import pytest
from helpers.readers import raw_values
from helpers.script import load_script
from helpers.unit import address_message, load_config

relay = load_script()

QUOTED = '"a..b"@docomo.test'


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (QUOTED, "a..b@docomo.test"),
        ('".a"@x.test', ".a@x.test"),
        ('"a."@x.test', "a.@x.test"),
        ('"a.b"@x.test', "A.B@X.test"),
        ('"a\\.b"@x.test', "a.b@x.test"),
        ('"a b"@x.test', '"a\\ b"@x.test'),
    ],
)
def test_they_are_compared_without_quotes(one: str, other: str) -> None:
    assert relay.canonical(one) == relay.canonical(other)


@pytest.mark.parametrize(("one", "other"), [('"a b"@x.test', "ab@x.test"), ('"a"b@x.test', "ab@x.test")])
def test_other_mailboxes_stay_others(one: str, other: str) -> None:
    assert relay.canonical(one) != relay.canonical(other)


@pytest.mark.parametrize("provider", ["graph", "ses"])
@pytest.mark.parametrize("recipient", [QUOTED, "a..b@docomo.test"])
@pytest.mark.parametrize(
    ("written", "rewritten"),
    [
        ("a..b@docomo.test", QUOTED),
        (QUOTED, QUOTED),
        ("Al <a..b@docomo.test>", f"Al <{QUOTED}>"),
        ("<a..b@docomo.test>", QUOTED),
        ('"A, L" <A..b@docomo.test>', '"A, L" <"A..b"@docomo.test>'),
    ],
)
def test_a_recipient_is_found_in_to_and_written_with_quotes(
    provider: str, recipient: str, written: str, rewritten: str
) -> None:
    message = f"From: alerts@domain.com\nTo: {written}\n\nbody".encode()

    mail = address_message(relay, message, [recipient], provider=provider)

    assert mail.recipients == ([QUOTED], [], [])
    assert raw_values(mail.data, "to") == [rewritten]


def test_a_recipient_in_bcc_is_written_with_quotes() -> None:
    message = b"From: alerts@domain.com\nTo: to@x.test\n\nbody"

    mail = address_message(relay, message, ["to@x.test", "a..b@docomo.test"])

    assert raw_values(mail.data, "bcc") == [QUOTED]


@pytest.mark.parametrize("known", [QUOTED, "a..b@docomo.test"])
@pytest.mark.parametrize("sender", [QUOTED, "a..b@docomo.test"])
def test_an_approved_sender_is_one_mailbox_as_well(known: str, sender: str) -> None:
    message = f"From: Al <{sender}>\nTo: to@x.test\n\nbody".encode()

    mail = address_message(relay, message, ["to@x.test"], sender=QUOTED, VALID_FROM_ADDRESSES=[known])

    assert (mail.sender, raw_values(mail.data, "from")) == (QUOTED, [f"Al <{QUOTED}>"])
    assert relay.canonical(QUOTED) in relay.approved_addresses(
        load_config(relay, VALID_FROM_ADDRESSES=[known])
    )


def test_a_dot_in_front_of_an_address_in_a_text_is_not_lost() -> None:
    message = b"From: alerts@domain.com\nTo: to .a@x.test; and b@x.test.\n\nbody"

    mail = address_message(relay, message, [".a@x.test", "b@x.test"])

    assert mail.recipients == (['".a"@x.test', "b@x.test"], [], [])
