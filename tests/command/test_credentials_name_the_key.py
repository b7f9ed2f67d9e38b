"""If the provider refuses the credentials, its number is translated into the key to edit."""

from __future__ import annotations

import re

import pytest
from conftest import Deliver
from helpers.answers import names, provided, stored
from helpers.by_hand import by_hand
from helpers.chain import Chain
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.script import load_script
from helpers.variants import use_ses
from sandbox import Answer, Sandbox, entra_error, ses_error, ses_query_error

HINTS: dict[str, str] = load_script().HINTS


def error_number(name: str) -> str:
    """Return the number in a file, as Entra writes it."""
    return f"AADSTS{stored(name).get('body', {}).get('error_codes', [0])[0]}"


ENTRA = sorted(code for code in HINTS if code.startswith("AADSTS"))
SES = sorted(HINTS.keys() - ENTRA)
SECRET = HINTS["AADSTS7000215"]
REFUSALS = {error_number(name): name for name in names("entra")}
# As long as Entra's own.
LONG = (
    "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value,"
    " not the client secret ID, for a secret added to app '11111111-2222-3333-4444-555555555555'."
)


def refuse(sandbox: Sandbox, code: str) -> None:
    """Make the provider refuse everything with this error."""
    if code in ENTRA:
        refusal = provided(REFUSALS[code], message=LONG)
        sandbox.answer("token", refusal._replace(times=None))
        return
    text = "Email address is not verified." if code == "MessageRejected" else "No."
    # Only some of them have the suffix.
    sandbox.answer("ses", ses_error(403, f"{code}Exception", text)._replace(times=None))
    sandbox.answer("quota", ses_query_error(403, code, text)._replace(times=None))


def test_every_hint_names_a_key_or_the_place_that_is_to_be_edited() -> None:
    assert len(ENTRA) > 8 and len(SES) > 8
    keys = ["API_ID", "API_SECRET", "API_TENANT_OR_REGION", "API_ENDPOINT", "API_CERTIFICATE_PATH"]
    keys += ["AZURE_FEDERATED_TOKEN_FILE", "SES_CONFIGURATION_SET"]
    assert [code for code, hint in HINTS.items() if not any(key in hint for key in keys)] == []


@pytest.mark.parametrize("code", HINTS)
def test_log_postfix_and_check_have_it(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, code: str
) -> None:
    if code in SES:
        use_ses(home)
    refuse(sandbox, code)
    delivery = deliver(mail(), "to@external.com")
    assert delivery.verdict == "bounced"
    assert delivery.text.count(HINTS[code]) == 1
    (line,) = [line for line in home.log().splitlines() if " BOUNCED: " in line]
    assert line.count(HINTS[code]) == 1
    tried = by_hand(home, "--send-test", "to@external.com")
    assert f"; {HINTS[code]}; " in tried.stdout


@pytest.mark.parametrize("code", HINTS)
def test_check_has_it(chain: Chain, code: str) -> None:
    if code in SES:
        chain.use_ses()
    refuse(chain.sandbox, code)
    (problem,) = chain.check().problems
    # A key that may not query the quota can still send.
    expected = "allow the key ses:GetSendQuota" if code == "AccessDenied" else HINTS[code]
    assert f"; {expected}" in problem


@pytest.mark.parametrize("defer", [True, False])
def test_a_notice_has_it_in_a_line_of_its_own(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, defer: bool
) -> None:
    """Long reasons are cut."""
    use_ses(home)
    home.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=defer)
    sandbox.answer("ses", provided("ses/not-verified", message=f"Email address is not verified. {LONG}"))
    sender = "network@domain.com"
    delivery = deliver(mail(From=sender), "to@external.com", sender=sender)
    assert delivery.verdict == ("deferred" if defer else "bounced")
    (notice,) = sandbox.accepted
    assert f"\r\nWhat to do: {HINTS['MessageRejected']}; " in notice.raw.decode()


def test_a_refusal_that_is_remembered_has_it(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    refuse(sandbox, "AADSTS7000215")
    for _ in range(2):
        delivery = deliver(mail(), "to@external.com")
        assert delivery.dsn == "4.7.0"
        assert delivery.text.endswith(f"; {SECRET}; check api-secrets.json")
    assert "; asked again at " in delivery.text
    assert SECRET in by_hand(home, "--status").stdout.splitlines()[0]
    # The last error is shortened, but its advice is kept.
    assert re.search(
        rf"\nlast error: .*; {re.escape(SECRET)}; check api-secrets.json\n", by_hand(home, "--status").stdout
    )


@pytest.mark.parametrize(
    "answer",
    [
        entra_error(401, "invalid_client", 9999999, "Something new."),
        Answer(401, body=b'{"error": "invalid_client", "error_description": "see AADSTS7000215: no"}'),
    ],
    ids=["unknown number", "number elsewhere"],
)
def test_what_is_not_known_is_not_guessed(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    sandbox.answer("token", answer)
    delivery = deliver(mail(), "to@external.com")
    assert delivery.verdict == "bounced"
    assert delivery.text.endswith("; check api-secrets.json")
    assert not any(hint in delivery.text for hint in HINTS.values())
