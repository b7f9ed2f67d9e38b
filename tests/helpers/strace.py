"""Run the relay under strace(1): list its system calls, and make one of them fail or be the last."""

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
# Enough for the time and the keyword of a log record.
SHOWN_BYTES = 64


class Call(NamedTuple):
    """A system call: its name, its number among the calls of this name, and strace's line."""

    name: str
    ordinal: int
    text: str

    @property
    def done(self) -> bool:
        """Whether it returned; the last call of a process that died did not."""
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
    """A delivery and its system calls."""

    delivery: Delivery
    calls: list[Call]


def whole_lines(text: str) -> str:
    """Return strace's output, with calls that another process interrupted in one piece."""
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
    """Return the system calls in strace's output."""
    seen: dict[str, int] = {}
    calls = []
    for match in filter(None, map(LINE.match, text.splitlines())):
        name = match["name"]
        seen[name] = seen.get(name, 0) + 1
        calls.append(Call(name, seen[name], match["text"]))
    return calls


@contextmanager
def trace_file(home: RelayHome) -> Iterator[Path]:
    """Create a file outside the home that the home's user can write strace's output to."""
    with tempfile.TemporaryDirectory(prefix="trace-") as directory:
        file = Path(directory) / "calls"
        file.touch()
        home.own(file.parent)
        home.own(file)
        yield file


def command(file: Path, options: Sequence[str] = ()) -> list[str]:
    """Return the command to put before the relay's; strace dies of the same signal as its program."""
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
    """Return the calls that name the directory or a file in it, each with the first such path.

    Ordinals count the calls of a name that mention this path, as strace does with -P.
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
    """Return strace's options for SIGKILL instead of a system call; only sends are listed besides.

    This does not work for the execve that starts the relay, because strace itself begins there, nor with
    --seccomp-bpf, where the signal would be lost.
    """
    listed = {call.name, "write", "sendto", "sendmsg"}
    killer = f"inject={call.name}:signal=KILL:when={call.ordinal}"
    return ["-e", f"trace={','.join(sorted(listed))}", "-e", killer]


def failing_at(call: Call, path: Path, error: str) -> list[str]:
    """Return strace's options for an error instead of a call; its ordinal counts calls on this path only."""
    return ["-P", str(path), "-e", f"inject={call.name}:error={error}:when={call.ordinal}"]


class Alarm(NamedTuple):
    """An alarm that a process has set: its seconds, and the remaining ones of the alarm before."""

    seconds: int
    left: int


TRACE_ALARMS = ("-e", "trace=alarm")


def alarms(calls: Sequence[Call]) -> list[Alarm]:
    """Return the alarms that were set, in order."""
    found = (re.fullmatch(r"alarm\((\d+)\) += (\d+)", call.text) for call in calls)
    return [Alarm(*map(int, match.groups())) for match in found if match]


def sent_by(calls: Sequence[Call]) -> int:
    """Return the number of calls that wrote to a socket."""
    return sum(call.sends for call in calls)


def last_send_of_the_message(calls: Sequence[Call]) -> int:
    """Return the position of the call that ends the message's request: the last write to a socket before the
    log says DELIVERED. Raises StopIteration if the log never does."""
    logged = next(n for n, call in enumerate(calls) if call.name == "write" and "] DELIVERED" in call.text)
    return max(n for n, call in enumerate(calls[:logged]) if call.sends)
