"""JSON as Graph reads it: unknown members and wrong types are refused."""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Callable

from helpers.answers import Refused, decode_base64, provided
from helpers.received import GraphMessage, Part

Check = Callable[[Any], bool]

HEADER_LIMIT = 5
FILE_ATTACHMENT = "#microsoft.graph.fileAttachment"
# Properties that stand for header fields (MS-OXCMAIL), and the namespace of those named like their field.
PROPERTIES = {"0x1042": "In-Reply-To", "0x1039": "References", "0x1035": "Message-ID"}
NAMED_HEADER = re.compile(r"String \{00020386-0000-0000-C000-000000000046\} Name ([!-9;-~]+)", re.IGNORECASE)
TAGGED = re.compile(r"String (0x[0-9a-f]{1,4})", re.IGNORECASE)
MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(\s*;.*)?")


def is_text(value: Any) -> bool:
    """Tell whether it is a string without lone surrogates."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def is_flag(value: Any) -> bool:
    """Tell whether it is true or false."""
    return isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Tell whether it is a whole number, and not a flag."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_list(value: Any) -> bool:
    """Tell whether it is a list."""
    return isinstance(value, list)


def is_object(value: Any) -> bool:
    """Tell whether it is an object."""
    return isinstance(value, dict)


RECIPIENTS = ("toRecipients", "ccRecipients", "bccRecipients", "replyTo")
MESSAGE: Mapping[str, Check] = {
    **dict.fromkeys(RECIPIENTS, is_list),
    **dict.fromkeys(("subject", "internetMessageId"), is_text),
    **dict.fromkeys(("body", "from", "sender"), is_object),
    **dict.fromkeys(("isDeliveryReceiptRequested", "isReadReceiptRequested"), is_flag),
    **dict.fromkeys(("attachments", "internetMessageHeaders", "singleValueExtendedProperties"), is_list),
    "importance": lambda value: value in ("low", "normal", "high"),
}
ATTACHMENT: Mapping[str, Check] = {
    "@odata.type": is_text,
    "name": is_text,
    "contentBytes": is_text,
    "contentType": is_text,
    "isInline": is_flag,
    "contentId": is_text,
}
ATTACHMENT_ITEM: Mapping[str, Check] = {
    "attachmentType": is_text,
    "name": is_text,
    "size": is_number,
    "contentType": is_text,
    "isInline": is_flag,
    "contentId": is_text,
}


def bad_request(text: str, name: str = "graph/request-body") -> Refused:
    """Return the refusal of a body that Graph cannot make sense of, with this message."""
    return Refused(provided(name, message=text))


def read_json(body: bytes) -> Any:
    """Read a body as JSON without duplicate names."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name comes twice")
        return dict(pairs)

    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=once)
    except ValueError as error:
        raise bad_request(f"Unable to read JSON request payload: {error}", "graph/bad-request") from None


