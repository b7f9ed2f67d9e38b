"""Graph without a secret: the identity that Azure gives to a machine, or a cluster to a workload."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Callable

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.assertions import EXCHANGE, Federation
from helpers.certificates import rsa_key
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.metadata import HEADER, Kind, Metadata
from helpers.script import change_constants
from helpers.state import TOKEN, lock_held, pass_by, read
from helpers.tunnel import Tunnel
from sandbox import Answer, Sandbox, json_answer

KINDS: tuple[Kind, ...] = ("vm", "app service", "arc")
HTML = Answer(200, {"Content-Type": "text/html"}, b"<html><title>Welcome</title></html>")


@pytest.fixture(params=KINDS)
def service(request: pytest.FixtureRequest, sandbox: Sandbox, home: RelayHome) -> Iterator[Metadata]:
    """Each kind of metadata service, and a home that uses it."""
    with Metadata(sandbox, request.param) as found:
        found.use(home)
        yield found


@pytest.fixture
def machine(sandbox: Sandbox, home: RelayHome) -> Iterator[Metadata]:
    """A virtual machine's metadata service."""
    with Metadata(sandbox, "vm") as found:
        found.use(home)
        yield found


def reset_pause(home: RelayHome) -> None:
    """End the pause that a fault asks for."""
    with lock_held(home):
        state = read(home, ".rate-limit-state")
        state.pop("paused_until", None)
        home.put(".rate-limit-state", json.dumps(state).encode())


def test_its_token_delivers_and_is_kept(
    sandbox: Sandbox, home: RelayHome, service: Metadata, deliver: Deliver
) -> None:
    for _ in range(2):
        assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(service.requests) == (2 if service.kind == "arc" else 1)
    assert [request.role for request in sandbox.requests] == ["sendMail", "sendMail"]
    content = read(home, TOKEN)
    assert 86300 < content["ends"] - content["obtained"] <= 86400
    assert (home.path / TOKEN).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("lifetime", [86400, 100_000])
def test_a_token_of_a_day_or_more_is_kept(
    home: RelayHome, machine: Metadata, deliver: Deliver, lifetime: int
) -> None:
    machine.lifetime = lifetime
    for _ in range(2):
        assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(machine.requests) == 1


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"expires_in": "soon"},
        {"expires_in": -5},
        {"expires_in": None, "expires_on": "9" * 400},
        {"expires_on": []},
    ],
    ids=lambda numbers: str(numbers)[:30],
)
def test_a_lifetime_that_is_none_is_a_short_one(
    sandbox: Sandbox, machine: Metadata, deliver: Deliver, numbers: dict[str, object]
) -> None:
    answer = json_answer(200, {"access_token": sandbox.issue(), **numbers})
    machine.answer("other", answer._replace(times=None))
    for _ in range(2):
        assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(machine.requests) == 2


def test_numbers_that_are_numbers_are_taken_as_well(
    sandbox: Sandbox, machine: Metadata, deliver: Deliver
) -> None:
    content = {"access_token": sandbox.issue(), "expires_on": int(time.time()) + 3600}
    machine.answer("other", json_answer(200, content))
    for _ in range(2):
        assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(machine.requests) == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_user_assigned_identity_is_asked_for_by_its_client_id(
    home: RelayHome, machine: Metadata, deliver: Deliver, known: bool
) -> None:
    machine.system_assigned = False
    machine.identities = {"user-assigned"} if known else set()
    machine.use(home, API_ID="user-assigned")
    delivery = deliver(mail(), "to@external.com")
    assert machine.requests[0].query["client_id"] == "user-assigned"
    assert delivery.verdict == ("sent" if known else "deferred")
    assert known or delivery.text.endswith(
        "Identity not found; give it an identity, and see API_ID; see --check"
    )


def test_no_proxy_is_asked(sandbox: Sandbox, home: RelayHome, service: Metadata, deliver: Deliver) -> None:
    with Tunnel() as proxy:
        home.configure(HTTPS_PROXY=proxy.url)
        assert deliver(mail(), "to@external.com").verdict == "sent"
    assert proxy.targets == [sandbox.url.removeprefix("https://")]
    assert service.requests


