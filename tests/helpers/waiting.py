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
# A start of the relay, a token and the call itself, on a machine that does much else, or stands still for
# seconds; what must not be waited for has to be further away.
SOON = 25.0
# When a slot opens that is to open only as a test opens it.
FAR = 50.0
# For as long as this a delivery waits for such a slot, and not for the one after it.
PATIENCE = 55

# Starts a delivery of a message with this subject, which is its queue id, too.
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
    """Assert that a delivery was deferred because of the window, of a mailbox's own if one is given, which
    holds "calls/limit"."""
    whose = f" for {mailbox}" if mailbox else ""
    text = f"4.4.5 rate limit reached ({count} per minute{whose}), deferring"
    assert delivery == ("deferred", "4.4.5", 75, text.encode())


@contextmanager
def background(home: RelayHome) -> Iterator[Start]:
    """A function that starts a delivery, as `pipe` does it, and returns once that waits, has a place or has
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
    """Stop a process of the relay for this long, at a moment when it does not hold the lock."""
    try:
        # It names itself in the state before it lets go of the lock.
        with lock_held(home):
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: process_state(pid) == b"T")
        yield
    finally:
        signal_process(pid, signal.SIGCONT)


def process_state(pid: int) -> bytes:
    """The letter that proc(5) gives for what a process does; empty when it is gone."""
    return read_of_process(pid, "stat").rpartition(b")")[2].strip()[:1]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Return once the condition is true; AssertionError after so many seconds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not within {seconds} s"
        time.sleep(0.02)


def in_state(home: RelayHome) -> set[int]:
    """The ids of the processes that wait for a place in the window, or have one."""
    state = read(home, WINDOW)
    return {entry[1] for entry in state.get("waiting", [])} | {entry[2] for entry in state.get("calls", [])}


def processes(home: RelayHome, queue_id: str = "") -> list[int]:
    """The ids of the relay's processes, for one message or all."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        words = read_of_process(int(entry.name), "cmdline").split(b"\0")
        if str(home.script).encode() in words and (not queue_id or queue_id.encode() in words):
            found.append(int(entry.name))
    return found
