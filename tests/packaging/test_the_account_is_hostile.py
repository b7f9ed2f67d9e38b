"""An account that has been taken over: its files never run as root, and never redirect root elsewhere."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator

import pytest
from helpers.by_hand import tree
from helpers.home import CONFIG, LOG, SCRIPT, SECRETS
from helpers.install import Machine
from helpers.kernel import protected_regular
from helpers.state import TOKEN, WINDOW
from helpers.terminal import on_a_terminal

SYSTEM_PYTHON = "/usr/bin/python3"
PRECIOUS = "only root can read this"
# The files in a home, what its programs might look for there, and names that a command could misread.
NAMES = (
    *(SCRIPT.name, CONFIG, SECRETS, LOG, "__pycache__"),
    *(
        f"{name}{end}"
        for name in (WINDOW, TOKEN, ".notice-state", ".progress-Queued-1")
        for end in ("", ".new")
    ),
    *(f"{name}{end}" for name in (SCRIPT.name, CONFIG) for end in (".new", ".old", "~")),
    *("sitecustomize.py", "usercustomize.py", "requests.py", "json.py", "py_compile.py", "pwd.py"),
    *("postconf", "runuser", "stat", "python3", "-rf", "--", "a\nb", "$(id)", "; id", " "),
)
# As the account, in the home: replace each name, as far as permissions allow.
PLANT = """
import os, shutil, sys
kind, elsewhere, program, names = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
def put(name):
    if kind == "link":
        os.symlink(elsewhere + ("/directory" if name == "__pycache__" else "/precious"), name)
    elif kind == "link to a new file":
        os.symlink(elsewhere + "/new", name)
    elif kind == "hard link":
        os.link(elsewhere + "/precious", name)
    elif kind == "pipe":
        os.mkfifo(name)
    elif kind == "directory" or name == "__pycache__":
        os.mkdir(name)
    else:
        with open(name, "w") as file:
            file.write(program)
        os.chmod(name, 0o755)
for name in names:
    try:
        if os.path.isdir(name) and not os.path.islink(name):
            os.rename(name, name + ".mine")
        else:
            os.unlink(name)
    except OSError:
        pass
    try:
        put(name)
    except OSError:
        pass
"""
# As the account: bytecode of another program, with the size and time of the script.
COMPILE = """
import importlib.util, os, py_compile, sys
script, program = sys.argv[1:]
own = script + ".mine.py"
with open(own, "w") as file:
    file.write(program)
target = importlib.util.cache_from_source(script)
try:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    made = py_compile.compile(own, own + "c", doraise=True)
    with open(made, "rb") as file:
        code = file.read()
    found = os.stat(script)
    stamp = b"".join((int(n) & 0xFFFFFFFF).to_bytes(4, "little") for n in (found.st_mtime, found.st_size))
    if os.path.exists(target):
        os.unlink(target)
    with open(target, "wb") as file:
        file.write(code[:8] + stamp + code[16:])
except OSError:
    pass
