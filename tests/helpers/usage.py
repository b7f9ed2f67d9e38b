"""The cost of a delivery's process: processor time, wall time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from helpers.home import RelayHome
from helpers.pipe import Delivery

# Runs a command and writes its usage to a file; a signal that kills it becomes status 75. It forks and
# imports little, because the peak memory of a process counts from before its exec(2): a large program
# that started the command, or shared its memory with it in vfork(2), would be measured instead.
MEASURE = """
import os, sys, time
began = time.perf_counter()
child = os.fork()
if not child:
    os.execvp(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - began
with open(sys.argv[1], "w") as file:
    print(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024 / 1e6, file=file)
os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 75)
"""


class Usage(NamedTuple):
    """Processor time (user and system) and wall time in seconds, and peak memory in MB of 1,000,000 bytes."""

    cpu: float
    wall: float
    memory: float


class Runner(Protocol):
    """A delivery that only lacks the command that runs the relay."""

    def __call__(self, *, prefix: tuple[str, ...]) -> Delivery: ...


def with_usage(home: RelayHome, deliver: Runner) -> tuple[Delivery, Usage]:
    """Return a delivery and its process's usage, without that of pipe(8) itself."""
    file = Path(home.put("usage", b""))
    delivery = deliver(prefix=("/usr/bin/python3", "-I", "-c", MEASURE, str(file)))
    return delivery, Usage(*map(float, file.read_text().split()))
