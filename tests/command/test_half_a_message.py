"""Where pipe(8) dies in the middle of a message, the half that came is not sent."""

from __future__ import annotations

import os
import subprocess

from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import ENVIRONMENT
from helpers.waiting import in_state, processes, wait_until
from sandbox import Sandbox

# The parent, which is to die alone; a shell gives a command in the background no standard input of its own.
PARENT = ("sh", "-c", 'exec 3<&0; "$@" <&3 3<&- & wait', "sh")


def test_half_a_message_is_not_sent(sandbox: Sandbox, home: RelayHome) -> None:
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
    # Until the relay itself has ended.
    said = parent.stderr.read()
    assert said == b"4.3.2 Postfix was stopped during the delivery: not sent, and still queued"
    assert sandbox.requests == []
