"""Whatever happens on the line, the mail stays in the queue, and nothing is resent blindly."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest
from conftest import Deliver, Figures
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.ports import port_of, reserve_port
from helpers.script import change_constants
from helpers.tunnel import Tunnel
from helpers.variants import leave_token, use_ses, with_peak_memory
from helpers.waiting import wait_until
from sandbox import Action, Answer, Certificate, Sandbox, Where, json_answer

WHERE: list[Where] = ["token", "sendMail", "ses"]
HTML = {"Content-Type": "text/html"}
PORTAL = b"<html><body><h1>Please log in to the guest network</h1></body></html>"
MESSAGE = mail(Message_ID="<only-one@domain.com>")
# Peak, in MiB; a usual delivery needs 33.
ENOUGH_MEMORY = 80
ENOUGH_SECONDS = 60

BAD_ANSWERS = {
    "reset before the request is read": (Answer(action="reset-before-read"), "4.4.2"),
    "reset in the request": (Answer(action="reset-in-request"), "4.4.2"),
    "reset after the request": (Answer(action="reset-after-read"), "4.4.2"),
    "HTML 502": (Answer(502, HTML, PORTAL), "4.3.2"),
    "truncated HTML 502": (Answer(502, HTML, PORTAL, action="truncate"), "4.3.2"),
}
BAD_SUCCESSES = {
    "HTML": Answer(200, HTML, PORTAL),
    "empty": Answer(200),
    "invalid JSON": Answer(200, {"Content-Type": "application/json"}, b"{]"),
    "not JSON but binary": Answer(200, {}, b"\xff\0\x80"),
    "nested JSON": Answer(200, {"Content-Type": "application/json"}, b'{"a":' * 20000),
    "JSON of another service": json_answer(200, {"access_token": ["x"], "MessageId": None, "expires_in": {}}),
    "no object": json_answer(200, [{"MessageId": "x"}]),
    "unusable token": json_answer(200, {"access_token": "line\r\nX-Injected: 1", "expires_in": 3599}),
}


UNKNOWN_FATES = {
    "reset": Answer(action="reset-after-read"),
    "accepted, then reset": Answer(action="accept-then-reset"),
    "accepted, then 504": Answer(504, accept=True),
}


def aim(home: RelayHome, where: Where, url: str) -> None:
    """Replace the URL of one service; the others stay."""
    if where == "ses":
        use_ses(home, API_ENDPOINT=url)
    else:
        home.secrets(**{"API_LOGIN_ENDPOINT" if where == "token" else "API_ENDPOINT": url})


def expect_deferred(delivery: Delivery, *codes: str) -> None:
    """Assert that the relay itself deferred the mail, and that its code comes first."""
    assert (delivery.verdict, delivery.status) == ("deferred", 75), delivery
    assert delivery.dsn in codes, delivery
    assert delivery.text.startswith(f"{delivery.dsn} ")


def roles(sandbox: Sandbox, role: Where) -> list[bytes]:
    """Return the bodies of the requests to one service."""
    return [request.body for request in sandbox.requests if request.role == role]


def expect_one_request(sandbox: Sandbox, role: Where) -> None:
    """Assert that there was one request to a service, which may see it only after the relay has given up."""
    wait_until(lambda: roles(sandbox, role))
    assert len(roles(sandbox, role)) == 1


def send(deliver: Deliver, **options: float) -> Delivery:
    return deliver(MESSAGE, "to@external.com", **options)


@pytest.fixture(params=WHERE)
def where(request: pytest.FixtureRequest, home: RelayHome) -> Where:
    """One of the services, with the home set up to use it."""
    role: Where = request.param
    if role == "ses":
        use_ses(home)
    return role


@pytest.fixture(params=["sendMail", "ses"])
def sending(request: pytest.FixtureRequest, home: RelayHome) -> Where:
    """One of the services that accept mail, with the home set up to use it."""
    role: Where = request.param
    if role == "ses":
        use_ses(home)
    return role


@pytest.fixture
def other() -> Iterator[Sandbox]:
    """A second provider, which nothing should contact."""
    with Sandbox() as provider:
        yield provider


@pytest.mark.parametrize(("answer", "code"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_bad_answer_defers_and_is_asked_for_once(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, where: Where, answer: Answer, code: str
) -> None:
    sandbox.answer(where, answer)
    expect_deferred(send(deliver), code)
    assert len(roles(sandbox, where)) == 1
    assert sandbox.accepted == []
    assert f"DEFERRED: {code} " in home.log()
    assert "Traceback" not in home.log()


@pytest.mark.parametrize("role", ["token", "ses"])
@pytest.mark.parametrize("answer", BAD_SUCCESSES.values(), ids=BAD_SUCCESSES)
def test_a_200_that_says_nothing_is_no_acceptance(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, role: Where, answer: Answer
) -> None:
    if role == "ses":
        use_ses(home)
    sandbox.answer(role, answer)
    expect_deferred(send(deliver), "4.5.0")
    assert [request.role for request in sandbox.requests] == [role]
    assert sandbox.accepted == []
    assert "Traceback" not in home.log()


def test_graph_accepts_with_202_only(sandbox: Sandbox, deliver: Deliver) -> None:
    sandbox.answer("sendMail", Answer(200, HTML, PORTAL))
    expect_deferred(send(deliver), "4.5.0")
    assert len(roles(sandbox, "sendMail")) == 1


def test_a_truncated_token_answer_defers(sandbox: Sandbox, deliver: Deliver) -> None:
    sandbox.answer("token", Answer(action="truncate"))
    expect_deferred(send(deliver), "4.5.0")
    assert roles(sandbox, "sendMail") == []


@pytest.mark.parametrize("answer", UNKNOWN_FATES.values(), ids=UNKNOWN_FATES)
def test_no_blind_retry(sandbox: Sandbox, deliver: Deliver, sending: Where, answer: Answer) -> None:
    sandbox.answer(sending, answer)
    expect_deferred(send(deliver), "4.4.2", "4.3.2")
    assert len(roles(sandbox, sending)) == 1
    # Postfix retries with the same bytes, so that the recipient's mail system can recognize the duplicate.
    assert send(deliver).verdict == "sent"
    first, second = roles(sandbox, sending)
    assert first == second
    assert {message.message["Message-ID"] for message in sandbox.accepted} == {"<only-one@domain.com>"}


@pytest.mark.parametrize("action", ["hang", "accept-then-hang"])
def test_a_black_hole_after_the_request(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sending: Where, action: Action
) -> None:
    leave_token(sandbox, home)
    change_constants(home, READ_SECONDS=3)
    sandbox.answer(sending, Answer(action=action))
    began = time.monotonic()
    expect_deferred(send(deliver), "4.4.2")
    assert 3 <= time.monotonic() - began < ENOUGH_SECONDS
    expect_one_request(sandbox, sending)
    assert len(sandbox.accepted) == (action != "hang")


def test_a_black_hole_in_place_of_the_token_endpoint(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    change_constants(home, READ_SECONDS=3)
    sandbox.answer("token", Answer(action="hang"))
    expect_deferred(send(deliver), "4.4.2")
    expect_one_request(sandbox, "token")
    assert [request.role for request in sandbox.requests] == ["token"]


def test_a_black_hole_before_the_handshake(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sending: Where
) -> None:
    change_constants(home, CONNECT_SECONDS=1, READ_SECONDS=3)
    sandbox.answer("connection", Answer(action="hang"))
    expect_deferred(send(deliver), "4.4.1", "4.4.2")
    assert sandbox.requests == []


def test_a_reset_before_the_handshake(sandbox: Sandbox, deliver: Deliver, sending: Where) -> None:
    sandbox.answer("connection", Answer(action="reset-before-read"))
    expect_deferred(send(deliver), "4.4.1", "4.4.2")
    assert sandbox.requests == []
    assert send(deliver).verdict == "sent"


def test_an_answer_that_never_ends(sandbox: Sandbox, home: RelayHome, deliver: Deliver, where: Where) -> None:
    sandbox.answer(where, Answer(200, {}, b"x" * 1000, action="drip", delay=0.1))
    # On a machine that stalls, a delivery may end before it has read the answer.
    for seconds in (5, 10, 20, 40):
        change_constants(home, HARD_STOP_SECONDS=seconds)
        began = time.monotonic()
        delivery = send(deliver)
        # Its own alarm ends it, long before Postfix would kill it and bounce the mail.
        assert (delivery.verdict, delivery.dsn) == ("deferred", "4.3.0")
        assert delivery.status in (75, -signal.SIGALRM)
        assert time.monotonic() - began < ENOUGH_SECONDS
        if roles(sandbox, where):
            break
    expect_one_request(sandbox, where)
    change_constants(home, HARD_STOP_SECONDS=600)
    assert send(deliver).verdict == "sent"


@pytest.mark.parametrize("status", [302, 303])
def test_no_redirect_is_followed(
    sandbox: Sandbox, other: Sandbox, home: RelayHome, deliver: Deliver, where: Where, status: int
) -> None:
    together = sandbox.ca_file.read_bytes() + other.ca_file.read_bytes()
    bundle = home.put("ca.pem", together, 0o644)
    home.configure(CA_BUNDLE=str(bundle), RATE_LIMIT_PER_MINUTE=28)
    sandbox.answer(where, Answer(status, {"Location": f"{other.url}/v1.0/users/alerts@domain.com/sendMail"}))
    expect_deferred(send(deliver), "4.5.0")
    assert other.requests == []
    assert len(roles(sandbox, where)) == 1


def test_a_gigabyte_does_not_fill_the_memory(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, figures: Figures, where: Where
) -> None:
    for status in (200, 500):
        sandbox.answer(where, Answer(status, action="huge"))
        began = time.monotonic()
        delivery, peak = with_peak_memory(home, partial(deliver, MESSAGE, "to@external.com"))
        expect_deferred(delivery, "4.5.0" if status == 200 else "4.3.2")
        assert peak < ENOUGH_MEMORY
        assert time.monotonic() - began < ENOUGH_SECONDS
        figures(f"1 GB answer, {where} {status}", peak_MiB=peak)


def test_nobody_listens(home: RelayHome, deliver: Deliver, where: Where) -> None:
    with reserve_port() as nobody:
        aim(home, where, f"https://localhost:{port_of(nobody)}")
        expect_deferred(send(deliver), "4.4.1")
    assert "check DNS, firewall and HTTPS_PROXY" in home.log()


def test_the_name_does_not_exist(home: RelayHome, deliver: Deliver, where: Where) -> None:
    aim(home, where, "https://provider.invalid")
    # The machine's name servers may say so late, or not at all.
    expect_deferred(send(deliver, limit=500), "4.4.1")
    assert "provider.invalid" in home.log()


@pytest.mark.parametrize("role", ["token", "ses"])
@pytest.mark.parametrize("fault", ["wrong-host", "expired", "unknown-ca", "none"])
def test_a_stranger_s_tls_gets_nothing(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, role: Where, fault: Certificate
) -> None:
    with Sandbox(certificate=fault) as stranger:
        bundle = home.put("ca.pem", sandbox.ca_file.read_bytes() + stranger.ca_file.read_bytes(), 0o644)
        aim(home, role, stranger.url)
        home.configure(CA_BUNDLE=str(bundle), RATE_LIMIT_PER_MINUTE=28)
        delivery = send(deliver)
        assert stranger.requests == []
    expect_deferred(delivery, "4.7.5")
    assert "check CA_BUNDLE and this machine's clock" in delivery.text


@pytest.mark.parametrize("status", [407, 403])
def test_a_proxy_that_refuses(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sending: Where, status: int
) -> None:
    with Tunnel((status, "No way through")) as proxy:
        home.configure(HTTPS_PROXY=proxy.url, RATE_LIMIT_PER_MINUTE=28)
        expect_deferred(send(deliver), "4.4.1")
        assert proxy.targets == [sandbox.url.removeprefix("https://")]
    assert sandbox.requests == []


def test_a_proxy_that_is_gone(sandbox: Sandbox, home: RelayHome, deliver: Deliver, sending: Where) -> None:
    with reserve_port() as nobody:
        home.configure(HTTPS_PROXY=f"http://127.0.0.1:{port_of(nobody)}", RATE_LIMIT_PER_MINUTE=28)
        expect_deferred(send(deliver), "4.4.1")
    assert sandbox.requests == []


@pytest.mark.parametrize("url", ["user:pw@127.0.0.1:1", "ftp://127.0.0.1:1", "http://127.0.0.1:99999"])
def test_a_proxy_whose_url_is_none(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sending: Where, url: str
) -> None:
    """Nothing has been sent, so the fate of the message is known."""
    home.configure(HTTPS_PROXY=url, RATE_LIMIT_PER_MINUTE=28)
    delivery = send(deliver)
    expect_deferred(delivery, "4.4.1")
    assert "check DNS, firewall and HTTPS_PROXY" in delivery.text
    assert sandbox.requests == []


def test_a_proxy_that_tunnels_is_used(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sending: Where
) -> None:
    with Tunnel() as proxy:
        home.configure(HTTPS_PROXY=proxy.url.replace("//", "//user:pass%40word@"), RATE_LIMIT_PER_MINUTE=28)
        assert send(deliver).verdict == "sent"
        assert set(proxy.targets) == {sandbox.url.removeprefix("https://")}
        assert set(proxy.credentials) == {"Basic dXNlcjpwYXNzQHdvcmQ="}
    assert len(sandbox.accepted) == 1
    assert all("proxy-authorization" not in request.headers for request in sandbox.requests)


def test_the_state_after_all_that_is_sound(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """A call of unknown fate counts as one finished call."""
    for action in ("reset-after-read", "accept-then-reset"):
        sandbox.answer("sendMail", Answer(action=action))
        send(deliver)
    calls = json.loads((home.path / ".rate-limit-state").read_text())["calls"]
    assert len(calls) == 2
    assert all(ended is not None for _began, ended, _pid in calls)
