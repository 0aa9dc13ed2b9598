"""Mail: messages (.eml, Maildir, Apple's .emlx, Outlook's .msg), mailboxes (mbox) and saved web pages (.mht).

Worth knowing:

- A message becomes a text: subject, sender and date, then its body. Of a body that is there twice the plain one is
  taken, or the one in HTML, read like a web page, if the plain one is a stub ("your program cannot show HTML").
- What is attached is a file like any other, so a message is unpacked like an archive (`llm.data.readers.archives`). A
  message without attachments is one document under its own name.
- Messages rarely keep to the standard: encodings are declared wrongly or not at all, headers are raw bytes, parts are
  cut off. Each part is decoded on its own, and what is damaged costs no more than itself.
- Signatures (PGP, S/MIME) and encrypted parts are counted and left out. Of a body in several forms only one is wanted,
  so the others do not count.
"""

from __future__ import annotations

import binascii
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Literal, NamedTuple

from llm.data.readers.base import DAMAGE, Rejected, describe, writable
from llm.data.readers.decoding import decode

if TYPE_CHECKING:
    from email.message import EmailMessage

Mailbox = Literal["mail", "mbox", "outlook"]

_SUFFIXES = {"eml", "emlx", "mht", "mhtml", "nws"}
_HEADER = re.compile(rb"^([!-9;-~]{1,70}):", re.MULTILINE)
_TELLING = {
    b"from", b"date", b"subject", b"to", b"message-id", b"received", b"mime-version", b"content-type", b"return-path",
    b"delivered-to",
}  # fmt: skip
_FROM_LINE = re.compile(
    rb"From \S.*\d\d:\d\d.*\d{4}\b[^\r\n]*\r?\n"
)  # as "From anna@example.org Mon May  3 08:15:00 2004"
_SIGNATURES = {"application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature"}
_ENCRYPTED = {"application/pgp-encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"}
_BODIES = {"text/plain", "text/html", "application/xhtml+xml"}
_UUENCODED = re.compile(r"^begin [0-7]{3,4} (\S[^\r\n]*)\r?\n((?:[!-`][ -`]*\r?\n)+?)(?:[` ]\r?\n)?end\b", re.MULTILINE)
_STUB_CHARS = 300  # up to which a plain body may be a stub
_RTF_BODY = 0x1009  # the property of Outlook's that has the body as compressed RTF
_MAX_MESSAGE = 256 * 2**20  # bytes


class Attachment(NamedTuple):
    """A file that came with a message."""

    name: str
    data: bytes


class Mail(NamedTuple):
    """A message as a text, and its attachments; of a saved web page `text` is the page as HTML.

    `note` says what of it is missing, and `not_read` counts what is neither in the text nor among the attachments.
    """

    text: str
    attachments: list[Attachment]
    is_page: bool = False
    note: str = ""
    not_read: Mapping[str, int] = MappingProxyType({})


def mailbox_kind(name: str, head: bytes) -> Mailbox | None:
    """How the mail in a file with this name and beginning is stored, or None if it is no mail."""
    suffix = name.lower().rpartition(".")[2] if "." in name else ""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if match := _FROM_LINE.match(start):
        return "mbox" if _has_headers(start[match.end() :], 2) else None
    if suffix in _SUFFIXES:
        body = re.sub(rb"\A\d+\s*\n", b"", start) if suffix == "emlx" else start
        return "mail" if _has_headers(body, 1) else None
    # Maildir and MH have names without a suffix ("1083571200.M20P30.host:2,S", "17").
    is_numbered = re.fullmatch(r"\d+([._].*)?", name) or not suffix
    return "mail" if is_numbered and _has_headers(start, 4) else None


def _has_headers(head: bytes, n: int) -> bool:
    """Whether a file begins with mail headers, with at least `n` different ones that are usual in mail."""
    block = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]
    if not re.match(rb"[!-9;-~]{1,70}:", block):
        return False
    return len(_TELLING & {match.lower() for match in _HEADER.findall(block)}) >= n


def messages(file: IO[bytes]) -> Iterator[bytes]:
    """The messages of an mbox file, without their "From " lines and the signs that keep other such lines apart."""
    lines: list[bytes] = []
    n_bytes = 0
    after_blank = True
    for line in file:
        if after_blank and line.startswith(b"From ") and _FROM_LINE.match(line):
            if any(line.strip() for line in lines):
                yield b"".join(lines)
            lines, n_bytes = [], 0
        else:
            n_bytes += len(line)
            if n_bytes <= _MAX_MESSAGE:
                lines.append(line[1:] if re.match(rb">+From ", line) else line)
        after_blank = not line.strip()
    if any(line.strip() for line in lines):
        yield b"".join(lines)


