"""The SELinux module allows what the relay and logrotate do, and no more.

strace shows what they do, and sesearch what the module adds to the distribution's policy.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Callable

import pytest
from helpers.answers import provided
from helpers.home import LOG, SCRIPT, RelayHome
from helpers.large_mail import scan
from helpers.mail import mail
from helpers.pipe import Delivery, pipe, waits
from helpers.policy import BUILD, SHIPPED_HOME, Policy, Right, build, install
from helpers.postfix import PROJECT, run
from helpers.rotation import configure, logs, rotate
from helpers.selinux import Observer
from helpers.state import WINDOW, fill_window, open_slots
from helpers.strace import command, read_calls, trace, whole_lines
from helpers.variants import use_ses
from helpers.waiting import FAR, occupy, wait_until
from sandbox import Answer, Sandbox

SYSTEM_PYTHON = "/usr/bin/python3"
RELAY, LOGROTATE = "postfix_pipe_t", "logrotate_t"
MESSAGE, SCAN = mail(Subject="Alert", From=None), scan(4)
RECIPIENT = "to@external.com"
# Not approved, so the admin is notified of it.
STRANGER = "printer@elsewhere.com"
RULE = re.compile(r"^allow (\w+) (\w+):(\w+) (?:\{ ([\w ]+) \}|(\w+));$", re.MULTILINE)
# A port that the kernel chooses: any other would be checked by its own type.
BOUND = re.compile(r"bind\(.*AF_INET6, sin6_port=htons\(0\)")

# The module's versions, each with the checksum of its rules and contexts.
VERSIONS = {
    "1.0": "d61a017be2be35ff",
    "1.3": "21f241f80a12bb83",
}


def rights(*permissions: str, target: str = "postfix_spool_t", kind: str = "file") -> set[Right]:
    return {Right(target, kind, permission) for permission in permissions}


NODE_BIND = Right("node_t", "tcp_socket", "node_bind")
IOCTL = Right("postfix_spool_t", "file", "ioctl")
# Missing in the base policy, measured on an enforcing Debian 12 with a stand-in for the relay.
MEASURED = {
    RELAY: {
        NODE_BIND,
        *rights("add_name", "remove_name", "write", kind="dir"),
        *rights("create", "rename", "unlink"),
    },
    LOGROTATE: {
        *rights("add_name", "remove_name", "write", kind="dir"),
        *rights("create", "getattr", "ioctl", "open", "read", "rename", "setattr", "unlink", "write"),
    },
}
# What Python needs to write the script's bytecode beside it.
CACHING = {
    *rights("create", kind="dir"),
    *rights("add_name", "remove_name", "write", target="bin_t", kind="dir"),
    *rights("create", "rename", "write", target="bin_t"),
}
# With any of these, a program that has taken the relay's place could change the script or its bytecode.
TAMPERING = {
    *rights("create", "reparent", kind="dir"),
    *rights("create", kind="lnk_file"),
    *rights("add_name", "remove_name", "rename", "reparent", "rmdir", "write", target="bin_t", kind="dir"),
    *rights("append", "create", "link", "relabelto", "rename", "setattr", "unlink", "write", target="bin_t"),
}


def module() -> dict[str, set[Right]]:
    """Return what the module allows, by domain."""
    text = (PROJECT / "selinux" / "postfix-relay.te").read_text()
    found = RULE.findall(text)
    assert len(found) == text.count("\nallow "), "a rule that this test does not read"
    given: dict[str, set[Right]] = {}
    for domain, target, kind, many, one in found:
        given.setdefault(domain, set()).update(rights(*(many or one).split(), target=target, kind=kind))
    return given


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The machine's policy with the module; built once for all workers of pytest-xdist because it takes 8
    s."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "policy"
    with open(f"{root}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            new = tmp_path_factory.mktemp("new-policy")
            install(new)
            new.rename(root)
    return Policy(root)


def asked(policy: Policy, observer: Observer) -> dict[Right, str]:
    """Return what the policy is asked for if the home is at its usual path, each with a call that needs
    it."""
    found: dict[Right, str] = {}
    for kind in ("dir", "file"):
        needs = {need: call for need, call in observer.needs.items() if need.kind == kind}
        places = {need: SHIPPED_HOME / need.labelled.relative_to(observer.top) for need in needs}
        types = policy.types(places.values(), kind)
        for need, call in needs.items():
            found[Right(types[places[need]], kind, need.permission)] = call
    return found


def refused(policy: Policy, domain: str, questions: Iterable[Right]) -> set[Right]:
    """Return the rights that the policy does not allow."""
    wanted = set(questions)
    return wanted - policy.rights(domain, {right.target for right in wanted})


def compare(policy: Policy, domain: str, used: dict[Right, str]) -> None:
    """Assert that a domain may do what it did, and that the module grants it nothing else."""
    assert {right: used[right] for right in refused(policy, domain, used)} == {}, "missing"
    assert module()[domain] - set(used) == set(), "not used"
    assert MEASURED[domain] - set(used) == set(), "the system calls are not read aright"


@pytest.mark.parametrize(
    "text, asked",
    [
        ("fstat(3<{file}>, {{st_mode=S_IFREG|0600, st_size=0, ...}}) = 0", "getattr"),
        ('newfstatat(3<{file}>, "", {{st_mode=S_IFREG|0600, st_size=0, ...}}, AT_EMPTY_PATH) = 0', "getattr"),
        ('statx(3<{file}>, "", AT_STATX_SYNC_AS_STAT|AT_EMPTY_PATH, STATX_SIZE, {{...}}) = 0', "getattr"),
        ("utimensat(3<{file}>, NULL, [{{tv_sec=1}}, {{tv_sec=1}}], 0) = 0", "setattr"),
        ('utimensat(AT_FDCWD</>, "{file}", NULL, 0) = 0', "write"),
        ("fcntl(3<{file}>, F_GETFL) = 0x28800 (flags O_RDONLY|O_NONBLOCK|O_LARGEFILE|O_NOFOLLOW)", ""),
        ("fcntl(3<{file}>, F_SETLK, {{l_type=F_WRLCK, l_whence=SEEK_SET, l_start=0, l_len=0}}) = 0", "lock"),
    ],
)
def test_the_system_calls_of_any_version_of_a_library_are_read(tmp_path: Path, text: str, asked: str) -> None:
    file = tmp_path / "file"
    file.touch()
    observer = Observer(tmp_path)
    observer.see(read_calls(f"1 {text.format(file=file)}"))
    assert {need.permission for need in observer.needs if need.path == file} == {asked} - {""}


@pytest.mark.parametrize(
    "opened, then, asked",
    [
        ("O_RDONLY|O_NONBLOCK", "O_RDONLY", set()),
        ("O_WRONLY|O_APPEND", "O_WRONLY|O_APPEND|O_NONBLOCK", set()),
        ("O_WRONLY|O_APPEND", "O_WRONLY", {"write"}),
    ],
)
def test_only_who_stops_appending_asks_for_more(
    tmp_path: Path, opened: str, then: str, asked: set[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    observer = Observer(tmp_path)
    observer.see(read_calls(f'1 openat(AT_FDCWD</>, "{file}", {opened}) = 3<{file}>'))
    before = set(observer.needs)
    observer.see(read_calls(f"1 fcntl(3<{file}>, F_SETFL, {then}) = 0"))
    assert {need.permission for need in set(observer.needs) - before} == asked


@pytest.mark.parametrize("text", ["fallocate(3<{file}>, 0, 0, 1) = 0", "fcntl(3<{file}>, F_SETFL, 0) = 0"])
def test_a_system_call_that_is_not_known_is_not_passed_over(tmp_path: Path, text: str) -> None:
    with pytest.raises(AssertionError, match="not known: f"):
        Observer(tmp_path).see(read_calls(f"1 {text.format(file=tmp_path)}"))


# ---------------------------------------------------------------- the relay


def watch(policy: Policy, home: RelayHome, message: bytes = MESSAGE) -> tuple[Delivery, dict[Right, str]]:
    """Deliver under strace; return the delivery, and what the policy is asked for."""
    observer = Observer(home.path)
    traced = trace(home, message, RECIPIENT, sender=STRANGER)
    observer.see(traced.calls)
    used = asked(policy, observer)
    for call in traced.calls:
        if BOUND.match(call.text):
            used[NODE_BIND] = call.text
    return traced.delivery, used


def first(home: RelayHome, provider: Sandbox) -> None:
    """A notice of the replaced sender follows."""


def second(home: RelayHome, provider: Sandbox) -> None:
    pipe(home, MESSAGE, RECIPIENT)


def spaced_notices(home: RelayHome, provider: Sandbox) -> None:
    """The relay remembers these."""
    home.configure(NOTIFY_INTERVAL_MINUTES=9)


def ses_with_quota(home: RelayHome, provider: Sandbox) -> None:
    use_ses(home)
    home.configure()


def full_window(home: RelayHome, provider: Sandbox) -> None:
    fill_window(home, 28)


def wait_for_a_place(home: RelayHome, provider: Sandbox) -> None:
    """No slot opens before the delivery waits, however late that is."""
    occupy(home, FAR)
    threading.Thread(target=give_a_place, args=(home,)).start()


def give_a_place(home: RelayHome) -> None:
    """Open a slot once a delivery waits."""
    wait_until(lambda: "WAITING: " in home.log())
    open_slots(home)


def refusal(home: RelayHome, provider: Sandbox) -> None:
    """The message bounces, with a notice."""
    provider.answer("sendMail", provided("graph/invalid-recipients"))


def wrong_secret(home: RelayHome, provider: Sandbox) -> None:
    home.secrets(API_SECRET="another")


def no_configuration(home: RelayHome, provider: Sandbox) -> None:
    (home.path / "relay-config.json").unlink()


def left_by_a_death(home: RelayHome, provider: Sandbox) -> None:
    home.put(f"{WINDOW}.new", b"{")


def large_message(home: RelayHome, provider: Sandbox) -> bytes:
    """The delivery keeps its progress, which an earlier attempt has left, and renews its age."""
    provider.answer("send", Answer(503))
    assert waits(pipe(home, SCAN, RECIPIENT, sender=STRANGER))
    return SCAN


def directory_for_a_file(home: RelayHome, provider: Sandbox) -> None:
    (home.path / WINDOW).mkdir()
    home.own(home.path / WINDOW)


# The preparation, and what the log says afterwards.
DELIVERIES: dict[Callable[[RelayHome, Sandbox], bytes | None], str] = {
    first: "NOTICE: override notice sent",
    second: "NOTICE: override notice sent",
    spaced_notices: "NOTICE: override notice sent",
    ses_with_quota: "provider='ses'",
    full_window: "DEFERRED: 4.4.5 ",
    wait_for_a_place: "WAITING: ",
    refusal: "NOTICE: failure notice sent",
    wrong_secret: "BOUNCED: 5.7.8 ",
    no_configuration: "DEFERRED: 4.3.5 ",
    left_by_a_death: "DELIVERED: ",
    large_message: "DELIVERED: ",
    directory_for_a_file: "DELIVERED: ",
}


def python_asks_for_terminals() -> bool:
    """Tell whether the relay's Python asks this of each file that it opens, as it does before 3.14."""
    shown = run(SYSTEM_PYTHON, "-I", "-c", "import sys; print(sys.version_info < (3, 14))")
    return shown.strip() == "True"


