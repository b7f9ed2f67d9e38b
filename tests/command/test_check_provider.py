"""--check tries the provider for real: libraries, names, TLS, credentials, rights and the clock."""

from __future__ import annotations

import time
from email.utils import formatdate
from types import ModuleType
from typing import Callable

import pytest
from helpers.answers import provided
from helpers.chain import EDIT_CONFIG, Chain, expect_fault, fault
from helpers.interpreter import interpreter, plant
from sandbox import Answer, Certificate, Sandbox, ses_query_error


def wrong_roles(roles: object) -> Callable[[Chain], object]:
    return lambda chain: setattr(chain.sandbox, "roles", roles)


def ses_quota(**values: float) -> Callable[[Chain], object]:
    def make(chain: Chain) -> None:
        chain.use_ses()
        for name, value in values.items():
            setattr(chain.sandbox, name, value)

    return make


def ses_refusal(answer: Answer) -> Callable[[Chain], object]:
    def make(chain: Chain) -> None:
        chain.use_ses()
        chain.sandbox.answer("quota", answer._replace(times=None))

    return make


def ses_for_each_sender(chain: Chain) -> None:
    chain.use_ses()
    chain.configure(RATE_LIMIT_SCOPE="sender")


GRANT = (
    "right with RBAC for Applications: try --send-test;"
    " else grant the application permission Mail.Send, with admin consent"
)
UNREADABLE = ("the token's roles cannot be read", "check that the app has Mail.Send")
PROVIDER_FAULTS = {
    "no role": fault("warn", wrong_roles([]), "the token's roles are [], without Mail.Send", GRANT),
    "another role": fault(
        "warn",
        wrong_roles(["User.Read.All"]),
        "the token's roles are ['User.Read.All'], without Mail.Send",
        GRANT,
    ),
    "token without readable roles": fault("warn", wrong_roles(None), *UNREADABLE),
    "roles that are none": fault("warn", wrong_roles(5), *UNREADABLE),
    "another secret": fault(
        "FAIL",
        lambda chain: setattr(chain.sandbox, "secret", "another"),
        "5.7.8 Failed to obtain Graph token: HTTP 401 invalid_client: AADSTS7000215: Invalid client secret"
        " provided. Ensure the secret being sent in the request is the client secret value, not the client"
        " secret ID, for a secret added to app 'client-id'. Trace ID: … Correlation ID: …",
        "API_SECRET is not the Value of a client secret, but perhaps its Secret ID; check api-secrets.json",
    ),
    "another tenant": fault(
        "FAIL",
        lambda chain: chain.secrets(API_TENANT_OR_REGION="elsewhere"),
        "5.7.8 Failed to obtain Graph token: HTTP 400 invalid_request: AADSTS90002: Tenant 'elsewhere'"
        " not found. …",
        "API_TENANT_OR_REGION is not a tenant's id; check api-secrets.json",
    ),
    "provider that is away": fault(
        "FAIL",
        lambda chain: chain.sandbox.stop(),
        "4.4.1 Failed to obtain Graph token: HTTPSConnectionPool(host='localhost', port=…: Failed to"
        " establish a new connection: [Errno 111] Connection refused…",
        "check DNS, firewall and HTTPS_PROXY",
    ),
    "Graph whose name does not resolve": fault(
        "FAIL",
        lambda chain: chain.secrets(API_ENDPOINT="https://-.x"),
        "'-.x' does not resolve: Name or service not known",
        "check /etc/resolv.conf",
        "FAIL  4.4… Graph cannot be reached: …; …",
    ),
    "proxy whose name does not resolve": fault(
        "FAIL",
        lambda chain: chain.configure(HTTPS_PROXY="http://user:client-secret@-.x:3128"),
        "'-.x' does not resolve: Name or service not known",
        "check /etc/resolv.conf",
        "FAIL  4.4.1 Failed to obtain Graph token: …; check DNS, firewall and HTTPS_PROXY",
    ),
    "proxy with a name that no library takes": fault(
        "FAIL",
        lambda chain: chain.configure(HTTPS_PROXY=f"http://user:client-secret@{'x' * 70}:3128"),
        f"'{'x' * 70}' does not resolve: …",
        "check /etc/resolv.conf",
        "FAIL  unexpected LocationParseError: Failed to parse: …",
    ),
    "SES's other key": fault(
        "FAIL",
        lambda chain: chain.use_ses(API_ID="another"),
        "5.7.8 SES get_send_quota failed: HTTP 403 InvalidClientTokenId: The security token included in the"
        " request is invalid.",
        "API_ID is not an access key id, or that key is inactive; check api-secrets.json",
    ),
    "SES's other secret": fault(
        "FAIL",
        lambda chain: chain.use_ses(API_SECRET="another"),
        "5.7.8 SES get_send_quota failed: HTTP 403 SignatureDoesNotMatch: The request signature we calculated"
        " does not match the signature you provided. Check your AWS Secret Access Key and signing method."
        " Consult the service documentation for details.",
        "API_SECRET is not the secret access key of API_ID; check api-secrets.json",
    ),
    "SES and a wrong clock": fault(
        "FAIL",
        ses_refusal(provided("ses/quota-clock-ahead", stamp="20261122T100000Z")),
        "4.3.5 SES get_send_quota failed: HTTP 403 SignatureDoesNotMatch: Signature not yet current:"
        " 20261122T100000Z is still later than 20261122T095000Z",
        "timedatectl set-ntp true",
    ),
    "no such region": fault(
        "FAIL",
        lambda chain: chain.use_ses(API_TENANT_OR_REGION="EU West"),
        "4.3.5 API_TENANT_OR_REGION 'EU West' is not an AWS region",
        "the configuration or the secrets are missing or invalid",
    ),
    "key that may not read SES's quota": fault(
        "warn",
        ses_refusal(provided("ses/quota-access-denied")),
        "SES get_send_quota failed: HTTP 403 AccessDenied: User is not authorized to perform:"
        " ses:GetSendQuota",
        "allow the key ses:GetSendQuota",
    ),
    "SES's door closed by somebody else": fault(
        "FAIL",
        ses_refusal(ses_query_error(403, "Blocked", "Ask your firewall's admin")),
        "5.7.1 SES get_send_quota failed: HTTP 403 Blocked: Ask your firewall's admin",
        "check what the app or key may send as",
    ),
    "SES's quota nearly used": fault(
        "warn",
        ses_quota(daily_quota=1000, sent_today=800),
        "https://localhost:… accepts the key: 14 messages a second, 800 of 1000 sent in the last 24 hours",
        "ask AWS for a higher sending quota",
    ),
    "SES's settings for Graph": fault(
        "warn",
        lambda chain: chain.configure(SES_CONFIGURATION_SET="a", SES_MESSAGE_TAGS={"b": "c"}),
        "no effect without SES: SES_CONFIGURATION_SET, SES_MESSAGE_TAGS",
        EDIT_CONFIG,
    ),
    "SES for each sender": fault(
        "warn",
        ses_for_each_sender,
        "RATE_LIMIT_SCOPE counts as 'relay': SES limits the whole account",
        EDIT_CONFIG,
    ),
}