"""


@pytest.fixture(autouse=True)
def protected() -> Iterator[None]:
    """Set the kernel up as on Debian."""
    with protected_regular():
        yield


class Attacked:
    """A machine with the relay, whose account does what it can; `marks` records what ran as whom."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.home = machine.home
        self.marks = machine.base / "marks"
        self.marks.mkdir()
        self.marks.chmod(0o777)
        self.elsewhere = machine.base / "elsewhere"
        (self.elsewhere / "directory").mkdir(parents=True)
        (self.elsewhere / "precious").write_text(PRECIOUS)
        (self.elsewhere / "precious").chmod(0o600)
        for name in (f"{SCRIPT.name}.cpython-311.pyc", "module.pyc"):
            (self.elsewhere / "directory" / name).write_text("kept")
        self.before = tree(self.elsewhere)
        # For Python and for a shell.
        mark = f"{self.marks}/ran-as-"
        self.python = f"import os\nopen({mark!r} + str(os.geteuid()), 'a')\ndef start(): pass\n"
        self.program = f'#!/bin/sh\n"""":\ntouch {mark}"$(id -u)"\nexit\n"""\n{self.python}'

    def as_account(self, code: str, *arguments: str) -> None:
        """Run Python as the account, in the home."""
        account = pwd.getpwnam(self.machine.account)
        subprocess.run(
            [SYSTEM_PYTHON, "-I", "-c", code, *arguments],
            cwd=self.home,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            check=True,
            timeout=60,
        )

    def plant(self, kind: str) -> None:
        """Plant this wherever the account can, and bytecode that claims to be the script's."""
        self.as_account(PLANT, kind, str(self.elsewhere), self.program, *NAMES)
        if kind == "program":
            self.as_account(COMPILE, str(self.home / SCRIPT.name), self.python)

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Start the relay as root."""
        return self.machine.run(str(self.home / SCRIPT.name), "--home", str(self.home), *arguments)

    def check(self) -> subprocess.CompletedProcess[str]:
        return self.start("--check", "--postfix-config", str(self.machine.postfix.config))

    def start_all(self) -> None:
        """Start everything that the README lets root start."""
        self.check()
        self.start("--status", "--postfix-config", str(self.machine.postfix.config))
        self.start("--send-test", "me@external.com")
        self.start("--version")
        self.start("alerts@domain.com", "4ZxTestQid", "to@external.com", "")

    def expect_nothing(self) -> None:
        """Assert that nothing ran as root, and that nothing elsewhere was changed or opened to the
        account."""
        assert "ran-as-0" not in os.listdir(self.marks)
        assert tree(self.elsewhere) == self.before
        for path in self.home.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.lstat().st_ino != self.precious_inode:
                assert PRECIOUS.encode() not in path.read_bytes(), path

    def is_usable(self, name: str) -> bool:
        """Tell whether the relay can use it: a file of the account's own, or none, because the installer
        makes it."""
        file = self.home / name
        if file.is_symlink() or not file.exists():
            return not file.is_symlink()
        return file.is_file() and file.stat().st_nlink == 1

    @property
    def precious_inode(self) -> int:
        return (self.elsewhere / "precious").stat().st_ino

    def expect_roots(self) -> None:
        """Assert that root starts and trusts only the shipped program, and that it is root's alone."""
        assert (self.home / SCRIPT.name).read_bytes() == SCRIPT.read_bytes()
        [cache] = (self.home / "__pycache__").iterdir()
        for path in (self.home, self.home / SCRIPT.name, self.home / CONFIG, cache.parent, cache):
            status = path.lstat()
            assert status.st_uid == 0, path
            assert status.st_nlink == 1 or path.is_dir(), path
            assert not path.is_symlink(), path
            assert path == self.home or not status.st_mode & 0o022, path
        assert oct(self.home.stat().st_mode & 0o7777) == oct(0o1770)


@pytest.fixture
def attacked() -> Iterator[Attacked]:
    """A machine with the relay."""
    with Machine() as machine:
        machine.install()
        yield Attacked(machine)


KINDS = ("program", "link", "link to a new file", "hard link", "pipe", "directory")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["there", "missing"])
def test_nothing_that_the_account_leaves_runs_as_root(attacked: Attacked, kind: str, cache: str) -> None:
    if cache == "missing":
        # Nobody should, but if the cache is removed, the account can make one.
        subprocess.run(["rm", "-r", attacked.home / "__pycache__"], check=True, timeout=60)
    attacked.plant(kind)
    attacked.start_all()
    attacked.expect_nothing()
    attacked.machine.attempt()
    attacked.expect_nothing()
    attacked.expect_roots()
    attacked.plant(kind)
    attacked.start_all()
    attacked.machine.attempt("--uninstall")
    attacked.expect_nothing()
    assert not (attacked.home / SCRIPT.name).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_upgrade_of_the_previous_version_runs_nothing_that_the_account_has_left(
    attacked: Attacked, kind: str
) -> None:
    attacked.machine.as_before()
    attacked.plant(kind)
    usable = all(attacked.is_usable(name) for name in (CONFIG, SECRETS))
    done = attacked.machine.attempt()
    attacked.expect_nothing()
    assert (attacked.home / SCRIPT.name).read_bytes() == SCRIPT.read_bytes()
    if not usable:
        # If it has no configuration or secrets, it says so.
        assert (done.returncode, str(attacked.home) in done.stderr) == (1, True), done
        for name in (CONFIG, SECRETS):
            subprocess.run(["rm", "-rf", attacked.home / name], check=True, timeout=60)
        attacked.machine.install()
    attacked.expect_roots()
    attacked.start_all()
    attacked.expect_nothing()


