"""Run the relay and its floor in turn, in the same way, and measure both."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from math import inf
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.cases import Case
from benchmarks.provider import Provider
from helpers.aws_metadata import use_machine
from helpers.certificates import pair, use_certificate
from helpers.home import SCRIPT, RelayHome
from helpers.pipe import Delivery, pipe, run
from helpers.state import KEYS, TOKEN, fill_window
from helpers.usage import Runner, Usage, with_usage
from helpers.variants import use_ses
from sandbox import Recorded, Role

FLOORS = Path(__file__).parent / "floors"
# The interpreter that the relay runs with.
PYTHON = SCRIPT.read_text(encoding="utf-8").split(maxsplit=1)[0][2:]
LIMIT_SECONDS = 60.0
CALLS: dict[str, list[tuple[Role, int]]] = {
    "graph": [("sendMail", 202)],
    "ses": [("ses", 200)],
    "upload": [("draft", 201), ("session", 201), ("range", 201), ("send", 202)],
}


class Figures(NamedTuple):
    """The usage of the relay and of its floor."""

    ours: Usage
    floor: Usage

    @property
    def ratios(self) -> Usage:
        """The ratios to the floor's usage; infinite if that is zero."""
        return Usage(*(mine / least if least > 0 else inf for mine, least in zip(*self)))


class Program(NamedTuple):
    """A floor: the interpreter's arguments after its flags, and standard input."""

    arguments: list[str]
    data: bytes


class Contest:
    """A case that is set up and warmed up.

    Raises AssertionError if its exit status or its calls to the provider are not as expected.
    """

    def __init__(self, case: Case, provider: Provider, home: RelayHome) -> None:
        self.case = case
        self._provider = provider
        self._home = home
        self._message = case.message()
        self._authorities = configure(case, home)
        self._account = account_of(home)
        sign_in(case, provider, home)
        # Before the floor: this leaves the token in its cache, and shows which requests to send.
        self._relay()
        self._program = self._floor_program(provider.requests())
        self._floor()
        self._check_calls()

    def turn(self) -> Figures:
        """Deliver the message with the relay, then run the floor; return the figures of both."""
        ours = self._relay()
        self._check_calls(token=self.case.renewed)
        floor = self._floor()
        self._check_calls()
        return Figures(ours, floor)

    def _relay(self) -> Usage:
        fill_window(self._home, self.case.calls)
        if self.case.renewed:
            for cache in (TOKEN, KEYS):
                self._home.put(cache, b"")
        deliver = partial(pipe, self._home, self._message, *self.case.recipients)
        return self._run(partial(deliver, sender=self.case.sender, limit=LIMIT_SECONDS), self.case.status)

    def _floor(self) -> Usage:
        def start(*, prefix: tuple[str, ...]) -> Delivery:
            command = [*prefix, PYTHON, "-I", *self._program.arguments]
            return run(self._home, command, self._program.data, LIMIT_SECONDS)

        return self._run(start, 0)

    def _run(self, runner: Runner, status: int) -> Usage:
        delivery, usage = with_usage(self._home, runner)
        assert delivery.status == status, f"{self.case.name}: {delivery}"
        return usage

    def _check_calls(self, token: bool = False) -> None:
        """Check the accepted calls: one or those of a draft if the message is delivered, otherwise none, and
        one for a token if the provider issues one.
        """
        answered = [(request.role, request.status) for request in self._provider.requests()]
        calls = [call for call in answered if call != ("range", 200)]
        expected = [] if self.case.status else CALLS.get(self.case.floor, CALLS[self.case.provider])
        asked = token and self.case.provider == "graph" and self.case.credential != "machine"
        assert calls == [("token", 200)] * asked + expected, f"{self.case.name}: {answered}"

    def _floor_program(self, requests: Sequence[Recorded]) -> Program:
        if self.case.floor == "start":
            return Program(["-c", "pass"], self._message)
        if self.case.floor == "import":
            return Program(["-c", "import email.utils, json"], self._message)
        # A copy: the account cannot read every checkout.
        name = "upload.py" if self.case.floor == "upload" else f"{self.case.provider}.py"
        copy = self._home.put(name, (FLOORS / name).read_bytes())
        if self.case.floor == "upload":
            return Program([str(copy), self._authorities, *upload_of(self._home, requests)], self._message)
        if self.case.provider == "graph":
            arguments, data = graph_call(self._home, requests[-1])
        else:
            arguments, data = ses_call(self._account, requests[-1])
        return Program([str(copy), self._authorities, *arguments], data)


