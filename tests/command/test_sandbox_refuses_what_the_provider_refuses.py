"""The sandbox itself: a test of the relay is only as good as its provider's checks."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from helpers.answers import provided
from helpers.graph_client import GraphClient, json_file, json_item, json_message, people
from helpers.large_mail import file_part, message, multipart, noise, scan, text_part
from helpers.waiting import wait_until
from sandbox import (
    GRAPH_REQUEST_LIMIT,
    Action,
    Answer,
    Certificate,
    Part,
    Role,
    Sandbox,
    graph_error,
    mailbox_concurrency,
    received_of,
)

if TYPE_CHECKING:
    from types_boto3_ses import SESClient
    from types_boto3_sesv2 import SESV2Client

MAIL = b"From: alerts@domain.com\r\nTo: to@domain.com\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\n\r\nText.\r\n"
LIMIT = 60.0
# If the read is to time out, the steps before it must not, and vice versa.
SHORT_READ = (LIMIT, 0.3)
SHORT_CONNECT = (0.3, LIMIT)
MIB = 1024 * 1024
TEXT = Part("notes.txt", "text/plain", "", False, b"Notes.")
LOGO = Part("logo.png", "image/png", "logo@domain.com", True, noise(5000))
LARGE = Part("scan.pdf", "application/pdf", "", False, noise(3 * MIB + 100))


class Served(NamedTuple):
    """A provider in a separate process."""

    url: str
    ca_file: Path


def ask_token(sandbox: Sandbox | Served, tenant: str = "tenant-id", **changes: str) -> requests.Response:
    """Ask for a token as the relay should, with these changes."""
    form = {
        "grant_type": "client_credentials",
        "scope": f"{sandbox.url}/.default",
        "client_id": "client-id",
        "client_secret": "client-secret",
    }
    url = f"{sandbox.url}/{tenant}/oauth2/v2.0/token"
    return requests.post(url, data={**form, **changes}, verify=str(sandbox.ca_file), timeout=LIMIT)


def send(
    sandbox: Sandbox | Served,
    mail: bytes = MAIL,
    *,
    mailbox: str = "alerts@domain.com",
    body: bytes | None = None,
    **headers: str,
) -> requests.Response:
    """Send a message as the relay should, with a token that the sandbox knows, and these changes."""
    if isinstance(sandbox, Sandbox):
        sandbox.tokens.add("known")
    usual = {"Authorization": "Bearer known", "Content-Type": "text/plain"}
    return requests.post(
        f"{sandbox.url}/v1.0/users/{mailbox}/sendMail",
        data=base64.b64encode(mail) if body is None else body,
        headers={**usual, **{name.replace("_", "-"): value for name, value in headers.items()}},
        verify=str(sandbox.ca_file),
        timeout=LIMIT,
    )


def client_settings(sandbox: Sandbox, secret: str, key: str) -> dict[str, Any]:
    """Return the arguments of boto3.client for the sandbox."""
    return {
        "region_name": "eu-west-1",
        "endpoint_url": sandbox.url,
        "aws_access_key_id": key,
        "aws_secret_access_key": secret,
        "verify": str(sandbox.ca_file),
        "config": Config(retries={"total_max_attempts": 1}),
    }


def sesv2(sandbox: Sandbox, secret: str = "client-secret", key: str = "client-id") -> SESV2Client:
    """Return a client of SES's second interface."""
    return boto3.client("sesv2", **client_settings(sandbox, secret, key))


def ses(sandbox: Sandbox, secret: str = "client-secret", key: str = "client-id") -> SESClient:
    """Return a client of SES's first interface."""
    return boto3.client("ses", **client_settings(sandbox, secret, key))


def code(response: requests.Response) -> tuple[int, str]:
    """Return status and error code of an answer of Graph or Entra."""
    error = response.json()["error"]
    return response.status_code, error if isinstance(error, str) else error["code"]


def refusal(error: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    """Return status and error code of an answer of SES."""
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def test_a_token_is_fresh_and_good_for_one_message(sandbox: Sandbox) -> None:
    first, second = ask_token(sandbox).json(), ask_token(sandbox).json()
    assert (first["expires_in"], first["token_type"]) == (3599, "Bearer")
    assert first["access_token"] != second["access_token"]
    assert send(sandbox, Authorization=f"Bearer {second['access_token']}").status_code == 202


@pytest.mark.parametrize(
    ("changes", "status", "error", "number"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        ({"client_secret": ""}, 401, "invalid_client", 7000215),
        ({"client_id": "wrong"}, 400, "unauthorized_client", 700016),
        ({"tenant": "wrong"}, 400, "invalid_request", 90002),
        ({"scope": "Mail.Send"}, 400, "invalid_scope", 1002012),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
    ],
)
def test_entra_refuses(
    sandbox: Sandbox, changes: dict[str, str], status: int, error: str, number: int
) -> None:
    response = ask_token(sandbox, **changes)
    assert code(response) == (status, error)
    assert response.json()["error_description"].startswith(f"AADSTS{number}: ")
    assert sandbox.tokens == set()


def test_graph_takes_a_message_and_shows_it(sandbox: Sandbox) -> None:
    mail = MAIL.replace(b"Subject", b"Cc: A <a@x.org>,\r\n b@x.org\r\nBcc: g: c@x.org, d@x.org;\r\nSubject")
    response = send(sandbox, mail)
    assert (response.status_code, response.content) == (202, b"")
    [accepted] = sandbox.accepted
    assert accepted.id == response.headers["request-id"]
    assert (accepted.provider, accepted.mailbox, accepted.raw) == ("graph", "alerts@domain.com", mail)
    assert (accepted.to, accepted.cc) == (["to@domain.com"], ["a@x.org", "b@x.org"])
    assert accepted.bcc == ["c@x.org", "d@x.org"]
    assert accepted.subject == "café"


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        ({"Authorization": "Bearer stale"}, 401, "InvalidAuthenticationToken"),
        ({"Authorization": "Basic known"}, 401, "InvalidAuthenticationToken"),
        ({"Content_Type": "application/xml"}, 415, "UnsupportedMediaType"),
        ({"Content_Type": "application/json"}, 400, "BadRequest"),
        ({"body": b"no base64!"}, 400, "ErrorMimeContentInvalidBase64String"),
        ({"body": b"QUJ"}, 400, "ErrorMimeContentInvalidBase64String"),
        ({"body": b"A" * (GRAPH_REQUEST_LIMIT + 4)}, 413, "ErrorMessageSizeExceeded"),
        ({"mail": b"From: alerts@domain.com\r\n\r\n"}, 400, "ErrorInvalidRecipients"),
        ({"mail": MAIL.replace(b"to@domain.com", b"undisclosed:;")}, 400, "ErrorInvalidRecipients"),
        ({"mail": MAIL.replace(b"alerts@", b"other@")}, 403, "ErrorSendAsDenied"),
        ({"mail": b"To: to@domain.com\r\n\r\n"}, 403, "ErrorSendAsDenied"),
        ({"mailbox": "other@domain.com"}, 403, "ErrorSendAsDenied"),
        ({"mailbox": "missing@domain.com"}, 404, "ErrorInvalidUser"),
        ({"mailbox": "a/alerts@domain.com"}, 404, "ResourceNotFound"),
        ({"mailbox": "a?alerts@domain.com"}, 404, "ResourceNotFound"),
    ],
)
def test_graph_refuses(sandbox: Sandbox, arguments: dict[str, Any], status: int, error: str) -> None:
    sandbox.mailboxes = {"alerts@domain.com", "other@domain.com"}
    assert code(send(sandbox, **arguments)) == (status, error)
    assert sandbox.accepted == []
    assert [seen.status for seen in sandbox.requests] == [status]


