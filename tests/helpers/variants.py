"""Installations that differ from the usual one: another provider, a cached token, measured memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery, pipe
from helpers.usage import Runner, with_usage

if TYPE_CHECKING:
    from sandbox import Sandbox


def use_ses(home: RelayHome, **changes: object) -> None:
    """Set the home up for the sandbox's SES, with no request for the quota."""
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1", **changes)
    home.configure(RATE_LIMIT_PER_MINUTE=28)


def leave_token(sandbox: Sandbox, home: RelayHome) -> None:
    """Leave a token in the cache: the short time-out that a test sets is for one request only."""
    assert pipe(home, mail(), "to@external.com").verdict == "sent"
    sandbox.requests.clear()
    sandbox.accepted.clear()


def with_peak_memory(home: RelayHome, deliver: Runner) -> tuple[Delivery, int]:
    """Return a delivery and its process's peak memory (MiB)."""
    delivery, usage = with_usage(home, deliver)
    return delivery, int(usage.memory * 1e6) >> 20


def shrink_drafts(sandbox: Sandbox, home: RelayHome) -> None:
    """Use a hundredth of the usual sizes: a draft from 40,000 bytes of request, an upload from 30,000 bytes,
    in ranges of 20,000."""
    text = home.script.read_text()
    for usual, small in (
        ("LARGEST_MESSAGE = 4 << 20, 4_000_000,", "LARGEST_MESSAGE = 4 << 20, 40_000,"),
        ("RANGE_OCTETS = 3_000_000, 12 * 320 * 1024", "RANGE_OCTETS = 30_000, 20_000"),
    ):
        assert text.count(usual) == 1, f"the script has no {usual}"
        text = text.replace(usual, small)
    home.put(home.script.name, text.encode(), 0o755)
    sandbox.session_minimum = 30_000
