"""A message becomes Graph's JSON: every part of it arrives, as the text or as a file."""

from __future__ import annotations

import base64
import time
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.large_mail import MB, encoded, file_part, message, multipart, noise, scan, text_part
from helpers.mail import mail
from helpers.script import load_script
from helpers.unit import load_config, load_secrets, parse

relay = load_script()

PDF = b"%PDF-1.7 \x00\xff"
TEXT, PAGE = text_part("Hello.\n"), text_part("<p>Hello.</p>\n", "html")


def convert(data: bytes, to: str = "to@external.com", cc: str = "", bcc: str = "") -> Any:
    """Return what Graph gets: the form, and each file's name, kind and content; check the sizes."""
    read = parse(relay, data)
    form, files = relay.json_form(read, relay.Recipients(to.split(), cc.split(), bcc.split()))
    contents = [b"".join(relay.attachment_blocks(read.body, file, 1000)) for file in files]
    assert [file.size for file in files] == list(map(len, contents))
    named = [(file.name, file.kind, content) for file, content in zip(files, contents)]
    return SimpleNamespace(form=form, body=form["body"]["content"], files=files, named=named)


def part(header: str, content: bytes = b"content\n") -> bytes:
    """Return a part with this header, whose lines "|" separates."""
    lines = header.replace("|", "\n").encode("utf-8", "surrogateescape")
    return lines + b"\n\n" + content


def the_file(header: str, content: bytes = b"content\n") -> Any:
    """Return the file made of a part with this header, which follows a text."""
    found = convert(message(multipart(TEXT, part(header, content))))
    assert len(found.named) == 1
    return SimpleNamespace(name=found.named[0][0], content=found.named[0][2], file=found.files[0])


def form_of(**fields: str | None) -> dict[str, Any]:
    """Return the form of a small message with these fields."""
    form: dict[str, Any] = convert(mail(b"Text.\n", **fields)).form
    return form


# ---- Header


def test_recipients_are_the_envelope_s_with_the_names_that_the_header_gives_them() -> None:
    to, cc = '"Doe, Jane" <A@x.org>, b@x.org', "=?utf-8?q?J=C3=B6rg?= <c@x.org>"
    form = convert(mail(To=to, Cc=cc, Bcc="z@x.org"), "a@x.org b@x.org", "c@x.org", "d@x.org").form

    assert form["toRecipients"] == [
        {"emailAddress": {"name": "Doe, Jane", "address": "a@x.org"}},
        {"emailAddress": {"address": "b@x.org"}},
    ]
    assert form["ccRecipients"] == [{"emailAddress": {"name": "Jörg", "address": "c@x.org"}}]
    assert form["bccRecipients"] == [{"emailAddress": {"address": "d@x.org"}}]


def test_from_sender_and_reply_to_keep_their_names() -> None:
    reply_to = 'r@x.org, "R, 2" <r2@x.org>'
    form = form_of(From="Scanner 1 <s@x.org>", Sender="Box <box@x.org>", Reply_To=reply_to)

    assert form["from"] == {"emailAddress": {"name": "Scanner 1", "address": "s@x.org"}}
    assert form["sender"] == {"emailAddress": {"name": "Box", "address": "box@x.org"}}
    assert [entry["emailAddress"] for entry in form["replyTo"]] == [
        {"address": "r@x.org"},
        {"name": "R, 2", "address": "r2@x.org"},
    ]


