"""Whatever replaces a state file, the mail flows, and the next delivery leaves a valid file."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from conftest import Deliver, Figures
from helpers.aws_metadata import AwsMetadata
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.parallel import each
from helpers.pipe import pipe
from helpers.script import change_constants
from helpers.state import KEYS, NOTICES, TOKEN, WINDOW, clock, fill_window
from helpers.state_faults import (
    DAY,
    FAULTS,
    HUGE,
    NOTICE_CONTENT,
    OBJECTS,
    QUOTA,
    STATE,
    STRANGER,
    WINDOW_CONTENT,
    clock_jumps,
    full_directory,
    holding_json,
    plant,
)
from sandbox import Sandbox

RECIPIENT = "to@external.com"
TRUSTED_ELSEWHERE = b'{"calls":[]}'
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

KEYS_CONTENT: dict[str, dict[str, object]] = {
    "without an id": {"id": ""},
    "with an id of another type": {"id": ["x"]},
    "with a secret of another type": {"secret": 5},
    "with line breaks in the secret": {"secret": "x\r\nX-Header: y"},
    "with line breaks in the token": {"token": "x\r\nX-Header: y"},
    "with a token of another type": {"token": {}},
    "with a renewal of another type": {"renew": "never"},
    "with an end of another type": {"ends": None},
    "without a renewal": {"renew": None},
}


@pytest.fixture(autouse=True)
def remembering(home: RelayHome) -> None:
    """Make the relay remember its notices, which it does if they are spaced."""
    home.configure(NOTIFY_INTERVAL_MINUTES=1)


@pytest.fixture
def bystander() -> Iterator[Path]:
    """A file that the relay must not touch, although both root and the relay's user can write to it."""
    # The relay's user cannot enter pytest's own directories.
    directory = Path(tempfile.mkdtemp(prefix="bystander-"))
    directory.chmod(0o755)
    file = directory / "file"
    file.write_bytes(TRUSTED_ELSEWHERE)
    file.chmod(0o666)
    yield file
    shutil.rmtree(directory)


def no_constant(name: str) -> NoReturn:
    """Refuse what Python's json accepts and JSON does not."""
    raise ValueError(f"{name} is not JSON")


def content(home: RelayHome, name: str) -> dict[str, Any]:
    """Return the JSON object in a valid state file."""
    path = home.path / name
    status = path.lstat()
    assert stat.S_ISREG(status.st_mode)
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (home.account.pw_uid, 0o600)
    value = json.loads(path.read_bytes(), parse_constant=no_constant)
    assert isinstance(value, dict)
    return value


def check_delivery(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """Deliver: the message and its notice go out at once, and all files are valid afterwards."""
    assert deliver(mail(Subject="Alert", From=None), RECIPIENT, sender=STRANGER).verdict == "sent"
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
    """Deliver with a fault in one file, in a separate home; return what was wrong, or the empty string."""
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


@pytest.fixture
def kept_keys(sandbox: Sandbox, home: RelayHome) -> Iterator[dict[str, Any]]:
    """The cache after a delivery with the keys of a container, which gives new ones on every request."""
    with AwsMetadata(sandbox) as metadata:
        metadata.use_container(home)
        assert pipe(home, mail(), RECIPIENT).verdict == "sent"
        yield content(home, KEYS)


def expect_new_keys(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """Deliver: the message goes out with new keys, which are kept, and the log does not mention it."""
    assert deliver(mail(), RECIPIENT).verdict == "sent"
    tokens = [request.headers["x-amz-security-token"] for request in sandbox.requests]
    assert tokens == [keys.token for keys in sandbox.session_keys.values()]
    assert content(home, KEYS)["token"]["token"] == tokens[1]
    assert "WARNING" not in home.log()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("kept_keys")
def test_keys_that_cannot_be_read(sandbox: Sandbox, home: RelayHome, deliver: Deliver, fault: str) -> None:
    (home.path / KEYS).unlink()
    for end in ("", ".new"):
        plant(home, KEYS + end, FAULTS[fault])
    expect_new_keys(sandbox, home, deliver)


@pytest.mark.parametrize("fault", [*TOKEN_CONTENT, *KEYS_CONTENT])
def test_keys(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, kept_keys: dict[str, Any], fault: str
) -> None:
    wrong = {**kept_keys, **TOKEN_CONTENT.get(fault, {})}
    if fault in KEYS_CONTENT:
        wrong["token"] = {**kept_keys["token"], **KEYS_CONTENT[fault]}
    plant(home, KEYS, holding_json(wrong))
    expect_new_keys(sandbox, home, deliver)


@pytest.mark.usefixtures("kept_keys")
@pytest.mark.parametrize("fault", ["open to others", "a link"])
def test_keys_that_others_could_have_written(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, fault: str
) -> None:
    if fault == "a link":
        (home.path / KEYS).rename(home.path / "elsewhere")
        (home.path / KEYS).symlink_to("elsewhere")
    else:
        (home.path / KEYS).chmod(0o644)
    expect_new_keys(sandbox, home, deliver)


@pytest.mark.parametrize("fault", NOTICE_CONTENT)
def test_notices(sandbox: Sandbox, home: RelayHome, deliver: Deliver, fault: str) -> None:
    plant(home, NOTICES, holding_json(NOTICE_CONTENT[fault]))
    check_delivery(sandbox, home, deliver)


def test_a_window_full_of_calls_before_a_boot_is_empty(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    later = clock() + DAY
    plant(home, WINDOW, holding_json({"calls": [[later + n, later + n + 1, n + 1] for n in range(28)]}))
    check_delivery(sandbox, home, deliver)


def test_a_full_window_that_is_left_alone_defers_for_a_minute_only(
    home: RelayHome, deliver: Deliver, relay: ModuleType
) -> None:
    assert relay.WINDOW_SECONDS == 60
    # An hour instead: a slow machine must not see it end early.
    change_constants(home, WINDOW_SECONDS=3600)
    fill_window(home, 28)
    for seconds in (0, 3540):
        clock_jumps(home, seconds)
        assert deliver(mail(), RECIPIENT).text.startswith("4.4.5 rate limit reached (28/28 per minute)")
    clock_jumps(home, 60)
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
    assert deliver(mail(From=None), RECIPIENT, sender=STRANGER).verdict == "sent"
    kept = sorted(path.parent.name.partition(".broken-")[0] for path in home.path.glob(".*/file"))
    assert kept == sorted(STATE)
