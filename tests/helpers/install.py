"""A machine to install the relay on: a private Postfix without it, and directories for the rest."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from helpers.home import RelayFiles
from helpers.postfix import PROJECT, STUCK_SECONDS, PrivatePostfix, age_settings, run

INSTALLER = Path("postfix") / "install.sh"
# The contents of a release; the tests are not part of it.
RELEASE = (
    "postfix-api-relay",
    "relay-config.json.example",
    "api-secrets.json.example",
    "postfix",
    "logrotate",
    "selinux",
)
# Prefix for a command that must reach only this host.
OFFLINE = ("unshare", "--net", "bash", "-c", 'ip link set lo up && exec "$@"', "bash")


class Entry(NamedTuple):
    """A file or directory as it is on disk; `content` is empty for a directory, `inode` its identity."""

    mode: int
    owner: str
    group: str
    content: bytes
    inode: int
    changed: int


class Machine:
    """A context manager that removes at the end what the installer made, including the account.

    `postfix` is set up but not started. If `quiet`, there is no network, and postfix(1) is a stand-in that
    always succeeds, so that the installer does not have to wait for it.
    """

    def __init__(self, *, quiet: bool = True) -> None:
        self.account = f"relay-{secrets.token_hex(4)}"
        # Not pytest's tmp_path: that is closed to other users.
        self.base = Path(tempfile.mkdtemp(prefix="machine-"))
        self.base.chmod(0o755)
        self.home = self.base / "home"
        self.logrotate = self.base / "logrotate.d"
        self.programs = self.base / "programs"
        self.temporary = self.base / "tmp"
        for directory in (self.logrotate, self.programs, self.temporary):
            directory.mkdir()
        self.postfix = PrivatePostfix(None)
        self.calls = self.base / "calls"
        self.calls.touch()
        # The account runs some of the programs.
        self.calls.chmod(0o666)
        # The relay's own check would contact the real provider.
        self.prefix = list(OFFLINE) if quiet else []
        if quiet:
            self.replace("postfix")

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.postfix.close()
        if self.has_account():
            run("userdel", self.account)
        # An interrupted run may have made only the group.
        subprocess.run(["groupdel", self.account], capture_output=True, timeout=60)
        shutil.rmtree(self.base)

    def has_account(self) -> bool:
        """Tell whether the account exists."""
        return self.account in {entry.pw_name for entry in pwd.getpwall()}

    def replace(self, program: str, body: str = "exit 0") -> None:
        """Replace a program by a shell script for the installer; `calls` has a line for each call."""
        real = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "false"
        file = self.programs / program
        file.write_text(f'#!/bin/bash\nreal={real}\necho "{program} $*" >>{self.calls}\n{body}\n')
        file.chmod(0o755)

    def give_back(self, program: str) -> None:
        """Let the installer find the real program again."""
        (self.programs / program).unlink()

    def called(self, program: str) -> list[str]:
        """Return the arguments of each call of a replaced program so far."""
        lines = self.calls.read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.split()[0] == program]

    def command(self, *options: str, project: Path = PROJECT) -> list[str]:
        """Return the command that runs the installer with these options on this machine."""
        return [
            str(project / INSTALLER),
            *("--postfix-config", str(self.postfix.config)),
            *("--logrotate-config", str(self.logrotate)),
            *("--home", str(self.home), "--user", self.account, *options),
        ]

    def environment(self) -> dict[str, str]:
        """Return the installer's environment, with the replaced programs."""
        path = f"{self.programs}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "TMPDIR": str(self.temporary)}

    def attempt(self, *options: str, project: Path = PROJECT) -> subprocess.CompletedProcess[str]:
        """Run the installer."""
        return self.run(*self.command(*options, project=project))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command that changes this machine."""
        done = subprocess.run(
            [*self.prefix, *command],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STUCK_SECONDS,
        )
        if (self.postfix.config / "main.cf").exists():
            # Otherwise each Postfix command would wait for the file to become older.
            age_settings(self.postfix.config)
        return done

    def install(self, *options: str, project: Path = PROJECT) -> str:
        """Run the installer and return what it prints; raise AssertionError if it does not finish.

        It exits with 1 if it leaves something to the admin, and says so.
        """
        return finished(self.attempt(*options, project=project))

    def as_before(self) -> None:
        """Restore the previous version's ownership: the account owns everything except the bytecode."""
        self.home.chmod(0o750)
        for path in (self.home, *(path for path in self.home.iterdir() if path.name != "__pycache__")):
            shutil.chown(path, self.account, self.account)

    def tree(self) -> dict[str, Entry]:
        """Return everything that the installer may change, by path below the directories it was given."""
        found = {}
        for top in (self.home, self.logrotate, self.postfix.config):
            for path in sorted([top, *top.rglob("*")]) if top.exists() else []:
                found[f"{top.name}/{path.relative_to(top)}"] = entry(path)
        return found

    def postconf(self, *options: str) -> str:
        """Run postconf(1), which may change the configuration, and return what it prints."""
        done = self.run("postconf", "-c", str(self.postfix.config), *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def setting(self, name: str) -> str:
        """Return the value of a parameter in main.cf, empty if main.cf does not set it."""
        return self.postconf("-nh", name).strip()

    def service(self) -> str:
        """Return the transport's entry in master.cf, on one line with single blanks."""
        return " ".join(self.postconf("-M", "apirelay/unix").split())

    def wait_until_empty(self) -> None:
        """Wait until no message is queued, long enough for the shipped retry delay of a deferred one."""
        self.postfix.wait_until_empty(150)

    def files(self, endpoint: str = "", ca_file: Path | None = None) -> RelayFiles:
        """Return the installed files, for an admin to edit."""
        return RelayFiles(self.home, self.account, endpoint, ca_file)


def finished(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a run of the installer printed; raise AssertionError if it did not finish."""
    left = int("\nThe installation is complete; what the check found is still to be done:\n" in done.stdout)
    assert (done.returncode, done.stderr) == (left, ""), f"{done.returncode}\n{done.stderr}{done.stdout}"
    return done.stdout


def entry(path: Path) -> Entry:
    """Return a file or directory as it is on disk."""
    status = path.stat()
    content = b"" if path.is_dir() else path.read_bytes()
    # A directory's time only says that something in it changed, which is compared itself.
    changed = 0 if path.is_dir() else status.st_mtime_ns
    return Entry(status.st_mode & 0o7777, path.owner(), path.group(), content, status.st_ino, changed)


def release(directory: Path) -> Path:
    """Copy the contents of a release into a new directory that every user can read, and return that."""
    copy = directory / "release"
    copy.mkdir()
    for name in RELEASE:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, copy / name)
        else:
            shutil.copy(source, copy)
    return copy
