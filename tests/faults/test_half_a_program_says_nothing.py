"""A program that is incomplete, after a full disk or during a copy, never says that a message went out."""

from __future__ import annotations

import re

import pytest
from conftest import Deliver
from helpers.by_hand import by_hand
from helpers.home import SCRIPT, RelayHome
from helpers.mail import mail
from sandbox import Sandbox

WHOLE = SCRIPT.read_bytes()
FIRST_LINE = WHOLE.index(b"\n") + 1
# The second form feed: a delivery needs nothing beyond it.
DELIVERY = WHOLE.index(b"\f", WHOLE.index(b"\f") + 1)
# Sizes that leave valid Python, and the sizes in which copies are written.
BETWEEN_STATEMENTS = [match.start() + 1 for match in re.finditer(rb"\n(?=def |class |# ---)", WHOLE)]
NEEDED = [size for size in BETWEEN_STATEMENTS if size <= DELIVERY]
SIZES = [FIRST_LINE, FIRST_LINE + 100, 4096, 8192, 16384, 65536, 131072, *NEEDED[::20], DELIVERY]


@pytest.mark.parametrize("size", SIZES)
def test_half_a_program_defers(home: RelayHome, sandbox: Sandbox, deliver: Deliver, size: int) -> None:
    home.put(SCRIPT.name, WHOLE[:size], 0o755)
    delivery = deliver(mail(), "to@external.com")
    assert (delivery.verdict, delivery.status) == ("deferred", 75), delivery
    assert sandbox.accepted == []


@pytest.mark.parametrize("size", [DELIVERY + 1, len(WHOLE) - 100])
def test_half_of_the_commands_is_no_matter_of_a_delivery(
    home: RelayHome, sandbox: Sandbox, deliver: Deliver, size: int
) -> None:
    home.put(SCRIPT.name, WHOLE[:size], 0o755)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert by_hand(home, "--status").returncode == 75
