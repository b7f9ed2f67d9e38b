"""Whatever stands in place of a state file: the mail flows, and the next delivery leaves a sound file."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Callable, NoReturn

import pytest
from conftest import Deliver, Figures
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.parallel import each
from helpers.pipe import pipe
from sandbox import Sandbox

RECIPIENT = "to@external.com"
# The overrides' notices are remembered, so that every state file is written.
STRANGER = "printer@elsewhere.com"
WINDOW, TOKEN, NOTICES = ".rate-limit-state", ".graph-token-cache", ".notice-state"
STATE = (WINDOW, TOKEN, NOTICES)
DAY = 86400
# A number that JSON allows, and that no float can hold.
HUGE = 10**400
TRUSTED_ELSEWHERE = b'{"calls":[]}'

Fault = Callable[[Path], object]


def boot_clock() -> float:
    """The clock of the window: seconds since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def holding(content: bytes | str) -> Fault:
    """A fault: the file has this content."""
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def holding_json(value: object) -> Fault:
    """A fault: the file has this value."""
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

# By the window's clock; the other files go by the date.
TOMORROW = boot_clock() + DAY
WINDOW_CONTENT: dict[str, object] = {
    "calls of another type": {"calls": {"a": 1}},
    "calls that are none": {
        "calls": [1, None, "x", {}, [], [[]], [1], [1, 2, 3, 4], ["a", "b", "c"], [True] * 3]
    },
    "calls by nobody": {"calls": [[1, None, pid] for pid in (0, -1, 2**22 + 1, HUGE, None, "1", 1.5)] * 10},
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
}
QUOTA: dict[str, dict[str, object]] = {
    "of another type": {"limit": "28", "until": "tomorrow"},
    "nested": {"limit": [28], "until": {"x": 1}},
    "of nothing": {"limit": 0, "until": boot_clock() + 600},
    "negative": {"limit": -5, "until": boot_clock() + 600},
    "endless": {"limit": float("inf"), "until": boot_clock() + 600},
    "no number": {"limit": float("nan"), "until": boot_clock() + 600},
    "huge": {"limit": HUGE, "until": boot_clock() + 600},
    "for ever": {"limit": 1, "until": float("inf")},
    "beyond time": {"limit": 1, "until": HUGE},
    "from the future": {"limit": 1, "until": boot_clock() + 9 * DAY},
}
TOKEN_CONTENT: dict[str, dict[str, object]] = {
    "of another type": {"token": ["x"]},
    "with line breaks": {"token": "x\r\nX-Header: y"},
    "empty": {"token": ""},
    "without times": {"obtained": None, "ends": None},
    "at times of another type": {"obtained": "now", "ends": [1]},
    "from the future": {"obtained": time.time() + DAY, "ends": time.time() + DAY + 3599},
    "that lasts for years": {"ends": time.time() + 1000 * DAY},
    "that lasts for ever": {"ends": float("inf")},
    "before time": {"obtained": -HUGE, "ends": 1e12},
    "beyond time": {"ends": HUGE},
    "at no time": {"obtained": float("nan"), "ends": float("nan")},
    "of other credentials": {"key": "x"},
}


def remembered(when: float) -> object:
    """What is remembered of a notice that was sent, and of one that was held, at some time."""
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


@pytest.fixture(autouse=True)
def remembering(home: RelayHome) -> None:
    """Let the relay remember its notices, which it does where they are spaced."""
    home.configure(NOTIFY_INTERVAL_MINUTES=1)


@pytest.fixture
def bystander() -> Iterator[Path]:
    """A file that is none of the relay's business, which root can write to and the relay's user as well."""
    # pytest's own directories are closed to the relay's user.
    directory = Path("/tmp") / f"bystander-{os.getpid()}"
    directory.mkdir(mode=0o755)
    file = directory / "file"
    file.write_bytes(TRUSTED_ELSEWHERE)
    file.chmod(0o666)
    yield file
    shutil.rmtree(directory)


def no_constant(name: str) -> NoReturn:
    """Refuse what Python's json takes and JSON does not."""
    raise ValueError(f"{name} is not JSON")


def content(home: RelayHome, name: str) -> dict[str, Any]:
    """The JSON object in a sound state file."""
    path = home.path / name
    status = path.lstat()
    assert stat.S_ISREG(status.st_mode)
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (home.account.pw_uid, 0o600)
    value = json.loads(path.read_bytes(), parse_constant=no_constant)
    assert isinstance(value, dict)
    return value


def plant(home: RelayHome, name: str, fault: Fault) -> None:
    """Put the fault in place of a file; it belongs to the relay's user, unless it is meant to be root's."""
    path = home.path / name
    fault(path)
    if os.path.lexists(path) and fault not in (owned_by_root, directory_of_root):
        os.chown(path, home.account.pw_uid, home.account.pw_gid, follow_symlinks=False)


