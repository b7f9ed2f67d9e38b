"""The shipped logrotate file, and the real logrotate."""

from __future__ import annotations

import grp
from collections.abc import Sequence
from pathlib import Path

from helpers.home import LOG, RelayHome
from helpers.postfix import PROJECT, replaced, run


def configure(home: RelayHome, directory: Path) -> Path:
    """Write the shipped file for a home, with the setting of distributions that name old logs by date."""
    shipped = (PROJECT / "logrotate" / "postfix-api-relay").read_text()
    owner = f"{home.account.pw_name} {grp.getgrgid(home.account.pw_gid).gr_name}"
    text = replaced(shipped, "/opt/postfix-relay/", f"{home.path}/")
    text = replaced(text, "su postfix-relay postfix-relay", f"su {owner}")
    text = replaced(text, "create 0644 postfix-relay postfix-relay", f"create 0644 {owner}")
    configuration = directory / "logrotate.conf"
    configuration.write_text(f"dateext\n{text}")
    configuration.chmod(0o644)
    return configuration


def rotate(configuration: Path, prefix: Sequence[str] = ()) -> None:
    """Rotate now, as if a week had passed; `prefix` is a command that runs logrotate, such as strace."""
    state = configuration.with_suffix(".state")
    run(*prefix, "logrotate", "--force", "--state", str(state), str(configuration))


def logs(home: RelayHome) -> list[str]:
    """Return the names of the log and of the rotated logs, in order."""
    return sorted(path.name for path in home.path.glob(f"{LOG}*"))
