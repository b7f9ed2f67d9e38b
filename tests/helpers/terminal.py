"""A terminal, and what is printed on it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence


def on_a_terminal(command: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command with its input and output on its own terminal; return its exit status and output."""
    outside, inside = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command], env=env, stdin=inside, stdout=inside, stderr=inside
    ) as process:
        os.close(inside)
        said = b"".join(iter(lambda: _read(outside), b"")).decode()
    os.close(outside)
    return process.returncode, said


def _read(descriptor: int) -> bytes:
    """Return what is printed next; empty once nobody has the terminal open."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
