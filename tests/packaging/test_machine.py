"""What run.sh and demo.sh install, with a package manager that only writes down what it is asked for."""

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


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH of just the commands that the script itself uses."""
    for name in ("sort", "id", "bash"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    return tmp_path


def add_manager(programs: Path, status: int = 0) -> None:
    """A dnf that prints its arguments and exits with STATUS."""
    (programs / "dnf").write_text(f'#!{programs}/bash\necho "$@"\nexit {status}\n')
    (programs / "dnf").chmod(0o755)


def install(programs: Path) -> subprocess.CompletedProcess[str]:
    """Run the installation of three things that are there and three that are not."""
    return subprocess.run(
        ["bash", "-c", INSTALL, "machine", sys.executable],
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