@pytest.mark.parametrize("kind", KINDS)
def test_an_uninstallation_of_the_previous_version_follows_nothing(attacked: Attacked, kind: str) -> None:
    attacked.machine.as_before()
    attacked.plant(kind)
    attacked.machine.attempt("--uninstall")
    attacked.expect_nothing()
    assert not (attacked.home / SCRIPT.name).exists()
    assert not (attacked.home / "__pycache__").exists()


def test_what_it_plants_would_run(attacked: Attacked) -> None:
    """Otherwise the tests above prove nothing: in the previous version, root runs what the account has
    left."""
    attacked.machine.as_before()
    attacked.plant("program")
    attacked.start("--version")
    assert "ran-as-0" in os.listdir(attacked.marks)


def test_the_bytecode_that_it_plants_would_run(attacked: Attacked) -> None:
    """It runs as the account, which may start what it likes."""
    subprocess.run(["rm", "-r", attacked.home / "__pycache__"], check=True, timeout=60)
    attacked.as_account(COMPILE, str(attacked.home / SCRIPT.name), attacked.python)
    account = pwd.getpwnam(attacked.machine.account)
    subprocess.run(
        [attacked.home / SCRIPT.name, "--version"], user=account.pw_uid, group=account.pw_gid, timeout=60
    )
    assert os.listdir(attacked.marks) == [f"ran-as-{account.pw_uid}"]
    assert (
        f"FAIL  accounts other than root could change {attacked.home}/__pycache__/" in attacked.check().stdout
    )
    attacked.expect_nothing()


@pytest.mark.parametrize("name", [SCRIPT.name, CONFIG])
def test_what_the_account_has_open_is_not_what_is_used(attacked: Attacked, name: str) -> None:
    """If only the owner changed, the account could still write through the open file."""
    attacked.machine.as_before()
    with (attacked.home / name).open("ab") as opened:
        attacked.machine.install()
        before = (attacked.home / name).read_bytes()
        opened.write(b"\n# more")
    assert (attacked.home / name).read_bytes() == before


def test_the_previous_version_is_upgraded(attacked: Attacked) -> None:
    machine, files = attacked.machine, attacked.machine.files("https://localhost:1")
    files.configure(ADMIN_NOTIFICATION_EMAIL="it@office.example", DEFAULT_FROM_ADDRESS="me@office.example")
    files.secrets(API_SECRET="its own")
    machine.as_before()
    kept = {name: (attacked.home / name).read_bytes() for name in (CONFIG, SECRETS, LOG)}
    problems = [line for line in attacked.check().stdout.splitlines() if line.startswith("FAIL  ")]
    assert any(f"accounts other than root can change {attacked.home}, " in line for line in problems)
    said = machine.install()
    assert f"set owner and mode of {attacked.home}\nreplace {attacked.home}/{SCRIPT.name}\n" in said
    attacked.expect_roots()
    assert {name: (attacked.home / name).read_bytes() for name in kept} == kept
    for name in (SECRETS, LOG):
        assert (attacked.home / name).owner() == machine.account
    checked = attacked.check().stdout
    assert not [line for line in checked.splitlines() if "FAIL" in line and str(attacked.home) in line]
    assert machine.install().startswith("nothing to change\n")


