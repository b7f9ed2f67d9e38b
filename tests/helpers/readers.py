"""Mail as others read it: with the standard library's email package, not with the relay."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from email import policy
from email.message import Message
from email.parser import BytesParser
from email.utils import getaddresses
from typing import Any, Callable

Reader = Callable[[bytes, str], "list[str] | None"]

# The strict mode of newer libraries refuses everything that a careless reader could take for more addresses.
STRICT = "strict" in inspect.signature(getaddresses).parameters


def parse(data: bytes) -> Message:
    """Return the message, parsed with the policy that keeps every field as it is written."""
    return BytesParser(policy=policy.compat32).parsebytes(data)


def raw_values(data: bytes, *names: str) -> list[str]:
    """Return the values of all fields of these lower-case names, unfolded; bytes above 127 as surrogates."""
    found = [str(value) for name, value in parse(data).raw_items() if name.lower() in names]
    return [value.replace("\r\n", "") for value in found]


def field_names(data: bytes) -> list[str]:
    """Return the names of all fields, in lower case."""
    return [name.lower() for name, _ in parse(data).raw_items()]


def read_leniently(data: bytes, name: str) -> list[str] | None:
    """Return the addresses in the fields of this name that a lenient reader finds."""
    lenient: dict[str, Any] = {"strict": False} if STRICT else {}
    return _texts(address for _, address in getaddresses(raw_values(data, name), **lenient))


def read_strictly(data: bytes, name: str) -> list[str] | None:
    """Return the addresses in the fields of this name that a strict reader finds, None without one."""
    values = raw_values(data, name)
    if not STRICT or any("[" in value for value in values):
        # It always refuses domain literals.
        return None
    return _texts(address for _, address in getaddresses(values))


def read_by_grammar(data: bytes, name: str) -> list[str] | None:
    """Return the addresses in the fields of this name, by the parser of RFC 5322's grammar.

    None if that parser fails because of its own bug, or would show bytes above 127 as question marks.
    """
    if any(not value.isascii() for value in raw_values(data, name)):
        return None
    try:
        fields = BytesParser(policy=policy.default).parsebytes(data).get_all(name, [])
        return [address.addr_spec for field in fields for address in field.addresses]
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


READERS: tuple[Reader, ...] = (read_leniently, read_strictly, read_by_grammar)


def same_address(address: str) -> str:
    """Return the same form for all spellings of a mailbox: RFC 5321 section 4.1.2, ignoring ASCII case."""
    local, _, domain = address.rpartition("@")
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1], flags=re.DOTALL)
    return re.sub("[A-Z]", lambda letter: letter[0].lower(), f"{local}@{domain}")


def _texts(addresses: Iterable[str]) -> list[str]:
    return [text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in addresses if text]
