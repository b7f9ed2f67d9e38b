"""A private Postfix for the tests, set up with the fragments that the project ships."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import smtplib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, NamedTuple, TypeVar

from helpers.ports import port_of, reserve_port

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED_USER = "user=postfix-relay"
SHIPPED_COMMAND = "argv=/opt/postfix-relay/postfix-api-relay"
SHIPPED_MAXPROC = re.compile(r"^(apirelay(?:\s+\S+){5}\s+)1(\s+pipe)$", re.MULTILINE)

# A distribution's master.cf, without the services that the relay does not need.
SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       {wakeup}       1       qmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
flush     unix  n       -       n       1000?   0       flush
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
proxymap  unix  -       -       n       -       -       proxymap
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
anvil     unix  -       -       n       -       1       anvil
postlog   unix-dgram n  -       n       -       1       postlogd
"""

# A distribution's queue manager wakes up every 300 s. A message that is being delivered when it starts, as
# after a reload, waits until then, which is too long for a test.
SHIPPED_WAKEUP = 300
TEST_WAKEUP = 2
# The shipped scans are too slow for tests as well: here a deferred message is retried within seconds.
TEST_SCANS = {"queue_run_delay": "2s", "minimal_backoff_time": "1s", "maximal_backoff_time": "1s"}
# For tests that look at deferred mail, which must not be retried meanwhile.
ONE_ATTEMPT = {"minimal_backoff_time": "1h", "maximal_backoff_time": "1h"}
# Seconds that a test waits for something to happen: a machine may stall for a long time.
PATIENCE = 60.0

PIPE_LINE = re.compile(
    r": (?P<queue_id>\w+): to=<(?P<recipient>[^>]*)>,(?: orig_to=<[^>]*>,)? relay=apirelay, .*"
    r"dsn=(?P<dsn>[\d.]+), status=(?P<status>\w+) \((?P<text>.*)\)$"
)

# A command takes seconds, or a minute on the slowest machine; one that runs longer is stuck.
STUCK_SECONDS = 300

Result = TypeVar("Result")


class Outcome(NamedTuple):
    """The outcome of one attempt for one recipient, from Postfix's log."""

    queue_id: str
    recipient: str
    dsn: str
    status: str  # "sent", "deferred" or "bounced"
    text: str  # the text in parentheses


def fragment_settings(fragment: Path) -> list[str]:
    """Return the "name = value" lines of a main.cf fragment, as arguments of postconf -e."""
    return [line for line in fragment.read_text().splitlines() if re.match("[a-z]", line)]


def urgent_text(fragment: Path) -> str:
    """Return a fragment with its lines for urgent mail uncommented, as in an installation by hand."""
    return re.sub("(?m)^#(?=[a-z]|  )", "", fragment.read_text())


def replaced(text: str, old: str, new: str) -> str:
    """Return TEXT with OLD replaced; AssertionError unless OLD occurs exactly once."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in:\n{text}"
    return text.replace(old, new)


def adapted_entry(command: str, user: str, maxproc: int = 1) -> str:
    """Return the shipped master.cf fragment for another command, user and limit of parallel deliveries."""
    fragment = (PROJECT / "postfix" / "master.cf").read_text()
    fragment = replaced(fragment, SHIPPED_USER, f"user={user}")
    fragment = replaced(fragment, SHIPPED_COMMAND, f"argv={command}")
    fragment, found = SHIPPED_MAXPROC.subn(rf"\g<1>{maxproc}\g<2>", fragment)
    assert found == 1, f"no maxproc of 1 in:\n{fragment}"
    return fragment


def adapted_urgent_entry(command: str, user: str) -> str:
    """Return the entry with the three changes that the fragment names for urgent mail."""
    entry = adapted_entry(f"{command} --urgent", user, 2)
    return re.sub("(?m)^apirelay ", "apirelay-urgent ", entry)


def run(*command: str, message: bytes = b"") -> str:
    """Return the standard output of COMMAND; AssertionError with all its output if it fails."""
    done = subprocess.run(command, input=message, capture_output=True, timeout=STUCK_SECONDS)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stderr.decode()}{done.stdout.decode()}"
    return done.stdout.decode()


def make_settings(config: Path) -> None:
    """Write a main.cf to the directory CONFIG that Postfix's commands read without a delay."""
    # Without it every command asks a name server for this host's name.
    (config / "main.cf").write_text("myhostname = relay.domain.com\n")
    age_settings(config)


