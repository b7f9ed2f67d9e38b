"""Microsoft Graph's rules for mail, without the network: both forms of sendMail, drafts and attachments."""

from __future__ import annotations

import binascii
import collections
import datetime
import email
import re
import secrets
import time
import urllib.parse
import uuid
from dataclasses import dataclass, field
from typing import Any, Callable

from helpers.answers import (
    Answer,
    Recorded,
    Refused,
    Role,
    addresses,
    decode_base64,
    provided,
)
from helpers.graph_message import (
    FILE_ATTACHMENT,
    MESSAGE,
    bad_request,
    described,
    is_flag,
    is_object,
    members,
    read_attachment,
    read_item,
    read_json,
    read_message,
)
from helpers.received import Accepted, GraphMessage, Part

GRAPH_REQUEST_LIMIT = 4 * 1024 * 1024
# Graph's documents say "under 3 MB" and "under 4 MB"; others have measured where sessions begin.
SMALL_FILE_LIMIT = 3 * 1024 * 1024
RANGE_LIMIT = 4_000_000
LARGEST_FILE = 150 * 1024 * 1024
MESSAGE_LIMIT = 35 * 1024 * 1024
GRAPH_RECIPIENT_LIMIT = 500
GRAPH_CONCURRENCY = 4
UPLOADS, UPLOAD_SECONDS = 150_000_000, 300.0

MESSAGE_URL = r"/v1\.0/users/[^/?]+/messages/[^/?]+"
SESSION_URL = (
    r"/api/v2\.0/Users\('[^/?]+'\)/Messages\('[^/?]+'\)/AttachmentSessions\('[^/?]+'\)\?authtoken=[^&]*"
)
GRAPH_ROLES: tuple[tuple[re.Pattern[str], Role], ...] = (
    (re.compile(r"POST /v1\.0/users/[^/?]+/sendMail"), "sendMail"),
    (re.compile(r"POST /v1\.0/users/[^/?]+/messages"), "draft"),
    (re.compile(r"GET /v1\.0/users/[^/?]+/mailFolders/drafts/messages(\?.*)?"), "find"),
    (re.compile(rf"GET {MESSAGE_URL}(\?.*)?"), "look"),
    (re.compile(rf"DELETE {MESSAGE_URL}"), "delete"),
    (re.compile(rf"PATCH {MESSAGE_URL}"), "update"),
    (re.compile(rf"POST {MESSAGE_URL}/send"), "send"),
    (re.compile(rf"POST {MESSAGE_URL}/attachments"), "attach"),
    (re.compile(rf"POST {MESSAGE_URL}/attachments/(microsoft\.graph\.)?createUploadSession"), "session"),
    (re.compile(f"PUT {SESSION_URL}"), "range"),
    (re.compile(f"GET {SESSION_URL}"), "progress"),
    (re.compile(f"DELETE {SESSION_URL}"), "cancel"),
)
UPLOAD_ROLES = ("range", "progress", "cancel")
# The properties that an update can change, with their fields in GraphMessage, and those that it cannot.
UPDATED = {"subject": "subject", "from": "sender", "replyTo": "reply_to"}
UPDATED.update({f"{name}Recipients": name for name in ("to", "cc", "bcc")})
NOT_UPDATED = ("internetMessageHeaders", "attachments")
# Steps that have a JSON body.
WRITES = ("draft", "update", "attach", "session")
SHOWN_MESSAGE = ("id", "isDraft", "internetMessageId", "subject")
SHOWN_FILE = ("id", "name", "size", "isInline", "contentType")
ADDRESS = re.compile(
    r'("(?:[^"\\]|\\.)+"|[^\s@<>(),;:\\"\[\]]+)@([^\s@<>(),;:\\"\[\]]+|\[[^\]\s]+\])',
)

Outcome = tuple[Answer, "Accepted | None"]


@dataclass
class Draft:
    """A message in a mailbox, before it is sent and after."""

    id: str
    mailbox: str
    message_id: str
    message: GraphMessage
    unseen: int
    unfound: int
    lag: int = 0
    accepted: Accepted | None = None
    files: dict[str, Part] = field(default_factory=dict)

    @property
    def whole(self) -> GraphMessage:
        """The message with all its attachments."""
        return self.message._replace(attachments=tuple(self.files.values()))

    @property
    def sent(self) -> bool:
        """Whether it has been sent."""
        return self.accepted is not None

    def looks_like_one(self) -> bool:
        """Tell whether it still shows as a draft, which it may for a time after it was sent."""
        late = self.sent and self.lag > 0
        self.lag -= late
        return late or not self.sent

    def add(self, part: Part) -> str:
        """Attach a file, and return its id."""
        identity = new_id()
        self.files[identity] = part
        return identity


