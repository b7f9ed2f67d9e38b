"""What goes wrong after the provider has accepted a message does not make Postfix deliver it again.

And what ends the relay before acceptance leaves the message in the queue.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Callable

import pytest
from helpers.answers import provided
from helpers.home import LOG, RelayHome
from helpers.interrupted import interrupted
from helpers.mail import mail
from helpers.pipe import pipe
from helpers.state_faults import DAY, STATE, clock_jumps
from sandbox import Accepted, Answer, Sandbox

RECIPIENT = "to@external.com"
# An override: a notice follows the message.
STRANGER = "printer@elsewhere.com"
MESSAGE = mail(Subject="Alert", From=None)


class Watched(Sandbox):
    """A provider that does something at the first acceptance, before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], object] = bool

    def on_accepted(self, message: Accepted) -> None:
        if len(self.accepted) == 1:
            self.then()

    def alerts(self) -> int:
        """Return how often the message was accepted, without notices."""
        return sum(message.subject == "Alert" for message in self.accepted)


@pytest.fixture
def sandbox() -> Iterator[Watched]:
    provider = Watched()
    with provider:
        yield provider


def read_only_log(home: RelayHome) -> None:
    os.chown(home.path / LOG, 0, 0)
    (home.path / LOG).chmod(0o444)


def log_becomes_a_directory(home: RelayHome) -> None:
    (home.path / LOG).unlink()
    (home.path / LOG).mkdir()


def log_becomes_a_link(home: RelayHome) -> None:
    (home.path / LOG).unlink()
    (home.path / LOG).symlink_to("/dev/full")


def log_becomes_a_fifo(home: RelayHome) -> None:
    (home.path / LOG).unlink()
    os.mkfifo(home.path / LOG)


def read_only_home(home: RelayHome) -> None:
    os.chown(home.path, 0, 0)


def closed_home(home: RelayHome) -> None:
    home.path.chmod(0)


def home_is_gone(home: RelayHome) -> None:
    shutil.rmtree(home.path)


def configuration_is_gone(home: RelayHome) -> None:
    for name in ("relay-config.json", "api-secrets.json", home.script.name):
        (home.path / name).unlink()


def state_becomes_garbage(home: RelayHome) -> None:
    for name in STATE:
        home.put(name, b'{"calls":[[')


def state_becomes_directories(home: RelayHome) -> None:
    for name in STATE:
        (home.path / name).unlink(missing_ok=True)
        (home.path / name).mkdir()


FAULTS: dict[str, Callable[[RelayHome], None]] = {
    "read-only log": read_only_log,
    "log becomes a directory": log_becomes_a_directory,
    "log becomes a link": log_becomes_a_link,
    "log becomes a FIFO": log_becomes_a_fifo,
    "read-only home": read_only_home,
    "closed home": closed_home,
    "home is gone": home_is_gone,
    "configuration is gone": configuration_is_gone,
    "state becomes garbage": state_becomes_garbage,
    "state becomes directories": state_becomes_directories,
    "clock jumps forward": lambda home: clock_jumps(home, DAY),
    "clock jumps back": lambda home: clock_jumps(home, -DAY),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_moment_of_acceptance(sandbox: Watched, home: RelayHome, fault: str) -> None:
    home.configure(NOTIFY_INTERVAL_MINUTES=1)
    sandbox.then = lambda: FAULTS[fault](home)
    delivery = pipe(home, MESSAGE, RECIPIENT, sender=STRANGER)
    home.path.mkdir(exist_ok=True)
    assert (delivery.verdict, delivery.status) == ("sent", 0)
    assert sandbox.alerts() == 1
    # In a read-only home an existing log can still be appended to.
    if fault != "read-only home" and ("log" in fault or "home" in fault):
        assert delivery.text.startswith(f"2.0.0 log '{home.path / LOG}' is not writable: ")
        assert "DELIVERED: " in delivery.text


@pytest.mark.parametrize("used", [False, True], ids=["never used", "used before"])
def test_the_disk_is_full_from_acceptance_on(
    sandbox: Watched, home: RelayHome, small_disk: Path, used: bool
) -> None:
    options = ("--home", str(small_disk))

    def fill() -> None:
        with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))

    if used:
        assert pipe(home, mail(Subject="Earlier"), RECIPIENT, options=options).verdict == "sent"
        sandbox.accepted.clear()
    sandbox.then = fill
    delivery = pipe(home, MESSAGE, RECIPIENT, sender=STRANGER, options=options)
    assert (delivery.verdict, delivery.status) == ("sent", 0)
    assert sandbox.alerts() == 1
    assert f"{(small_disk / LOG).read_text()}{delivery.text}".count("DELIVERED: ") == 1 + used


NOTICE_ANSWERS = {
    "throttled": Answer(429, {"Retry-After": "60"}),
    "refused": provided("graph/invalid-recipients"),
    "not permitted": provided("graph/access-denied"),
    "of something in between": Answer(403),
    "unavailable": Answer(503),
    "HTML": Answer(502, {"Content-Type": "text/html"}, b"<html>"),
    "reset": Answer(action="reset-in-request"),
    "reset after it was accepted": Answer(action="accept-then-reset"),
    "truncated": Answer(200, {}, b"{}", action="truncate"),
}


