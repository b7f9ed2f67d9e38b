"""Entra's checks of a client assertion that was signed with a certificate or by a federated issuer."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from helpers.answers import Refused, provided

BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
EXCHANGE = "api://AzureADTokenExchange"
# The clock skew that Entra tolerates.
SKEW_SECONDS = 300


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def thumbprint(der: bytes) -> str:
    return encoded(hashlib.sha256(der).digest())


def refuse(name: str, **values: str) -> Refused:
    return Refused(provided(f"entra/{name}", **values))


class Assertion(NamedTuple):
    """A JSON Web Token in its parts."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def read(text: str) -> Assertion:
    """Split an assertion into its parts; raise Refused if it is malformed."""
    try:
        header, claims, signature = text.split(".")
        signed = f"{header}.{claims}".encode()
        return Assertion(json.loads(decoded(header)), json.loads(decoded(claims)), signed, decoded(signature))
    except ValueError:
        raise refuse("assertion-malformed") from None


def check_times(claims: dict[str, Any], now: float) -> None:
    if not claims.get("nbf", now) - SKEW_SECONDS <= now < claims.get("exp", 0) + SKEW_SECONDS:
        raise refuse("assertion-times")


def check_certificate(text: str, url: str, client: str, registered: list[bytes], now: float) -> None:
    """Raise Refused unless one of the certificates (DER) has signed it, for this client and endpoint."""
    found = read(text)
    known = {thumbprint(der): der for der in registered}
    der = known.get(found.header.get("x5t#S256", ""))
    if not der:
        raise refuse("assertion-signature", reason="[Reason - The key was not found.]")
    certificate = x509.load_der_x509_certificate(der)
    if not certificate.not_valid_before_utc.timestamp() <= now < certificate.not_valid_after_utc.timestamp():
        raise refuse("assertion-signature", reason="[Reason - The key used is expired.]")
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    try:
        assert (found.header["alg"], found.header["typ"]) == ("PS256", "JWT")
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        key.verify(found.signature, found.signed, pss, hashes.SHA256())
    except InvalidSignature:
        text = "[Reason - The provided signature value did not match the expected signature value.]"
        raise refuse("assertion-signature", reason=text) from None
    claims = found.claims
    if claims.get("aud") != url:
        raise refuse("assertion-audience")
    if not claims.get("iss") == claims.get("sub") == client:
        raise refuse("assertion-client")
    assert uuid.UUID(claims["jti"])
    check_times(claims, now)


class Federation(NamedTuple):
    """An issuer of tokens for workloads, such as a Kubernetes cluster, and the trusted workload."""

    key: rsa.RSAPrivateKey
    issuer: str = "https://oidc.domain.com/cluster"
    subject: str = "system:serviceaccount:mail:relay"

    def token(self, **changes: object) -> str:
        """Return a token for the workload."""
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": self.subject, "aud": [EXCHANGE], "nbf": now, "exp": now + 3600}
        parts = ({"alg": "RS256", "typ": "JWT"}, {**claims, **changes})
        signed = ".".join(encoded(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{encoded(self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def check(self, text: str, now: float) -> None:
        """Raise Refused unless it is a token for the workload."""
        found = read(text)
        if found.claims.get("iss") != self.issuer:
            raise refuse("federation-issuer")
        if found.claims.get("sub") != self.subject:
            raise refuse("federation-subject")
        if EXCHANGE not in found.claims.get("aud", []):
            raise refuse("federation-audience")
        check_times(found.claims, now)
        try:
            public = self.key.public_key()
            public.verify(found.signature, found.signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            raise refuse("federation-signature") from None
