"""--explain says what a delivery would do with a message, and does nothing itself."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from helpers.answers import provided
from helpers.by_hand import by_hand, tree
from helpers.crowds import ADMIN, crowd, file_for
from helpers.home import SECRETS, RelayHome
from helpers.large_mail import file_part, message, multipart, noise, scan, text_part
from helpers.mail import mail
from helpers.mail_shapes import Shape, shapes
from helpers.odd_messages import SHAPES, TO
from helpers.pipe import Delivery, pipe
from helpers.readme import blocks, table
from helpers.script import load_script
from helpers.state import WINDOW, clock, fill_window, put_calls
from helpers.strace import command, read_calls, trace_file
from helpers.usage import MEASURE
from helpers.variants import use_ses
from hypothesis import HealthCheck, given, settings
from sandbox import Recorded, Sandbox

SENDER = "alerts@domain.com"
EXAMPLE = {
    "TRUSTED_DEVICE_IPS": ["10.1.1.20", "10.1.1.X", "10.1.2.0/24"],
    "TRUSTED_DEVICE_DOMAINS": ["domain.com"],
    "SILENT_OVERRIDE_ADDRESSES": ["device@domain.com"],
}
TIME = re.compile(r"\d\d:\d\d:\d\d")


class Explained(NamedTuple):
    """The exit status of --explain, and its JSON."""

    status: int
    says: dict[str, Any]

    @property
    def outcome(self) -> tuple[str, str]:
        """Return the outcome, and code and text as a delivery prints them, without times of day."""
        return self.says["outcome"], TIME.sub("", f"{self.says['code']} {self.says['text']}")


def explain(
    home: RelayHome,
    content: bytes,
    *recipients: str,
    sender: str = SENDER,
    client: str = "",
    user: str = "nobody",
    options: tuple[str, ...] = (),
) -> Explained:
    """Run --explain, and check what always holds: nothing changed, no secret shown, nothing on standard
    error."""
    before = tree(home.path)
    arguments = ("--explain", "--format", "json", "--show", "--client", client, *options, "--", sender)
    done = by_hand(home, *arguments, *recipients, user=user, message=content)
    assert done.stderr == ""
    assert tree(home.path) == before
    assert "client-secret" not in done.stdout
    found = Explained(done.returncode, json.loads(done.stdout))
    assert found.status == (0 if found.says["outcome"] == "handed over" else 1)
    return found


def text_of(home: RelayHome, content: bytes, *arguments: str, user: str = "root") -> str:
    """Return the text that it prints, which no message can forge."""
    done = by_hand(home, "--explain", *arguments, user=user, message=content)
    assert done.stderr == ""
    assert done.stdout.isascii() or done.stdout.replace("\n", "").replace("\t", "").isprintable()
    return done.stdout


def mime_of(request: Recorded) -> bytes:
    """Return the message in a request; b"" if it has none, or has JSON."""
    content = json.loads(request.body)["Content"]["Raw"]["Data"] if request.role == "ses" else request.body
    return b"" if request.body[:1] == b"{" and request.role != "ses" else base64.b64decode(content)


def is_notice(request: Recorded) -> bool:
    """Tell whether it is the relay's own message to the admin."""
    return request.role in ("ses", "sendMail") and b"\r\nAuto-Submitted: auto-generated\r\n" in mime_of(
        request
    )


def sent_form(requests: list[Recorded]) -> dict[str, Any]:
    """Return the message that Graph got as JSON, without its text and its attachments."""
    forms = [json.loads(request.body) for request in requests if request.body[:1] == b"{"]
    form = next(form.get("message", form) for form in forms if "body" in form.get("message", form))
    form.pop("attachments", None)
    form["body"].pop("content")
    return dict(form)


