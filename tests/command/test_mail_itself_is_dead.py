"""When no mail goes out, the admin is notified in other ways: when it begins, once a day, and when it is
over."""

from __future__ import annotations

import email.header
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.by_hand import by_hand, in_days, make_sound
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.script import change_constants
from helpers.state import NOTICES, WINDOW, held_notices, pass_by, pass_by_incident, read
from helpers.waiting import processes, wait_until
from helpers.webhook import SECRET_PATH, SECRET_QUERY, Post, Webhook
from sandbox import Accepted, Answer, Sandbox, graph_error

ALERTS, NETWORK = "alerts@domain.com", "network@domain.com"
MINUTES = 10
AGAIN_SECONDS = 300
DAY_SECONDS = 86400
AWAY = Answer(503, body=b"out of <!channel> order `@all` & [so](https://x.org) on", times=None)
EXPIRED = provided("entra/secret-expired")._replace(times=None)
DENIED = provided("graph/access-denied")._replace(times=None)
BAD_RECIPIENT = provided("graph/invalid-recipients")._replace(times=None)
UNKNOWN = graph_error(400, "NeverHeardOf", "What?")._replace(times=None)


@pytest.fixture
def webhook(sandbox: Sandbox) -> Iterator[Webhook]:
    """A webhook whose certificate is signed by the sandbox's authority."""
    with Webhook(sandbox.context) as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def watched(home: RelayHome, webhook: Webhook) -> Iterator[RelayHome]:
    """The home with the shipped settings and the webhook; none of its processes remains at the end."""
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    home.secrets(ADMIN_WEBHOOK_URL=webhook.url)
    # A machine that stalls for seconds must not look like an absent webhook.
    change_constants(home, WEBHOOK_SECONDS=50)
    yield home
    webhook.ending.set()
    settle(home)


def settle(home: RelayHome) -> None:
    """Wait until the processes that report have ended."""
    wait_until(lambda: not processes(home))


def send(deliver: Deliver, mailbox: str = ALERTS, **options: str) -> Delivery:
    return deliver(mail(From=mailbox), "to@external.com", sender=mailbox, **options)


def fail(home: RelayHome, deliver: Deliver, number: int = 1) -> None:
    """Defer this number of messages, and wait for the reports about them."""
    for _ in range(number):
        # Any pause or refusal of a mailbox is over.
        pass_by(home, 4000)
        assert send(deliver).verdict == "deferred"
        # The reporting process reads the state without its lock, and it is written here in place.
        settle(home)


def to_admin(sandbox: Sandbox) -> list[Accepted]:
    return [message for message in sandbox.accepted if message.to == ["admin@domain.com"]]


def again(sandbox: Sandbox) -> None:
    """Make the provider work again."""
    sandbox._answers.clear()


def open_incident(sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer = AWAY) -> None:
    sandbox.answer("sendMail", answer)
    fail(home, deliver)
    pass_by_incident(home, MINUTES * 60)
    fail(home, deliver)


