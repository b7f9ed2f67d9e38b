"""Deliveries that wait for a slot in the window."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery, pipe
from helpers.postfix import read_of_process, signal_process
from helpers.state import WINDOW, lock_held, put_calls, read

WINDOW_SECONDS = 60
# Enough to start the relay, request a token and make the call, on a machine that is busy or stalls for
# seconds. What must not be waited for has to be further away.
SOON = 25.0
# When a slot opens by itself that only the test should open.
FAR = 50.0
# A delivery waits this long: for such a slot, but not for the one after it.
PATIENCE = 55

# Starts a delivery of a message with this subject, which is also its queue id.
Start = Callable[..., "Future[Delivery]"]


def occupy(home: RelayHome, *seconds: float, wait: int = PATIENCE, **config: object) -> list[float]:
    """Fill the window so that a slot opens after each of these times, and let deliveries wait for one.

    Returns the monotonic times at which they open.
    """
    home.configure(RATE_LIMIT_PER_MINUTE=len(seconds), RATE_LIMIT_MAX_WAIT_SECONDS=wait, **config)
    began = time.monotonic()
    put_calls(home, [WINDOW_SECONDS - opens for opens in seconds])
    return [began + opens for opens in seconds]


def expect_full(delivery: Delivery, count: str, mailbox: str = "") -> None:
    """Assert that a delivery was deferred because the window, or that of the given mailbox, is full; `count`
    is "calls/limit"."""
    whose = f" for {mailbox}" if mailbox else ""
    text = f"4.4.5 rate limit reached ({count} per minute{whose}), deferring"
    assert delivery == ("deferred", "4.4.5", 75, text.encode())


@contextmanager
def background(home: RelayHome) -> Iterator[Start]:
    """Yield a function that starts a delivery as `pipe` does, and returns once it waits, has a slot or has
    ended."""
    with ThreadPoolExecutor(16) as threads:

        def start(subject: str, body: bytes = b"Text.\n", **options: Any) -> Future[Delivery]:
            message = mail(body, Subject=subject)
            delivery = threads.submit(pipe, home, message, "to@external.com", queue_id=subject, **options)
            wait_until(lambda: delivery.done() or set(processes(home, subject)) & in_state(home))
            return delivery

        yield start


@contextmanager
def stopped(home: RelayHome, pid: int) -> Iterator[None]:
    """Stop a process of the relay during this block, at a moment when it does not hold the lock."""
    try:
        # It enters itself in the state before it releases the lock.
        with lock_held(home):
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: process_state(pid) == b"T")
        yield
    finally:
        signal_process(pid, signal.SIGCONT)


def process_state(pid: int) -> bytes:
    """Return proc(5)'s letter for the state of a process; empty if it is gone."""
    return read_of_process(pid, "stat").rpartition(b")")[2].strip()[:1]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until the condition is true; AssertionError after `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not within {seconds} s"
        time.sleep(0.02)


def in_state(home: RelayHome) -> set[int]:
    """Return the ids of the processes that wait for a slot in the window, or have one."""
    state = read(home, WINDOW)
    return {entry[1] for entry in state.get("waiting", [])} | {entry[2] for entry in state.get("calls", [])}


def processes(home: RelayHome, queue_id: str = "") -> list[int]:
    """Return the ids of the relay's processes, for one message or all."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        words = read_of_process(int(entry.name), "cmdline").split(b"\0")
        if str(home.script).encode() in words and (not queue_id or queue_id.encode() in words):
            found.append(int(entry.name))
    return found
