"""Any mistake in configuration or secrets keeps the mail, and the message says what to do."""

from __future__ import annotations

import json

import pytest
from conftest import Deliver
from helpers.home import RelayHome
from helpers.mail import mail
from sandbox import Sandbox

CONFIG = "relay-config.json"
SECRETS = "api-secrets.json"


@pytest.fixture
def deferral(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> Deferral:
    return Deferral(sandbox, home, deliver)


class Deferral:
    """Delivers, and checks what all such faults have in common."""

    def __init__(self, sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
        self.sandbox = sandbox
        self.home = home
        self.deliver = deliver

    def expect(self, *texts: str) -> None:
        """Deliver, and expect these texts in what Postfix logs and in the relay's own log."""
        delivery = self.deliver(mail(), "to@external.com")
        assert delivery[:3] == ("deferred", "4.3.5", 75)
        assert self.sandbox.requests == []
        for text in texts:
            assert text in delivery.text
            assert text in self.home.log()
        assert "Traceback" not in delivery.text + self.home.log()
        assert "client-secret" not in delivery.text + self.home.log()


@pytest.mark.parametrize(
    ("name", "text"), [(CONFIG, "Config file not found"), (SECRETS, "Secrets file not found")]
)
def test_a_missing_file(deferral: Deferral, name: str, text: str) -> None:
    file = deferral.home.path / name
    file.unlink()
    deferral.expect(f"{text}: {file}")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o666, 0o610, 0o601, 0o602, 0o777])
def test_secrets_open_to_others(deferral: Deferral, mode: int) -> None:
    (deferral.home.path / SECRETS).chmod(mode)
    deferral.expect(f"permissions are {mode:#o}, expected 0o600")


def test_secrets_only_readable_by_their_owner_are_fine(home: RelayHome, deliver: Deliver) -> None:
    (home.path / SECRETS).chmod(0o400)
    assert deliver(mail(), "to@external.com").verdict == "sent"


def test_the_permissions_of_what_a_link_leads_to_count(deferral: Deferral) -> None:
    file = deferral.home.path / SECRETS
    target = file.rename(file.with_name("elsewhere"))
    file.symlink_to(target)
    target.chmod(0o644)
    deferral.expect("permissions are 0o644, expected 0o600")


@pytest.mark.parametrize("value", [None, "", "Graph", "sendgrid", 1, True, ["graph"], {"graph": 1}], ids=repr)
def test_an_unknown_provider(deferral: Deferral, value: object) -> None:
    deferral.home.secrets(API_PROVIDER=value)
    deferral.expect("API_PROVIDER must be 'graph' or 'ses'")


@pytest.mark.parametrize("key", ["ADMIN_NOTIFICATION_EMAIL", "DEFAULT_FROM_ADDRESS"])
@pytest.mark.parametrize("value", [None, ""], ids=["left out", "empty"])
def test_a_missing_setting(deferral: Deferral, key: str, value: str | None) -> None:
    deferral.home.configure(**{key: value})
    deferral.expect(f"{key} is required")


