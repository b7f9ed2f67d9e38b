"""SES as the machine: keys that expire while the second request waits for its slot do not sign it."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.unit import load_config, load_secrets

REFUSAL = {"x-amzn-ErrorType": "InvalidClientTokenId"}


def test_the_second_request_is_signed_with_keys_that_are_still_good(
    relay: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = {"API_PROVIDER": "ses", "API_CREDENTIAL": "machine", "API_TENANT_OR_REGION": "eu-west-1"}
    config, secrets = load_config(relay), load_secrets(relay, **machine)
    ses = relay.provider_of(str(tmp_path), config, secrets, relay.Log())
    made: list[str] = []
    signed_by: list[str] = []

    def fetch_keys(identify: bool = False) -> dict[str, Any]:
        made.append(f"KEY{len(made)}")
        # The first ones last, and are refused; the next ones expire soon.
        ends = time.time() + (3600 if len(made) == 1 else 100)
        return {"id": made[-1], "secret": "s", "token": "t", "ends": ends, "renew": ends - 50, "source": "x"}

    def request(what: str, url: str, body: bytes, headers: dict[str, str], method: str) -> Any:
        signed_by.append(headers["Authorization"].split("Credential=")[1].split("/")[0])
        if len(signed_by) == 1:
            return relay.Answer(403, REFUSAL, b'{"message": "The security token is invalid"}')
        return relay.Answer(200, {}, b'{"MessageId": "1"}')

    def wait_for_a_slot() -> None:
        later = time.time() + 150
        monkeypatch.setattr(relay.time, "time", lambda: later)

    monkeypatch.setattr(ses, "fetch_keys", fetch_keys)
    monkeypatch.setattr(ses.https, "request", request)
    # As if an earlier delivery had asked for them.
    ses.credential()
    ses.are_new = False
    mail = relay.Mail("alerts@domain.com", relay.Recipients(["to@external.com"], [], []), "", b"\r\n")
    assert ses.send(mail, wait_for_a_slot).id == "1"
    assert signed_by == ["KEY0", "KEY2"]
