"""The relay's log, as an admin reads it."""

from __future__ import annotations

import re

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.home import LOG, RelayHome
from helpers.mail import mail
from sandbox import Answer, Sandbox, graph_error

STAMP = r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d\] "


def records(home: RelayHome) -> list[str]:
    """Return the lines of the log without their time stamps, which every line must have."""
    lines = home.log().splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    return [re.sub(STAMP, "", line, count=1) for line in lines]


def test_a_delivery_as_the_guide_shows_it(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    message = mail(Cc="cc@external.com", Subject="[RELAY TEST] BCC Classification")
    deliver(message, "bcc@domain.com", "to@external.com", "cc@external.com", client="10.1.1.9")
    processing, sender, classified, delivered = records(home)
    assert processing == (
        "PROCESSING: sender='alerts@domain.com'"
        " recipients=['bcc@domain.com', 'to@external.com', 'cc@external.com']"
        " client_ip='10.1.1.9' queue_id='4ZxTestQid'"
    )
    assert "'alerts@domain.com'" in sender
    assert classified == (
        "CLASSIFIED: to=['to@external.com'] cc=['cc@external.com'] bcc=['bcc@domain.com']"
        " (mime_to=['to@external.com'] mime_cc=['cc@external.com']) queue_id='4ZxTestQid'"
    )
    assert delivered == (
        "DELIVERED: from='alerts@domain.com' to=['to@external.com'] cc=['cc@external.com']"
        " bcc=['bcc@domain.com'] subject='[RELAY TEST] BCC Classification' queue_id='4ZxTestQid'"
        f" provider='graph' id='{sandbox.accepted[0].id}'"
    )


def test_ses_is_logged_with_its_message_id(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    deliver(mail(), "to@external.com")
    assert f" provider='ses' id='{sandbox.accepted[0].id}'" in records(ses)[-1]


@pytest.mark.parametrize(
    "message",
    [mail(To=None), mail(To="someone@else.com"), mail(To="undisclosed-recipients:;"), b"no header\n", b""],
    ids=["no To", "others", "undisclosed", "no header", "empty"],
)
def test_no_visible_recipient(sandbox: Sandbox, home: RelayHome, deliver: Deliver, message: bytes) -> None:
    delivery = deliver(message, "to@external.com", "bcc@domain.com")
    assert delivery[:3] == ("bounced", "5.7.1", 1)
    assert delivery.text.startswith("5.7.1 ")
    assert "REJECTED (no visible recipient)" in delivery.text
    rejected = [line for line in records(home) if line.startswith("REJECTED (no visible recipient)")]
    assert len(rejected) == 1
    for part in ("'alerts@domain.com'", "['to@external.com', 'bcc@domain.com']"):
        assert part in rejected[0]
    if message.startswith(b"From: "):
        assert r"From: alerts@domain.com\r\n" in rejected[0]
    # The provider got the alert.
    assert [accepted.to for accepted in sandbox.accepted] == [["admin@domain.com"]]
    assert "no recipient is named in To or Cc" in sandbox.accepted[0].subject


def test_a_forged_line_in_a_header_stays_in_its_record(home: RelayHome, deliver: Deliver) -> None:
    forged = "[2026-01-01T00:00:00+00:00] DELIVERED: from='x'"
    deliver(mail(Subject=f"x\n {forged}"), "to@external.com")
    deliver(mail(Subject=f"x\n\t{forged}", To="y@y.com"), "to@external.com")
    deliver(mail(), "to@external.com", sender=f"x\n{forged}\r{forged}@domain.com")
    lines = records(home)
    assert not [line for line in home.log().split("\n") if line.startswith(forged)]
    assert sum(line.startswith("DELIVERED: from='x'") for line in lines) == 0
    assert len([line for line in lines if line.startswith("DELIVERED")]) == 2


def test_a_transient_failure_is_one_line(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("sendMail", Answer(503, body=b"busy"))
    deliver(mail(), "to@external.com")
    assert [line for line in records(home) if "Graph sendMail failed" in line] == records(home)[-1:]
    assert "Traceback" not in home.log()


def test_a_permanent_failure_has_its_traceback(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("sendMail", provided("graph/mime-invalid"))
    deliver(mail(), "to@external.com")
    assert "Traceback (most recent call last)" in home.log()
    assert len(records(home)) > 6


def test_what_the_relay_itself_refuses_has_none(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """Nobody has to look into this."""
    assert deliver(mail(To=None), "to@external.com").dsn == "5.7.1"
    assert deliver(mail(), "no address").dsn == "5.1.3"
    home.configure(LARGE_MESSAGES="refuse")
    assert deliver(mail(b"x" * 3_500_000), "to@external.com").dsn == "5.3.4"
    assert home.log().count(" BOUNCED: ") == 3
    assert "Traceback" not in home.log()


@pytest.mark.parametrize(
    ("name", "dsn"), [("message-too-large-413", "5.3.4"), ("invalid-recipients", "5.1.3")]
)
def test_the_same_verdict_of_the_provider_has_its_traceback(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, name: str, dsn: str
) -> None:
    sandbox.answer("sendMail", provided(f"graph/{name}"))
    assert deliver(mail(), "to@external.com").dsn == dsn
    assert "Traceback (most recent call last)" in home.log()


def test_the_log_can_lie_elsewhere(home: RelayHome, deliver: Deliver) -> None:
    home.configure(LOG_FILE_PATH=str(home.path / "other.log"))
    deliver(mail(), "to@external.com")
    assert "DELIVERED" in (home.path / "other.log").read_text()
    assert home.log() == ""


def test_the_log_is_appended_to(home: RelayHome, deliver: Deliver) -> None:
    deliver(mail(), "to@external.com")
    first = home.log()
    deliver(mail(), "to@external.com")
    assert home.log().startswith(first)
    assert len(home.log()) > len(first)


@pytest.mark.parametrize("fault", ["directory", "no permission", "no such directory", "full"])
def test_an_unwritable_log_goes_to_standard_error(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, fault: str
) -> None:
    log = home.path / LOG
    if fault == "directory":
        log.mkdir()
    elif fault == "no permission":
        log.touch(mode=0o600)
    else:
        home.configure(LOG_FILE_PATH="/nonexistent/log" if fault == "no such directory" else "/dev/full")
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("sent", "2.0.0", 0)
    assert len(sandbox.accepted) == 1
    assert delivery.text.startswith("2.0.0 ")
    for word in ("not writable", "PROCESSING", "CLASSIFIED", "DELIVERED"):
        assert word in delivery.text


@pytest.mark.parametrize(
    ("status", "start"), [(503, "4.3.2 "), (400, "5.6.0 ")], ids=["transient", "permanent"]
)
def test_an_unwritable_log_changes_no_verdict(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int, start: str
) -> None:
    (home.path / LOG).mkdir()
    sandbox.answer("sendMail", graph_error(status, "ErrorMimeContentInvalid", "No message."))
    delivery = deliver(mail(), "to@external.com")
    assert delivery.verdict == ("deferred" if status == 503 else "bounced")
    assert delivery.text.startswith(start + "Graph sendMail failed")
    assert "PROCESSING" in delivery.text


@pytest.mark.parametrize("where", ["token", "sendMail"])
def test_secrets_that_a_provider_echoes_stay_out(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, where: str
) -> None:
    deliver(mail(), "to@external.com")
    (token,) = sandbox.tokens
    if where == "token":
        (home.path / ".graph-token-cache").unlink()
        sandbox.answer("token", Answer(400, body=b"you said client-secret"))
    else:
        sandbox.answer("sendMail", provided("graph/mime-invalid", message=f"you said Bearer {token}"))
    delivery = deliver(mail(), "to@external.com")
    assert "you said" in delivery.text
    notices = "".join(message.raw.decode() for message in sandbox.accepted)
    for text in (delivery.text, home.log(), notices, (home.path / ".rate-limit-state").read_text()):
        assert "client-secret" not in text
        assert token not in text


def test_every_line_of_a_message_has_its_queue_id(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """Several processes write at the same time, so neighbouring lines may belong to other messages."""
    home.configure(UNKNOWN_KEY=1, RATE_LIMIT_PER_MINUTE=28)
    assert (
        deliver(mail(From=None), "to@external.com", sender="x@y.org", queue_id="4zReplaced").verdict == "sent"
    )
    sandbox.answer("sendMail", provided("graph/mime-invalid"))
    assert deliver(mail(), "to@external.com", "no address", queue_id="4zBounced").verdict == "bounced"
    assert deliver(mail(To=None), "to@external.com", queue_id="4zRejected").verdict == "bounced"
    sandbox.answer("sendMail", Answer(503))
    assert deliver(mail(), "to@external.com", queue_id="4zDeferred").verdict == "deferred"
    home.put(".notice-state.new", b"")
    (home.path / ".rate-limit-state").unlink()
    (home.path / ".rate-limit-state").mkdir()
    deliver(mail(), "to@external.com", queue_id="4zOdd")
    keywords = set()
    for line in home.log().splitlines():
        [queue_id] = set(re.findall(r"queue_id='(\w+)'", line))
        assert queue_id in ("4zReplaced", "4zBounced", "4zRejected", "4zDeferred", "4zOdd")
        keywords.update(re.findall(r"^\[\S+\] ([A-Z]+)", line))
    wanted = {"CONFIG", "PROCESSING", "SENDER", "CLASSIFIED", "DELIVERED", "BOUNCED", "DEFERRED", "REJECTED"}
    assert wanted | {"NOTICE", "WARNING"} <= keywords
    assert "Traceback (most recent call last): queue_id='4zBounced'" in home.log()


def test_delivered_has_the_message_id(home: RelayHome, deliver: Deliver) -> None:
    """Exchange's message trace searches by it."""
    deliver(mail(Message_ID="<a.b@printer.local>"), "to@external.com")
    assert "DELIVERED: " in home.log()
    assert home.log().splitlines()[-1].endswith(" message_id='<a.b@printer.local>'")