def test_an_event_is_told_once(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    began = time.time()
    sandbox.answer("sendMail", AWAY)
    fail(watched, deliver, 3)
    pass_by_incident(watched, MINUTES * 60 - 60)
    fail(watched, deliver)
    assert webhook.posts == []
    assert json.loads(by_hand(watched, "--status", "--format", "json").stdout)["window"]["incident"] is None
    pass_by_incident(watched, 60)
    fail(watched, deliver, 3)
    (post,) = webhook.posts
    assert post.event == "opened"
    assert post.json["text"].startswith("No mail goes out: the provider cannot take the message now (")
    told = post.json["incident"]
    assert abs(told["since"] - (began - MINUTES * 60)) < 60
    assert (told["attempts"], told["cause"], told["status"]) == (5, "provider fault", "4.3.2")
    assert "HTTP 503 out of" in told["reason"]
    # No mail can report it.
    assert sandbox.accepted == []
    status = by_hand(watched, "--status")
    assert status.returncode == 2
    assert "no mail has gone out since " in status.stdout.splitlines()[0]
    assert ", 7 attempts failed; reported to: log and webhook" in status.stdout
    again(sandbox)
    for _ in range(3):
        assert send(deliver).verdict == "sent"
    settle(watched)
    assert webhook.events == ["opened", "recovered"]
    (notice,) = to_admin(sandbox)
    assert notice.subject == (
        "[postfix-api-relay] Mail goes out again; the cause was: the provider cannot take the message now"
    )
    text = notice.raw.decode()
    for word in (
        "Mail goes out again.",
        "Since:",
        ", until ",
        "Failed attempts: 7",
        "The fix was: see",
        "4.3.2",
        "HTTP 503",
    ):
        assert word in text
    assert not {"incident", "recovered"} & read(watched, WINDOW).keys()
    assert "incident:" not in by_hand(watched, "--status").stdout
    assert watched.log().count("INCIDENT: No mail goes out: ") == 1
    assert watched.log().count("INCIDENT: Mail goes out again; the cause was: ") == 1


@pytest.mark.parametrize("defer", [True, False])
def test_credentials_at_once(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver, defer: bool
) -> None:
    watched.configure(DEFER_ON_CREDENTIAL_FAILURE=defer)
    sandbox.answer("token", EXPIRED)
    for _ in range(3):
        assert send(deliver).verdict == ("deferred" if defer else "bounced")
    settle(watched)
    # Bounced mail is reported as well.
    assert webhook.events == ["opened", *["notice"] * (not defer)]
    post = webhook.posts[0]
    assert "API_SECRET has expired" in post.json["incident"]["cure"]
    assert ("stays in the queue" if defer else "is returned to its senders") in post.json["text"]
    again(sandbox)
    # The file changes, as when an admin renews the secret.
    watched.secrets(ADMIN_WEBHOOK_URL=webhook.url, API_EXPIRATION_DATE="2099-01-01")
    assert send(deliver).verdict == "sent"
    settle(watched)
    assert (webhook.events[0], webhook.events[-1], len(webhook.posts)) == ("opened", "recovered", 3 - defer)
    recovered = [notice for notice in to_admin(sandbox) if "AADSTS7000222" in notice.raw.decode()]
    assert len(recovered) == 1
    assert recovered[0].subject.startswith(
        "[postfix-api-relay] Mail goes out again; the cause was: the provider refuses the credentials"
    )
    assert (b"was returned to its senders" in recovered[0].raw) == (not defer)


def test_one_that_is_over_before_it_is_told_is_not_told(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    """The notice about the one bounced message is accepted."""
    watched.configure(DEFER_ON_CREDENTIAL_FAILURE=False)
    sandbox.answer("token", EXPIRED._replace(times=1))
    assert send(deliver).verdict == "bounced"
    settle(watched)
    assert [notice.subject[:36] for notice in to_admin(sandbox)] == ["[postfix-api-relay] Permanent failur"]
    assert webhook.posts == []
    assert not {"incident", "recovered"} & read(watched, WINDOW).keys()
    assert send(deliver).verdict == "sent"
    assert len(to_admin(sandbox)) == 1


@pytest.mark.parametrize("answer", [BAD_RECIPIENT, UNKNOWN], ids=["bounced", "deferred"])
def test_a_failure_of_the_message_s_own_opens_and_ends_nothing(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver, answer: Answer
) -> None:
    watched.configure(DEFER_ON_CREDENTIAL_FAILURE=True, INCIDENT_AFTER_MINUTES=0)
    sandbox.answer("sendMail", answer)
    assert send(deliver).verdict in ("bounced", "deferred")
    watched.configure(DEFER_ON_CREDENTIAL_FAILURE=True, INCIDENT_AFTER_MINUTES=0, RATE_LIMIT_PER_MINUTE=1)
    assert "rate limit reached" in send(deliver).text
    assert "incident" not in read(watched, WINDOW)
    again(sandbox)
    watched.configure(DEFER_ON_CREDENTIAL_FAILURE=True, INCIDENT_AFTER_MINUTES=0)
    sandbox.answer("sendMail", AWAY)
    fail(watched, deliver)
    before = read(watched, WINDOW)["incident"]
    again(sandbox)
    sandbox.answer("sendMail", UNKNOWN)
    assert send(deliver, NETWORK).verdict == "deferred"
    settle(watched)
    assert read(watched, WINDOW)["incident"] == before
    assert webhook.events == ["opened"]


def test_still_there_once_a_day(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    open_incident(sandbox, watched, deliver)
    pass_by_incident(watched, DAY_SECONDS - 60)
    fail(watched, deliver)
    assert webhook.events == ["opened"]
    for day in (1, 2):
        pass_by_incident(watched, DAY_SECONDS if day > 1 else 60)
        fail(watched, deliver, 2)
        assert webhook.events == ["opened", *["still"] * day]
    assert webhook.posts[-1].json["text"].startswith("Still no mail goes out: ")


def test_a_mailbox_of_which_a_mail_tells_is_no_incident(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    """Mail of the default mailbox goes out; nobody else sends any."""
    sandbox.answer("sendMail", DENIED._replace(times=1))
    assert send(deliver, NETWORK).verdict == "deferred"
    assert len(to_admin(sandbox)) == 1
    for _ in range(2):
        pass_by_incident(watched, MINUTES * 60)
        assert "asked again" in send(deliver, NETWORK).text
    settle(watched)
    assert (webhook.posts, len(to_admin(sandbox))) == ([], 1)
    assert "incident" not in read(watched, WINDOW)


def test_a_mailbox_that_is_refused_for_days_is_no_incident(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    """A day later the next mail reports it only after the provider has been asked again."""
    sandbox.answer("sendMail", DENIED._replace(times=1))
    assert send(deliver, NETWORK).verdict == "deferred"
    state = read(watched, NOTICES)
    state["credentials"]["last"][NETWORK] -= DAY_SECONDS + 60
    watched.put(NOTICES, json.dumps(state).encode())
    for _ in range(2):
        assert "asked again" in send(deliver, NETWORK).text
        pass_by_incident(watched, MINUTES * 60)
    sandbox.answer("sendMail", DENIED._replace(times=1))
    pass_by(watched, 4000)
    assert send(deliver, NETWORK).verdict == "deferred"
    settle(watched)
    assert (webhook.events, len(to_admin(sandbox))) == ([], 2)


def test_a_mailbox_whose_mail_goes_back_is_no_incident_where_mails_tell_of_it(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    watched.configure(DEFER_ON_CREDENTIAL_FAILURE=False, NOTIFY_INTERVAL_MINUTES=60)
    for number in range(3):
        sandbox.answer("sendMail", DENIED._replace(times=1))
        assert send(deliver, NETWORK).verdict == "bounced"
        pass_by_incident(watched, MINUTES * 60 * number)
    settle(watched)
    assert (webhook.events, len(to_admin(sandbox))) == ([], 1)


@pytest.mark.parametrize("hours", [0.5, 8])
def test_what_failed_before_a_long_break_is_no_part_of_an_incident(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver, hours: float
) -> None:
    """The machine was off for the night, and its network is still down when Postfix tries again."""
    sandbox.answer("sendMail", AWAY)
    fail(watched, deliver)
    pass_by_incident(watched, hours * 3600)
    fail(watched, deliver)
    assert webhook.events == ["opened"] * (hours < 1)
    pass_by_incident(watched, MINUTES * 60)
    fail(watched, deliver)
    assert webhook.events == ["opened"]


def test_a_mailbox_s_mail_that_goes_back_now_and_then(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    """Nobody retries that: a long break between two messages is not part of the incident."""
    watched.configure(DEFER_ON_CREDENTIAL_FAILURE=False)
    sandbox.answer("sendMail", DENIED)
    assert send(deliver).verdict == "bounced"
    pass_by_incident(watched, 8 * 3600)
    assert send(deliver).verdict == "bounced"
    settle(watched)
    assert webhook.events[:1] == ["opened"]


def test_nobody_is_told_of_an_end_long_ago(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    open_incident(sandbox, watched, deliver)
    again(sandbox)
    webhook.status = 404
    assert send(deliver).verdict == "sent"
    settle(watched)
    pass_by_incident(watched, DAY_SECONDS)
    posts = len(webhook.posts)
    assert send(deliver).verdict == "sent"
    settle(watched)
    assert len(webhook.posts) == posts
    assert "recovered" not in read(watched, WINDOW)


def test_a_mailbox_of_which_no_mail_can_tell_is_told_of_once(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    """It is the only one that sends, and the default one: the incident reports it, and then its end."""
    open_incident(sandbox, watched, deliver, DENIED)
    assert webhook.events == ["opened"]
    assert held_notices(watched, "credentials").keys() == {ALERTS}
    again(sandbox)
    assert send(deliver, NETWORK).verdict == "sent"
    settle(watched)
    (notice,) = to_admin(sandbox)
    assert notice.mailbox == NETWORK
    assert f" x {ALERTS}" in notice.raw.decode()
    assert read(watched, NOTICES)["credentials"]["held"] == {}
    # It is still refused, and the admin knows that.
    sandbox.answer("sendMail", DENIED)
    fail(watched, deliver)
    pass_by_incident(watched, MINUTES * 60)
    fail(watched, deliver)
    assert (webhook.events, len(to_admin(sandbox))) == (["opened", "recovered"], 1)


FAULTS: dict[str, dict[str, Any]] = {
    "away": {},
    "redirect": {"status": 302, "headers": {"Location": "https://localhost/elsewhere"}},
    "gone": {"status": 404, "body": b"no_service"},
    "broken": {"status": 500, "body": b"<html>" + b"x" * 100_000},
    "strange": {"status": 700},
    "slow": {"hangs": True},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_webhook_that_fails_is_tried_again_later(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver, fault: str
) -> None:
    vars(webhook).update(FAULTS[fault])
    if fault == "slow":
        change_constants(watched, WEBHOOK_SECONDS=20)
    url = webhook.url.replace("localhost", "127.0.0.2") if fault == "away" else webhook.url
    watched.secrets(ADMIN_WEBHOOK_URL=url)
    sandbox.answer("token", EXPIRED)
    began = time.monotonic()
    assert [send(deliver).status for _ in range(3)] == [75] * 3
    took = time.monotonic() - began
    settle(watched)
    assert len(webhook.posts) == (fault != "away")
    problem = {"away": "unreachable", "slow": "no answer"}.get(fault, f"HTTP {webhook.status}")
    name = re.escape(f"the webhook at {'127.0.0.2' if fault == 'away' else 'localhost'}")
    assert re.search(rf"WARNING: {name} did not accept '.*': {problem} queue_id=", watched.log())
    # It posts in a process of its own.
    assert took < 20, took
    change_constants(watched, WEBHOOK_SECONDS=50)
    webhook.status, webhook.headers, webhook.body, webhook.hangs = 200, {}, b"ok", False
    posts = len(webhook.posts)
    watched.secrets(ADMIN_WEBHOOK_URL=webhook.url)
    pass_by_incident(watched, AGAIN_SECONDS - 60)
    fail(watched, deliver)
    assert len(webhook.posts) == posts
    pass_by_incident(watched, 60)
    fail(watched, deliver, 3)
    assert webhook.events[posts:] == ["opened"]
    # The system's log got the first report.
    assert watched.log().count("INCIDENT: ") == 1


@pytest.mark.parametrize("host", ["", "a..b"])
def test_a_webhook_that_never_ends_or_cannot_be_is_told_to_the_system_s_log_once(
    sandbox: Sandbox, watched: RelayHome, deliver: Deliver, host: str
) -> None:
    change_constants(watched, WEBHOOK_SECONDS=2)
    watched.secrets(ADMIN_WEBHOOK_URL=f"https://{host}/hook" if host else f"{sandbox.url}/hook")
    sandbox.answer("other", Answer(200, {}, b"x" * 1000, delay=0.2, action="drip", times=None))
    sandbox.answer("token", EXPIRED)
    for _ in range(2):
        fail(watched, deliver)
        pass_by_incident(watched, AGAIN_SECONDS)
    assert watched.log().count("INCIDENT: ") == 1
    assert watched.log().count("did not accept 'No mail goes out") == 2


@pytest.mark.parametrize("certificate", ["wrong-host", "expired", "unknown-ca"])
def test_a_webhook_of_another_certificate_gets_nothing(
    sandbox: Sandbox, watched: RelayHome, deliver: Deliver, certificate: str
) -> None:
    with Sandbox(certificate=certificate) as other, Webhook(other.context) as impostor:  # type: ignore[arg-type]
        # Its authority is trusted if it signed the certificate.
        bundle = watched.put("ca.pem", sandbox.ca_file.read_bytes() + other.ca_file.read_bytes(), 0o644)
        watched.configure(DEFER_ON_CREDENTIAL_FAILURE=True, CA_BUNDLE=str(bundle))
        watched.secrets(ADMIN_WEBHOOK_URL=impostor.url)
        sandbox.answer("token", EXPIRED)
        assert send(deliver).dsn == "4.7.0"
        settle(watched)
        assert impostor.posts == []
        assert "the webhook at localhost did not accept" in watched.log()


def test_several_processes_tell_once(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    webhook.delay = 1
    sandbox.answer("token", EXPIRED)
    with ThreadPoolExecutor(5) as pool:
        assert {done.verdict for done in pool.map(lambda _: send(deliver), range(5))} == {"deferred"}
    webhook.wait_for(1)
    again(sandbox)
    # It ends while it is being reported: the reports follow each other.
    watched.secrets(ADMIN_WEBHOOK_URL=webhook.url, API_EXPIRATION_DATE="2099-01-01")
    with ThreadPoolExecutor(5) as pool:
        assert {done.verdict for done in pool.map(lambda _: send(deliver), range(5))} == {"sent"}
    settle(watched)
    assert webhook.events == ["opened", "recovered"]
    assert webhook.most_at_once == 1
    assert len(to_admin(sandbox)) == 1


def test_who_died_while_it_told_is_followed_by_another(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    webhook.hangs = True
    sandbox.answer("token", EXPIRED)
    assert send(deliver).verdict == "deferred"
    webhook.wait_for(1)
    (teller,) = processes(watched)
    os.kill(teller, signal.SIGKILL)
    settle(watched)
    webhook.hangs = False
    pass_by_incident(watched, AGAIN_SECONDS)
    fail(watched, deliver, 2)
    # At most reported once too often.
    assert webhook.events == ["opened", "opened"]


def test_a_mail_of_the_end_is_not_lost(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    open_incident(sandbox, watched, deliver)
    again(sandbox)
    sandbox.answer("sendMail", Answer(), Answer(503, times=2))
    assert send(deliver).verdict == "sent"
    settle(watched)
    assert to_admin(sandbox) == []
    again(sandbox)
    assert send(deliver).verdict == "sent"
    settle(watched)
    (notice,) = to_admin(sandbox)
    assert notice.subject.startswith("[postfix-api-relay] Mail was waiting: ")
    assert "HTTP 503 out of" in notice.raw.decode()
    assert webhook.events == ["opened", "recovered"]


def test_what_bounces_meanwhile_is_told_there_too(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    watched.configure(DEFER_ON_CREDENTIAL_FAILURE=False)
    sandbox.answer("token", EXPIRED)
    for _ in range(3):
        assert send(deliver).verdict == "bounced"
    settle(watched)
    assert webhook.events == ["opened", "notice"]
    assert "Permanent failure: the provider refuses the credentials" in webhook.posts[1].json["text"]
    assert "to@external.com" in webhook.posts[1].json["text"]
    assert held_notices(watched, "failure") == {ALERTS: 3}


@pytest.mark.parametrize(("days", "told"), [(31, False), (30, True), (-2, True)])
def test_it_warns_of_the_credentials_end(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver, days: int, told: bool
) -> None:
    watched.secrets(ADMIN_WEBHOOK_URL=webhook.url, API_EXPIRATION_DATE=in_days(days))
    open_incident(sandbox, watched, deliver)
    assert ("\nCredentials: expire" in webhook.posts[0].json["text"]) == told


def posted(sandbox: Sandbox, home: RelayHome, webhook: Webhook, deliver: Deliver, form: str) -> list[Post]:
    """Return the posts about an incident and its end."""
    home.secrets(ADMIN_WEBHOOK_URL=webhook.url, ADMIN_WEBHOOK_FORMAT=form)
    open_incident(sandbox, home, deliver)
    again(sandbox)
    assert send(deliver).verdict == "sent"
    settle(home)
    posts = webhook.wait_for(2)
    assert {post.path for post in posts} == {f"/services/{SECRET_PATH}?sig={SECRET_QUERY}"}
    return posts


def test_json_as_slack_and_mattermost_take_it(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    """The message in `text`, Content-Type application/json (docs: api.slack.com/messaging/webhooks,
    developers.mattermost.com/integrate/webhooks/incoming). To Slack "<", ">" and "&" are control characters
    (docs: api.slack.com/docs/message-formatting); Mattermost mentions "@all" except in a code block."""
    for post in posted(sandbox, watched, webhook, deliver, "json"):
        assert post.headers["content-type"] == "application/json"
        assert post.json.keys() == {"text", "incident"}
        text = post.json["text"]
        assert not set("<>&") & set(text)
        first, fence, *quoted, end = text.split("\n")
        assert (fence, end) == ("```", "```")
        assert "`" not in first + "".join(quoted)
        assert "@all" not in first
        assert any("@all" in line for line in quoted)


def test_teams_as_workflows_take_it(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    """A message with one attachment, an adaptive card (docs: Microsoft Teams, "Create incoming webhooks with
    Workflows"; adaptivecards.io/explorer: a TextRun takes no Markdown, and a RichTextBlock is of 1.2)."""
    for post in posted(sandbox, watched, webhook, deliver, "teams"):
        assert post.headers["content-type"] == "application/json"
        assert post.json["type"] == "message"
        (attachment,) = post.json["attachments"]
        assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
        card = attachment["content"]
        assert (card["type"], card["version"]) == ("AdaptiveCard", "1.2")
        head, *blocks = card["body"]
        assert (head["type"], head["wrap"]) == ("TextBlock", True)
        assert {block["type"] for block in blocks} == {"RichTextBlock"}
        runs = [run for block in blocks for run in block["inlines"]]
        assert {run["type"] for run in runs} == {"TextRun"}
        assert any("[so](https://x.org)" in run["text"] for run in runs)
        assert "x.org" not in head["text"]


def test_ntfy(sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver) -> None:
    """The body is the message, Title, Priority and Tags are header fields (docs: docs.ntfy.sh/publish)."""
    opened, recovered = posted(sandbox, watched, webhook, deliver, "ntfy")
    assert opened.headers["title"].startswith("No mail goes out: the provider cannot take the message now (")
    assert recovered.headers["title"].startswith("Mail goes out again; the cause was: ")
    assert (opened.headers["priority"], recovered.headers["priority"]) == ("urgent", "default")
    assert (opened.headers["tags"], recovered.headers["tags"]) == ("rotating_light", "white_check_mark")
    for post in (opened, recovered):
        assert post.headers["title"].isascii()
        assert email.header.decode_header(post.headers["title"]) == [(post.headers["title"], None)]
        assert post.headers["content-type"] == "text/plain; charset=utf-8"
        assert len(post.body) <= 4096
        assert "\nReason: Graph sendMail failed: HTTP 503" in post.body.decode()


def test_ntfy_s_limit(relay: ModuleType) -> None:
    """ntfy turns more than 4,096 octets into an attachment."""
    report = relay.Bulletin("opened", "T\u00e4st\r\nX: y", ["\U0001f600" * 240] * 20, {})
    body, headers = relay.webhook_call("ntfy", report)
    assert 3990 <= len(body) <= 4096
    assert body.decode()
    assert all(value.isascii() and "\n" not in value for value in headers.values())


def test_the_system_s_log(sandbox: Sandbox, watched: RelayHome) -> None:
    """crit when it opens, notice when it is over (RFC 3164: facility mail is 2; severities 2 and 5)."""
    watched.secrets()
    place = watched.queue / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(place))
        place.chmod(0o666)
        # A separate /dev, in which this is the log.
        script = (
            "mount -t tmpfs none /mnt && for name in null zero random urandom; do touch /mnt/$name &&"
            f" mount --bind /dev/$name /mnt/$name; done; ln -s {place} /mnt/log;"
            ' mount --rbind /mnt /dev && exec "$@"'
        )
        command = ["unshare", "-m", "sh", "-ec", script, "sh", str(watched.script)]

        def deliver_there() -> int:
            arguments = [ALERTS, "4ZxTestQid", "to@external.com", ""]
            return subprocess.run([*command, *arguments], input=mail(), timeout=60).returncode

        sandbox.answer("token", EXPIRED)
        assert [deliver_there(), deliver_there()] == [75, 75]
        again(sandbox)
        watched.secrets(API_EXPIRATION_DATE="2099-01-01")
        assert deliver_there() == 0
        log.setblocking(False)
        records = []
        with suppress(BlockingIOError):
            while True:
                records.append(log.recv(8192).decode())
    # postqueue has reported that there is no Postfix here.
    opened, recovered = [record for record in records if "postqueue[" not in record]
    assert re.match(r"<18>.* postfix-api-relay: No mail goes out: the provider refuses the cred", opened)
    assert re.match(
        r"<21>.* postfix-api-relay: Mail goes out again; the cause was: the provider refuses the cred",
        recovered,
    )
    for text in (opened, recovered):
        assert "AADSTS7000222" in text
        assert "Since: " in text
        assert "\n" not in text.strip("\0")


INCIDENT = [0, 3, "tls", "what happened", "opened", 0, 0, []]
DAMAGED = {
    "no list": {},
    "short": INCIDENT[:-1],
    "long": [*INCIDENT, 1],
    "of another cause": [*INCIDENT[:2], "recipient", *INCIDENT[3:]],
    "of no cause": [*INCIDENT[:2], ["tls"], *INCIDENT[3:]],
    "of no stage": [*INCIDENT[:4], "closed", *INCIDENT[5:]],
    "text that is none": [*INCIDENT[:3], None, *INCIDENT[4:]],
    "a number that is none": [0, True, *INCIDENT[2:]],
    "from the future": [10**11, *INCIDENT[1:]],
    "told in the future": [*INCIDENT[:6], 10**11, []],
    "told to nobody": [*INCIDENT[:7], [{}]],
    "not told": [*INCIDENT[:7], "log"],
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_state_counts_as_none(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver, fault: str
) -> None:
    for answer, status in ((AWAY, 75), (Answer(times=None), 0)):
        again(sandbox)
        sandbox.answer("sendMail", answer)
        watched.put(WINDOW, json.dumps({"incident": DAMAGED[fault], "recovered": DAMAGED[fault]}).encode())
        assert '"incident": null' in by_hand(watched, "--status", "--format", "json").stdout
        assert send(deliver).status == status
    settle(watched)
    assert (webhook.posts, to_admin(sandbox)) == ([], [])


def test_a_clock_that_is_set_back_opens_no_other(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    open_incident(sandbox, watched, deliver)
    pass_by_incident(watched, -2 * 3600)
    fail(watched, deliver, 2)
    assert webhook.events == ["opened"]
    again(sandbox)
    assert send(deliver).verdict == "sent"
    settle(watched)
    assert webhook.events == ["opened", "recovered"]
    assert webhook.posts[-1].json["incident"]["since"] <= time.time()


def test_it_lasts_over_a_reboot(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    open_incident(sandbox, watched, deliver)
    state = read(watched, WINDOW)
    watched.put(WINDOW, json.dumps({**state, "boot": "another"}).encode())
    fail(watched, deliver)
    assert read(watched, WINDOW)["incident"][1] == 3
    assert webhook.events == ["opened"]
    watched.put(WINDOW, json.dumps({**read(watched, WINDOW), "boot": "a third"}).encode())
    again(sandbox)
    assert send(deliver).verdict == "sent"
    settle(watched)
    assert webhook.events == ["opened", "recovered"]


def test_send_test_tells_both_channels(sandbox: Sandbox, watched: RelayHome, webhook: Webhook) -> None:
    done = by_hand(watched, "--send-test", "me@external.com")
    assert done.returncode == 0
    accepted, told = done.stdout.splitlines()
    assert accepted.startswith("ok    graph accepted the message, id ")
    assert told == "ok    the webhook at localhost accepted the test"
    assert webhook.events == ["test"]
    # Its exit status is that of the mail.
    webhook.status = 404
    done = by_hand(watched, "--send-test", "me@external.com")
    assert done.returncode == 0
    line = done.stdout.splitlines()[1]
    assert line.startswith(
        "warn  the webhook at localhost did not accept the test: HTTP 404; check ADMIN_WEBHOOK_URL"
    )
    watched.secrets(ADMIN_WEBHOOK_URL=f"https://a..b/{SECRET_PATH}")
    done = by_hand(watched, "--send-test", "me@external.com")
    assert done.returncode == 0 and SECRET_PATH not in done.stdout + done.stderr
    assert "warn  the webhook at a..b did not accept the test: LocationParseError; check" in done.stdout
    watched.secrets(ADMIN_WEBHOOK_URL=webhook.url)
    # A failure by hand is not an attempt to deliver a message.
    webhook.status = 200
    sandbox.answer("token", EXPIRED)
    (watched.path / ".graph-token-cache").unlink()
    done = by_hand(watched, "--send-test", "me@external.com")
    assert done.returncode == 1
    assert [line[:4] for line in done.stdout.splitlines()] == ["FAIL", "ok  "]
    assert "incident" not in read(watched, WINDOW)
    assert webhook.events == ["test"] * 3


def test_check_names_the_webhook_and_posts_nothing(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook
) -> None:
    make_sound(watched)
    watched.secrets(ADMIN_WEBHOOK_URL=webhook.url)
    done = by_hand(watched, "--check")
    assert (
        "ok    the webhook at localhost is notified when no mail goes out; --send-test tests it"
        in done.stdout
    )
    assert SECRET_PATH not in done.stdout + done.stderr
    assert webhook.posts == []


def test_how_many_messages_wait(
    sandbox: Sandbox, watched: RelayHome, webhook: Webhook, deliver: Deliver
) -> None:
    """As postqueue reports them; it may fail, or never end."""
    place = watched.queue / "bin"
    place.mkdir()
    change_constants(watched, COMMAND_PATH=f"{place}:/usr/bin:/bin")
    command = place / "postqueue"
    listing = "".join(
        json.dumps({"queue_name": name, "arrival_time": int(time.time()) - age}) + "\n"
        for name, age in (("deferred", 7260), ("active", 0), ("hold", 9999))
    )
    for number, (script, waiting) in enumerate(
        {f"cat <<'E'\n{listing}E": 2, "exit 1": None, "sleep 60": None, "echo x": None}.items()
    ):
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        watched.put(WINDOW, b"{}")
        sandbox.answer("token", EXPIRED)
        assert send(deliver).verdict == "deferred"
        settle(watched)
        told = webhook.posts[number].json
        assert told["incident"].get("waiting") == waiting
        assert ("2 messages waiting, the oldest for 121 min" in told["text"]) == (waiting is not None)
