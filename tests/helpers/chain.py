"""The chain that --check examines, without a fault, and the faults that it should find."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from typing import Callable, NamedTuple

from sandbox import Sandbox

from helpers.by_hand import SITE, by_hand, in_days, make_sound, set_up_postfix, tree
from helpers.home import LOG, RelayHome
from helpers.postfix import PROJECT, PrivatePostfix, add_settings, age_settings, replaced
from helpers.script import change_constants

CONFIG, SECRETS = "relay-config.json", "api-secrets.json"
# The indentation of a line that continues a finding.
BELOW = "      "
EDIT_CONFIG, EDIT_SECRETS = f"edit HOME/{CONFIG}", f"edit HOME/{SECRETS}"


class Checked(NamedTuple):
    """The exit status of --check and what it printed: findings, and the verdict at the end."""

    status: int
    lines: list[str]
    verdict: str

    @property
    def problems(self) -> list[str]:
        """The lines that need an admin's attention."""
        return [line for line in self.lines if not line.startswith("ok    ")]


def expected_verdict(levels: list[str]) -> str:
    """Return the last line that --check should print after findings of these levels."""
    tally = f"ok    {levels.count('ok')} of {len(levels)} checks"
    for level in ("warn", "FAIL"):
        if level in levels:
            tally += f", {level} {levels.count(level)}"
    if "FAIL" in levels:
        return f"{tally}: the relay is not ready; fix what begins with FAIL"
    return f"{tally}: the relay is ready" + ("; look at what begins with warn" if "warn" in levels else "")


class Chain:
    """An installation without faults, from Postfix to the provider, and its check.

    `running` is any running Postfix: its files get the installation's settings, but it does not read them.
    """

    def __init__(self, sandbox: Sandbox, home: RelayHome, running: PrivatePostfix) -> None:
        self.sandbox, self.home = sandbox, home
        self.rotation = home.queue / "logrotate.d"
        self.rotation.mkdir()
        self.rotate(f"{home.path / LOG} {{\n    weekly\n    su nobody nogroup\n}}\n")
        change_constants(home, ROTATION_DIRECTORY=str(self.rotation))
        make_sound(home)
        home.put(LOG, b"", 0o644)
        set_up_postfix(running, home)
        self.postfix = running.config
        sandbox.roles = ["Mail.ReadWrite", "Mail.Send"]

    def check(self, *options: str, user: str = "root", prefix: tuple[str, ...] = ()) -> Checked:
        """Run it, and check what always holds: no mail, no secret shown, nothing changed, FAIL exits 1."""
        before = tree(self.home.path)
        arguments = ("--check", "--postfix-config", self.postfix, *options)
        done = by_hand(self.home, *arguments, user=user, prefix=prefix)
        assert tree(self.home.path) == before
        assert (self.sandbox.accepted, self.sandbox.drafts) == ([], {})
        assert done.stderr == ""
        assert "client-secret" not in done.stdout
        assert not any(token in done.stdout for token in self.sandbox.tokens)
        *lines, verdict = done.stdout.splitlines()
        levels = [line[:4].strip() for line in lines if not line.startswith(BELOW)]
        assert set(levels) <= {"ok", "warn", "FAIL"}
        assert done.returncode == ("FAIL" in levels)
        assert verdict == expected_verdict(levels)
        return Checked(done.returncode, lines, verdict)

    def check_anew(self, before: str = ":") -> list[str]:
        """Run it as root when the bytecode is out of date, after the shell command `before`."""
        command = f"{before}; exec {self.home.script} --check --postfix-config {self.postfix}"
        return subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=60
        ).stdout.splitlines()

    def problems_anew(self) -> list[str]:
        """Return the problems, except missing rotation: the shipped program looks in the usual place."""
        lines = self.check_anew()
        assert "ok    default_transport is apirelay:api-relay" in lines
        return [line for line in lines if not line.startswith("ok    ") and "grows for ever" not in line]

    def expanded(self, line: str) -> str:
        """Return a line with HOME and the like replaced by this installation's paths, and DAY(n) by the date
        n days from today."""
        places = {
            "HOME": self.home.path,
            "DASHED": str(self.home.path).replace("/", "-"),
            "QUEUE": self.home.queue,
            "POSTFIX": self.postfix,
            "ROTATION": self.rotation,
        }
        for name, path in places.items():
            line = line.replace(name, str(path))
        # Not at collection: that may have been yesterday.
        return re.sub(r"DAY\((-?\d+)\)", lambda match: in_days(int(match[1])), line)

    def expect(self, lines: Sequence[str], expected: Sequence[str]) -> None:
        """Check that the lines are the expected ones, in which "…" stands for any text."""
        assert len(lines) == len(expected), lines
        for line, text in zip(lines, expected):
            pattern = re.escape(self.expanded(text)).replace("…", ".+")
            assert re.fullmatch(pattern, line), line

    def fix(self, line: str) -> None:
        """Do what a line advises, as an admin does in the project's directory, except the reload."""
        fix = line.split("; ", 1)[1].split("; postfix ")[0]
        # The advised check may find other faults, which do not matter here.
        fix = re.sub(r" --check$", rf" --check --postfix-config {self.postfix} >/dev/null || true", fix)
        subprocess.run(["bash", "-ec", fix], cwd=PROJECT, check=True, timeout=60)
        age_settings(self.postfix)

    def configure(self, **changes: object) -> None:
        self.home.configure(**{**SITE, **changes})

    def secrets(self, **changes: object) -> None:
        self.home.secrets(**{"API_EXPIRATION_DATE": in_days(365), **changes})

    def use_ses(self, **changes: object) -> None:
        self.secrets(**{"API_PROVIDER": "ses", "API_TENANT_OR_REGION": "eu-west-1", **changes})
        self.set("message_size_limit = 31457280")

    def set(self, *settings: str) -> None:
        """Set Postfix parameters."""
        add_settings(self.postfix, settings)

    def change_entry(self, old: str, new: str) -> None:
        """Change the transport's line in master.cf."""
        file = self.postfix / "master.cf"
        file.write_text(replaced(file.read_text(), old, new))

    def rotate(self, text: str) -> None:
        """Put a file where logrotate reads it."""
        (self.rotation / "relay").write_text(text)

    def compile(self) -> None:
        """Bring the bytecode cache up to date: the service's first start of the script writes it."""
        assert by_hand(self.home, "--version", user=self.home.account.pw_name).returncode == 0

    def own_by_root(self, name: str) -> None:
        os.chown(self.home.path / name, 0, 0)


class Fault(NamedTuple):
    """A fault: how to cause it, the lines that report it, and whether the first one's advice fixes it all.

    In the lines, HOME and the like stand for paths (Chain.expanded()), and "…" for any text.
    """

    make: Callable[[Chain], object]
    lines: list[str]
    fixed: bool = False


def fault(level: str, make: Callable[[Chain], object], text: str, fix: str, *more: str) -> Fault:
    """Return a fault that is fixed by editing something; `more` are further lines."""
    return Fault(make, [f"{level:<5} {text}; {fix}", *more])


def fixed(level: str, make: Callable[[Chain], object], text: str, fix: str, *more: str) -> Fault:
    """Return a fault that the advised command fixes."""
    return fault(level, make, text, fix, *more)._replace(fixed=True)


def expect_fault(chain: Chain, fault: Fault) -> None:
    """Check that only its lines are reported, and that the command in the first, if any, fixes it."""
    fault.make(chain)
    problems = chain.check().problems
    chain.expect(problems, fault.lines)
    if fault.fixed:
        chain.fix(problems[0])
        assert chain.check().problems == []
