"""--check finds what is wrong in the home directory and its files, and names the fix; it changes nothing."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from types import ModuleType
from typing import Callable

import pytest
from helpers.by_hand import by_hand, in_days, tree
from helpers.chain import CONFIG, EDIT_CONFIG, EDIT_SECRETS, SECRETS, Chain, expect_fault, fault, fixed
from helpers.home import LOG, RelayHome
from helpers.state import TOKEN, WINDOW, lock_held
from helpers.terminal import on_a_terminal
from sandbox import Sandbox

NOT_TRIED = f"warn  the provider was not tested; fix HOME/{CONFIG} and HOME/{SECRETS} first"


def test_a_sound_chain(chain: Chain) -> None:
    checked = chain.check()
    expected = [
        "the secrets in HOME belong to nobody",
        "only root can replace root's files in HOME",
        "home directory HOME is closed to others",
        "HOME/postfix-api-relay belongs to root and has mode 0755",
        "HOME/__pycache__/… is up to date",
        "the service account can write its state in HOME",
        f"the service account can write to HOME/{LOG}",
        f"HOME/{CONFIG} belongs to root and has mode 0644",
        f"HOME/{CONFIG} is complete",
        f"HOME/{SECRETS} is complete",
        f"the credentials expire in 365 days, on {in_days(365)}",
        "requests … for /usr/bin/python3",
        "localhost resolves to …",
        f"a token was obtained from {chain.sandbox.url}, valid for 3599 s",
        "the token's roles are Mail.ReadWrite, Mail.Send",
        f"{chain.sandbox.url} answers over TLS (HTTP 404)",
        "this machine's clock is … s off the provider's",
        "default_transport is apirelay:api-relay",
        "the transport has flags R and q",
        "the transport runs as nobody, the secrets in HOME belong to nobody",
        "argv= hands over ${sender} ${queue_id} ${recipient} ${client_address}",
        "the transport starts HOME/postfix-api-relay in HOME",
        "apirelay_destination_recipient_limit is 0",
        "apirelay_time_limit is 1000 s",
        "minimal_backoff_time is 30 s, maximal_backoff_time 30 s, queue_run_delay 62 s",
        "mynetworks is 127.0.0.0/8, [::1]/128, 192.168.1.0/24",
        f"HOME/{LOG} is rotated",
    ]
    chain.expect(checked.lines, [f"ok    {text}" for text in expected])
    assert checked.status == 0
    # The service's own account finds the same.
    assert chain.check(user=chain.home.account.pw_name).problems == []


def open_to_others(name: str, mode: int) -> Callable[[Chain], object]:
    return lambda chain: (chain.home.path / name).chmod(mode)


def given(name: str, account: str) -> Callable[[Chain], object]:
    return lambda chain: shutil.chown(chain.home.path / name, account)


def own_directory_for_the_cache(chain: Chain) -> None:
    """As the account creates one, if there is none."""
    shutil.rmtree(chain.home.path / "__pycache__")
    (chain.home.path / "__pycache__").mkdir()
    chain.home.own(chain.home.path / "__pycache__")


def own_cache(chain: Chain) -> None:
    """As after a chown of the directory alone, when the file already existed."""
    [cache] = (chain.home.path / "__pycache__").iterdir()
    chain.home.own(cache)


def state_of_roots(name: str) -> Callable[[Chain], object]:
    def leave(chain: Chain) -> None:
        (chain.home.path / name).write_text("{}")

    return leave


def linked(name: str) -> Callable[[Chain], object]:
    """A link that the account has made, to a file of its own."""

    def link(chain: Chain) -> None:
        file, other = chain.home.path / name, chain.home.queue / name
        shutil.move(file, other)
        chain.home.own(other)
        file.symlink_to(other)

    return link


def second_name(chain: Chain) -> None:
    os.link(chain.home.path / SECRETS, chain.home.queue / SECRETS)


def of_another_group(chain: Chain) -> None:
    os.chown(chain.home.path, 0, 1)
    chain.home.path.chmod(0o1771)


def link_as_log(chain: Chain) -> None:
    (chain.home.path / LOG).unlink()
    (chain.home.path / LOG).symlink_to("/dev/null")


WIDE = "others could hold the relay's lock, or change its files"
OPEN = "accounts other than root can change {}, and so the program or its configuration"
CLOSE = "chown root:$(id -g nobody) HOME; chmod 1770 HOME"
CACHE = "accounts other than root could change HOME/__pycache__/…"
CACHE_CURE = "rm -r HOME/__pycache__; HOME/postfix-api-relay --check"
# Without root's terminal.
AS_NOBODY, APART = "setsid -w runuser -u nobody --", "</dev/null 2>&1 | cat"
GUARD_SCRIPT = (
    "install -T -m 0755 postfix-api-relay HOME/postfix-api-relay.new"
    " && mv -T HOME/postfix-api-relay.new HOME/postfix-api-relay"
)
GUARD_CONFIG = (
    f"mv -T HOME/{CONFIG} HOME/{CONFIG}.old; {AS_NOBODY} cat HOME/{CONFIG}.old {APART}"
    f" | install -T -m 0644 /dev/stdin HOME/{CONFIG}.new && mv -T HOME/{CONFIG}.new HOME/{CONFIG}"
)
NOT_ROOT = "belongs to root, is a link or is not a file: nothing is delivered as root"
OF_ANOTHER = "belongs to root: the service account cannot replace it"
SERVICE = f"$(stat -c %U HOME/{LOG})"
NEW_SECRETS = (
    f"mv -T HOME/{SECRETS} HOME/{SECRETS}.old; install -o {SERVICE} -m 0600 {SECRETS}.example HOME/{SECRETS}"
)
HOME_FAULTS = {
    "home open to others": fixed(
        "warn",
        lambda chain: chain.home.path.chmod(0o1775),
        f"home directory HOME has mode 1775: {WIDE}",
        CLOSE,
    ),
    "home that others can write to": fixed(
        "FAIL",
        lambda chain: chain.home.path.chmod(0o1777),
        f"home directory HOME has mode 1777: {WIDE}",
        CLOSE,
    ),
    "home without the sticky bit": fixed(
        "FAIL", lambda chain: chain.home.path.chmod(0o770), OPEN.format("HOME"), CLOSE
    ),
    "home of the account's": fixed(
        "FAIL", lambda chain: chain.home.own(chain.home.path), OPEN.format("HOME"), CLOSE
    ),
    "home that its group cannot write to": fixed(
        "FAIL",
        lambda chain: chain.home.path.chmod(0o1750),
        "the state cannot be written in HOME: Permission denied",
        CLOSE,
    ),
    "home of another group": fixed(
        "warn",
        of_another_group,
        f"home directory HOME has mode 1771: {WIDE}",
        CLOSE,
        f"FAIL  the state cannot be written in HOME: Permission denied; {CLOSE}",
    ),
    "state of root's": fixed(
        "FAIL", state_of_roots(WINDOW), f"HOME/{WINDOW} {OF_ANOTHER}", f"rm -r HOME/{WINDOW}"
    ),
    "half a state of root's": fixed(
        "FAIL", state_of_roots(f"{TOKEN}.new"), f"HOME/{TOKEN}.new {OF_ANOTHER}", f"rm -r HOME/{TOKEN}.new"
    ),
    "log of root's": fixed(
        "FAIL",
        lambda chain: chain.own_by_root(LOG),
        f"the log HOME/{LOG} cannot be written: Permission denied",
        f"chown -h nobody: HOME/{LOG}; {AS_NOBODY} chmod u+w HOME/{LOG} {APART}",
    ),
    "log that is a link": fixed(
        "FAIL",
        link_as_log,
        f"the log HOME/{LOG} cannot be written: Too many levels of symbolic links",
        f"mv -T HOME/{LOG} HOME/{LOG}.old",
    ),
    "log that is not rotated": fixed(
        "warn",
        lambda chain: (chain.rotation / "relay").unlink(),
        f"no file in ROTATION names HOME/{LOG}: it grows for ever",
        f"sed 's|/opt/postfix-relay/{LOG}|HOME/{LOG}|' logrotate/postfix-api-relay"
        " | sed 's|postfix-relay postfix-relay$|nobody nogroup|' > ROTATION/postfix-api-relayDASHED",
    ),
    "log whose rotation is from before root had the home": fixed(
        "warn",
        lambda chain: chain.rotate(f"{chain.home.path / LOG} {{\n  weekly\n  # su nobody nogroup\n}}\n"),
        f"ROTATION/relay has no line su nobody nogroup: logrotate skips HOME/{LOG}, and it grows for ever",
        f"sed 's|/opt/postfix-relay/{LOG}|HOME/{LOG}|' logrotate/postfix-api-relay"
        " | sed 's|postfix-relay postfix-relay$|nobody nogroup|' > ROTATION/relay",
    ),
}


# Their fixes put the shipped program there, or compile the one that is there.
PROGRAM_FAULTS = {
    "script that others can write to": fixed(
        "FAIL",
        open_to_others("postfix-api-relay", 0o757),
        "HOME/postfix-api-relay belongs to root and has mode 0757: others could change it",
        GUARD_SCRIPT,
    ),
    "script that its group can write to": fixed(
        "FAIL",
        open_to_others("postfix-api-relay", 0o775),
        "HOME/postfix-api-relay belongs to root and has mode 0775: others could change it",
        GUARD_SCRIPT,
    ),
    "script of another account": fixed(
        "FAIL",
        given("postfix-api-relay", "daemon"),
        "HOME/postfix-api-relay belongs to daemon and has mode 0755: others could change it",
        GUARD_SCRIPT,
    ),
    "script of the account's": fixed(
        "FAIL",
        given("postfix-api-relay", "nobody"),
        "HOME/postfix-api-relay belongs to nobody and has mode 0755: others could change it",
        GUARD_SCRIPT,
    ),
    "directory of the bytecode cache of the account's": fixed(
        "FAIL",
        own_directory_for_the_cache,
        CACHE,
        CACHE_CURE,
        "warn  HOME/__pycache__/… is missing or old: each start takes twice as long;"
        " run this as root, which compiles it: HOME/postfix-api-relay --check",
    ),
}


def without(name: str) -> Callable[[Chain], object]:
    return lambda chain: (chain.home.path / name).unlink()


def holding(name: str, text: str) -> Callable[[Chain], object]:
    return lambda chain: chain.home.put(name, text.encode(), (chain.home.path / name).stat().st_mode & 0o777)


def directory(name: str) -> Callable[[Chain], object]:
    def make(chain: Chain) -> None:
        without(name)(chain)
        (chain.home.path / name).mkdir()

    return make


def for_roots_group(chain: Chain) -> None:
    chain.own_by_root(CONFIG)
    (chain.home.path / CONFIG).chmod(0o640)


def for_root_alone(chain: Chain) -> None:
    chain.own_by_root(CONFIG)
    (chain.home.path / CONFIG).chmod(0o600)


def configured(**changes: object) -> Callable[[Chain], object]:
    return lambda chain: chain.configure(**changes)


def secret(**changes: object) -> Callable[[Chain], object]:
    return lambda chain: chain.secrets(**changes)


def twice(name: str, key: str, value: object) -> Callable[[Chain], object]:
    """The file with this key again at its end."""

    def make(chain: Chain) -> None:
        file = chain.home.path / name
        text = file.read_text().rstrip().removesuffix("}")
        file.write_text(f"{text}, {json.dumps(key)}: {json.dumps(value)}}}")

    return make


SINGLE = "a single address, such as alerts@domain.com"
DOMAIN = "a domain, such as domain.com"


def credentials_until(days: int) -> Callable[[Chain], object]:
    return lambda chain: chain.secrets(API_EXPIRATION_DATE=in_days(days))


FILE_FAULTS = {
    "no configuration": fault(
        "FAIL",
        without(CONFIG),
        f"Config file not found: HOME/{CONFIG}",
        f"install -o root -m 0644 {CONFIG}.example HOME/{CONFIG}",
        NOT_TRIED,
    ),
    "configuration of the account's": fixed(
        "FAIL",
        given(CONFIG, "nobody"),
        f"HOME/{CONFIG} belongs to nobody and has mode 0644: others could change it",
        GUARD_CONFIG,
        NOT_TRIED,
    ),
    "configuration that is a link": fixed(
        "FAIL",
        linked(CONFIG),
        f"HOME/{CONFIG} belongs to root and has mode 0777: others could change it",
        GUARD_CONFIG,
        NOT_TRIED,
    ),
    "configuration that is not JSON": fault(
        "FAIL",
        holding(CONFIG, '{"API_ID": "a",}'),
        f"HOME/{CONFIG} is not valid JSON: line 1, column 15: one comma too many: remove the one before"
        " the closing bracket",
        EDIT_CONFIG,
        '      {"API_ID": "a",}',
        "                    ^",
        NOT_TRIED,
    ),
    "configuration with a password in the line that is not JSON": fault(
        "FAIL",
        holding(CONFIG, '{\n"HTTPS_PROXY": "http://user:client-secret@proxy:3128" "a": 1}'),
        f"HOME/{CONFIG} is not valid JSON: line 2, column 54: a comma is missing here",
        EDIT_CONFIG,
        NOT_TRIED,
    ),
    "secrets that are not JSON": fault(
        "FAIL",
        holding(SECRETS, '{"API_ID": "client-secret", // the id\n"API_SECRET": "client-secret"}'),
        f"HOME/{SECRETS} is not valid JSON: line 1, column 29: JSON has no comments: use a key that begins"
        " with _comment",
        EDIT_SECRETS,
        NOT_TRIED,
    ),
    "key that stands twice": fault(
        "warn",
        twice(CONFIG, "VALID_FROM_ADDRESSES", ["relay@example.org"]),
        f"key 'VALID_FROM_ADDRESSES' appears twice in HOME/{CONFIG}: the last one counts",
        EDIT_CONFIG,
    ),
    "tenant with a blank at its start": fault(
        "warn",
        secret(API_TENANT_OR_REGION=" tenant-id"),
        f"API_TENANT_OR_REGION in HOME/{SECRETS} has a space or an invisible character at its start or end",
        EDIT_SECRETS,
        "FAIL  5.7.8 Failed to obtain Graph token: …; API_TENANT_OR_REGION is not a tenant's id;"
        " check api-secrets.json",
    ),
    "secret with a character that cannot be seen": fault(
        "warn",
        secret(API_SECRET="client-secret\u200b"),
        f"API_SECRET in HOME/{SECRETS} has a space or an invisible character at its start or end",
        EDIT_SECRETS,
        "FAIL  5.7.8 Failed to obtain Graph token: …; API_SECRET is not the Value of a client secret, but"
        " perhaps its Secret ID; check api-secrets.json",
    ),
    "senders that match nothing": fault(
        "warn",
        configured(
            VALID_FROM_ADDRESSES=["*@example.org", "@example.org", "ups@example.org"],
            SILENT_OVERRIDE_ADDRESSES=["a@example.org, b@example.org", "UPS <ups@example.org>", "x@y.org"],
        ),
        f"VALID_FROM_ADDRESSES: '*@example.org' is not {SINGLE}",
        EDIT_CONFIG,
        f"warn  VALID_FROM_ADDRESSES: '@example.org' is not {SINGLE}; {EDIT_CONFIG}",
        f"warn  SILENT_OVERRIDE_ADDRESSES: 'a@example.org, b@example.org' is not {SINGLE}; {EDIT_CONFIG}",
        f"warn  SILENT_OVERRIDE_ADDRESSES: 'UPS <ups@example.org>' is not {SINGLE}; {EDIT_CONFIG}",
    ),
    "domains that match nothing": fault(
        "warn",
        configured(
            TRUSTED_DEVICE_DOMAINS=[
                *("@example.org", "example.net.", ".example.net", "*.example.net", "https://example.net"),
                *("local", "b\u00fccher.example", "[10.1.1.5]", "a-b.example.net"),
            ]
        ),
        f"TRUSTED_DEVICE_DOMAINS: '@example.org' is not {DOMAIN}",
        EDIT_CONFIG,
        *(
            f"warn  TRUSTED_DEVICE_DOMAINS: {entry!r} is not {DOMAIN}; {EDIT_CONFIG}"
            for entry in ("example.net.", ".example.net", "*.example.net", "https://example.net")
        ),
    ),
    "wait that ends too early": fault(
        "warn",
        configured(RATE_LIMIT_MAX_WAIT_SECONDS=59),
        "RATE_LIMIT_MAX_WAIT_SECONDS is 59: a slot in a full window may take 60 s to open",
        EDIT_CONFIG,
    ),
    "limit above Graph's": fault(
        "warn",
        configured(RATE_LIMIT_PER_MINUTE=31),
        "RATE_LIMIT_PER_MINUTE is 31: Graph takes 30 a minute from a mailbox",
        EDIT_CONFIG,
    ),
    "configuration that is no object": fault(
        "FAIL", holding(CONFIG, "[1]"), f"HOME/{CONFIG} must hold a JSON object {{…}}", EDIT_CONFIG, NOT_TRIED
    ),
    "configuration that others can write to": fixed(
        "FAIL",
        open_to_others(CONFIG, 0o666),
        f"HOME/{CONFIG} belongs to root and has mode 0666: others could change it",
        GUARD_CONFIG,
        NOT_TRIED,
    ),
    "configuration that the service cannot read": fixed(
        "FAIL",
        for_root_alone,
        f"Config file HOME/{CONFIG} cannot be read: Permission denied",
        f"chmod 0644 HOME/{CONFIG}",
        NOT_TRIED,
    ),
    "configuration that root's group can read": fixed(
        "FAIL",
        for_roots_group,
        f"Config file HOME/{CONFIG} cannot be read: Permission denied",
        f"chmod 0644 HOME/{CONFIG}",
        NOT_TRIED,
    ),
    "configuration that is a directory": fault(
        "FAIL",
        directory(CONFIG),
        f"Config file HOME/{CONFIG} is not a regular file",
        f"mv -T HOME/{CONFIG} HOME/{CONFIG}.old; install -o root -m 0644 {CONFIG}.example HOME/{CONFIG}",
        NOT_TRIED,
    ),
    "unknown key": fault(
        "warn",
        configured(RATE_LIMIT_PER_MINUT=28, _comment_X="fine"),
        f"unknown key 'RATE_LIMIT_PER_MINUT' in HOME/{CONFIG} is ignored",
        "did you mean RATE_LIMIT_PER_MINUTE?",
    ),
    "key in lower case": fault(
        "warn",
        secret(api_endpoint="https://graph.example"),
        f"unknown key 'api_endpoint' in HOME/{SECRETS} is ignored",
        "did you mean API_ENDPOINT?",
    ),
    "key that is like no other": fault(
        "warn",
        configured(colour="blue"),
        f"unknown key 'colour' in HOME/{CONFIG} is ignored",
        "see --help for the known ones",
    ),
    "several wrong values": fault(
        "FAIL",
        configured(
            ADMIN_NOTIFICATION_EMAIL=None,
            NOTIFY_ON_OVERRIDE="yes",
            RATE_LIMIT_PER_MINUTE=-1,
            RATE_LIMIT_SCOPE="all",
            TRUSTED_DEVICE_IPS=5,
        ),
        "ADMIN_NOTIFICATION_EMAIL is required: ADMIN_NOTIFICATION_EMAIL must be one e-mail address, such as"
        f" alerts@domain.com (HOME/{CONFIG})",
        EDIT_CONFIG,
        f"FAIL  TRUSTED_DEVICE_IPS must be an array of strings, not this number (HOME/{CONFIG});"
        f" {EDIT_CONFIG}",
        f"FAIL  NOTIFY_ON_OVERRIDE must be true or false, not this string (HOME/{CONFIG}); {EDIT_CONFIG}",
        f"FAIL  RATE_LIMIT_PER_MINUTE must be a whole number, 0 or more, not this number (HOME/{CONFIG});"
        f" {EDIT_CONFIG}",
        f"FAIL  RATE_LIMIT_SCOPE must be 'relay' or 'sender', not this string (HOME/{CONFIG}); {EDIT_CONFIG}",
        NOT_TRIED,
    ),
    "device that is no address": fault(
        "warn",
        configured(TRUSTED_DEVICE_IPS=["10.1.1.7", "10.1.1.X", "10.1.3.0/24"]),
        "TRUSTED_DEVICE_IPS: '10.1.1.X' is not an address or network",
        EDIT_CONFIG,
    ),
    "senders of the example": fault(
        "warn",
        configured(VALID_FROM_ADDRESSES=["alerts@domain.com", "network@domain.com"]),
        f"VALID_FROM_ADDRESSES in HOME/{CONFIG} is still the example's",
        EDIT_CONFIG,
    ),
    "senders of which some are the example's": fault(
        "warn",
        configured(VALID_FROM_ADDRESSES=["relay@example.org", "network@domain.com"]),
        f"VALID_FROM_ADDRESSES in HOME/{CONFIG} still has the example's network@domain.com",
        EDIT_CONFIG,
    ),
    "authorities that cannot be read": fault(
        "FAIL",
        configured(CA_BUNDLE="/nonexistent.pem"),
        "CA_BUNDLE '/nonexistent.pem' cannot be read",
        EDIT_CONFIG,
    ),
    "proxy without a scheme": fault(
        "FAIL",
        configured(HTTPS_PROXY="user:client-secret@127.0.0.1:3128"),
        "HTTPS_PROXY is not a URL, such as http://proxy.domain.com:3128",
        EDIT_CONFIG,
    ),
    "proxy with a wrong address": fault(
        "FAIL",
        configured(HTTPS_PROXY="http://[::1"),
        "HTTPS_PROXY is not a URL, such as http://proxy.domain.com:3128",
        EDIT_CONFIG,
    ),
    "no secrets": fault(
        "FAIL",
        without(SECRETS),
        f"Secrets file not found: HOME/{SECRETS}",
        f"install -o {SERVICE} -m 0600 {SECRETS}.example HOME/{SECRETS}",
    ),
    "secrets that are a link": fault(
        "FAIL",
        linked(SECRETS),
        f"Secrets file HOME/{SECRETS} {NOT_ROOT}",
        NEW_SECRETS,
    ),
    "secrets that are a file of elsewhere": fault(
        "FAIL",
        second_name,
        f"Secrets file HOME/{SECRETS} {NOT_ROOT}",
        NEW_SECRETS,
    ),
    "secrets that are a directory": fault(
        "FAIL",
        directory(SECRETS),
        f"Secrets file HOME/{SECRETS} {NOT_ROOT}",
        NEW_SECRETS,
    ),
    "secrets open to others": fixed(
        "FAIL",
        open_to_others(SECRETS, 0o644),
        f"Secrets file HOME/{SECRETS}: permissions are 0o644, expected 0o600",
        f"chown -h nobody: HOME/{SECRETS}; {AS_NOBODY} chmod 0600 HOME/{SECRETS} {APART}",
        NOT_TRIED,
    ),
    "secrets of root's": fixed(
        "FAIL",
        lambda chain: chain.own_by_root(SECRETS),
        f"Secrets file HOME/{SECRETS} {NOT_ROOT}",
        f"chown -h {SERVICE}: HOME/{SECRETS};"
        f" {AS_NOBODY.replace('nobody', SERVICE)} chmod 0600 HOME/{SECRETS} {APART}",
    ),
    "secret of another type": fault(
        "FAIL",
        secret(API_SECRET=["client-secret"]),
        f"API_SECRET must be a string that is not empty, not this array (HOME/{SECRETS})",
        EDIT_SECRETS,
        NOT_TRIED,
    ),
    "no date": fault(
        "warn",
        secret(API_EXPIRATION_DATE=None),
        "API_EXPIRATION_DATE is not set: nobody is warned before the credentials expire",
        EDIT_SECRETS,
    ),
    "date of the example": fault(
        "warn",
        secret(API_EXPIRATION_DATE="2028-04-05"),
        f"API_EXPIRATION_DATE in HOME/{SECRETS} is still the example's",
        EDIT_SECRETS,
    ),
    "credentials that end soon": fault(
        "warn",
        credentials_until(30),
        "the credentials expire in 30 days, on DAY(30)",
        f"make new ones, and {EDIT_SECRETS}",
    ),
    "credentials that expire today": fault(
        "FAIL",
        credentials_until(0),
        "the credentials expire today, on DAY(0)",
        f"make new ones, and {EDIT_SECRETS}",
    ),
    "credentials that have ended": fault(
        "FAIL",
        credentials_until(-3),
        "the credentials expired 3 days ago, on DAY(-3)",
        f"make new ones, and {EDIT_SECRETS}",
    ),
}


FAULTS = {**HOME_FAULTS, **FILE_FAULTS}


def test_numbers_that_do_as_they_say_are_fine(chain: Chain) -> None:
    for wait, limit in ((0, 0), (60, 30), (300, None)):
        chain.configure(RATE_LIMIT_MAX_WAIT_SECONDS=wait, RATE_LIMIT_PER_MINUTE=limit)
        assert chain.check().problems == []
    chain.use_ses()
    chain.configure(RATE_LIMIT_PER_MINUTE=840)
    assert chain.check().problems == []


def test_the_verdict_is_the_last_line(chain: Chain) -> None:
    """Chain.check() compares its numbers with what was found."""
    number = len(chain.check().lines)
    assert chain.check().verdict == f"ok    {number} of {number} checks: the relay is ready"
    chain.configure(RATE_LIMIT_MAX_WAIT_SECONDS=59)
    assert chain.check().verdict == (
        f"ok    {number} of {number + 1} checks, warn 1: the relay is ready; look at what begins with warn"
    )
    chain.sandbox.secret = "another"
    assert ", warn 1, FAIL 1: the relay is not ready; fix what begins with FAIL" in chain.check().verdict


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_of_with_its_fix(chain: Chain, name: str) -> None:
    expect_fault(chain, FAULTS[name])


@pytest.mark.parametrize("name", PROGRAM_FAULTS)
def test_a_program_that_others_can_change_is_told_of_with_its_fix(chain: Chain, name: str) -> None:
    fault = PROGRAM_FAULTS[name]
    fault.make(chain)
    problems = chain.check().problems
    chain.expect(problems, fault.lines)
    chain.fix(problems[0])
    assert chain.problems_anew() == []


def test_the_example_files_are_not_enough(chain: Chain) -> None:
    for name in (CONFIG, SECRETS):
        (chain.home.path / name).unlink()
    for _ in (CONFIG, SECRETS):
        chain.fix(chain.check().problems[0])
    required = {
        CONFIG: ("ADMIN_NOTIFICATION_EMAIL", "DEFAULT_FROM_ADDRESS"),
        SECRETS: ("API_TENANT_OR_REGION", "API_ID", "API_SECRET"),
    }
    lists = (
        "VALID_FROM_ADDRESSES",
        "TRUSTED_DEVICE_IPS",
        "TRUSTED_DEVICE_DOMAINS",
        "SILENT_OVERRIDE_ADDRESSES",
    )
    chosen = {CONFIG: lists, SECRETS: ("API_EXPIRATION_DATE",)}
    expected = []
    for name in (CONFIG, SECRETS):
        for level, keys in (("FAIL", required[name]), ("warn", chosen[name])):
            expected += [
                f"{level}  {key} in HOME/{name} is still the example's; edit HOME/{name}" for key in keys
            ]
    checked = chain.check()
    chain.expect(checked.problems, [*expected, NOT_TRIED])
    assert chain.sandbox.requests == []


def test_whose_the_secrets_are_to_be_says_the_configured_log(chain: Chain) -> None:
    log = chain.home.queue / "my relay.log"
    chain.configure(LOG_FILE_PATH=str(log))
    log.touch()
    shutil.chown(log, "nobody")
    chain.own_by_root(SECRETS)
    problem = chain.check().problems[0]
    assert f"chown -h $(stat -c %U '{log}'): " in problem
    chain.fix(problem)
    assert (chain.home.path / SECRETS).owner() == "nobody"


def test_what_the_shipped_rotation_becomes_is_for_this_account(chain: Chain) -> None:
    (chain.rotation / "relay").unlink()
    chain.fix(chain.check().problems[0])
    [file] = chain.rotation.iterdir()
    lines = [line.strip() for line in file.read_text().splitlines()]
    assert [line for line in lines if "nogroup" in line] == [
        "create 0644 nobody nogroup",
        "su nobody nogroup",
    ]


def test_a_name_for_a_shell(chain: Chain) -> None:
    """The configuration's values are neither commands in a fix nor lines of their own."""
    name = "it's; touch x\nok    the log"
    chain.configure(LOG_FILE_PATH=f"logs/{name}")
    shown = f"{chain.home.path}/logs/it's; touch x ok the log"
    install, sed = chain.check().problems
    start, fix = install.split(": No such file or directory; ")
    assert start == f"FAIL  the log {shown} cannot be written"
    assert shlex.split(fix) == ["install", "-D", "-o", "nobody", "-m", "0644", "/dev/null", shown]
    start, fix = sed.split(": it grows for ever; ")
    assert start == f"warn  no file in {chain.rotation} names {shown}"
    assert shlex.split(fix)[:2] == ["sed", f"s|/opt/postfix-relay/{LOG}|{shown}|"]