# The owner, another user, the group, the mask, and all others (acl(5)), each with all rights.
ACL_TAGS = (0x01, 0x02, 0x04, 0x10, 0x20)
ACL_NAMES = ("system.posix_acl_access", "system.posix_acl_default")
SET_ACL = "import os, sys\nfor name in sys.argv[2:]: os.setxattr('.', name, bytes.fromhex(sys.argv[1]))"
APPEND = "import sys\nopen(sys.argv[1], 'a').close()"


def acl_for(user: int) -> bytes:
    """Return an access control list that gives a user all rights, in the kernel's format."""
    entries = (struct.pack("<HHI", tag, 7, user if tag == 0x02 else 0xFFFFFFFF) for tag in ACL_TAGS)
    return struct.pack("<I", 2) + b"".join(entries)


@pytest.mark.parametrize("version", ["previous", "this"])
def test_an_access_control_list_of_the_accounts_ends(attacked: Attacked, version: str) -> None:
    """Otherwise what root creates in the home would be open to whoever the account has named."""
    own = acl_for(pwd.getpwnam(attacked.machine.account).pw_uid)
    if version == "previous":
        attacked.machine.as_before()
        attacked.as_account(SET_ACL, own.hex(), *ACL_NAMES)
    else:
        for name in ACL_NAMES:
            os.setxattr(attacked.home, name, own)
    new = attacked.home / "made by root"
    subprocess.run(["touch", new], check=True, timeout=60)
    attacked.as_account(APPEND, str(new))
    said = attacked.machine.install()
    assert f"remove the access control list of {attacked.home}\n" in said
    new.unlink()
    subprocess.run(["touch", new], check=True, timeout=60)
    with pytest.raises(subprocess.CalledProcessError):
        attacked.as_account(APPEND, str(new))
    new.unlink()
    attacked.expect_roots()
    assert not set(ACL_NAMES) & set(os.listxattr(attacked.home))
    assert attacked.machine.install().startswith("nothing to change\n")


def test_all_of_a_log_is_kept(attacked: Attacked) -> None:
    """However large it is: the file stays the same."""
    attacked.machine.as_before()
    log = attacked.home / LOG
    os.truncate(log, 100 << 20)
    log.chmod(0o444)
    before = (log.stat().st_ino, log.stat().st_size)
    assert f"set owner and mode of {log}\n" in attacked.machine.install()
    assert (log.stat().st_ino, log.stat().st_size) == before
    assert (log.owner(), oct(log.stat().st_mode & 0o7777)) == (attacked.machine.account, oct(0o644))
    assert attacked.machine.install().startswith("nothing to change\n")


@pytest.mark.parametrize("kind", ["another account's", "link", "hard link"])
def test_a_log_that_is_another_s_is_moved_out_of_the_way(attacked: Attacked, kind: str) -> None:
    log = attacked.home / LOG
    log.unlink()
    if kind == "another account's":
        log.write_text("kept")
        shutil.chown(log, "nobody")
    elif kind == "link":
        log.symlink_to(attacked.elsewhere / "precious")
    else:
        os.link(attacked.elsewhere / "precious", log)
    was = log.lstat().st_ino
    said = attacked.machine.install()
    [aside] = attacked.home.glob(f"{LOG}.old-*")
    assert f"move {log}, which is not the relay's own, out of the way to {aside.name}\n" in said
    assert aside.lstat().st_ino == was
    assert (log.owner(), log.read_bytes()) == (attacked.machine.account, b"")
    assert attacked.machine.install().startswith("nothing to change\n")
    aside.unlink()
    attacked.expect_nothing()


# Replaces runuser(1): record the terminal of its session, and every file that it has open.
TERMINALS = """
read -r _ _ _ _ _ _ terminal _ </proc/$$/stat
echo "$terminal $(readlink /proc/$$/fd/* | tr '\\n' ' ') $*" | tr '\\n' ' ' >>{0}
echo >>{0}
exec "$real" "$@"
"""