def add_settings(config: Path, lines: Sequence[str]) -> None:
    """Put "name = value" lines into a main.cf, as an admin does with postconf -e."""
    run("postconf", "-c", str(config), "-e", *lines)
    age_settings(config)


def age_settings(config: Path) -> None:
    """Make a new main.cf look old: Postfix's commands wait two seconds if it was just written."""
    file, hour_ago = config / "main.cf", time.time() - 3600
    if file.stat().st_mtime > hour_ago:
        os.utime(file, (hour_ago, hour_ago))


class PrivatePostfix:
    """A running Postfix in a temporary directory, as a context manager. It needs root, and never touches the
    mail or the configuration of the machine's own Postfix.

    COMMAND replaces the shipped path in argv=, USER owns its directory; None leaves out everything that the
    project ships, as on a machine before the installation. MAXPROC limits parallel deliveries, SETTINGS are
    main.cf parameters that override all others. AS_SHIPPED keeps the times of the fragments and of a
    distribution, for measurements. URGENT adds the entry for urgent mail.
    """

    def __init__(
        self,
        command: object | None,
        *,
        user: str = "nobody",
        maxproc: int = 1,
        settings: Mapping[str, str] | None = None,
        as_shipped: bool = False,
        urgent: bool = False,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="private-postfix-"))
        self.config = self.directory / "config"
        self.queue_directory = self.directory / "queue"
        self.data_directory = self.directory / "data"
        self.log_file = self.directory / "mail.log"
        self._reservation = reserve_port()
        self.port = port_of(self._reservation)
        self._make_directories()
        wakeup = SHIPPED_WAKEUP if as_shipped else TEST_WAKEUP
        entry = "" if command is None else adapted_entry(str(command), user, maxproc)
        entry += adapted_urgent_entry(str(command), user) if urgent else ""
        self.services = SERVICES.format(port=self.port, wakeup=wakeup)
        (self.config / "master.cf").write_text(self.services + entry)
        if command is not None:
            add_settings(self.config, fragment_settings(PROJECT / "postfix" / "main.cf"))
        self._write_main({**({} if as_shipped else TEST_SCANS), **(settings or {})})

    def _make_directories(self) -> None:
        # Postfix's own users have to reach the queue through it.
        self.directory.chmod(0o755)
        for directory in (self.config, self.queue_directory, self.data_directory):
            directory.mkdir()
            directory.chmod(0o755)
        make_settings(self.config)
        owner = run("postconf", "-c", str(self.config), "-h", "mail_owner").strip()
        shutil.chown(self.data_directory, owner)

    def _write_main(self, settings: Mapping[str, str]) -> None:
        private = {
            "compatibility_level": "3.6",
            "queue_directory": str(self.queue_directory),
            "data_directory": str(self.data_directory),
            "maillog_file": str(self.log_file),
            "maillog_file_prefixes": str(self.directory),
            "mydestination": "",
            "alias_maps": "",
            "inet_interfaces": "loopback-only",
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            # No test waits for a name server.
            "smtpd_peername_lookup": "no",
        }
        add_settings(self.config, [f"{name} = {value}" for name, value in {**private, **settings}.items()])

    def __enter__(self) -> PrivatePostfix:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start Postfix; AssertionError if it cannot start."""
        run("postfix", "-c", str(self.config), "start")

    def reload(self) -> None:
        """Reload Postfix's configuration, as an admin does while mail is being delivered."""
        with self.reloading():
            run("postfix", "-c", str(self.config), "reload")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Wait until a reload in this block has taken effect: no process that accepts mail, or hands it to
        deliveries, still has the old configuration. A delivery that is under way continues."""
        self.wait_for("the queue manager", lambda: "qmgr" in self.programs().values())
        # A process has the name of its parent, master(8), before its own. An idle process may serve another
        # client after a reload.
        old = {pid for pid, name in self.programs().items() if name in ("master", "qmgr", "smtpd")}
        old.discard(self.master())
        yield
        self.wait_for("the reload", lambda: not any(read_of_process(pid, "comm") for pid in old))

    def stop(self) -> None:
        """Stop Postfix and every command that it runs, so that no process is left. May be repeated."""
        for pid in self.processes():
            if pid == self.master():
                signal_process(pid, signal.SIGTERM)
        if not self._gone_within(2):
            self.wait_for("the end of all", self._kill)

    def close(self) -> None:
        """Stop Postfix, and remove its directory with queue and log."""
        self.stop()
        self._reservation.close()
        shutil.rmtree(self.directory)

    def master(self) -> int:
        """Return the process id of master(8), 0 if it was never started."""
        try:
            return int((self.queue_directory / "pid" / "master.pid").read_text())
        except FileNotFoundError:
            return 0

    def processes(self) -> list[int]:
        """Return the ids of all processes that have this instance in their environment: the daemons and the
        commands that pipe(8) runs, even those in a session of their own."""
        mark = f"MAIL_CONFIG={self.config}\0".encode()
        pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if mark in read_of_process(pid, "environ")]

    def programs(self) -> dict[int, str]:
        """Return the names of the programs that its processes run, by process id."""
        return {pid: read_of_process(pid, "comm").decode().strip() for pid in self.processes()}

    def _kill(self) -> bool:
        """Kill all processes, and tell whether none is left: a dying one may have started another."""
        for pid in self.processes():
            signal_process(pid, signal.SIGKILL)
        return self._is_gone()

    def _is_gone(self) -> bool:
        # One look can miss a process that executes another program meanwhile, or whose parent ends.
        return not self.processes() and not self.processes()

    def _gone_within(self, seconds: float) -> bool:
        limit = time.monotonic() + seconds
        while not self._is_gone():
            if time.monotonic() > limit:
                return False
            time.sleep(0.02)
        return True

    def sendmail(self, sender: str, recipients: Sequence[str], message: str) -> None:
        """Submit MESSAGE with sendmail(1), as a program on the relay's own host does."""
        options = ("-i", "-f", sender or "<>", "--", *recipients)
        run("sendmail", "-C", str(self.config), *options, message=message.encode())

    def smtp(
        self, sender: str, recipients: Sequence[str], message: str, source_address: str = "127.0.0.1"
    ) -> None:
        """Submit MESSAGE, with LF line ends, over SMTP from SOURCE_ADDRESS, an address in 127.0.0.0/8 that
        stands for a device.

        Raises smtplib's errors if Postfix refuses it.
        """
        source = (source_address, 0)
        # Given a name, smtplib does not ask a name server for this host's.
        with smtplib.SMTP("127.0.0.1", self.port, "device.domain.com", 30, source) as client:
            client.sendmail(sender, list(recipients), message.replace("\n", "\r\n").encode())

    def queue(self) -> list[dict[str, Any]]:
        """Return the queued messages, as postqueue -j describes them."""
        listing = run("postqueue", "-c", str(self.config), "-j")
        return [json.loads(line) for line in listing.split("\n") if line]

    def flush(self) -> None:
        """Retry all deferred mail now."""
        run("postqueue", "-c", str(self.config), "-f")

    def log(self) -> str:
        """Return Postfix's own log so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def outcomes(self) -> list[Outcome]:
        """Return every delivery attempt through the relay so far, in the log's order."""
        found = map(PIPE_LINE.search, self.log().splitlines())
        return [Outcome(**match.groupdict()) for match in found if match]

    def wait_for(self, what: str, condition: Callable[[], Result], seconds: float = PATIENCE) -> Result:
        """Return the first true result of CONDITION; AssertionError with Postfix's log after SECONDS."""
        limit = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < limit, f"{what}: not within {seconds} s\n{self.log()}"
            time.sleep(0.05)
        return result

    def wait_until_empty(self, seconds: float = PATIENCE) -> None:
        """Wait for an empty queue and a complete log; AssertionError with the log after SECONDS."""
        # A listing can miss a message that moves between queues meanwhile; the next one has it.
        self.wait_for("an empty queue", lambda: not self.queue() and not self.queue(), seconds)
        self._complete_log()

    def _complete_log(self) -> None:
        """Wait until everything that Postfix has logged is in the file: postlogd(8) writes it when it can."""
        mark = f"mark {time.monotonic_ns()}"
        run("postlog", "-c", str(self.config), mark)
        self.wait_for("its log", lambda: mark in self.log())


def read_of_process(pid: int, name: str) -> bytes:
    """Return a file of proc(5) about a process; empty if it has ended or we may not read it."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
