"""Who may send as whom: only what the configuration names, and a device only by address and domain."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.script import load_script
from helpers.unit import load_config
from hypothesis import example, given, settings
from hypothesis import strategies as st

relay = load_script()


def decide(sender: str, client: str = "", **config: object) -> Any:
    """Return as whom this sender's mail goes out; by default, the client is no trusted device."""
    return relay.decide_sender(
        relay.Envelope(sender, "4Zx", ["a@x.org"], client), load_config(relay, **config)
    )


def is_trusted(client: str, *entries: str, sender: str = "printer@domain.com") -> bool:
    """Tell whether the device's sender goes out as it is, with these TRUSTED_DEVICE_IPS."""
    return bool(decide(sender, client, TRUSTED_DEVICE_IPS=list(entries)).effective == sender)


@pytest.mark.parametrize(
    "sender",
    [
        "alerts@domain.com",
        "ALERTS@Domain.com",
        "network@domain.com",
        "NETWORK@DOMAIN.COM",
        '"network"@domain.com',
    ],
)
def test_an_approved_sender_goes_out_as_it_is(sender: str) -> None:
    decision = decide(sender)

    assert (decision.effective, bool(decision.replaced)) == (sender, False)
    assert repr(sender) in decision.reason


@pytest.mark.parametrize(
    "sender", ["", "<>", "MAILER-DAEMON", "mailer-daemon", "double-bounce@relay.domain.com"]
)
def test_postfixs_own_mail_goes_out_from_the_default_without_a_notice(sender: str) -> None:
    decision = decide(sender)

    assert (decision.effective, bool(decision.replaced)) == ("alerts@domain.com", False)


@pytest.mark.parametrize(
    "sender",
    [
        "stranger@x.org",
        "mailer-daemon@x.org",
        "my-double-bounce@x.org",
        "alerts@domain.com.x.org",
        "alerts",
        "alerts@domain.com\n",
        " alerts@domain.com",
        "<alerts@domain.com>",
        "alerts@domain.com,network@domain.com",
        "al erts@domain.com",
        "alerts@domain.com\udcff",
        "networ\u212a@domain.com",
    ],
)
def test_any_other_sender_is_replaced_and_the_admin_is_told(sender: str) -> None:
    decision = decide(sender, "10.1.1.21")

    assert (decision.effective, bool(decision.replaced)) == ("alerts@domain.com", True)
    assert repr(sender) in decision.reason and "OVERRIDE" in decision.reason


@pytest.mark.parametrize(
    "sender", ["-f@domain.com", "--home@domain.com", "/etc/x?a=b@domain.com", "+a#b@domain.com"]
)
def test_an_odd_but_valid_address_is_a_device_like_any_other(sender: str) -> None:
    assert is_trusted("10.1.1.20", "10.1.1.20", sender=sender)
    assert not is_trusted("10.1.1.21", "10.1.1.20", sender=sender)


@pytest.mark.parametrize(
    ("client", "entry"),
    [
        ("10.1.1.20", "10.1.1.20"),
        ("10.1.1.20", " 10.1.1.20 "),
        ("10.1.1.20", "10.1.1.0/24"),
        ("10.1.1.20", "10.1.1.99/24"),
        ("10.1.1.20", "10.1.1.0/255.255.255.0"),
        ("::ffff:10.1.1.20", "10.1.1.20"),
        ("::ffff:10.1.1.20", "10.1.1.0/24"),
        ("2001:db8::20", "2001:db8::20"),
        ("2001:db8::20", "2001:0DB8:0:0::0020"),
        ("2001:db8::20", "2001:db8::/32"),
        ("fe80::1%eth0", "fe80::/10"),
    ],
)
def test_a_device_is_trusted_by_address_and_by_network(client: str, entry: str) -> None:
    assert is_trusted(client, entry)
    assert is_trusted(client, "10.1.1.X", entry)


@pytest.mark.parametrize(
    ("client", "entry"),
    [
        ("", "10.1.1.20"),
        ("", "0.0.0.0/0"),
        ("unknown", "0.0.0.0/0"),
        ("10.1.1.2", "10.1.1.20"),
        ("10.1.1.200", "10.1.1.20"),
        ("10.1.2.20", "10.1.1.0/24"),
        ("10.1.1.20", ""),
        ("10.1.1.20", "10"),
        ("10.1.1.20", "10.1.1"),
        ("10.1.1.20", "10.1.1.*"),
        ("10.1.1.20", "10.1.1.20/33"),
        ("10.1.1.020", "10.1.1.20"),
        ("10.1.1.20", "::/0"),
        ("2001:db8::20", "0.0.0.0/0"),
        ("2001:db8::20", "2001:db9::/32"),
    ],
)
def test_other_addresses_and_unreadable_entries_do_not_match(client: str, entry: str) -> None:
    assert not is_trusted(client, entry)


@pytest.mark.parametrize(
    "sender", ["printer@x.org", "printer@sub.domain.com", "printer@domain.com.x.org", "domain.com"]
)
def test_the_address_of_a_device_is_not_enough_without_its_domain(sender: str) -> None:
    assert not is_trusted("10.1.1.20", "10.1.1.20", sender=sender)


def test_domains_are_compared_without_case() -> None:
    changes = {"TRUSTED_DEVICE_DOMAINS": ["Domain.COM"]}

    assert decide("Printer@dOMAIN.com", "10.1.1.20", **changes).effective == "Printer@dOMAIN.com"


@settings(max_examples=150, deadline=None)
@example("10.1.1.X", "10.1.1.20")
@given(
    st.text(max_size=20),
    st.sampled_from(["10.1.1.20", "2001:db8::20", "::ffff:10.1.1.20", "fe80::1%eth0", "::%"]),
)
def test_no_entry_stops_the_mail(entry: str, client: str) -> None:
    assert is_trusted("10.1.1.20", entry, "10.1.1.20")
    assert decide("printer@domain.com", client, TRUSTED_DEVICE_IPS=[entry]).effective


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=30).map(lambda data: data.decode("utf-8", "surrogateescape")), st.text(max_size=20))
def test_whatever_the_sender_mail_goes_out_from_an_address_of_the_configuration(
    sender: str, client: str
) -> None:
    decision = decide(sender, client)

    assert decision.effective.lower() in ("alerts@domain.com", "network@domain.com")
    assert decision.reason.isprintable()