@dataclass
class Upload:
    """An upload session: a file sent in ranges."""

    path: str
    draft: Draft
    item: dict[str, Any]
    expires: float
    ranges: list[bytes] = field(default_factory=list)
    there: int = 0

    def state(self) -> dict[str, object]:
        """Return Graph's report on it between two ranges."""
        seconds = self.expires - time.monotonic()
        expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
        return {"expires": expires.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "next": str(self.there)}


class Traffic:
    """The concurrent requests for each mailbox, and the bytes uploaded to it."""

    def __init__(self) -> None:
        self.running: collections.Counter[str] = collections.Counter()
        self.most_at_once: collections.Counter[str] = collections.Counter()
        self.uploads: dict[str, list[tuple[float, int]]] = collections.defaultdict(list)

    def enter(self, mailbox: str) -> int:
        """Count a new request, and return the number of running ones."""
        self.running[mailbox] += 1
        self.most_at_once[mailbox] = max(self.most_at_once[mailbox], self.running[mailbox])
        return self.running[mailbox]

    def leave(self, mailbox: str) -> None:
        """Count a request as finished."""
        self.running[mailbox] -= 1

    def forget(self) -> None:
        """Forget everything except the running requests."""
        self.most_at_once.clear()
        self.uploads.clear()

    def uploaded(self, mailbox: str, until: float, seconds: float) -> int:
        """Return the number of bytes received in the seconds before a time."""
        return sum(size for when, size in self.uploads[mailbox] if until - seconds < when <= until)

    def most_uploaded(self, mailbox: str, seconds: float = UPLOAD_SECONDS) -> int:
        """Return the most bytes received within `seconds`."""
        times = [when for when, _ in self.uploads[mailbox]]
        return max((self.uploaded(mailbox, when, seconds) for when in times), default=0)


def new_id() -> str:
    """Return an id like Outlook's: it ends in a character with a special meaning in URLs."""
    return f"AAkALg{secrets.token_urlsafe(24)}-_A="


def item_not_found() -> Refused:
    """Return the refusal of an unknown id."""
    return Refused(provided("graph/item-not-found"))


def upload_not_found() -> Refused:
    """Return the refusal of an upload session that is over or never existed."""
    return Refused(provided("graph/upload-not-found"))


def mailbox_concurrency(retry_after: int | None = 1) -> Answer:
    """Return the answer to one concurrent request too many."""
    answer = provided("graph/mailbox-concurrency", retry_after=retry_after)
    headers = {name: value for name, value in answer.headers.items() if name != "Retry-After" or retry_after}
    return answer._replace(headers=headers)


