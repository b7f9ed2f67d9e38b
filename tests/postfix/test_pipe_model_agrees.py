"""The model of pipe(8) agrees with the real one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from helpers.home import RelayHome
from helpers.parallel import each
from helpers.pipe import TIME_LIMIT
from helpers.pipe_cases import PIPE_CASES, SHORT_LIMIT, PipeCase
from helpers.postfix import ONE_ATTEMPT, Outcome, PrivatePostfix

# The first recipient's local part names the command that acts the case out.
DISPATCHER = '#!/bin/sh\nexec "${0%/*}/${3%@*}"\n'


def outcomes(home: RelayHome, limit: int) -> list[Outcome]:
    """Return what Postfix makes of the first attempt at each case of a time limit."""
    settings = {**ONE_ATTEMPT, "apirelay_time_limit": f"{limit}s"}
    numbers = [number for number, case in enumerate(PIPE_CASES) if case.limit == limit]
    with PrivatePostfix(home.script, user=home.account.pw_name, maxproc=8, settings=settings) as postfix:
        for number in numbers:
            postfix.sendmail("", [f"case{number}@domain.com"], "Subject: case\n\nText.\n")
        postfix.wait_for("all cases", lambda: len(postfix.outcomes()) == len(numbers))
        return postfix.outcomes()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What Postfix made of the first attempt at each case, by the recipient's local part."""
    source = tmp_path_factory.mktemp("stage") / "dispatcher"
    source.write_text(DISPATCHER)
    with RelayHome("https://localhost:1", None, source) as home:
        for number, case in enumerate(PIPE_CASES):
            home.put(f"case{number}", case.script().encode(), 0o755)
        found = each(partial(outcomes, home), (TIME_LIMIT, SHORT_LIMIT), workers=2)
        return {outcome.recipient.partition("@")[0]: outcome for part in found for outcome in part}


@pytest.mark.parametrize("case", PIPE_CASES, ids=lambda case: case.name)
def test_verdict(real: dict[str, Outcome], case: PipeCase) -> None:
    outcome = real[f"case{PIPE_CASES.index(case)}"]
    assert (outcome.status, outcome.dsn) == (case.verdict, case.dsn), outcome.text


def test_nothing_of_it_is_alive_afterwards(tmp_path: Path) -> None:
    source = tmp_path / "sleeper"
    source.write_text("#!/bin/sh\necho $$ >&2\nexec sleep 600\n")
    with RelayHome("https://localhost:1", None, source) as home:
        with PrivatePostfix(home.script, user=home.account.pw_name) as postfix:
            postfix.sendmail("", ["a@domain.com"], "Subject: sleep\n\nText.\n")
            postfix.wait_for("the command", lambda: "sleep" in postfix.programs().values())
            directory = postfix.directory
        assert postfix.processes() == []
    assert not directory.exists()