# Each runs a program where a shell, sed(1) or logrotate(8) takes a command out of it.
@pytest.mark.parametrize("name", ["QUEUE/ran|e;#", "x/& {} QUEUE/&", "QUEUE/x\\nprerotate"])
def test_a_name_for_sed(chain: Chain, name: str) -> None:
    """What the account wrote while it owned the configuration does not become a command of root's."""
    log = name.replace("QUEUE", str(chain.home.queue))
    chain.configure(LOG_FILE_PATH=log)
    path = os.path.join(chain.home.path, log)
    [line] = [line for line in chain.check().problems if "grows for ever" in line]
    text = f"no file in {chain.rotation} names {path}: it grows for ever; choose another LOG_FILE_PATH"
    assert line == f"warn  {text}"


TERMINALS = "sh -c 'ls -l /proc/self/fd; cut -d\" \" -f7 /proc/self/stat; echo x >/dev/tty'"


def test_what_a_fix_runs_as_the_account_has_no_terminal(relay: ModuleType) -> None:
    """The account could type into it as root; a pipe in the file's place gives it time to take over the
    command.
    """
    status, said = on_a_terminal(["bash", "-c", relay.as_account("nobody", TERMINALS)])
    assert status == 0
    opened, _, terminal = said.replace("\r", "").partition("\n0\n")
    assert "/dev/null" in opened
    assert "/dev/pts" not in opened
    # The shell cannot open it.
    assert "/dev/tty" in terminal