class Graph:
    """The rules. The attributes are settings and records for tests."""

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        # None: every address is a mailbox and a verified identity.
        self.mailboxes: set[str] | None = None
        # Mail.Send for sendMail and send, Mail.ReadWrite for drafts.
        self.permissions = {"Mail.Send", "Mail.ReadWrite"}
        self.request_limit = GRAPH_REQUEST_LIMIT
        # Also seen: 400 BadRequest, "The maximum request length supported is 4MB."
        self.too_long = provided("graph/request-too-large")
        self.small_file_limit = SMALL_FILE_LIMIT
        self.session_minimum = SMALL_FILE_LIMIT
        self.range_limit = RANGE_LIMIT
        self.largest_file = LARGEST_FILE
        self.message_limit = MESSAGE_LIMIT
        self.recipient_limit = GRAPH_RECIPIENT_LIMIT
        # Addresses that do not exist, in lower case: a call with any of them is refused.
        self.bad_recipients: set[str] = set()
        self.names_bad_recipients = False
        # The host of upload URLs; None: that of the request.
        self.upload_host: str | None = None
        self.session_seconds = 3600.0
        self.wrong_range_status = 416
        # How often a request for a new draft gets a 404, and how often a search of its folder misses it.
        self.draft_lag = 0
        self.find_lag = 0
        # How often a sent message still looks like a draft, and whether it can be found at all.
        self.sent_lag = 0
        self.keeps_sent = True
        self.concurrency_limit: int | None = GRAPH_CONCURRENCY
        # Counted, but not limited: Postfix may hand over more at a time than Graph allows.
        self.concurrency_exempt: set[Role] = {"sendMail"}
        self.upload_limit: int | None = None
        self.upload_seconds = UPLOAD_SECONDS
        self.traffic = Traffic()
        self.messages: dict[str, Draft] = {}
        self.sessions: dict[str, Upload] = {}

    @property
    def drafts(self) -> dict[str, list[Draft]]:
        """The remaining drafts of each mailbox that has any."""
        left: dict[str, list[Draft]] = {}
        for draft in self.messages.values():
            if not draft.sent:
                left.setdefault(draft.mailbox, []).append(draft)
        return left

    def expire_sessions(self) -> None:
        """End all upload sessions."""
        for upload in self.sessions.values():
            upload.expires = time.monotonic()

    def mailbox_of(self, role: Role, path: str) -> str:
        """Return the mailbox of a request to Graph, in lower case; empty for other requests."""
        if role in UPLOAD_ROLES:
            upload = self.sessions.get(path)
            return upload.draft.mailbox if upload else ""
        graphs = any(role == known for _, known in GRAPH_ROLES)
        return urllib.parse.unquote(path.split("/")[3]).lower() if graphs else ""

    def forget_graph(self) -> None:
        """Forget tokens, drafts and records; the settings stay."""
        self.tokens.clear()
        self.messages.clear()
        self.sessions.clear()
        self.traffic.forget()

    def judge_graph(self, seen: Recorded) -> Outcome:
        """Return Graph's answer to a request, and the message if it sent one. May raise Refused."""
        self._check_traffic(seen)
        if seen.role not in UPLOAD_ROLES:
            self._check_request(seen)
        steps: dict[str, Callable[[Recorded], Outcome]] = {
            "sendMail": self._send_mail,
            "send": self._send,
        }
        if seen.role in steps:
            return steps[seen.role](seen)
        others: dict[str, Callable[[Recorded], Answer]] = {
            "draft": self._draft,
            "find": self._find,
            "look": self._look,
            "attach": self._attach,
            "session": self._session,
            "range": self._range,
            "progress": self._progress,
            "cancel": self._cancel,
            "delete": self._delete,
            "update": self._update,
        }
        return others[seen.role](seen), None

    def known(self, address: str) -> bool:
        """Tell whether it is a mailbox."""
        return self.mailboxes is None or address.lower() in {known.lower() for known in self.mailboxes}

    # Graph's checks before the operation itself.

    def _check_traffic(self, seen: Recorded) -> None:
        """Raise Refused if a limit of the mailbox is exceeded."""
        limit = self.concurrency_limit
        exempt = seen.role in self.concurrency_exempt and not is_json(seen)
        if limit is not None and seen.at_once > limit and not exempt:
            raise Refused(mailbox_concurrency())
        if self.upload_limit is None or not seen.body:
            return
        # This request is included.
        if self.traffic.uploaded(seen.mailbox, seen.when, self.upload_seconds) > self.upload_limit:
            seconds = max(1, round(self.upload_seconds))
            raise Refused(provided("graph/mailbox-upload", retry_after=seconds))

    def _check_request(self, seen: Recorded) -> None:
        """Raise Refused for a request that Graph refuses before it looks at the message."""
        scheme, _, token = seen.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or token not in self.tokens:
            raise Refused(provided("graph/token-refused"))
        self._check_form(seen)
        if len(seen.body) > self.request_limit:
            raise Refused(self.too_long)
        mailbox = seen.segment(2)
        if not self.known(mailbox):
            raise Refused(provided("graph/unknown-mailbox", mailbox=mailbox))
        needed = "Mail.Send" if seen.role in ("send", "sendMail") else "Mail.ReadWrite"
        if needed not in self.permissions:
            raise Refused(provided("graph/access-denied"))

    def _check_form(self, seen: Recorded) -> None:
        """Raise Refused if the header is not as the step requires."""
        if seen.role == "sendMail":
            fits = is_json(seen) or media_type(seen) == "text/plain"
        else:
            fits = is_json(seen) if seen.role in WRITES else not seen.body
            if 'IdType="ImmutableId"' not in seen.headers.get("prefer", ""):
                raise Refused(provided("graph/id-type"))
        if not fits:
            raise Refused(provided("graph/unsupported-type"))
        if seen.method == "POST" and "content-length" not in seen.headers:
            raise Refused(provided("graph/length-required"))

    # Messages sent without a draft.

    def _send_mail(self, seen: Recorded) -> Outcome:
        if is_json(seen):
            return self._send_json(seen)
        mailbox = seen.segment(2)
        try:
            raw = decode_base64(seen.body)
        except binascii.Error:
            raise Refused(provided("graph/mime-not-base64")) from None
        message = email.message_from_bytes(raw)
        to, cc, bcc = (addresses(message.get_all(name, [])) for name in ("To", "Cc", "Bcc"))
        self._check_size(len(raw))
        self._check_recipients(to + cc + bcc)
        self._check_sender(mailbox, addresses(message.get_all("From", [])))
        identity = str(uuid.uuid4())
        accepted = Accepted(seen.when, "graph", mailbox, raw, to, cc, bcc, identity, saved=True)
        return provided("graph/sendmail-accepted", request_id=identity), accepted

    def _send_json(self, seen: Recorded) -> Outcome:
        known = {"message": is_object, "saveToSentItems": is_flag}
        call = members(read_json(seen.body), known, ("message",))
        if "internetMessageId" in call["message"]:
            raise Refused(provided("graph/property-set"))
        message = read_message(call["message"], self.small_file_limit)
        accepted = self._leave(seen, message)
        accepted.saved = call.get("saveToSentItems", True)
        return provided("graph/sendmail-accepted", request_id=accepted.id), accepted

    def _leave(self, seen: Recorded, message: GraphMessage) -> Accepted:
        """Send a message that was given as JSON. May raise Refused."""
        mailbox = seen.segment(2)
        if not message.sender[1]:
            message = message._replace(sender=("", mailbox))
        self._check_size(message.size)
        self._check_recipients(message.recipients)
        for _name, address in message.reply_to:
            self._check_address(address)
        self._check_sender(mailbox, [message.sender[1]])
        people = ([address for _, address in pairs] for pairs in (message.to, message.cc, message.bcc))
        to, cc, bcc = people
        identity = str(uuid.uuid4())
        return Accepted(seen.when, "graph", mailbox, message, to, cc, bcc, identity, via="json", saved=True)

    def _check_size(self, size: int) -> None:
        if size > self.message_limit:
            raise Refused(provided("graph/message-too-large-413"))

    def _check_recipients(self, recipients: list[str]) -> None:
        if not recipients:
            raise Refused(provided("graph/no-recipients"))
        if len(recipients) > self.recipient_limit:
            raise Refused(provided("graph/too-many-recipients"))
        for recipient in recipients:
            self._check_address(recipient)

    def _check_address(self, address: str) -> None:
        if ADDRESS.fullmatch(address) and address.lower() not in self.bad_recipients:
            return
        if self.names_bad_recipients:
            raise Refused(provided("graph/recipient-not-resolved", recipient=address))
        raise Refused(provided("graph/invalid-recipients"))

    def _check_sender(self, mailbox: str, senders: list[str]) -> None:
        if [sender.lower() for sender in senders] != [mailbox.lower()]:
            raise Refused(provided("graph/sender-denied"))

    # Drafts.

    def _draft(self, seen: Recorded) -> Answer:
        content = read_json(seen.body)
        message = read_message(content, self.small_file_limit)
        self._check_size(message.size)
        message_id = content.get("internetMessageId", f"<{secrets.token_hex(12)}@EXAMPLE.PROD.OUTLOOK.COM>")
        if not re.fullmatch(r"<[^<>\s]+>", message_id):
            raise Refused(provided("graph/invalid-property", property="internetMessageId"))
        if "internetMessageId" not in content:
            message = message._replace(headers=(*message.headers, ("Message-ID", message_id)))
        draft = Draft(new_id(), seen.mailbox, message_id, message, self.draft_lag, self.find_lag)
        for part in message.attachments:
            draft.add(part)
        self.messages[draft.id] = draft
        return provided("graph/draft-made", **shown_whole(draft))

    def _find(self, seen: Recorded) -> Answer:
        query = options(seen, "$filter", "$select", "$top")
        match = re.fullmatch(r"internetMessageId eq '((?:[^']|'')*)'", query.get("$filter", ""))
        if match is None:
            raise Refused(provided("graph/invalid-filter"))
        wanted = match[1].replace("''", "'")
        names = select(query.get("$select", ",".join(SHOWN_MESSAGE)), SHOWN_MESSAGE)
        top = query.get("$top", "10")
        if not re.fullmatch("[1-9][0-9]{0,2}", top):
            raise bad_request("Invalid value for $top.", "graph/bad-request")
        found = [draft for draft in self.messages.values() if draft.mailbox == seen.mailbox]
        found = [draft for draft in found if draft.message_id == wanted and self._is_found(draft)]
        # The folder shows all of them as drafts, even those already sent.
        every = [shown(draft, names, is_draft=True) for draft in found[: int(top)]]
        return provided("graph/draft-found", drafts=every)

    def _is_found(self, draft: Draft) -> bool:
        """Tell whether the drafts folder shows it."""
        late, draft.unfound = draft.unfound > 0, max(0, draft.unfound - 1)
        return not late and draft.looks_like_one()

    def _message(self, seen: Recorded) -> Draft:
        """Return the message that a request is about."""
        draft = self.messages.get(seen.segment(4))
        if draft is None or draft.mailbox != seen.mailbox:
            raise item_not_found()
        if draft.unseen:
            draft.unseen -= 1
            raise item_not_found()
        return draft

    def _unsent(self, seen: Recorded) -> Draft:
        draft = self._message(seen)
        if draft.sent:
            raise item_not_found()
        return draft

    def _look(self, seen: Recorded) -> Answer:
        draft = self._message(seen)
        if draft.sent and not draft.lag and not self.keeps_sent:
            raise item_not_found()
        query = options(seen, "$select", "$expand")
        names = select(query.get("$select", ",".join(SHOWN_MESSAGE)), SHOWN_MESSAGE)
        content = shown(draft, names, is_draft=draft.looks_like_one())
        if "$expand" in query:
            match = re.fullmatch(r"attachments(\(\$select=([\w,]+)\))?", query["$expand"])
            if match is None:
                raise bad_request("Could not parse $expand.", "graph/bad-request")
            wanted = select(match[2] or ",".join(SHOWN_FILE), SHOWN_FILE)
            content["attachments"] = [shown_file(*pair, wanted) for pair in draft.files.items()]
        return provided("graph/draft-shown", message=content)

    def _attach(self, seen: Recorded) -> Answer:
        draft = self._unsent(seen)
        part = read_attachment(read_json(seen.body), self.small_file_limit)
        self._check_size(draft.whole.size + len(part.data))
        file = shown_file(draft.add(part), part, SHOWN_FILE)
        known = {"id": file["id"], "name": file["name"], "size": file["size"]}
        kind = {"is_inline": file["isInline"], "content_type": file["contentType"]}
        return provided("graph/attachment-added", **known, **kind)

    def _delete(self, seen: Recorded) -> Answer:
        draft = self._message(seen)
        del self.messages[draft.id]
        if draft.accepted:
            draft.accepted.saved = False
        self.sessions = {path: upload for path, upload in self.sessions.items() if upload.draft is not draft}
        return provided("graph/draft-deleted")

    def _update(self, seen: Recorded) -> Answer:
        """Change what can be changed in a draft (docs: message-update), which excludes its header."""
        draft, content = self._unsent(seen), read_json(seen.body)
        members(content, {name: check for name, check in MESSAGE.items() if name not in NOT_UPDATED})
        given, kept = read_message(content, self.small_file_limit), draft.message
        named = [pair for pair in kept.headers if pair[0] == "Message-ID" or pair[0].lower().startswith("x-")]
        changes = {field: getattr(given, field) for name, field in UPDATED.items() if name in content}
        if "body" in content:
            changes.update(kind=given.kind, text=given.text)
        draft.message = kept._replace(**changes, headers=(*named, *given.headers))
        return provided("graph/draft-updated", **shown_whole(draft))

    def _send(self, seen: Recorded) -> Outcome:
        draft = self._unsent(seen)
        accepted = self._leave(seen, draft.whole)
        accepted.via, accepted.draft = "draft", draft.id
        draft.accepted, draft.lag = accepted, self.sent_lag
        return provided("graph/draft-sent", request_id=accepted.id), accepted

    # Large attachments.

    def _session(self, seen: Recorded) -> Answer:
        draft = self._unsent(seen)
        item = read_item(seen.body)
        if item["size"] < self.session_minimum:
            raise Refused(provided("graph/attachment-too-small"))
        if item["size"] > self.largest_file:
            raise Refused(provided("graph/attachment-too-large"))
        user = f"{uuid.uuid4()}@{uuid.uuid4()}"
        token = f"{secrets.token_urlsafe(48)}.{secrets.token_urlsafe(48)}"
        path = f"/api/v2.0/Users('{user}')/Messages('{draft.id}')/AttachmentSessions('{new_id()}')"
        path += f"?authtoken={token}"
        upload = Upload(path, draft, item, time.monotonic() + self.session_seconds)
        self.sessions[path] = upload
        host = seen.headers["host"]
        if self.upload_host:
            host = f"{self.upload_host}:{host.rpartition(':')[2]}"
        return provided(
            "graph/session-opened", url=f"https://{host}{path}", expires=upload.state()["expires"]
        )

    def _upload(self, seen: Recorded) -> Upload:
        """Return the session that a request is about."""
        if "authorization" in seen.headers:
            raise Refused(provided("graph/upload-audience"))
        upload = self.sessions.get(seen.path)
        if upload is None or upload.draft.sent or upload.expires <= time.monotonic():
            raise upload_not_found()
        return upload

    def _progress(self, seen: Recorded) -> Answer:
        return provided("graph/upload-progress", **self._upload(seen).state())

    def _cancel(self, seen: Recorded) -> Answer:
        del self.sessions[self._upload(seen).path]
        return provided("graph/upload-cancelled")

    def _range(self, seen: Recorded) -> Answer:
        upload = self._upload(seen)
        size = upload.item["size"]
        if media_type(seen) != "application/octet-stream":
            raise Refused(provided("graph/unsupported-type"))
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", seen.headers.get("content-range", ""))
        if match is None:
            raise Refused(provided("graph/upload-range"))
        first, last, total = map(int, match.groups())
        if total != size or last - first + 1 != len(seen.body):
            raise bad_request("The Content-Range does not fit the content.", "graph/upload-range")
        if first != upload.there or last >= size:
            refusal = provided("graph/upload-range-unexpected", first=upload.there)
            raise Refused(refusal._replace(status=self.wrong_range_status))
        if len(seen.body) >= self.range_limit:
            raise Refused(provided("graph/request-entity-too-large", message="The range is too large."))
        self._check_size(upload.draft.whole.size + last + 1)
        upload.ranges.append(seen.body)
        upload.there = last + 1
        if upload.there < size:
            return provided("graph/range-taken", **upload.state())
        return self._complete(upload)

    def _complete(self, upload: Upload) -> Answer:
        """Attach the file once all of it has arrived."""
        identity = upload.draft.add(described(upload.item, b"".join(upload.ranges)))
        del self.sessions[upload.path]
        message = upload.path.partition("/AttachmentSessions(")[0]
        return provided("graph/upload-complete", message=message, id=identity)