def test_the_relay_is_allowed_what_it_does_and_no_more(policy: Policy) -> None:
    used: dict[Right, str] = {}
    for prepare, logged in DELIVERIES.items():
        with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
            home.give_to_root()
            _delivery, found = watch(policy, home, prepare(home, provider) or MESSAGE)
            assert logged in home.log(), prepare.__name__
            used.update(found)
    if not python_asks_for_terminals():
        used[IOCTL] = "an older Python's"
    compare(policy, RELAY, used)


def test_the_relay_cannot_change_itself(policy: Policy, home: RelayHome) -> None:
    """A first start in its own home would write the script's bytecode. Whatever may write there decides what
    the relay does from then on, so this is denied, and the installer writes the bytecode."""
    delivery, used = watch(policy, home)
    assert delivery.verdict == "sent"
    assert refused(policy, RELAY, used) == CACHING
    assert refused(policy, RELAY, TAMPERING) == TAMPERING


def test_without_bytecode_the_mail_goes_out(home: RelayHome) -> None:
    traced = trace(home, MESSAGE, RECIPIENT, options=["-e", "inject=mkdir:error=EACCES"])
    assert any(call.injected for call in traced.calls)
    assert traced.delivery == ("sent", "2.0.0", 0, b"")


# ---------------------------------------------------------------- logrotate


