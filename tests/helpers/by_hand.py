"""What an administrator starts by hand, and an installation that it finds nothing wrong with."""

from __future__ import annotations

import datetime
import os
import pwd
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.home import RelayHome
from helpers.postfix import PROJECT, adapted_entry, add_settings, fragment_settings, make_settings

DAY_SECONDS = 86400
# What a site chooses in place of the examples.
SITE: dict[str, Any] = {
    "ADMIN_NOTIFICATION_EMAIL": "it@example.org",
    "DEFAULT_FROM_ADDRESS": "relay@example.org",
    "VALID_FROM_ADDRESSES": ["relay@example.org", "ups@example.org"],
}


def in_days(days: int) -> str:
    """The date so many days from today, as API_EXPIRATION_DATE wants it, by the tests' clock, which is UTC.

    The day goes on for a minute at least: just before midnight this waits for the next.
    """
    left = DAY_SECONDS - time.time() % DAY_SECONDS
    if left < 60:
        time.sleep(left + 0.01)
    return str(datetime.date.today() + datetime.timedelta(days))


def by_hand(
    home: RelayHome, *arguments: object, user: str = "root", prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the installed command with these arguments; `prefix` is a command that runs it."""
    account = pwd.getpwnam(user)
    return subprocess.run(
        [*prefix, str(home.script), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": os.environ["TZ"]},
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
    )


def make_sound(home: RelayHome) -> None:
    """Give a home what --check wants to see: a site's own settings, and nothing open to others."""
    home.configure(**SITE)
    home.secrets(API_EXPIRATION_DATE=in_days(365))
    home.give_to_root()


def postfix_settings(home: RelayHome) -> Path:
    """A configuration directory of Postfix's, set up as shipped for this home; nothing runs with it."""
    directory = home.queue / "postfix"
    directory.mkdir()
    make_settings(directory)
    (directory / "master.cf").write_text(adapted_entry(str(home.script), home.account.pw_name))
    # A reload must not reach the machine's own Postfix.
    places = [f"{name}_directory = {home.queue / name}" for name in ("queue", "data")]
    add_settings(directory, [*fragment_settings(PROJECT / "postfix" / "main.cf"), *places])
    return directory


def tree(directory: Path) -> dict[str, tuple[object, ...]]:
    """Everything in a directory: what it is, whose, how open, when it was changed, and its content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[os.path.relpath(path, directory)] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            0 if path.is_dir() else status.st_mtime_ns,
            content,
        )
    return found