def test_graph_takes_a_request_of_exactly_its_limit(sandbox: Sandbox) -> None:
    mail = MAIL + b"x" * (GRAPH_REQUEST_LIMIT // 4 * 3 - len(MAIL))
    assert len(base64.b64encode(mail)) == GRAPH_REQUEST_LIMIT
    assert send(sandbox, mail).status_code == 202


@pytest.fixture
def client(sandbox: Sandbox) -> GraphClient:
    """A client of Graph without a fault."""
    return GraphClient(sandbox)


def outcome(response: requests.Response) -> tuple[int, str]:
    """Return status and error code of an answer; the code is empty if there is none."""
    return code(response) if response.status_code >= 400 else (response.status_code, "")


def test_a_draft_becomes_the_message_that_was_meant(sandbox: Sandbox, client: GraphClient) -> None:
    content = multipart(
        text_part("The scan is attached: café.\n"),
        file_part(TEXT.data, TEXT.name, TEXT.content_type),
        file_part(LOGO.data, LOGO.name, LOGO.content_type, LOGO.content_id),
        file_part(LARGE.data),
    )
    original = received_of(message(content, To="T <to@external.com>, second@external.com", X_Copier="3"))
    draft = client.new_draft(
        subject=original.subject,
        body={"contentType": "Text", "content": original.texts["plain"].replace("\n", "\r\n")},
        toRecipients=[
            {"emailAddress": {"name": "T", "address": "to@external.com"}},
            *people("second@external.com"),
        ],
        bccRecipients=people("bcc@external.com"),
        internetMessageId=original.headers["message-id"][0],
        internetMessageHeaders=[{"name": "X-Copier", "value": "3"}],
        attachments=[json_file(TEXT)],
    )
    assert client.attach(draft, json_file(LOGO)).status_code == 201
    assert client.upload(draft, LARGE, 2 * MIB).status_code == 201
    assert [left.id for left in sandbox.drafts["alerts@domain.com"]] == [draft]
    assert sandbox.accepted == []
    assert (client.send(draft).status_code, client.send(draft).status_code) == (202, 404)
    [accepted] = sandbox.accepted
    assert (accepted.via, accepted.saved, accepted.draft) == ("draft", True, draft)
    assert sandbox.drafts == {}
    assert sandbox.mailed == {"to@external.com": 1, "second@external.com": 1, "bcc@external.com": 1}
    received = accepted.received
    assert received.bcc == ["bcc@external.com"]
    assert received.attachments == original.attachments == [TEXT, LOGO, LARGE]
    for name in ("message-id", "x-copier"):
        assert received.headers[name] == original.headers[name]
    assert received._replace(bcc=[], headers=original.headers) == original
    # As MIME it is the same again.
    assert received_of(accepted.raw).attachments == original.attachments
    assert received_of(accepted.raw)[:5] == received[:5]


def test_a_step_answers_as_documented(sandbox: Sandbox, client: GraphClient) -> None:
    answer = client.draft(json_message(internetMessageId="<o'neill+1@domain.com>"))
    draft = answer.json()
    assert (answer.status_code, draft["isDraft"]) == (201, True)
    assert draft["internetMessageId"] == "<o'neill+1@domain.com>"
    found = client.find("<o'neill+1@domain.com>").json()["value"]
    assert found == [{"id": draft["id"], "isDraft": True}]
    assert client.find("<o'neill 1@domain.com>").json()["value"] == []
    session = client.session(draft["id"], json_item(LARGE)).json()
    assert session["nextExpectedRanges"] == ["0-"]
    assert session["uploadUrl"].startswith(f"{sandbox.url}/api/v2.0/Users('")
    size = len(LARGE.data)
    first = client.put(session["uploadUrl"], LARGE.data[: 2 * MIB], 0, size)
    assert (first.status_code, first.json()["nextExpectedRanges"]) == (200, [str(2 * MIB)])
    again = requests.get(session["uploadUrl"], verify=str(sandbox.ca_file), timeout=LIMIT)
    assert again.json()["nextExpectedRanges"] == [str(2 * MIB)]
    last = client.put(session["uploadUrl"], LARGE.data[2 * MIB :], 2 * MIB, size)
    assert (last.status_code, last.content) == (201, b"")
    looked = client.look(draft["id"]).json()
    [attached] = looked["attachments"]
    assert f"/Attachments('{attached['id']}')" in last.headers["Location"]
    # This is not the size of the file: what the store adds counts as well.
    assert (attached["name"], attached["isInline"]) == ("scan.pdf", False)
    assert attached["size"] > size
    assert (client.delete(draft["id"]).status_code, client.delete(draft["id"]).status_code) == (204, 404)
    assert client.look(draft["id"]).status_code == 404


FIVE = [{"name": f"X-{number}", "value": "1"} for number in range(5)]


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"toRecipients": None}, 201, ""),
        ({"toRecipients": people("not an address")}, 201, ""),
        ({"internetMessageHeaders": FIVE}, 201, ""),
        ({"internetMessageHeaders": [*FIVE, FIVE[0]]}, 400, "InvalidInternetMessageHeaderCollection"),
        ({"internetMessageHeaders": []}, 400, "InvalidInternetMessageHeaderCollection"),
        (
            {"internetMessageHeaders": [{"name": "List-Id", "value": "1"}]},
            400,
            "InvalidInternetMessageHeader",
        ),
        (
            {"internetMessageHeaders": [{"name": "X-A", "value": "1\r\nB: 2"}]},
            400,
            "InvalidInternetMessageHeader",
        ),
        ({"singleValueExtendedProperties": [{"id": "String 0x1042", "value": "<a@b>"}]}, 201, ""),
        (
            {"singleValueExtendedProperties": [{"id": "In-Reply-To", "value": "<a@b>"}]},
            400,
            "ErrorInvalidProperty",
        ),
        ({"internetMessageId": "a b"}, 400, "ErrorInvalidProperty"),
        ({"isDraft": True}, 400, "RequestBodyRead"),
        ({"to": people("to@external.com")}, 400, "RequestBodyRead"),
        ({"toRecipients": "to@external.com"}, 400, "RequestBodyRead"),
        ({"subject": 1}, 400, "RequestBodyRead"),
        ({"subject": "\ud800"}, 400, "RequestBodyRead"),
        ({"body": {"contentType": "rtf", "content": ""}}, 400, "RequestBodyRead"),
        ({"attachments": [json_file(TEXT, contentBytes="no base64")]}, 400, "RequestBodyRead"),
        ({"subject": "x" * GRAPH_REQUEST_LIMIT}, 413, "ErrorMessageSizeExceeded"),
    ],
)
def test_what_a_draft_may_be(client: GraphClient, changes: dict[str, Any], status: int, error: str) -> None:
    assert outcome(client.draft(json_message(**changes))) == (status, error)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"subject": "a", "subject": "b"}', b"\xff"])
