"""What strace(1) can do to the relay: list its system calls, and let one of them fail or be the last."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from helpers.home import RelayHome
from helpers.pipe import Delivery, pipe

LINE = re.compile(r"\d+ +(?P<text>(?P<name>\w+)\(.*)")
UNFINISHED = " <unfinished ...>"
RESUMED = re.compile(r"\d+ +<\.\.\. \w+ resumed>")
# A log record starts with its time; what the record is about must not be cut off.
SHOWN_BYTES = 64


class Call(NamedTuple):
    """One system call: its name, how many of this name there were before and with it, and strace's line."""

    name: str
    ordinal: int
    text: str

    @property
    def done(self) -> bool:
        """Whether it came back; the last one of a process that died did not."""
        return not self.text.endswith("= ?")

    @property
    def injected(self) -> bool:
        """Whether strace made it fail."""
        return self.text.endswith("(INJECTED)")

    @property
    def sends(self) -> bool:
        """Whether it wrote to a socket."""
        return self.done and bool(re.match(r"(write|send\w*)\(\d+<socket:", self.text))


class Traced(NamedTuple):
    """A delivery, and the system calls that it made."""

    delivery: Delivery
    calls: list[Call]


def whole_lines(text: str) -> str:
    """strace's output with the calls in one piece during which another process ran."""
    begun: dict[str, str] = {}
    whole = []
    for line in text.splitlines():
        process = line.partition(" ")[0]
        resumed = RESUMED.match(line)
        if line.endswith(UNFINISHED):
            begun[process] = line[: -len(UNFINISHED)]
        else:
            whole.append(begun.pop(process) + line[resumed.end() :] if resumed else line)
    return "\n".join(whole)


def read_calls(text: str) -> list[Call]:
    """The system calls in strace's output."""
    seen: dict[str, int] = {}
    calls = []
    for match in filter(None, map(LINE.match, text.splitlines())):
        name = match["name"]
        seen[name] = seen.get(name, 0) + 1
        calls.append(Call(name, seen[name], match["text"]))
    return calls


@contextmanager
def trace_file(home: RelayHome) -> Iterator[Path]:
    """A file that the home's user can write strace's output to, outside of the home."""
    with tempfile.TemporaryDirectory(prefix="trace-") as directory:
        file = Path(directory) / "calls"
        file.touch()
        home.own(file.parent)
        home.own(file)
        yield file


def command(file: Path, options: Sequence[str] = ()) -> list[str]:
    """The command before the relay's; strace dies of the signal that its program died of."""
    return ["strace", "-f", "-y", "-s", str(SHOWN_BYTES), "-o", str(file), *options]


def trace(
    home: RelayHome,
    message: bytes,
    *recipients: str,
    sender: str = "alerts@domain.com",
    options: Sequence[str] = (),
) -> Traced:
    """Deliver under strace; `options` are strace's own."""
    with trace_file(home) as file:
        delivery = pipe(home, message, *recipients, sender=sender, prefix=command(file, options))
        return Traced(delivery, read_calls(file.read_text(errors="replace")))


def below(calls: Sequence[Call], directory: Path) -> list[tuple[Path, Call]]:
    """The calls that name the directory or a file in it, each with the first path of these that it names.

    Ordinals count the calls of a name that mention this path, as strace's do with -P.
    """
    pattern = re.compile(rf'["<]({re.escape(str(directory))}(?:/[^">]*)?)[">]')
    seen: dict[tuple[str, str], int] = {}
    found = []
    for call in calls:
        named = list(dict.fromkeys(pattern.findall(call.text)))
        for path in named:
            seen[path, call.name] = seen.get((path, call.name), 0) + 1
        if named:
            found.append((Path(named[0]), call._replace(ordinal=seen[named[0], call.name])))
    return found


def dying_at(call: Call) -> list[str]:
    """strace's options for a death by SIGKILL in place of a system call; only sends are listed besides.

    The execve that starts the relay cannot be one: strace itself begins there. Not with --seccomp-bpf, where
    the signal would come to nothing.
    """
    listed = {call.name, "write", "sendto", "sendmsg"}
    killer = f"inject={call.name}:signal=KILL:when={call.ordinal}"
    return ["-e", f"trace={','.join(sorted(listed))}", "-e", killer]


def failing_at(call: Call, path: Path, error: str) -> list[str]:
    """strace's options for an error in place of a call, whose ordinal counts calls on this path only."""
    return ["-P", str(path), "-e", f"inject={call.name}:error={error}:when={call.ordinal}"]


class Alarm(NamedTuple):
    """An alarm that a process has set: in how many seconds, and how many were left of the one before."""

    seconds: int
    left: int


TRACE_ALARMS = ("-e", "trace=alarm")


def alarms(calls: Sequence[Call]) -> list[Alarm]:
    """The alarms that were set, in their order."""
    found = (re.fullmatch(r"alarm\((\d+)\) += (\d+)", call.text) for call in calls)
    return [Alarm(*map(int, match.groups())) for match in found if match]


def sent_by(calls: Sequence[Call]) -> int:
    """How many of the calls wrote to a socket."""
    return sum(call.sends for call in calls)


def last_send_of_the_message(calls: Sequence[Call]) -> int:
    """The position of the call that ends the message's request: the last write to a socket before the log
    says DELIVERED. Raises StopIteration where the log never does."""
    logged = next(n for n, call in enumerate(calls) if call.name == "write" and "] DELIVERED" in call.text)
    return max(n for n, call in enumerate(calls[:logged]) if call.sends)
