"""--check says who the relay is without a secret, for how long, and whether it may send."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Callable

import pytest
from helpers.assertions import Federation
from helpers.by_hand import in_days
from helpers.certificates import pair, rsa_key, use_certificate
from helpers.chain import Chain, expect_fault, fault
from helpers.interpreter import interpreter, plant
from helpers.metadata import Kind, Metadata
from helpers.script import change_constants
from sandbox import Answer


def with_certificate(
    begins: float = -1, ends: float = 365.01, registered: bool = True, **changes: bool
) -> Callable[[Chain], object]:
    def make(chain: Chain) -> None:
        found = pair(begins=begins, ends=ends)
        chain.sandbox.certificates = [found.der] if registered else []
        use_certificate(chain.home, found, **changes)

    return make


@pytest.fixture(params=["vm", "app service", "arc"])
def service(request: pytest.FixtureRequest, chain: Chain) -> Iterator[Metadata]:
    """Each kind of metadata service, used by the chain."""
    with Metadata(chain.sandbox, request.param) as found:
        found.use(chain.home)
        yield found


@pytest.fixture
def machine(chain: Chain) -> Iterator[Metadata]:
    """A virtual machine's metadata service."""
    kind: Kind = "vm"
    with Metadata(chain.sandbox, kind) as found:
        found.use(chain.home)
        yield found


@pytest.mark.parametrize("one_file", [True, False])
def test_a_certificate_that_is_sound(chain: Chain, one_file: bool) -> None:
    made = pair(ends=365.01)
    chain.sandbox.certificates = [made.der]
    use_certificate(chain.home, made, one_file=one_file)
    checked = chain.check()
    assert checked.problems == []
    text = "\n".join(checked.lines)
    assert "\nok    cryptography " in text
    thumbprint = hashlib.sha1(made.der).hexdigest().upper()
    assert f"the certificate CN=relay.domain.com matches its key; its thumbprint is {thumbprint}" in text
    assert f"ok    the credentials expire in 365 days, on {in_days(365)}" in text
    assert "ok    signed in by certificate as client-id, object id object-id" in text
    assert "ok    the token's roles are Mail.ReadWrite, Mail.Send" in text
    assert not any(line in text for line in made.secrets)


def test_a_machine_that_is_sound(chain: Chain, service: Metadata) -> None:
    checked = chain.check()
    assert checked.problems == []
    text = "\n".join(checked.lines)
    assert f"ok    a token was obtained from {service.url}/" in text
    # The seconds that have passed are subtracted.
    assert re.search(", valid for 863[0-9][0-9] s", text)
    assert "ok    signed in by machine as client-id, object id object-id" in text
    assert "cryptography" not in text and "API_EXPIRATION_DATE" not in text


def test_a_workload_that_is_sound(chain: Chain) -> None:
    chain.sandbox.federation = found = Federation(rsa_key(2))
    file = chain.home.put("federated-token", found.token().encode())
    chain.home.secrets(API_CREDENTIAL="machine", API_SECRET=None, AZURE_FEDERATED_TOKEN_FILE=str(file))
    checked = chain.check()
    assert checked.problems == []
    assert "ok    signed in by machine as client-id, object id object-id" in checked.lines


def open_to_others(chain: Chain) -> None:
    with_certificate()(chain)
    (chain.home.path / "relay.pem").chmod(0o640)


def wrong_clock(chain: Chain) -> None:
    with_certificate()(chain)
    chain.sandbox.clock_ahead = 1200