def test_what_the_header_does_not_have_is_not_in_the_form() -> None:
    form = form_of()

    plain = {"subject", "from", "importance", "toRecipients", "ccRecipients", "bccRecipients", "body"}
    assert set(form) == plain
    assert (form["ccRecipients"], form["bccRecipients"], form["importance"]) == ([], [], "normal")


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        (b"Alarm:  two blanks", "Alarm:  two blanks"),
        (b"Folded\n\tline", "Folded line"),
        (b"=?utf-8?B?w7xiZXI=?= x =?ISO-8859-1?Q?=FCber_=41?=", "über x über A"),
        (b"=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "日本"),
        (b"=?utf-8?Q?=C3?=\n =?utf-8?Q?=BC?=", "ü"),
        (b"=?utf-8?b?w7w?= =?unknown?q?=FC?= =?utf-8*de?q?=C3=BC?=", "üüü"),
        ("roh ü".encode(), "roh ü"),
        ("roh ü".encode("latin-1"), "roh ü"),
        (b"=?utf-8?q?a=0D=0Ab=00c=1B?=", "a b c"),
        (b"=?utf-7?q?+2AA-?= =?hex?q?41?= =?idna?q?a?=", "41a"),
        (b"=?utf-8?b?a?= =?utf-8?q?", "=?utf-8?q?"),
    ],
)
def test_a_subject_is_decoded(subject: bytes, shown: str) -> None:
    assert convert(b"Subject: " + subject + b"\nFrom: a@x.org\n\n").form["subject"] == shown


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"Importance": "High"}, "high"),
        ({"X-Priority": "1 (Highest)"}, "high"),
        ({"X-Priority": "5"}, "low"),
        ({"Priority": "urgent"}, "high"),
        ({"Priority": "non-urgent"}, "low"),
        ({"Importance": "normal", "X-Priority": "3"}, "normal"),
        ({"Importance": "whatever"}, "normal"),
    ],
)
def test_importance_is_kept(fields: dict[str, str], level: str) -> None:
    assert form_of(**fields)["importance"] == level


def test_what_a_mail_program_sorts_and_answers_by_is_kept() -> None:
    form = form_of(Message_ID="<1@x>", In_Reply_To="<0@x>", References="<a@x>\n <0@x>")

    assert form["internetMessageId"] == "<1@x>"
    assert form["singleValueExtendedProperties"] == [
        {"id": "String 0x1042", "value": "<0@x>"},
        {"id": "String 0x1039", "value": "<a@x> <0@x>"},
    ]


def test_receipts_are_asked_for() -> None:
    form = form_of(Disposition_Notification_To="a@x.org", Return_Receipt_To="a@x.org")

    assert (form["isReadReceiptRequested"], form["isDeliveryReceiptRequested"]) == (True, True)


def headers(text: str) -> list[tuple[str, str]]:
    """Return the form's header fields for a message that has these."""
    form = convert(f"From: a@x.org\n{text}\n\n".encode("utf-8", "surrogateescape")).form
    return [(entry["name"], entry["value"]) for entry in form.get("internetMessageHeaders", [])]


def test_five_of_the_device_s_own_header_fields_are_kept() -> None:
    own = [(f"X-Device-{number}", str(number)) for number in range(6)]
    text = "\n".join(f"{name}: {value}" for name, value in own)

    assert headers(f"X-MS-Exchange-Organization-SCL: 1\nX-Priority: 1\n{text}\nDate: today") == own[:5]


def test_the_date_is_kept_where_there_is_room() -> None:
    assert headers("Date: Fri, 1 Jan 2027\nX-A: 1\nx-a: 2\nX-Empty:\nX-(odd): 1") == [
        ("X-A", "1"),
        ("X-Original-Date", "Fri, 1 Jan 2027"),
    ]


def test_a_header_field_s_value_is_one_printable_line() -> None:
    assert headers("X-A: one\n two \x07\udcfc\nX-B: " + "b" * 2000) == [
        ("X-A", "one two ü"),
        ("X-B", "b" * 994 + "…"),
    ]


# ---- Text


