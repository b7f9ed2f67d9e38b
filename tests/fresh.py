"""From a fresh system to delivered mail, as an admin does it; run by fresh.sh, alone in its namespaces.

The argument is a root directory with the project in /project, where apt has the packages that the installer
needs. The provider runs outside of it. Exits 0 only if every message arrived.
"""

from __future__ import annotations

import json
import smtplib
import subprocess
import sys
import time
from pathlib import Path

from helpers.mail import mail
from helpers.readme import OWN, section
from sandbox import Sandbox

HOME = "opt/postfix-relay"
SENDER = "relay@office.example"
INSTALL = "/project/postfix/install.sh"
# Long enough even for a deferred message: Postfix retries it after a minute.
ARRIVAL_SECONDS = 150
# What an admin can say about a system when something is wrong.
VERSIONS = """
. /etc/os-release; echo "$PRETTY_NAME"
/usr/bin/python3 --version
dpkg-query -W -f '${Package} ${Version}\n' postfix python3-requests python3-boto3
"""


class Root:
    """The system in a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *command: str, message: bytes = b"", status: int = 0) -> str:
        """Run a command in it and show it; return its output, or raise SystemExit if it exits with another
        status.
        """
        print("$", *(word if "\n" not in word else "..." for word in command), flush=True)
        done = subprocess.run(
            ["chroot", str(self.path), *command],
            input=message,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
        )
        print(done.stdout.decode(), end="", flush=True)
        if done.returncode != status:
            sys.exit(f"{command[0]} ended with {done.returncode}")
        return done.stdout.decode()

    def type(self, block: str, status: int = 0) -> str:
        """Run a block of README.md in the project's directory; return its output."""
        return self.run("sh", "-euc", f"cd /project\n{block}", status=status)

    def edit(self, name: str, **changes: object) -> None:
        """Change keys in one of the relay's two files, as an editor does: owner and mode stay."""
        file = self.path / HOME / name
        # In a sticky directory, root may open the account's file, but not with O_CREAT.
        with file.open("r+") as opened:
            values = json.load(opened)
            opened.seek(0)
            opened.truncate()
            json.dump({**values, **changes}, opened, indent=2)

    def log(self) -> str:
        """Return the relay's log."""
        return (self.path / HOME / "postfix-api-relay.log").read_text()


def wait_for(root: Root, sandbox: Sandbox, subjects: set[str]) -> None:
    """Wait until these messages have arrived; SystemExit with the log after ARRIVAL_SECONDS."""
    limit = time.monotonic() + ARRIVAL_SECONDS
    while not subjects <= {message.subject for message in sandbox.accepted}:
        if time.monotonic() > limit:
            root.run("postqueue", "-p")
            sys.exit(f"{root.log()}\nnot within {ARRIVAL_SECONDS} s: {subjects}")
        time.sleep(0.1)


def configure(root: Root, sandbox: Sandbox, provider: str) -> None:
    """Give the relay the credentials of a provider, played by the sandbox."""
    root.edit(
        "api-secrets.json",
        API_PROVIDER=provider,
        API_TENANT_OR_REGION="us-east-1" if provider == "ses" else sandbox.tenant,
        API_ID=sandbox.client_id,
        API_SECRET=sandbox.secret,
        API_ENDPOINT=sandbox.url,
        API_LOGIN_ENDPOINT=sandbox.url,
    )
    root.edit(
        "relay-config.json",
        ADMIN_NOTIFICATION_EMAIL="it@office.example",
        DEFAULT_FROM_ADDRESS=SENDER,
        CA_BUNDLE=f"/{sandbox.ca_file.relative_to(root.path)}",
    )


def send(root: Root, subject: str) -> None:
    """Submit a message as a program on the relay does, and another as a device does."""
    recipient = "to@external.com"
    message = mail(From=SENDER, Subject=f"{subject}, sendmail")
    root.run("/usr/sbin/sendmail", "-f", SENDER, recipient, message=message)
    with smtplib.SMTP("127.0.0.1", 25, "device.domain.com", 30) as client:
        client.sendmail(SENDER, [recipient], mail(From=SENDER, Subject=f"{subject}, device"))


def expect(said: str, part: str) -> None:
    """Raise SystemExit unless a command's output contains the part."""
    if part not in said:
        sys.exit(f"it should have said: {part}")


def trial(root: Root, sandbox: Sandbox) -> None:
    """Follow README.md's quick start to the letter, send, install again and uninstall."""
    install, files, check = (block.text for block in section("Quick start").blocks if block.language == "sh")
    # The files have not been edited yet.
    expect(root.type(install, 1), "start Postfix\n")
    expect(files, OWN)
    for provider in ("graph", "ses"):
        configure(root, sandbox, provider)
        expect(root.type(check), f"ok    {provider} accepted the message")
        expect(root.log(), "client_ip='127.0.0.1'")
        send(root, provider)
        wait_for(root, sandbox, {f"{provider}, sendmail", f"{provider}, device"})
    print(root.log(), end="")
    # The provider has changed since the installation.
    expect(root.run(INSTALL), "message_size_limit: 50331648 -> 31457280\n")
    said = root.run(INSTALL)
    expect(said, "nothing to change\n")
    expect(said, "\nThe relay is ready.\n")
    expect(root.run(INSTALL, "--uninstall"), "/etc/postfix/main.cf back as it was")
    expect(root.run(INSTALL, "--uninstall"), "nothing to change\n")
    root.run("sh", "-c", VERSIONS)


def main() -> None:
    """Start the sandbox, and run the trial in the root that the argument names."""
    root = Root(Path(sys.argv[1]))
    # A minimal system has no sudo, and root does not need it.
    sudo = root.path / "usr/local/bin/sudo"
    sudo.write_text('#!/bin/sh\nexec "$@"\n')
    sudo.chmod(0o755)
    directory = root.path / "sandbox"
    directory.mkdir()
    with Sandbox(directory=directory) as sandbox:
        trial(root, sandbox)
        print(f"delivered: {[message.subject for message in sandbox.accepted]}")


if __name__ == "__main__":
    main()