@pytest.mark.parametrize("name", PROVIDER_FAULTS)
def test_each_fault_is_told_of_with_its_fix(chain: Chain, name: str) -> None:
    expect_fault(chain, PROVIDER_FAULTS[name])


def test_a_sound_chain_to_ses(chain: Chain) -> None:
    chain.use_ses()
    checked = chain.check()
    assert (checked.status, checked.problems) == (0, [])
    url = chain.sandbox.url
    for text in (
        f"{url} accepts the key: 14 messages a second, 1 of 50000 sent in the last 24 hours",
        "botocore",
    ):
        assert any(line.startswith(f"ok    {text}") for line in checked.lines)


def test_a_quota_that_is_not_used_up_is_fine(chain: Chain) -> None:
    chain.use_ses()
    for chain.sandbox.daily_quota, chain.sandbox.sent_today in ((1000, 799), (-1, 5000)):
        assert chain.check().problems == []


@pytest.mark.parametrize("certificate", ["unknown-ca", "wrong-host", "expired"])
def test_tls_that_is_not_to_be_trusted(chain: Chain, certificate: Certificate) -> None:
    with Sandbox(certificate=certificate) as impostor:
        chain.secrets(API_LOGIN_ENDPOINT=impostor.url)
        (problem,) = chain.check().problems
    assert problem.startswith("FAIL  4.7.5 Failed to obtain Graph token: ")
    assert "CERTIFICATE_VERIFY_FAILED" in problem
    assert problem.endswith("; check CA_BUNDLE and this machine's clock")
    assert impostor.requests == []


