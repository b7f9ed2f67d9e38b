"""Secrets are only in their own file; files in the home directory are never run."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.assertions import Federation
from helpers.aws_metadata import AwsMetadata, Fault, use_web_identity
from helpers.by_hand import by_hand
from helpers.certificates import pair, rsa_key, use_certificate
from helpers.echo import Echo, spellings
from helpers.home import LOG, RelayHome
from helpers.mail import mail
from helpers.metadata import Kind, Metadata
from helpers.pipe import Delivery, pipe
from helpers.state import KEYS, NOTICES, TOKEN, WINDOW
from helpers.tunnel import Tunnel
from helpers.variants import use_ses
from helpers.waiting import processes, wait_until
from helpers.webhook import SECRET_PATH, SECRET_QUERY, Webhook
from sandbox import Answer, Role, Sandbox, json_answer

# Letters that occur only in a secret, and characters that are special in regular expressions, URLs, JSON,
# HTML and headers.
SECRET = "Zq8vXw3kTn5rGhUe" + "+/=\"'\\%41&<>?#;:,~.*$^(|)[x]{2} \u00e9\u20ac" + "Lp2yMb7cGd9hJf4s"
FRAGMENT = 12
KEEPERS = {"api-secrets.json", TOKEN, KEYS, "ca.pem", "postfix-api-relay", "container-token", "web-token"}
PRIVATE = 0o600
LINKS = [WINDOW, TOKEN, NOTICES, LOG, f"{WINDOW}.new", f"{TOKEN}.new", f"{NOTICES}.new"]
MODULES = [
    "json",
    "requests",
    "boto3",
    "botocore",
    "urllib3",
    "ssl",
    "datetime",
    "sitecustomize",
    "usercustomize",
]


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A provider that echoes every secret."""
    provider = Echo()
    provider.secret = SECRET
    with provider:
        yield provider


@pytest.fixture
def leaky(echo: Echo) -> Iterator[RelayHome]:
    """A relay that uses it."""
    with RelayHome(echo.url, echo.ca_file) as installation:
        installation.secrets(API_SECRET=SECRET)
        yield installation


def fragments(text: str) -> set[str]:
    """Return all parts of a text that are long enough to identify it, except those that are public."""
    parts = {text[start : start + FRAGMENT] for start in range(len(text) - FRAGMENT + 1)}
    return {part for part in parts if not re.search(r"[ =/,]|AWS4|HMAC|SHA256|host|amz|date|content", part)}


def written(home: RelayHome, sandbox: Sandbox, *deliveries: Delivery) -> dict[str, str]:
    """Return everything that the relay wrote, by place, except the files that hold secrets."""
    found = {path.name: path for path in home.path.rglob("*") if path.is_file() and path.name not in KEEPERS}
    texts = {name: path.read_bytes().decode("latin-1") for name, path in found.items()}
    texts["output"] = " ".join(delivery.text for delivery in deliveries)
    texts["mail"] = " ".join(message.raw.decode("latin-1") for message in sandbox.accepted)
    return texts


def expect_no_leak(home: RelayHome, sandbox: Sandbox, secrets: set[str], *deliveries: Delivery) -> None:
    """Assert that no secret, in any spelling or part, is where it does not belong."""
    pieces = {part for secret in secrets for spelling in spellings(secret) for part in fragments(spelling)}
    assert pieces
    for where, text in written(home, sandbox, *deliveries).items():
        here = {text[start : start + FRAGMENT] for start in range(len(text))} & pieces
        assert not here, f"{where}: {sorted(here)[:5]}\n{text[:3000]}"


@pytest.mark.parametrize("status", [400, 401, 403, 500])
@pytest.mark.parametrize("role", ["token", "sendMail", "ses"])
def test_an_echo_is_not_passed_on(echo: Echo, leaky: RelayHome, role: Role, status: int) -> None:
    if role == "ses":
        use_ses(leaky, API_SECRET=SECRET)
    # The second text is longer than what is shown, and is cut within a secret.
    deliveries = []
    for padding in (0, 585):
        # A 401 makes the relay try a new token.
        echo.arm(role, status, padding, times=2 if (role, status) == ("sendMail", 401) else 1)
        deliveries.append(pipe(leaky, mail(), "to@external.com"))
        leaky.put(TOKEN, b"")
        assert echo.times == 0
    assert {delivery.verdict for delivery in deliveries} == {"deferred" if status == 500 else "bounced"}
    assert "[secret]" in deliveries[0].text
    assert len(echo.accepted) == (0 if status == 500 else len(deliveries))
    expect_no_leak(leaky, echo, echo.told, *deliveries)