@pytest.mark.parametrize("key", ["API_TENANT_OR_REGION", "API_ID", "API_SECRET"])
def test_a_missing_secret(deferral: Deferral, key: str) -> None:
    deferral.home.secrets(**{key: None})
    deferral.expect(f"{key} is required")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ADMIN_NOTIFICATION_EMAIL", ["admin@domain.com"], "one e-mail address"),
        ("ADMIN_NOTIFICATION_EMAIL", "admin", "one e-mail address"),
        ("DEFAULT_FROM_ADDRESS", "a@domain.com, b@domain.com", "one e-mail address"),
        ("NOTIFY_ON_OVERRIDE", "true", "true or false"),
        ("NOTIFY_ON_OVERRIDE", 1, "true or false"),
        ("SILENT_OVERRIDE_ADDRESSES", "device@domain.com", "an array of strings"),
        ("VALID_FROM_ADDRESSES", [1], "an array of strings"),
        ("TRUSTED_DEVICE_IPS", {"10.1.1.1": 1}, "an array of strings"),
        ("TRUSTED_DEVICE_DOMAINS", 1.5, "an array of strings"),
        ("RATE_LIMIT_PER_MINUTE", "28", "a whole number"),
        ("RATE_LIMIT_PER_MINUTE", -1, "a whole number"),
        ("RATE_LIMIT_PER_MINUTE", 1.5, "a whole number"),
        ("RATE_LIMIT_PER_MINUTE", True, "a whole number"),
        ("LOG_FILE_PATH", 1, "a string"),
        ("CA_BUNDLE", [], "a string"),
        ("HTTPS_PROXY", False, "a string"),
    ],
)
def test_a_setting_of_the_wrong_type(deferral: Deferral, key: str, value: object, expected: str) -> None:
    deferral.home.configure(**{key: value})
    deferral.expect(f"{key} must be {expected}")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("API_SECRET", 12345, "a string"),
        ("API_EXPIRATION_DATE", "05.04.2028", "YYYY-MM-DD"),
        ("API_EXPIRATION_DATE", 20280405, "YYYY-MM-DD"),
        ("API_ENDPOINT", "http://graph.example.com", "https://"),
        ("API_LOGIN_ENDPOINT", "http://login.example.com", "https://"),
        ("API_ENDPOINT", "https://user:password@graph.example.com", "https://"),
        ("API_ENDPOINT", "http://localhost.example.com", "https://"),
        ("API_ENDPOINT", "graph.example.com", "https://"),
        ("API_ENDPOINT", "file:///etc/passwd", "https://"),
    ],
)
def test_a_secret_of_the_wrong_type(deferral: Deferral, key: str, value: object, expected: str) -> None:
    deferral.home.secrets(**{key: value})
    deferral.expect(f"{key} must be", expected)


@pytest.mark.parametrize("name", [CONFIG, SECRETS])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"\0" * 100, b"[" * 100_000],
    ids=["empty", "truncated", "array", "string", "null", "no UTF-8", "NULs", "deep"],
)
def test_a_file_that_is_no_json_object(deferral: Deferral, name: str, content: bytes) -> None:
    deferral.home.put(name, content)
    deferral.expect(name, "JSON")


@pytest.mark.parametrize("name", [CONFIG, SECRETS])
def test_a_directory_in_the_place_of_a_file(deferral: Deferral, name: str) -> None:
    file = deferral.home.path / name
    file.unlink()
    file.mkdir(mode=0o700)
    deferral.expect(name)


@pytest.mark.parametrize("name", [CONFIG, SECRETS])
def test_an_unreadable_file(deferral: Deferral, name: str) -> None:
    (deferral.home.path / name).chmod(0)
    deferral.expect(f"{name} cannot be read: Permission denied")


def test_a_certificate_file_that_is_not_there(deferral: Deferral) -> None:
    deferral.home.configure(CA_BUNDLE="/nonexistent.pem")
    deferral.expect("CA_BUNDLE '/nonexistent.pem'")


def test_an_unusable_region(deferral: Deferral) -> None:
    deferral.home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="no region")
    deferral.expect("no region")


def test_comments_and_unknown_keys_stop_nothing(home: RelayHome, deliver: Deliver) -> None:
    home.configure(_comment="text", _comment_silent=["text"], NOTIFY_ON_OVERIDE=True)
    home.secrets(_comment_graph={"a": 1})
    assert deliver(mail(), "to@external.com") == ("sent", "2.0.0", 0, b"")
    assert "NOTIFY_ON_OVERIDE" in home.log()
    assert "_comment" not in home.log()


def test_a_byte_order_mark_stops_nothing(home: RelayHome, deliver: Deliver) -> None:
    for name, mode in ((CONFIG, 0o644), (SECRETS, 0o600)):
        home.put(name, b"\xef\xbb\xbf" + (home.path / name).read_bytes(), mode)
    assert deliver(mail(), "to@external.com").verdict == "sent"


def test_a_device_entry_that_is_no_address_stops_nothing(home: RelayHome, deliver: Deliver) -> None:
    home.configure(TRUSTED_DEVICE_IPS=["10.1.1.X", "", "10.1.1.1"], TRUSTED_DEVICE_DOMAINS=["domain.com"])
    delivery = deliver(mail(), "to@external.com", sender="scan@domain.com", client="10.1.1.1")
    assert delivery.verdict == "sent"
    assert "trusted device '10.1.1.1'" in home.log()


def test_the_values_in_the_wrong_place_are_not_shown(deferral: Deferral) -> None:
    secrets = json.loads((deferral.home.path / SECRETS).read_text())
    deferral.home.secrets(API_PROVIDER=secrets["API_SECRET"])
    deferral.expect("API_PROVIDER must be 'graph' or 'ses'")
