"""The measured cases, with the floor of each and the ratio to reach: the rows of the table."""

from __future__ import annotations

from typing import Literal, NamedTuple

from helpers.large_mail import scan
from helpers.mail import mail

Figure = Literal["cpu", "wall", "memory"]
# "start": the interpreter alone; "import": with two of its modules; "deliver": one call to the provider;
# "upload": the calls for a draft.
Floor = Literal["start", "import", "deliver", "upload"]

# Numbers of runs, of which the median counts; --runs changes them for all cases.
SHORT, LONG, LARGE = 31, 15, 7
MB = 1_000_000
# Calls in the window: some, and as many as it holds.
ROOM, FULL = 10, 28
ALERTS, NULL_SENDER = "alerts@domain.com", "MAILER-DAEMON"


class Target(NamedTuple):
    """The highest allowed ratio to the floor; for memory, the excess over the floor, in messages.

    With `over`, it is the excess over what the relay needs for that other case.
    """

    figure: Figure
    most: float
    over: str = ""


class Case(NamedTuple):
    """A path of a message through the relay, and the least that a program could do instead.

    `size` is the message's size in bytes, `listed` the number of addresses in To (the first is the
    recipient), `calls` the number of calls in the window, `status` the expected exit status. With `store`,
    the relay trusts all authorities of the machine, besides the provider's own. `credential` is
    API_CREDENTIAL; with `renewed`, nothing is cached when the message arrives.
    """

    name: str
    about: str
    floor: Floor
    runs: int
    targets: tuple[Target, ...] = ()
    provider: Literal["graph", "ses"] = "graph"
    size: int = 0
    listed: int = 1
    visible: bool = True
    calls: int = ROOM
    status: int = 0
    store: bool = False
    credential: Literal["secret", "certificate", "machine"] = "secret"
    renewed: bool = False

    @property
    def sender(self) -> str:
        """The envelope sender: the null sender if the message is refused, as a notice would be a delivery."""
        return NULL_SENDER if self.status == 1 else ALERTS

    @property
    def recipients(self) -> list[str]:
        """The envelope recipients: only one, because many would need several calls."""
        return [address(0)]

    def message(self) -> bytes:
        """Return the message as Postfix hands it over."""
        first = 0 if self.visible else 1
        listed = [named(number) for number in range(first, first + self.listed)]
        if self.floor == "upload":
            # Base64 has lines of 76 characters for 57 bytes.
            return scan(self.size / MB * 57 / 77, To=",\n ".join(listed))
        line = b"x" * 76 + b"\n"
        return mail(line * (self.size // len(line) + 1), To=",\n ".join(listed))


class Growth(NamedTuple):
    """How much more one case takes than another, both minus `less`, whose start-up would hide it."""

    name: str
    about: str
    large: str
    small: str
    less: str = ""


def address(number: int) -> str:
    """Return the address of a recipient."""
    return f"recipient-{number:05}@department.example.com"


def named(number: int) -> str:
    """Return a recipient with a name: 100 bytes of a list, including the separator."""
    return f'"Recipient {number:05} of the Department of Long Display Names" <{address(number)}>'


CHEAP = (Target("cpu", 2.0),)
NEAR_GRAPH = (Target("cpu", 1.15), Target("wall", 1.15))
NEAR_SES = (Target("cpu", 1.10), Target("wall", 1.10))
SMALL = (Target("memory", 2.5),)
UPLOADED = (Target("cpu", 1.5), Target("wall", 1.5))
FRUGAL = (*UPLOADED, Target("memory", 2.0, "graph"))
LINEAR = (Target("cpu", 12),)

CASES = (
    Case("deferral", "deferral at a full window", "start", SHORT, CHEAP, calls=FULL, status=75),
    Case("graph", "Graph delivery, token cached", "deliver", SHORT, NEAR_GRAPH),
    Case("graph-store", "the same, all the machine's CAs", "deliver", SHORT, NEAR_GRAPH, store=True),
    Case("ses", "SES delivery", "deliver", SHORT, NEAR_SES, "ses"),
    Case("reject", "reject: no visible recipient", "import", SHORT, CHEAP, visible=False, status=1),
    Case("token", "Graph, a new token for the secret", "deliver", LONG, renewed=True),
    Case("certificate", "Graph by certificate, token cached", "deliver", LONG, credential="certificate"),
    Case("certificate-token", "the same, new token", "deliver", LONG, credential="certificate", renewed=True),
    Case("machine", "Graph as the machine, token cached", "deliver", LONG, credential="machine"),
    Case("machine-token", "the same, new token", "deliver", LONG, credential="machine", renewed=True),
    Case("ses-machine", "SES as the machine, keys cached", "deliver", LONG, (), "ses", credential="machine"),
    Case(
        "ses-machine-keys",
        "the same, new keys",
        "deliver",
        LONG,
        (),
        "ses",
        credential="machine",
        renewed=True,
    ),
    Case("graph-3mb", "2.9 MB through Graph, in one call", "deliver", LARGE, SMALL, size=2_900_000),
    Case("graph-10mb", "10 MB through Graph, by a draft", "upload", LARGE, UPLOADED, size=10 * MB),
    Case("graph-25mb", "25 MB through Graph, by a draft", "upload", LARGE, FRUGAL, size=25 * MB),
    Case("graph-100mb", "100 MB through Graph, by a draft", "upload", LARGE, FRUGAL, size=100 * MB),
    Case("ses-25mb", "25 MB through SES", "deliver", LARGE, SMALL, "ses", 25 * MB),
    Case("to-1", "1 in To", "deliver", LONG),
    Case("to-1000", "1,000 in To, one recipient", "deliver", LONG, listed=1_000),
    Case("to-10000", "10,000 in To, one recipient", "deliver", LONG, listed=10_000),
)

# The start-up could hide time that grows with the square of the length, hence the net figures.
GROWTHS = (
    Growth("to-growth", "10,000 over 1,000 in To", "to-10000", "to-1000"),
    Growth("to-growth-net", "the same, both less 1 in To", "to-10000", "to-1000", "to-1"),
)
