"""tests/run.sh --live compares the recorded answers with those of a service, here the sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from helpers.answers import ANSWERS, names
from helpers.postfix import PROJECT, replaced
from moto.server import ThreadedMotoServer
from moto.ses.models import ses_backends
from sandbox import Answer, Sandbox, json_answer, provided

MAILBOX = "me@domain.com"
SECRETS = ("client-secret", "tenant-secret")
REGION = "eu-west-1"


class Compared:
    """The output and exit status of a comparison."""

    def __init__(self, status: int, output: str, problem: str) -> None:
        self.status, self.problem = status, problem
        *lines, self.tally = output.splitlines() or [""]
        pairs = [(line[13:].partition(": ")[0], line) for line in lines]
        self.lines = dict(pairs)
        assert len(self.lines) == len(pairs)
        assert not any(secret in output + problem for secret in SECRETS)

    def of(self, verdict: str) -> set[str]:
        """Return the answers with this verdict."""
        return {name for name, line in self.lines.items() if line[:13].strip() == verdict}


def compare(file: Path, tests: Path = PROJECT / "tests") -> Compared:
    """Compare the answers of a copy of the tests, or of the tests themselves."""
    done = subprocess.run(
        [sys.executable, str(tests / "live.py"), str(file)],
        env={**os.environ, "NO_PROXY": "localhost,127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stderr
    return Compared(done.returncode, done.stdout, done.stderr)


def credentials(directory: Path, **content: Any) -> Path:
    file = directory / "credentials.json"
    file.touch(0o600)
    file.write_text(json.dumps(content))
    return file


def graph(sandbox: Sandbox, **changes: str) -> dict[str, str]:
    usual = {"tenant": "tenant-id", "client_id": "client-id", "client_secret": "client-secret"}
    places = {"endpoint": sandbox.url, "login_endpoint": sandbox.url, "ca_file": str(sandbox.ca_file)}
    return {**usual, "mailbox": MAILBOX, **places, **changes}


def ses(endpoint: str, **changes: str) -> dict[str, str]:
    usual = {"region": REGION, "access_key_id": "client-id", "secret_access_key": "client-secret"}
    return {**usual, "from": MAILBOX, "to": MAILBOX, "endpoint": endpoint, **changes}


def sound_ses(sandbox: Sandbox) -> dict[str, str]:
    return ses(sandbox.url, ca_file=str(sandbox.ca_file))


@pytest.fixture
def service(sandbox: Sandbox) -> Sandbox:
    """A provider that knows one mailbox, which SES has verified."""
    sandbox.mailboxes = {MAILBOX}
    return sandbox


def test_all_that_can_be_provoked_is_the_same_at_the_sandbox(service: Sandbox, tmp_path: Path) -> None:
    file = credentials(tmp_path, graph=graph(service), ses=sound_ses(service))
    compared = compare(file)
    assert compared.of("differs") == set()
    assert (compared.status, compared.problem) == (0, "")
    # Every file has a line, and answers that were not asked for have a reason.
    assert compared.lines.keys() == {
        name for kind in ("graph", "entra", "ses", "azure", "aws") for name in names(kind)
    }
    assert len(compared.of("same")) > 55
    for name in compared.of("not provoked"):
        assert ": " in compared.lines[name]
    assert 'only with "throttle": true' in compared.lines["graph/mailbox-concurrency"]
    assert (
        compared.tally
        == f"{len(compared.of('same'))} same, 0 differs, {len(compared.of('not provoked'))} not provoked"
    )
    # No mail went to anybody else, and nothing is left behind.
    assert {recipient for message in service.accepted for recipient in message.recipients} == {MAILBOX}
    assert service.drafts == {}


def test_throttling_is_provoked_where_it_is_asked_for(service: Sandbox, tmp_path: Path) -> None:
    service.answer("find", *[provided("graph/mailbox-concurrency")] * 60)
    compared = compare(credentials(tmp_path, graph=graph(service), throttle=True))
    assert "graph/mailbox-concurrency" in compared.of("same")
    assert "graph/draft-found" in compared.of("differs")
    assert compared.lines["ses/accepted"].endswith('the file has no "ses"')


@pytest.mark.parametrize(
    ("name", "old", "new", "difference"),
    [
        (
            "entra/wrong-secret",
            "      7000215",
            "      7000216",
            "code invalid_client 7000215 instead of invalid_client 7000216",
        ),
        ("graph/sendmail-accepted", '"status": 202', '"status": 200', "status 202 instead of 200"),
        ("graph/draft-made", '"isDraft"', '"isADraft"', "isADraft is missing"),
        ("graph/session-opened", '"{expires}"', "5", "expirationDateTime is a string instead of a number"),
        ("graph/upload-complete", '"Location"', '"Place"', "no Place"),
        (
            "graph/token-refused",
            "InvalidAuthenticationToken",
            "Other",
            "code InvalidAuthenticationToken instead of Other",
        ),
    ],
)
def test_a_file_that_says_something_else_differs(
    service: Sandbox, tmp_path: Path, name: str, old: str, new: str, difference: str
) -> None:
    tests = tmp_path / "tests"
    shutil.copytree(PROJECT / "tests" / "helpers", tests / "helpers")
    shutil.copytree(ANSWERS, tests / "answers")
    shutil.copy(PROJECT / "tests" / "live.py", tests)
    changed = tests / "answers" / f"{name}.json"
    changed.write_text(replaced(changed.read_text(), old, new))
    compared = compare(credentials(tmp_path, graph=graph(service)), tests)
    assert compared.of("differs") == {name}
    assert compared.lines[name] == f"differs      {name}: {difference}"
    assert compared.status == 1


def test_drafts_are_deleted_whatever_happens(service: Sandbox, tmp_path: Path) -> None:
    service.session_minimum = 10**9
    compared = compare(credentials(tmp_path, graph=graph(service)))
    assert "graph/session-opened" in compared.of("differs")
    assert compared.lines["graph/range-taken"].endswith("did not succeed")
    assert service.drafts == {}
    assert compared.status == 1


def test_an_answer_of_another_form_ends_only_what_needs_it(service: Sandbox, tmp_path: Path) -> None:
    # The first drafts are refused anyway.
    service.answer("draft", *[Answer()] * 5, json_answer(201, {"id": 5}))
    compared = compare(credentials(tmp_path, graph=graph(service), ses=sound_ses(service)))
    assert compared.of("differs") == {"graph/draft-made"}
    assert "id is a number instead of a string" in compared.lines["graph/draft-made"]
    assert compared.lines["graph/draft-sent"].endswith("did not succeed")
    assert "ses/accepted" in compared.of("same")


def test_wrong_credentials_end_it(service: Sandbox, tmp_path: Path) -> None:
    compared = compare(credentials(tmp_path, graph=graph(service, client_secret="tenant-secret")))
    assert "entra/token" in compared.of("differs")
    assert compared.lines["graph/draft-made"].endswith("did not succeed")
    assert (compared.status, service.accepted) == (1, [])


def test_a_service_that_is_away(service: Sandbox, tmp_path: Path) -> None:
    service.stop()
    compared = compare(credentials(tmp_path, ses=ses(service.url)))
    assert compared.lines["ses/unknown-key"].endswith("no answer (ConnectionError)")
    assert compared.status == 1


@pytest.fixture
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    ses_backends["123456789012"][REGION].reset()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "ses",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id="client-id",
        aws_secret_access_key="client-secret",
    )
    client.verify_email_identity(EmailAddress=MAILBOX)
    yield url
    server.stop()


def test_moto_is_the_same_where_it_imitates_ses(moto: str, tmp_path: Path) -> None:
    """moto believes every key, and words some refusals in its own way."""
    compared = compare(credentials(tmp_path, ses=ses(moto)))
    assert compared.of("same") == {"ses/accepted", "ses/quota"}
    refused = compared.lines["ses/not-verified"]
    assert refused == (
        "differs      ses/not-verified: message is missing; the text lacks 'Email address is not verified'"
    )
    assert compared.status == 1


SOUND = {"graph": {"tenant": "t", "client_id": "c", "client_secret": "client-secret", "mailbox": MAILBOX}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON: Expecting property name enclosed in double quotes in line 1"),
        ("[]", 'needs an object with "graph" or "ses"'),
        ("{}", 'needs an object with "graph" or "ses"'),
        (json.dumps({**SOUND, "smtp": {}}), "has the unknown key 'smtp'"),
        ('{"ses": []}', '"ses" is not an object'),
        (json.dumps({"graph": {**SOUND["graph"], "tenant": ""}}), '"graph" needs "tenant", a string'),
        (
            json.dumps({"graph": {**SOUND["graph"], "secret": "x"}}),
            '"graph" has "secret", which is unknown or not a string',
        ),
        (json.dumps({"ses": {"region": REGION}}), '"ses" needs "access_key_id", a string'),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_a_file_of_another_form_is_one_clear_line(tmp_path: Path, text: str, problem: str) -> None:
    file = credentials(tmp_path)
    file.write_text(text)
    compared = compare(file)
    assert (compared.status, compared.lines) == (2, {})
    assert compared.problem.count("\n") == 1
    assert compared.problem.startswith(f"live: {file}") and compared.problem.endswith(f"{problem}\n")


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    compared = compare(tmp_path / "none")
    assert (compared.status, compared.problem) == (2, f"live: {tmp_path}/none: No such file or directory\n")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_not_used(service: Sandbox, tmp_path: Path, mode: int) -> None:
    file = credentials(tmp_path, graph=graph(service))
    file.chmod(mode)
    compared = compare(file)
    assert (compared.status, compared.problem) == (2, f"live: {file} is open to others: chmod 600 {file}\n")
    assert service.requests == []


def test_run_sh_has_it_as_an_option(service: Sandbox, tmp_path: Path) -> None:
    """The file's name is relative to the current directory."""
    file = credentials(tmp_path, graph=graph(service))
    done = subprocess.run(
        [str(PROJECT / "tests" / "run.sh"), "--live", file.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "same         graph/sendmail-accepted" in done.stdout.splitlines()