def agree(
    sandbox: Sandbox,
    home: RelayHome,
    content: bytes,
    *recipients: str,
    sender: str = SENDER,
    client: str = "",
) -> tuple[Explained, Delivery]:
    """Explain a message, then deliver it, and check that the delivery agrees with the explanation."""
    sandbox.reset()
    found = explain(home, content, *recipients, sender=sender, client=client)
    assert sandbox.requests == []
    delivery = pipe(home, content, *recipients, sender=sender, client=client)
    given = [one for one in sandbox.requests if one.role != "token" and not is_notice(one)]
    if not given:
        assert found.outcome == (delivery.verdict, TIME.sub("", delivery.text))
        return found, delivery
    assert found.outcome == ("handed over", "2.0.0 ")
    expect_the_same(found.says, given)
    logged = [line.partition("] ")[2].rpartition(" queue_id=")[0] for line in home.log().splitlines()]
    assert [line for line in logged if line.startswith(("SENDER", "CLASSIFIED"))][-2:] == [
        line for line in found.says["log"] if line.startswith(("SENDER", "CLASSIFIED"))
    ]
    if delivery.verdict == "sent" and (
        found.says["way"]["form"] == "draft" or len(given) == found.says["way"]["calls"]
    ):
        # No recipient was refused, which only the provider could know.
        notices = sandbox.accepted[found.says["way"]["calls"] :]
        assert len(notices) == len(found.says["notices"]["of"])
        assert found.says["sender"]["goes_out_as"] == sandbox.accepted[0].mailbox
        assert found.says["way"]["form"] == sandbox.accepted[0].via
    return found, delivery


def expect_the_same(says: dict[str, Any], requests: list[Recorded]) -> None:
    """Assert that the provider's first request is what the explanation says, however it answers."""
    if says["way"]["form"] != "mime":
        assert says["header"] == sent_form(requests)
        sessions = [one for one in requests if one.path.endswith("/createUploadSession")]
        assert len(sessions) == says["way"].get("uploads", 0)
        return
    if says["provider"]["name"] == "ses":
        call = json.loads(requests[0].body)
        assert call["FromEmailAddress"] == says["sender"]["goes_out_as"]
        classes: dict[str, list[str]] = {"To": [], "Cc": [], "Bcc": []}
        for one in says["recipients"][: says["way"]["most"]]:
            classes[one["class"]].append(one["address"])
        assert call["Destination"] == {f"{name}Addresses": names for name, names in classes.items()}
    raw, header = mime_of(requests[0]), os.fsencode(says["header"])
    assert raw[: len(header)] == header and header.endswith(b"\r\n")
    assert len(raw) == says["way"]["octets"]


@pytest.fixture(autouse=True)
def compiled(home: RelayHome) -> None:
    """Compile the program beforehand, because that takes longer than --explain itself."""
    home.compile()


@pytest.fixture
def free(home: RelayHome) -> RelayHome:
    """The home, with a sender for each rule, and no limit."""
    home.configure(RATE_LIMIT_PER_MINUTE=0, **EXAMPLE)
    return home


def use(provider: str, home: RelayHome) -> None:
    if provider == "ses":
        use_ses(home)
        home.configure(RATE_LIMIT_PER_MINUTE=0, **EXAMPLE)


@pytest.fixture(params=["graph", "ses"])
def each(request: pytest.FixtureRequest, free: RelayHome) -> RelayHome:
    """The same with each provider in turn."""
    use(request.param, free)
    return free


# ---------------------------------------------------------------- it agrees with the delivery


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_odd_messages(sandbox: Sandbox, free: RelayHome, provider: str, nightly: bool) -> None:
    use(provider, free)
    # Each takes two starts, so except at night each provider gets different ones.
    every = 1 if nightly else 4
    for name, (content, code) in [*SHAPES.items()][provider == "ses" :: every]:
        # Shown if one fails.
        print(name)
        if content:
            found, _ = agree(sandbox, free, content, TO, "hidden@external.com", sender="")
            assert (found.says["code"] if found.status else "") == code


