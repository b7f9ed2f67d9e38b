"""A shell for the commands of README.md, with stand-ins for what the tests cannot run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from helpers.postfix import PROJECT, STUCK_SECONDS, age_settings

# The name of the relay's account, which is also part of other names.
ACCOUNT = r"(?<![\w/-])postfix-relay(?![\w./-])"
# Commands that only a whole machine has, or that would be slow: Postfix's commands wait while main.cf is new.
STAND_INS = {
    "sudo": 'if [ "$1" = -u ]; then exec runuser -u "$2" -- "${@:3}"; fi\nexec "$@"',
    "systemctl": '[ "$*" = "restart postfix" ] || exit 1\npostfix stop || true\nexec postfix start',
    "postconf": 'PATH=${PATH#*:} postconf "$@" || exit\ntouch -d "1 hour ago" "$MAIL_CONFIG/main.cf"',
}


class Shell:
    """CONFIG is Postfix's configuration directory, PROGRAMS a directory for stand-ins.

    CHANGES maps regular expressions to their replacements in the commands.
    """

    def __init__(self, config: Path, programs: Path, changes: dict[str, str]) -> None:
        self.config = config
        self.programs = programs
        self.changes = {**changes, "/etc/postfix": str(config)}
        for name, body in STAND_INS.items():
            (programs / name).write_text(f"#!/bin/bash\n{body}\n")
            (programs / name).chmod(0o755)

    def adapted(self, text: str) -> str:
        """Return the commands, adapted to this machine."""
        for pattern, replacement in self.changes.items():
            text = re.sub(pattern, replacement, text)
        return text

    def attempt(self, text: str, directory: Path = PROJECT) -> subprocess.CompletedProcess[str]:
        """Run commands, up to the first that fails."""
        path = f"{self.programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.adapted(text)],
            cwd=directory,
            env={**os.environ, "PATH": path, "MAIL_CONFIG": str(self.config)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STUCK_SECONDS,
        )
        age_settings(self.config)
        return done

    def run(self, text: str, directory: Path = PROJECT) -> str:
        """Return what commands print; AssertionError if one of them fails."""
        done = self.attempt(text, directory)
        assert done.returncode == 0, f"{text}{done.returncode}\n{done.stderr}{done.stdout}"
        return done.stdout