@pytest.mark.parametrize(
    ("kind", "data", "shown"),
    [
        ("text/plain; charset=utf-8", "ü€".encode(), "ü€"),
        ('TEXT/Plain (a "comment");\n CharSet = "ISO-8859-1"', b"\xfc", "ü"),
        ("text/plain; charset=windows-1252", b"\x80", "€"),
        ("text/plain; charset=shift_jis", "日本".encode("shift_jis"), "日本"),
        ("text/plain; charset=utf-16le", "ü".encode("utf-16le"), "ü"),
        ("text/plain; charset=unknown-8bit", "ü".encode(), "ü"),
        ("text/plain; charset=unknown-8bit", b"\xfc", "ü"),
        ("text/plain; charset=us-ascii", "ü".encode(), "ü"),
        ("text/plain; charset=utf-8", "ü€".encode() + b" \xfc", "ü€ ü"),
        ("text/plain; charset=base64", b"YQ==", "YQ=="),
        ("text/plain; charset=utf-7", b"+2AA- a", "  a"),
        ("text/plain; charset=utf-8", b"page\x0cpage\x00", "page page "),
        ("text", "ü".encode(), "ü"),
    ],
)
def test_the_text_is_decoded_from_any_charset(kind: str, data: bytes, shown: str) -> None:
    content = base64.b64encode(data)
    found = convert(mail(content, Content_Type=kind, Content_Transfer_Encoding="Base64"))

    assert (found.form["body"], found.files) == ({"contentType": "text", "content": shown}, [])


def test_a_message_without_mime_is_a_text() -> None:
    found = convert(mail(b"--x\nA line.\n"))

    assert found.form["body"] == {"contentType": "text", "content": "--x\r\nA line.\r\n"}


def test_quoted_printable_is_decoded() -> None:
    found = convert(mail(b"=C3=BC so=\nft =zz=\n", Content_Transfer_Encoding="quoted-printable (q)"))

    assert found.body == "ü soft =zz"


@pytest.mark.parametrize("order", [(TEXT, PAGE), (PAGE, TEXT)])
def test_the_page_is_shown_and_the_text_beside_it_left_out(order: tuple[bytes, bytes]) -> None:
    found = convert(message(multipart(*order, kind="alternative")))

    assert found.form["body"] == {"contentType": "html", "content": "<p>Hello.</p>"}
    assert found.files == []


def test_only_the_text_beside_the_page_is_left_out() -> None:
    """As Apple Mail sends it: the page continues after a file."""
    end = text_part("The end.\n")
    inner = multipart(PAGE, file_part(PDF), end, boundary="inner")
    other = text_part("BEGIN:VCALENDAR\n", "calendar")
    found = convert(message(multipart(TEXT, inner, other, kind="alternative")))

    assert found.body == "<p>Hello.</p>"
    assert found.named == [
        ("scan.pdf", "application/pdf", PDF),
        ("attachment-4.txt", "text/plain; charset=utf-8", b"The end."),
        ("attachment-5.ics", "text/calendar; charset=utf-8", b"BEGIN:VCALENDAR"),
    ]


def test_a_second_text_becomes_a_file() -> None:
    found = convert(message(multipart(TEXT, PAGE, text_part("More.\n"))))

    assert found.form["body"] == {"contentType": "text", "content": "Hello."}
    assert [(name, content) for name, _, content in found.named] == [
        ("attachment-2.html", b"<p>Hello.</p>"),
        ("attachment-3.txt", b"More."),
    ]


@pytest.mark.parametrize(("kind", "name"), [("html", "message.html"), ("plain", "message.txt")])
@pytest.mark.parametrize("text", ["x" * 3_100_000, "\u20ac" * 600_000], ids=["long", "long in JSON"])
def test_a_text_too_large_for_the_draft_becomes_a_file(kind: str, name: str, text: str) -> None:
    found = convert(message(multipart(text_part(text, kind), file_part(PDF))))

    instead = f"The text of this message is attached: {name}"
    assert found.form["body"] == {"contentType": "text", "content": instead}
    assert found.named == [
        (name, f"text/{kind}; charset=utf-8", text.encode()),
        ("scan.pdf", "application/pdf", PDF),
    ]


def test_of_an_empty_text_nothing_is_left() -> None:
    """As scanners send it, and as a text-only program does: with an empty page."""
    assert convert(message(multipart(text_part(""), file_part(PDF)))).named == [
        ("scan.pdf", "application/pdf", PDF)
    ]
    found = convert(message(multipart(TEXT, text_part("", "html"), kind="alternative")))
    assert (found.form["body"], found.files) == ({"contentType": "text", "content": "Hello."}, [])


