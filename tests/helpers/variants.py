"""Installations that differ from the usual one: another provider, measured memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from helpers.home import RelayHome
from helpers.pipe import Delivery

# Runs a command and leaves its peak memory (KiB) in a file; a signal that ends it becomes status 75.
MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_maxrss))
os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 75)
"""


def use_ses(home: RelayHome, **changes: object) -> None:
    """Set the home up for the sandbox's SES; no quota is asked for."""
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1", **changes)
    home.configure(RATE_LIMIT_PER_MINUTE=28)


def with_peak_memory(home: RelayHome, deliver: Callable[..., Delivery]) -> tuple[Delivery, int]:
    """A delivery, and its process's peak memory (MiB); `deliver` is given the prefix to run with."""
    file = Path(home.put("peak-memory", b""))
    delivery = deliver(prefix=("/usr/bin/python3", "-I", "-c", MEASURE, str(file)))
    return delivery, int(file.read_text()) // 1024
