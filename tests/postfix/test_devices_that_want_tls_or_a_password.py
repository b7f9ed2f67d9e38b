"""The manual's recipes for devices that want TLS or a password work as written, on a real Postfix."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.ports import port_of, reserve_port
from helpers.postfix import PrivatePostfix, run
from helpers.readme import commands
from helpers.shell import Shell
from sandbox import Sandbox

NAME = "relay.domain.com"
SENDER = "alerts@domain.com"
RECIPIENT = "admin@domain.com"
TLS = commands("Devices that want TLS")
SET_UP, NEW_DEVICE, TAKE_AWAY, IN_THE_CLEAR = commands("Devices that want a password")


class Relay(NamedTuple):
    """A running relay with the recipes' ports."""

    postfix: PrivatePostfix
    shell: Shell
    submission: int  # instead of 587
    smtps: int  # instead of 465
    sandbox: Sandbox

    def follow(self, text: str) -> str:
        """Run commands that end with a reload, and return their output once the reload is done."""
        with self.postfix.reloading():
            said = self.shell.run(text)
        self.postfix.wait_for("port 465", lambda: is_open(self.smtps))
        return said

    def context(self) -> ssl.SSLContext:
        """The TLS context of a device that was given the relay's certificate."""
        return ssl.create_default_context(cafile=self.postfix.config / "relay-cert.pem")

    def wait_for_mail(self) -> None:
        """Wait until the one message has reached the provider."""
        self.postfix.wait_until_empty()
        assert [message.to for message in self.sandbox.accepted] == [[RECIPIENT]], self.postfix.log()


def is_open(port: int) -> bool:
    """Tell whether something listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(autouse=True)
def name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the relay's name resolve: devices connect by it, so the certificate has to contain it."""
    look_up = socket.getaddrinfo

    def answer(host: Any, *arguments: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host == NAME else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.fixture
def relay(home: RelayHome, sandbox: Sandbox, tmp_path: Path) -> Iterator[Relay]:
    """A relay with TLS on port 25, in a chroot as on Debian, and on port 465."""
    reserved = reserve_port(), reserve_port()
    submission, smtps = map(port_of, reserved)
    with PrivatePostfix(home.script, user=home.account.pw_name) as postfix:
        run("postconf", "-c", str(postfix.config), "-F", f"127.0.0.1:{postfix.port}/inet/chroot=y")
        shell = Shell(postfix.config, tmp_path, {r"\b587\b": str(submission), r"\b465\b": str(smtps)})
        ready = Relay(postfix, shell, submission, smtps, sandbox)
        for text in TLS:
            ready.follow(text)
        yield ready
    for reservation in reserved:
        reservation.close()


@pytest.fixture
def password(relay: Relay) -> str:
    """The password of the device "copier", on a relay that requires one."""
    relay.follow(SET_UP)
    relay.postfix.wait_for("port 587", lambda: is_open(relay.submission))
    said = relay.shell.run(NEW_DEVICE)
    before, _colon, found = said.strip().partition(": ")
    assert before == "password of copier"
    return found


def device(port: int) -> smtplib.SMTP:
    """Connect as a device."""
    return smtplib.SMTP(NAME, port, "device.domain.com", 30)


def tls_device(port: int, context: ssl.SSLContext) -> smtplib.SMTP_SSL:
    """Connect as a device that speaks TLS from the first byte."""
    return smtplib.SMTP_SSL(NAME, port, "device.domain.com", timeout=30, context=context)


def submit(client: smtplib.SMTP) -> None:
    """Send a message; raises smtplib's errors if it is refused."""
    client.sendmail(SENDER, [RECIPIENT], mail(To=RECIPIENT).replace(b"\n", b"\r\n"))


def test_starttls_on_port_25(relay: Relay) -> None:
    with device(relay.postfix.port) as client:
        client.starttls(context=relay.context())
        submit(client)
    relay.wait_for_mail()


def test_port_25_without_tls_still_works(relay: Relay) -> None:
    with device(relay.postfix.port) as client:
        submit(client)
    relay.wait_for_mail()


def test_tls_from_the_first_byte_on_port_465(relay: Relay) -> None:
    with tls_device(relay.smtps, relay.context()) as client:
        submit(client)
    relay.wait_for_mail()


def test_the_key_is_open_to_root_alone(relay: Relay) -> None:
    key = (relay.postfix.config / "relay-key.pem").stat()
    assert (key.st_uid, oct(key.st_mode & 0o777)) == (0, "0o600")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_password_on_port_587(relay: Relay, password: str, mechanism: str) -> None:
    with device(relay.submission) as client:
        client.starttls(context=relay.context())
        client.ehlo()
        client.user, client.password = "copier", password
        client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))
        submit(client)
    relay.wait_for_mail()
    assert "sasl_username=copier@relay" in relay.postfix.log()


def test_a_password_on_port_465(relay: Relay, password: str) -> None:
    relay.follow("postconf -e mynetworks=192.0.2.0/24; postfix reload")
    with tls_device(relay.smtps, relay.context()) as client:
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="Recipient address rejected: Access denied"):
            submit(client)
        client.login("copier", password)
        submit(client)
    relay.wait_for_mail()


def test_port_465_asks_no_password_of_the_networks(relay: Relay, password: str) -> None:
    with tls_device(relay.smtps, relay.context()) as client:
        submit(client)
    relay.wait_for_mail()


def test_port_587_is_closed_to_those_without_a_password(relay: Relay, password: str) -> None:
    with device(relay.submission) as client:
        client.starttls(context=relay.context())
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="Recipient address rejected: Access denied"):
            submit(client)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("copier", password[:-1])


def test_a_password_is_not_taken_in_the_clear_unless_wanted(relay: Relay, password: str) -> None:
    with device(relay.submission) as client, pytest.raises(smtplib.SMTPNotSupportedError):
        client.login("copier", password)
    relay.follow(IN_THE_CLEAR)
    with device(relay.submission) as client:
        client.login("copier", password)
        submit(client)
    relay.wait_for_mail()


def test_a_device_can_be_taken_away(relay: Relay, password: str) -> None:
    relay.shell.run(TAKE_AWAY)
    with device(relay.submission) as client:
        client.starttls(context=relay.context())
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("copier", password)


def test_the_passwords_are_open_to_postfix_alone(relay: Relay, password: str) -> None:
    file = relay.postfix.config / "sasl" / "passwords"
    assert (file.owner(), file.group(), oct(file.stat().st_mode & 0o777)) == ("root", "postfix", "0o640")
    assert password.encode() in file.read_bytes()