# ---- Files


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('Content-Disposition: attachment; filename="a;b.pdf"', "a;b.pdf"),
        ("Content-Disposition: attachment; filename=two words.pdf", "two words.pdf"),
        ("Content-Disposition: attachment; filename=scan (1).pdf", "scan (1).pdf"),
        ("CONTENT-DISPOSITION: ATTACHMENT;|\tFileName = a.pdf", "a.pdf"),
        ('Content-Type: application/pdf; name="a.pdf"', "a.pdf"),
        ('Content-Type: application/pdf; name="a\\"b.pdf"', 'a"b.pdf'),
        ("Content-Disposition: attachment; filename*=utf-8'de'%C3%BC%20%E2%82%AC.pdf; filename=x", "ü €.pdf"),
        ("Content-Disposition: attachment; filename*=iso-8859-1''%FC.pdf", "ü.pdf"),
        ("Content-Disposition: attachment; filename*=%41.pdf", "A.pdf"),
        ("Content-Disposition: x; filename*1*=%BC.p; filename*0*=utf-8''%C3; filename*2=df", "ü.pdf"),
        ('Content-Disposition: attachment; filename*0="a%20"; filename*1="b.pdf"', "a%20b.pdf"),
        ('Content-Disposition: attachment; filename="=?utf-8?B?w7wu?= =?utf-8?Q?pdf?="', "ü.pdf"),
        ("Content-Disposition: attachment; filename==?iso-8859-1?Q?=FC=3B.pdf?=", "ü;.pdf"),
        ("Content-Disposition: attachment; filename=ü.pdf", "ü.pdf"),
        ("Content-Disposition: attachment; filename=\udcfc.pdf", "ü.pdf"),
        ('Content-Disposition: attachment; filename="C:\\scan\\..\\a.pdf"', "C:_scan_.._a.pdf"),
        ("Content-Disposition: attachment; filename*=''..%2F%00a%0A%E2%80%AE.pdf", ".._ a _.pdf"),
        ("Content-Disposition: attachment; filename=" + "n" * 300 + ".pdf", "n" * 180 + "n" * 16 + ".pdf"),
        ("Content-Type: application/pdf|Content-Disposition: attachment", "attachment-2.pdf"),
        ('Content-Type: application/pdf; name=".."', "attachment-2.pdf"),
        ("Content-Type: image/jpeg", "attachment-2.jpg"),
        ("Content-Type: text/x-log", "attachment-2.txt"),
        ("Content-Type: text/calendar; method=REQUEST", "attachment-2.ics"),
        ("Content-Type: nonsense/unheard-of", "attachment-2.bin"),
        ("Content-Disposition: attachment", "attachment-2.txt"),
        ("Content-Disposition: filename=a.pdf", "a.pdf"),
        ("Content-Disposition: ; filename=a.pdf", "a.pdf"),
        ("Content-Disposition: attachment filename=a.pdf", "a.pdf"),
        ('Content-Disposition: attachment; filename="a.pdf', "a.pdf"),
        ('Content-Type: text/plain; name="log.txt"', "log.txt"),
        ("Content-Type: text/html; charset=utf-8|Content-Disposition: attachment; filename=p.html", "p.html"),
        ("Content-Type: message/delivery-status; name=status", "status"),
        ("Content-Type: message/rfc822; name=forwarded", "forwarded.eml"),
        ("Content-Type: message/rfc822; name=f.EML", "f.EML"),
        ("Content-Type: message/rfc822", "message.eml"),
    ],
)
def test_a_file_has_the_name_that_its_sender_gave_it(header: str, name: str) -> None:
    found = the_file(header)

    assert (found.name, found.content) == (name, b"content")


def test_a_forwarded_message_is_one_file_with_its_subject_as_name() -> None:
    inner = b"Subject: =?utf-8?q?=C3=BC/1?=\n" + multipart(TEXT, file_part(PDF), boundary="inner")
    found = the_file("Content-Type: message/rfc822", inner)

    assert (found.name, found.file.kind) == ("ü_1.eml", "message/rfc822")
    assert found.content == inner.rstrip(b"\n").replace(b"\n", b"\r\n")


