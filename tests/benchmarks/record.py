"""Figures in a file, and the changes since they were written."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contest import PYTHON, Figures
from benchmarks.report import aligned
from helpers.home import SCRIPT
from helpers.script import load_script
from helpers.usage import Usage

# Larger changes are marked.
NOTABLE = 0.10
# The versions of the packages that a delivery uses.
VERSIONS = """
import platform, boto3, requests
print(f"Python {platform.python_version()}, requests {requests.__version__}, boto3 {boto3.__version__}")
"""


class Change(NamedTuple):
    """A cost before and now; `counts` tells whether its growth matters."""

    was: float
    now: float
    counts: bool

    @property
    def growth(self) -> float:
        """The growth: 0.1 for a tenth."""
        return self.now / self.was - 1

    @property
    def worse(self) -> bool:
        """Whether it has grown too much."""
        return self.counts and self.growth > NOTABLE

    def cells(self) -> list[str]:
        """Return its cells in a table."""
        mark = "!" if abs(self.growth) > NOTABLE else ""
        return [f"{self.was:.3f}", f"{self.now:.3f}", f"{self.growth:+.1%}{mark}"]


def save(file: Path, measured: Mapping[str, Figures]) -> None:
    """Write figures, and the software and machine they were measured with."""
    paths = {
        name: {side: rounded(usage) for side, usage in figures._asdict().items()}
        for name, figures in measured.items()
    }
    file.write_text(json.dumps({**surroundings(), "paths": paths}, indent=2) + "\n")


def rounded(usage: Usage) -> dict[str, float]:
    """Return figures by name, without meaningless digits."""
    return {name: round(value, 4) for name, value in usage._asdict().items()}


def surroundings() -> dict[str, str]:
    """Return what the figures depend on besides the code."""
    versions = subprocess.run([PYTHON, "-I", "-c", VERSIONS], capture_output=True, check=True, text=True)
    return {
        "version": load_script().VERSION,
        "commit": commit(),
        "software": versions.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} x {processor()}, {platform.release()}",
    }


def commit() -> str:
    """Return git's name for this state of the sources; empty without git or a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--tags"]
    if not shutil.which(command[0]):
        return ""
    described = subprocess.run(command, cwd=SCRIPT.parent, capture_output=True, text=True)
    return described.stdout.strip()


def processor() -> str:
    """Return the processor's name."""
    name = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return name[1] if name else "processor"


def load(file: Path) -> tuple[str, dict[str, Figures]]:
    """Return a line about the machine and versions that a file's figures were measured with, and the figures
    by path.
    """
    content: dict[str, Any] = json.loads(file.read_text())
    paths = {
        name: Figures(Usage(**sides["ours"]), Usage(**sides["floor"]))
        for name, sides in content.pop("paths").items()
    }
    return ", ".join(content.values()), paths


def changes(was: Figures, now: Figures) -> list[Change]:
    """Return the changes in the costs of a path.

    Only processor time and memory count, in units of the floor's: seconds depend on the machine, and its
    other load affects even the ratio of wall times.
    """
    names, before, after = Usage._fields, was.ratios, now.ratios
    in_floors = [Change(old, new, name != "wall") for name, old, new in zip(names, before, after)]
    return [*in_floors, Change(was.ours.cpu, now.ours.cpu, False)]


def compare(was: Mapping[str, Figures], now: Mapping[str, Figures]) -> tuple[str, list[str]]:
    """Return a table of the changes, and the paths that cost over a tenth more; only paths in both files."""
    head = ["path"]
    for cost in ("CPU / floor", "wall / floor", "memory / floor", "CPU s"):
        head += [cost, "now", "change"]
    found = {name: changes(was[name], now[name]) for name in now if name in was}
    lines = [[name, *(cell for change in costs for cell in change.cells())] for name, costs in found.items()]
    worse = [name for name, costs in found.items() if any(change.worse for change in costs)]
    return aligned("<" + ">" * 12, [head, *lines]), worse
