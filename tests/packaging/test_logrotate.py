"""The shipped logrotate file, run by the real logrotate."""

from __future__ import annotations

import gzip
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.home import LOG, RelayHome
from helpers.kernel import protected_regular
from helpers.mail import mail
from helpers.pipe import Delivery, pipe
from helpers.rotation import configure, logs, rotate
from helpers.strace import command
from helpers.waiting import wait_until

NOWHERE = "https://localhost:1"
RECIPIENT = "to@external.com"
RECORD = re.compile(r"\] (DELIVERED|PROCESSING): .* queue_id='([^']+)'")
# The suffix logrotate gives to a log that already exists when it is about to create one.
ASIDE = ".backup"
WORKERS = 3
RENAMED = re.compile(r"^(\d+) +rename\(", re.MULTILINE)


@pytest.fixture(params=["root's", "the account's"])
def installation(request: pytest.FixtureRequest) -> Iterator[RelayHome]:
    """A relay whose provider does not answer: each delivery defers and is logged. The home has the
    installer's layout or the guide's; the kernel is set as on Debian."""
    with RelayHome(NOWHERE, None) as home, protected_regular():
        if request.param == "root's":
            home.give_to_root()
        yield home


@pytest.fixture
def rotation(installation: RelayHome, tmp_path: Path) -> Path:
    """The shipped file for that home."""
    return configure(installation, tmp_path)


def send(home: RelayHome, name: str) -> Delivery:
    return pipe(home, mail(Subject=name), RECIPIENT, queue_id=name)


@contextmanager
def steady_mail(home: RelayHome) -> Iterator[list[dict[str, Delivery]]]:
    """Hand in one message after the other from several workers until the block ends; yield the outcomes of
    each worker's messages so far."""
    ended: list[dict[str, Delivery]] = [{} for _ in range(WORKERS)]
    over = threading.Event()

    def work(worker: int) -> None:
        while not over.is_set():
            name = f"mail-{worker}-{len(ended[worker])}"
            ended[worker][name] = send(home, name)

    with ThreadPoolExecutor(WORKERS) as threads:
        workers = [threads.submit(work, number) for number in range(WORKERS)]
        try:
            yield ended
        finally:
            over.set()
    for worker in workers:
        worker.result()


def wait_for_more(ended: list[dict[str, Delivery]]) -> None:
    """Wait until the messages under way have ended, and a few later ones of each worker."""
    enough = [len(of_worker) + 3 for of_worker in ended]
    wait_until(lambda: all(len(of_worker) >= count for of_worker, count in zip(ended, enough)), 60)


def keep_aside(home: RelayHome, number: int) -> None:
    """Rename a log that was put aside: the next one of the same hour would replace it."""
    for file in home.path.glob(f"{LOG}-*{ASIDE}"):
        file.rename(home.path / f"{LOG}.rotation-{number}{ASIDE}")


def text(file: Path) -> str:
    """Return the text of a log, compressed or not."""
    data = file.read_bytes()
    return (gzip.decompress(data) if file.suffix == ".gz" else data).decode()


def test_the_relay_writes_on_after_a_rotation(installation: RelayHome, rotation: Path) -> None:
    send(installation, "before")
    rotate(rotation)
    new = installation.path / LOG
    assert (new.read_text(), new.stat().st_mode & 0o7777) == ("", 0o644)
    assert new.stat().st_uid == installation.account.pw_uid
    assert "before" in (installation.path / f"{LOG}.1").read_text()
    send(installation, "after")
    assert "queue_id='after'" in new.read_text()
    assert "before" not in new.read_text()


def test_four_old_logs_are_kept_and_the_older_three_compressed(
    installation: RelayHome, rotation: Path
) -> None:
    for week in range(6):
        installation.put(LOG, f"week {week}\n".encode(), 0o644)
        rotate(rotation)
    assert logs(installation) == [LOG, f"{LOG}.1", f"{LOG}.2.gz", f"{LOG}.3.gz", f"{LOG}.4.gz"]
    assert (installation.path / f"{LOG}.1").read_text() == "week 5\n"
    oldest = installation.path / f"{LOG}.4.gz"
    assert text(oldest) == "week 2\n"
    assert oldest.stat().st_uid == installation.account.pw_uid


def test_an_empty_or_missing_log_is_left_alone(installation: RelayHome, rotation: Path) -> None:
    rotate(rotation)
    assert logs(installation) == []
    installation.put(LOG, b"", 0o644)
    rotate(rotation)
    assert logs(installation) == [LOG]


def test_no_line_is_lost_in_two_rotations_while_deliveries_go_on(home: RelayHome, tmp_path: Path) -> None:
    home.give_to_root()
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    # As the installer leaves it.
    home.put(LOG, b"", 0o644)
    configuration = configure(home, tmp_path)
    with steady_mail(home) as ended:
        wait_for_more(ended)
        for number in (1, 2):
            rotate(configuration)
            keep_aside(home, number)
            wait_for_more(ended)
    deliveries = {name: delivery for of_worker in ended for name, delivery in of_worker.items()}
    assert {delivery.verdict for delivery in deliveries.values()} == {"sent"}

    written = {name: text(home.path / name) for name in logs(home)}
    records = RECORD.findall("".join(written.values()))
    kinds = ("DELIVERED", "PROCESSING")
    assert sorted(records) == sorted((kind, name) for kind in kinds for name in deliveries)
    regular = [name for name in written if not name.endswith(ASIDE)]
    assert regular == [LOG, f"{LOG}.1", f"{LOG}.2.gz"]
    for name in regular:
        status = (home.path / name).stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (
            *(0o644, home.account.pw_uid, home.account.pw_gid),
        )
        assert "DELIVERED: " in written[name]


def test_what_is_logged_before_the_new_log_is_there_is_put_aside(
    installation: RelayHome, rotation: Path, tmp_path: Path
) -> None:
    """Between the renaming of the old log and the creation of the new one, the relay creates its own."""
    log = installation.put(LOG, b"old\n", 0o644)
    calls = tmp_path / "calls"
    stop = ["-P", str(log), "-e", "inject=rename:signal=STOP:when=1"]
    with ThreadPoolExecutor(1) as thread:
        rotated = thread.submit(rotate, rotation, command(calls, stop))
        wait_until(lambda: "stopped by SIGSTOP" in calls.read_text() if calls.exists() else False)
        [logrotate] = RENAMED.findall(calls.read_text())
        try:
            assert not log.exists()
            assert send(installation, "between").verdict == "deferred"
        finally:
            os.kill(int(logrotate), signal.SIGCONT)
    rotated.result()

    assert (log.read_text(), log.stat().st_mode & 0o7777) == ("", 0o644)
    assert text(installation.path / f"{LOG}.1") == "old\n"
    [aside] = (name for name in logs(installation) if name.endswith(ASIDE))
    assert RECORD.findall(text(installation.path / aside)) == [("PROCESSING", "between")]
