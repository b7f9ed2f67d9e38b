"""The sandbox in a process of its own, so that it shares no interpreter lock with what measures."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sandbox import Recorded, Sandbox


class Provider:
    """A provider as a context manager; `url` is its base URL and `ca_file` its authority."""

    def __init__(self) -> None:
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._directory = Path(tempfile.mkdtemp(prefix="provider-"))
        # The relay runs as another user, who has to read the CA file.
        self._directory.chmod(0o755)

    def __enter__(self) -> Provider:
        self.url, self.ca_file = self._process.submit(_start, self._directory).result()
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            self._process.submit(_stop).result()
        finally:
            self._process.shutdown()
            shutil.rmtree(self._directory)

    def requests(self) -> list[Recorded]:
        """The requests since the last question, which are forgotten then."""
        return self._process.submit(_requests).result()


# What follows runs in the process of the sandbox.
_running: list[Sandbox] = []


def _start(directory: Path) -> tuple[str, Path]:
    sandbox = Sandbox(directory=directory)
    sandbox.start()
    _running.append(sandbox)
    return sandbox.url, sandbox.ca_file


def _stop() -> None:
    _running.pop().__exit__()


def _requests() -> list[Recorded]:
    sandbox = _running[0]
    seen = sandbox.requests[:]
    sandbox.requests.clear()
    sandbox.accepted.clear()
    return seen
