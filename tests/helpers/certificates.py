"""Certificates and keys as an admin makes them, rightly or wrongly."""

from __future__ import annotations

import datetime
import functools
from pathlib import Path
from typing import NamedTuple, Union

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from helpers.home import RelayHome

Key = Union[rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey]
DAY = datetime.timedelta(days=1)


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def key_pem(self, passphrase: bytes = b"", form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
        """Return the key, in PKCS #8 or as "RSA PRIVATE KEY"."""
        sealed: KeySerializationEncryption = NoEncryption()
        if passphrase:
            sealed = BestAvailableEncryption(passphrase)
        return self.key.private_bytes(Encoding.PEM, form, sealed)

    @property
    def secrets(self) -> set[str]:
        """The lines of the key, which must appear nowhere else."""
        return {line for line in self.key_pem().decode().splitlines() if "-----" not in line}


@functools.cache
def rsa_key(number: int = 0, size: int = 2048) -> rsa.RSAPrivateKey:
    """Return one of several keys."""
    return rsa.generate_private_key(public_exponent=65537, key_size=size)


def pair(key: Key | None = None, begins: float = -1, ends: float = 365) -> Pair:
    """Return a self-signed certificate that is valid between these days, counted from now."""
    key = key or rsa_key()
    now = datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "relay.domain.com")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now + begins * DAY).not_valid_after(now + ends * DAY)
    return Pair(made.sign(key, hashes.SHA256()), key)


def use_certificate(home: RelayHome, made: Pair, *, one_file: bool = True, **changes: object) -> Path:
    """Set the home up for a certificate, and return the file with the key."""
    values: dict[str, object] = {"API_CERTIFICATE_PATH": "relay.pem", "API_SECRET": None}
    file = home.put(
        "relay.pem", made.pem + (made.key_pem() if one_file else b""), 0o600 if one_file else 0o644
    )
    if not one_file:
        file = home.put("relay.key", made.key_pem())
        values["API_PRIVATE_KEY_PATH"] = "relay.key"
    home.secrets(API_CREDENTIAL="certificate", **{**values, **changes})
    return file