def configure(case: Case, home: RelayHome) -> str:
    """Set the home up for a case; return the file of trusted authorities."""
    if case.provider == "ses":
        use_ses(home)
    authorities = str(home.ca_file)
    if case.store:
        together = machine_store() + Path(authorities).read_bytes()
        authorities = str(home.put("authorities.pem", together))
        home.configure(CA_BUNDLE=authorities)
    return authorities


def sign_in(case: Case, provider: Provider, home: RelayHome) -> None:
    """Set the relay up to sign in as the case says."""
    if case.credential == "certificate":
        made = pair()
        provider.register(made.der)
        use_certificate(home, made)
    elif case.credential == "machine" and case.provider == "ses":
        use_machine(home, AWS_EC2_METADATA_SERVICE_ENDPOINT=provider.aws)
    elif case.credential == "machine":
        nobody = dict.fromkeys(("API_ID", "API_SECRET"))
        home.secrets(API_CREDENTIAL="machine", AZURE_POD_IDENTITY_AUTHORITY_HOST=provider.azure, **nobody)


def machine_store() -> bytes:
    """Return the authorities that requests trusts on this machine by default."""
    find = "import requests.certs; print(requests.certs.where(), end='')"
    found = subprocess.run([PYTHON, "-I", "-c", find], capture_output=True, check=True, text=True)
    return Path(found.stdout).read_bytes()


def graph_call(home: RelayHome, request: Recorded) -> Program:
    """Return the arguments of floors/graph.py, after the authorities, to send this request again."""
    # requests sets the length itself.
    fields = [f"{name}: {value}" for name, value in request.headers.items() if name != "content-length"]
    return Program([home.endpoint + request.path, *fields], request.body)


def upload_of(home: RelayHome, requests: Sequence[Recorded]) -> list[str]:
    """Return the arguments of floors/upload.py, after the authorities, to upload the same again."""
    seen = {request.role: request for request in reversed(requests)}
    draft, octets = seen["draft"], seen["range"].headers["content-length"]
    return [home.endpoint + draft.path, draft.headers["authorization"], draft.body.decode(), octets]


def account_of(home: RelayHome) -> list[str]:
    """Return the endpoint, and the client that signs in with a secret."""
    secrets = json.loads((home.path / "api-secrets.json").read_text())
    return [secrets[key] for key in ("API_ENDPOINT", "API_TENANT_OR_REGION", "API_ID", "API_SECRET")]


def ses_call(account: list[str], request: Recorded) -> Program:
    """Return the arguments of floors/ses.py, after the authorities, to send this request's message again."""
    call = json.loads(request.body)
    envelope = [call["FromEmailAddress"], *call["Destination"]["ToAddresses"]]
    return Program([*account, *envelope], base64.b64decode(call["Content"]["Raw"]["Data"]))


def show_progress(done: int, last: int) -> None:
    """Show the progress, if on a terminal."""
    if sys.stderr.isatty():
        print(f"turn {done + 1} of {last}", end="\r", file=sys.stderr, flush=True)


def middle(turns: Sequence[Figures]) -> Figures:
    """Return the median of each figure."""
    return Figures(*(Usage(*map(median, zip(*side))) for side in zip(*turns)))


def measure(cases: Sequence[Case], runs: int | None) -> dict[str, Figures]:
    """Return the figures of cases by name, medians of the case's own number of runs, or of `runs`.

    The cases take turns as well, so that a slow minute of the machine affects all of them.
    """
    with ExitStack() as stack:
        provider = stack.enter_context(Provider())
        homes = [stack.enter_context(RelayHome(provider.url, provider.ca_file)) for _ in cases]
        contests = [Contest(case, provider, home) for case, home in zip(cases, homes)]
        turns: dict[str, list[Figures]] = {case.name: [] for case in cases}
        last = runs or max(case.runs for case in cases)
        for number in range(last):
            show_progress(number, last)
            for contest in contests:
                if number < (runs or contest.case.runs):
                    turns[contest.case.name].append(contest.turn())
    return {name: middle(taken) for name, taken in turns.items()}
