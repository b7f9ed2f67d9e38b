"""A terminal, and what is printed there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence


def on_a_terminal(command: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit status and output of a command that has a terminal of its own for its input and output."""
    outside, inside = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command], env=env, stdin=inside, stdout=inside, stderr=inside
    ) as process:
        os.close(inside)
        said = b"".join(iter(lambda: _read(outside), b"")).decode()
    os.close(outside)
    return process.returncode, said


def _read(descriptor: int) -> bytes:
    """What is printed there next; nothing once nobody has it open."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
