"""Without a key on disk: the relay asks the machine that it runs on, and caches its answer."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.aws_metadata import (
    AS_THE_MACHINE,
    HTML,
    AwsMetadata,
    Fault,
    Step,
    as_json,
    use_machine,
    use_web_identity,
)
from helpers.chain import Chain
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import pipe, waits
from helpers.script import change_constants
from helpers.state import KEYS, pass_by, pass_by_incident, put_calls, read
from helpers.tunnel import Tunnel
from helpers.waiting import processes, wait_until
from sandbox import Answer, Sandbox, SessionKeys

RECIPIENT = "to@external.com"
ASKED: list[Step] = ["token", "role", "keys"]
BAD_ENDINGS: dict[str, str | None] = {
    "unparsable": "tomorrow",
    "missing": None,
    "past": "2020-01-01T00:00:00Z",
}


@pytest.fixture
def metadata(sandbox: Sandbox) -> Iterator[AwsMetadata]:
    with AwsMetadata(sandbox) as services:
        yield services


@pytest.fixture
def instance(metadata: AwsMetadata, home: RelayHome) -> RelayHome:
    """A relay on an instance with a role."""
    metadata.use_instance(home)
    return home


def put_script(home: RelayHome, text: str) -> Path:
    """Write a program that prints keys."""
    return home.put("keys.sh", f"#!/bin/sh\n{text}\n".encode(), 0o755)


def use_process(home: RelayHome, script: str) -> None:
    """Make the relay sign in with the keys that a program prints."""
    program = put_script(home, script)
    config = home.put(
        "aws-config",
        f"[profile relay]\ncredential_process = {program} credential-process\n  --role ARN\n".encode(),
    )
    use_machine(
        home,
        AWS_PROFILE="relay",
        AWS_CONFIG_FILE=str(config),
    )


def printing(keys: SessionKeys, **changes: object) -> str:
    content = {**as_json(keys), "Version": 1, "SessionToken": keys.token, **changes}
    return "cat <<'END'\n" + json.dumps({k: v for k, v in content.items() if v is not None}) + "\nEND"


def age(home: RelayHome, **seconds: float) -> None:
    """Make the cached keys expire, or be due for renewal, this number of seconds from now."""
    cache = read(home, KEYS)
    now = time.time()
    if "ends" in seconds:
        cache["ends"] = cache["token"]["ends"] = now + seconds["ends"]
    cache["obtained"] = min(cache["obtained"], now - 1)
    cache["token"]["renew"] = now + seconds.get("renew", -1)
    home.put(KEYS, json.dumps(cache).encode())


def expect_none(delivery: object, *words: str) -> None:
    """Assert that the mail waits, and that the one line says that there are no keys, and why."""
    assert waits(delivery), delivery  # type: ignore[arg-type]
    text: str = delivery.text  # type: ignore[attr-defined]
    assert text.startswith("4.7.0 this machine has no keys for SES: ")
    assert "give it a role, or name a profile" in text
    assert "\n" not in text
    for word in words:
        assert word in text


# ---- Each way delivers


def test_an_instance_s_role_signs(sandbox: Sandbox, metadata: AwsMetadata, instance: RelayHome) -> None:
    assert pipe(instance, mail(), RECIPIENT) == ("sent", "2.0.0", 0, b"")
    assert metadata.steps == ASKED
    (request,) = sandbox.requests
    (keys,) = sandbox.session_keys.values()
    assert request.headers["x-amz-security-token"] == keys.token
    assert "x-amz-security-token" in request.headers["authorization"]


def test_a_container_s_role_signs_with_a_token_from_a_file(
    sandbox: Sandbox, metadata: AwsMetadata, home: RelayHome
) -> None:
    metadata.use_container(home)
    assert pipe(home, mail(), RECIPIENT).verdict == "sent"
    assert metadata.steps == ["container"]


def test_a_container_s_role_signs_with_a_token_from_the_secrets(
    metadata: AwsMetadata, home: RelayHome
) -> None:
    metadata.use_container(
        home,
        AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=None,
        AWS_CONTAINER_AUTHORIZATION_TOKEN=metadata.authorization,
    )
    assert pipe(home, mail(), RECIPIENT).verdict == "sent"


def test_a_program_gives_keys(sandbox: Sandbox, home: RelayHome) -> None:
    keys = sandbox.issue_keys(3600)
    use_process(home, printing(keys))
    assert pipe(home, mail(), RECIPIENT).verdict == "sent"
    assert sandbox.requests[0].headers["x-amz-security-token"] == keys.token
    assert read(home, KEYS)["ends"] == pytest.approx(keys.ends, abs=1)


@pytest.mark.parametrize("quota", [True, False])
def test_a_program_may_reserve_more_room_than_a_message_may_fill(
    sandbox: Sandbox, home: RelayHome, quota: bool
) -> None:
    # As every Go program does when it starts, including IAM Roles Anywhere's.
    reserve = "import mmap; mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)"
    use_process(home, f"{sys.executable} -c '{reserve}' || exit 1\n{printing(sandbox.issue_keys(3600))}")
    home.configure(RATE_LIMIT_PER_MINUTE=None if quota else 28)
    assert pipe(home, mail(), RECIPIENT) == ("sent", "2.0.0", 0, b"")


def test_a_shared_file_gives_keys(sandbox: Sandbox, home: RelayHome) -> None:
    text = f"[relay]\naws_access_key_id = {sandbox.client_id}\naws_secret_access_key = {sandbox.secret}\n"
    file = home.put("aws-credentials", text.encode())
    use_machine(home, AWS_PROFILE="relay", AWS_SHARED_CREDENTIALS_FILE=str(file))
    assert pipe(home, mail(), RECIPIENT).verdict == "sent"
    assert "x-amz-security-token" not in sandbox.requests[0].headers
    # Keys without an expiry date are requested again within an hour.
    assert read(home, KEYS)["ends"] <= time.time() + 3600


# ---- No keys: the mail waits, for any reason


@pytest.mark.parametrize("switch", [True, False])
def test_an_instance_without_a_role_defers(
    sandbox: Sandbox, metadata: AwsMetadata, instance: RelayHome, switch: bool
) -> None:
    instance.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=switch)
    metadata.role = ""
    expect_none(pipe(instance, mail(), RECIPIENT), "404", "/latest/meta-data/iam/security-credentials/")
    assert sandbox.requests == []


def test_without_keys_the_next_message_does_not_ask_again_at_once(
    sandbox: Sandbox, metadata: AwsMetadata, instance: RelayHome
) -> None:
    metadata.role = ""
    pipe(instance, mail(), RECIPIENT)
    metadata.steps.clear()
    expect_none(pipe(instance, mail(), RECIPIENT), "asked again at")
    assert metadata.steps == []
    metadata.role = "relay-role"
    pass_by(instance, 61)
    assert pipe(instance, mail(), RECIPIENT).verdict == "sent"


def test_keys_that_are_away_for_a_moment_are_no_incident(metadata: AwsMetadata, instance: RelayHome) -> None:
    """As when the machine boots: unlike refused keys, they may become available without a fix."""
    metadata.role = ""
    pipe(instance, mail(), RECIPIENT)
    assert "INCIDENT: " not in instance.log()
    pass_by(instance, 61)
    pass_by_incident(instance, 600)
    pipe(instance, mail(), RECIPIENT)
    assert "INCIDENT: No mail goes out: this machine has no credentials" in instance.log()


def test_a_quota_that_cannot_be_asked_for_costs_no_second_search(
    metadata: AwsMetadata, instance: RelayHome
) -> None:
    instance.configure()
    metadata.role = ""
    expect_none(pipe(instance, mail(), RECIPIENT))
    assert metadata.steps == ["token", "role"]


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("token", Fault(404)),
        ("token", Fault(429)),
        ("token", Fault(200, HTML)),
        ("token", Fault(delay=3)),
        ("role", Fault(404, HTML)),
        ("role", Fault(429)),
        ("role", Fault(200, HTML)),
        ("role", Fault(delay=3)),
        ("keys", Fault(404, HTML)),
        ("keys", Fault(429)),
        ("keys", Fault(503, HTML)),
        ("keys", Fault(200, HTML)),
        ("keys", Fault(200, b"[]")),
        ("keys", Fault(200, provided("aws/instance-keys-refused").body)),
        ("keys", Fault(delay=3)),
    ],
    ids=lambda value: (
        value if isinstance(value, str) else f"{value.status} {value.body[:9]!r} {value.delay:g} s"
    ),
)
def test_a_metadata_service_that_is_not_well_is_asked_once(
    sandbox: Sandbox, metadata: AwsMetadata, instance: RelayHome, step: Step, fault: Fault
) -> None:
    metadata.faults[step] = fault
    began = time.monotonic()
    expect_none(pipe(instance, mail(), RECIPIENT))
    assert time.monotonic() - began < 8
    assert metadata.steps.count(step) == 1
    assert sandbox.requests == []
    assert "WARNING: cannot" not in instance.log()


def test_a_metadata_service_that_is_away_defers(home: RelayHome) -> None:
    use_machine(home)
    expect_none(pipe(home, mail(), RECIPIENT), "http://127.0.0.1:1/", "Could not connect")


@pytest.mark.parametrize("fault", [Fault(404, HTML), Fault(429), Fault(200, HTML), Fault(delay=5)])
def test_a_container_s_endpoint_that_is_not_well_is_asked_once(
    metadata: AwsMetadata, home: RelayHome, fault: Fault
) -> None:
    metadata.use_container(home)
    metadata.faults["container"] = fault
    began = time.monotonic()
    expect_none(pipe(home, mail(), RECIPIENT), "container")
    assert time.monotonic() - began < 5
    assert metadata.steps == ["container"]


def test_a_container_s_endpoint_elsewhere_is_not_asked(home: RelayHome) -> None:
    use_machine(home, AWS_CONTAINER_CREDENTIALS_FULL_URI="http://192.0.2.1/keys")
    expect_none(pipe(home, mail(), RECIPIENT), "Unsupported host '192.0.2.1'")


@pytest.mark.parametrize("ending", BAD_ENDINGS)
@pytest.mark.parametrize("service", ["instance", "container"])
def test_keys_without_a_good_end_are_none(
    sandbox: Sandbox, metadata: AwsMetadata, home: RelayHome, service: str, ending: str
) -> None:
    metadata.changes["Expiration"] = BAD_ENDINGS[ending]
    if service == "container":
        metadata.use_container(home)
    else:
        metadata.use_instance(home)
    delivery = pipe(home, mail(), RECIPIENT)
    if (service, ending) == ("instance", "past"):
        # The SDK treats it as a fault of the service: SES has to decide.
        assert delivery.verdict == "sent"
    else:
        expect_none(delivery)
        assert sandbox.requests == []


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("echo 'no certificate' >&2; exit 1", "no certificate"),
        ("echo '<html>'", "JSON"),
        ("echo '{}'", "version"),
        ("echo '{\"Version\": 1}'", "AccessKeyId"),
        ("exit 0", "JSON"),
    ],
)
def test_a_program_that_fails_defers(home: RelayHome, script: str, word: str) -> None:
    use_process(home, script)
    expect_none(pipe(home, mail(), RECIPIENT), word)


@pytest.mark.parametrize("ending", ["unparsable", "past"])
def test_a_program_s_keys_without_a_good_end_are_none(sandbox: Sandbox, home: RelayHome, ending: str) -> None:
    use_process(home, printing(sandbox.issue_keys(), Expiration=BAD_ENDINGS[ending]))
    expect_none(pipe(home, mail(), RECIPIENT))


@pytest.mark.parametrize("key", ["AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"])
@pytest.mark.parametrize("make", [None, os.mkfifo, os.mkdir, lambda path: Path(path).touch(0)])
def test_a_file_that_cannot_be_read_is_named(
    home: RelayHome, key: str, make: Callable[[Path], object] | None
) -> None:
    path = home.path / "aws-file"
    if make:
        make(path)
    use_machine(home, **{key: str(path)})
    expect_none(pipe(home, mail(), RECIPIENT), f"{key} file", str(path))


def test_a_profile_that_is_not_there_is_named(home: RelayHome) -> None:
    use_machine(home, AWS_PROFILE="elsewhere")
    expect_none(pipe(home, mail(), RECIPIENT), "elsewhere")


# ---- Time


def running(mark: str) -> bool:
    return subprocess.run(["pgrep", "-f", mark], capture_output=True).returncode == 0


def test_a_program_that_hangs_is_ended_in_time(home: RelayHome) -> None:
    change_constants(home, CHAIN_SECONDS=2)
    use_process(home, "sleep 4711.25; true")
    began = time.monotonic()
    expect_none(pipe(home, mail(), RECIPIENT), "within 2 s")
    assert time.monotonic() - began < 6
    assert not running("sleep 4711.25")


@pytest.mark.parametrize("ends", [False, True])
def test_what_looks_for_keys_does_not_outlive_a_delivery_that_is_killed(home: RelayHome, ends: bool) -> None:
    change_constants(home, CHAIN_SECONDS=5)
    # One that hangs, and one that answers when nobody needs it any longer.
    use_process(home, "sleep 2; exit 1" if ends else "sleep 4711.75; true")
    command = [str(home.script), "--", "alerts@domain.com", "4ZxTestQid", RECIPIENT, ""]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=home.account.pw_uid
    )
    assert process.stdin and process.stdout
    process.stdin.write(mail())
    process.stdin.close()
    wait_until(lambda: running(f"{home.path}/keys.sh"), 20)
    process.send_signal(signal.SIGKILL)
    # Postfix waits for the end of this output.
    assert process.stdout.read() == b""
    process.wait()
    wait_until(lambda: not processes(home), 20)
    # The child has not continued as if it were the delivery.
    assert [line.split()[1] for line in home.log().splitlines()] == ["PROCESSING:", "SENDER:", "CLASSIFIED:"]
    if not ends:
        assert not running("sleep 4711.75")


# ---- The cache


def test_cached_keys_are_used_and_not_asked_for(
    sandbox: Sandbox, metadata: AwsMetadata, instance: RelayHome
) -> None:
    for _ in range(3):
        assert pipe(instance, mail(), RECIPIENT).verdict == "sent"
    assert metadata.steps == ASKED
    assert len(sandbox.accepted) == 3
    status = (instance.path / KEYS).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, instance.account.pw_uid)


def test_keys_are_renewed_a_quarter_of_an_hour_ahead(metadata: AwsMetadata, instance: RelayHome) -> None:
    pipe(instance, mail(), RECIPIENT)
    kept = read(instance, KEYS)
    assert kept["token"]["renew"] == pytest.approx(kept["ends"] - 900)
    age(instance, ends=890)
    assert pipe(instance, mail(), RECIPIENT).verdict == "sent"
    assert metadata.steps == ASKED * 2
    assert read(instance, KEYS)["token"]["id"] != kept["token"]["id"]


def test_old_keys_do_while_there_are_no_new_ones(
    sandbox: Sandbox, metadata: AwsMetadata, instance: RelayHome
) -> None:
    pipe(instance, mail(), RECIPIENT)
    metadata.role = ""
    age(instance, ends=600)
    metadata.steps.clear()
    for _ in range(2):
        assert pipe(instance, mail(), RECIPIENT).verdict == "sent"
    assert len(sandbox.accepted) == 3
    # The second message does not ask again at once.
    assert metadata.steps == ["token", "role"]
    (warning,) = [line for line in instance.log().splitlines() if "WARNING" in line]
    assert "404" in warning and "the old ones are valid until" in warning


def test_keys_in_their_last_minute_are_not_used(metadata: AwsMetadata, instance: RelayHome) -> None:
    pipe(instance, mail(), RECIPIENT)
    metadata.role = ""
    age(instance, ends=50)
    expect_none(pipe(instance, mail(), RECIPIENT))


def test_keys_that_are_short_lived_are_not_asked_for_by_each_message(
    metadata: AwsMetadata, instance: RelayHome
) -> None:
    """The metadata service hands out its old keys until five minutes before they expire."""
    metadata.lifetime = 660
    for _ in range(3):
        assert pipe(instance, mail(), RECIPIENT).verdict == "sent"
    assert metadata.steps.count("role") <= 2


def test_keys_that_are_about_to_expire_are_none(metadata: AwsMetadata, home: RelayHome) -> None:
    metadata.use_container(home)
    metadata.lifetime = 30
    delivery = pipe(home, mail(), RECIPIENT)
    assert delivery.verdict == "deferred"
    assert "gave keys that have expired, or this machine's clock is wrong" in delivery.text


def test_refused_keys_are_asked_for_once_more(
    sandbox: Sandbox, metadata: AwsMetadata, instance: RelayHome
) -> None:
    pipe(instance, mail(), RECIPIENT)
    sandbox.session_keys.clear()
    assert pipe(instance, mail(), RECIPIENT).verdict == "sent"
    assert metadata.steps == ASKED * 2
    assert [request.status for request in sandbox.requests] == [200, 403, 200]
    # Each call has a slot in the window.
    assert len(read(instance, ".rate-limit-state")["calls"]) == 3


@pytest.mark.parametrize("name", ["expired-token-exception", "unknown-key", "wrong-signature"])
def test_new_keys_that_are_refused_are_not_asked_for_again(
    sandbox: Sandbox, metadata: AwsMetadata, instance: RelayHome, name: str
) -> None:
    pipe(instance, mail(), RECIPIENT)
    sandbox.requests.clear()
    sandbox.answer("ses", provided(f"ses/{name}")._replace(times=None))
    delivery = pipe(instance, mail(), RECIPIENT)
    assert (delivery.verdict, delivery.dsn) == ("bounced", "5.7.8")
    assert len([request for request in sandbox.requests if request.role == "ses"]) <= 3
    assert metadata.steps == ASKED * 2
    assert "with this machine's keys: HTTP 403" in delivery.text
    assert "see --check" in delivery.text
    assert "API_ID" not in delivery.text and "API_SECRET" not in delivery.text


def test_a_second_place_that_is_not_free_defers(sandbox: Sandbox, instance: RelayHome) -> None:
    pipe(instance, mail(), RECIPIENT)
    sandbox.session_keys.clear()
    put_calls(instance, [1] * 27)
    delivery = pipe(instance, mail(), RECIPIENT)
    assert (delivery.verdict, delivery.dsn) == ("deferred", "4.4.5")
    assert len(sandbox.accepted) == 1


@pytest.mark.parametrize(
    "key", ["AWS_PROFILE", "AWS_ROLE_ARN", "AWS_ENDPOINT_URL_STS", "API_TENANT_OR_REGION"]
)
def test_keys_of_somebody_else_are_not_used(metadata: AwsMetadata, instance: RelayHome, key: str) -> None:
    pipe(instance, mail(), RECIPIENT)
    config = instance.put("aws-config", b"[profile other]\nregion = eu-west-1\n")
    values = {"AWS_ENDPOINT_URL_STS": "https://sts.example.org", "API_TENANT_OR_REGION": "eu-west-2"}
    metadata.use_instance(instance, AWS_CONFIG_FILE=str(config), **{key: values.get(key, "other")})
    assert pipe(instance, mail(), RECIPIENT).verdict == "sent"
    assert metadata.steps == ASKED * 2


def test_a_shared_file_that_changes_is_read_again(sandbox: Sandbox, home: RelayHome) -> None:
    old, new = sandbox.issue_keys(), sandbox.issue_keys()
    for keys in (old, new):
        use_process(home, printing(keys))
        # The program is not among the files that are watched; the config file is.
        assert pipe(home, mail(), RECIPIENT).verdict == "sent"
    tokens = [request.headers["x-amz-security-token"] for request in sandbox.requests]
    assert tokens == [old.token, new.token]


def test_the_quota_stays_that_of_the_account(sandbox: Sandbox, instance: RelayHome) -> None:
    instance.configure()
    for _ in range(2):
        assert pipe(instance, mail(), RECIPIENT).verdict == "sent"
        (instance.path / KEYS).unlink()
    assert len(sandbox.session_keys) == 2
    assert [request.role for request in sandbox.requests] == ["quota", "ses", "ses"]


# ---- Proxies and authorities


def test_a_proxy_is_for_sts_and_not_for_the_metadata(
    sandbox: Sandbox, metadata: AwsMetadata, home: RelayHome
) -> None:
    keys = sandbox.issue_keys(3600)
    values = {"key_id": keys.key_id, "secret": keys.secret, "token": keys.token}
    answer = provided("aws/sts-web-identity", **values, ends=as_json(keys)["Expiration"])
    with Tunnel() as proxy:
        metadata.use_instance(home)
        home.configure(RATE_LIMIT_PER_MINUTE=28, HTTPS_PROXY=proxy.url)
        assert pipe(home, mail(), RECIPIENT).verdict == "sent"
        assert metadata.steps == ASKED
        assert len(proxy.targets) == 1
        use_web_identity(home, sandbox.url)
        home.configure(RATE_LIMIT_PER_MINUTE=28, HTTPS_PROXY=proxy.url)
        # This is trusted because of CA_BUNDLE.
        sandbox.answer("quota", answer)
        assert pipe(home, mail(), RECIPIENT).verdict == "sent"
        assert len(proxy.targets) == 3
    assert [request.role for request in sandbox.requests] == ["ses", "quota", "ses"]
    assert b"Action=AssumeRoleWithWebIdentity" in sandbox.requests[1].body


@pytest.mark.parametrize("answer", [Answer(action="hang"), Answer(503), Answer(200, {}, HTML)])
def test_sts_is_asked_once(sandbox: Sandbox, home: RelayHome, answer: Answer) -> None:
    change_constants(home, STS_SECONDS=2)
    use_web_identity(home, sandbox.url)
    sandbox.answer("quota", answer._replace(times=None))
    expect_none(pipe(home, mail(), RECIPIENT))
    assert len(sandbox.requests) == 1


def test_a_role_that_may_not_be_taken_on_defers(sandbox: Sandbox, home: RelayHome) -> None:
    config = home.put(
        "aws-config",
        b"[profile relay]\nrole_arn = arn:aws:iam::123456789012:role/relay\nsource_profile = base\n"
        b"[profile base]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = nothing-real\n",
    )
    use_machine(home, AWS_PROFILE="relay", AWS_CONFIG_FILE=str(config), AWS_ENDPOINT_URL_STS=sandbox.url)
    text = "User: base is not authorized to perform: sts:AssumeRole"
    sandbox.answer("quota", provided("ses/quota-access-denied", message=text))
    expect_none(pipe(home, mail(), RECIPIENT), "AccessDenied", text)
    assert b"Action=AssumeRole" in sandbox.requests[0].body
    assert len(sandbox.requests) == 1


# ---- By hand


@pytest.fixture
def checked(metadata: AwsMetadata, chain: Chain) -> Chain:
    """A chain to SES, on an instance with a role."""
    chain.use_ses(**{**AS_THE_MACHINE, "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url})
    return chain


def test_check_says_who_signs_from_where_and_until_when(metadata: AwsMetadata, checked: Chain) -> None:
    found = checked.check()
    assert found.problems == []
    (key_id,) = metadata.sandbox.session_keys
    (line,) = [line for line in found.lines if "signs as" in line]
    assert line.startswith(
        f"ok    signs as this machine, with the access key {key_id}, from iam-role, until 20"
    )
    assert any("accepts the key: 14 messages a second" in line for line in found.lines)
    assert metadata.steps == ASKED


def test_check_says_why_there_are_no_keys(metadata: AwsMetadata, checked: Chain) -> None:
    metadata.role = ""
    (line,) = checked.check().problems
    assert line.startswith("FAIL  4.7.0 this machine has no keys for SES: ")
    assert "404" in line


def test_check_names_the_role_that_may_not_send(sandbox: Sandbox, checked: Chain) -> None:
    text = "User: relay-role is not authorized to perform: ses:GetSendQuota"
    sandbox.answer("quota", provided("ses/quota-access-denied", message=text))
    (line,) = checked.check().problems
    assert line.startswith(
        "warn  SES get_send_quota failed with this machine's keys: HTTP 403 AccessDenied: "
    )


def test_a_certificate_is_nothing_for_ses(home: RelayHome, deliver: Deliver) -> None:
    use_machine(home, API_CREDENTIAL="certificate", API_ID="client-id")
    delivery = deliver(mail(), RECIPIENT)
    assert waits(delivery)
    assert "with SES it must be 'secret' or 'machine'" in delivery.text


def test_the_chain_is_loaded_only_without_keys_in_the_cache(instance: RelayHome) -> None:
    trace = instance.put("trace", b"")
    prefix = ("strace", "-f", "-qq", "-e", "trace=openat,fork,vfork,clone,clone3", "-o", str(trace))
    loaded = []
    for _ in range(2):
        assert pipe(instance, mail(), RECIPIENT, prefix=prefix).verdict == "sent"
        calls = trace.read_text()
        modules = ("botocore/__pycache__/credentials.", "botocore/__pycache__/session.")
        loaded.append((*(name in calls for name in modules), "clone" in calls))
    assert loaded == [(True, True, True), (False, False, False)]
