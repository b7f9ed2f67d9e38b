"""The compiled code beside the script saves time and changes nothing else: without it mail goes out as
well."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Deliver
from helpers.by_hand import by_hand
from helpers.home import SCRIPT, RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.script import load_script

SYSTEM_PYTHON = "/usr/bin/python3"
HEADER = 16
SENT = ("sent", "2.0.0", 0, b"")


def send(deliver: Deliver) -> Delivery:
    return deliver(mail(), "to@external.com")


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, check=True, text=True)
    return done.stdout.strip()


def cache_of(script: Path) -> Path:
    """Return the path at which the script's own interpreter keeps its code."""
    code = "import sys, importlib.util as u; print(u.cache_from_source(sys.argv[1]))"
    return Path(run(SYSTEM_PYTHON, "-I", "-c", code, script))


@pytest.fixture
def cache(home: RelayHome, deliver: Deliver) -> Path:
    """The cache that a first delivery leaves."""
    assert send(deliver) == SENT
    path = cache_of(home.script)
    assert path.stat().st_uid == home.account.pw_uid
    return path


def version(script: Path) -> str:
    return run(script, "--version")


def test_what_is_in_the_cache_is_what_runs(home: RelayHome, cache: Path, tmp_path: Path) -> None:
    """Otherwise nothing would be saved, and the tests below would test nothing."""
    other = tmp_path / "other"
    other.write_text(home.script.read_text().replace('VERSION = "', 'VERSION = "cached-'))
    run(SYSTEM_PYTHON, "-m", "py_compile", other)
    made = cache_of(other)
    cache.write_bytes(cache.read_bytes()[:HEADER] + made.read_bytes()[HEADER:])
    started = by_hand(home, "--version", user=home.account.pw_name)
    assert started.stdout.startswith("postfix-api-relay cached-")
    # Root does not run what the account has left.
    assert version(home.script) == "postfix-api-relay 1.1.0"
    # In a home where only root could have left it, it does.
    home.give_to_root()
    cache.write_bytes(cache.read_bytes()[:HEADER] + made.read_bytes()[HEADER:])
    assert version(home.script).startswith("postfix-api-relay cached-")


def test_a_script_that_is_newer_than_its_cache_runs(home: RelayHome, cache: Path, deliver: Deliver) -> None:
    text = home.script.read_text().replace('VERSION = "', 'VERSION = "newer-')
    home.put(home.script.name, text.encode(), 0o755)
    assert version(home.script).startswith("postfix-api-relay newer-")
    assert send(deliver) == SENT


# How marshal writes the name of a module's code, and a number that is no code and not even a ValueError.
NAME, NUMBER = rb"[\xda\xfa]\x08<module>", b"\xe9\x01\x00\x00\x00"
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut in the header": lambda whole: whole[:7],
    "the header alone": lambda whole: whole[:HEADER],
    "half": lambda whole: whole[: len(whole) // 2],
    "zeros after the header": lambda whole: whole[:HEADER] + bytes(len(whole) - HEADER),
    "zeros at the end": lambda whole: whole[: len(whole) // 2] + bytes(len(whole) // 2),
    "a number": lambda whole: whole[:HEADER] + b"i\x01\x00\x00\x00",
    "a number for a name": lambda whole: re.sub(NAME, NUMBER, whole),
    "a list of nothing": lambda whole: whole[:HEADER] + b"[\x01\x00\x00\x000",
    "noise": lambda whole: whole[:HEADER] + b"\xff" * 1000,
    "of another Python": lambda whole: b"\x00\x00\r\n" + whole[4:],
    "text": lambda whole: b"no code",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_replaced(cache: Path, deliver: Deliver, damage: str) -> None:
    whole = cache.read_bytes()
    assert DAMAGES[damage](whole) != whole
    cache.write_bytes(DAMAGES[damage](whole))
    assert send(deliver) == SENT
    assert send(deliver) == SENT
    assert cache.read_bytes() == whole


@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_a_cache_that_cannot_be_read_or_written_is_done_without(
    home: RelayHome, cache: Path, deliver: Deliver, mode: int
) -> None:
    cache.write_bytes(b"")
    cache.parent.chmod(mode)
    try:
        assert send(deliver) == SENT
    finally:
        cache.parent.chmod(0o755)
    assert cache.read_bytes() == b""


@pytest.mark.parametrize("place", ["the cache", "its directory"])
def test_something_else_in_its_place(cache: Path, deliver: Deliver, place: str) -> None:
    cache.unlink()
    if place == "the cache":
        cache.mkdir()
    else:
        cache.parent.rmdir()
        cache.parent.write_text("")
    assert send(deliver) == SENT


def test_only_the_owner_of_the_directory_leaves_a_cache(home: RelayHome, deliver: Deliver) -> None:
    """The service could never replace what root leaves after a start by hand."""
    assert os.geteuid() == 0
    version(home.script)
    assert not cache_of(home.script).parent.exists()
    assert send(deliver) == SENT
    assert cache_of(home.script).exists()


def test_the_check_of_the_guide_makes_the_cache(home: RelayHome, deliver: Deliver) -> None:
    run(SYSTEM_PYTHON, "-m", "py_compile", home.script)
    cache = cache_of(home.script)
    made = cache.stat().st_mtime_ns
    assert send(deliver) == SENT
    assert cache.stat().st_mtime_ns == made


def test_the_first_line_is_the_one_that_the_script_starts_itself_with() -> None:
    first_line = SCRIPT.read_text().partition("\n")[0]
    assert first_line == f"#!/usr/bin/python3 -ISc{load_script().FIRST_LINE}"