REFUSED = (
    "5.7.8 Failed to obtain Graph token: HTTP 401 invalid_client: AADSTS700027: …",
    "API_CERTIFICATE_PATH has expired, or is not among the certificates of API_ID in Entra;"
    " check api-secrets.json",
)
NEW_ONES = "make new ones, and register them in Entra before you replace API_CERTIFICATE_PATH"
CERTIFICATE_FAULTS = {
    "expires soon": fault(
        "warn", with_certificate(ends=9.01), "the credentials expire in 9 days, on DAY(9)", NEW_ONES
    ),
    "expired": fault(
        "FAIL",
        with_certificate(-20, -2.99),
        "the credentials expired 3 days ago, on DAY(-3)",
        NEW_ONES,
        f"FAIL  {REFUSED[0]}; {REFUSED[1]}",
    ),
    "not yet": fault(
        "FAIL",
        with_certificate(2, 365),
        "it is not valid before …",
        "timedatectl set-ntp true",
        f"FAIL  {REFUSED[0]}; {REFUSED[1]}",
    ),
    "not registered": fault("FAIL", with_certificate(registered=False), *REFUSED),
    "open to others": fault(
        "FAIL",
        open_to_others,
        "4.3.5 Certificate file HOME/relay.pem: permissions are 0o640, expected 0o600",
        "the configuration or the secrets are missing or invalid",
    ),
    "without a path": fault(
        "FAIL",
        lambda chain: chain.home.secrets(API_CREDENTIAL="certificate"),
        "API_CERTIFICATE_PATH is required if API_CREDENTIAL is 'certificate' (HOME/api-secrets.json)",
        "edit HOME/api-secrets.json",
    ),
    "wrong clock": fault(
        "FAIL",
        wrong_clock,
        "4.3.5 Failed to obtain Graph token: HTTP 401 invalid_client: AADSTS700024: …",
        "timedatectl set-ntp true",
        "FAIL  this machine's clock is 1… s off the provider's; timedatectl set-ntp true",
    ),
}


@pytest.mark.parametrize("name", CERTIFICATE_FAULTS)
def test_a_certificate_s_faults_are_told(chain: Chain, name: str) -> None:
    expect_fault(chain, CERTIFICATE_FAULTS[name])


NO_CREDENTIALS = "this machine has no credentials for the relay now"
MACHINE_FAULTS = {
    "html": (
        Answer(200, body=b"<html>"),
        f"4.7.0 …: HTTP 200 <html>; this is not one of Azure's services; {NO_CREDENTIALS}",
    ),
    "slow": (
        Answer(action="hang"),
        "4.3.2 no token from …: … Read timed out…; the provider cannot take the message now",
    ),
    "busy": (Answer(429), "4.3.2 no token from …: HTTP 429; the provider cannot take the message now"),
}


@pytest.mark.parametrize("name", MACHINE_FAULTS)
def test_a_metadata_service_s_faults_are_told(chain: Chain, machine: Metadata, name: str) -> None:
    change_constants(chain.home, METADATA_READ_SECONDS=1)
    chain.compile()
    answer, text = MACHINE_FAULTS[name]
    machine.answer("other", answer)
    chain.expect(chain.check().problems, [f"FAIL  {text}"])


def test_a_metadata_service_that_is_away_is_told(chain: Chain, machine: Metadata) -> None:
    machine.stop()
    expected = f"FAIL  4.7.0 no token from …; is this machine in Azure, or on Arc?; {NO_CREDENTIALS}"
    chain.expect(chain.check().problems, [expected])


def test_a_role_that_is_missing_is_told(chain: Chain, machine: Metadata) -> None:
    chain.sandbox.roles = []
    (problem,) = chain.check().problems
    assert problem.startswith("warn  the token's roles are [], without Mail.Send; ")


def test_cryptography_that_is_missing_is_told_with_its_package(chain: Chain) -> None:
    with_certificate()(chain)
    python = interpreter(chain.home, "--system-site-packages")
    plant(python, "cryptography", "raise ImportError('none')")
    problems = chain.check(prefix=(python,)).problems
    chain.expect(
        [line for line in problems if "cryptography" in line],
        [
            "FAIL  cryptography cannot be imported: ImportError: none;"
            " apt install python3-cryptography, or dnf install python3-cryptography",
            "FAIL  4.3.5 cryptography is required for the Graph provider: ImportError: none; install it for"
            " /usr/bin/python3",
        ],
    )
