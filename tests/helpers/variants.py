"""Installations that differ from the usual one: another provider, measured memory."""

from __future__ import annotations

from helpers.home import RelayHome
from helpers.pipe import Delivery
from helpers.usage import Runner, with_usage


def use_ses(home: RelayHome, **changes: object) -> None:
    """Set the home up for the sandbox's SES; no quota is asked for."""
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1", **changes)
    home.configure(RATE_LIMIT_PER_MINUTE=28)


def with_peak_memory(home: RelayHome, deliver: Runner) -> tuple[Delivery, int]:
    """A delivery, and its process's peak memory (MiB)."""
    delivery, usage = with_usage(home, deliver)
    return delivery, int(usage.memory * 1e6) >> 20