@pytest.mark.parametrize("answer", NOTICE_ANSWERS)
def test_a_notice_that_fails(sandbox: Watched, home: RelayHome, answer: str) -> None:
    sandbox.answer("sendMail", Answer(), NOTICE_ANSWERS[answer])
    delivery = pipe(home, MESSAGE, RECIPIENT, sender=STRANGER)
    assert (delivery.verdict, delivery.status, delivery.output) == ("sent", 0, b"")
    assert sandbox.alerts() == 1
    assert "WARNING: override notice not sent: " in home.log()


@pytest.mark.parametrize("log", ["/dev/full", "missing/log"])
@pytest.mark.parametrize(
    "streams", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full", "> >(exec true)", "2> >(exec true)", "2>/dev/null"]
)
def test_nothing_can_be_written_anywhere(sandbox: Watched, home: RelayHome, log: str, streams: str) -> None:
    home.configure(LOG_FILE_PATH=log)
    # Once the reading process has ended, a write fails with EPIPE.
    prefix = ("bash", "-c", f'exec "$@" {streams}', "bash")
    delivery = pipe(home, MESSAGE, RECIPIENT, sender=STRANGER, prefix=prefix)
    assert (delivery.verdict, delivery.status) == ("sent", 0)
    assert [message.subject for message in sandbox.accepted] == [
        "Alert",
        f"[postfix-api-relay] Sender replaced: {STRANGER}",
    ]


SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGALRM]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_the_notice_hangs(sandbox: Watched, home: RelayHome, number: signal.Signals) -> None:
    sandbox.answer("sendMail", Answer(), Answer(action="hang"))
    delivery = interrupted(sandbox, home, MESSAGE, STRANGER, 2, number)
    assert (delivery.verdict, delivery.status) == ("sent", 0)
    assert sandbox.alerts() == 1


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_the_notice_of_a_bounce_hangs(
    sandbox: Watched, home: RelayHome, number: signal.Signals
) -> None:
    sandbox.answer("sendMail", provided("graph/mime-invalid"), Answer(action="hang"))
    delivery = interrupted(sandbox, home, MESSAGE, STRANGER, 2, number)
    assert (delivery.verdict, delivery.status, delivery.dsn) == ("bounced", 1, "5.6.0")
    assert delivery.text.startswith("5.6.0 Graph sendMail failed: HTTP 400")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_the_message_hangs(sandbox: Watched, home: RelayHome, number: signal.Signals) -> None:
    sandbox.answer("sendMail", Answer(action="hang"))
    assert interrupted(sandbox, home, MESSAGE, STRANGER, 1, number).verdict == "deferred"
    assert sandbox.alerts() == 0
    assert pipe(home, MESSAGE, RECIPIENT, sender=STRANGER).verdict == "sent"


def hurried(home: RelayHome, name: str, seconds: int) -> Path:
    """Return a script with one of its limits set to this number of seconds."""
    text = home.script.read_text()
    lines = [line for line in text.splitlines() if line.startswith(f"{name} = ")]
    assert len(lines) == 1
    return home.put("hurried", text.replace(lines[0], f"{name} = {seconds}").encode(), 0o755)


def test_the_hard_stop_keeps_a_message_that_hangs(sandbox: Watched, home: RelayHome) -> None:
    sandbox.answer("sendMail", Answer(action="hang"))
    script = hurried(home, "HARD_STOP_SECONDS", 2)
    delivery = pipe(home, MESSAGE, RECIPIENT, script=script)
    assert (delivery.verdict, delivery.status) == ("deferred", -signal.SIGALRM)
    assert sandbox.alerts() == 0
    assert pipe(home, MESSAGE, RECIPIENT).verdict == "sent"


def test_the_hard_stop_is_earlier_than_postfix_s_own(relay: ModuleType) -> None:
    # Postfix kills at 1000 s, and bounces; the margin covers what a signal has to wait for.
    assert relay.HARD_STOP_SECONDS <= 900
    assert relay.AFTERWARDS_SECONDS <= relay.HARD_STOP_SECONDS


def test_a_notice_that_hangs_ends_with_the_time_for_it(
    sandbox: Watched, home: RelayHome, relay: ModuleType
) -> None:
    sandbox.answer("sendMail", Answer(), Answer(action="hang"))
    script = hurried(home, "AFTERWARDS_SECONDS", 1)
    began = time.monotonic()
    delivery = pipe(home, MESSAGE, RECIPIENT, sender=STRANGER, script=script, limit=2 * relay.READ_SECONDS)
    assert (delivery.verdict, delivery.status) == ("sent", 0)
    # Otherwise it would continue until the provider's own time-out.
    assert time.monotonic() - began < relay.READ_SECONDS
    assert sandbox.alerts() == 1


def test_a_lock_that_nobody_releases_ends_with_the_time_for_it(sandbox: Watched, home: RelayHome) -> None:
    directory = os.open(home.path, os.O_RDONLY)
    try:
        sandbox.then = lambda: fcntl.flock(directory, fcntl.LOCK_EX)
        script = hurried(home, "AFTERWARDS_SECONDS", 1)
        delivery = pipe(home, MESSAGE, RECIPIENT, sender=STRANGER, script=script)
    finally:
        os.close(directory)
    assert (delivery.verdict, delivery.status) == ("sent", 0)
    assert sandbox.alerts() == 1
