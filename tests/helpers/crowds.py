"""Helpers for messages to more recipients than a call accepts, and for the files of their deliveries."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

from sandbox import Accepted, Recorded, Role, Sandbox

from helpers.home import RelayHome

ADMIN = "admin@domain.com"
# The most recipients that a call accepts.
MOST = {"ses": 50, "graph": 500}
ROLES: dict[str, Role] = {"ses": "ses", "graph": "sendMail"}


def crowd(number: int) -> list[str]:
    """Return `number` recipients who are not in the usual messages."""
    return [f"r{count}@x.test" for count in range(number)]


def calls(sandbox: Sandbox) -> list[Recorded]:
    """Return the API calls that were meant to send something."""
    return [request for request in sandbox.requests if request.role in ROLES.values()]


def taken(sandbox: Sandbox) -> list[Accepted]:
    """Return what was accepted, without the relay's notices."""
    return [one for one in sandbox.accepted if one.recipients != {ADMIN}]


def sizes(sandbox: Sandbox) -> list[int]:
    """Return the number of recipients of each call."""
    return [len(one.to + one.cc + one.bcc) for one in taken(sandbox)]


def mailed(sandbox: Sandbox) -> dict[str, int]:
    """Return the number of messages to each recipient, without the relay's notices."""
    return {name: times for name, times in sandbox.mailed.items() if name != ADMIN}


def kept_files(home: RelayHome) -> list[Path]:
    """Return the files of unfinished deliveries."""
    return sorted(home.path.glob(".progress-*"))


def file_for(relay: ModuleType, message: bytes, *recipients: str, sender: str = "alerts@domain.com") -> str:
    """Return the name of the file for a delivery that `pipe` makes."""
    envelope = relay.Envelope(sender, "4ZxTestQid", list(recipients), "")
    return str(relay.progress_file(envelope, relay.read_message(io.BytesIO(message))))
