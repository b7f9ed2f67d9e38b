"""A copy of the project, for runs that change the script."""

from __future__ import annotations

import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def copy_of_project(place: Path) -> Path:
    """Copy what git tracks or would add, as it is on disk; the virtual environment is the project's own."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout
    place.mkdir()
    copy = ["cp", "--parents", "-pt", str(place), *names.decode().strip("\0").split("\0")]
    subprocess.run(copy, cwd=PROJECT, check=True)
    (place / ".venv").symlink_to(PROJECT / ".venv")
    return place
