"""Installations that differ from the usual one: another provider, a token at hand, measured memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery, pipe
from helpers.usage import Runner, with_usage

if TYPE_CHECKING:
    from sandbox import Sandbox


def use_ses(home: RelayHome, **changes: object) -> None:
    """Set the home up for the sandbox's SES; no quota is asked for."""
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1", **changes)
    home.configure(RATE_LIMIT_PER_MINUTE=28)


def leave_token(sandbox: Sandbox, home: RelayHome) -> None:
    """Let the next delivery ask for none: the short time-out that a test sets is for one request alone."""
    assert pipe(home, mail(), "to@external.com").verdict == "sent"
    sandbox.requests.clear()
    sandbox.accepted.clear()


def with_peak_memory(home: RelayHome, deliver: Runner) -> tuple[Delivery, int]:
    """A delivery, and its process's peak memory (MiB)."""
    delivery, usage = with_usage(home, deliver)
    return delivery, int(usage.memory * 1e6) >> 20