def test_where_root_looks_for_the_log_the_account_does_not_say(chain: Chain) -> None:
    chain.configure(LOG_FILE_PATH="theirs.log")
    chain.home.path.joinpath(SECRETS).unlink()
    os.chown(chain.home.path / CONFIG, chain.home.account.pw_uid, -1)
    assert f"-o $(stat -c %U {chain.home.path / LOG}) -m 0600" in chain.check().lines[0]


def test_a_script_out_of_the_services_reach(chain: Chain) -> None:
    """An admin tries a copy in root's own directory, as before an upgrade."""
    closed = chain.home.queue / "closed"
    closed.mkdir(mode=0o700)
    script = str(shutil.copy(chain.home.script, closed))
    checked = run_check(chain, script)
    started = f"the transport starts {chain.home.script} in {chain.home.path}"
    assert checked == [
        f"FAIL  nobody cannot read and start {script}; {chain.home.script} --check",
        f"warn  {started}, not {script}; {chain.home.script} --home {chain.home.path} --check",
    ]
    chain.home.script.unlink()
    install, start = f"install -m 0755 {script} {chain.home.script}", f"{chain.home.script} --check"
    assert run_check(chain, script)[0].endswith(f"; {install}; {start}")
    subprocess.run(["bash", "-ec", install], check=True, timeout=60)
    assert chain.problems_anew() == []