def test_a_revoked_token_is_replaced_once(sandbox: Sandbox, machine: Metadata, deliver: Deliver) -> None:
    assert deliver(mail(), "to@external.com").verdict == "sent"
    sandbox.tokens.clear()
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(machine.requests) == 2


def test_another_identity_does_not_use_the_token(
    home: RelayHome, machine: Metadata, deliver: Deliver
) -> None:
    assert deliver(mail(), "to@external.com").verdict == "sent"
    machine.identities = {"another"}
    machine.use(home, API_ID="another")
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(machine.requests) == 2


NOT_IT = "; this is not one of Azure's services; see --check"
REFUSALS = {
    "no identity": (
        provided("azure/no-identity"),
        "HTTP 400 invalid_request: Identity not found; give it an identity, and see API_ID",
    ),
    "html": (HTML, f"HTTP 200 <html><title>Welcome</title></html>{NOT_IT}"),
    "404": (Answer(404, {}, b"not here"), f"HTTP 404 not here{NOT_IT}"),
    "403": (Answer(403), f"HTTP 403 {NOT_IT}"),
    "redirect": (Answer(302, {"Location": "http://localhost:1/"}), f"HTTP 302 {NOT_IT}"),
    "empty token": (
        json_answer(200, {"access_token": "", "expires_in": "3600"}),
        "this is not one of Azure's",
    ),
    "token that injects": (json_answer(200, {"access_token": "a\r\nb"}), "this is not one of Azure's"),
    "no object": (json_answer(200, []), f"HTTP 200 []{NOT_IT}"),
    "401 without a challenge": (Answer(401), f"HTTP 401 {NOT_IT}"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("defer", [True, False])
def test_a_refusal_keeps_the_mail_and_nobody_asks_again_at_once(
    sandbox: Sandbox, home: RelayHome, machine: Metadata, deliver: Deliver, refusal: str, defer: bool
) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=defer)
    answer, text = REFUSALS[refusal]
    machine.answer("other", answer)
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.7.0", 75)
    assert delivery.text.startswith(f"4.7.0 no token from {machine.url}/metadata/identity/oauth2/token: ")
    assert text in delivery.text and "\n" not in delivery.text
    again = deliver(mail(), "to@external.com")
    assert again[:3] == ("deferred", "4.7.0", 75) and "; asked again at " in again.text
    assert len(machine.requests) == 1
    pass_by(home, 59)
    assert deliver(mail(), "to@external.com").verdict == "deferred"
    pass_by(home, 2)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(machine.requests) == 2


def test_of_a_token_that_breaks_off_nothing_is_shown(
    sandbox: Sandbox, home: RelayHome, machine: Metadata, deliver: Deliver
) -> None:
    token = "Sx7dTq2mLw9v"
    answer = json_answer(200, {"access_token": token, "resource": "x" * 200})
    machine.answer("other", answer._replace(action="truncate"))
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.7.0", 75)
    assert len(machine.requests) == 1
    assert token not in delivery.text + home.log() + home.path.joinpath(".rate-limit-state").read_text()


def test_a_service_that_answers_byte_by_byte_is_not_waited_for(
    home: RelayHome, machine: Metadata, deliver: Deliver
) -> None:
    change_constants(home, METADATA_SECONDS=2)
    machine.answer("other", Answer(200, {}, b"x" * 1000, delay=0.1, action="drip"))
    began = time.monotonic()
    delivery = deliver(mail(), "to@external.com")
    assert time.monotonic() - began < 20
    assert delivery[:3] == ("deferred", "4.3.2", 75)
    # The next message does not ask again.
    assert deliver(mail(), "to@external.com").verdict == "deferred"
    assert len(machine.requests) == 1


def test_a_service_that_is_away_keeps_the_mail(home: RelayHome, machine: Metadata, deliver: Deliver) -> None:
    machine.stop()
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.7.0", 75)
    assert delivery.text.endswith("; is this machine in Azure, or on Arc?; see --check")
    assert "; asked again at " in deliver(mail(), "to@external.com").text


PASSING = {
    "410": Answer(410),
    "429": Answer(429),
    "500": provided("azure/fault"),
    "503": Answer(503),
    "hangs": Answer(action="hang"),
    "hangs up": Answer(action="reset-after-read"),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_by_itself_is_asked_again_soon(
    home: RelayHome, machine: Metadata, deliver: Deliver, fault: str
) -> None:
    change_constants(home, METADATA_READ_SECONDS=1)
    machine.answer("other", PASSING[fault])
    began = time.monotonic()
    delivery = deliver(mail(), "to@external.com")
    assert time.monotonic() - began < 5
    assert delivery[:3] == ("deferred", "4.3.2", 75)
    assert deliver(mail(), "to@external.com").dsn == "4.4.5"
    left = read(home, ".rate-limit-state")["paused_until"] - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert 5 < left <= 10
    reset_pause(home)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(machine.requests) == 2


def test_retry_after_is_honoured(home: RelayHome, machine: Metadata, deliver: Deliver) -> None:
    machine.answer("other", Answer(429, {"Retry-After": "70"}))
    deliver(mail(), "to@external.com")
    left = read(home, ".rate-limit-state")["paused_until"] - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert 60 < left <= 70


@pytest.mark.parametrize("left", [250, 59])
def test_a_token_that_is_good_for_a_while_yet_is_used(
    home: RelayHome, machine: Metadata, deliver: Deliver, left: int
) -> None:
    assert deliver(mail(), "to@external.com").verdict == "sent"
    home.put(TOKEN, json.dumps({**read(home, TOKEN), "ends": time.time() + left}).encode())
    machine.stop()
    assert deliver(mail(), "to@external.com").verdict == ("sent" if left == 250 else "deferred")
    assert ("WARNING: no token from" in home.log()) == (left == 250)


@pytest.fixture
def arc(sandbox: Sandbox, home: RelayHome) -> Iterator[Metadata]:
    """Arc's agent."""
    with Metadata(sandbox, "arc") as found:
        found.use(home)
        yield found


def test_arc_s_agent_is_found_without_a_setting(
    sandbox: Sandbox, home: RelayHome, arc: Metadata, deliver: Deliver
) -> None:
    endpoint = f"{arc.url}/metadata/identity/oauth2/token"
    change_constants(home, ARC_AGENT=str(home.script), ARC_ENDPOINT=endpoint)
    home.secrets(API_CREDENTIAL="machine", API_ID=None, API_SECRET=None)
    assert deliver(mail(), "to@external.com").verdict == "sent"


def outside(arc: Metadata) -> str:
    return "/etc/hostname.key"


def above(arc: Metadata) -> str:
    assert arc.keys
    (arc.keys.parent / "secret.key").write_text("secret-of-another")
    return f"{arc.keys}/../secret.key"


def link(arc: Metadata) -> str:
    assert arc.keys
    above(arc)
    (arc.keys / "a.key").symlink_to("../secret.key")
    return f"{arc.keys}/a.key"


def other_name(arc: Metadata) -> str:
    assert arc.keys
    (arc.keys / "a.txt").write_text("secret-of-another")
    return f"{arc.keys}/a.txt"


def large(arc: Metadata) -> str:
    assert arc.keys
    (arc.keys / "a.key").write_text("secret-of-another" * 300)
    return f"{arc.keys}/a.key"


def fifo(arc: Metadata) -> str:
    assert arc.keys
    os.mkfifo(arc.keys / "a.key")
    return f"{arc.keys}/a.key"


def none(arc: Metadata) -> str:
    return f"{arc.keys}/a.key"


def no_path(arc: Metadata) -> str:
    return f"{arc.keys}/\0.key"


@pytest.mark.parametrize("place", [outside, above, link, other_name, large, fifo, none, no_path])
def test_no_other_file_is_sent_to_who_answers_in_place_of_arc(
    home: RelayHome, arc: Metadata, deliver: Deliver, place: Callable[[Metadata], str]
) -> None:
    arc.challenge = place(arc)
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.7.0", 75)
    assert not any("authorization" in request.headers for request in arc.requests)
    assert "secret-of-another" not in delivery.text + home.log()


def test_an_account_without_arc_s_group_is_told(home: RelayHome, arc: Metadata, deliver: Deliver) -> None:
    arc.group = 0
    delivery = deliver(mail(), "to@external.com")
    assert delivery.verdict == "deferred"
    assert delivery.text.endswith("; make himds its primary group; see --check")


@pytest.fixture
def federation(sandbox: Sandbox, home: RelayHome) -> Federation:
    """A cluster whose workload is trusted, and a home that has its token."""
    sandbox.federation = found = Federation(rsa_key(2))
    put_token(home, found.token())
    return found


def put_token(home: RelayHome, token: str, **changes: object) -> None:
    file = home.put("federated-token", token.encode() + b"\n", 0o640)
    values = {"API_CREDENTIAL": "machine", "API_SECRET": None, "AZURE_FEDERATED_TOKEN_FILE": str(file)}
    home.secrets(**{**values, **changes})


def test_a_workload_s_token_is_read_each_time(
    sandbox: Sandbox, home: RelayHome, federation: Federation, deliver: Deliver
) -> None:
    shown = []
    for _ in range(2):
        put_token(home, token := federation.token(jti=str(time.time())))
        assert deliver(mail(), "to@external.com").verdict == "sent"
        (home.path / TOKEN).unlink()
        shown.append(token)
    bodies = [request.body.decode() for request in sandbox.requests if request.role == "token"]
    assert all(token in body for token, body in zip(shown, bodies)) and len(bodies) == 2


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"iss": "https://elsewhere"}, "AADSTS700211"),
        ({"sub": "another"}, "AADSTS700213"),
        ({"aud": ["another"]}, "AADSTS700212"),
        (
            {"exp": 5},
            "; the token in AZURE_FEDERATED_TOKEN_FILE has expired, or this machine's clock is wrong",
        ),
    ],
)
def test_a_workload_that_is_not_trusted_is_refused(
    home: RelayHome, federation: Federation, deliver: Deliver, changes: dict[str, object], text: str
) -> None:
    put_token(home, federation.token(**changes))
    delivery = deliver(mail(), "to@external.com")
    assert delivery.verdict == "bounced" and text in delivery.text
    assert EXCHANGE not in delivery.text


