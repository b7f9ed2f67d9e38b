"""The password in HTTPS_PROXY is one of the parts of the settings that are never shown."""

from __future__ import annotations

from types import ModuleType

import pytest
from helpers.unit import load_config, load_secrets


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("http://user:pass%40word@proxy:3128", ["pass@word"]),
        ("HTTPS://user:pass:word@[::1]:3128", ["pass:word"]),
        ("user:password@proxy:3128", ["password"]),
        ("http://user@proxy:3128", []),
        ("http://proxy:3128", []),
        ("proxy:3128", []),
        (None, []),
    ],
)
def test_of_a_url_only_the_password_is(relay: ModuleType, url: str | None, hidden: list[str]) -> None:
    config, secrets = load_config(relay, HTTPS_PROXY=url), load_secrets(relay)
    assert relay.hidden_parts(config, secrets) == ["client-secret", *hidden]
