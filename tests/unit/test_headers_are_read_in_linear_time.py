"""A header of any shape is read in seconds: no sender may hold up everyone else's mail."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from helpers.script import load_script
from helpers.unit import address_message, parse

relay = load_script()

SIZE = 1 << 18
# Processor time, which in a virtual machine may include the seconds in which its host stalls it. Most take
# a tenth; what grows with the square of the length takes minutes.
LIMIT_SECONDS = 20

PATTERNS = [
    "<",
    ">",
    '"',
    "(",
    ")",
    '\\"<',
    "\\",
    ",",
    ":",
    ";",
    "@",
    "a",
    "a.",
    "a@",
    "a@x,",
    "a ",
    " ",
    "\t",
    '"a"',
    '""@',
    "(a)",
    "<a@x>",
    "a:;",
    "a <",
    '"\\',
    "=?utf-8?q?a?=",
    "\u00e9",
    "[",
    "\r",
    "\n ",
    "\n \n",
]
WHOLE_HEADERS = {"many fields": "To:\n", "continuations": "To: a@x.org,\n a@x.org,\n", "no fields": "\n"}


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError once the code inside has used this much processor time."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_field_full_of_anything_is_read_in_time(pattern: str) -> None:
    value = pattern * (SIZE // len(pattern))

    with time_limit(LIMIT_SECONDS):
        found = relay.read_addresses(parse(relay, f"To: {value}\n\n".encode()).values("to"))

    assert len(found.mailboxes) <= SIZE


@pytest.mark.parametrize("unit", WHOLE_HEADERS.values(), ids=WHOLE_HEADERS)
def test_a_header_of_many_lines_is_edited_in_time(unit: str) -> None:
    header = "To: a@x.org\n" + unit * (SIZE // len(unit))

    with time_limit(LIMIT_SECONDS):
        mail = address_message(relay, f"{header}\nbody".encode(), ["a@x.org", "b@x.org"])

    assert mail.recipients.to == ["a@x.org"]


@pytest.mark.parametrize("opened", ["(", '("', "<(", "(\\"])
@pytest.mark.parametrize("depth", [100, 2000, 4900])
def test_nested_comments_do_not_exhaust_the_stack(opened: str, depth: int) -> None:
    value = opened * (depth // len(opened)) + "a@x.org" + ")" * depth
    message = f"From: {value}\nTo: {value}, a@x.org\n\nbody".encode()

    assert address_message(relay, message, ["a@x.org"]).recipients.to == ["a@x.org"]


@pytest.mark.parametrize("secret", ["abcd~efgh1234", "~abcd~efgh1234"])
def test_a_secret_is_looked_for_in_linear_time(secret: str) -> None:
    # Part of the secret is there, so that all of it is searched for.
    text = "abcd " + "\\" * SIZE
    with time_limit(LIMIT_SECONDS):
        assert relay.Secret(secret).removed_from(text) == text
