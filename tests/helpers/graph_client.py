"""A Graph client that does everything right, except what a test changes."""

from __future__ import annotations

import base64
import urllib.parse
from typing import Any

import requests
from sandbox import Part, Sandbox

MAILBOX = "alerts@domain.com"
USUAL = {"Authorization": "Bearer known", "Prefer": 'IdType="ImmutableId"'}
RANGE = 320 * 1024 * 12


def people(*addresses: str) -> list[dict[str, Any]]:
    """Return recipients in Graph's form."""
    return [{"emailAddress": {"address": address}} for address in addresses]


def json_message(**changes: object) -> dict[str, Any]:
    """Return a small message; None leaves a member out."""
    usual: dict[str, object] = {
        "subject": "Scan",
        "body": {"contentType": "text", "content": "The scan is attached.\r\n"},
        "toRecipients": people("to@external.com"),
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def json_file(part: Part, **changes: object) -> dict[str, Any]:
    """Return an attachment to be sent as a whole; None leaves a member out."""
    usual: dict[str, object] = {
        "@odata.type": "#microsoft.graph.fileAttachment",
        "name": part.name,
        "contentType": part.content_type,
        "contentBytes": base64.b64encode(part.data).decode(),
        "isInline": part.inline,
        "contentId": part.content_id or None,
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def json_item(part: Part, **changes: object) -> dict[str, Any]:
    """Return the description of a file for an upload session; None leaves a member out."""
    usual: dict[str, object] = {
        "attachmentType": "file",
        "name": part.name,
        "size": len(part.data),
        "contentType": part.content_type,
        "isInline": part.inline,
        "contentId": part.content_id or None,
    }
    item = {name: value for name, value in {**usual, **changes}.items() if value is not None}
    return {"AttachmentItem": item}


class GraphClient:
    """Requests for a mailbox, with a token that the sandbox accepts. A header of None is left out."""

    def __init__(self, sandbox: Sandbox, mailbox: str = MAILBOX) -> None:
        sandbox.tokens.add("known")
        self.sandbox = sandbox
        self.user = f"{sandbox.url}/v1.0/users/{mailbox}"
        self.http = requests.Session()
        # A CA bundle in the environment would take precedence.
        self.http.trust_env = False
        self.http.verify = str(sandbox.ca_file)

    def ask(
        self, method: str, path: str, headers: dict[str, Any] | None = None, **body: Any
    ) -> requests.Response:
        """Make a request about the mailbox."""
        fields = {**USUAL, **(headers or {})}
        return self.http.request(method, f"{self.user}/{path}", headers=fields, timeout=60, **body)

    def draft(self, content: object, **headers: Any) -> requests.Response:
        """Make a draft."""
        return self.ask("POST", "messages", headers, json=content)

    def new_draft(self, **changes: object) -> str:
        """Make a draft, and return its id."""
        answer = self.draft(json_message(**changes))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def find(self, message_id: str) -> requests.Response:
        """Look for a draft by its Message-ID."""
        quoted = message_id.replace("'", "''")
        query = urllib.parse.quote(f"internetMessageId eq '{quoted}'")
        return self.ask("GET", f"mailFolders/drafts/messages?$filter={query}&$select=id,isDraft")

    def look(self, draft: str) -> requests.Response:
        """Look at a message and its attachments."""
        shown = "$select=isDraft&$expand=attachments($select=id,name,size,isInline)"
        return self.ask("GET", f"messages/{draft}?{shown}")

    def attach(self, draft: str, content: object) -> requests.Response:
        """Attach a file as a whole."""
        return self.ask("POST", f"messages/{draft}/attachments", json=content)

    def session(self, draft: str, content: object) -> requests.Response:
        """Open an upload session."""
        return self.ask("POST", f"messages/{draft}/attachments/createUploadSession", json=content)

    def put(self, url: str, data: bytes, first: int, size: int, **headers: Any) -> requests.Response:
        """Send a range of a file."""
        usual = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"bytes {first}-{first + len(data) - 1}/{size}",
        }
        fields = {**usual, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.http.put(url, data, headers=fields, timeout=60)

    def upload(self, draft: str, part: Part, step: int = RANGE) -> requests.Response:
        """Attach a file in ranges, and return the last answer."""
        opened = self.session(draft, json_item(part))
        assert opened.status_code == 201, opened.text
        answer = opened
        for first in range(0, len(part.data), step):
            url = opened.json()["uploadUrl"]
            answer = self.put(url, part.data[first : first + step], first, len(part.data))
        return answer

    def send(self, draft: str) -> requests.Response:
        """Send a draft."""
        return self.ask("POST", f"messages/{draft}/send")

    def delete(self, draft: str) -> requests.Response:
        """Delete a message."""
        return self.ask("DELETE", f"messages/{draft}")

    def send_json(self, message: object, **more: object) -> requests.Response:
        """Send a message without a draft."""
        return self.ask("POST", "sendMail", json={"message": message, **more})