@pytest.mark.parametrize("provider", ["graph", "ses"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes)
def test_shapes_of_mail(sandbox: Sandbox, free: RelayHome, provider: str, shape: Shape) -> None:
    use(provider, free)
    if content := shape.header + shape.body:
        agree(sandbox, free, content, *shape.envelope)


@pytest.mark.parametrize(
    ("sender", "client", "author", "rules"),
    [
        (SENDER, "", SENDER, ["is in VALID_FROM_ADDRESSES"]),
        (
            SENDER,
            "",
            "X <someone@else.com>",
            ["is in VALID_FROM_ADDRESSES", "From: 'someone@else.com' is not"],
        ),
        (
            "scan@domain.com",
            "10.1.2.7",
            "scan@domain.com",
            ["client '10.1.2.7' is in '10.1.2.0/24' of TRUSTED"],
        ),
        ("scan@domain.com", "::ffff:10.1.1.20", "user@domain.com", ["is in '10.1.1.20' of", "From: client"]),
        (
            "scan@domain.com",
            "192.0.2.1",
            "scan@domain.com",
            ["client '192.0.2.1' is in no entry of TRUSTED_DEV"],
        ),
        (
            "scan@domain.com",
            "",
            "scan@domain.com",
            ["mail from the relay itself does not come from a trusted device"],
        ),
        (
            "root@copier.local",
            "10.1.2.7",
            "root@copier.local",
            ["'copier.local' is not in TRUSTED_DEVICE_DOM"],
        ),
        (
            "root@copier.local",
            "10.1.2.7",
            "network@domain.com",
            ["is not in VALID", "From: 'network@domain.com' is"],
        ),
        ("device@domain.com", "192.0.2.1", "device@domain.com", ["is in no entry of TRUSTED_DEVICE_IPS"]),
        ("root@x.org", "", "alerts@domain.com", ["is not in VALID", "'alerts@domain.com' is"]),
        ("<>", "", "MAILER-DAEMON@x.org", ["the null sender goes out from DEFAULT_FROM_ADDRESS"]),
        ("-x y@domain.com", "10.1.2.7", "z@domain.com", ["'-x y@domain.com' is not an e-mail address"]),
    ],
)
def test_senders(
    sandbox: Sandbox, each: RelayHome, sender: str, client: str, author: str, rules: list[str]
) -> None:
    content = mail(From=author)
    found, _ = agree(sandbox, each, content, TO, sender=sender, client=client)
    said = found.says["sender"]["rules"]
    for rule, part in zip(said, rules):
        assert part in rule
    assert found.says["from"]["before"] == [author]
    assert found.says["from"]["after"] == sandbox.accepted[0].message.get_all("From")
    assert f"SENDER: {found.says['sender']['why']}" in found.says["log"]
    assert f"SENDER: {found.says['sender']['why']}" in each.log()


def test_the_rules_of_the_page(sandbox: Sandbox, free: RelayHome) -> None:
    for sender, client, goes_out, notice, _why in table("Sender rules"):
        sender, client = sender.strip("`"), client.strip("`")
        found, _ = agree(sandbox, free, mail(From=sender.strip("<>")), TO, sender=sender, client=client)
        assert found.says["sender"]["goes_out_as"] == goes_out.strip("`")
        assert found.says["notices"]["of"] == ["the replaced sender"] * (notice == "yes")


def test_recipients_and_why(sandbox: Sandbox, each: RelayHome) -> None:
    content = mail(To=f"External <{TO}>, b@x.org x", Cc="c@x.org", Bcc="e@x.org", X_SES_A="1")
    found, _ = agree(
        sandbox, each, content, TO, "b@x.org", "c@x.org", "d@x.org", "e@x.org", "no address@x.org"
    )
    assert [(one["address"], one["class"], one["found"]) for one in found.says["recipients"]] == [
        (TO, "To", "To"),
        ("b@x.org", "To", "To, which is not well-formed"),
        ("c@x.org", "Cc", "Cc"),
        ("d@x.org", "Bcc", "no field"),
        ("e@x.org", "Bcc", "Bcc"),
    ]
    assert found.says["left_out"] == ["no address@x.org"]
    assert found.says["notices"]["of"] == ["the recipients left out"]
    changes = {change["name"]: change["change"] for change in found.says["changes"]}
    graph = {"To": "changed", "Bcc": "changed", "X-SES-A": "dropped"}
    assert changes == ({**graph, "Bcc": "dropped"} if "ses" in found.says["provider"]["name"] else graph)


@pytest.mark.parametrize("recipients", [["a b@x.org"], ["a b@x.org", "@x.org"]])
def test_no_recipient_is_an_address(sandbox: Sandbox, each: RelayHome, recipients: list[str]) -> None:
    found, _ = agree(sandbox, each, mail(), *recipients)
    assert (found.says["code"], found.says["notices"]["of"]) == ("5.1.3", ["the bounce"])
    assert [one.to for one in sandbox.accepted] == [[ADMIN]]


@pytest.mark.parametrize("visible", ["reject", "deliver"])
def test_nobody_is_visible(sandbox: Sandbox, each: RelayHome, visible: str) -> None:
    each.configure(RATE_LIMIT_PER_MINUTE=0, MISSING_VISIBLE_RECIPIENT=visible)
    found, _ = agree(sandbox, each, mail(To=None), TO, "b@x.org")
    assert found.status == (visible == "reject")


@pytest.mark.parametrize(
    "content",
    [
        scan(4.5),
        message(
            multipart(text_part("Both."), file_part(noise(3_500_000)), file_part(noise(800_000), "b.pdf"))
        ),
        message(multipart(text_part("x"), file_part(noise(3_500_000))), Message_ID=None, X_Copier="3"),
        # A signature, which a draft would break.
        message(multipart(text_part("x"), file_part(noise(3_500_000)), kind="signed")),
        message(multipart(*[text_part("x" * 20_000)] * 260)),
    ],
    ids=["a scan", "two files", "no Message-ID", "signed", "too many parts"],
)
@pytest.mark.parametrize("large", ["send", "refuse"])
def test_large_messages(sandbox: Sandbox, free: RelayHome, content: bytes, large: str) -> None:
    free.configure(RATE_LIMIT_PER_MINUTE=0, LARGE_MESSAGES=large)
    found, _ = agree(sandbox, free, content, TO)
    assert found.says["code"] in ("2.0.0", "5.3.4", "5.6.0")
    assert found.status or found.says["way"]["form"] == "draft"


def test_too_large_for_ses(sandbox: Sandbox, free: RelayHome) -> None:
    use_ses(free)
    found, _ = agree(sandbox, free, mail(b"x" * 34_000_000), TO)
    assert (found.says["code"], found.says["way"]) == ("5.3.4", None)


@pytest.mark.parametrize("content", [mail(X_One="1"), scan(0.2), mail(b"x" * 3_000_000)])
def test_small_mail_as_json(sandbox: Sandbox, free: RelayHome, content: bytes) -> None:
    free.configure(RATE_LIMIT_PER_MINUTE=0, SAVE_TO_SENT_ITEMS=False)
    agree(sandbox, free, content, TO)


def test_a_crowd(sandbox: Sandbox, each: RelayHome) -> None:
    found, _ = agree(sandbox, each, mail(), TO, *crowd(600))
    assert found.says["way"]["calls"] == {50: 13, 500: 2}[found.says["way"]["most"]]
    assert f"of up to {found.says['way']['most']} recipients" in text_of(
        each, mail(), SENDER, TO, *crowd(600)
    )


# ---------------------------------------------------------------- what waits


def test_a_full_window(sandbox: Sandbox, home: RelayHome) -> None:
    fill_window(home, 28)
    found, delivery = agree(sandbox, home, mail(), TO)
    assert delivery.text == "4.4.5 rate limit reached (28/28 per minute), deferring"
    assert (found.says["window"]["calls"], found.says["window"]["limit"]) == (28, 28)
    # Further findings in that case.
    found, _ = agree(sandbox, home, mail(To=None), TO)
    assert [one["code"] for one in found.says["then"]] == ["5.7.1"]
    # Urgent mail has two more.
    assert explain(home, mail(), TO, options=("--urgent",)).status == 0


def test_a_window_in_which_it_would_wait(sandbox: Sandbox, home: RelayHome) -> None:
    home.configure(RATE_LIMIT_MAX_WAIT_SECONDS=60)
    put_calls(home, [50.0] * 28)
    found = explain(home, mail(), TO)
    assert found.status == 0 and 0 < found.says["window"]["wait_seconds"] <= 10
    shown = text_of(home, mail(), SENDER, TO)
    assert re.match(
        r"outcome:     handed to graph at [0-9:]{8}, after a wait: rate limit reached \(28/28", shown
    )
    home.configure(RATE_LIMIT_MAX_WAIT_SECONDS=1)
    assert agree(sandbox, home, mail(), TO)[0].says["code"] == "4.4.5"


def test_each_sender_has_a_window(sandbox: Sandbox, home: RelayHome) -> None:
    home.configure(RATE_LIMIT_SCOPE="sender", RATE_LIMIT_PER_MINUTE=1)
    home.put(WINDOW, json.dumps({"calls": [[clock() - 2, clock() - 1, 1, SENDER]]}).encode())
    found, _ = agree(sandbox, home, mail(), TO)
    assert (found.says["code"], found.says["window"]["of"]) == ("4.4.5", SENDER)
    assert agree(sandbox, home, mail(From="network@domain.com"), TO)[0].status == 0


def test_a_pause(sandbox: Sandbox, home: RelayHome) -> None:
    home.put(WINDOW, json.dumps({"calls": [], "paused_until": clock() + 100}).encode())
    assert agree(sandbox, home, mail(), TO)[0].says["code"] == "4.4.5"


@pytest.mark.parametrize("cause", ["mailbox", "credentials"])
def test_a_refusal(sandbox: Sandbox, home: RelayHome, cause: str) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    if cause == "mailbox":
        sandbox.answer("sendMail", provided("graph/unknown-mailbox")._replace(times=None))
    else:
        sandbox.answer("token", provided("entra/secret-expired"))
    assert pipe(home, mail(), TO).verdict == "deferred"
    found, _ = agree(sandbox, home, mail(), TO)
    [(key, refusal)] = found.says["refused"].items()
    assert key == (SENDER if cause == "mailbox" else "")
    assert refusal["since"] and refusal["asked_again_seconds"] > 50
    assert f"refused:     {key or 'the credentials'} since " in text_of(home, mail(), SENDER, TO)
    other = explain(home, mail(From="network@domain.com"), TO, sender="network@domain.com")
    assert other.status == (cause == "credentials")


def test_a_delivery_that_has_begun(home: RelayHome) -> None:
    name = file_for(load_script(), mail(), TO, "b@x.org")
    home.put(name, b"{}")
    home.put(f"{name[:-3]}000", b"{}")
    assert explain(home, mail(), TO, "b@x.org").says["begun"] == ["4ZxTestQid"]
    assert explain(home, mail(), TO).says["begun"] == []


@pytest.mark.parametrize(
    "state", [b"", b"[]", b'{"calls": [[1]], "refused": 3, "paused_until": "x"}', b"\xff"]
)
def test_a_damaged_state(sandbox: Sandbox, home: RelayHome, state: bytes) -> None:
    home.put(WINDOW, state)
    assert agree(sandbox, home, mail(), TO)[0].status == 0


# ---------------------------------------------------------------- what is missing


@pytest.mark.parametrize("name", [WINDOW, f"{WINDOW}.new"])
def test_a_state_that_cannot_be_written(sandbox: Sandbox, home: RelayHome, name: str) -> None:
    """The file is root's, and the account cannot replace it in a sticky directory."""
    home.path.chmod(0o1770)
    os.chown(home.path, 0, home.account.pw_gid)
    (home.path / name).write_text("{}")
    found, _ = agree(sandbox, home, mail(), TO)
    assert (found.status, found.says["code"]) == (1, "4.3.0")


def test_a_home_that_cannot_be_written(sandbox: Sandbox, home: RelayHome) -> None:
    home.path.chmod(0o555)
    delivery = pipe(home, mail(), TO)
    assert (delivery.verdict, sandbox.accepted) == ("deferred", [])
    assert delivery.text.startswith(" ".join(explain(home, mail(), TO).outcome[1:]))


@pytest.mark.parametrize("fault", ["missing", "open", "no JSON"])
def test_unusable_secrets(sandbox: Sandbox, home: RelayHome, fault: str) -> None:
    if fault == "missing":
        (home.path / SECRETS).unlink()
    elif fault == "open":
        (home.path / SECRETS).chmod(0o644)
    else:
        home.put(SECRETS, b"{")
    found, _ = agree(sandbox, home, mail(To=None), TO)
    assert (found.says["code"], found.says["then"][0]["code"]) == ("4.3.5", "5.7.1")
    assert found.says["provider"] == {"name": "graph", "known_by": "assumed"}
    other = explain(home, mail(Bcc="x@x.org"), TO, options=("--provider", "ses"))
    assert other.says["provider"] == {"name": "ses", "known_by": "--provider"}
    assert (other.says["then"], other.says["way"]["most"]) == ([], 50)


def test_the_examples_secrets(home: RelayHome) -> None:
    home.secrets(API_SECRET="YOUR_SECRET")
    found = explain(home, mail(), TO)
    assert (found.status, found.says["missing"]) == (
        0,
        [f"API_SECRET in {home.path}/{SECRETS} is still the example's"],
    )


def test_a_home_of_roots_without_secrets(home: RelayHome) -> None:
    home.give_to_root()
    (home.path / SECRETS).unlink()
    found = explain(home, mail(), TO, user="root")
    assert (found.says["code"], found.says["window"]) == ("4.3.5", None)
    assert found.says["text"].startswith(f"Secrets file not found: {home.path}/{SECRETS}; ")
    assert found.says["way"]["calls"] == 1
    # The account could lead root elsewhere.
    (home.path / "relay-config.json").unlink()
    (home.path / "relay-config.json").symlink_to("/etc/shadow")
    done = by_hand(home, "--explain", SENDER, TO, message=mail())
    assert (done.returncode, done.stdout) == (2, "")
    assert "accounts other than root can change" in done.stderr and done.stderr.count("\n") == 1


def test_another_user(home: RelayHome) -> None:
    found = explain(home, mail(), TO, user="daemon")
    owner = home.account.pw_name
    assert found.says["missing"] == [
        f"secrets and state cannot be read: {home.path} belongs to {owner}; run this as root or as {owner}"
    ]
    assert (found.status, found.says["window"], found.says["way"]["calls"]) == (0, None, 1)
    (home.path / "relay-config.json").chmod(0o600)
    done = by_hand(home, "--explain", SENDER, TO, message=mail(), user="daemon")
    assert done.returncode == 2
    assert f"cannot be read: Permission denied; secrets and state cannot be read: {home.path}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "content", "said"),
    [
        ([], mail(), "sender and recipients are missing"),
        ([SENDER], mail(), "the recipients are missing"),
        ([SENDER, "root"], mail(), "recipient 'root' has no @"),
        (["4ZxTestQid", TO, ""], mail(), "recipient '' has no @"),
        ([SENDER, TO], b"", "there is no message on standard input"),
        ([SENDER, TO], b"*** ENVELOPE RECORDS deferred/4ZxTestQid ***\n", "such as: postcat -bhq QUEUE_ID"),
        (["--client", "copier", SENDER, TO], mail(), "--client 'copier' is not an IP address"),
        (["--client", "10.0.0.0/8", SENDER, TO], mail(), "--client '10.0.0.0/8' is not an IP address"),
        (["--format", "prometheus", SENDER, TO], mail(), "argument --format: invalid choice: 'prometheus'"),
        (["--provider", "smtp", SENDER, TO], mail(), "--provider"),
        (["--home", "/nonexistent", SENDER, TO], mail(), "Config file not found: /nonexistent"),
    ],
)
def test_what_cannot_be_explained(
    sandbox: Sandbox, home: RelayHome, arguments: list[str], content: bytes, said: str
) -> None:
    done = by_hand(home, "--explain", *arguments, message=content)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("postfix-api-relay: error: ") and said in done.stderr
    assert sandbox.requests == []


