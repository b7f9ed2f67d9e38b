"""The kernel's protection of files in sticky directories, as Debian sets it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROTECTED_REGULAR = Path("/proc/sys/fs/protected_regular")
# Of several processes of pytest-xdist, the one that has set it is not the last one to end.
SHARED = Path("/tmp/.relay-tests-protected-regular")


@contextmanager
def protected_regular() -> Iterator[None]:
    """Let fs.protected_regular be 2, as on a Debian; with 0, root may do what it may not there.

    It is the machine's own, and put back when the last one that wants it has ended. OSError where it is
    another and cannot be set, as in a container: set it on the container's host.
    """
    with open(SHARED, "a+") as shared:
        fcntl.flock(shared, fcntl.LOCK_EX)
        now = PROTECTED_REGULAR.read_text().strip()
        if now != "2":
            shared.write(now)
            shared.flush()
            PROTECTED_REGULAR.write_text("2")
        fcntl.flock(shared, fcntl.LOCK_SH)
        yield
        try:
            fcntl.flock(shared, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shared.seek(0)
        before = shared.read()
        if before:
            PROTECTED_REGULAR.write_text(before)
        os.truncate(SHARED, 0)