def test_the_parts_of_a_digest_are_messages() -> None:
    found = convert(message(multipart(b"\nSubject: one\n\nText\n", kind="digest")))

    assert found.named == [("one.eml", "message/rfc822", b"Subject: one\r\n\r\nText")]


def test_a_message_that_is_one_file_has_no_text() -> None:
    found = convert(message(file_part(PDF, "ä.pdf")))

    assert found.form["body"] == {"contentType": "text", "content": ""}
    assert found.named == [("ä.pdf", "application/pdf", PDF)]


@pytest.mark.parametrize(
    ("kind", "disposition", "content_id", "page", "inline"),
    [
        ("related", "inline", "<a@x>", "<img src='cid:a@x'>", True),
        ("related", "attachment", "a@x", "<img src='cid:a@x'>", True),
        ("mixed", "inline", "<a@x>", "<img src='cid:a@x'>", True),
        ("mixed", "attachment", "<a@x>", "<img src='cid:a@x'>", False),
        ("related", "inline", "", "<img src='cid:a@x'>", False),
        ("related", "inline", "<a@x>", "<p>", False),
        ("related", "inline", "<a@x>", "", False),
    ],
)
def test_a_picture_is_inline_where_the_page_shows_it(
    kind: str, disposition: str, content_id: str, page: str, inline: bool
) -> None:
    text = text_part(page, "html") if page else TEXT
    identity = f"|Content-ID: {content_id}" if content_id else ""
    picture = part(f"Content-Type: image/png; name=a.png|Content-Disposition: {disposition}{identity}")
    file = convert(message(multipart(text, picture, kind=kind))).files[0]

    assert (file.inline, file.content_id) == (inline, content_id.strip("<>"))


@pytest.mark.parametrize(
    ("written", "content"),
    [
        (b"QUJD\nREVG\n", b"ABCDEF"),
        (b"Q!U J\tD\x00RE\xffVG", b"ABCDEF"),
        (b"QUI", b"AB"),
        (b"QUJDR", b"ABC"),
        (b"QQ==QkM=REVG", b"ABCDEF"),
        (b"QQ=\n=\nQUJD", b"AABC"),
        (b"====", b""),
        (b"", b""),
    ],
)
def test_broken_base64_is_read_as_far_as_it_can_be(written: bytes, content: bytes) -> None:
    header = "Content-Type: application/pdf; name=a|Content-Transfer-Encoding: base64"

    assert the_file(header, written).content == content


@pytest.mark.parametrize(
    ("header", "content"),
    [
        ("Content-Transfer-Encoding: quoted-printable", b"=\r\n=41=zz" * 60_000),
        ("Content-Transfer-Encoding: Quoted-Printable", b"=41" * 100_000),
        ("Content-Transfer-Encoding: x-uuencode", b"begin 644 a\r\n#0V%T\r\nend"),
        ("Content-Transfer-Encoding: 8bit", "ü".encode()),
        ("Content-Transfer-Encoding: base64", encoded(noise(300_000)).replace(b"\n", b"\r\n")),
        ("Content-Transfer-Encoding: base64", encoded(noise(200_000)) + encoded(noise(100_000)) + b"QQ"),
    ],
)
@pytest.mark.parametrize("size", [1 << 20, 100_000, 9999])
def test_a_file_comes_in_blocks_and_from_any_octet_on(header: str, content: bytes, size: int) -> None:
    read = parse(relay, message(multipart(TEXT, part("Content-Type: a/b|" + header, content + b"\n"))))
    file = relay.json_form(read, relay.Recipients([], [], []))[1][0]
    whole = b"".join(relay.attachment_blocks(read.body, file, 77_777))

    assert len(whole) == file.size
    for skip in (0, 1, 99_999, file.size):
        blocks = list(relay.attachment_blocks(read.body, file, size, skip))
        assert b"".join(blocks) == whole[skip:]
        assert all(len(block) == size for block in blocks[:-1])
        assert all(blocks)


def test_base64_after_padding_and_beyond_one_piece_is_decoded_whole() -> None:
    first, second = noise(200_000), noise(100_000, 2)
    found = the_file("Content-Type: a/b|Content-Transfer-Encoding: base64", encoded(first) + encoded(second))

    assert found.content == first + second


