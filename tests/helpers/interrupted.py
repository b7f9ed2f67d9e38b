"""Deliveries that are interrupted by a signal."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

from sandbox import Sandbox

from helpers.home import RelayHome
from helpers.pipe import Delivery, pipe
from helpers.waiting import processes, wait_until


def interrupted(
    sandbox: Sandbox, home: RelayHome, message: bytes, sender: str, requests: int, number: signal.Signals
) -> Delivery:
    """Send a signal to a delivery once it has made `requests` sendMail requests, and return its outcome."""

    def made() -> int:
        return sum(request.role == "sendMail" for request in sandbox.requests)

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(pipe, home, message, "to@external.com", sender=sender)
        wait_until(lambda: made() >= requests)
        [pid] = processes(home)
        os.kill(pid, number)
        return future.result()