def read_message(data: bytes) -> Mail:
    """A message as it is sent, or stored by Apple Mail.

    Raises:
        Rejected: it has neither text nor attachments, or is damaged.
    """
    from email import policy
    from email.parser import BytesParser

    if match := re.match(rb"\s*(\d+)\s*\n", data):  # Apple's: the length, the message, a property list
        data = data[match.end() :][: int(match[1][:12])]
    try:
        return _read(BytesParser(policy=policy.default).parsebytes(data))
    except DAMAGE as error:
        raise Rejected(f"damaged mail: it cannot be read ({describe(error)})") from None


def _read(message: EmailMessage) -> Mail:
    bodies: dict[int, dict[str, str]] = {}  # by group of alternatives: one of plain text, one of HTML
    attachments: list[Attachment] = []
    notes: list[str] = []
    not_read: Counter[str] = Counter()
    for part, is_body, group in _parts(message):
        kind = part.get_content_type()
        if kind in _SIGNATURES:
            not_read["signatures"] += 1
            continue
        if kind in _ENCRYPTED and part.get_param("smime-type") != "signed-data":
            not_read["encrypted parts"] += 1
            continue
        if kind == "text/x-amp-html":  # another form of the body
            continue
        if part.get_content_maintype() == "message":
            inner = part.get_payload()
            if kind == "message/rfc822" and isinstance(inner, list) and inner:
                attachments.append(Attachment(_name_of(part, len(attachments)), bytes(inner[0])))  # type: ignore[arg-type]
            else:
                not_read["delivery reports" if kind == "message/delivery-status" else "attachments"] += 1
            continue
        payload = part.get_payload(decode=True)
        data = payload if isinstance(payload, bytes) else str(part.get_payload()).encode("utf-8", "replace")
        if is_body or part.get_content_maintype() == "text":
            try:
                text = decode(data, str(part.get_content_charset() or "")).text if data else ""
            except Rejected as rejection:
                if is_body:
                    notes.append(f"part of the mail is lost: {rejection}")
                    not_read["parts of the body"] += 1
                    continue
            else:
                if is_body:
                    shown = "html" if "html" in kind else "plain"
                    if shown == "plain":
                        text, files = _without_uuencoded(text)
                        attachments += files
                        text = _unflowed(text, part) if part.get_param("format") == "flowed" else text
                    if text.strip():
                        bodies.setdefault(group, {})[shown] = text.strip("\r\n")
                    continue
                data = text.encode("utf-8", "replace")
        if data.strip():
            attachments.append(Attachment(_name_of(part, len(attachments)), data))
        elif _file_name_of(part):
            not_read["empty attachments"] += 1
    note = "; ".join(dict.fromkeys(notes))
    pages = [body["html"] for body in bodies.values() if "html" in body]
    if pages and _is_saved_page(message):
        # Its style sheets and fonts belong to the page, and are not attached to it; its reader counts the pictures.
        return Mail(pages[0], [], is_page=True, note=note, not_read=not_read)
    body = "\n\n".join(filter(None, (_chosen(body.get("plain", ""), body.get("html", "")) for body in bodies.values())))
    if not body and not attachments:
        if not_read["encrypted parts"]:
            raise Rejected("encrypted mail: it opens with a key only", not_read)
        raise Rejected(note or "no text: the mail has no body", not_read)
    headers = {name: _header(message, name) for name in ("Subject", "From", "Date")}
    return Mail(_with_headers(headers, body), attachments, note=note, not_read=not_read)


def _chosen(plain: str, html: str) -> str:
    """The better of two bodies that say the same."""
    if not html.strip() or len(plain) > _STUB_CHARS:
        return plain
    shown = _text_of_page(html)
    return shown if len(shown) > 3 * len(plain) or not plain else plain


def _without_uuencoded(text: str) -> tuple[str, list[Attachment]]:
    """A body of the time before MIME without the files in it, and these."""
    files: list[Attachment] = []

    def taken_out(match: re.Match[str]) -> str:
        try:
            data = b"".join(binascii.a2b_uu(line) for line in match[2].splitlines())
        except (binascii.Error, ValueError):
            return match[0]
        files.append(Attachment(_file_name(match[1]) or f"attachment-{len(files) + 1}", data))
        return ""

    return _UUENCODED.sub(taken_out, text), files


def _with_headers(headers: dict[str, str], body: str) -> str:
    lines = [f"{name}: {value}" for name, value in headers.items() if value]
    return writable("\n".join(lines) + "\n\n" * bool(lines) + body)


def _is_saved_page(message: EmailMessage) -> bool:
    """Whether this is a page that a browser saved, rather than a mail."""
    sender = str(message.get("from", ""))
    return "snapshot-content-location" in message or sender.lower().startswith(("<saved by", "saved by"))