def test_a_draft_is_an_object_in_json(client: GraphClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert client.ask("POST", "messages", headers, data=body).status_code == 400


def test_a_request_that_is_too_long_has_two_answers(sandbox: Sandbox, client: GraphClient) -> None:
    sandbox.request_limit = 4_000_000
    sandbox.too_long = provided("graph/request-length-4mb")
    assert outcome(client.draft(json_message(subject="x" * 4_000_000))) == (400, "BadRequest")
    assert outcome(client.draft(json_message(subject="x" * 3_999_000))) == (201, "")


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ({"Prefer": None}, 400, "ErrorInvalidIdType"),
        ({"Prefer": "respond-async"}, 400, "ErrorInvalidIdType"),
        ({"Prefer": 'respond-async, IdType="ImmutableId"'}, 201, ""),
        ({"Authorization": None}, 401, "InvalidAuthenticationToken"),
        ({"Content-Type": "text/plain"}, 415, "UnsupportedMediaType"),
    ],
)
def test_what_the_header_of_a_draft_has(
    client: GraphClient, headers: dict[str, Any], status: int, error: str
) -> None:
    assert outcome(client.draft(json_message(), **headers)) == (status, error)


def test_every_step_wants_an_immutable_id(client: GraphClient) -> None:
    draft = client.new_draft()
    without = {"Prefer": None}
    files = f"messages/{draft}/attachments"
    asked = [
        client.ask("GET", "mailFolders/drafts/messages?$filter=internetMessageId eq 'x'", without),
        client.ask("GET", f"messages/{draft}", without),
        client.ask("POST", files, without, json=json_file(TEXT)),
        client.ask("POST", f"{files}/createUploadSession", without, json=json_item(LARGE)),
        client.ask("POST", f"messages/{draft}/send", without),
        client.ask("DELETE", f"messages/{draft}", without),
    ]
    assert [outcome(answer) for answer in asked] == [(400, "ErrorInvalidIdType")] * 6


def test_drafts_want_a_permission_of_their_own(sandbox: Sandbox, client: GraphClient) -> None:
    draft = client.new_draft()
    sandbox.permissions = {"Mail.Send"}
    denied = [client.draft(json_message()), client.find("<a@b>"), client.look(draft), client.delete(draft)]
    denied += [client.attach(draft, json_file(TEXT)), client.session(draft, json_item(LARGE))]
    assert [code(answer) for answer in denied] == [(403, "ErrorAccessDenied")] * 6
    assert send(sandbox).status_code == client.send_json(json_message()).status_code == 202
    assert client.send(draft).status_code == 202
    sandbox.permissions = {"Mail.ReadWrite"}
    assert code(send(sandbox)) == code(client.send(client.new_draft())) == (403, "ErrorAccessDenied")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("mailFolders/drafts/messages?$filter=internetMessageId eq 'x'", 200),
        ("mailFolders/drafts/messages?$filter=internetMessageId eq 'o'neill'", 400),
        ("mailFolders/drafts/messages?$filter=subject eq 'x'", 400),
        ("mailFolders/drafts/messages", 400),
        ("mailFolders/drafts/messages?$filter=internetMessageId eq 'x'&$select=Id", 400),
        ("messages/DRAFT", 200),
        ("messages/DRAFT?$select=isDraft,body", 400),
        ("messages/DRAFT?$expand=attachments", 200),
        ("messages/DRAFT?$expand=extensions", 400),
        ("messages/DRAFT?$expand=attachments($select=contentBytes)", 400),
        ("messages/other", 404),
    ],
)
def test_what_can_be_looked_at(client: GraphClient, path: str, status: int) -> None:
    draft = client.new_draft()
    assert client.ask("GET", path.replace("DRAFT", draft)).status_code == status


def test_a_mailbox_has_drafts_of_its_own(sandbox: Sandbox, client: GraphClient) -> None:
    draft = client.new_draft(internetMessageId="<a@b>")
    other = GraphClient(sandbox, "other@domain.com")
    assert other.find("<a@b>").json()["value"] == []
    assert outcome(other.send(draft)) == (404, "ErrorItemNotFound")
    for _ in range(11):
        other.new_draft(internetMessageId="<a@b>")
    assert len(other.find("<a@b>").json()["value"]) == 10
    assert {mailbox: len(left) for mailbox, left in sandbox.drafts.items()} == {
        "alerts@domain.com": 1,
        "other@domain.com": 11,
    }