def run_check(chain: Chain, script: str) -> list[str]:
    """Return what another copy of the script finds wrong with the installation."""
    command = [script, "--home", str(chain.home.path), "--check", "--postfix-config", str(chain.postfix)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    return [line for line in done.stdout.splitlines() if not line.startswith("ok    ")]


def test_a_lock_that_is_held_does_not_hold_up_the_check(chain: Chain) -> None:
    with lock_held(chain.home):
        assert chain.check().problems == []


def test_credentials_that_last_for_more_than_a_month_are_fine(chain: Chain) -> None:
    chain.secrets(API_EXPIRATION_DATE=in_days(31))
    assert chain.check().problems == []


def test_a_log_that_is_still_to_be_made_is_fine_where_that_can_be_done(chain: Chain) -> None:
    (chain.home.path / LOG).unlink()
    assert f"ok    the service account can create {chain.home.path / LOG}" in chain.check().lines
    log = chain.home.queue / "logs" / "relay.log"
    chain.configure(LOG_FILE_PATH=str(log))
    chain.rotate(f"{log.parent}/*.log {{\n}}\n")
    checked = chain.check()
    fix = f"install -D -o nobody -m 0644 /dev/null {log}"
    assert checked.problems == [f"FAIL  the log {log} cannot be written: No such file or directory; {fix}"]
    chain.fix(checked.problems[0])
    assert f"ok    the service account can write to {log}" in chain.check().lines


def test_a_rotation_for_a_group_without_a_name(chain: Chain) -> None:
    (chain.rotation / "relay").unlink()
    for path in (chain.home.path, *chain.home.path.iterdir()):
        os.chown(path, -1, 54321)
    prefix = ("setpriv", "--reuid=nobody", "--regid=54321", "--clear-groups")
    [line] = [line for line in chain.check(prefix=prefix).problems if "rotat" in line]
    assert line.startswith("warn  no file in ")
    assert "|nobody 54321|" in line


def test_a_rotation_that_is_commented_out_is_none(chain: Chain) -> None:
    # logrotate(8) takes no pattern without a directory.
    for text in (f"# {chain.home.path / LOG} {{\n/elsewhere/*.log {{\n}}\n", "*.log {\n}\n"):
        chain.rotate(text)
        (problem,) = chain.check().problems
        assert problem.startswith("warn  no file in ")
    chain.rotate(f'"/elsewhere/x.log" "{chain.home.path}/*.log" {{\n  su nobody nogroup\n}}\n')
    assert chain.check().problems == []


def test_the_guides_layout_is_told_of(chain: Chain) -> None:
    """The account owns everything and can change what root starts; each fix is safe, and all help."""
    own = chain.home.own
    chain.home.path.chmod(0o750)
    for path in (chain.home.path, *chain.home.path.rglob("*")):
        own(path)
    own(chain.home.path)
    problems = chain.check().problems
    chain.expect(
        problems,
        [
            f"FAIL  {OPEN.format('HOME')}; {CLOSE}",
            f"FAIL  HOME/postfix-api-relay belongs to nobody and has mode 0755: others could change it;"
            f" {GUARD_SCRIPT}",
            f"FAIL  {CACHE}; {CACHE_CURE}",
            f"FAIL  HOME/{CONFIG} belongs to nobody and has mode 0644: others could change it;"
            f" {GUARD_CONFIG}",
            NOT_TRIED,
        ],
    )
    content = (chain.home.path / CONFIG).read_bytes()
    for line in problems[:-1]:
        chain.fix(line)
    assert (chain.home.path / CONFIG).read_bytes() == content
    assert chain.problems_anew() == []


def test_secrets_of_nobodys(chain: Chain) -> None:
    """As after a restore on a machine where the account has a different id."""
    for name in (SECRETS, LOG):
        os.chown(chain.home.path / name, 12345, 12345)
    first, *others = chain.check().problems
    text = "belong to 12345: pipe(8) runs nothing as 12345"
    chain.expect([first], [f"FAIL  the secrets in HOME {text}; chown -hR --from=12345 postfix-relay: HOME"])
    [entry] = [line for line in others if line.startswith("FAIL  the transport runs as nobody, ")]
    # Postfix would not start the transport as 12345.
    assert " user=postfix-relay null_sender= argv=" in entry
    chain.fix(first.replace("postfix-relay:", "nobody:"))
    assert chain.check().problems == []


def test_a_tenant_whose_program_lies_in_an_open_home(chain: Chain, sandbox: Sandbox) -> None:
    """The other home's own check has the fix; here it would be another owner's."""
    with RelayHome(sandbox.url, sandbox.ca_file) as other:
        other.give_to_root()
        chain.home.path.chmod(0o770)
        problem = f"FAIL  {OPEN.format(chain.home.path)}; {chain.home.script} --check"
        assert problem in chain.check("--home", str(other.path)).problems


def test_a_directory_above_that_others_can_write_to(chain: Chain) -> None:
    chain.home.path.parent.chmod(0o777)
    text = f"FAIL  accounts other than root can change {chain.home.path.parent}, and so the program or its"
    assert chain.check().problems == [
        f"{text} configuration; move the relay, for example to /opt/postfix-relay"
    ]


# ---------------------------------------------------------------- the bytecode


def without_cache(chain: Chain) -> None:
    shutil.rmtree(chain.home.path / "__pycache__")


def outdated_cache(chain: Chain) -> None:
    os.utime(chain.home.script, (1, 1))


def in_another_length(chain: Chain) -> None:
    """Lengthen the script by one line but keep its time, as an upgrade from a package may do."""
    status = chain.home.script.stat()
    with chain.home.script.open("a") as file:
        file.write("\n")
    os.utime(chain.home.script, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_root_replaces_bytecode_that_the_account_could_change(chain: Chain) -> None:
    own_cache(chain)
    [cache] = (chain.home.path / "__pycache__").iterdir()
    problems = chain.check(user=chain.home.account.pw_name).problems
    chain.expect(problems, [f"FAIL  {CACHE}; {CACHE_CURE}"])
    assert f"ok    {cache} was missing or old, and has been compiled again" in chain.check_anew()
    assert cache.owner() == "root"
    assert chain.check().problems == []


@pytest.mark.parametrize("change", [without_cache, outdated_cache, in_another_length])
def test_root_renews_the_bytecode_that_the_account_cannot(
    chain: Chain, change: Callable[[Chain], None]
) -> None:
    change(chain)
    [told] = chain.check(user=chain.home.account.pw_name).problems
    assert told.endswith(f"; run this as root, which compiles it: {chain.home.script} --check")
    assert told.startswith("warn  ") and "is missing or old: each start takes twice as long" in told
    lines = chain.check_anew("umask 077")
    [cache] = (chain.home.path / "__pycache__").iterdir()
    assert f"ok    {cache} was missing or old, and has been compiled again" in lines
    assert f"ok    {cache} is up to date" in lines
    for path, mode in ((cache, 0o644), (cache.parent, 0o755)):
        assert (path.owner(), oct(path.stat().st_mode & 0o7777)) == ("root", oct(mode))
    assert chain.check(user=chain.home.account.pw_name).problems == []


@pytest.mark.parametrize("name", ["QUEUE/closed/relay.log", f"{CONFIG}/relay.log", "x" * 300])
def test_a_log_where_none_can_be(chain: Chain, name: str) -> None:
    (chain.home.queue / "closed").mkdir(mode=0o700)
    chain.configure(LOG_FILE_PATH=chain.expanded(name))
    problem = chain.check().problems[0]
    assert problem.startswith("FAIL  the log ")
    assert problem.endswith("; choose another LOG_FILE_PATH")


def test_only_root_and_the_owner_can_check(chain: Chain) -> None:
    home = chain.home.path
    before = tree(home)
    # Others cannot start a script in a closed directory at all.
    home.chmod(0o1775)
    done = by_hand(chain.home, "--check", "--postfix-config", chain.postfix, user="daemon")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"FAIL  {home} belongs to nobody; run this as root or as nobody"
    assert "ok    default_transport is apirelay:api-relay" in done.stdout.splitlines()
    assert tree(home) == before


@pytest.mark.parametrize(
    ("name", "why"), [("nowhere", "No such file or directory"), ("file", "Not a directory")]
)
def test_a_home_that_is_not_there(chain: Chain, name: str, why: str) -> None:
    place = chain.home.queue / name
    (chain.home.queue / "file").touch()
    checked = chain.check("--home", str(place))
    assert f"FAIL  home directory {place}: {why}; run postfix/install.sh" in checked.lines


def test_a_home_of_another_tenant(chain: Chain, sandbox: Sandbox) -> None:
    """It is checked with its own files; Postfix's transport starts a different one."""
    with RelayHome(sandbox.url, sandbox.ca_file) as other:
        before = tree(other.path)
        checked = chain.check("--home", str(other.path))
        assert tree(other.path) == before
        # The tests' usual values are the examples'.
        assert (
            f"FAIL  DEFAULT_FROM_ADDRESS in {other.path}/{CONFIG} is still the example's; edit"
            in "\n".join(checked.lines)
        )
        start = f"warn  the transport starts {chain.home.script} in {chain.home.path}, not in {other.path}; "
        assert any(line.startswith(start) for line in checked.lines)
