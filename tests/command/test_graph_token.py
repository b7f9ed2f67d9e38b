"""The bearer token for Graph is requested once, cached, and requested again when it is due."""

from __future__ import annotations

import json
import stat
import urllib.parse
from typing import Any

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.home import RelayHome
from helpers.mail import mail
from sandbox import Answer, Sandbox, json_answer

CACHE = ".graph-token-cache"


def count(sandbox: Sandbox, role: str) -> int:
    """Return the number of requests of a role."""
    return sum(request.role == role for request in sandbox.requests)


def send_two(deliver: Deliver) -> None:
    for _ in range(2):
        assert deliver(mail(), "to@external.com").verdict == "sent"


def change_cache(home: RelayHome, **changes: object) -> None:
    """Change values of the token cache in place."""
    content = json.loads((home.path / CACHE).read_text())
    home.put(CACHE, json.dumps({**content, **changes}).encode())


def cached(home: RelayHome) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((home.path / CACHE).read_text())
    return content


def test_the_token_request_is_that_of_client_credentials(sandbox: Sandbox, deliver: Deliver) -> None:
    deliver(mail(), "to@external.com")
    request = sandbox.requests[0]
    assert (request.method, request.path) == ("POST", "/tenant-id/oauth2/v2.0/token")
    assert dict(urllib.parse.parse_qsl(request.body.decode())) == {
        "grant_type": "client_credentials",
        "client_id": "client-id",
        "client_secret": "client-secret",
        "scope": f"{sandbox.url}/.default",
    }


@pytest.mark.parametrize("secret", ["a&b=c d%e+f", "é~/?#", '"\\'])
def test_a_secret_of_odd_characters_arrives_as_it_is(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, secret: str
) -> None:
    sandbox.secret = secret
    home.secrets(API_SECRET=secret)
    assert deliver(mail(), "to@external.com").verdict == "sent"


def test_the_token_is_kept_in_a_closed_file_and_used_again(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    send_two(deliver)
    assert count(sandbox, "token") == 1
    file = (home.path / CACHE).stat()
    assert stat.S_IMODE(file.st_mode) == 0o600
    assert file.st_uid == home.account.pw_uid
    token = sandbox.requests[1].headers["authorization"]
    assert token == "Bearer " + cached(home)["token"]
    assert token not in home.log()


@pytest.mark.parametrize(("seconds", "requests"), [(299, 2), (240, 2), (360, 1)])
def test_the_token_is_replaced_five_minutes_before_its_end(
    sandbox: Sandbox, deliver: Deliver, seconds: int, requests: int
) -> None:
    sandbox.token_lifetime = seconds
    send_two(deliver)
    assert count(sandbox, "token") == requests


@pytest.mark.parametrize(
    "changes",
    [
        {"ends": 0},
        {"obtained": 1e12, "ends": 1e12 + 3599},
        {"ends": 1e12},
        {"ends": 10**400},
        {"ends": "soon"},
        {"token": None},
        {"token": "x\r\nX-Injected: y"},
        {"key": "another"},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_a_cache_that_cannot_be_trusted_is_replaced(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, changes: dict[str, object]
) -> None:
    deliver(mail(), "to@external.com")
    change_cache(home, **changes)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert count(sandbox, "token") == 2
    assert cached(home)["token"] in sandbox.tokens


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\0" * 50], ids=repr)
def test_a_broken_cache_heals(sandbox: Sandbox, home: RelayHome, deliver: Deliver, content: bytes) -> None:
    home.put(CACHE, content)
    send_two(deliver)
    assert count(sandbox, "token") == 1


def test_a_cache_open_to_others_is_not_used(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    deliver(mail(), "to@external.com")
    (home.path / CACHE).chmod(0o644)
    deliver(mail(), "to@external.com")
    assert count(sandbox, "token") == 2
    assert stat.S_IMODE((home.path / CACHE).stat().st_mode) == 0o600


@pytest.mark.parametrize("key", ["API_SECRET", "API_ID"])
def test_new_credentials_do_not_use_the_old_token(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, key: str
) -> None:
    deliver(mail(), "to@external.com")
    if key == "API_SECRET":
        sandbox.secret = "new-value"
    else:
        sandbox.client_id = "new-value"
    home.secrets(**{key: "new-value"})
    deliver(mail(), "to@external.com")
    assert count(sandbox, "token") == 2


def test_a_revoked_token_is_replaced_once(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    deliver(mail(), "to@external.com")
    sandbox.tokens.clear()
    assert deliver(mail(), "to@external.com") == ("sent", "2.0.0", 0, b"")
    assert [(request.role, request.status) for request in sandbox.requests[2:]] == [
        ("sendMail", 401),
        ("token", 200),
        ("sendMail", 202),
    ]
    assert cached(home)["token"] in sandbox.tokens


def test_a_second_401_is_a_verdict(sandbox: Sandbox, deliver: Deliver) -> None:
    refusal = provided("graph/token-refused", message="Access token validation failure.")
    sandbox.answer("sendMail", refusal._replace(times=2))
    delivery = deliver(mail(), "to@external.com", sender="MAILER-DAEMON")
    assert delivery[:3] == ("bounced", "5.7.8", 1)
    assert "HTTP 401 InvalidAuthenticationToken: Access token validation failure." in delivery.text
    assert (count(sandbox, "token"), count(sandbox, "sendMail")) == (2, 2)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, body=b"<html>"),
        json_answer(200, {}),
        json_answer(200, {"access_token": "x\r\ny", "expires_in": 3599}),
        Answer(201, body=b"{}"),
        Answer(302, {"Location": "https://localhost:1/"}),
    ],
    ids=str,
)
def test_a_strange_answer_defers(sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer) -> None:
    sandbox.answer("token", answer)
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.5.0", 75)
    assert "Failed to obtain Graph token" in delivery.text
    assert [request.role for request in sandbox.requests] == ["token"]
    assert not (home.path / CACHE).exists()


def test_an_unwritable_cache_stops_nothing(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    home.put(CACHE, b"")
    (home.path / (CACHE + ".new")).mkdir()
    send_two(deliver)
    assert len(sandbox.accepted) == 2


@pytest.mark.parametrize("lifetime", [None, "3599", -5, 10**400], ids=lambda value: str(value)[:9])
def test_a_lifetime_that_is_none_is_a_short_one(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, lifetime: object
) -> None:
    sandbox.tokens.add("known")
    content = {"access_token": "known", "expires_in": lifetime}
    sandbox.answer("token", json_answer(200, content)._replace(times=None))
    send_two(deliver)
    assert count(sandbox, "token") == 2