@pytest.mark.parametrize(
    ("part", "changes", "status", "error"),
    [
        (TEXT, {}, 201, ""),
        (LARGE, {}, 413, "ErrorMessageSizeExceeded"),
        (TEXT._replace(data=bytes(3 * MIB)), {}, 413, "ErrorAttachmentSizeLimitExceeded"),
        (TEXT._replace(data=bytes(3 * MIB - 200)), {}, 201, ""),
        (TEXT, {"@odata.type": "#microsoft.graph.itemAttachment"}, 400, "RequestBodyRead"),
        (TEXT, {"@odata.type": None}, 400, "ErrorInvalidRequest"),
        (TEXT, {"name": None}, 400, "ErrorInvalidRequest"),
        (TEXT, {"name": ""}, 400, "ErrorInvalidRequest"),
        (TEXT, {"contentBytes": "QUJ"}, 400, "RequestBodyRead"),
        (TEXT, {"contentBytes": "QUJD\r\n"}, 400, "RequestBodyRead"),
        (TEXT, {"contentType": "text"}, 400, "RequestBodyRead"),
        (TEXT, {"isInline": "true"}, 400, "RequestBodyRead"),
        (TEXT, {"size": 6}, 400, "RequestBodyRead"),
    ],
)
def test_what_can_be_attached_as_a_whole(
    sandbox: Sandbox, client: GraphClient, part: Part, changes: dict[str, Any], status: int, error: str
) -> None:
    sandbox.request_limit += 200
    assert outcome(client.attach(client.new_draft(), json_file(part, **changes))) == (status, error)


def test_without_an_id_nothing_is_inline(sandbox: Sandbox, client: GraphClient) -> None:
    draft = client.new_draft()
    assert client.attach(draft, json_file(LOGO, contentId=None)).json()["isInline"] is False
    assert client.attach(draft, json_file(LOGO)).json()["isInline"] is True
    client.send(draft)
    assert [part.inline for part in sandbox.accepted[0].received.attachments] == [False, True]


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"size": 3 * MIB}, 201, ""),
        ({"size": 3 * MIB - 1}, 400, "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize"),
        ({"size": 150 * MIB}, 201, ""),
        ({"size": 150 * MIB + 1}, 413, "ErrorAttachmentSizeLimitExceeded"),
        ({"size": "3483322"}, 400, "RequestBodyRead"),
        ({"attachmentType": "item"}, 405, "ErrorInvalidRequest"),
        ({"attachmentType": "reference"}, 400, "RequestBodyRead"),
        ({"attachmentType": None}, 400, "ErrorInvalidRequest"),
        ({"name": None}, 400, "ErrorInvalidRequest"),
        ({"contentType": None, "isInline": None}, 201, ""),
        ({"contentBytes": ""}, 400, "RequestBodyRead"),
    ],
)
def test_what_a_session_can_be_for(
    client: GraphClient, changes: dict[str, Any], status: int, error: str
) -> None:
    assert outcome(client.session(client.new_draft(), json_item(LARGE, **changes))) == (status, error)


SIZE = len(LARGE.data)


@pytest.mark.parametrize(
    ("first", "length", "headers", "status"),
    [
        (MIB, MIB, {}, 200),
        (0, MIB, {}, 416),
        (2 * MIB, MIB, {}, 416),
        (MIB, 2 * MIB, {}, 200),
        (MIB, 0, {"Content_Range": f"bytes {MIB}-{MIB}/{SIZE}"}, 400),
        (MIB, MIB, {"Content_Range": f"bytes {MIB}-{2 * MIB}/{SIZE}"}, 400),
        (MIB, MIB, {"Content_Range": f"bytes {MIB}-{2 * MIB - 1}/{SIZE + 1}"}, 400),
        (MIB, MIB, {"Content_Range": f"bytes {MIB}-{2 * MIB - 1}/*"}, 400),
        (MIB, MIB, {"Content_Range": None}, 400),
        (MIB, MIB, {"Content_Type": "image/png"}, 415),
        (MIB, MIB, {"Authorization": "Bearer known"}, 401),
        (MIB, 2 * MIB + 101, {}, 416),
    ],
)
def test_ranges_come_in_order_and_without_a_token(
    client: GraphClient, first: int, length: int, headers: dict[str, Any], status: int
) -> None:
    url = client.session(client.new_draft(), json_item(LARGE)).json()["uploadUrl"]
    assert client.put(url, bytes(MIB), 0, SIZE).status_code == 200
    assert client.put(url, bytes(length), first, SIZE, **headers).status_code == status


def test_a_range_has_a_limit(client: GraphClient) -> None:
    url = client.session(client.new_draft(), json_item(LARGE, size=5_000_000)).json()["uploadUrl"]
    assert client.put(url, bytes(4_000_000), 0, 5_000_000).status_code == 413
    assert client.put(url, bytes(3_932_160), 0, 5_000_000).status_code == 200


@pytest.mark.parametrize("end", ["expiry", "cancel", "deletion", "sending", "another token"])
def test_a_session_is_over(sandbox: Sandbox, client: GraphClient, end: str) -> None:
    draft = client.new_draft()
    url = client.session(draft, json_item(LARGE)).json()["uploadUrl"]
    assert client.put(url, bytes(MIB), 0, SIZE).status_code == 200
    if end == "expiry":
        sandbox.expire_sessions()
    elif end == "cancel":
        assert client.http.delete(url, timeout=LIMIT).status_code == 204
    elif end == "deletion":
        assert client.delete(draft).status_code == 204
    elif end == "sending":
        assert client.send(draft).status_code == 202
    else:
        url += "x"
    assert outcome(client.put(url, bytes(MIB), MIB, SIZE)) == (404, "ErrorItemNotFound")
    assert client.http.get(url, timeout=LIMIT).status_code == 404


def test_upload_urls_may_be_elsewhere(sandbox: Sandbox, client: GraphClient) -> None:
    sandbox.upload_host = "127.0.0.1"
    url = client.session(client.new_draft(), json_item(LARGE)).json()["uploadUrl"]
    assert url.startswith(sandbox.url.replace("localhost", "127.0.0.1"))
    assert client.put(url, bytes(MIB), 0, SIZE).status_code == 200


