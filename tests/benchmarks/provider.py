"""The sandbox in a process of its own, so that it does not share the interpreter lock of the measuring
process.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from helpers.aws_metadata import AwsMetadata
from helpers.metadata import Metadata
from sandbox import Recorded, Sandbox

# The largest size that Exchange can be set to accept.
LARGEST_MESSAGE = 150_000_000


class Taken(NamedTuple):
    """A message that the provider accepted; `when` is the request's arrival, in monotonic seconds."""

    when: float
    subject: str
    mailbox: str


class Provider:
    """A provider as a context manager; `url` is its base URL, `ca_file` its authority, `pid` its process.

    `azure` and `aws` are the URLs of a machine's metadata services.
    """

    def __init__(self) -> None:
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._directory = Path(tempfile.mkdtemp(prefix="provider-"))
        # The relay runs as another user, who has to read the CA file.
        self._directory.chmod(0o755)

    def __enter__(self) -> Provider:
        self.url, self.ca_file, self.azure, self.aws = self._process.submit(_start, self._directory).result()
        self.pid = self._process.submit(os.getpid).result()
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            self._process.submit(_stop).result()
        finally:
            self._process.shutdown()
            shutil.rmtree(self._directory)

    def register(self, certificate: bytes) -> None:
        """Allow the application to sign in with a certificate, in DER."""
        self._process.submit(_register, certificate).result()

    def requests(self) -> list[Recorded]:
        """Return the requests since the last call of this function, and forget them."""
        return self._process.submit(_requests).result()

    def wait_for(self, count: int, patience: float) -> list[Taken]:
        """Return the messages accepted since `requests` was called, once there are `count`.

        Raises TimeoutError after `patience` seconds without an acceptance.
        """
        taken: list[Taken] = []
        limit = time.monotonic() + patience
        while len(taken) < count:
            if fresh := self._process.submit(_taken, len(taken)).result():
                taken += fresh
                limit = time.monotonic() + patience
            elif time.monotonic() > limit:
                raise TimeoutError(f"{len(taken)} of {count} accepted, and none for {patience} s")
            time.sleep(0.05)
        return taken


# The following functions run in the sandbox's process.
_running: list[Sandbox] = []
_services = ExitStack()


def _start(directory: Path) -> tuple[str, Path, str, str]:
    sandbox = Sandbox(directory=directory)
    sandbox.message_limit, sandbox.keeps_ranges = LARGEST_MESSAGE, False
    sandbox.start()
    _running.append(sandbox)
    azure = _services.enter_context(Metadata(sandbox, "vm"))
    aws = _services.enter_context(AwsMetadata(sandbox))
    return sandbox.url, sandbox.ca_file, azure.url, aws.url


def _stop() -> None:
    _services.close()
    _running.pop().__exit__()


def _register(certificate: bytes) -> None:
    _running[0].certificates.append(certificate)


def _requests() -> list[Recorded]:
    sandbox = _running[0]
    seen = sandbox.requests[:]
    sandbox.requests.clear()
    sandbox.accepted.clear()
    sandbox.messages.clear()
    return seen


def _taken(known: int) -> list[Taken]:
    accepted = _running[0].accepted[known:]
    return [Taken(message.when, message.subject, message.mailbox) for message in accepted]
