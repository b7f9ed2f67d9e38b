"""Faults in a state file, or instead of one, as a power cut, a full disk or a stranger can leave them."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Callable

from helpers.home import RelayHome
from helpers.state import NOTICES, TOKEN, WINDOW, clock

STATE = (WINDOW, TOKEN, NOTICES)
# A sender that is overridden: the notice is remembered, so that every state file is written.
STRANGER = "printer@elsewhere.com"
DAY = 86400
# JSON allows this number, but no float can hold it.
HUGE = 10**400

Fault = Callable[[Path], object]


def holding(content: bytes | str) -> Fault:
    """Return a fault: the file has this content."""
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def holding_json(value: object) -> Fault:
    """Return a fault: the file has this value."""
    return holding(json.dumps(value))


def closed(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0)


def owned_by_root(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0o600)
    os.chown(path, 0, 0)


def empty_directory(path: Path) -> None:
    path.mkdir()


def full_directory(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("kept")


def directory_of_root(path: Path) -> None:
    full_directory(path)
    os.chown(path, 0, 0)


def dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


CONTENTS: dict[str, Fault] = {
    "missing": lambda path: None,
    "empty": holding(b""),
    "truncated": holding(b'{"calls":[[12.5,13.'),
    "NULs": holding(bytes(4096)),
    "not UTF-8": holding(b'{"calls":"\xff\xfe"}'),
    "an array": holding_json([1, 2]),
    "a number": holding_json(7),
    "a string": holding_json("calls"),
    "true": holding_json(True),
    "null": holding_json(None),
    "nested": holding('{"x":' + "[" * 800 + "]" * 800 + "}"),
    "nested too deeply": holding("[" * 100_000),
    "2 MB": holding_json({"calls": [[1.0, 2.0, 3]] * 120_000}),
}
OBJECTS: dict[str, Fault] = {
    "closed": closed,
    "owned by root": owned_by_root,
    "an empty directory": empty_directory,
    "a directory with a file": full_directory,
    "a directory of root's": directory_of_root,
    "a dangling link": dangling_link,
    "a link to itself": link_to_itself,
    "a FIFO": os.mkfifo,
    "a socket": unix_socket,
}
FAULTS = {**CONTENTS, **OBJECTS}

# By the window's clock; the other files use the date.
TOMORROW = clock() + DAY
# A call from then no longer counts, however recently the machine has booted.
YESTERDAY = clock() - DAY
# A quota is valid until then, even after the longest run of the tests.
TONIGHT = clock() + DAY / 2
WINDOW_CONTENT: dict[str, object] = {
    "calls of another type": {"calls": {"a": 1}},
    "calls that are none": {
        "calls": [1, None, "x", {}, [], [[]], [1], [1, 2, 3, 4], ["a", "b", "c"], [True] * 3]
    },
    "calls by nobody": {
        "calls": [[YESTERDAY, None, pid] for pid in (0, -1, 2**22 + 1, HUGE, None, "1", 1.5)] * 10
    },
    "calls from the future": {"calls": [[TOMORROW, None, 1], [TOMORROW, TOMORROW, 1]] * 40},
    "calls that end in the future": {"calls": [[1, TOMORROW, 1]] * 40},
    "calls before time": {"calls": [[-HUGE, None, 1], [-HUGE, -HUGE, 1], [-1e308, None, 1]] * 20},
    "calls beyond time": {"calls": [[1, HUGE, 1], [HUGE, None, 1]] * 20},
    "calls at no time": {"calls": [[float("nan"), float("nan"), 1], [float("nan"), None, os.getpid()]] * 20},
    "a pause of another type": {"paused_until": [1]},
    "a pause for a day": {"paused_until": TOMORROW},
    "a pause for ever": {"paused_until": float("inf")},
    "a pause beyond time": {"paused_until": HUGE},
    "a pause until no time": {"paused_until": float("nan")},
    "a quota of another type": {"quota": [1, 2]},
    "counters of another type": {"counters": [1]},
    "counters of all sorts": {
        "counters": {"delivered": HUGE, "deferred": -1, "bounced": True, "rejected": "x", "notices": 1.5}
    },
    "counters since the future": {"counters": {"delivered": 1, "since": time.time() + DAY}},
    "counters since no time": {"counters": {"delivered": 1, "since": [1]}},
    "an error of another type": {"last_error": "refused"},
    "an error at a time of another type": {"last_error": ["now", "refused"]},
    "an error before Rome": {"last_error": [-9e14, "refused\n| \ud800"]},
    "an error beyond time": {"last_error": [HUGE, "refused"]},
    "an error that is no text": {"last_error": [1, {"a": [None]}]},
    "a reason of another type": {"pause_reason": {"a": 1}},
}
QUOTA: dict[str, dict[str, object]] = {
    "of another type": {"limit": "28", "until": "tomorrow"},
    "nested": {"limit": [28], "until": {"x": 1}},
    "of nothing": {"limit": 0, "until": TONIGHT},
    "negative": {"limit": -5, "until": TONIGHT},
    "endless": {"limit": float("inf"), "until": TONIGHT},
    "no number": {"limit": float("nan"), "until": TONIGHT},
    "huge": {"limit": HUGE, "until": TONIGHT},
    "for ever": {"limit": 1, "until": float("inf")},
    "beyond time": {"limit": 1, "until": HUGE},
    "from the future": {"limit": 1, "until": clock() + 9 * DAY},
}


def remembered(when: float) -> object:
    """Return what is remembered of one notice that was sent, and one that was held, at `when`."""
    return {"override": {"last": {STRANGER: when}, "held": {"a": 1}, "since": when}}


NOTICE_CONTENT: dict[str, object] = {
    "of another type": {"override": [1]},
    "of nested types": {"override": {"last": [1], "held": "x", "since": {"a": 1}}},
    "of yet other types": {"override": {"last": {STRANGER: "now"}, "held": {STRANGER: "many"}, "since": []}},
    "from the future": remembered(time.time() + DAY),
    "before time": remembered(-HUGE),
    "before the calendar": remembered(-1e300),
    "before Rome": remembered(-9e14),
    "beyond time": remembered(HUGE),
    "at no time": remembered(float("nan")),
    "counts of all sorts": {
        "override": {"held": {"a": HUGE, "b": -1, "c": True, "d": 1.5, "\ud800": 2}, "since": 1}
    },
    "unknown kinds": {"\ud800\r\n": {"held": {"x": 1}, "since": 1}, "override": {}},
}


def plant(home: RelayHome, name: str, fault: Fault) -> None:
    """Put the fault there instead of a file; the relay's user owns it, unless it is meant to be root's."""
    path = home.path / name
    fault(path)
    if os.path.lexists(path) and fault not in (owned_by_root, directory_of_root):
        os.chown(path, home.account.pw_uid, home.account.pw_gid, follow_symlinks=False)


def clock_jumps(home: RelayHome, seconds: float) -> None:
    """Shift all times in the state, as a clock jump or passing time would."""
    for name in STATE:
        path = home.path / name
        if path.exists():
            home.put(name, json.dumps(shifted(json.loads(path.read_bytes()), -seconds)).encode())


def shifted(value: Any, seconds: float) -> Any:
    """Return the value with all times in it, which are the floats, shifted."""
    if isinstance(value, dict):
        return {key: shifted(item, seconds) for key, item in value.items()}
    if isinstance(value, list):
        return [shifted(item, seconds) for item in value]
    return value + seconds if isinstance(value, float) else value
