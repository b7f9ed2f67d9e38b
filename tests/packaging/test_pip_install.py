"""Check what `pip install .` leaves on a machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from helpers.home import SCRIPT
from helpers.postfix import PROJECT, run

NOT_SHIPPED = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the project in it, built from a copy because a build litters its source."""
    directory = tmp_path_factory.mktemp("pip")
    source = directory / "source"
    shutil.copytree(PROJECT, source, ignore=NOT_SHIPPED)
    venv.create(directory / "venv", with_pip=True)
    python = directory / "venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", source], capture_output=True, timeout=900
    )
    assert done.returncode == 0, done.stderr.decode()
    return directory / "venv"


def files(environment: Path) -> list[str]:
    """Return the installed files, except pip's own record of them."""
    listing = run(str(environment / "bin" / "python"), "-m", "pip", "show", "-f", SCRIPT.name)
    names = listing.partition("Files:\n")[2].split()
    return [name for name in names if ".dist-info/" not in name]


def test_it_installs_the_command_and_nothing_else(environment: Path) -> None:
    assert files(environment) == ["../../../bin/postfix-api-relay"]


def test_the_package_and_the_command_have_one_version(environment: Path) -> None:
    listing = run(str(environment / "bin" / "python"), "-m", "pip", "show", SCRIPT.name)
    [version] = re.findall(r"^Version: (.*)$", listing, re.MULTILINE)
    assert run(str(environment / "bin" / SCRIPT.name), "--version").split()[-1] == version


def test_the_command_runs_with_the_libraries_that_came_with_it(environment: Path) -> None:
    first_line = (environment / "bin" / SCRIPT.name).read_text().partition("\n")[0]
    assert first_line.startswith(f"#!{environment}/bin/python")


def test_the_command_imports_nothing_that_lies_beside_it(environment: Path) -> None:
    # pip writes a first line of its own, without the -I of the original.
    planted = environment / "bin" / "json.py"
    planted.write_text("raise SystemExit('planted')\n")
    try:
        assert run(str(environment / "bin" / SCRIPT.name), "--version").strip()
    finally:
        planted.unlink()


def test_the_shipped_command_runs_isolated_and_is_executable() -> None:
    first_line, *others = SCRIPT.read_text().splitlines()
    assert first_line.startswith("#!/usr/bin/python3 -ISc")
    # Kernels before 5.1, such as RHEL 8's, silently cut the line off there.
    assert len(first_line) <= 127
    assert [line for line in others if len(line) > 110] == []
    assert SCRIPT.stat().st_mode & 0o111 == 0o111
