"""A distribution's SELinux policy with the relay's module, read without SELinux in the kernel."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from helpers.postfix import PROJECT, run

BUILD = PROJECT / "selinux" / "build.sh"
SHIPPED_HOME = Path("/opt/postfix-relay")
# Debian's selinux-policy-default and Fedora's selinux-policy-targeted.
STORES = ("default", "targeted")
LABELLED = re.compile(r"^(.+)\t\w+:\w+:(\w+)", re.MULTILINE)
ALLOWED = re.compile(r"^allow \S+ \S+:(\w+) (?:\{ (.*) \}|(\w+));$", re.MULTILINE)


class Right(NamedTuple):
    """A permission on objects of one type and class."""

    target: str
    kind: str
    permission: str


class Policy:
    """The machine's policy with the module, as `install` put it into the directory `root`."""

    def __init__(self, root: Path) -> None:
        [self._binary] = root.glob("etc/selinux/*/policy/policy.*")
        [self._contexts] = root.glob("etc/selinux/*/contexts/files/file_contexts")

    def types(self, paths: Iterable[Path], kind: str) -> dict[Path, str]:
        """Return the types of those files ("file") or directories ("dir") that the contexts label."""
        shown = run("matchpathcon", "-f", str(self._contexts), "-m", kind, *map(str, paths))
        return {Path(path): found for path, found in LABELLED.findall(shown)}

    def rights(self, domain: str, targets: Iterable[str]) -> set[Right]:
        """Return a domain's rights on these types, except those that depend on a boolean."""
        found = set()
        for target in targets:
            for kind, many, one in ALLOWED.findall(_rules(self._binary, domain, target)):
                found |= {Right(target, kind, permission) for permission in (many or one).split()}
        return found


@cache
def _rules(policy: Path, domain: str, target: str) -> str:
    # sesearch reads the whole policy each time, which takes more than a second.
    return run("sesearch", "-A", "-s", domain, "-t", target, str(policy))


def build(directory: Path, home: Path | str = SHIPPED_HOME) -> Path:
    """Build the module for a relay in `home` with the shipped command, and return its file."""
    run(str(BUILD), str(directory), str(home))
    return directory / "postfix-relay.pp"


def install(root: Path) -> None:
    """Copy the machine's policy into an empty directory, and install the module there.

    AssertionError: there is no policy, or it rejects the module.
    """
    stores = [store for store in STORES if Path("/var/lib/selinux", store).is_dir()]
    assert stores, "no SELinux policy is installed"
    for directory in ("var/lib/selinux", "etc/selinux"):
        shutil.copytree(Path("/", directory, stores[0]), root / directory / stores[0], symlinks=True)
    shutil.copy("/etc/selinux/semanage.conf", root / "etc/selinux")
    run("semodule", "-p", str(root), "-n", "-s", stores[0], "-i", str(build(root)))