@pytest.mark.parametrize("status", [400, 403, 500])
@pytest.mark.parametrize("padding", [0, 585])
def test_an_echo_of_the_machine_s_keys_is_not_passed_on(
    echo: Echo, leaky: RelayHome, status: int, padding: int
) -> None:
    with AwsMetadata(echo) as metadata:
        metadata.use_container(leaky, API_SECRET=SECRET)
        # The keys are first new, then cached.
        for _ in range(2):
            # Only the process that made a signature knows it, and it is worthless afterwards.
            echo.told.clear()
            echo.arm("ses", status, padding)
            delivery = pipe(leaky, mail(), "to@external.com")
            assert delivery.verdict == ("deferred" if status == 500 else "bounced")
            if not padding:
                assert "[secret]" in delivery.text
            expect_no_leak(leaky, echo, {*echo.told, metadata.authorization}, delivery)
        assert metadata.steps.count("container") == 1
    assert any(keys.token in echo.told for keys in echo.session_keys.values())
    status_of_cache = (leaky.path / KEYS).stat()
    assert (stat.S_IMODE(status_of_cache.st_mode), status_of_cache.st_uid) == (PRIVATE, leaky.account.pw_uid)


@pytest.mark.parametrize("place", ["file", "secrets"])
def test_a_container_s_token_stays_secret(sandbox: Sandbox, home: RelayHome, place: str) -> None:
    with AwsMetadata(sandbox) as metadata:
        metadata.authorization = "Ba7sKr4pLm9vXc2n/Qw5tYz8u"
        metadata.use_container(home)
        if place == "secrets":
            metadata.use_container(
                home,
                AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=None,
                AWS_CONTAINER_AUTHORIZATION_TOKEN=metadata.authorization,
            )
        text = " ".join(spellings(metadata.authorization))
        metadata.faults["container"] = Fault(500, text.encode())
        delivery = pipe(home, mail(), "to@external.com")
        assert delivery.dsn == "4.7.0" and metadata.steps == ["container"]
        assert "[secret]" in delivery.text
        expect_no_leak(home, sandbox, {metadata.authorization}, delivery)


def test_a_web_identity_s_token_stays_secret(sandbox: Sandbox, home: RelayHome) -> None:
    token = "Hd6fJk3lPo8iUy1t.Mn4bVc7xZa2s.Gq5wEr9tYu6i"
    use_web_identity(home, sandbox.url, token.encode())
    sandbox.answer("quota", provided("aws/sts-bad-token", message=f"Not good: {token}"))
    delivery = pipe(home, mail(), "to@external.com")
    assert "InvalidIdentityToken" in delivery.text and "[secret]" in delivery.text
    expect_no_leak(home, sandbox, {token}, delivery)


@pytest.mark.parametrize("padding", [0, 90])
def test_an_echo_in_an_acceptance_is_not_passed_on(echo: Echo, leaky: RelayHome, padding: int) -> None:
    echo.arm("sendMail", 202, padding)
    delivery = pipe(leaky, mail(), "to@external.com")
    assert delivery.verdict == "sent"
    assert "DELIVERED" in leaky.log()
    expect_no_leak(leaky, echo, echo.told, delivery)


def test_the_quota_s_error_is_not_passed_on(echo: Echo, leaky: RelayHome) -> None:
    leaky.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1", API_SECRET=SECRET)
    echo.arm("quota", 403)
    delivery = pipe(leaky, mail(), "to@external.com")
    assert delivery.verdict == "sent"
    expect_no_leak(leaky, echo, echo.told, delivery)


