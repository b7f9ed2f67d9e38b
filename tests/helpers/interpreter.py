"""Interpreters that lack what the relay needs, or have something else instead."""

from __future__ import annotations

import subprocess
from pathlib import Path

from helpers.home import RelayHome

SYSTEM_PYTHON = "/usr/bin/python3"


def interpreter(home: RelayHome, *options: str) -> str:
    """Make a virtual environment that every user can read, and return its interpreter."""
    directory = home.queue / "venv"
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", *options, directory], check=True)
    return str(directory / "bin/python")


def plant(python: str, package: str, text: str) -> None:
    """Put a module where this interpreter finds it ahead of the system's."""
    (site,) = Path(python).parents[1].glob("lib/python3*/site-packages")
    (site / f"{package}.py").write_text(text)