# ---- Structure


def texts(data: bytes) -> tuple[str, list[bytes]]:
    """Return a message's text and its files' contents."""
    found = convert(data)
    return found.body, [content for _, _, content in found.named]


def multi(body: str, kind: str = "multipart/mixed; boundary=b") -> bytes:
    return mail(body.encode(), Content_Type=kind)


@pytest.mark.parametrize(
    ("data", "text", "files"),
    [
        (multi("preamble\n--b\n\nA\n--b\n\nB\n--b--\nepilogue\n"), "A", [b"B"]),
        (multi("--b\n\nA\n--b\n\nB\n--b-- \n"), "A", [b"B"]),
        (multi("--b \t\n\nA\n--b\n\nB cut o"), "A", [b"B cut o"]),
        (multi("--b\n\nA\n--b"), "A", []),
        (multi("--b\n\nA\n--b\n--b\n\nB\n--b--\n"), "A", [b"B"]),
        (multi("--b\n\nA\n--bb\n --b\n--b-\n--b--\n"), "A\r\n--bb\r\n --b\r\n--b-", []),
        (multi("--b\nno header\n--b--\n"), "no header", []),
        (multi("--b\nNote: no header\nat all\n--b--\n"), "Note: no header\r\nat all", []),
        (multi("--b\nFrom now on\n\nit is text\n--b--\n"), "From now on\r\n\r\nit is text", []),
        (multi("--b\nX-Field: 1\n\nA\n--b--\n"), "A", []),
        (multi("--b\n\n--b--\n"), "--b\r\n\r\n--b--\r\n", []),
        (multi("never\n"), "never\r\n", []),
        (multi("--b\n\nA\n", "multipart/mixed"), "--b\r\n\r\nA\r\n", []),
        (multi("--b\n\nA\n", 'multipart/mixed; boundary=""'), "--b\r\n\r\nA\r\n", []),
        (multi("--b\n\nA\n--b--", "multipart/mixed; boundary=b (c)"), "A", []),
        (multi("--b c\n\nA\n--b c--", 'Multipart/Mixed (x; y);\n BOUNDARY="b c"'), "A", []),
        (multi("--b:c\n\nA\n--b:c--", "multipart/mixed; charset=x; boundary=b:c ; x=y"), "A", []),
        (
            multi("--b\nContent-Type: multipart/mixed; boundary=c\n\nnever\n--b\n\nB\n--b--"),
            "never",
            [b"B"],
        ),
        (
            multi("--b\nContent-Type: multipart/mixed; boundary=bc\n\n--bc\n\nA\n--b\n\nB\n--b--"),
            "A",
            [b"B"],
        ),
    ],
)
def test_parts_are_found_however_they_are_marked(data: bytes, text: str, files: list[bytes]) -> None:
    assert texts(data) == (text, files)


def nested(levels: int) -> bytes:
    inner = TEXT
    for level in range(levels):
        inner = multipart(inner, file_part(b"%d" % level), boundary=f"b{level}-")
    return inner


def test_nested_parts_are_found() -> None:
    assert texts(message(nested(15))) == ("Hello.", [b"%d" % level for level in range(15)])


def test_what_is_nested_too_deep_is_attached_whole() -> None:
    found = convert(message(nested(60)))

    assert found.named[0][:2] == ("message.eml", "message/rfc822")
    assert b"Hello." in found.named[0][2]
    assert [content for _, _, content in found.named[1:]] == [b"%d" % level for level in range(39, 60)]


def test_more_parts_than_a_draft_can_have_are_refused() -> None:
    assert len(convert(message(multipart(*[TEXT] * 250))).files) == 249
    with pytest.raises(relay.Bounced) as caught:
        convert(message(multipart(*[TEXT] * 251)))
    assert (caught.value.cause, caught.value.own) == ("message", True)
    assert "more than 250 parts" in caught.value.text


