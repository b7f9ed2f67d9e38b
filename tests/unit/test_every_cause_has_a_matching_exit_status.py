"""The exit status and the printed status code tell Postfix the same, whichever of them it uses."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from helpers.home import SCRIPT
from helpers.script import load_script
from helpers.unit import finish, load_config, load_secrets, shown

relay = load_script()

SENT, BOUNCED, DEFERRED = 0, 1, 75
STATUS_CODE = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
# Verdicts about a message; everything else must wait.
VERDICTS = {
    "no visible recipient",
    "recipient",
    "too large",
    "message",
    "mailbox",
    "credentials",
    "permission",
    "draft permission",
    "unverified",
    "refused",
}
HOSTILE = ["", "5.7.1 Bounce it", "2.0.0 sent", "\n5.7.1 x", "\0", "\udcff", "x" * 10_000]


def outcome(problem: Any, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return exit status and printed text."""
    return finish(relay, problem, relay.Log()), capfd.readouterr().err


def graph() -> Any:
    return relay.Graph("/nonexistent", load_config(relay), load_secrets(relay), relay.Log())


def answer(status: int, **content: object) -> Any:
    return relay.Answer(status, {}, json.dumps(content).encode())


def exit_status(problem: Any) -> int:
    return finish(relay, problem, relay.Log())


@pytest.mark.parametrize("cause", relay.CAUSES)
@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_printed_begins_with_the_code_of_the_outcome(
    cause: str, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code = relay.CAUSES[cause].code
    status, printed = outcome(relay.failure(cause, text), capfd)

    assert STATUS_CODE.fullmatch(code)
    assert printed.startswith(f"{code} ") and len(printed.encode()) <= 4096
    assert printed.isprintable()
    assert status == {"2": SENT, "4": DEFERRED, "5": BOUNCED}[code[0]]


def test_only_verdicts_bounce() -> None:
    assert {cause for cause in relay.CAUSES if exit_status(relay.failure(cause, "")) == BOUNCED} == VERDICTS
    assert {cause for cause in relay.CAUSES if exit_status(relay.failure(cause, "")) == SENT} == {"accepted"}


def test_acceptance_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert outcome(None, capfd) == (SENT, "")


def test_an_unwritable_log_is_told_of_without_a_change_of_the_outcome(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = relay.Log()
    log.path = "/nonexistent/log"
    log.write("5.7.1 a record")

    assert finish(relay, None, log) == SENT
    printed = capfd.readouterr().err
    assert printed.startswith("2.0.0 log '/nonexistent/log' is not writable: ") and "a record" in printed


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(1),
        SystemExit(0),
        KeyboardInterrupt(),
        MemoryError(),
        RecursionError(),
        ValueError("5.7.1 x"),
        OSError(),
    ],
)
def test_whatever_crashes_defers(error: BaseException, capfd: pytest.CaptureFixture[str]) -> None:
    status, printed = outcome(relay.as_failure(error), capfd)

    assert status == DEFERRED
    assert printed.startswith(f"4.3.0 unexpected {type(error).__name__}")


def test_a_cause_that_is_known_stays_what_it_is() -> None:
    problem = relay.failure("too large", "text")

    assert relay.as_failure(problem) is problem


def test_every_cause_named_in_the_script_is_in_the_table_and_the_other_way_round() -> None:
    source = SCRIPT.read_text(encoding="utf-8")
    named = set(re.findall(r'failure\(\s*"([a-z, ]+)"', source)) | set(
        re.findall(r'cause = "([a-z, ]+)"', source)
    )
    tables = [relay.HTTP_CAUSES, relay.TRANSPORT_CAUSES, relay.Ses.CODES]
    tables += [relay.Graph.CODES, relay.Graph.NUMBERS, relay.Graph.TOKEN_CAUSES]
    mapped = {cause for table in tables for cause in table.values()} | {
        relay.http_cause(299),
        relay.http_cause(499),
    }

    named |= set(re.findall(r'return "([a-z, ]+)"(?: if|,|$)', source, re.MULTILINE)) & relay.CAUSES.keys()

    deferred = {cause for cause in relay.CAUSES if cause.endswith(", deferred")}
    assert named | mapped | deferred | {"accepted"} == relay.CAUSES.keys()
    assert deferred == set(relay.DEFERRED_CAUSES.values())


def test_http_statuses_end_as_promised() -> None:
    """The guide's four, and 413, if Graph itself says so; without its error nothing bounces."""
    own = {"error": {"code": "NeverHeardOf", "message": "Said so."}}

    def bounced(**content: object) -> set[int]:
        problems = {status: graph().send_failure(answer(status, **content)) for status in range(100, 600)}
        return {status for status, problem in problems.items() if exit_status(problem) == BOUNCED}

    assert bounced(**own) == {400, 401, 403, 404, 413}
    assert bounced() == set()