def test_a_mailbox_has_a_limit_of_its_own(sandbox: Sandbox, client: GraphClient) -> None:
    sandbox.message_limit = SIZE + 1000
    draft = client.new_draft()
    assert client.attach(draft, json_file(TEXT._replace(data=bytes(2000)))).status_code == 201
    url = client.session(draft, json_item(LARGE)).json()["uploadUrl"]
    # Only the second range shows that it is too large.
    assert client.put(url, bytes(2 * MIB), 0, SIZE).status_code == 200
    over = client.put(url, bytes(SIZE - 2 * MIB), 2 * MIB, SIZE)
    assert outcome(over) == (413, "ErrorMessageSizeExceeded")
    sandbox.message_limit = 1000
    assert outcome(client.send(draft)) == (413, "ErrorMessageSizeExceeded")
    assert sandbox.accepted == []


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({}, 202, ""),
        ({"toRecipients": []}, 400, "ErrorInvalidRecipients"),
        ({"toRecipients": people("bad@external.com")}, 400, "ErrorInvalidRecipients"),
        ({"ccRecipients": people("two@words@x.org")}, 400, "ErrorInvalidRecipients"),
        ({"bccRecipients": people("")}, 400, "ErrorInvalidRecipients"),
        ({"replyTo": people("Name <a@x.org>")}, 400, "ErrorInvalidRecipients"),
        ({"toRecipients": people(*["a@x.org"] * 501)}, 400, "ErrorExceededMaxRecipientCountLimit"),
        ({"from": people("other@domain.com")[0]}, 403, "ErrorSendAsDenied"),
        ({"from": people("Alerts@Domain.com")[0]}, 202, ""),
    ],
)
def test_what_can_be_sent(
    sandbox: Sandbox, client: GraphClient, changes: dict[str, Any], status: int, error: str
) -> None:
    sandbox.bad_recipients = {"bad@external.com"}
    assert outcome(client.send(client.new_draft(**changes))) == (status, error)
    assert outcome(client.send_json(json_message(**changes))) == (status, error)
    assert len(sandbox.accepted) == (2 if status == 202 else 0)


def test_a_recipient_that_does_not_exist_refuses_the_whole(sandbox: Sandbox) -> None:
    sandbox.bad_recipients = {"bad@external.com"}
    mail = MAIL.replace(b"to@domain.com", b"to@domain.com, Bad@external.com")
    refused = send(sandbox, mail)
    assert code(refused) == (400, "ErrorInvalidRecipients")
    assert refused.json()["error"]["message"] == "At least one recipient isn't valid."
    sandbox.names_bad_recipients = True
    assert 'Recipient "Bad@external.com" isn\'t resolved.' in send(sandbox, mail).json()["error"]["message"]
    assert sandbox.mailed == {}


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"message": json_message(), "saveToSentItems": False}, 202),
        ({"message": json_message(internetMessageId="<a@b>")}, 400),
        ({"message": json_message(), "saveToSentItems": "false"}, 400),
        ({"message": json_message(), "save": False}, 400),
        (json_message(), 400),
    ],
)
def test_mail_can_be_sent_at_once_in_json(
    sandbox: Sandbox, client: GraphClient, content: dict[str, Any], status: int
) -> None:
    # No id is returned, so none is asked for.
    assert client.ask("POST", "sendMail", {"Prefer": None}, json=content).status_code == status
    assert len(sandbox.accepted) == (status == 202)


def test_who_finds_it_in_sent_items(sandbox: Sandbox, client: GraphClient) -> None:
    send(sandbox)
    client.send_json(json_message())
    client.send_json(json_message(), saveToSentItems=False)
    client.send(client.new_draft())
    draft = client.new_draft()
    client.send(draft)
    client.delete(draft)
    assert [accepted.saved for accepted in sandbox.accepted] == [True, True, False, True, False]
    assert [accepted.via for accepted in sandbox.accepted] == ["mime", "json", "json", "draft", "draft"]


def test_references_come_by_extended_properties(sandbox: Sandbox, client: GraphClient) -> None:
    names = "String {00020386-0000-0000-C000-000000000046} Name Auto-Submitted"
    given = {"String 0x1042": "<a@b>", "String 0x1039": "<c@d> <a@b>", names: "auto-generated"}
    properties = [{"id": name, "value": value} for name, value in given.items()]
    client.send_json(json_message(singleValueExtendedProperties=properties, importance="high"))
    headers = sandbox.accepted[0].received.headers
    assert headers == {
        "in-reply-to": ["<a@b>"],
        "references": ["<c@d> <a@b>"],
        "auto-submitted": ["auto-generated"],
        "importance": ["high"],
    }


def test_a_new_draft_is_not_there_at_once(sandbox: Sandbox, client: GraphClient) -> None:
    sandbox.draft_lag, sandbox.find_lag = 2, 1
    draft = client.new_draft(internetMessageId="<a@b>")
    assert outcome(client.attach(draft, json_file(TEXT))) == (404, "ErrorItemNotFound")
    assert outcome(client.look(draft)) == (404, "ErrorItemNotFound")
    assert client.attach(draft, json_file(TEXT)).status_code == 201
    assert [len(client.find("<a@b>").json()["value"]) for _ in range(2)] == [0, 1]


@pytest.mark.parametrize("keeps", [True, False])
def test_a_sent_message_may_look_like_a_draft(sandbox: Sandbox, client: GraphClient, keeps: bool) -> None:
    sandbox.sent_lag, sandbox.keeps_sent = 2, keeps
    draft = client.new_draft(internetMessageId="<a@b>")
    client.send(draft)
    assert client.look(draft).json()["isDraft"] is True
    assert len(client.find("<a@b>").json()["value"]) == 1
    assert client.find("<a@b>").json()["value"] == []
    looked = client.look(draft)
    assert (looked.json()["isDraft"] is False) if keeps else (looked.status_code == 404)


STEPS: list[Role] = ["draft", "find", "look", "attach", "session", "range", "send", "delete", "sendMail"]


def take(client: GraphClient, step: Role, draft: str, url: str) -> requests.Response:
    """Take the step with this name."""
    if step == "range":
        return client.put(url, LARGE.data[:MIB], 0, SIZE)
    return {
        "draft": lambda: client.draft(json_message()),
        "find": lambda: client.find("<a@b>"),
        "look": lambda: client.look(draft),
        "attach": lambda: client.attach(draft, json_file(TEXT)),
        "session": lambda: client.session(draft, json_item(LARGE)),
        "send": lambda: client.send(draft),
        "delete": lambda: client.delete(draft),
        "sendMail": lambda: client.send_json(json_message()),
    }[step]()


