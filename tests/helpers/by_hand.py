"""Helpers for commands that an admin runs by hand, and an installation in which they find no fault."""

from __future__ import annotations

import datetime
import os
import pwd
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.home import RelayHome
from helpers.postfix import (
    PROJECT,
    PrivatePostfix,
    adapted_entry,
    add_settings,
    fragment_settings,
    make_settings,
)

DAY_SECONDS = 86400
# A site's own values instead of the examples.
SITE: dict[str, Any] = {
    "ADMIN_NOTIFICATION_EMAIL": "it@example.org",
    "DEFAULT_FROM_ADDRESS": "relay@example.org",
    "VALID_FROM_ADDRESSES": ["relay@example.org", "ups@example.org"],
}
# install.sh sets these so that mail from the relay's own host reaches the admin.
ROOT_MAIL = {
    "myorigin": "$myhostname",
    "recipient_canonical_maps": "inline:{@$myhostname=it@example.org, @localhost=it@example.org,"
    " @localhost.localdomain=it@example.org}",
}


def in_days(days: int) -> str:
    """Return the date `days` from today in UTC, the tests' time zone, in the form of API_EXPIRATION_DATE.

    At least a minute of the day remains: just before midnight this waits for the next day.
    """
    left = DAY_SECONDS - time.time() % DAY_SECONDS
    if left < 60:
        time.sleep(left + 0.01)
    return str(datetime.date.today() + datetime.timedelta(days))


def by_hand(
    home: RelayHome,
    *arguments: object,
    user: str = "root",
    prefix: Sequence[str] = (),
    message: bytes = b"",
) -> subprocess.CompletedProcess[str]:
    """Run the installed command with these arguments and `message` on its standard input; `prefix` is a
    command that runs it."""
    account = pwd.getpwnam(user)
    with tempfile.TemporaryFile() as fed:
        fed.write(message)
        fed.seek(0)
        return subprocess.run(
            [*prefix, str(home.script), *map(str, arguments)],
            stdin=fed if message else subprocess.DEVNULL,
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
    """Make --check find no fault in a home: a site's own settings, and nothing open to others."""
    home.configure(**SITE)
    home.secrets(API_EXPIRATION_DATE=in_days(365))
    home.give_to_root()


def set_up_postfix(postfix: PrivatePostfix, home: RelayHome) -> None:
    """Write the shipped settings for this home into a Postfix's files; a running Postfix is not reloaded."""
    make_settings(postfix.config)
    entry = adapted_entry(str(home.script), home.account.pw_name)
    (postfix.config / "master.cf").write_text(postfix.services + entry)
    # Its commands must not reach the machine's own Postfix.
    places = [
        f"queue_directory = {postfix.queue_directory}",
        f"data_directory = {postfix.data_directory}",
        f"maillog_file = {postfix.log_file}",
        f"maillog_file_prefixes = {postfix.directory}",
    ]
    root = [f"{name} = {value}" for name, value in ROOT_MAIL.items()]
    add_settings(postfix.config, [*fragment_settings(PROJECT / "postfix" / "main.cf"), *root, *places])


def tree(directory: Path) -> dict[str, tuple[object, ...]]:
    """Return everything in a directory: type, permissions, owner, time of change and content."""
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