def test_a_sender_of_that_name_is_a_message(sandbox: Sandbox, home: RelayHome) -> None:
    assert pipe(home, mail(), TO, sender="--explain").verdict == "sent"
    assert [one.to for one in sandbox.accepted if ADMIN not in one.to] == [[TO]]
    sandbox.reset()
    # An incomplete entry in master.cf must not cause bounces.
    for client in (TO, "--show"):
        assert pipe(home, mail(), TO, sender="--explain", client=client).verdict in ("deferred", "sent")


# ---------------------------------------------------------------- it leaves no trace


@pytest.fixture(params=["root", "nobody"])
def user(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def test_nothing_is_written_and_nobody_asked(home: RelayHome, user: str) -> None:
    assert user in ("root", home.account.pw_name)
    put_calls(home, [1.0])
    before = tree(home.path)
    with trace_file(home) as file:
        done = by_hand(
            home, "--explain", "--show", SENDER, TO, prefix=command(file), user=user, message=scan(4.5)
        )
        calls = read_calls(file.read_text(errors="replace"))
    assert (done.returncode, tree(home.path)) == (0, before)
    assert "\nway:         one draft as JSON, with 1 attachment, 1 of them in upload sessions" in done.stdout
    names = {call.name for call in calls}
    assert {"openat", "read"} <= names
    # libc asks nscd(8), if there is one, for the account of root's command.
    assert [call.text for call in calls if call.name == "socket" and "AF_UNIX" not in call.text] == []
    forbidden = r"unlink|rename|mkdir|rmdir|link|symlink|flock|ch(mod|own)|truncate|utime"
    assert [name for name in names if re.match(forbidden, name)] == []
    assert [call.text for call in calls if re.search(r"O_(WRONLY|RDWR|CREAT)", call.text)] == []


def test_a_large_message_in_little_memory(home: RelayHome, tmp_path_factory: pytest.TempPathFactory) -> None:
    use_ses(home)
    usage = home.queue / "usage"
    done = by_hand(
        home,
        *("--explain", SENDER, TO),
        prefix=("/usr/bin/python3", "-I", "-c", MEASURE, str(usage)),
        message=mail(b"x" * 75 * 400_000),
    )
    assert done.stdout.startswith("outcome:     handed to ses now\n")
    assert float(usage.read_text().split()[2]) < 160


# ---------------------------------------------------------------- what is shown


def test_hostile_bytes(home: RelayHome) -> None:
    content = mail(Subject="a\x1b]0;x\x07\x9b1m", X_A="1\r\n\toutcome: handed over").replace(b"Test", b"\xe9")
    shown = text_of(home, b"X-B: \x1b[2J\xff\n" + content, "--show", "s\x1b[31m@x.org", "r\n\x1b@x.org", TO)
    assert "\x1b" not in shown and "\x07" not in shown
    head, header = shown.split("\n\n")
    assert [line for line in head.splitlines() if not re.match(r"[A-Za-z ]+: {2,}\S", line)] == []
    assert head.count("outcome:     ") == 1
    assert "X-B: \\x1b[2J\\udcff" in header


def test_the_example_of_the_page(home: RelayHome) -> None:
    home.configure(
        RATE_LIMIT_PER_MINUTE=28,
        **{**EXAMPLE, "TRUSTED_DEVICE_IPS": ["10.1.1.20", "10.1.2.0/24"]},
    )
    content = mail(
        b"Paper jam.\n", From="Copier <root@copier.local>", To="it@domain.com", Bcc="boss@domain.com"
    )
    arguments = ("--client", "10.1.2.7", "--show", "root@copier.local", "it@domain.com", "boss@domain.com")
    [block] = [block for block in blocks("") if block.heading == "An explanation"]
    assert text_of(home, content, *arguments) == block.text
