"""A provider that gives away what it was sent, in every spelling."""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.parse

from sandbox import Answer, Recorded, Role, Sandbox


def spellings(secret: str) -> list[str]:
    """A secret as it may be echoed: raw, and as URLs, JSON, HTML, Python and base64 write it."""
    quoted = urllib.parse.quote(secret, safe="")
    data = secret.encode()
    encoded = [base64.b64encode(b"id:"[:before] + data + b":").decode() for before in range(4)]
    return [
        secret,
        quoted,
        re.sub("%..", lambda match: match[0].lower(), quoted),
        urllib.parse.quote(secret),
        urllib.parse.quote_plus(secret),
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False).replace("/", "\\/"),
        html.escape(secret),
        repr(secret),
        *encoded,
        base64.urlsafe_b64encode(data).decode(),
    ]


def printable(text: str) -> bool:
    """Whether the text can stand in a header field."""
    return all(" " <= char <= "~" for char in text)


class Echo(Sandbox):
    """Its `role` answers the next `times` requests with `status`, and in text and header with all secrets.

    `padding` comes before the echo: a text that is cut off must not be cut in the middle of a secret.
    `told` has every secret that it has seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.role: Role = "other"
        self.status = 500
        self.times = 0
        self.padding = ""
        self.told: set[str] = set()

    def arm(self, role: Role, status: int, padding: int = 0, times: int = 1) -> None:
        """Say which requests are answered so."""
        self.role, self.status, self.padding, self.times = role, status, "." * padding, times

    def settle(self, seen: Recorded, scripted: Answer) -> Answer | None:
        """Answer as told."""
        authorization = seen.headers.get("authorization", "").removeprefix("Bearer ")
        self.told |= {secret for secret in (self.secret, authorization, *self.tokens) if secret}
        self.told |= {text for keys in self.session_keys.values() for text in (keys.secret, keys.token)}
        if seen.role == self.role and self.times:
            self.times -= 1
            scripted = self._echo(seen)
        return super().settle(seen, scripted)

    def _echo(self, seen: Recorded) -> Answer:
        echoed = [spelling for secret in sorted(self.told) for spelling in spellings(secret)]
        text = self.padding + " ".join([*echoed, seen.body.decode("latin-1")])
        content = {
            "error": {"code": "Denied", "message": text},
            "error_description": text,
            "message": text,
        }
        if seen.role == "token":
            content["error"] = "invalid_client"
        # A spelling that cannot stand in a header field is left out, whole: without some of its letters it
        # would be another one.
        shown = (self.padding + " ".join(filter(printable, echoed)))[:8000]
        headers = {
            "request-id": shown,
            "x-amzn-ErrorType": f"DeniedException:{shown}",
            "x-amzn-RequestId": shown,
        }
        return Answer(self.status, headers, json.dumps(content).encode(), accept=self.status == 202)
