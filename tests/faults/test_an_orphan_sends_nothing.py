"""A relay without its pipe(8) sends nothing: nobody would hear of it, and it may have half of a message."""

from __future__ import annotations

import os
import signal
import subprocess

from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import ENVIRONMENT
from sandbox import Sandbox

# The shell is process 1 of a namespace of its own, which takes in who loses its parent.
ORPHANED = 'exec 3<&0; ("$@" <&3 &); exec sleep 10'


def test_a_relay_whose_parent_ended_before_it_could_look(sandbox: Sandbox, home: RelayHome) -> None:
    account = home.account
    user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    delivery = [str(home.script), "alerts@domain.com", "4ZxTestQid", "to@external.com", ""]
    half, feeder = os.pipe()
    os.write(feeder, mail(b"A line of text.\n" * 1000))
    os.close(feeder)
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", *user, "sh", "-c", ORPHANED, "sh", *delivery],
        stdin=half,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as process:
        os.close(half)
        assert process.stderr
        said = os.read(process.stderr.fileno(), 4096)
        os.killpg(process.pid, signal.SIGKILL)
    assert said == b"4.3.2 Postfix was stopped during the delivery: not sent, and still queued"
    assert sandbox.requests == []
