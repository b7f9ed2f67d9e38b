"""A test that hangs ends the run with a message that names the test and shows what it was doing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.postfix import PROJECT, STUCK_SECONDS

# A wait that lasts forever continues when it is interrupted.
TESTS = """
import threading, pytest

def wait_for_ever():
    try:
        threading.Event().wait()
    finally:
        wait_for_ever()

@pytest.fixture
def bad_end():
    yield
    wait_for_ever()

def test_that_hangs():
    wait_for_ever()

def test_that_fails_and_then_hangs(bad_end):
    assert not "so"

def test_that_ends():
    pass
"""


@pytest.mark.parametrize("name", ["test_that_hangs", "test_that_fails_and_then_hangs"])
def test_it_is_named_and_the_others_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-n", "1"]
    done = subprocess.run(
        [*command, "--hang-seconds=3", "-c", os.devnull, "-k", f"{name} or test_that_ends", tmp_path],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT / "tests")},
        capture_output=True,
        text=True,
        timeout=STUCK_SECONDS,
    )
    assert f"crashed while running 'test_it.py::{name}'" in done.stdout
    assert ", 1 passed in " in done.stdout
    assert "in wait_for_ever" in done.stderr
    assert done.returncode == 1