@pytest.mark.parametrize("refusals", [1, 2])
@pytest.mark.parametrize("role", ["token", "ses"])
def test_neither_of_two_secrets_is_passed_on(echo: Echo, leaky: RelayHome, role: Role, refusals: int) -> None:
    old = SECRET[::-1]
    leaky.secrets(API_SECRET=old, API_SECRET_NEXT=SECRET)
    if role == "ses":
        use_ses(leaky, API_SECRET=old, API_ID="old-id", API_SECRET_NEXT=SECRET, API_ID_NEXT="client-id")
    echo.told.add(old)
    echo.arm(role, 401, 150, times=refusals)
    delivery = pipe(leaky, mail(), "to@external.com")
    assert echo.times == 0
    assert delivery.verdict == ("sent" if refusals == 1 else "bounced")
    assert "API_SECRET_NEXT is used instead: " in leaky.log() and "[secret]" in leaky.log()
    if refusals == 1:
        assert len(echo.accepted) == 2
    expect_no_leak(leaky, echo, echo.told, delivery)


def test_the_token_cache_is_for_its_owner_only(echo: Echo, leaky: RelayHome) -> None:
    assert pipe(leaky, mail(), "to@external.com").verdict == "sent"
    status = (leaky.path / TOKEN).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (PRIVATE, leaky.account.pw_uid)
    assert SECRET not in (leaky.path / TOKEN).read_text()