def test_logrotate_is_allowed_what_it_does_and_no_more(
    policy: Policy, home: RelayHome, tmp_path: Path
) -> None:
    home.give_to_root()
    configuration, file = configure(home, tmp_path), tmp_path / "calls"
    home.put(LOG, b"week 0\n", 0o644)
    observer = Observer(home.path)
    for week in range(1, 7):
        rotate(configuration, command(file))
        observer.see(read_calls(whole_lines(file.read_text())))
        home.put(LOG, f"week {week}\n".encode(), 0o644)
    assert logs(home) == [LOG, f"{LOG}.1", *(f"{LOG}.{number}.gz" for number in (2, 3, 4))]
    compare(policy, LOGROTATE, asked(policy, observer))


# ---------------------------------------------------------------- the module


def test_the_home_is_writable_and_the_program_is_not(policy: Policy) -> None:
    written = [SHIPPED_HOME / name for name in (LOG, WINDOW, f"{LOG}.2.gz", "api-secrets.json", "a/file")]
    code = [SHIPPED_HOME / name for name in (SCRIPT.name, "__pycache__/any.pyc")]
    types = policy.types([*written, *code], "file")
    assert types == {**dict.fromkeys(written, "postfix_spool_t"), **dict.fromkeys(code, "bin_t")}
    directories = {SHIPPED_HOME: "postfix_spool_t", SHIPPED_HOME / "__pycache__": "bin_t"}
    assert policy.types(directories, "dir") == directories


