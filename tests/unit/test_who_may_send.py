"""Which networks the installer lets send without a password."""

from __future__ import annotations

import pytest
from helpers.home import SCRIPT
from helpers.script import load_script

SHIPPED = "127.0.0.0/8, [::1]/128, 192.168.1.0/24"


networks = load_script(SCRIPT.parent / "postfix" / "networks.py")


def asked(value: str, is_open: bool = False) -> str:
    """Return mynetworks for --networks."""
    return str(networks.mynetworks(SHIPPED, value, asked=True, is_open=is_open))


def kept(value: str, is_open: bool = False) -> str:
    """Return mynetworks for a value that main.cf already has."""
    return str(networks.mynetworks(SHIPPED, value, asked=False, is_open=is_open))


@pytest.mark.parametrize(
    ("option", "written"),
    [
        ("10.1.0.0/16", "10.1.0.0/16"),
        ("10.1.0.0/16,192.168.7.0/24", "10.1.0.0/16, 192.168.7.0/24"),
        ("172.16.0.0/12", "172.16.0.0/12"),
        ("172.31.255.0/24", "172.31.255.0/24"),
        ("169.254.0.0/16", "169.254.0.0/16"),
        ("10.1.1.20", "10.1.1.20/32"),
        ("fd00:1::/64", "[fd00:1::]/64"),
        ("[fd00:1::]/64", "[fd00:1::]/64"),
        ("fe80::/10", "[fe80::]/10"),
        ("10.1.0.0/16, 10.1.0.0/16", "10.1.0.0/16"),
    ],
)
def test_private_networks_are_added_to_this_host(option: str, written: str) -> None:
    assert asked(option) == f"127.0.0.0/8, [::1]/128, {written}"


@pytest.mark.parametrize(
    "option",
    [
        "0.0.0.0/0",
        "::/0",
        "10.0.0.0/7",
        "172.0.0.0/11",
        "192.168.0.0/15",
        "0.0.0.0/8",
        "203.0.113.0/24",
        "100.64.0.0/10",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "8.8.8.8",
        "2001:db8::/32",
        "fc00::/6",
        "::/127",
        "::ffff:0:0/96",
        "::ffff:8.8.8.0/120",
        "10.1.0.0/16,8.8.8.0/24",
    ],
)
def test_no_other_network_is_allowed_unless_it_is_wanted(option: str) -> None:
    with pytest.raises(SystemExit, match="not a private network"):
        asked(option)
    assert asked(option, is_open=True)


@pytest.mark.parametrize(
    "option",
    [
        *("10.1.2.3/24", "10.1.0.0/33", "office", "10.1.1.X/24", "!10.1.1.1", "hash:/etc/x", "/etc/x"),
        *("fe80::1%eth0", ","),
    ],
)
@pytest.mark.parametrize("is_open", [False, True])
def test_what_is_no_network_is_refused_with_an_example(option: str, is_open: bool) -> None:
    with pytest.raises(SystemExit, match="write networks like 192.168.1.0/24"):
        asked(option, is_open)


def test_without_anything_only_this_host_may_send() -> None:
    assert kept("") == "127.0.0.0/8, [::1]/128"


@pytest.mark.parametrize(
    "value",
    [
        "127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128",
        "127.0.0.0/8,[::1]/128,  10.1.0.0/16",
        "!10.1.9.0/24, 10.1.0.0/16, 127.0.0.0/8, [::1]/128",
    ],
)
def test_what_main_cf_says_stays_as_it_is_written(value: str) -> None:
    assert kept(value) == value


def test_this_host_is_added_to_what_main_cf_says() -> None:
    assert kept("10.1.0.0/16 127.0.0.0/8") == "[::1]/128, 10.1.0.0/16, 127.0.0.0/8"


@pytest.mark.parametrize("value", ["127.0.0.0/8 203.0.113.0/24", "0.0.0.0/0", "[2001:db8::]/32"])
def test_open_networks_in_main_cf_are_refused_as_well(value: str) -> None:
    with pytest.raises(SystemExit, match="--networks"):
        kept(value)
    assert value.split()[-1] in kept(value, is_open=True)


@pytest.mark.parametrize("value", ["hash:/etc/postfix/networks", "/etc/postfix/networks", "$mydestination"])
def test_what_cannot_be_looked_into_is_refused(value: str) -> None:
    with pytest.raises(SystemExit, match="it is unknown which networks are in it"):
        kept(f"127.0.0.0/8, {value}")
    assert value in kept(f"127.0.0.0/8, {value}", is_open=True)


def test_the_relay_s_own_check_knows_the_same_private_networks() -> None:
    assert set(map(str, networks.PRIVATE)) == set(load_script().PRIVATE_NETWORKS)
