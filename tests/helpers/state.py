"""The relay's state files, which tests write and read instead of waiting for a minute."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.home import RelayFiles, RelayHome
from helpers.script import change_constants

WINDOW = ".rate-limit-state"
NOTICES = ".notice-state"
TOKEN = ".graph-token-cache"
KEYS = ".ses-credentials-cache"


def clock() -> float:
    """Return the time by the window's clock, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read(home: RelayHome, name: str) -> dict[str, Any]:
    """Return a state file's content; empty if there is none."""
    file = home.path / name
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return content


def fill_window(home: RelayFiles, calls: int) -> None:
    """Fill the window with a number of calls that have just ended."""
    put_calls(home, [0.0] * calls)


def put_calls(home: RelayFiles, ages: Iterable[float]) -> None:
    """Set the calls in the window, by their seconds since they ended, with nobody waiting in line.

    While processes of the relay run, hold the lock: one that has just written the state would take this for
    its own version.
    """
    now = clock()
    calls = [[now - age - 1, now - age, 1] for age in ages]
    home.put(WINDOW, json.dumps({"calls": calls}).encode())


def open_slots(home: RelayHome, number: int = 1) -> None:
    """Remove `number` of the ended calls from the window now; waiting deliveries stay in line."""
    with lock_held(home):
        state = read(home, WINDOW)
        ended = [call for call in state["calls"] if call[1] is not None]
        assert len(ended) >= number
        for call in ended[:number]:
            state["calls"].remove(call)
        home.put(WINDOW, json.dumps(state).encode())


def let_calls_count_for_long(home: RelayHome) -> None:
    """Change the installed copy so that no call leaves the window during a test."""
    change_constants(home, WINDOW_SECONDS=3600)


@contextmanager
def lock_held(home: RelayHome) -> Iterator[None]:
    """Hold the home's lock, as another process would."""
    descriptor = os.open(home.path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def hold_notices(home: RelayHome, kind: str, held: dict[str, int], age: float) -> None:
    """Set the held notices of a kind, by their subject matter, the first one `age` seconds old."""
    state = {**read(home, NOTICES), kind: {"last": {}, "held": held, "since": time.time() - age}}
    home.put(NOTICES, json.dumps(state).encode())


def held_notices(home: RelayHome, kind: str) -> dict[str, int]:
    """Return the number of held notices of a kind, by their subject matter."""
    found: dict[str, int] = read(home, NOTICES).get(kind, {}).get("held", {})
    return found


def pass_by(home: RelayHome, seconds: float) -> None:
    """Age the remembered refusals by `seconds`."""
    with lock_held(home):
        state = read(home, WINDOW)
        for entry in state.get("refused", {}).get("by", {}).values():
            entry[0] -= seconds
        home.put(WINDOW, json.dumps(state).encode())


def kept_progress(home: RelayHome) -> list[Path]:
    """Return the files of unfinished deliveries that take several calls."""
    return sorted(home.path.glob(".progress-*"))


def pass_by_progress(home: RelayHome, seconds: float) -> None:
    """Age the sending of drafts whose answer was lost by `seconds`."""
    for file in kept_progress(home):
        if file.suffix == ".new":
            continue
        state = json.loads(file.read_text())
        if "sending" in state["draft"]:
            state["draft"]["sending"] -= seconds
            home.put(file.name, json.dumps(state).encode())


def pass_by_incident(home: RelayHome, seconds: float) -> None:
    """Age the recorded incident by `seconds`."""
    with lock_held(home):
        state = read(home, WINDOW)
        for name in {"incident", "recovered"} & state.keys():
            for place in (0, 5, 6):
                state[name][place] = max(0, state[name][place] - seconds)
        home.put(WINDOW, json.dumps(state).encode())