def done(sandbox: Sandbox) -> tuple[int, int, int, int, int]:
    """Return the work done, in numbers: messages, drafts, their files, bytes of a file, and sent messages."""
    files = sum(len(draft.files) for draft in sandbox.messages.values())
    there = sum(upload.there for upload in sandbox.sessions.values())
    return len(sandbox.messages), len(sandbox.sessions), files, there, len(sandbox.accepted)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_can_fail(sandbox: Sandbox, client: GraphClient, step: Role) -> None:
    draft = client.new_draft(internetMessageId="<a@b>")
    url = client.session(draft, json_item(LARGE)).json()["uploadUrl"]
    before = done(sandbox)
    sandbox.answer(step, mailbox_concurrency(), Answer(action="reset-after-read"), Answer(504))
    throttled = take(client, step, draft, url)
    assert (code(throttled), throttled.headers["Retry-After"]) == ((429, "ApplicationThrottled"), "1")
    with pytest.raises(requests.ConnectionError):
        take(client, step, draft, url)
    assert take(client, step, draft, url).status_code == 504
    assert done(sandbox) == before
    # It can also succeed without an answer that says so.
    sandbox.answer(step, Answer(action="accept-then-reset"))
    with pytest.raises(requests.ConnectionError):
        take(client, step, draft, url)
    assert (done(sandbox) == before) == (step in ("find", "look"))
    assert [seen.status for seen in sandbox.requests if seen.role == step][-4:] == [429, None, 504, None]


def test_a_mailbox_takes_four_requests_at_a_time(sandbox: Sandbox, client: GraphClient) -> None:
    draft = client.new_draft()
    gate = threading.Event()
    other = GraphClient(sandbox, "other@domain.com")

    def look() -> int:
        return GraphClient(sandbox).look(draft).status_code

    with ThreadPoolExecutor(4) as threads:
        try:
            sandbox.answer("look", *[Answer(gate=gate)] * 4)
            held = [threads.submit(look) for _ in range(4)]
            wait_until(lambda: [seen.role for seen in sandbox.requests].count("look") == 4)
            assert outcome(client.look(draft)) == (429, "ApplicationThrottled")
            # Counted, but not refused: Postfix may hand over as many.
            assert send(sandbox).status_code == 202
            assert outcome(client.send_json(json_message())) == (429, "ApplicationThrottled")
            assert other.draft(json_message()).status_code == 201
            sandbox.concurrency_limit = None
            assert client.look(draft).status_code == 200
        finally:
            gate.set()
        assert [future.result() for future in held] == [200] * 4
    assert sandbox.traffic.most_at_once == {"alerts@domain.com": 5, "other@domain.com": 1}
    assert client.look(draft).status_code == 200
    assert sandbox.requests[-1].at_once == 1


def test_what_is_sent_to_a_mailbox_is_counted(sandbox: Sandbox, client: GraphClient) -> None:
    draft = client.new_draft()
    url = client.session(draft, json_item(LARGE)).json()["uploadUrl"]
    small = sandbox.traffic.most_uploaded("alerts@domain.com")
    assert client.put(url, bytes(MIB), 0, SIZE).status_code == 200
    assert sandbox.traffic.most_uploaded("alerts@domain.com") == small + MIB
    sandbox.upload_limit = small + MIB
    throttled = client.put(url, bytes(MIB), MIB, SIZE)
    assert (code(throttled), throttled.headers["Retry-After"]) == ((429, "ApplicationThrottled"), "300")
    assert client.look(draft).status_code == 200
    sandbox.upload_seconds = 0.001
    assert client.put(url, bytes(10), MIB, SIZE).status_code == 200


def test_ranges_need_not_be_kept(sandbox: Sandbox, client: GraphClient) -> None:
    sandbox.keeps_ranges = False
    draft = client.new_draft()
    client.upload(draft, LARGE)
    client.send(draft)
    assert [seen.body for seen in sandbox.requests if seen.role == "range"] == [b""]
    assert sandbox.accepted[0].received.attachments == [LARGE]


def test_a_reset_forgets_drafts_and_counts(sandbox: Sandbox, client: GraphClient) -> None:
    draft = client.new_draft()
    client.session(draft, json_item(LARGE))
    sandbox.reset()
    assert (sandbox.drafts, sandbox.sessions, sandbox.mailed) == ({}, {}, {})
    assert sandbox.traffic.most_at_once == {}
    assert sandbox.traffic.most_uploaded("alerts@domain.com") == 0


def test_a_large_message_is_what_it_says() -> None:
    assert scan(1.5) == scan(1.5)
    received = received_of(scan(1.5, Subject="=?utf-8?q?Gr=C3=BC=C3=9Fe?=", Cc="cc@x.org"))
    assert (received.subject, received.cc) == ("Grüße", ["cc@x.org"])
    [pdf] = received.attachments
    assert (pdf.name, pdf.content_type, len(pdf.data)) == ("scan.pdf", "application/pdf", 1_500_000)


def test_ses_takes_a_message_for_exactly_the_destination(sandbox: Sandbox) -> None:
    answer = sesv2(sandbox).send_email(
        FromEmailAddress="alerts@domain.com",
        Destination={"ToAddresses": ["a@x.org"], "BccAddresses": ["b@x.org", "c@x.org"]},
        Content={"Raw": {"Data": MAIL}},
    )
    [accepted] = sandbox.accepted
    assert (accepted.provider, accepted.mailbox, accepted.raw) == ("ses", "alerts@domain.com", MAIL)
    assert (accepted.to, accepted.cc, accepted.bcc) == (["a@x.org"], [], ["b@x.org", "c@x.org"])
    assert accepted.id == answer["MessageId"]
    assert sandbox.mailed == {"a@x.org": 1, "b@x.org": 1, "c@x.org": 1}


@pytest.mark.parametrize(
    ("sender", "recipients", "status", "error"),
    [
        ("alerts@domain.com", [], 400, "BadRequestException"),
        ("alerts@domain.com", ["a@x.org"] * 51, 400, "BadRequestException"),
        ("alerts@domain.com", ["a@x.org", "nobody"], 400, "BadRequestException"),
        ("alerts@domain.com", ["a@x.org", "Bad <BAD@x.org>"], 400, "BadRequestException"),
        ("alerts@domain.com", ["a@x.org", "new@x.org"], 400, "MessageRejected"),
        ("stranger@domain.com", ["a@x.org"], 400, "MessageRejected"),
    ],
)
def test_ses_refuses(sandbox: Sandbox, sender: str, recipients: list[str], status: int, error: str) -> None:
    sandbox.mailboxes = {"alerts@domain.com"}
    sandbox.bad_recipients, sandbox.unverified = {"bad@x.org"}, {"new@x.org"}
    with pytest.raises(ClientError) as caught:
        sesv2(sandbox).send_email(
            FromEmailAddress=sender,
            Destination={"ToAddresses": recipients},
            Content={"Raw": {"Data": MAIL}},
        )
    assert refusal(caught) == (status, error)
    assert sandbox.accepted == []