def test_what_runs_as_the_account_has_nothing_of_the_terminal(attacked: Attacked) -> None:
    """It could type commands that root's shell runs, and read what root types. Nor can it wait forever."""
    machine, seen = attacked.machine, attacked.machine.base / "seen"
    machine.replace("runuser", TERMINALS.format(seen))
    machine.replace("timeout", 'exec "$real" "$@"')
    (attacked.home / SECRETS).chmod(0o644)
    (attacked.home / LOG).chmod(0o444)
    status, said = on_a_terminal(
        [*machine.prefix, *machine.command("--provider", "ses")], machine.environment()
    )
    assert status == 1, said
    assert "kept: " in said
    calls = [line for line in seen.read_text().splitlines() if line]
    for what in ("test -w", "--version", "grep ", "bash -c", "head -c", "chmod 644"):
        assert any(what in call for call in calls), what
    for call in calls:
        assert call.startswith("0 "), call
        assert "/dev/pts/" not in call, call
        assert "/dev/tty" not in call, call
    # Root's reading is stopped soon, and everything else eventually.
    limits = [call.split() for call in machine.called("timeout")]
    assert {words[1] for words in limits if words[0] == "10"} == {"grep", "head", SYSTEM_PYTHON}
    assert sum(words[:4] == ["-k", "5", "60", "setsid"] for words in limits) == len(calls)


def test_root_s_files_are_no_way_to_what_root_alone_can_read(attacked: Attacked) -> None:
    """A configuration with another name elsewhere belongs to root and was never the relay's."""
    attacked.machine.as_before()
    file = attacked.home / CONFIG
    file.unlink()
    os.link(attacked.elsewhere / "precious", file)
    done = attacked.machine.attempt()
    assert (done.returncode, f"could not set owner and mode of {file}" in done.stderr) == (1, True)
    assert file.samefile(attacked.elsewhere / "precious")
    file.unlink()
    attacked.expect_nothing()


@pytest.mark.parametrize("version", ["previous", "this"])
def test_nothing_takes_the_place_of_a_program_that_is_removed(attacked: Attacked, version: str) -> None:
    """Root may still start it: the README's cron line stays."""
    machine = attacked.machine
    if version == "previous":
        machine.as_before()
    assert f"let only root write in {attacked.home}\n" in machine.install("--uninstall")
    attacked.as_account(PLANT, "program", str(attacked.elsewhere), attacked.program, *NAMES)
    assert not (attacked.home / SCRIPT.name).exists()
    assert oct(attacked.home.stat().st_mode & 0o7777) == oct(0o750)
    assert machine.install("--uninstall").startswith("nothing to change\n")
    for name in (CONFIG, SECRETS):
        (attacked.home / name).unlink()
    machine.install()
    attacked.expect_roots()
    attacked.expect_nothing()


def test_a_directory_of_others_stays_open_where_it_was_open(attacked: Attacked) -> None:
    other = attacked.machine.base / "commands"
    other.mkdir()
    shutil.copy(SCRIPT, other)
    other.chmod(0o1777)
    attacked.machine.attempt("--uninstall", "--home", str(other))
    assert oct(other.stat().st_mode & 0o7777) == oct(0o1777)


# Replaces mkdir(1): the account is faster a number of times.
QUICK = """
[[ "$*" != */__pycache__ ]] || [ "$(grep -c "^mkdir .*/__pycache__" {0})" -gt {1} ] ||
    runuser -u {2} -- ln -s {3} "$1"
exec "$real" "$@"
"""


