"""The value of Postfix's mynetworks, for install.sh: who may send without a password.

usage: networks.py [--asked] [--open] SHIPPED NETWORKS

NETWORKS are the networks to allow, SHIPPED is the value that the project ships, whose loopback networks are
added if they are missing. With --asked, NETWORKS is the value of an option, which may contain only networks;
without it, it is the value in main.cf, which stays as it is written there. Prints the value for main.cf.
Exits with 1 and an error message: with --asked for anything that is not a network, without --open for
anything not certain to be private.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
import sys
from collections.abc import Iterable
from typing import Union

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

# RFC 1918, link-local, loopback and unique local addresses. Not is_private: in older versions of Python
# that is true for 0.0.0.0/0, whose first and last address are both special.
PRIVATE = [
    ipaddress.ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8"),
        *("::1/128", "fe80::/10", "fc00::/7"),
    )
]
FORM = "write networks like 192.168.1.0/24 or fd00:1::/64"
FIX = "name the networks with --networks, or add --i-know-this-is-an-open-relay"


def read_network(entry: str) -> Network:
    """Return an entry's network, as IPv4 if it is IPv4-mapped IPv6; raise ValueError if none."""
    network = ipaddress.ip_network(entry.replace("[", "").replace("]", ""))
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped:
            return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def networks_in(entries: Iterable[str]) -> list[Network]:
    """Return the networks among entries; others are tables, files, references and exceptions."""
    found = []
    for entry in entries:
        try:
            found.append(read_network(entry))
        except ValueError:
            continue
    return found


def is_within(network: Network, others: Iterable[Network]) -> bool:
    """Tell whether one of the others contains the whole network."""
    return any(
        network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]
        for other in others
    )


def require_private(entry: str) -> None:
    """End the program unless the entry adds only private addresses or, as an exception with "!", none."""
    if entry.startswith("!"):
        return
    try:
        network = read_network(entry)
    except ValueError:
        sys.exit(f"mynetworks has {entry}, and it is unknown which networks are in it: {FIX}")
    if not is_within(network, PRIVATE):
        sys.exit(f"{entry} is not a private network, and everyone in it could send mail: {FIX}")


def as_asked(entry: str) -> str:
    """Return a network in Postfix's form; anything else ends the program."""
    try:
        network = ipaddress.ip_network(entry.replace("[", "").replace("]", ""))
    except ValueError as error:
        sys.exit(f"{error}: {FORM}")
    if "/" not in entry and re.search(r"\.0$|::$", entry.replace("]", "")):
        bits = 64 if network.version == 6 else 24
        sys.exit(f"{entry} is one address: name the network with its mask, for example {entry}/{bits}")
    if "%" in entry:
        sys.exit(f"{entry} names an interface, which Postfix does not accept there: {FORM}")
    if network.version == 6:
        return f"[{network.network_address}]/{network.prefixlen}"
    return str(network)


def split(value: str) -> list[str]:
    """Return the entries of a Postfix list, separated by commas or blanks."""
    return value.replace(",", " ").split()


def mynetworks(shipped: str, value: str, *, asked: bool, is_open: bool) -> str:
    """Return main.cf's value; end the program if a network must not be allowed."""
    entries = [as_asked(entry) for entry in split(value)] if asked else split(value)
    if asked and not entries:
        sys.exit(f"--networks names no network: {FORM}")
    for entry in entries if not is_open else []:
        require_private(entry)
    allowed = networks_in(entries)
    of_this_host = [entry for entry in split(shipped) if read_network(entry).is_loopback]
    missing = [entry for entry in of_this_host if not is_within(read_network(entry), allowed)]
    # Do not rewrite main.cf's value only for its commas.
    stated = entries if asked or missing else [value]
    return ", ".join([*missing, *dict.fromkeys(stated)])


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--asked", action="store_true")
    parser.add_argument("--open", action="store_true")
    parser.add_argument("shipped")
    parser.add_argument("networks")
    given = parser.parse_args()
    print(mynetworks(given.shipped, given.networks, asked=given.asked, is_open=given.open))


if __name__ == "__main__":
    main()