def _parts(message: EmailMessage, group: int = 0) -> Iterator[tuple[EmailMessage, bool, int]]:
    """The parts of a message that have content: whether each belongs to the body, and its group of alternatives."""
    kind = message.get_content_type()
    if not message.is_multipart() or message.get_content_maintype() == "message":
        is_text = kind in _BODIES or kind.startswith("multipart/")  # without parts, so it has no boundary
        is_attached = message.get_content_disposition() == "attachment" or _file_name_of(message)
        yield message, is_text and not is_attached, group or id(message)
        return
    for part in message.get_payload():
        yield from _parts(part, group or (id(message) if kind == "multipart/alternative" else 0))  # type: ignore[arg-type]


def _file_name_of(part: EmailMessage) -> str:
    try:
        return _file_name(part.get_filename() or "")
    except DAMAGE:  # a header that email cannot parse
        return ""


def _file_name(name: str) -> str:
    """The last part of a name, as one line; empty if nothing is left."""
    name = writable(" ".join(re.split(r"[/\\]", name.replace("\0", ""))[-1].split()))
    return name if name.strip("._ ") else ""


def _name_of(part: EmailMessage, number: int) -> str:
    """The name of an attachment, made up if it has none."""
    import mimetypes

    kind = part.get_content_type()
    known = {"message/rfc822": ".eml", "text/plain": ".txt", "text/html": ".html", "image/jpeg": ".jpg"}
    suffix = known.get(kind) or mimetypes.guess_extension(kind) or ""
    return _file_name_of(part) or f"attachment-{number + 1}{suffix}"


def _header(message: EmailMessage, name: str) -> str:
    raw = next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), "")
    if not raw.isascii():  # bytes that nothing declares
        try:
            value = decode(raw.encode("utf-8", "surrogateescape")).text
        except Rejected:
            value = writable(raw)
    else:
        try:
            value = str(message.get(name, ""))
        except DAMAGE:  # what email cannot parse stays as it is
            value = raw
    return " ".join(value.split())


def _unflowed(text: str, part: EmailMessage) -> str:
    """A body in the format of RFC 3676, with the lines joined that end in a blank."""
    joiner = "" if str(part.get_param("delsp", "")).lower() == "yes" else " "
    lines: list[str] = []
    flows = ""  # the quote signs of the line before, if it goes on
    is_open = False
    for line in text.splitlines():
        signs = re.match(r">*", line)[0]  # type: ignore[index] # it matches nothing at least
        content = line[len(signs) :].removeprefix(" ")
        if is_open and signs == flows and content != "-- ":
            lines[-1] = lines[-1].rstrip(" ") + joiner + content
        else:
            lines.append(f"{signs} {content}" if signs else content)
        is_open, flows = content.endswith(" ") and content != "-- ", signs
    return "\n".join(line.rstrip() for line in lines)


def _text_of_page(html: str) -> str:
    from llm.data.readers import markup

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "message.html"
        path.write_bytes(writable(html).encode())
        return markup.read(path, "html").text.strip()


def read_outlook(path: Path) -> Mail:
    """A message that Outlook saved (.msg).

    Raises:
        Rejected: it is damaged.
    """
    from oxmsg import Message

    not_read: Counter[str] = Counter()
    try:
        message = Message.load(str(path))
        body = (message.body or "").replace("\r\n", "\n").strip()
        try:
            html = message.html_body or ""
        except DAMAGE:
            html = ""
        body = _chosen(body, html)
        date = message.sent_date
        headers = {
            "Subject": " ".join(message.subject.split()),
            "From": " ".join((message.sender or "").split()),
            "Date": date.strftime("%a, %d %b %Y %H:%M:%S %z") if date and date.year > 1601 else "",  # 1601: not sent
        }
        attachments = []
        for number, attached in enumerate(message.attachments):
            try:
                data, name = attached.file_bytes, attached.file_name or f"attachment-{number + 1}"
            except DAMAGE:
                data, name = None, ""
            if data:
                attachments.append(Attachment(_file_name(name) or f"attachment-{number + 1}", data))
            else:  # a link, or a message in the message
                not_read["attachments"] += 1
        has_rtf = bool(message.properties.binary_prop_value(_RTF_BODY))
    except DAMAGE as error:
        raise Rejected(f"damaged mail: it cannot be read ({describe(error)})") from None
    if not body and has_rtf:
        not_read["parts of the body"] += 1
    if not body and not attachments:
        raise Rejected(f"no text: the mail has no body{' but one in RTF' if has_rtf else ''}", not_read)
    return Mail(_with_headers(headers, body), attachments, not_read=not_read)