@pytest.mark.parametrize(
    ("token", "changes", "text"),
    [
        ("", {}, "4.7.0 AZURE_FEDERATED_TOKEN_FILE HOME/federated-token does not contain a token"),
        ("a b", {}, "4.7.0 AZURE_FEDERATED_TOKEN_FILE HOME/federated-token does not contain a token"),
        (
            "a",
            {"AZURE_FEDERATED_TOKEN_FILE": "/none"},
            "4.3.5 AZURE_FEDERATED_TOKEN_FILE: file not found: /none",
        ),
        (
            "a",
            {"API_ID": None},
            "4.3.5 API_ID is required with AZURE_FEDERATED_TOKEN_FILE (HOME/api-secrets.json)",
        ),
        (
            "a",
            {"AZURE_FEDERATED_TOKEN_FILE": None, "IDENTITY_HEADER": HEADER},
            "4.3.5 IDENTITY_ENDPOINT goes with ",
        ),
        (
            "a",
            {"AZURE_FEDERATED_TOKEN_FILE": None, "IDENTITY_ENDPOINT": "http://localhost:1/"},
            "4.3.5 IDENTITY_ENDPOINT goes with IDENTITY_HEADER (App Service) or IMDS_ENDPOINT (Arc)",
        ),
    ],
)
def test_what_is_missing_is_named(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, token: str, changes: dict[str, object], text: str
) -> None:
    put_token(home, token, **changes)
    delivery = deliver(mail(), "to@external.com")
    assert delivery.verdict == "deferred"
    assert delivery.text.startswith(text.replace("HOME", str(home.path)))
    assert sandbox.requests == []
