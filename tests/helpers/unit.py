"""The steps of a delivery that touch no file and no network, called on the loaded script."""

from __future__ import annotations

import io
import json
from types import ModuleType
from typing import Any

import pytest

CONFIG: dict[str, Any] = {
    "ADMIN_NOTIFICATION_EMAIL": "admin@domain.com",
    "DEFAULT_FROM_ADDRESS": "alerts@domain.com",
    "VALID_FROM_ADDRESSES": ["Network@domain.com"],
    "TRUSTED_DEVICE_IPS": ["10.1.1.20"],
    "TRUSTED_DEVICE_DOMAINS": ["domain.com"],
}
SECRETS: dict[str, Any] = {
    "API_PROVIDER": "graph",
    "API_TENANT_OR_REGION": "tenant-id",
    "API_ID": "client-id",
    "API_SECRET": "client-secret",
}


def load_config(relay: ModuleType, **changes: object) -> Any:
    """Return a RelayConfig of the usual values with these changes."""
    data = json.dumps({**CONFIG, **changes}).encode()
    return relay.load_settings(relay.RelayConfig, "relay-config.json", data, relay.Log())


def load_secrets(relay: ModuleType, **changes: object) -> Any:
    """Return an ApiSecrets of the usual values with these changes."""
    data = json.dumps({**SECRETS, **changes}).encode()
    return relay.load_settings(relay.ApiSecrets, "api-secrets.json", data, relay.Log())


def parse(relay: ModuleType, message: bytes) -> Any:
    """Return a message, split into header fields and body."""
    return relay.read_message(io.BytesIO(message))


def address_message(
    relay: ModuleType,
    message: bytes,
    recipients: list[str],
    *,
    sender: str = "alerts@domain.com",
    client: str = "",
    provider: str = "graph",
    **config: object,
) -> Any:
    """Return the Mail that the provider would be given for this message and envelope.

    Raises the script's Bounced if the message is rejected before the API call.
    """
    envelope = relay.Envelope(sender, "4ZxTestQid", recipients, client)
    secrets = load_secrets(relay, API_PROVIDER=provider)
    delivery = relay.Relay("/nonexistent", envelope, load_config(relay, **config), secrets, relay.Log())
    relay.check_recipients(recipients)
    return delivery.provider.address(delivery.draft(parse(relay, message)))


def shown(relay: ModuleType, problem: Any) -> str:
    """Return what the log and Postfix show of a failure, after its status code."""
    return str(relay.Log().describe(problem))


def finish(relay: ModuleType, problem: Any, log: Any) -> int:
    """End a delivery as main() does, and return its exit status.

    The process's signals are left alone: their handlers would end the test run.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "outlive_signals", lambda _status: None)
        return int(relay.finish(None, problem, log))