def media_type(seen: Recorded) -> str:
    """Return the content type of a request, without parameters."""
    return seen.headers.get("content-type", "").split(";")[0].strip().lower()


def is_json(seen: Recorded) -> bool:
    """Tell whether a request declares its body as JSON."""
    return media_type(seen) == "application/json"


def options(seen: Recorded, *known: str) -> dict[str, str]:
    """Return the options of a query; refuse unknown ones."""
    for name in seen.query:
        if name not in known:
            raise bad_request(f"The query option '{name}' is not known.", "graph/bad-request")
    return seen.query


def select(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the properties in a list; refuse unknown ones."""
    names = tuple(text.split(","))
    for name in names:
        if name not in known:
            raise bad_request(f"Could not find a property named '{name}'.", "graph/bad-request")
    return names


def shown(draft: Draft, names: tuple[str, ...], *, is_draft: bool) -> dict[str, Any]:
    """Return these properties of a message; its id is always included."""
    every = {
        "id": draft.id,
        "isDraft": is_draft,
        "internetMessageId": draft.message_id,
        "subject": draft.message.subject,
    }
    return {name: every[name] for name in ("id", *names)}


def shown_whole(draft: Draft) -> dict[str, Any]:
    """Return what is shown of a draft that was made or changed, by the names in the files."""
    values = {"id": draft.id, "message_id": draft.message_id, "subject": draft.message.subject}
    return {**values, "is_draft": True}


def shown_file(identity: str, part: Part, names: tuple[str, ...]) -> dict[str, Any]:
    """Return these properties of an attachment, and its id. The size exceeds the file's: it includes what the
    store adds (docs: outlook-large-attachments, where a file of 3,483,322 bytes has 3,640,066)."""
    every = {
        "id": identity,
        "name": part.name,
        "size": len(part.data) + len(part.data) // 22 + 128,
        "isInline": part.inline,
        "contentType": part.content_type,
    }
    return {"@odata.type": FILE_ATTACHMENT, **{name: every[name] for name in ("id", *names)}}