@pytest.mark.parametrize("change", ['"API_SECRET": [%s]', '"API_SECRET": %s, "x": 1}}', '%s: 1, "API_ID": 5'])
def test_a_broken_secrets_file_is_not_shown(echo: Echo, leaky: RelayHome, change: str) -> None:
    leaky.put("api-secrets.json", ("{" + change.replace("%s", f'"{SECRET[:16]}"') + "}").encode())
    delivery = pipe(leaky, mail(), "to@external.com")
    assert (delivery.verdict, delivery.dsn) == ("deferred", "4.3.5")
    assert SECRET[:16] not in delivery.text + leaky.log().replace(f"unknown key '{SECRET[:16]}'", "")


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_a_proxy_s_password_stays_secret(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    password = "Rt6yUi8oPa1sDf3g/Hj5k"
    if provider == "ses":
        use_ses(home)
    echoed = f"relay:{password} {spellings(f'relay:{password}')[9]}"
    with Tunnel((407, echoed)) as proxy:
        for port in (str(proxy.port), "1", "no-port"):
            url = f"http://relay:{password.replace('/', '%2F')}@127.0.0.1:{port}"
            home.configure(HTTPS_PROXY=url, RATE_LIMIT_PER_MINUTE=28)
            delivery = deliver(mail(), "to@external.com")
            assert delivery.verdict == "deferred"
            (home.path / "relay-config.json").unlink()
            expect_no_leak(home, sandbox, {password}, delivery)
        assert proxy.credentials


def mangled(home: RelayHome) -> list[Delivery]:
    """Return deliveries with a key file that is damaged in several ways."""
    whole, found = (home.path / "relay.pem").read_bytes(), []
    for content in (whole[:-400], whole.replace(b"-----BEGIN", b"----BEGIN"), whole.replace(b"A", b"B")):
        home.put("relay.pem", content)
        found.append(pipe(home, mail(), "to@external.com"))
    home.put("relay.pem", whole, 0o644)
    return [*found, pipe(home, mail(), "to@external.com")]


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_certificate_s_key_and_what_it_signs_stay_secret(echo: Echo, leaky: RelayHome, status: int) -> None:
    made = pair()
    # It has no secret: the provider echoes the request.
    echo.secret, echo.certificates = "", [made.der]
    use_certificate(leaky, made)
    echo.arm("token", status)
    deliveries = [pipe(leaky, mail(), "to@external.com")]
    assert "[secret]" in deliveries[0].text
    form = dict(urllib.parse.parse_qsl(echo.requests[0].body.decode()))
    leaky.put(WINDOW, b"{}")
    deliveries += [pipe(leaky, mail(), "to@external.com"), *mangled(leaky)]
    assert [delivery.verdict for delivery in deliveries[1:]] == ["sent", *["deferred"] * 4]
    told = {form["client_assertion"], *made.secrets, *echo.tokens}
    (leaky.path / "relay.pem").unlink()
    expect_no_leak(leaky, echo, told, *deliveries)


@pytest.mark.parametrize("kind", ["app service", "arc"])
@pytest.mark.parametrize("status", [400, 500])
def test_what_is_shown_to_a_metadata_service_stays_secret(
    echo: Echo, leaky: RelayHome, kind: Kind, status: int
) -> None:
    with Metadata(echo, kind) as service:
        service.use(leaky)
        assert pipe(leaky, mail(), "to@external.com").verdict == "sent"
        shown = service.requests[-1].headers
        told = {shown.get("authorization", "").removeprefix("Basic "), shown.get("x-identity-header", "")}
        text = " ".join(spelling for secret in told for spelling in spellings(secret))
        if kind == "arc":
            # The same key again, so that it can be echoed.
            (key,) = service.keys.glob("*.key") if service.keys else []
            service.challenge = str(key)
            service.answer("other", Answer(), json_answer(status, {"error": text}))
        else:
            service.answer("other", json_answer(status, {"error": "no", "message": text}))
        leaky.put(TOKEN, b"")
        delivery = pipe(leaky, mail(), "to@external.com")
    assert delivery.verdict == "deferred" and "[secret]" in delivery.text
    expect_no_leak(leaky, echo, {*filter(None, told), *echo.tokens}, delivery)


def test_a_workload_s_token_stays_secret(echo: Echo, leaky: RelayHome) -> None:
    echo.secret, echo.federation = "", Federation(rsa_key(2))
    token = echo.federation.token()
    file = leaky.put("federated-token", token.encode())
    leaky.secrets(API_CREDENTIAL="machine", API_SECRET=None, AZURE_FEDERATED_TOKEN_FILE=str(file))
    echo.arm("token", 401)
    delivery = pipe(leaky, mail(), "to@external.com")
    assert delivery.verdict == "bounced" and "[secret]" in delivery.text
    file.unlink()
    expect_no_leak(leaky, echo, {token}, delivery)


@pytest.mark.parametrize("fault", ["none", "error", "redirect", "away", "no TLS"])
def test_a_webhook_s_url_stays_secret(echo: Echo, leaky: RelayHome, fault: str) -> None:
    """With any answer, even if the provider knows the secret; and it learns no other secret."""
    with Webhook(None if fault == "no TLS" else echo.context) as webhook:
        url = webhook.url.replace("http:", "https:")
        leaky.secrets(
            API_SECRET=SECRET,
            ADMIN_WEBHOOK_URL=url.replace("localhost", "127.0.0.3") if fault == "away" else url,
        )
        if fault == "error":
            webhook.status, webhook.body = 400, f"what is {url}?".encode()
        if fault == "redirect":
            webhook.status, webhook.headers = 307, {"Location": url}
        said = f"invalid_client at {url} and {SECRET_PATH} with {SECRET_QUERY}"
        echo.answer("token", provided("entra/secret-expired", message=said)._replace(times=None))
        deliveries = [pipe(leaky, mail(), "to@external.com") for _ in range(2)]
        assert deliveries[0].verdict == "bounced"
        wait_until(lambda: not processes(leaky))
        commands = [("--check",), ("--status",), ("--send-test", "me@external.com")]
        shown = [by_hand(leaky, *command) for command in commands]
        for done in shown:
            deliveries.append(Delivery("sent", "", 0, (done.stdout + done.stderr).encode()))
        assert "the webhook at " in shown[2].stdout
        expect_no_leak(leaky, echo, {SECRET_PATH, SECRET_QUERY, SECRET, *echo.told}, *deliveries)
        posts = b"".join(post.body for post in webhook.posts).decode()
        assert ("[secret]" in posts) == (fault not in ("away", "no TLS"))
        assert not any(secret in posts for secret in (SECRET_PATH, SECRET_QUERY, SECRET))


def plant(home: RelayHome, trap: Path) -> None:
    """Plant everything that Python, requests or boto3 might pick up; each leaves a trace of its own."""
    code = f"open({str(trap)!r}, 'a').write(__name__ + ' ')\n"
    for module in MODULES:
        home.put(f"{module}.py", code.encode(), 0o644)
        package = home.path / module
        package.mkdir()
        (package / "__init__.py").write_text(code)
    home.put("planted.pth", f"import os; {code}".encode(), 0o644)
    home.put(".netrc", b"default login planted password planted\n")
    home.put("pyvenv.cfg", b"home = /nonexistent\n", 0o644)
    versions = f"python{'.'.join(system_python()[:2])}"
    site = home.path / ".local" / "lib" / versions / "site-packages"
    site.mkdir(parents=True)
    for name in ("usercustomize.py", "sitecustomize.py", "requests.py", "planted.pth"):
        (site / name).write_text(f"import os; {code}")
    settings = (
        b"[default]\naws_access_key_id = planted\naws_secret_access_key = planted\nregion = us-planted-1\n"
    )
    (home.path / ".aws").mkdir()
    for name in ("config", "credentials"):
        (home.path / ".aws" / name).write_bytes(settings)
    for service in ("sesv2/2019-09-27", "ses/2010-12-01"):
        model = home.path / ".aws" / "models" / service
        model.mkdir(parents=True)
        (model / "service-2.json").write_text('{"planted": true}')


def system_python() -> list[str]:
    """Return the version of the interpreter in the script's first line."""
    code = "import platform; print(platform.python_version())"
    done = subprocess.run(["/usr/bin/python3", "-I", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip().split(".")


def in_own_home(home: RelayHome) -> tuple[str, ...]:
    """Return a command that runs another with the relay's home as the account's home directory."""
    passwd = home.put("passwd", f"root:x:0:0::{home.path}:/bin/sh\n".encode(), 0o644)
    return (
        "unshare",
        "--map-current-user",
        "--keep-caps",
        "-m",
        "sh",
        "-c",
        f'mount --bind {passwd} /etc/passwd && exec "$@"',
        "sh",
    )


@pytest.mark.parametrize("provider", ["graph", "ses"])
@pytest.mark.parametrize("start", ["as Postfix starts it", "python3 in front", "home of its account"])
def test_nothing_planted_is_used(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, start: str
) -> None:
    if provider == "ses":
        use_ses(home)
    trap = home.put("trap", b"", 0o666)
    plant(home, trap)
    prefixes = {"python3 in front": ("/usr/bin/python3",), "home of its account": in_own_home(home)}
    prefix = prefixes.get(start, ())
    if start == "home of its account":
        probe = subprocess.run([*prefix, "true"], user=home.account.pw_uid, capture_output=True)
        if probe.returncode:
            pytest.skip("this machine lets no user make a mount namespace")
    delivery = deliver(mail(), "to@external.com", prefix=prefix)
    assert delivery.verdict == "sent", delivery
    assert trap.read_text() == ""
    authorizations = " ".join(request.headers.get("authorization", "") for request in sandbox.requests)
    assert "planted" not in authorizations
    assert "Basic" not in authorizations


@pytest.mark.parametrize(
    ("name", "target"), [*((name, "file") for name in LINKS), (LOG, "nothing"), (WINDOW, "nothing")]
)
def test_a_link_leads_nowhere(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, name: str, target: str
) -> None:
    elsewhere = home.put("elsewhere", b"untouched") if target == "file" else home.path / "elsewhere"
    (home.path / name).symlink_to(elsewhere)
    delivery = deliver(mail(From=None), "to@external.com", sender="stranger@domain.com")
    assert delivery.verdict == "sent"
    if target == "file":
        assert elsewhere.read_bytes() == b"untouched"
    else:
        assert not elsewhere.exists()
    assert len(sandbox.accepted) == 2
    if name == LOG:
        assert "is not writable" in delivery.text


def test_a_linked_home_is_still_a_home(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """A script that is started through a link finds its own directory, and nothing beside the link."""
    link = home.queue / home.script.name
    link.symlink_to(home.script)
    trap = home.put("trap", b"", 0o666)
    (home.queue / "json.py").write_text(f"open({str(trap)!r}, 'a').write('x')\n")
    try:
        assert deliver(mail(), "to@external.com", script=link).verdict == "sent"
        assert deliver(mail(), "to@external.com", script=link, prefix=("/usr/bin/python3",)).verdict == "sent"
    finally:
        shutil.rmtree(home.queue)
        home.queue.mkdir(mode=0o755)
    assert trap.read_text() == ""
    assert "DELIVERED" in home.log()