def members(value: Any, known: Mapping[str, Check], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return an object that has all required members, and only known ones of the right types."""
    if not isinstance(value, dict):
        raise bad_request("An object was expected in the request body.")
    for name, content in value.items():
        if name not in known:
            raise Refused(provided("graph/request-body", property=name))
        if not known[name](content):
            raise bad_request(f"Cannot convert the value of '{name}' to the expected type.")
    for name in required:
        if name not in value:
            raise Refused(provided("graph/invalid-request", property=name))
    return value


def read_message(content: Any, file_limit: int) -> GraphMessage:
    """Read a message from JSON; its attachments have to be smaller than `file_limit`."""
    given = members(content, MESSAGE)
    body = members(given.get("body", {}), {"contentType": is_text, "content": is_text})
    kind = body.get("contentType", "text").lower()
    if kind not in ("text", "html"):
        raise bad_request(f"Requested value '{kind}' was not found.")
    people = {name: tuple(_person(one) for one in given.get(name, [])) for name in RECIPIENTS}
    author = given.get("from", given.get("sender"))
    return GraphMessage(
        given.get("subject", ""),
        "html" if kind == "html" else "plain",
        body.get("content", ""),
        _person(author) if author is not None else ("", ""),
        people["toRecipients"],
        people["ccRecipients"],
        people["bccRecipients"],
        people["replyTo"],
        tuple(_headers(given)),
        tuple(read_attachment(one, file_limit) for one in given.get("attachments", [])),
    )


def _person(content: Any) -> tuple[str, str]:
    """Return a recipient's name and address, which is only checked when the message is sent."""
    inner = members(content, {"emailAddress": is_object}, ("emailAddress",))["emailAddress"]
    person = members(inner, {"name": is_text, "address": is_text}, ("address",))
    return person.get("name", ""), person["address"]


def _headers(given: dict[str, Any]) -> list[tuple[str, str]]:
    """Return all header fields that a message sets, including those with their own property."""
    fields = _own_headers(given)
    for one in given.get("singleValueExtendedProperties", []):
        extended = members(one, {"id": is_text, "value": is_text}, ("id", "value"))
        fields.append((_field_of(extended["id"]), extended["value"]))
    if "internetMessageId" in given:
        fields.append(("Message-ID", given["internetMessageId"]))
    if given.get("importance", "normal") != "normal":
        fields.append(("Importance", given["importance"]))
    author = _person(given["from"])[1] if "from" in given else ""
    for flag, name in (
        ("isDeliveryReceiptRequested", "Return-Receipt-To"),
        ("isReadReceiptRequested", "Disposition-Notification-To"),
    ):
        if given.get(flag):
            fields.append((name, author))
    for name, value in fields:
        if re.search(r"[\r\n\0]", value):
            raise bad_request(f"The value of {name} is not valid.", "graph/header-name")
    return fields


def _own_headers(given: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the fields in internetMessageHeaders: one to five, with names that begin with X-."""
    if "internetMessageHeaders" not in given:
        return []
    headers = given["internetMessageHeaders"]
    if not 1 <= len(headers) <= HEADER_LIMIT:
        raise Refused(provided("graph/too-many-headers"))
    fields = []
    for one in headers:
        field = members(one, {"name": is_text, "value": is_text}, ("name", "value"))
        if not re.fullmatch(r"[xX]-[!-9;-~]+", field["name"]):
            raise Refused(provided("graph/header-name", name=field["name"]))
        fields.append((field["name"], field["value"]))
    return fields


def _field_of(identity: str) -> str:
    """Return the name of the header field that an extended property stands for."""
    if match := NAMED_HEADER.fullmatch(identity):
        return match[1]
    match = TAGGED.fullmatch(identity)
    if match is None or match[1].lower() not in PROPERTIES:
        raise Refused(provided("graph/invalid-property", property=identity))
    return PROPERTIES[match[1].lower()]


def read_attachment(content: Any, file_limit: int) -> Part:
    """Read an attachment that was sent as a whole."""
    given = members(content, ATTACHMENT, ("@odata.type", "name", "contentBytes"))
    if given["@odata.type"] != FILE_ATTACHMENT:
        raise bad_request(f"Cannot create an abstract class or '{given['@odata.type']}' here.")
    try:
        # decode_base64 ignores white space, Graph does not.
        if re.search(r"\s", given["contentBytes"]):
            raise binascii.Error("white space")
        data = decode_base64(given["contentBytes"])
    except ValueError:
        raise bad_request("Cannot convert the value of 'contentBytes' to 'Edm.Binary'.") from None
    if len(data) >= file_limit:
        raise Refused(provided("graph/attachment-too-large"))
    return described(given, data)


def described(given: dict[str, Any], data: bytes) -> Part:
    """Return an attachment with its name and type; it is inline only with an id to refer to."""
    kind = given.get("contentType", "application/octet-stream")
    if not MEDIA_TYPE.fullmatch(kind):
        raise bad_request(f"The content type '{kind}' is not valid.")
    if not given["name"] or re.search(r"[\0-\x1f]", given["name"]):
        raise bad_request("The name of the attachment is not valid.", "graph/invalid-request")
    identity = given.get("contentId", "")
    return Part(given["name"], kind, identity, bool(identity) and given.get("isInline", False), data)


def read_item(body: bytes) -> dict[str, Any]:
    """Read the description of a file for an upload session."""
    outer = members(read_json(body), {"AttachmentItem": is_object}, ("AttachmentItem",))
    given = members(outer["AttachmentItem"], ATTACHMENT_ITEM, ("attachmentType", "name", "size"))
    if given["attachmentType"] == "item":
        raise Refused(provided("graph/attachment-no-file"))
    if given["attachmentType"] != "file":
        raise bad_request(f"Requested value '{given['attachmentType']}' was not found.")
    described(given, b"")
    return given
