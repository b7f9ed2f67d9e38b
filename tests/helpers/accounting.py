"""Measure who uses processor time, by Linux's own accounting in /proc.

The pipe(8) daemons reap the relay's processes, so their accounts include these, from fork to exit, with all
that they start: no wrapper is needed. Times are in seconds; sums are truncated to hundredths.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
# In /proc/stat's first line: time in which nothing ran, and time in which another machine did.
IDLE = (3, 4)
STEAL = 7
COUNTED = 8

# When a daemon exits, its children's times are added to its parent's and can no longer be told apart.
LASTING_DAEMONS = {"max_use": "1000000", "max_idle": "1d"}


class Process(NamedTuple):
    """A process: its own processor time, its first thread's to the nanosecond, and that of the children that
    it has waited for."""

    pid: int
    command: str
    parent: int
    own: float
    first_thread: float
    reaped: float


class Spent(NamedTuple):
    """Seconds of processor time by what used them, summed over all processors."""

    relay: float = 0.0
    postfix: float = 0.0
    provider: float = 0.0
    benchmark: float = 0.0
    other: float = 0.0
    stolen: float = 0.0
    idle: float = 0.0

    def since(self, before: Spent) -> Spent:
        """Return the difference."""
        return Spent(*(now - then for now, then in zip(self, before)))


def read_process(pid: int) -> Process | None:
    """Return a process's accounts, None if it is gone. Raise OSError if the kernel keeps none."""
    directory = Path("/proc") / str(pid)
    try:
        text = (directory / "stat").read_text()
        nanoseconds = int((directory / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        # The process exists, but the kernel keeps no such accounts.
        if directory.exists():
            raise
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    times = [int(field) / TICKS for field in fields[11:15]]
    own, reaped = sum(times[:2]), sum(times[2:])
    return Process(pid, head.partition("(")[2], int(fields[1]), own, nanoseconds / 1e9, reaped)


def spent(daemons: Sequence[int], master: int, provider: int) -> Spent:
    """Return what has been spent so far by a Postfix (given its processes and its master's id), the commands
    that its pipe(8) daemons have waited for, the provider and this process."""
    found = [process for process in map(read_process, daemons) if process]
    own = [process for process in found if process.pid == master or process.parent == master]
    relay = sum(process.reaped for process in own if process.command == "pipe")
    # Each of these has one thread, and uses less than a hundredth at a time.
    postfix = sum(process.first_thread for process in own)
    postfix += sum(process.reaped for process in own if process.command != "pipe")
    there = read_process(provider)
    assert there, "the provider has ended"
    benchmark = sum(os.times()[:4])
    busy, stolen, idle = _whole_machine()
    other = busy - relay - postfix - there.own - benchmark
    return Spent(relay, postfix, there.own, benchmark, other, stolen, idle)


def _whole_machine() -> tuple[float, float, float]:
    """Return the busy, stolen and idle time of all processors since boot."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    times = [int(field) / TICKS for field in fields[:COUNTED]]
    idle = sum(times[place] for place in IDLE)
    return sum(times) - idle - times[STEAL], times[STEAL], idle
