"""Graph without a secret: an assertion signed with a certificate's key."""

from __future__ import annotations

import json
import os
import urllib.parse
from typing import Any, Callable

import pytest
from conftest import Deliver
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import PrivateFormat
from helpers.answers import provided
from helpers.assertions import read
from helpers.by_hand import by_hand, in_days
from helpers.certificates import Pair, pair, rsa_key, use_certificate
from helpers.home import RelayHome
from helpers.interpreter import interpreter, plant
from helpers.mail import mail
from helpers.state import TOKEN
from sandbox import Sandbox


@pytest.fixture
def made(sandbox: Sandbox, home: RelayHome) -> Pair:
    """A registered certificate in use."""
    found = pair()
    sandbox.certificates = [found.der]
    use_certificate(home, found)
    return found


def asked(sandbox: Sandbox) -> list[dict[str, str]]:
    """Return the forms of the requests for a token."""
    bodies = [request.body.decode() for request in sandbox.requests if request.role == "token"]
    return [dict(urllib.parse.parse_qsl(body)) for body in bodies]


def test_the_assertion_is_what_entra_s_documents_ask_for(
    sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver
) -> None:
    for _ in range(2):
        assert deliver(mail(), "to@external.com").verdict == "sent"
        (home.path / TOKEN).unlink()
    first, second = asked(sandbox)
    assert sorted(first) == ["client_assertion", "client_assertion_type", "client_id", "grant_type", "scope"]
    ours, other = read(first["client_assertion"]), read(second["client_assertion"])
    assert sorted(ours.header) == ["alg", "typ", "x5t#S256"]
    assert sorted(ours.claims) == ["aud", "exp", "iat", "iss", "jti", "nbf", "sub"]
    assert ours.claims["exp"] - ours.claims["iat"] == 600
    assert ours.claims["nbf"] == ours.claims["iat"]
    assert ours.claims["jti"] != other.claims["jti"]


@pytest.mark.parametrize("one_file", [True, False])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_key_and_certificate_may_be_in_one_file_in_any_order(
    sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver, one_file: bool, form: PrivateFormat
) -> None:
    use_certificate(home, made, one_file=one_file)
    key = made.key_pem(form=form)
    home.put("relay.pem" if one_file else "relay.key", key + made.pem if one_file else key)
    assert deliver(mail(), "to@external.com").verdict == "sent"


def test_the_chain_may_follow(sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver) -> None:
    home.put("relay.pem", made.pem + pair(rsa_key(1)).pem + made.key_pem())
    assert deliver(mail(), "to@external.com").verdict == "sent"


@pytest.mark.parametrize("form", ["older name", "trusted one first", "another program's key first"])
def test_other_blocks_and_names_do_not_matter(
    sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver, form: str
) -> None:
    content = made.pem + made.key_pem()
    if form == "older name":
        content = content.replace(b" CERTIFICATE-", b" X509 CERTIFICATE-")
    elif form == "trusted one first":
        content = made.pem.replace(b" CERTIFICATE-", b" TRUSTED CERTIFICATE-") + content
    else:
        content = made.key_pem().replace(b" PRIVATE KEY-", b" OPENSSH PRIVATE KEY-") + content
    home.put("relay.pem", content, 0o600)
    assert deliver(mail(), "to@external.com").verdict == "sent"


