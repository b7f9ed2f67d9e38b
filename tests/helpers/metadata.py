"""Fakes of Azure's metadata services on the loopback interface: a VM's, App Service's and Arc's."""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path
from typing import Literal

from sandbox import Answer, Recorded, Sandbox, provided

from helpers.home import RelayHome
from helpers.script import change_constants

Kind = Literal["vm", "app service", "arc"]
PATHS = {
    "vm": "/metadata/identity/oauth2/token",
    "app service": "/msi/token",
    "arc": "/metadata/identity/oauth2/token",
}
VERSIONS = {"vm": "2018-02-01", "app service": "2019-08-01", "arc": "2020-06-01"}
HEADER = "Hx4kQ9wZ7tRb2nVm6sLp"


class Metadata(Sandbox):
    """A service that issues the provider's tokens to requests that the real service would accept.

    `identities` are client ids of user-assigned identities; `system_assigned` says whether the machine has
    its own. `lifetime` is in seconds. Answers are scripted for the role "other".
    """

    def __init__(self, provider: Sandbox, kind: Kind) -> None:
        super().__init__(certificate="none")
        self.provider, self.kind = provider, kind
        self.identities: set[str] = set()
        self.system_assigned = True
        self.lifetime = 86399
        self.keys: Path | None = None
        self.challenge: str | None = None
        self.given: list[str] = []
        self.group = 0

    def __enter__(self) -> Metadata:
        self.start()
        return self

    @property
    def url(self) -> str:
        """The base URL: plain HTTP, as with the real ones."""
        return f"http://localhost:{self._port}"

    def use(self, home: RelayHome, **changes: object) -> None:
        """Set the home up for it."""
        values: dict[str, object] = {"API_CREDENTIAL": "machine", "API_ID": None, "API_SECRET": None}
        if self.kind == "vm":
            values["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = self.url
        else:
            values["IDENTITY_ENDPOINT"] = self.url + PATHS[self.kind]
        if self.kind == "app service":
            values["IDENTITY_HEADER"] = HEADER
        if self.kind == "arc":
            values["IMDS_ENDPOINT"] = self.url
            self.keys = home.queue / "tokens"
            self.keys.mkdir()
            change_constants(home, ARC_KEYS=str(self.keys))
            self.group = home.account.pw_gid
        home.secrets(**{**values, **changes})

    def judge(self, seen: Recorded) -> tuple[Answer, None]:
        """Return the service's answer."""
        return self._judge(seen), None

    def _judge(self, seen: Recorded) -> Answer:
        path = seen.path.partition("?")[0]
        if seen.method != "GET" or path != PATHS[self.kind]:
            return provided("azure/not-there")
        if seen.headers.get("metadata") != "true" or "x-forwarded-for" in seen.headers:
            return self._error("no-header")
        if self.kind == "app service" and seen.headers.get("x-identity-header") != HEADER:
            return provided("azure/app-service-error", status=401)._replace(status=401)
        if seen.query.get("api-version") != VERSIONS[self.kind]:
            return self._error("bad-version")
        if seen.query.get("resource") != self.provider.url:
            return self._error("bad-resource")
        if self.kind == "arc" and (refusal := self._challenge(seen)):
            return refusal
        client = seen.query.get("client_id", "")
        if client not in self.identities if client else not self.system_assigned:
            return self._error("no-identity")
        # Strings, as in the real answers.
        values = {"token": self.provider.issue(), "resource": self.provider.url}
        values["expires_on"] = str(int(time.time()) + self.lifetime)
        if self.kind == "app service":
            return provided("azure/app-service-token", **values)
        return provided("azure/token", expires_in=str(self.lifetime), **values)

    def _error(self, name: str) -> Answer:
        answer = provided(f"azure/{name}")
        if self.kind != "app service":
            return answer
        return provided("azure/app-service-error", message=json.loads(answer.body)["error_description"])

    def _challenge(self, seen: Recorded) -> Answer | None:
        """Return Arc's challenge, unless the request proves that the client can read the agent's file."""
        assert self.keys
        shown = seen.headers.get("authorization", "").removeprefix("Basic ")
        if shown and shown in self.given:
            self.given.remove(shown)
            return None
        path = self.challenge or self._new_key()
        return provided("azure/arc-challenge", path=path)

    def _new_key(self) -> str:
        assert self.keys
        key, file = secrets.token_urlsafe(48), self.keys / f"{secrets.token_hex(4)}.key"
        file.write_text(key)
        os.chown(file, 0, self.group)
        file.chmod(0o640)
        self.given.append(key)
        return str(file)