def test_ses_says_what_is_wrong_with_whom(sandbox: Sandbox) -> None:
    sandbox.bad_recipients, sandbox.unverified = {"bad@x.org"}, {"a@x.org", "b@x.org"}
    sandbox.illegal_address = "Domain contains illegal character"
    texts = []
    for recipients in (["c@x.org"] * 51, ["bad@x.org"], ["c@x.org", "a@x.org", "B@x.org"]):
        with pytest.raises(ClientError) as caught:
            sesv2(sandbox).send_email(
                FromEmailAddress="alerts@domain.com",
                Destination={"ToAddresses": recipients},
                Content={"Raw": {"Data": MAIL}},
            )
        texts.append(caught.value.response["Error"]["Message"])
    failed = "The following identities failed the check in region EU-WEST-1: a@x.org, B@x.org"
    assert texts == [
        "Recipient count exceeds 50.",
        "Domain contains illegal character",
        f"Email address is not verified. {failed}",
    ]
    assert sandbox.mailed == {}


@pytest.mark.parametrize(
    ("secret", "key", "error"),
    [("wrong", "client-id", "SignatureDoesNotMatch"), ("client-secret", "wrong", "InvalidClientTokenId")],
)
def test_ses_knows_its_keys(sandbox: Sandbox, secret: str, key: str, error: str) -> None:
    with pytest.raises(ClientError) as second:
        sesv2(sandbox, secret, key).send_email(Content={"Raw": {"Data": MAIL}})
    with pytest.raises(ClientError) as first:
        ses(sandbox, secret, key).get_send_quota()
    assert refusal(second) == refusal(first) == (403, error)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({}, None),
        ({"token": ""}, "InvalidClientTokenId"),
        ({"token": "another"}, "InvalidClientTokenId"),
        ({"secret": "another"}, "SignatureDoesNotMatch"),
        ({"key_id": "client-id"}, "InvalidClientTokenId"),
        ({"lifetime": -1}, "ExpiredToken"),
    ],
)
def test_ses_knows_its_sessions(sandbox: Sandbox, change: dict[str, Any], error: str | None) -> None:
    keys = sandbox.issue_keys(change.get("lifetime", 3600))
    url, body = sandbox.url + "/", b"Action=GetSendQuota"
    used = Credentials(
        change.get("key_id", keys.key_id), change.get("secret", keys.secret), change.get("token", keys.token)
    )
    request = AWSRequest("POST", url, {"Content-Type": "application/x-www-form-urlencoded"}, body)
    SigV4Auth(used, "ses", "eu-west-1").add_auth(request)
    answer = requests.post(
        url, body, headers=dict(request.headers), verify=str(sandbox.ca_file), timeout=LIMIT
    )
    assert answer.status_code == (403 if error else 200)
    assert error is None or f"<Code>{error}</Code>" in answer.text


def test_ses_wants_a_session_token_to_be_signed(sandbox: Sandbox) -> None:
    keys = sandbox.issue_keys()
    url, body = sandbox.url + "/", b"Action=GetSendQuota"
    request = AWSRequest("POST", url, {"Content-Type": "application/x-www-form-urlencoded"}, body)
    SigV4Auth(Credentials(keys.key_id, keys.secret), "ses", "eu-west-1").add_auth(request)
    headers = {**dict(request.headers), "X-Amz-Security-Token": keys.token}
    answer = requests.post(url, body, headers=headers, verify=str(sandbox.ca_file), timeout=LIMIT)
    assert "<Code>SignatureDoesNotMatch</Code>" in answer.text


def test_ses_tells_its_rate(sandbox: Sandbox) -> None:
    assert ses(sandbox).get_send_quota()["MaxSendRate"] == 14
    sandbox.max_send_rate = 0.5
    assert ses(sandbox).get_send_quota()["MaxSendRate"] == 0.5


def test_requests_are_recorded_in_order(sandbox: Sandbox) -> None:
    ask_token(sandbox)
    send(sandbox)
    ses(sandbox).get_send_quota()
    requests.get(sandbox.url + "/else", verify=str(sandbox.ca_file), timeout=LIMIT)
    assert [(seen.role, seen.method, seen.status) for seen in sandbox.requests] == [
        ("token", "POST", 200),
        ("sendMail", "POST", 202),
        ("quota", "POST", 200),
        ("other", "GET", 404),
    ]
    times = [seen.when for seen in sandbox.requests]
    assert times == sorted(times)
    assert sandbox.requests[1].headers["content-type"] == "text/plain"
    assert base64.b64decode(sandbox.requests[1].body) == MAIL


def test_one_connection_carries_several_requests(sandbox: Sandbox) -> None:
    sandbox.answer("connection", Answer(), Answer(action="reset-before-read", times=None))
    with requests.Session() as session:
        for _ in range(3):
            answer = session.get(sandbox.url, verify=str(sandbox.ca_file), timeout=LIMIT)
            assert answer.status_code == 404


def test_scripted_answers_come_in_order_and_only_for_their_role(sandbox: Sandbox) -> None:
    sandbox.answer(
        "sendMail",
        graph_error(429, "ErrorTooManyRequests", "Slow down.", {"Retry-After": "7"}),
        Answer(504, accept=True),
        Answer(503, body=b"down", times=2),
    )
    throttled = send(sandbox)
    assert (code(throttled), throttled.headers["Retry-After"]) == ((429, "ErrorTooManyRequests"), "7")
    assert ask_token(sandbox).status_code == 200
    assert [send(sandbox).status_code for _ in range(4)] == [504, 503, 503, 202]
    assert len(sandbox.accepted) == 2


def test_a_lasting_answer_lasts_until_reset(sandbox: Sandbox) -> None:
    sandbox.answer("sendMail", Answer(302, {"Location": "https://elsewhere.example/"}, times=None))
    for _ in range(3):
        with pytest.raises(requests.ConnectionError):
            send(sandbox)
    sandbox.reset()
    assert (sandbox.requests, sandbox.accepted) == ([], [])
    assert send(sandbox).status_code == 202


