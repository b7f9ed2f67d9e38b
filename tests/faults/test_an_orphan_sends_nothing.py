"""A relay that has lost its pipe(8) sends nothing: nobody would learn of it, and it may have half a
message."""

from __future__ import annotations

import os
import signal
import subprocess

from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import ENVIRONMENT
from helpers.waiting import in_state, processes, wait_until
from sandbox import Sandbox

SAID = b"4.3.2 Postfix was stopped during the delivery: not sent, and still queued"
# The parent, which is to die alone; a shell gives a background command no standard input of its own.
PARENT = ("sh", "-c", 'exec 3<&0; "$@" <&3 3<&- & wait', "sh")
# The shell is process 1 of a namespace, which adopts orphans and ends with the shell.
ORPHANED = 'exec 3<&0; ("$@" <&3 &); exec sleep 60'
# Run a command once it is an orphan.
ONCE_ORPHANED = """
import os, sys, time
while os.getppid() != 1:
    time.sleep(0.01)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_relay_whose_parent_ended_before_it_could_look(sandbox: Sandbox, home: RelayHome) -> None:
    account = home.account
    user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    start = ["/usr/bin/python3", "-I", "-c", ONCE_ORPHANED]
    delivery = [str(home.script), "alerts@domain.com", "4ZxTestQid", "to@external.com", ""]
    half, feeder = os.pipe()
    os.write(feeder, mail(b"A line of text.\n" * 1000))
    os.close(feeder)
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", *user, "sh", "-c", ORPHANED, "sh", *start, *delivery],
        stdin=half,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as process:
        os.close(half)
        assert process.stderr
        said = os.read(process.stderr.fileno(), 4096)
        os.killpg(process.pid, signal.SIGKILL)
    assert said == SAID
    assert sandbox.requests == []


def test_a_relay_whose_parent_ends_in_the_middle_of_the_message(sandbox: Sandbox, home: RelayHome) -> None:
    end, start = os.pipe()
    parent = subprocess.Popen(
        [*PARENT, str(home.script), "alerts@domain.com", "Half", "to@external.com", ""],
        stdin=end,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        user=home.account.pw_uid,
        group=home.account.pw_gid,
        extra_groups=[],
    )
    assert parent.stderr
    os.close(end)
    os.write(start, mail(b"The first half"))
    wait_until(lambda: set(processes(home)) & in_state(home))
    parent.kill()
    parent.wait()
    os.close(start)
    # read() returns when the relay itself has ended.
    said = parent.stderr.read()
    assert said == SAID
    assert sandbox.requests == []
