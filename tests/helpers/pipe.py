"""A model of Postfix's pipe(8): it runs a command the same way, and tells what happens to the mail.

It follows pipe_command() of src/global/pipe_command.c and eval_command_status() of src/pipe/pipe.c.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from helpers.home import RelayHome

Verdict = Literal["sent", "deferred", "bounced"]

OUTPUT_LIMIT = 4096
# Seconds. Postfix's own limit is 1000, but a failing test should not take that long.
TIME_LIMIT = 300
EX_TEMPFAIL = 75
ENVIRONMENT = {"LANG": "C", "MAIL_CONFIG": "/etc/postfix", "PATH": "/usr/bin:/bin", "TZ": ""}
# src/global/sys_exits.c; every other status is 5.3.0.
SYSEXITS = {
    65: "5.6.0",
    67: "5.1.1",
    68: "5.1.2",
    71: "4.3.0",
    73: "5.2.0",
    75: "4.3.0",
    76: "5.5.0",
    77: "5.7.0",
    78: "5.3.5",
}


class Delivery(NamedTuple):
    """The outcome of a delivery; `status` is the exit status, or minus the signal that killed the command."""

    verdict: Verdict
    dsn: str
    status: int
    output: bytes

    @property
    def text(self) -> str:
        """The output as text."""
        return self.output.decode("utf-8", "backslashreplace")


def waits(delivery: Delivery) -> bool:
    """Tell whether the command itself deferred the mail, with its exit status and its own status code."""
    return delivery.status == EX_TEMPFAIL and bool(re.match(rb"4\.\d+\.\d+ ", delivery.output))


def judge(status: int, output: bytes, *, timed_out: bool) -> Delivery:
    """Return Postfix's verdict on a command, from its exit status and output."""
    if timed_out:
        return Delivery("bounced", "5.3.0", status, output)
    if status == 0:
        return Delivery("sent", "2.0.0", status, output)
    if status < 0:
        return Delivery("deferred", "4.3.0", status, output)
    # Postfix first turns tabs and newlines into spaces; any other control character spoils the code.
    code = re.match(rb"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?=[ \t\n\0]|\Z)", output)
    dsn = code.group(1).decode() if code else SYSEXITS.get(status, "5.3.0")
    if dsn.startswith("4."):
        return Delivery("deferred", dsn, status, output)
    # A failure with a success code bounces, and bounce(8) replaces the code with a general one.
    return Delivery("bounced", dsn if dsn.startswith("5.") else "5.0.0", status, output)


def pipe(
    home: RelayHome,
    message: bytes,
    *recipients: str,
    sender: str = "alerts@domain.com",
    client: str = "",
    queue_id: str = "4ZxTestQid",
    options: Sequence[str] = (),
    script: Path | None = None,
    python: str | None = None,
    prefix: Sequence[str] = (),
    limit: float = TIME_LIMIT,
    nofile: int | None = None,
    address_space: int | None = None,
) -> Delivery:
    """Hand a message to the home's script (or another) as pipe(8) does.

    `options` go before the sender; `python` is an interpreter to use, with `-I`, instead of the first line's;
    `prefix` is a command that runs it, such as strace. `limit` is Postfix's time limit in seconds, for each
    wait. `nofile` (descriptors) and `address_space` (bytes) are resource limits.
    """
    command = [
        *prefix,
        *_limited(nofile, address_space),
        *([python, "-I"] if python else []),
        str(script or home.script),
        *options,
        sender,
        queue_id,
        *recipients,
        client,
    ]
    return run(home, command, message, limit)


def _limited(nofile: int | None, address_space: int | None) -> list[str]:
    """Return the command that sets resource limits; empty without any."""
    wanted = {"nofile": nofile, "as": address_space}
    options = [f"--{name}={value}" for name, value in wanted.items() if value is not None]
    return ["prlimit", *options] if options else []


def run(home: RelayHome, command: Sequence[str], message: bytes, limit: float = TIME_LIMIT) -> Delivery:
    """Run a command as pipe(8) does: as the home's user, in its own session, with a clean environment."""
    output_end, command_end = os.pipe()
    # As Postfix does: a command that writes a lot before Postfix reads it sees EAGAIN.
    os.set_blocking(command_end, False)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=command_end,
            stderr=command_end,
            env=ENVIRONMENT,
            cwd=home.queue,
            user=home.account.pw_uid,
            group=home.account.pw_gid,
            extra_groups=[],
            umask=0o077,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        # Postfix's child exits with EX_TEMPFAIL if it cannot run the command.
        os.close(output_end)
        return judge(EX_TEMPFAIL, f"pipe: fatal: execvp {command[0]}: {error}".encode(), timed_out=False)
    finally:
        os.close(command_end)
    return _attend(process, message, output_end, limit)


def _attend(process: subprocess.Popen[bytes], message: bytes, output_end: int, limit: float) -> Delivery:
    """Feed the command, capture its output and wait for it; kill its process group at the limit."""
    assert process.stdin is not None
    timed_out = not _feed(process.stdin.fileno(), message, limit)
    process.stdin.close()
    output, ended = _capture(output_end, 0 if timed_out else limit)
    os.close(output_end)
    timed_out = timed_out or not ended
    try:
        process.wait(0 if timed_out else limit)
    except subprocess.TimeoutExpired:
        timed_out = True
    if timed_out:
        _kill_group(process.pid)
    return judge(process.wait(), output, timed_out=timed_out)


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        # The whole group ended just after the limit.
        return


def _feed(descriptor: int, message: bytes, limit: float) -> bool:
    """Write the message; return False if nothing is read for `limit` seconds. EPIPE is not a failure."""
    rest = memoryview(message)
    try:
        while rest:
            if not _ready(descriptor, select.POLLOUT, limit):
                return False
            # A writable pipe accepts this much without blocking.
            rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
    except BrokenPipeError:
        return True
    return True


def _capture(descriptor: int, limit: float) -> tuple[bytes, bool]:
    """Return the first output, and whether it ended or filled the buffer before `limit` s of silence."""
    output = b""
    while len(output) < OUTPUT_LIMIT:
        if not _ready(descriptor, select.POLLIN, limit):
            return output, False
        chunk = os.read(descriptor, OUTPUT_LIMIT - len(output))
        if not chunk:
            break
        output += chunk
    return output, True


def _ready(descriptor: int, event: int, limit: float) -> bool:
    """Tell whether a descriptor becomes ready, or its other end closes, within `limit` seconds."""
    poller = select.poll()
    poller.register(descriptor, event)
    return bool(poller.poll(limit * 1000))