def check_delivery(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """Deliver: the message and its notice go out at once, and all files are sound afterwards."""
    assert deliver(mail(Subject="Alert"), RECIPIENT, sender=STRANGER).verdict == "sent"
    assert [message.subject for message in sandbox.accepted][:1] == ["Alert"]
    assert "WARNING" not in home.log()
    for name in STATE:
        content(home, name)
        assert not os.path.lexists(home.path / f"{name}.new")
    assert len(content(home, WINDOW)["calls"]) == len(sandbox.accepted)
    assert len(sandbox.accepted) > 1
    assert "Sender replaced" in sandbox.accepted[1].subject


@pytest.mark.parametrize("fault", FAULTS)
def test_all_files_at_once(sandbox: Sandbox, home: RelayHome, deliver: Deliver, fault: str) -> None:
    for name in STATE:
        plant(home, name, FAULTS[fault])
    check_delivery(sandbox, home, deliver)


@pytest.mark.parametrize("fault", ["truncated", *OBJECTS])
def test_all_files_that_are_to_take_their_place(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, fault: str
) -> None:
    for name in STATE:
        plant(home, f"{name}.new", FAULTS[fault])
    check_delivery(sandbox, home, deliver)


def alone(fault: str, name: str) -> str:
    """Deliver where one file has a fault, in a home of its own; what was wrong then, or the empty string."""
    with Sandbox() as sandbox, RelayHome(sandbox.url, sandbox.ca_file) as home:
        home.configure(NOTIFY_INTERVAL_MINUTES=1)
        plant(home, name, FAULTS[fault])
        try:
            check_delivery(sandbox, home, partial(pipe, home))
        except (AssertionError, OSError, ValueError) as error:
            return f"{name} {fault}: {error!r}"
    return ""


def test_each_file_alone(nightly: bool, figures: Figures) -> None:
    if not nightly:
        pytest.skip("with --nightly; at other times the files have each fault together")
    cases = [(fault, name + end) for fault in FAULTS for name in STATE for end in ("", ".new")]
    problems = list(filter(None, each(lambda case: alone(*case), cases)))
    figures("State files with a fault", tried=len(cases), not_sent_or_not_healed=len(problems))
    assert problems == []


@pytest.mark.parametrize("fault", WINDOW_CONTENT)
def test_a_window_with(sandbox: Sandbox, home: RelayHome, deliver: Deliver, fault: str) -> None:
    plant(home, WINDOW, holding_json(WINDOW_CONTENT[fault]))
    check_delivery(sandbox, home, deliver)


@pytest.mark.parametrize("fault", QUOTA)
def test_a_quota(sandbox: Sandbox, home: RelayHome, deliver: Deliver, fault: str) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    plant(home, WINDOW, holding_json({"quota": QUOTA[fault]}))
    assert deliver(mail(), RECIPIENT).verdict == "sent"
    assert content(home, WINDOW)["quota"]["limit"] == 60 * sandbox.max_send_rate


@pytest.mark.parametrize("fault", TOKEN_CONTENT)
def test_a_token(sandbox: Sandbox, home: RelayHome, deliver: Deliver, fault: str) -> None:
    assert deliver(mail(), RECIPIENT).verdict == "sent"
    sound = content(home, TOKEN)
    sandbox.reset()
    plant(home, TOKEN, holding_json({**sound, **TOKEN_CONTENT[fault]}))
    assert deliver(mail(), RECIPIENT).verdict == "sent"
    assert [request.role for request in sandbox.requests] == ["token", "sendMail"]
    assert content(home, TOKEN)["token"] in sandbox.tokens


@pytest.mark.parametrize("fault", NOTICE_CONTENT)
def test_notices(sandbox: Sandbox, home: RelayHome, deliver: Deliver, fault: str) -> None:
    plant(home, NOTICES, holding_json(NOTICE_CONTENT[fault]))
    check_delivery(sandbox, home, deliver)


def test_a_window_full_of_calls_before_a_boot_is_empty(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    later = boot_clock() + DAY
    plant(home, WINDOW, holding_json({"calls": [[later + n, later + n + 1, n + 1] for n in range(28)]}))
    check_delivery(sandbox, home, deliver)


def test_a_full_window_that_is_left_alone_defers_for_a_minute_only(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    now = boot_clock()
    plant(home, WINDOW, holding_json({"calls": [[now - 70, now - 57.5, 1]] * 28}))
    assert deliver(mail(), RECIPIENT).text.startswith("4.4.5 rate limit reached (28/28 per minute)")
    time.sleep(max(0.0, now + 2.5 - boot_clock()))
    assert deliver(mail(), RECIPIENT).verdict == "sent"


@pytest.mark.parametrize("owner", ["root", "the relay's user"])
@pytest.mark.parametrize("end", ["", ".new"], ids=["the file", "the file to come"])
def test_what_a_link_leads_to_stays_as_it_is(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, bystander: Path, end: str, owner: str
) -> None:
    if owner != "root":
        home.own(bystander)
    before = bystander.stat()
    for name in STATE:
        plant(home, name + end, lambda path: path.symlink_to(bystander))
    check_delivery(sandbox, home, deliver)
    after = bystander.stat()
    assert bystander.read_bytes() == TRUSTED_ELSEWHERE
    assert (after.st_mtime_ns, after.st_mode) == (before.st_mtime_ns, before.st_mode)
    assert after.st_uid == before.st_uid


def test_a_directory_in_place_of_a_file_is_kept_for_the_admin(home: RelayHome, deliver: Deliver) -> None:
    for name in STATE:
        plant(home, name, full_directory)
    assert deliver(mail(), RECIPIENT, sender=STRANGER).verdict == "sent"
    kept = sorted(path.parent.name.partition(".broken-")[0] for path in home.path.glob(".*/file"))
    assert kept == sorted(STATE)
