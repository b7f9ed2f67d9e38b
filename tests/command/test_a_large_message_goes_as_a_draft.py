"""A message that is too large for one request to Graph goes as a draft, and arrives complete."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
from conftest import Deliver
from helpers.answers import error_code, provided
from helpers.home import RelayHome
from helpers.large_mail import MB, encoded, file_part, message, multipart, noise, scan, text_part
from helpers.mail import mail
from helpers.state import WINDOW, kept_progress, open_slots, put_calls, read
from sandbox import Accepted, Answer, Sandbox, received_of

RECIPIENT = "to@external.com"
# Slightly more than fits into one request: 4,000,000 bytes in base64, twice.
LARGE = 2.3
PICTURE = b"\x89PNG\r\n\x1a\n" + noise(5000)
TOO_LONG = "The maximum request length supported is 4MB."


def made(sandbox: Sandbox) -> list[str]:
    """Return the steps that were taken, without the one for the token."""
    return [request.role for request in sandbox.requests if request.role != "token"]


def arrived(sandbox: Sandbox, home: RelayHome) -> Accepted:
    """Return the one message, which has left nothing behind."""
    (accepted,) = sandbox.accepted
    assert sandbox.drafts == {} and kept_progress(home) == []
    return accepted


def expect_refused(sandbox: Sandbox, home: RelayHome, dsn: str, *texts: str) -> None:
    """Assert that nobody got anything except the notice, which says why, and that nothing is left behind."""
    assert sandbox.mailed.keys() <= {"admin@domain.com"}
    assert sandbox.drafts == {} and kept_progress(home) == []
    said = home.log()
    assert f": {dsn} " in said
    for text in texts:
        assert text in said


@pytest.mark.parametrize(("megabytes", "ranges"), [(LARGE, 0), (5, 2), (12, 4)])
def test_a_scan_arrives_as_it_was(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, megabytes: float, ranges: int
) -> None:
    given = scan(megabytes)
    assert deliver(given, RECIPIENT) == ("sent", "2.0.0", 0, b"")
    accepted = arrived(sandbox, home)
    got, whole = accepted.received, received_of(given)
    assert accepted.via == "draft" and accepted.saved
    assert got.texts == whole.texts
    assert got.attachments == whole.attachments
    assert (got.sender, got.to, got.cc, got.bcc) == ("alerts@domain.com", [RECIPIENT], [], [])
    assert (got.subject, got.headers["message-id"]) == ("Test", ["<scan-1@copier.domain.com>"])
    upload = ["session", *["range"] * ranges] if ranges else ["attach"]
    assert made(sandbox) == ["draft", *upload, "send"]
    assert f"id={accepted.id!r} message_id='<scan-1@copier.domain.com>'" in home.log()


def test_all_parts_arrive(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    page = '<p>Seite 1 für Übersicht: <img src="cid:logo@copier"></p>\n'
    related = multipart(
        text_part(page, "html"), file_part(PICTURE, "logo.png", "image/png", "logo@copier"), kind="related",
        boundary="=_rel",
    )  # fmt: skip
    alternative = multipart(text_part("Seite 1\n"), related, kind="alternative", boundary="=_alt")
    files = [
        file_part(noise(int(3.2 * MB), 2), "=?utf-8?q?gro=C3=9F.pdf?="),
        file_part(b"a;b\r\n", "list.csv", "text/csv"),
        file_part(noise(100_000, 3), "small.bin", "application/octet-stream"),
        file_part(noise(int(3.1 * MB), 4), "second.tif", "image/tiff"),
    ]
    fields = {"X_Device": "copier 7", "In_Reply_To": "<a@b>", "Importance": "high"}
    given = message(multipart(alternative, *files), **fields)
    assert deliver(given, RECIPIENT).verdict == "sent"
    got, whole = arrived(sandbox, home).received, received_of(given)
    assert got.texts == {"html": whole.texts["html"]} == {"html": page.rstrip()}
    assert got.attachments == whole.attachments
    assert [part.inline for part in got.attachments] == [True, False, False, False, False]
    assert {name: got.headers[name] for name in ("x-device", "in-reply-to", "importance")} == {
        "x-device": ["copier 7"],
        "in-reply-to": ["<a@b>"],
        "importance": ["high"],
    }
    # The second large one is just below the size at which Graph wants a session, and Graph says so.
    assert [request.status for request in sandbox.requests if request.role == "session"] == [201, 400]
    assert (made(sandbox).count("range"), made(sandbox).count("attach")) == (1, 4)


def test_it_goes_to_the_envelope_and_to_nobody_else(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    given = scan(
        LARGE,
        From='"Copier, 2nd floor" <alerts@domain.com>',
        To="One <to@external.com>, other@not.test",
        Cc="cc@x.test, gone@not.test",
        Bcc="hidden@not.test",
        Reply_To="Help <help@domain.com>",
    )
    assert deliver(given, "bcc@x.test", RECIPIENT, "cc@x.test").verdict == "sent"
    got = arrived(sandbox, home).received
    assert (got.to, got.cc, got.bcc) == ([RECIPIENT], ["cc@x.test"], ["bcc@x.test"])
    assert (got.sender, got.reply_to) == ("alerts@domain.com", ["help@domain.com"])
    assert got.names == {
        "alerts@domain.com": "Copier, 2nd floor", RECIPIENT: "One", "help@domain.com": "Help",
    }  # fmt: skip


def test_a_crowd_gets_it_each_once(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    crowd = [f"r{number}@x.test" for number in range(600)]
    home.configure(RATE_LIMIT_PER_MINUTE=2)
    assert deliver(scan(LARGE), RECIPIENT, *crowd).verdict == "sent"
    assert [len(accepted.recipients) for accepted in sandbox.accepted] == [500, 101]
    assert [accepted.to for accepted in sandbox.accepted] == [[RECIPIENT], []]
    assert set(sandbox.mailed.values()) == {1} and len(sandbox.mailed) == 601
    whole = received_of(scan(LARGE))
    assert all(accepted.received.attachments == whole.attachments for accepted in sandbox.accepted)
    assert sandbox.drafts == {} and kept_progress(home) == []


def test_only_sending_takes_a_place(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """The draft is created while the window is full, and waits there, ready."""
    home.configure(RATE_LIMIT_PER_MINUTE=2)
    assert deliver(mail(), RECIPIENT).verdict == "sent"
    assert deliver(scan(LARGE), RECIPIENT).verdict == "sent"
    assert len(read(home, WINDOW)["calls"]) == 2
    assert deliver(mail(), RECIPIENT).dsn == "4.4.5"


def test_it_waits_for_a_place_with_its_draft(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=1)
    put_calls(home, [0.0])
    assert deliver(scan(LARGE), RECIPIENT).dsn == "4.4.5"
    assert sandbox.accepted == []
    open_slots(home)
    assert deliver(scan(LARGE), RECIPIENT).verdict == "sent"
    arrived(sandbox, home)


def test_a_site_may_refuse_large_messages(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(LARGE_MESSAGES="refuse")
    delivery = deliver(scan(2.5), RECIPIENT)
    assert (delivery.verdict, delivery.dsn) == ("bounced", "5.3.4")
    assert made(sandbox) == ["sendMail"]
    expect_refused(sandbox, home, "5.3.4", "the message is too large for Graph")
    # Nor is a draft made when Graph reports the size.
    sandbox.answer("sendMail", provided("graph/request-entity-too-large"))
    assert deliver(scan(1), RECIPIENT).dsn == "5.3.4"
    assert "draft" not in made(sandbox)


@pytest.mark.parametrize(("keeps", "dsn"), [(False, "5.7.1"), (True, "4.7.1")])
def test_without_the_permission_small_mail_goes_on(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, keeps: bool, dsn: str
) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=keeps)
    sandbox.permissions = {"Mail.Send"}
    delivery = deliver(scan(LARGE), RECIPIENT)
    assert (delivery.verdict, delivery.dsn) == ("deferred" if keeps else "bounced", dsn)
    assert "HTTP 403 ErrorAccessDenied" in delivery.text
    assert "grant Mail.ReadWrite as well" in delivery.text
    assert deliver(mail(Subject="Small"), RECIPIENT, queue_id="Small").verdict == "sent"
    notice, small = sandbox.accepted
    assert notice.to == ["admin@domain.com"] and "Mail.ReadWrite" in notice.raw.decode()
    assert small.subject == "Small"
    assert sandbox.drafts == {}
    assert bool(kept_progress(home)) == keeps
    sandbox.permissions.add("Mail.ReadWrite")
    if keeps:
        assert deliver(scan(LARGE), RECIPIENT).verdict == "sent"
        assert [accepted.via for accepted in sandbox.accepted] == ["mime", "mime", "draft"]
        assert kept_progress(home) == []


def test_what_a_draft_would_break_is_refused(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    header = b'Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name="smime.p7m"\n'
    secret = header + b"Content-Transfer-Encoding: base64\n\n" + encoded(noise(int(LARGE * MB)))
    delivery = deliver(message(secret), RECIPIENT)
    assert (delivery.verdict, delivery.dsn) == ("bounced", "5.3.4")
    assert "a draft would break its S/MIME signature or encryption" in delivery.text
    expect_refused(sandbox, home, "5.3.4")
    assert made(sandbox) == ["sendMail"]


def test_what_the_mailbox_does_not_take_is_refused(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    sandbox.message_limit = 4_500_000
    delivery = deliver(scan(5), RECIPIENT)
    assert (delivery.verdict, delivery.dsn) == ("bounced", "5.3.4")
    assert "HTTP 413 ErrorMessageSizeExceeded" in delivery.text
    assert "Set-Mailbox -MaxSendSize 150MB -MaxReceiveSize 150MB" in delivery.text
    assert made(sandbox)[:5] == ["draft", "session", "range", "range", "delete"]
    expect_refused(sandbox, home, "5.3.4")


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    "answer",
    [provided("graph/request-entity-too-large"), provided("graph/request-length-4mb", message=TOO_LONG)],
    ids=["413", "400"],
)
def test_a_request_that_is_too_long_is_made_as_a_draft(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer, kept: bool
) -> None:
    home.configure(SAVE_TO_SENT_ITEMS=kept)
    sandbox.answer("sendMail", answer)
    assert deliver(scan(1), RECIPIENT).verdict == "sent"
    accepted = arrived(sandbox, home)
    assert made(sandbox) == ["sendMail", "draft", "attach", "send"]
    assert accepted.received.attachments == received_of(scan(1)).attachments


@pytest.mark.parametrize(("megabytes", "name"), [(1, "request-too-large"), (0.1, "request-entity-too-large")])
def test_a_message_that_is_too_large_is_not(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, megabytes: float, name: str
) -> None:
    answer = provided(f"graph/{name}")
    sandbox.answer("sendMail", answer)
    assert deliver(scan(megabytes), RECIPIENT).dsn == "5.3.4"
    expect_refused(sandbox, home, "5.3.4", error_code(answer))
    assert "draft" not in made(sandbox)


def test_sent_items_can_be_spared_small_messages(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(SAVE_TO_SENT_ITEMS=False)
    assert deliver(scan(0.1, Cc="cc@x.test"), RECIPIENT, "cc@x.test", "bcc@x.test").verdict == "sent"
    (small,) = sandbox.accepted
    assert (small.via, small.saved) == ("json", False)
    assert (small.to, small.cc, small.bcc) == ([RECIPIENT], ["cc@x.test"], ["bcc@x.test"])
    assert small.received.attachments == received_of(scan(0.1)).attachments
    # Messages that a draft would break are sent as they came, and large ones are kept anyway.
    report = multipart(text_part("Not delivered.\n"), kind="report")
    assert deliver(message(report), RECIPIENT).verdict == "sent"
    assert deliver(scan(LARGE), RECIPIENT).verdict == "sent"
    assert [(accepted.via, accepted.saved) for accepted in sandbox.accepted[1:]] == [
        ("mime", True),
        ("draft", True),
    ]


def test_more_parts_than_a_draft_takes_go_as_they_are(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """A small message that is not to be kept in Sent Items."""
    home.configure(SAVE_TO_SENT_ITEMS=False)
    files = (file_part(b"x", f"{number}.txt", "text/plain") for number in range(260))
    assert deliver(message(multipart(text_part("Many.\n"), *files)), RECIPIENT).verdict == "sent"
    (accepted,) = sandbox.accepted
    assert accepted.via == "mime" and len(accepted.received.attachments) == 260


def test_what_is_larger_as_json_goes_as_it_came(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(SAVE_TO_SENT_ITEMS=False)
    text = text_part("ä" * 450_000 + "\n")
    given = message(multipart(text, file_part(noise(int(1.4 * MB)))))
    assert deliver(given, RECIPIENT).verdict == "sent"
    assert sandbox.accepted[0].received.attachments == received_of(given).attachments


def secrets_of(sandbox: Sandbox) -> set[str]:
    """Return the tokens in the upload URLs that Graph has given out."""
    return set(re.findall(r"authtoken=([^&\s]+)", " ".join(request.path for request in sandbox.requests)))


def test_the_right_to_an_upload_is_kept_secret(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("range", Answer(), Answer(503), Answer(action="reset-in-request"))
    sandbox.answer("progress", Answer(), Answer(action="truncate"))
    for _ in range(4):
        delivery = deliver(scan(5), RECIPIENT)
        secret = secrets_of(sandbox)
        assert secret
        for file in home.path.iterdir():
            if file.is_file() and file.name.startswith(".progress-"):
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
            elif file.is_file():
                assert not [one for one in secret if one in file.read_text(errors="replace")], file.name
        assert not [one for one in secret if one in delivery.text]
        state = read(home, WINDOW)
        state.pop("paused", None), state.pop("paused_until", None)
        home.put(WINDOW, json.dumps(state).encode())
        if delivery.verdict == "sent":
            break
    assert delivery.verdict == "sent"
    arrived(sandbox, home)
    uploads = [request for request in sandbox.requests if request.role in ("range", "progress")]
    assert len(uploads) > 4
    assert [request for request in uploads if "authorization" in request.headers] == []
    others = [request for request in sandbox.requests if request.role in ("draft", "session", "look", "send")]
    assert {request.headers["prefer"] for request in others} == {'IdType="ImmutableId"'}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_strange_answer_gives_no_right_away(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, scheme: str
) -> None:
    """An answer that is cut off, or that names an unsafe location."""
    end = '"}' if scheme == "http" else ""
    body = f'{{"uploadUrl":"{scheme}://localhost:9/x?authtoken=S3cretRight{end}'
    sandbox.answer("session", Answer(201, {"Content-Type": "application/json"}, body.encode()))
    delivery = deliver(scan(5), RECIPIENT)
    assert (delivery.verdict, delivery.dsn) == ("deferred", "4.5.0")
    assert "S3cretRight" not in delivery.text + home.log() + json.dumps(read(home, WINDOW))
    assert deliver(scan(5), RECIPIENT).verdict == "sent"
    arrived(sandbox, home)


def test_a_delivery_of_one_call_keeps_no_progress(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even for the time of the call."""
    found: list[list[Path]] = []

    def note(message: Accepted) -> None:
        found.append(kept_progress(home))

    monkeypatch.setattr(sandbox, "on_accepted", note)
    assert deliver(scan(1), RECIPIENT).verdict == "sent"
    assert deliver(scan(LARGE), RECIPIENT).verdict == "sent"
    small, large = found
    assert (len(small), len(large)) == (0, 1)
    assert kept_progress(home) == []


@pytest.mark.parametrize("names", [True, False])
def test_a_recipient_that_is_refused_costs_the_others_nothing(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, names: bool
) -> None:
    sandbox.bad_recipients, sandbox.names_bad_recipients = {"bad@x.test"}, names
    delivery = deliver(scan(LARGE), RECIPIENT, "bad@x.test", "bcc@x.test", client="10.9.9.9")
    assert delivery.verdict == "sent"
    assert sandbox.mailed == {RECIPIENT: 1, "bcc@x.test": 1, "admin@domain.com": 1}
    assert all(a.received.attachments for a in sandbox.accepted if a.via == "draft")
    assert "bad@x.test" in sandbox.accepted[-1].raw.decode()
    assert sandbox.drafts == {} and kept_progress(home) == []