def test_the_token_is_kept_and_the_certificate_not_read_again(
    sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver
) -> None:
    assert deliver(mail(), "to@external.com").verdict == "sent"
    times = os.stat(home.path / "relay.pem")
    # Of the same size and age, and in the same file, but not a certificate.
    (home.path / "relay.pem").write_bytes(b"x" * times.st_size)
    os.utime(home.path / "relay.pem", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(asked(sandbox)) == 1


def test_another_certificate_does_not_use_the_token_of_the_old_one(
    sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver
) -> None:
    assert deliver(mail(), "to@external.com").verdict == "sent"
    other = pair(rsa_key(1))
    sandbox.certificates.append(other.der)
    use_certificate(home, other)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    first, second = (read(form["client_assertion"]).header["x5t#S256"] for form in asked(sandbox))
    assert first != second


def test_a_revoked_token_is_replaced_once(
    sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver
) -> None:
    assert deliver(mail(), "to@external.com").verdict == "sent"
    sandbox.tokens.clear()
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(asked(sandbox)) == 2


@pytest.mark.parametrize("change", [{"token": 5}, {"token": {"token": "x\r\ny"}}, {"token": {"ends": 5}}, {}])
def test_a_damaged_cache_is_replaced(
    sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver, change: dict[str, object]
) -> None:
    assert deliver(mail(), "to@external.com").verdict == "sent"
    content = json.loads((home.path / TOKEN).read_text())
    home.put(TOKEN, json.dumps({**content, **change}).encode() if change else b"\0{")
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(asked(sandbox)) == 2


def put(
    name: str, content: Callable[[Pair], bytes], mode: int = 0o600
) -> Callable[[RelayHome, Pair], object]:
    return lambda home, made: home.put(name, content(made), mode)


def with_secrets(**changes: Any) -> Callable[[RelayHome, Pair], object]:
    return lambda home, made: use_certificate(home, made, **changes)


def ec_pair(_made: Pair) -> bytes:
    found = pair(ec.generate_private_key(ec.SECP256R1()))
    return found.pem + found.key_pem()


FAULTS: dict[str, tuple[Callable[[RelayHome, Pair], object], str]] = {
    "no file": (with_secrets(API_CERTIFICATE_PATH="none.pem"), "Certificate file not found: HOME/none.pem"),
    "no key file": (with_secrets(API_PRIVATE_KEY_PATH="a.key"), "Private key file not found: HOME/a.key"),
    "no path": (
        with_secrets(API_CERTIFICATE_PATH=None),
        "API_CERTIFICATE_PATH is required if API_CREDENTIAL is 'certificate' (HOME/api-secrets.json)",
    ),
    "with SES": (
        with_secrets(API_PROVIDER="ses"),
        "API_CREDENTIAL 'certificate' is for Graph: with SES it must be 'secret' or 'machine'"
        " (HOME/api-secrets.json)",
    ),
    "open to others": (
        put("relay.pem", lambda made: made.pem + made.key_pem(), 0o640),
        "file HOME/relay.pem: permissions are 0o640, expected 0o600",
    ),
    "no key in it": (
        put("relay.pem", lambda made: made.pem),
        "HOME/relay.pem does not contain a readable private key in PEM",
    ),
    "no certificate in it": (
        put("relay.pem", lambda made: made.key_pem()),
        "HOME/relay.pem does not contain a readable certificate in PEM",
    ),
    "in DER": (
        put("relay.pem", lambda made: made.der),
        "HOME/relay.pem does not contain a readable private key in PEM",
    ),
    "passphrase": (
        put("relay.pem", lambda made: made.pem + made.key_pem(b"hunter22")),
        "the private key in HOME/relay.pem has a passphrase: remove it with openssl pkey",
    ),
    "passphrase of the old kind": (
        put("relay.pem", lambda made: made.pem + made.key_pem(b"hunter22", PrivateFormat.TraditionalOpenSSL)),
        "the private key in HOME/relay.pem has a passphrase: remove it with openssl pkey",
    ),
    "damaged key": (
        put("relay.pem", lambda made: made.pem + made.key_pem().replace(b"M", b"", 3)),
        "HOME/relay.pem does not contain a readable private key in PEM",
    ),
    "damaged certificate": (
        put("relay.pem", lambda made: made.key_pem() + made.pem.replace(b"M", b"", 3)),
        "HOME/relay.pem does not contain a readable certificate in PEM",
    ),
    "EC": (
        put("relay.pem", ec_pair),
        "the private key in HOME/relay.pem must be RSA, of at least 2048 bits, for Entra",
    ),
    "short": (
        put("relay.pem", lambda made: made.pem + pair(rsa_key(0, 1024)).key_pem()),
        "the private key in HOME/relay.pem must be RSA, of at least 2048 bits, for Entra",
    ),
    "another's key": (
        put("relay.pem", lambda made: made.pem + pair(rsa_key(1)).key_pem()),
        "the private key in HOME/relay.pem is not that of the certificate in HOME/relay.pem",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_cannot_be_used_keep_the_mail_and_say_why(
    sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver, fault: str
) -> None:
    make, text = FAULTS[fault]
    make(home, made)
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.3.5", 75)
    assert text.replace("HOME", str(home.path)) in delivery.text
    assert "\n" not in delivery.text
    assert sandbox.requests == []


@pytest.mark.parametrize(("begins", "ends"), [(-20, -1), (1, 20)])
def test_dates_are_entra_s_to_judge(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, begins: float, ends: float
) -> None:
    found = pair(begins=begins, ends=ends)
    sandbox.certificates = [found.der]
    use_certificate(home, found)
    delivery = deliver(mail(), "to@external.com")
    assert delivery.verdict == "bounced"
    assert (
        "AADSTS700027" in delivery.text and "; API_CERTIFICATE_PATH has expired, or is not" in delivery.text
    )


def test_one_that_is_not_registered_is_refused(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    use_certificate(home, pair())
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    delivery = deliver(mail(), "to@external.com")
    assert (delivery.verdict, delivery.dsn) == ("deferred", "4.7.0")
    assert "AADSTS700027" in delivery.text


@pytest.mark.parametrize("ahead", [-1200, 1200])
def test_a_wrong_clock_is_told(
    sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver, ahead: int
) -> None:
    sandbox.clock_ahead = ahead
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.3.5", 75)
    assert "AADSTS700024" in delivery.text and delivery.text.endswith("; timedatectl set-ntp true")


@pytest.mark.parametrize("days", [10, 40])
def test_its_date_is_told_from_the_certificate(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, days: int
) -> None:
    found = pair(ends=days + 0.01)
    sandbox.certificates = [found.der]
    # The date in the configuration does not count.
    use_certificate(home, found, API_EXPIRATION_DATE=in_days(365 if days == 10 else 1))
    # Even if the token is cached and the certificate is not read.
    for _ in range(2):
        assert deliver(mail(), "to@external.com").verdict == "sent"
        (home.path / ".notice-state").unlink(missing_ok=True)
    notices = [message for message in sandbox.accepted if message.to == ["admin@domain.com"]]
    assert len(notices) == (2 if days == 10 else 0)
    for notice in notices:
        assert f"credentials of this relay expire in 10 days, on {in_days(10)}.".encode() in notice.raw
        assert b"Register a new certificate" in notice.raw and b"API_SECRET" not in notice.raw
    status = json.loads(by_hand(home, "--status", "--format", "json").stdout)
    assert status["credential_days"] == days


def test_a_renewal_that_fails_costs_nothing_while_the_token_is_good(
    sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver
) -> None:
    sandbox.token_lifetime = 200
    assert deliver(mail(), "to@external.com").verdict == "sent"
    refusal = provided("entra/transient-503")
    sandbox.answer("token", refusal._replace(times=None))
    assert deliver(mail(), "to@external.com").verdict == "sent"
    (warning,) = [line for line in home.log().splitlines() if "WARNING" in line]
    assert "AADSTS90033" in warning and "; the last token is still valid" in warning
    content = json.loads((home.path / TOKEN).read_text())
    home.put(TOKEN, json.dumps({**content, "ends": content["obtained"] + 59}).encode())
    assert deliver(mail(), "to@external.com").verdict == "deferred"


def test_without_cryptography_its_package_is_named(
    sandbox: Sandbox, home: RelayHome, made: Pair, deliver: Deliver
) -> None:
    python = interpreter(home, "--system-site-packages")
    plant(python, "cryptography", "raise ImportError('none')")
    delivery = deliver(mail(), "to@external.com", python=python)
    assert delivery[:3] == ("deferred", "4.3.5", 75)
    assert delivery.text.startswith(
        "4.3.5 cryptography is required for the Graph provider: ImportError: none"
    )
    assert sandbox.requests == []
