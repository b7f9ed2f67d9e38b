"""Ways a command can end, and what pipe(8) does in each case; for the model and for a real Postfix."""

from __future__ import annotations

from typing import NamedTuple

from helpers.pipe import TIME_LIMIT, Verdict

# Seconds, for commands that do not end; each has printed something by then.
SHORT_LIMIT = 10


class PipeCase(NamedTuple):
    """A command's output and end, the verdict and status code of its delivery, and the time limit."""

    output: str
    end: str
    verdict: Verdict
    dsn: str
    limit: int = TIME_LIMIT

    @property
    def name(self) -> str:
        """The test's name."""
        return f"{self.end}, {self.output.split()[0]}"

    def script(self) -> str:
        """Return a shell script that reads its message and then does this."""
        return f"#!/bin/sh\ncat >/dev/null\nprintf '%s\\n' '{self.output}' >&2\n{self.end}\n"


PLAIN = "some text"
TRANSIENT = "4.7.1 some text"
PERMANENT = "5.7.60 some text"
SIGNAL = "kill -TERM $$"
TIME_OUT = "sleep 600"

PIPE_CASES = [
    PipeCase(PLAIN, "exit 0", "sent", "2.0.0"),
    PipeCase(TRANSIENT, "exit 0", "sent", "2.0.0"),
    PipeCase(PERMANENT, "exit 0", "sent", "2.0.0"),
    PipeCase(PLAIN, "exit 1", "bounced", "5.3.0"),
    PipeCase(PLAIN, "exit 2", "bounced", "5.3.0"),
    PipeCase(PLAIN, "exit 71", "deferred", "4.3.0"),
    PipeCase(PLAIN, "exit 75", "deferred", "4.3.0"),
    PipeCase(PLAIN, "exit 78", "bounced", "5.3.5"),
    PipeCase(PLAIN, "exit 120", "bounced", "5.3.0"),
    PipeCase(PLAIN, "exit 127", "bounced", "5.3.0"),
    *(PipeCase(TRANSIENT, f"exit {status}", "deferred", "4.7.1") for status in (1, 2, 71, 75, 78, 120, 127)),
    *(PipeCase(PERMANENT, f"exit {status}", "bounced", "5.7.60") for status in (1, 2, 71, 75, 78, 120, 127)),
    *(PipeCase(output, SIGNAL, "deferred", "4.3.0") for output in (PLAIN, TRANSIENT, PERMANENT)),
    *(
        PipeCase(output, TIME_OUT, "bounced", "5.3.0", SHORT_LIMIT)
        for output in (PLAIN, TRANSIENT, PERMANENT)
    ),
]
