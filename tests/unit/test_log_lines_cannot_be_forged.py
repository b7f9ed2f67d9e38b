"""Readers of the log or a notice can trust that each line is the relay's, and that it contains no secret."""

from __future__ import annotations

import contextlib
import html
import json
import re
from email.parser import BytesParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from helpers.mail_shapes import Shape, shapes
from helpers.readers import field_names
from helpers.script import load_script
from helpers.unit import finish, load_config, load_secrets, parse
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

relay = load_script()

RECORD = re.compile(r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d\] ([A-Z]+)")
FORGED = "x\r\n[2030-01-01T00:00:00+00:00] DELIVERED: from='\u2028\u202e\x1b[2J'"
# Text as on a command line: any bytes except NUL.
ARGUMENT = st.binary(max_size=20).map(
    lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
# Every kind of character that some notation writes differently.
SECRET = 'Ab~8Q+c/d=\u00e9 "q\\E<x>&%z'

in_one_folder = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def written(path: Path) -> list[str]:
    """Return the log's new records, split wherever some program sees a line end."""
    lines = path.read_text(encoding="utf-8").splitlines()
    path.unlink()
    return lines


def log_at(folder: Path, *secrets: str) -> Any:
    log = relay.Log()
    log.path = str(folder / "log")
    log.hide(*secrets)
    return log


@in_one_folder
@given(shapes, ARGUMENT, ARGUMENT)
def test_each_record_of_a_delivery_is_one_line(
    tmp_path: Path, shape: Shape, sender: str, client: str
) -> None:
    log = log_at(tmp_path)
    envelope = relay.Envelope(sender, "4ZxTestQid", shape.envelope, client)
    delivery = relay.Relay(str(tmp_path), envelope, load_config(relay), load_secrets(relay), log)

    with contextlib.suppress(relay.Bounced):
        delivery.mail = delivery.provider.address(delivery.draft(parse(relay, shape.header + shape.body)))
        delivery.receipt = relay.Receipt("graph", "id")
        delivery.decision = delivery.decision._replace(replaced="")
        delivery.after_acceptance()

    kinds = [match[1] if (match := RECORD.match(line)) else line for line in written(tmp_path / "log")]
    assert kinds in (["SENDER", "CLASSIFIED", "REJECTED"], ["SENDER", "CLASSIFIED", "DELIVERED"])


@in_one_folder
@example(FORGED)
@given(st.text() | ARGUMENT)
def test_the_text_of_a_crash_is_one_line_and_its_traceback_is_indented(tmp_path: Path, text: str) -> None:
    log = log_at(tmp_path)

    try:
        raise ValueError(text)
    except ValueError as error:
        relay.log_failure(log, relay.as_failure(error))

    first, *traceback = written(tmp_path / "log")
    assert RECORD.match(first) and "DEFERRED: 4.3.0 unexpected ValueError" in first
    assert traceback and all(re.match(r"\[[^]]+\]   ", line) for line in traceback)


@in_one_folder
@example([FORGED, FORGED])
@given(st.lists(st.text() | ARGUMENT, min_size=2, max_size=2))
def test_what_a_provider_says_is_one_line(tmp_path: Path, said: list[str]) -> None:
    graph = relay.Graph(str(tmp_path), load_config(relay), load_secrets(relay), relay.Log())
    body = json.dumps({"error": {"code": said[0], "message": said[1]}}).encode()
    log = log_at(tmp_path)

    relay.log_failure(log, graph.send_failure(relay.Answer(503, {}, body)))

    assert len(written(tmp_path / "log")) == 1


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=100) | ARGUMENT, st.integers(1, 30))
def test_one_line_is_printable_and_short(text: str, limit: int) -> None:
    line = relay.one_line(text, limit)

    assert line.isprintable() and len(line) <= limit
    assert line == text or not text.isprintable() or len(text) > limit or text != " ".join(text.split())


