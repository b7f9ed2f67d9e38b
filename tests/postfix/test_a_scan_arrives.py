"""A scan that is too large for one call passes SMTP, Postfix and the relay unchanged, and arrives once."""

from __future__ import annotations

import signal
import threading

from helpers.home import RelayHome
from helpers.large_mail import scan
from helpers.postfix import PrivatePostfix, signal_process
from helpers.received import received_of
from helpers.script import load_script
from sandbox import Answer, Recorded, Sandbox

SCAN = scan(12)
DEVICE, SENDER, RECIPIENTS = "127.0.0.35", "network@domain.com", ["to@external.com", "bcc@domain.com"]
# The process's name in proc(5), which is cut to 15 characters.
RELAY = "postfix-api-rel"


def submit(postfix: PrivatePostfix) -> None:
    postfix.smtp(SENDER, RECIPIENTS, SCAN.decode(), source_address=DEVICE)


def uploads(sandbox: Sandbox) -> list[Recorded]:
    """Return the pieces of the file that have arrived so far."""
    return [request for request in sandbox.requests if request.role == "range"]


def require_one_delivery(home: RelayHome, sandbox: Sandbox) -> None:
    """Assert that the provider has sent the scan once, unchanged, from one draft, and that nothing is left
    over."""
    [message] = sandbox.accepted
    sent, got = received_of(SCAN), message.received
    assert (message.via, got.to, got.bcc) == ("draft", RECIPIENTS[:1], RECIPIENTS[1:])
    assert (got.texts, got.attachments) == (sent.texts, sent.attachments)
    assert [request.role for request in sandbox.requests].count("draft") == 1
    assert sandbox.drafts == {}
    assert load_script().progress_files(home.path) == []


def test_a_scan_of_12_mb_arrives_as_it_was(
    home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix
) -> None:
    submit(postfix)
    postfix.wait_until_empty()
    require_one_delivery(home, sandbox)
    assert {outcome.status for outcome in postfix.outcomes()} == {"sent"}


def test_the_next_attempt_goes_on_where_a_kill_has_ended_an_upload(
    home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix
) -> None:
    gate = threading.Event()
    sandbox.answer("range", Answer(), Answer(gate=gate))
    submit(postfix)
    postfix.wait_for("half of the upload", lambda: len(uploads(sandbox)) == 2)
    killed = [pid for pid, name in postfix.programs().items() if name == RELAY]
    assert len(killed) == 1
    signal_process(killed[0], signal.SIGKILL)
    gate.set()
    postfix.wait_until_empty()
    require_one_delivery(home, sandbox)
    pieces = [request.headers["content-range"] for request in uploads(sandbox)]
    assert len(pieces) == len(set(pieces)) == 4
    assert [outcome.status for outcome in postfix.outcomes()] == ["deferred"] * 2 + ["sent"] * 2