def test_what_waits_for_an_admin_is_deferred() -> None:
    assert set(relay.STOPS.values()) == {"message", "mailbox", "relay"}
    assert all(exit_status(relay.failure(cause, "")) == DEFERRED for cause in relay.STOPS)
    assert set(relay.DEFERRED_CAUSES.values()) <= relay.STOPS.keys()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "ErrorInvalidRecipients", "5.1.3"),
        (400, "ErrorMimeContentInvalidBase64String", "5.6.0"),
        (400, "ErrorMessageSizeExceeded", "5.3.4"),
        (413, "", "5.3.4"),
        (401, "InvalidAuthenticationToken", "5.7.8"),
        (403, "ErrorSendAsDenied", "5.7.1"),
        (404, "ErrorInvalidUser", "5.1.8"),
        (429, "ApplicationThrottled", "4.4.5"),
        (429, "ErrorInvalidRecipients", "4.4.5"),
        (503, "ErrorInvalidRecipients", "4.3.2"),
        (504, "", "4.3.2"),
        (200, "", "4.5.0"),
        (302, "", "4.5.0"),
    ],
)
def test_graphs_refusals_have_their_codes(status: int, code: str, expected: str) -> None:
    problem = graph().send_failure(answer(status, error={"code": code, "message": "Said\nso."}))

    assert problem.code == expected
    assert shown(relay, problem).startswith(
        f"Graph sendMail failed: HTTP {status} {f'{code}: ' if code else ''}Said so."
    )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "invalid_request", "5.7.8"),
        (401, "invalid_client", "5.7.8"),
        (400, "temporarily_unavailable", "4.3.2"),
        (400, "server_error", "4.3.2"),
        (429, "", "4.4.5"),
        (500, "invalid_client", "4.3.2"),
        (302, "", "4.5.0"),
    ],
)
def test_refusals_of_the_token_have_their_codes(status: int, code: str, expected: str) -> None:
    reply = {"error": code, "error_description": "AADSTS7000215: Invalid."}

    problem = graph().token_failure("Failed to obtain Graph token", answer(status, **reply), reply)

    assert problem.code == expected
    assert shown(relay, problem).startswith(f"Failed to obtain Graph token: HTTP {status} ")
    assert "AADSTS7000215: Invalid." in shown(relay, problem)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>\n502</html>",
        b"\xff\0",
        b"[1]",
        b'{"error": "x"}',
        b'{"error": {"code": []}}',
        b"[" * 100_000,
    ],
)
def test_an_answer_in_no_known_form_is_shown_and_goes_by_its_status(body: bytes) -> None:
    problem = graph().send_failure(relay.Answer(502, {}, body))

    assert (problem.code, shown(relay, problem).isprintable()) == ("4.3.2", True)


@pytest.mark.parametrize(
    ("code", "text", "status", "expected"),
    [
        ("Throttling", "Maximum sending rate exceeded.", 400, "4.4.5"),
        ("TooManyRequestsException", "", 429, "4.4.5"),
        ("LimitExceededException", "", 400, "4.4.5"),
        ("ServiceUnavailable", "", 503, "4.3.2"),
        ("InternalFailure", "", 500, "4.3.2"),
        ("RequestTimeout", "", 408, "4.3.2"),
        ("MessageRejected", "", 502, "4.3.2"),
        ("AccountSuspendedException", "", 400, "5.7.1"),
        ("SendingPausedException", "", 400, "5.7.1"),
        ("MailFromDomainNotVerifiedException", "", 400, "5.7.1"),
        ("InvalidClientTokenId", "", 403, "5.7.8"),
        ("SignatureDoesNotMatch", "", 403, "5.7.8"),
        ("AccessDeniedException", "", 403, "5.7.1"),
        ("MessageRejected", "Email address is not verified.", 400, "5.7.1"),
        ("MessageRejected", "It has a virus.", 400, "5.6.0"),
        ("BadRequestException", "", 400, "5.6.0"),
        ("NeverHeardOf", "", 400, "5.6.0"),
        ("NeverHeardOf", "", 404, "5.6.0"),
        ("NeverHeardOf", "", 418, "4.6.0"),
    ],
)
def test_the_refusals_of_ses_have_their_codes(code: str, text: str, status: int, expected: str) -> None:
    ses = relay.Ses("/nonexistent", load_config(relay), load_secrets(relay), relay.Log())
    answer = relay.Answer(status, {"x-amzn-ErrorType": code}, json.dumps({"message": text}).encode())

    problem = ses.send_failure("SES send_email failed", answer)

    assert problem.code == expected
    assert shown(relay, problem).startswith(f"SES send_email failed: HTTP {status} {code}:")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("SSLError", "4.7.5"),
        ("ConnectTimeout", "4.4.1"),
        ("NewConnectionError", "4.4.1"),
        ("ReadTimeout", "4.4.2"),
    ],
)
def test_a_call_without_an_answer_defers_whether_it_can_have_arrived_or_not(kind: str, expected: str) -> None:
    library = type(kind, (OSError,), {})
    derived = type("Derived", (library,), {})
    wrapped = type("Wrapped", (OSError,), {"reason": derived("inner")})()

    assert relay.transport_failure("call", library("text")).code == expected
    assert relay.transport_failure("call", derived("text")).code == expected
    assert relay.transport_failure("call", OSError(wrapped)).code == expected
