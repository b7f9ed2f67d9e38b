"""run.sh and demo.sh install what they need; the package managers here only record their arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.postfix import PROJECT

INSTALL = """\
set -euo pipefail
. tests/machine.sh
PYTHON=$1
install_packages \
    no-such-command for-debian for-fedora \
    sort debian-coreutils fedora-coreutils \
    python:no_such_module python3-debian python3-fedora \
    python:json never never \
    '/no/such/*' debian-file fedora-file \
    '/et*' never never
"""
# Downloads that fail once or more: with apt, and with pip in a virtual environment.
DOWNLOADS = {
    "apt": """\
set -euo pipefail
. postfix/packages.sh
add_packages some-package
""",
    "pip": """\
set -euo pipefail
. tests/machine.sh
make_venv "$1/venv" "$1/python" pyproject.toml some-package
""",
}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH with only the commands that the script itself uses."""
    for name in ("sort", "id", "bash", "cmp", "cp", "mkdir", "rm"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    return tmp_path


def add_manager(programs: Path, status: int = 0) -> None:
    """A dnf that prints its arguments and exits with STATUS."""
    add_program(programs, "dnf", f'echo "$@"\nexit {status}')


def add_program(programs: Path, name: str, body: str) -> None:
    """Add a program that runs these commands."""
    (programs / name).write_text(f"#!{programs}/bash\n{body}\n")
    (programs / name).chmod(0o755)


def install(programs: Path) -> subprocess.CompletedProcess[str]:
    """Run the installation with three things that are present and three that are missing."""
    return run_here(programs, INSTALL, sys.executable)


def run_here(programs: Path, text: str, argument: object) -> subprocess.CompletedProcess[str]:
    """Run commands with an argument in the project's directory."""
    return subprocess.run(
        ["bash", "-c", text, "machine", str(argument)],
        cwd=PROJECT,
        env={**os.environ, "PATH": str(programs)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_only_what_is_missing_is_installed_and_no_question_asked(programs: Path) -> None:
    add_manager(programs)
    done = install(programs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *("install", "-y", "--setopt=install_weak_deps=False"),
        *("fedora-file", "for-fedora", "python3-fedora"),
    ]


def test_a_failed_installation_ends_the_run(programs: Path) -> None:
    add_manager(programs, status=1)
    done = install(programs)
    assert done.returncode == 1
    assert "could not install: fedora-file for-fedora python3-fedora" in done.stderr


def test_an_unknown_distribution_ends_the_run(programs: Path) -> None:
    done = install(programs)
    assert (done.returncode, done.stdout) == (1, "")
    assert "neither apt nor dnf found" in done.stderr


def download(programs: Path, tool: str, failures: int) -> tuple[int, list[str]]:
    """Return the exit status of a download that first fails `failures` times, and the tool's calls."""
    calls = programs / "calls"
    body = f'echo "$*" >>{calls}\nmapfile -t lines <{calls}\n[ ${{#lines[@]}} -gt {failures} ]'
    add_program(programs, {"apt": "apt-get", "pip": "pip"}[tool], body)
    # An interpreter whose environments contain only that pip.
    add_program(programs, "python", f'mkdir -p "$3/bin"\ncp {programs}/pip "$3/bin/python"')
    add_program(programs, "sleep", "exit 0")
    done = run_here(programs, DOWNLOADS[tool], programs)
    return done.returncode, calls.read_text().splitlines()


@pytest.mark.parametrize("tool", DOWNLOADS)
def test_a_download_that_breaks_off_is_begun_again(programs: Path, tool: str) -> None:
    status, calls = download(programs, tool, 2)
    assert status == 0
    assert calls[0] == calls[1] == calls[2]
    assert calls[-1].endswith(" some-package")


@pytest.mark.parametrize("tool", DOWNLOADS)
def test_a_download_that_never_works_ends_the_run(programs: Path, tool: str) -> None:
    status, calls = download(programs, tool, 99)
    assert (status != 0, len(calls)) == (True, 3)