CLOCK = "this machine's clock is … s off the provider's; timedatectl set-ntp true"


def test_how_far_off_a_clock_may_be(relay: ModuleType) -> None:
    assert (relay.CLOCK_WARNING_SECONDS, relay.CLOCK_FAILURE_SECONDS) == (30, 300)


# Not close to the limits: seconds may pass between answer and comparison.
@pytest.mark.parametrize(
    ("off", "expected"),
    [
        (10, []),
        (50, [f"warn  {CLOCK}"]),
        (280, [f"warn  {CLOCK}"]),
        (320, [f"FAIL  {CLOCK}"]),
    ],
)
@pytest.mark.parametrize("direction", [1, -1], ids=["ahead", "behind"])
def test_the_clock_is_compared_with_the_providers(
    chain: Chain, off: int, direction: int, expected: list[str]
) -> None:
    chain.sandbox.clock_ahead = direction * off
    chain.expect(chain.check().problems, expected)


@pytest.mark.parametrize("date", ["yesterday", "Thu, 31 Dec 99999 23:59:59 GMT"])
def test_a_date_that_cannot_be_read(chain: Chain, date: str) -> None:
    chain.sandbox.answer("other", Answer(headers={"Date": date}))
    expected = "warn  the provider's answer has no usable Date; check the clock: timedatectl"
    assert chain.check().problems == [expected]


def test_the_clock_is_looked_at_also_where_the_credentials_are_refused(chain: Chain) -> None:
    chain.sandbox.secret = "another"
    late = formatdate(time.time() - 900, usegmt=True)
    chain.sandbox.answer("token", Answer(headers={"Date": late}))
    chain.expect(chain.check().problems, ["FAIL  5.7.8 …; check api-secrets.json", f"FAIL  {CLOCK}"])


@pytest.mark.parametrize(
    ("module", "package", "needed"),
    [("requests", "python3-requests", "requests"), ("botocore", "python3-boto3", "boto3")],
)
def test_a_library_that_is_missing(chain: Chain, module: str, package: str, needed: str) -> None:
    if module == "botocore":
        chain.use_ses()
    python = interpreter(chain.home, "--system-site-packages")
    plant(python, module, "raise ImportError('not\\nthere')")
    problems = chain.check(prefix=(python, "-I")).problems
    expected = [
        f"FAIL  {module} cannot be imported: ImportError: not there;"
        f" apt install {package}, or dnf install {package}",
        f"FAIL  4.3.5 {needed} is required for the … provider: ImportError: not there;"
        " install it for /usr/bin/python3",
    ]
    chain.expect(problems, expected)


def test_what_the_provider_echoes_of_the_secret_is_not_shown(chain: Chain) -> None:
    """Chain.check() looks for it in all that is printed."""
    chain.sandbox.roles = ["client-secret", "Mail.Send"]
    assert any("[secret], Mail.Send" in line for line in chain.check().lines)
    echo = b'{"error": "invalid_client", "error_description": "no such secret: client-secret"}'
    chain.sandbox.answer("token", Answer(401, {}, echo))
    (problem,) = chain.check().problems
    assert "no such secret: [secret]" in problem


def test_what_large_messages_will_meet_is_said(chain: Chain) -> None:
    """--check looks at the drafts, because the token does not show what RBAC for Applications grants."""
    chain.sandbox.roles = ["Mail.Send"]
    assert chain.check().problems == []
    chain.sandbox.permissions = {"Mail.Send"}
    text = "warn  messages over 4 MB cannot be sent: the app has no Mail.ReadWrite; grant Mail.ReadWrite"
    (problem,) = chain.check().problems
    assert problem.startswith(text) and "LARGE_MESSAGES" in problem
    chain.configure(LARGE_MESSAGES="refuse")
    assert not [line for line in chain.check().problems if "Mail.ReadWrite" in line]


def test_the_mailbox_of_that_look_may_have_any_name(chain: Chain) -> None:
    chain.sandbox.roles = ["Mail.Send"]
    chain.configure(DEFAULT_FROM_ADDRESS="ups#1@example.org")
    chain.check()
    [look] = (request.path for request in chain.sandbox.requests if request.role == "find")
    assert look.startswith("/v1.0/users/ups%231@example.org/mailFolders/drafts/messages?")