@settings(max_examples=100, deadline=None)
@example(FORGED, FORGED)
@given(st.text(max_size=300) | ARGUMENT, st.text(max_size=300) | ARGUMENT)
def test_a_notice_has_the_relays_own_header_only(sender: str, subject: str) -> None:
    envelope = relay.Envelope(sender, "4ZxTestQid", ["a@x.org"], "10.1.1.20")
    mail = relay.Mail("alerts@domain.com", relay.Recipients(["a@x.org"], [], []), subject, b"")
    notices = [
        relay.override_notice(envelope, sender, mail),
        relay.refusal_notice(envelope, relay.failure("message", subject), subject),
        relay.refusal_notice(envelope, relay.failure("mailbox full", subject), subject, sender),
        relay.left_out_notice(envelope, [subject], "which are not e-mail addresses"),
    ]

    for notice in notices:
        sent = relay.notice_mail(load_config(relay), notice, "alerts@domain.com")
        assert sent.recipients == (["admin@domain.com"], [], [])
        assert sorted(field_names(sent.data)) == sorted(
            ["from", "to", "subject", "date", "message-id", "auto-submitted", "x-auto-response-suppress"]
            + ["mime-version", "content-type", "content-transfer-encoding"]
        )
        assert BytesParser().parsebytes(sent.data)["to"] == "admin@domain.com"
        lines = sent.data.split(b"\r\n")
        assert max(map(len, lines)) <= 998 and not any(b"\n" in line or b"\r" in line for line in lines)
        assert sent.data.split(b"\r\n\r\n")[0].isascii()


SPELLINGS = {
    "as it is": SECRET,
    "percent": quote(SECRET, safe=""),
    "percent, in lower case": re.sub("%..", lambda escape: escape[0].lower(), quote(SECRET, safe="")),
    "percent, as in a path": quote(SECRET),
    "percent, as in a form": quote_plus(SECRET),
    "JSON": json.dumps(SECRET)[1:-1],
    "JSON in UTF-8": json.dumps(SECRET, ensure_ascii=False)[1:-1],
    "JSON, with its slashes escaped": json.dumps(SECRET)[1:-1].replace("/", "\\/"),
    "Python": repr(SECRET)[1:-1],
    "Python in ASCII": ascii(SECRET)[1:-1],
    "HTML": html.escape(SECRET),
}


@pytest.mark.parametrize("echoed", SPELLINGS.values(), ids=SPELLINGS)
def test_a_secret_is_hidden_in_every_spelling(tmp_path: Path, echoed: str) -> None:
    log = log_at(tmp_path, SECRET)

    log.write(f"before {echoed} after")

    assert written(tmp_path / "log")[0].endswith("before [secret] after")


@pytest.mark.parametrize("padding", ["", "x" * 560, "x" * 590, "x" * 595, " " * 2380])
@pytest.mark.parametrize("secret", ["S3cr3tS3cr3tS3cr3tS3cr3t", "two  blanks  in  a  row"])
@pytest.mark.parametrize("known", [True, False])
def test_no_part_of_a_secret_comes_through_a_long_answer(
    tmp_path: Path, padding: str, secret: str, known: bool
) -> None:
    """known: the answer has the form that Graph documents."""
    log = log_at(tmp_path, secret)
    graph = relay.Graph(str(tmp_path), load_config(relay), load_secrets(relay, API_SECRET=secret), log)
    said = padding + secret
    body = json.dumps({"error": {"code": "", "message": said}}) if known else said

    relay.log_failure(log, graph.send_failure(relay.Answer(400, {}, body.encode())))

    assert secret[:5] not in (tmp_path / "log").read_text()


def test_a_secret_is_hidden_in_a_traceback_and_on_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = log_at(tmp_path, SECRET)
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        problem = relay.as_failure(error)

    relay.log_failure(log, problem)
    finish(relay, problem, log)

    assert "Ab~8Q" not in (tmp_path / "log").read_text() + capfd.readouterr().err


def test_a_record_that_the_log_does_not_take_goes_to_standard_error_without_secrets(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = relay.Log()
    log.path = "/nonexistent/log"
    log.hide(SECRET)

    log.write(f"before {SECRET} after")
    finish(relay, None, log)

    assert "before [secret] after" in capfd.readouterr().err