@pytest.mark.parametrize("times", [20, 1000])
def test_an_account_that_is_quick_to_plant_a_link(attacked: Attacked, times: int) -> None:
    machine = attacked.machine
    machine.as_before()
    attacked.as_account("import os; os.rename('__pycache__', 'mine')")
    machine.replace("mkdir", QUICK.format(machine.calls, times, machine.account, attacked.elsewhere))
    done = machine.attempt()
    attacked.expect_nothing()
    if times > 100:
        assert done.returncode == 1
        text = f"__pycache__ came back 100 times: end the processes of the account {machine.account}"
        assert text in done.stderr
        machine.give_back("mkdir")
        machine.install()
    attacked.expect_roots()


# Replaces grep(1): as the account, it leaves a process that keeps its output open.
STAYING = """
[ "$(id -u)" = 0 ] || {{ sleep 600 & echo $! >>{0}; }}
exec "$real" "$@"
"""
# Replaces timeout(1): the account stops what it can; root's own limit is shortened.
STOPPED = """
[ "$(id -u)" = 0 ] || kill -STOP $$
[ "$1 $2 $3" != "-k 5 60" ] || exec "$real" -k 1 1 "${@:4}"
exec "$real" "$@"
"""


@pytest.mark.parametrize("program", ["grep", "timeout"])
def test_the_account_cannot_hold_up_the_installer(attacked: Attacked, program: str) -> None:
    machine, pids = attacked.machine, attacked.marks / "pids"
    pids.touch()
    pids.chmod(0o666)
    machine.replace(program, STAYING.format(pids) if program == "grep" else STOPPED)
    machine.install("--provider", "graph")
    if program == "grep":
        running = [int(pid) for pid in pids.read_text().split()]
        assert running
        for pid in running:
            os.kill(pid, signal.SIGKILL)


LOOK = """
tr '\\0' '\\n' </proc/$$/environ >>{0}
pwd -P >>{0}
exec "$real" "$@"
"""


def test_the_account_learns_nothing_of_root_s_shell(
    attacked: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can read the environment of whatever runs as the account, and enter its directory."""
    seen = attacked.machine.base / "seen"
    attacked.machine.replace("runuser", LOOK.format(seen))
    monkeypatch.setenv("TOKEN_OF_ROOT", "secret")
    monkeypatch.chdir(attacked.elsewhere)
    attacked.machine.install()
    lines = set(seen.read_text().split("\n"))
    assert "/" in lines
    assert not {"TOKEN_OF_ROOT=secret", str(attacked.elsewhere)} & lines


def test_what_the_account_prints_is_nothing_for_a_terminal(attacked: Attacked) -> None:
    printing = 'printf "\\033]0;x\\007\\302\\2332J"'
    attacked.machine.replace(
        "runuser", f'[[ "$*" != *--version ]] || {{ {printing}; exit 1; }}; exec "$real" "$@"'
    )
    done = attacked.machine.attempt()
    assert done.returncode == 1
    assert f"cannot run {attacked.home / SCRIPT.name} (?]0;x??2J): " in done.stderr


def test_a_home_whose_group_was_inherited(attacked: Attacked) -> None:
    """Otherwise it would be corrected on every run."""
    attacked.machine.as_before()
    attacked.home.chmod(0o2770)
    attacked.machine.install()
    attacked.expect_roots()
    assert attacked.machine.install().startswith("nothing to change\n")


def test_an_address_is_no_command_in_what_the_installer_advises(attacked: Attacked) -> None:
    """The account wrote it while it owned the configuration, and root follows the advice."""
    address = "it'|theirs|'@office.example"
    files = attacked.machine.files("https://localhost:1")
    files.configure(ADMIN_NOTIFICATION_EMAIL=address, DEFAULT_FROM_ADDRESS="me@office.example")
    attacked.machine.postconf("-e", "recipient_canonical_maps = inline:{root=own@office.example}")
    said = attacked.machine.install()
    [line] = [line for line in said.splitlines() if line.startswith("kept: recipient_canonical_maps")]
    command, option, setting = shlex.split(line.partition("if that was a mistake: ")[2])
    assert (command, option) == ("postconf", "-e")
    assert setting.startswith("recipient_canonical_maps = inline:{")
    assert f"={address}" in setting