@pytest.mark.parametrize(
    ("kind", "noun"),
    [
        ("application/pkcs7-mime; smime-type=enveloped-data", "S/MIME signature or encryption"),
        ("Application/X-PKCS7-MIME", "S/MIME signature or encryption"),
        ("multipart/signed; boundary=b", "signature"),
        ("multipart/encrypted; boundary=b", "encryption"),
        ("multipart/report; boundary=b", "report"),
        ("text/calendar; method=REQUEST", "invitation"),
        ("text/calendar; method=publish", ""),
        ("multipart/mixed; boundary=b", ""),
        ("text/plain", ""),
    ],
)
def test_what_a_draft_would_break_is_named(kind: str, noun: str) -> None:
    assert relay.breaks(parse(relay, mail(Content_Type=kind))) == noun


@pytest.mark.parametrize(("method", "noun"), [('"Cancel"', "invitation"), ("PUBLISH", "")])
def test_an_invitation_beside_the_text_is_one(method: str, noun: str) -> None:
    event = part(f"Content-Type: text/calendar; method={method}")
    assert relay.breaks(parse(relay, message(multipart(TEXT, event, kind="alternative")))) == noun
    assert relay.breaks(parse(relay, message(multipart(TEXT, event)))) == ""


# ---- Size and time


HOSTILE = [
    multi("--b\n" * 300_000),
    multi("--bb\n" * 300_000),
    multi("--b\n\n" + "--b" * 300_000),
    multi("--b\n" + "X-A: 1\n" * 150_000),
    multi("--b\nContent-Type: " + "a" * 1_000_000),
    *(
        multi(f"--b\nContent-Disposition: attachment; {unit * (1_000_000 // len(unit))}\n\nA")
        for unit in (";", "; ", " ", "a=", ';a="', '\\"', "a*0*=%41;", "(", "=?a?q?", "filename*=''%;")
    ),
    *(
        f"Subject: {unit * (1_000_000 // len(unit))}\n\n".encode("latin-1")
        for unit in ("=?", "=?a?q?", "=?a?q?b?= ", "=?a?q??=x", "=?a?b?===?=", "? ", "=?" + "a" * 79, "\xfc")
    ),
    *(
        mail(unit * (1_000_000 // len(unit)), Content_Type=f"text/plain; charset={charset}")
        for charset in ("punycode", "idna", "utf-7", "unicode_escape", "shift_jis", "utf-8", "hz", "utf-16")
        for unit in (b"\xfc\x80", b"+a-", b"a.")
    ),
    mail(b"=" * 1_000_000, Content_Transfer_Encoding="base64"),
    mail(b"AA=" * 300_000, Content_Transfer_Encoding="base64"),
    mail(b"=" * 1_000_000, Content_Transfer_Encoding="quoted-printable"),
    mail(b" " * 1_000_000, Content_Transfer_Encoding="quoted-printable"),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_messages_are_read_in_time(number: int) -> None:
    started = time.process_time()
    try:
        convert(HOSTILE[number])
    except relay.Failure as problem:
        assert problem.own

    assert time.process_time() - started < 5


def test_a_large_message_is_not_there_twice() -> None:
    read = parse(relay, scan(20))
    tracemalloc.start()
    try:
        _, files = relay.json_form(read, relay.Recipients(["to@external.com"], [], []))
        total = 0
        for block in relay.attachment_blocks(read.body, files[0], 3_932_160):
            total += len(block)
            del block
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert total == 20 * MB
    assert peak < 9 * MB


@pytest.mark.parametrize(("octets", "fits"), [(200 << 20, True), ((200 << 20) + 4, False)])
def test_more_than_graph_ever_takes_bounces(octets: int, fits: bool) -> None:
    """150 MB, which base64 makes 200."""
    graph = relay.Graph("/home", load_config(relay), load_secrets(relay), relay.Log())
    if fits:
        assert graph.goes_as_draft(parse(relay, mail()), octets)
    else:
        with pytest.raises(relay.Bounced, match="too large") as refused:
            graph.goes_as_draft(parse(relay, mail()), octets)
        assert refused.value.text == "the message is larger than 150 MB, Graph's limit"