def test_the_module_is_about_nothing_else() -> None:
    assert set(module()) == {RELAY, LOGROTATE}


@pytest.mark.parametrize("end", ["", "/"])
def test_it_is_built_for_another_home(tmp_path: Path, end: str) -> None:
    package = build(tmp_path, f"/srv/relay.d/a+b{end}").read_bytes()
    assert rb"/srv/relay\.d/a\+b(/.*)?" in package
    assert rb"/srv/relay\.d/a\+b/__pycache__(/.*)?" in package
    assert b"/opt" not in package
    assert [path.name for path in tmp_path.iterdir()] == ["postfix-relay.pp"]


@pytest.mark.parametrize("arguments", [[], ["no-such-directory"], [".", "relative"], [".", "/a", "/b"]])
def test_wrong_arguments_build_nothing(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run([BUILD, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: build.sh OUTPUT_DIR [HOME]")
    assert list(tmp_path.iterdir()) == []


def test_a_change_has_a_version_of_its_own() -> None:
    text = (PROJECT / "selinux" / "postfix-relay.te").read_text()
    contexts = (PROJECT / "selinux" / "postfix-relay.fc").read_text()
    statement = re.search(r"^module postfix-relay ([\d.]+);$", text, re.MULTILINE)
    assert statement
    content = re.sub(r"^#.*\n", "", text.replace(statement[0], "") + contexts, flags=re.MULTILINE)
    digest = hashlib.sha256(" ".join(content.split()).encode()).hexdigest()[:16]
    *_, (version, known) = VERSIONS.items()
    assert digest == known, f"changed: raise the version in the .te, and add it here with {digest!r}"
    assert statement[1] == version
    numbers = [[int(part) for part in version.split(".")] for version in VERSIONS]
    assert numbers == sorted(numbers)
    assert len(set(VERSIONS.values())) == len(VERSIONS)