def test_a_name_that_is_not_known_is_an_error(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="no such place"):
        sandbox.answer("sendmail", Answer())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no such action"):
        sandbox.answer("sendMail", Answer(action="explode"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("action", "accepted", "received"),
    [
        ("reset-before-read", 0, 0),
        ("reset-in-request", 0, 1_000_000),
        ("reset-after-read", 0, 2_000_000),
        ("accept-then-reset", 1, 2_000_000),
    ],
)
def test_resets(sandbox: Sandbox, action: Action, accepted: int, received: int) -> None:
    sandbox.answer("sendMail", Answer(action=action))
    with pytest.raises(requests.ConnectionError):
        send(sandbox, MAIL + bytes(1_500_000 - len(MAIL)))
    assert len(sandbox.wait_for(accepted)) == accepted
    assert [(len(seen.body), seen.status) for seen in sandbox.requests] == [(received, None)]


def test_a_reset_is_one_on_the_wire() -> None:
    # Unencrypted, because TLS libraries report a reset as an end of the stream.
    with Sandbox(certificate="none") as sandbox:
        sandbox.answer("other", Answer(action="reset-after-read"))
        with pytest.raises(requests.ConnectionError, match="reset by peer"):
            requests.post(sandbox.url.replace("https:", "http:") + "/else", b"body", timeout=LIMIT)
        assert [seen.body for seen in sandbox.requests] == [b"body"]


@pytest.mark.parametrize(("action", "accepted"), [("hang", 0), ("accept-then-hang", 1)])
def test_hanging(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, action: Action, accepted: int) -> None:
    monkeypatch.setattr(f"{__name__}.LIMIT", SHORT_READ)
    sandbox.answer("sendMail", Answer(action=action))
    with pytest.raises(requests.ReadTimeout):
        send(sandbox)
    assert len(sandbox.wait_for(accepted)) == accepted


def test_delay_and_drip(sandbox: Sandbox) -> None:
    sandbox.answer("token", Answer(200, body=b"0123456789", delay=0.2))
    sandbox.answer("sendMail", Answer(200, body=b"0123456789", delay=0.005, action="drip"))
    for ask in (ask_token, send):
        begin = time.monotonic()
        assert ask(sandbox).content == b"0123456789"
        assert time.monotonic() - begin > 0.2


def test_a_truncated_answer(sandbox: Sandbox) -> None:
    sandbox.answer("other", Answer(200, body=b"0123456789", action="truncate"))
    # Not requests: with an older urllib3 it accepts a partial answer.
    context = ssl.create_default_context(cafile=str(sandbox.ca_file))
    address = urllib.parse.urlsplit(sandbox.url).netloc
    with contextlib.closing(http.client.HTTPSConnection(address, timeout=LIMIT, context=context)) as client:
        client.request("GET", "/")
        with pytest.raises(http.client.IncompleteRead) as caught:
            client.getresponse().read()
    assert (caught.value.partial, caught.value.expected) == (b"01234", 5)


def test_a_huge_answer(sandbox: Sandbox) -> None:
    sandbox.answer("other", Answer(200, action="huge"))
    with requests.get(sandbox.url, stream=True, verify=str(sandbox.ca_file), timeout=LIMIT) as response:
        assert response.headers["Content-Length"] == str(1024**3)
        assert next(response.iter_content(1_000_000)) == bytes(1_000_000)


@pytest.mark.parametrize(
    ("certificate", "complaint"),
    [
        ("wrong-host", "Hostname mismatch|doesn't match"),
        ("expired", "certificate has expired"),
        ("unknown-ca", "unable to get local issuer certificate"),
        ("none", "WRONG_VERSION_NUMBER|wrong version number|record layer failure"),
    ],
)
def test_a_faulty_certificate_is_noticed(certificate: Certificate, complaint: str) -> None:
    with Sandbox(certificate=certificate) as sandbox:
        with pytest.raises(requests.exceptions.SSLError, match=complaint):
            ask_token(sandbox)
        assert sandbox.requests == []


def test_connections_before_the_handshake(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.answer("connection", Answer(action="reset-before-read"))
    with pytest.raises(requests.ConnectionError):
        ask_token(sandbox)
    sandbox.answer("connection", Answer(action="hang"))
    with monkeypatch.context() as patch, pytest.raises(requests.Timeout):
        patch.setattr(f"{__name__}.LIMIT", SHORT_CONNECT)
        ask_token(sandbox)
    assert ask_token(sandbox).status_code == 200


def test_it_goes_away_and_comes_back_to_the_same_port(sandbox: Sandbox) -> None:
    before = sandbox.url
    sandbox.stop()
    with pytest.raises(requests.ConnectionError, match="refused"):
        ask_token(sandbox)
    sandbox.start()
    assert sandbox.url == before
    assert ask_token(sandbox).status_code == 200


def test_it_listens_on_the_loopback_interface_alone(sandbox: Sandbox) -> None:
    port = int(sandbox.url.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=LIMIT)


def test_every_user_can_read_the_authority(sandbox: Sandbox) -> None:
    assert stat.S_IMODE(sandbox.ca_file.stat().st_mode) == 0o644
    assert stat.S_IMODE(sandbox.ca_file.parent.stat().st_mode) == 0o755


@pytest.mark.parametrize("signalled", [True, False])
def test_as_a_program_it_leaves_a_journal(tmp_path: Path, signalled: bool) -> None:
    program = Path(sys.modules[Sandbox.__module__].__file__ or "")
    with subprocess.Popen([sys.executable, program, "--dir", tmp_path], stdin=subprocess.PIPE) as process:
        endpoint = tmp_path / "endpoint"
        wait_until(lambda: endpoint.exists() or process.poll() is not None)
        served = Served(endpoint.read_text().strip(), tmp_path / "ca.pem")
        token = ask_token(served).json()["access_token"]
        assert send(served, Authorization=f"Bearer {token}").status_code == 202
        if signalled:
            process.send_signal(signal.SIGTERM)
        else:
            assert process.stdin
            process.stdin.close()
        assert process.wait(LIMIT) == 0
    [line] = (tmp_path / "accepted.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "provider": "graph",
        "mailbox": "alerts@domain.com",
        "to": ["to@domain.com"],
        "cc": [],
        "bcc": [],
        "subject": "café",
        "raw": MAIL.decode(),
    }
