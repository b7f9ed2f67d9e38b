"""A provider that echoes what it was sent, in every spelling."""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.parse

from sandbox import Answer, Recorded, Role, Sandbox


def spellings(secret: str) -> list[str]:
    """Return a secret as it may be echoed: raw, and in the forms of URLs, JSON, HTML, Python and base64."""
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
    """Tell whether a header field can contain the text."""
    return all(" " <= char <= "~" for char in text)


class Echo(Sandbox):
    """It answers the next `times` requests for `role` with `status` and all secrets, in body and header.

    `padding` precedes the echo: truncation must leave no part of a secret. `told` has all secrets so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.role: Role = "other"
        self.status = 500
        self.times = 0
        self.padding = ""
        self.told: set[str] = set()

    def arm(self, role: Role, status: int, padding: int = 0, times: int = 1) -> None:
        """Say which requests get the echo."""
        self.role, self.status, self.padding, self.times = role, status, "." * padding, times

    def settle(self, seen: Recorded, scripted: Answer) -> Answer | None:
        """Answer as `arm` said."""
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
        # A spelling that a header field cannot contain is left out: without some of its characters it would
        # be a different one.
        shown = (self.padding + " ".join(filter(printable, echoed)))[:8000]
        headers = {
            "request-id": shown,
            "x-amzn-ErrorType": f"DeniedException:{shown}",
            "x-amzn-RequestId": shown,
        }
        return Answer(self.status, headers, json.dumps(content).encode(), accept=self.status == 202)
