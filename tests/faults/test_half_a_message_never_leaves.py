"""pipe(8) dies while it hands a message over: the end of input is not the end of the message.

The kernel closes the files of a dying process before its children get another parent, so the relay reads an
end of input while getppid(2) still names pipe(8).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from threading import Event
from types import ModuleType

import pytest
from conftest import Figures
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import PrivatePostfix, signal_process
from helpers.waiting import process_state, processes, wait_until
from sandbox import Answer, Sandbox

SEED = 20261126
# Below Graph's limit, and far more than the pipe holds: pipe(8) writes for some milliseconds.
LINES, LINE = 40_000, "A line of text in a message of some megabytes, which takes time.\n"
END = "The end.\n"
# Usually pipe(8) is stopped for part of this time before it dies, while the relay starts: the relay has then
# read all that there is, and waits for more.
FROZEN_SECONDS = 0.35


@pytest.fixture
def patient(home: RelayHome) -> Iterator[PrivatePostfix]:
    """A Postfix that soon restarts a daemon that has died."""
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    settings = {"transport_retry_time": "1s", "service_throttle_time": "1s"}
    with PrivatePostfix(home.script, user=home.account.pw_name, settings=settings) as running:
        yield running


def pipe_of(home: RelayHome) -> int:
    """Return the pipe(8) that has started the relay, or 0 if it no longer exists."""
    for pid in processes(home):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                return int(file.read().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return 0


def cut_off(home: RelayHome, postfix: PrivatePostfix, number: int, chance: random.Random) -> None:
    """Submit a message, and make pipe(8) die some time after it has started the relay."""
    body = (f"{number} {LINE}" * LINES) + END
    postfix.sendmail(
        "alerts@domain.com", ["to@external.com"], mail(body.encode(), Subject=str(number)).decode()
    )
    limit = time.monotonic() + 30
    while not (pid := pipe_of(home)) or pid == os.getpid():
        assert time.monotonic() < limit, postfix.log()
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0, 0.1))
    else:
        signal_process(pid, signal.SIGSTOP)
        time.sleep(chance.uniform(FROZEN_SECONDS / 2, FROZEN_SECONDS))
    death = chance.choice([signal.SIGKILL, signal.SIGTERM])
    signal_process(pid, death)
    # A stopped process dies of SIGTERM only when it continues.
    signal_process(pid, signal.SIGCONT)
    wait_until(lambda: not processes(home))


def test_only_whole_messages_leave(
    home: RelayHome, sandbox: Sandbox, patient: PrivatePostfix, nightly: bool, figures: Figures
) -> None:
    deaths = 400 if nightly else 15
    chance = random.Random(SEED)
    for number in range(deaths):
        cut_off(home, patient, number, chance)
    patient.wait_until_empty(300)
    # Nothing was bounced or reported.
    assert all(message.subject.isdigit() for message in sandbox.accepted), patient.log()[-4000:]
    whole = [message for message in sandbox.accepted if message.raw.endswith(b"The end.\r\n")]
    noticed = home.log().count("Postfix was stopped during the delivery")
    halves = len(sandbox.accepted) - len(whole)
    figures(
        f"deaths of pipe(8) while it hands over, seed {SEED}",
        deaths=deaths,
        noticed=noticed,
        halves=halves,
        lost=deaths - len({message.subject for message in whole}),
    )
    assert halves == 0
    assert {message.subject for message in whole} == {str(number) for number in range(deaths)}
    # Otherwise nothing was tested.
    assert noticed >= deaths / 5


def test_pipe_is_gone_while_the_token_is_fetched(
    home: RelayHome, sandbox: Sandbox, patient: PrivatePostfix
) -> None:
    gate = Event()
    sandbox.answer("token", Answer(gate=gate))
    patient.sendmail("alerts@domain.com", ["to@external.com"], mail(Subject="Once").decode())
    wait_until(lambda: [request.role for request in sandbox.requests] == ["token"])
    pid = pipe_of(home)
    signal_process(pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    gate.set()
    patient.wait_until_empty(300)
    assert [message.subject for message in sandbox.accepted] == ["Once"]
    assert "4.3.2 Postfix was stopped during the delivery: not sent, and still queued" in home.log()
    # The first attempt offered nothing to the provider.
    assert [request.role for request in sandbox.requests if request.status == 202] == ["sendMail"]


def test_a_parent_that_has_begun_to_end_is_none(relay: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zombie has the flag until its parent reaps it, and this process does so late."""
    ended = os.fork()
    if not ended:
        os._exit(0)
    try:
        wait_until(lambda: process_state(ended) == b"Z")
        assert relay.has_parent()
        monkeypatch.setattr(relay, "PARENT", ended)
        monkeypatch.setattr(relay.os, "getppid", lambda: ended)
        assert not relay.has_parent()
    finally:
        os.waitpid(ended, 0)
    # If /proc shows nothing, the parent's id alone decides.
    assert relay.has_parent()
    monkeypatch.setattr(relay, "PARENT", 1)
    assert not relay.has_parent()
