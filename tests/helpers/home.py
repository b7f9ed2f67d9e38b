"""A complete installation of the relay in a directory of its own."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "postfix-api-relay"
ACCOUNT = "nobody"
LOG = "postfix-api-relay.log"
CONFIG, SECRETS = "relay-config.json", "api-secrets.json"
# Files that the account only reads if the installer, or an admin by README, made the home.
OF_ROOT = (SCRIPT.name, CONFIG)


# As postfix/install.sh does it.
COMPILE = """
import sys
part = {"__name__": "part"}
exec(open(sys.argv[1], "rb").read().split(b"\\f")[0], part)
part["loader_of"](sys.argv[1]).get_code("postfix_api_relay")
"""


class RelayFiles:
    """The files of an installed relay, for an admin to edit; needs root.

    `path` is the home, `script` the installed command and `account` the owner of both. `endpoint` is the base
    URL of the provider and `ca_file` the authority that signed its certificate.
    """

    def __init__(self, path: Path, account: str, endpoint: str, ca_file: Path | None) -> None:
        self.path = path
        self.script = path / SCRIPT.name
        self.account = pwd.getpwnam(account)
        self.endpoint = endpoint
        self.ca_file = ca_file

    def put(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        """Write or overwrite a file in the home, with its proper owner and this mode, whatever the umask."""
        file = self.path / name
        # Root may open another's file in a sticky directory, but not with O_CREAT (fs.protected_regular).
        flags = os.O_WRONLY | (os.O_TRUNC if file.exists() else os.O_CREAT)
        with open(os.open(file, flags), "wb") as opened:
            opened.write(content)
        file.chmod(mode)
        self.own(file)
        return file

    def configure(self, **changes: object) -> None:
        """Rewrite relay-config.json with the usual values and these changes; None leaves a key out."""
        usual: dict[str, object] = {
            "ADMIN_NOTIFICATION_EMAIL": "admin@domain.com",
            "DEFAULT_FROM_ADDRESS": "alerts@domain.com",
            "VALID_FROM_ADDRESSES": ["alerts@domain.com", "network@domain.com"],
            "CA_BUNDLE": str(self.ca_file) if self.ca_file else None,
        }
        self._put_json(CONFIG, {**usual, **changes}, 0o644)

    def secrets(self, **changes: object) -> None:
        """Rewrite api-secrets.json for Graph with the sandbox's credentials; changes as in `configure`."""
        usual: dict[str, object] = {
            "API_PROVIDER": "graph",
            "API_TENANT_OR_REGION": "tenant-id",
            "API_ID": "client-id",
            "API_SECRET": "client-secret",
            "API_ENDPOINT": self.endpoint,
            "API_LOGIN_ENDPOINT": self.endpoint,
        }
        self._put_json(SECRETS, {**usual, **changes}, 0o600)

    def log(self) -> str:
        """Return the relay's log so far, empty if there is none."""
        file = self.path / LOG
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def _put_json(self, name: str, values: dict[str, object], mode: int) -> None:
        content = {key: value for key, value in values.items() if value is not None}
        self.put(name, json.dumps(content, indent=2).encode(), mode)

    def own(self, path: Path) -> None:
        """Give a file or directory to the account, or to root if the home is root's and it is in OF_ROOT."""
        if path.name in OF_ROOT and path.parent == self.path and self.path.stat().st_uid == 0:
            os.chown(path, 0, 0)
        else:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def give_to_root(self) -> None:
        """Turn a home that the account owns into the installer's, where it owns only what it writes."""
        os.chown(self.path, 0, self.account.pw_gid)
        self.path.chmod(0o1770)
        for name in OF_ROOT:
            self.own(self.path / name)
        shutil.rmtree(self.path / "__pycache__", ignore_errors=True)
        self.compile()

    def compile(self) -> None:
        """Compile the bytecode as the installer does: written by root, readable by all."""
        command = ["/usr/bin/python3", "-I", "-c", COMPILE, str(self.script)]
        subprocess.run(command, check=True, timeout=60, umask=0o022)


class RelayHome(RelayFiles):
    """Script, configuration and secrets, owned by the user nobody; a context manager that removes them.

    This is the guide's layout; give_to_root() turns it into the installer's.

    `queue` is a directory that only root can write to. The script installed is `source`.
    """

    def __init__(self, endpoint: str, ca_file: Path | None, source: Path = SCRIPT) -> None:
        # Not pytest's tmp_path: that is closed to other users.
        self._base = Path(tempfile.mkdtemp(prefix="relay-"))
        self._base.chmod(0o755)
        super().__init__(self._base / "home", ACCOUNT, endpoint, ca_file)
        self.queue = self._base / "queue"
        for directory in (self.path, self.queue):
            directory.mkdir(mode=0o755)
        self.own(self.path)
        self.put(SCRIPT.name, source.read_bytes(), 0o755)
        self.configure()
        self.secrets()

    def __enter__(self) -> RelayHome:
        return self

    def __exit__(self, *_exception: object) -> None:
        shutil.rmtree(self._base)
