"""The kernel's protection of files in sticky directories, as Debian sets it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROTECTED_REGULAR = Path("/proc/sys/fs/protected_regular")
# With pytest-xdist, the process that changed the setting may not be the last to end.
SHARED = Path("/tmp/.relay-tests-protected-regular")


@contextmanager
def protected_regular() -> Iterator[None]:
    """Set fs.protected_regular to 2, as Debian does; with 0, root may do what Debian forbids.

    The setting is the whole machine's, and is restored when its last user has ended. Raise OSError if it
    differs and cannot be changed, as in a container: set it on the container's host.
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
