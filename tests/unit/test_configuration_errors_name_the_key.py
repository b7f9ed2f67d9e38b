"""An admin who mistypes a setting learns which one, and the mail waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.script import load_script
from helpers.unit import CONFIG, SECRETS, shown
from hypothesis import given, settings
from hypothesis import strategies as st

relay = load_script()

NO_TEXT: list[object] = [5, True, ["a"], {"a": 1}, 1.5]
NO_TEXTS: list[object] = ["alerts@domain.com", 5, True, {"a": 1}, ["a", 5], ["a", None], [["a"]]]
NO_ADDRESS: list[object] = [
    *NO_TEXT,
    "alerts",
    "a@x.org, b@x.org",
    "A <a@x.org>",
    "a@x.org\n",
    "\ud800@x.org",
]
NO_SWITCH: list[object] = ["true", 1, 0, [], {}]
NO_NUMBER: list[object] = [-1, 1.5, True, False, "28", [28], float("inf"), float("nan")]
NO_URL: list[object] = [
    *NO_TEXT,
    "graph.microsoft.com",
    "http://graph.microsoft.com",
    "ftp://localhost",
    "https://",
    "https:///path",
    "https://:443",
    "https://host:port",
    "https://host:99999",
    "https://[::1",
    "https://user@host",
    "https://user:pw@host",
    "https://host/?a=b",
    "https://host/#a",
    "https://host?",
    "https://host#",
    "https://host/a b",
    "https://host/\r\nX: y",
    "https://b\u00fccher.example",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "http://127.0.0.1@evil.example",
    "http://0.0.0.0",
    "javascript:alert(1)",
]

NO_METADATA_URL = [*NO_URL, "http://169.253.1.1", "http://169.254.1.1.evil.example", "http://10.0.0.1"]

# Invalid values for each key of the two files.
WRONG: dict[str, list[object]] = {
    "ADMIN_NOTIFICATION_EMAIL": NO_ADDRESS,
    "DEFAULT_FROM_ADDRESS": NO_ADDRESS,
    "VALID_FROM_ADDRESSES": NO_TEXTS,
    "TRUSTED_DEVICE_IPS": NO_TEXTS,
    "TRUSTED_DEVICE_DOMAINS": NO_TEXTS,
    "NOTIFY_ON_OVERRIDE": NO_SWITCH,
    "SILENT_OVERRIDE_ADDRESSES": NO_TEXTS,
    "RATE_LIMIT_PER_MINUTE": NO_NUMBER,
    "RATE_LIMIT_MAX_WAIT_SECONDS": [*NO_NUMBER, 301],
    "RATE_LIMIT_URGENT_RESERVE": NO_NUMBER,
    "RATE_LIMIT_SCOPE": [*NO_TEXT, "Sender", "mailbox"],
    "LOG_FILE_PATH": [*NO_TEXT, "a\0b"],
    "CA_BUNDLE": [*NO_TEXT, "a\0b"],
    "HTTPS_PROXY": NO_TEXT,
    "NOTIFY_INTERVAL_MINUTES": NO_NUMBER,
    "INCIDENT_AFTER_MINUTES": NO_NUMBER,
    "MISSING_VISIBLE_RECIPIENT": [*NO_TEXT, "Reject", "bounce"],
    "SAVE_TO_SENT_ITEMS": NO_SWITCH,
    "LARGE_MESSAGES": [*NO_TEXT, "Send", "draft"],
    "SES_CONFIGURATION_SET": [*NO_TEXT, "my set", "a" * 65, "set\n"],
    "SES_MESSAGE_TAGS": [
        *NO_TEXT,
        {"a": ["b"]},
        {"a b": "c"},
        {"a": "b c"},
        {"": "a"},
        {"a": ""},
        {"a" * 257: "b"},
        {"a": "b\n"},
        {"\u00e9": "b"},
        {str(number): "x" for number in range(51)},
    ],
    "SES_IDENTITY_ARN": [
        *NO_TEXT,
        "domain.com",
        "arn:aws:iam::123456789012:role/relay",
        "arn:aws:ses:eu-west-1:123456789012:identity/domain.com\n",
    ],
    "DEFER_ON_CREDENTIAL_FAILURE": NO_SWITCH,
    "API_PROVIDER": [*NO_TEXT, "smtp", "Graph", "graph "],
    "API_CREDENTIAL": [*NO_TEXT, "Secret", "password"],
    "API_TENANT_OR_REGION": NO_TEXT,
    "API_ID": NO_TEXT,
    "API_SECRET": NO_TEXT,
    "API_SECRET_NEXT": NO_TEXT,
    "API_ID_NEXT": NO_TEXT,
    "API_EXPIRATION_DATE": [
        *NO_TEXT,
        "soon",
        "2028-02-30",
        "05.04.2028",
        "2028-4-5",
        "20280405",
        "2028-04-05T",
    ],
    "API_ENDPOINT": NO_URL,
    "API_LOGIN_ENDPOINT": NO_URL,
    "API_CERTIFICATE_PATH": [*NO_TEXT, "a\0b"],
    "API_PRIVATE_KEY_PATH": [*NO_TEXT, "a\0b"],
    "AZURE_FEDERATED_TOKEN_FILE": [*NO_TEXT, "a\0b"],
    "IDENTITY_ENDPOINT": NO_METADATA_URL,
    "IDENTITY_HEADER": [*NO_TEXT, "a b", "a\r\nX: y", "b\u00fccher"],
    "IMDS_ENDPOINT": NO_METADATA_URL,
    "AZURE_POD_IDENTITY_AUTHORITY_HOST": NO_METADATA_URL,
    "AWS_PROFILE": NO_TEXT,
    "AWS_CONFIG_FILE": [*NO_TEXT, "a\0b"],
    "AWS_SHARED_CREDENTIALS_FILE": [*NO_TEXT, "a\0b"],
    "AWS_ROLE_ARN": NO_TEXT,
    "AWS_ROLE_SESSION_NAME": NO_TEXT,
    "AWS_WEB_IDENTITY_TOKEN_FILE": [*NO_TEXT, "a\0b"],
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": NO_TEXT,
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": NO_TEXT,
    "AWS_CONTAINER_AUTHORIZATION_TOKEN": NO_TEXT,
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": [*NO_TEXT, "a\0b"],
    "AWS_EC2_METADATA_SERVICE_ENDPOINT": NO_TEXT,
    "AWS_ENDPOINT_URL_STS": NO_URL,
    # A webhook's query may be its password.
    "ADMIN_WEBHOOK_URL": [value for value in NO_URL if value != "https://host/?a=b"],
    "ADMIN_WEBHOOK_FORMAT": [*NO_TEXT, "JSON", "slack"],
}
FILES = {"relay-config.json": (relay.RelayConfig, CONFIG), "api-secrets.json": (relay.ApiSecrets, SECRETS)}
KEYS = [(name, key) for name, (kind, _) in FILES.items() for key in relay.settings_of(kind)]
DEFAULTS = {key: spec.default for kind, _ in FILES.values() for key, spec in relay.settings_of(kind).items()}
REQUIRED = [(name, key) for name, key in KEYS if DEFAULTS[key] is relay.REQUIRED]


def load(name: str, data: bytes, log: Any = None) -> Any:
    return relay.load_settings(FILES[name][0], f"/home/{name}", data, log or relay.Log())


def load_with(name: str, key: str, value: object) -> Any:
    return load(name, json.dumps({**FILES[name][1], key: value}).encode())


def refusal(name: str, data: bytes) -> str:
    """Return the text that this content is deferred with."""
    with pytest.raises(relay.Deferred) as refused:
        load(name, data)
    assert refused.value.code == "4.3.5"
    assert f"/home/{name}" in shown(relay, refused.value)
    return shown(relay, refused.value)


def test_every_key_has_its_wrong_values_here() -> None:
    assert {key for _, key in KEYS} == WRONG.keys()


@pytest.mark.parametrize(
    ("name", "key", "value"), [(name, key, value) for name, key in KEYS for value in WRONG.get(key, [])]
)
def test_a_wrong_value_is_refused_under_the_name_of_its_key(name: str, key: str, value: object) -> None:
    text = refusal(name, json.dumps({**FILES[name][1], key: value}).encode())
    for_an_object = refusal(name, json.dumps({**FILES[name][1], key: {"": 5}}).encode())

    assert text.startswith(f"{key} must be ")
    # For any mistake, it says what was expected, not how reading the value failed.
    assert text.split(", not ")[0] == for_an_object.split(", not ")[0]


@pytest.mark.parametrize(("name", "key"), KEYS)
@pytest.mark.parametrize("value", ["hunter22", ["hunter22", 5], {"hunter22": "hunter22"}])
def test_a_secret_in_the_wrong_place_is_not_shown(name: str, key: str, value: object) -> None:
    try:
        load_with(name, key, value)
    except relay.Deferred as refused:
        assert key in shown(relay, refused) and "hunter22" not in shown(relay, refused)


@pytest.mark.parametrize(("name", "key"), REQUIRED)
@pytest.mark.parametrize("absent", ["left out", None, ""])
def test_a_required_key_that_is_absent_is_named(name: str, key: str, absent: object) -> None:
    values = {**FILES[name][1], key: absent}
    if absent == "left out":
        del values[key]

    assert refusal(name, json.dumps(values).encode()).startswith(f"{key} is required: ")


@pytest.mark.parametrize(("name", "key"), [pair for pair in KEYS if pair not in REQUIRED])
@pytest.mark.parametrize("absent", [None, ""])
def test_an_optional_key_without_a_value_has_its_default(name: str, key: str, absent: object) -> None:
    assert getattr(load_with(name, key, absent), key) == DEFAULTS[key]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a": 1,}',
        b"\xff\xfe{\0}\0",
        b'{"API_ID": "\xff"}',
        b"// comment\n{}",
        b'{"RATE_LIMIT_PER_MINUTE": ' + b"9" * 5000 + b"}x",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_what_is_not_json_is_refused_under_the_name_of_its_file(name: str, data: bytes) -> None:
    assert refusal(name, data).startswith(f"/home/{name} is not valid JSON")


@pytest.mark.parametrize("data", [b"[]", b"null", b'"text"', b"5", b"true"])
@pytest.mark.parametrize("name", FILES)
def test_json_that_is_no_object_is_refused(name: str, data: bytes) -> None:
    assert "must hold a JSON object" in refusal(name, data)


SCALARS = st.none() | st.booleans() | st.floats() | st.text() | st.integers()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KEYS), SCALARS | st.lists(SCALARS))
def test_no_value_at_all_is_more_than_a_refusal(place: tuple[str, str], value: object) -> None:
    try:
        load_with(*place, value)
    except relay.Deferred as refused:
        assert place[1] in shown(relay, refused) and refused.code == "4.3.5"


def test_a_byte_order_mark_does_no_harm() -> None:
    data = b"\xef\xbb\xbf" + json.dumps(CONFIG).encode()

    assert load("relay-config.json", data).DEFAULT_FROM_ADDRESS == "alerts@domain.com"


def test_comments_are_passed_over_and_unknown_keys_reported_once(tmp_path: Path) -> None:
    log = relay.Log()
    log.path = str(tmp_path / "log")
    values = {**CONFIG, "_comment": [], "_comment_X": 5, "NOTIFY_ON_OVERIDE": False, "x\n[2030] forged": 1}

    config = load("relay-config.json", json.dumps(values).encode(), log)

    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 2
    assert "'NOTIFY_ON_OVERIDE'" in lines[0] and "/home/relay-config.json" in lines[0]
    assert config.NOTIFY_ON_OVERRIDE is True


@pytest.mark.parametrize(
    ("given_url", "used"),
    [
        ("https://graph.microsoft.us", "https://graph.microsoft.us"),
        ("https://graph.microsoft.us/", "https://graph.microsoft.us"),
        ("https://host:8443/base/", "https://host:8443/base"),
        ("HTTPS://host", "HTTPS://host"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.8.9.1:8080", "http://127.8.9.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_an_endpoint_is_https_or_on_this_machine(given_url: str, used: str) -> None:
    endpoint = load_with("api-secrets.json", "API_ENDPOINT", given_url).API_ENDPOINT

    assert endpoint == used


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254", "http://localhost:40342", "https://host/msi/token"]
)
@pytest.mark.parametrize("key", ["IDENTITY_ENDPOINT", "IMDS_ENDPOINT", "AZURE_POD_IDENTITY_AUTHORITY_HOST"])
def test_a_metadata_service_is_on_this_machine_or_beside_it(key: str, url: str) -> None:
    assert getattr(load_with("api-secrets.json", key, f"{url}/"), key) == url


def test_values_are_read_as_they_are_meant() -> None:
    values = {**CONFIG, "RATE_LIMIT_PER_MINUTE": 0, "SILENT_OVERRIDE_ADDRESSES": ["Device@Domain.com"]}
    config = load("relay-config.json", json.dumps(values).encode())
    ends = load_with("api-secrets.json", "API_EXPIRATION_DATE", "2028-04-05").API_EXPIRATION_DATE

    assert config.RATE_LIMIT_PER_MINUTE == 0
    assert config.SILENT_OVERRIDE_ADDRESSES == ["device@domain.com"]
    assert ends == "2028-04-05"
