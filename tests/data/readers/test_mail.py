from __future__ import annotations

import base64
import binascii
import mailbox
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

import pytest

from llm.data.documents import read_documents
from llm.data.readers.base import Rejected
from llm.data.readers.identify import identify
from llm.data.readers.mail import mailbox_kind, read_message, read_outlook
from tests.support.compound_files import write_message
from tests.support.files import column, draw_pdf, ingest, ingest_params, length_filter, prose
from tests.support.ingest_output import manifest

PARAMS = ingest_params(ocr="never", near_duplicate_threshold=1.0)
BODY = "Die Wasserstände im März waren höher als je zuvor.\n"


def message(body: str = BODY, **options: str) -> EmailMessage:
    mail = EmailMessage()
    mail["Received"] = "from mail.example.org by mx.example.net; Mon, 3 May 2004 08:15:00 +0200"
    mail["DKIM-Signature"] = "v=1; a=rsa-sha256; b=Zm9vYmFy"
    mail["From"] = "Jörg Keeper <keeper@example.org>"
    mail["Subject"] = "Wasserstände im März"
    mail["Date"] = "Mon, 03 May 2004 08:14:59 +0200"
    mail.set_content(body, **options)
    return mail


HEADERS = (
    "Subject: Wasserstände im März\nFrom: Jörg Keeper <keeper@example.org>\nDate: Mon, 03 May 2004 08:14:59 +0200\n\n"
)


def texts(folder: Path, output: Path) -> dict[str, str]:
    ingest(folder, output, output.parent / "work", PARAMS, cleaner=length_filter(1))
    return {document.source: document.text for document in read_documents(output)}


@pytest.mark.parametrize(
    ("charset", "cte"), [("utf-8", "base64"), ("utf-8", "quoted-printable"), ("iso-8859-1", "8bit")]
)
def test_a_message_is_its_text(tmp_path: Path, charset: str, cte: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.eml").write_bytes(bytes(message(charset=charset, cte=cte)))
    assert texts(tmp_path / "in", tmp_path / "out") == {"a.eml": HEADERS + BODY.strip()}
    assert manifest(tmp_path / "out")["a.eml"]["modality"] == "text"


def test_attachments_are_members(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    draw_pdf(tmp_path / "report.pdf", [column(["a report on the levels of the water"])])
    mail = message()
    mail.add_attachment((tmp_path / "report.pdf").read_bytes(), "application", "pdf", filename="../Bericht März.pdf")
    mail.add_attachment(message("the first letter\n"))
    mail.add_attachment(b"\0\1\2" * 99, "application", "octet-stream")
    (tmp_path / "in" / "a.eml").write_bytes(bytes(mail))
    found = texts(tmp_path / "in", tmp_path / "out")
    assert found["a.eml!/message.txt"] == HEADERS + BODY.strip()
    assert "levels of the water" in found["a.eml!/Bericht März.pdf"]
    rows = manifest(tmp_path / "out")
    assert rows["a.eml"]["status"] == "unpacked"
    kept = [row["modality"] for name, row in rows.items() if "!/" in name and row["status"] == "kept"]
    assert sorted(kept) == ["pdf", "text", "text"]
    assert rows["a.eml!/attachment-3.bin"]["reason"].startswith("binary content")
    assert any(text.endswith("the first letter") for text in found.values())


def test_a_mailbox_loses_one_message_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    box = mailbox.mbox(tmp_path / "in" / "Inbox")
    for body in (BODY, "From here you can see it.\n\nFrom the tower as well.\n", "the last\n"):
        box.add(message(body))
    box.flush()
    box.close()
    data = (tmp_path / "in" / "Inbox").read_bytes()
    broken = b"From x@y Mon May  3 08:15:00 2004\nSubject: nothing\nFrom: a@b\n\n\n\n"
    (tmp_path / "in" / "Inbox").write_bytes(broken + data)
    found = texts(tmp_path / "in", tmp_path / "out")
    assert [text.removeprefix(HEADERS) for text in found.values()] == [
        BODY.strip(), "From here you can see it.\n\nFrom the tower as well.", "the last",
    ]  # fmt: skip
    row = manifest(tmp_path / "out")["Inbox!/1/message.txt"]
    assert (row["status"], row["reason"]) == ("rejected", "no text: the mail has no body")


def test_maildir_and_apple_mail(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    maildir = mailbox.Maildir(tmp_path / "in" / "mail")
    maildir.add(message("in the inbox\n"))
    maildir.add_folder("Sent").add(message("in a folder\n"))
    (tmp_path / "in" / ".ssh" / "new").mkdir(parents=True)
    (tmp_path / "in" / ".ssh" / "new" / "key").write_text("a secret")
    data = bytes(message("in Apple's mail\n"))
    (tmp_path / "in" / "5.emlx").write_bytes(b'%-10d\n%b<?xml version="1.0"?><plist/>' % (len(data), data))
    found = [text.removeprefix(HEADERS) for text in texts(tmp_path / "in", tmp_path / "out").values()]
    assert sorted(found) == ["in Apple's mail", "in a folder", "in the inbox"]


def test_a_saved_page_is_a_page(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    page = MIMEMultipart("related")
    page["From"], page["Subject"] = "<Saved by Blink>", "Levels"
    page["Snapshot-Content-Location"] = "http://example.org/"
    page.attach(MIMEText(f"<html><body><p>{prose(600)} café</p></body></html>", "html", "utf-8"))
    page.attach(MIMEText("body { color: red }", "css"))
    (tmp_path / "in" / "page.mht").write_bytes(bytes(page))
    assert texts(tmp_path / "in", tmp_path / "out") == {"page.mht": f"{prose(600)} café"}


def test_the_better_of_two_bodies() -> None:
    mail = message("the plain text\n")
    mail.add_alternative("<p>the <b>plain</b> text</p>", "html")
    assert read_message(bytes(mail)).text == HEADERS + "the plain text"
    stub = message("Your program cannot show HTML.\n")
    stub.add_alternative(f"<html><body><p>{prose(600)}</p></body></html>", "html")
    assert read_message(bytes(stub)).text == HEADERS + prose(600)
    both = MIMEMultipart("mixed")
    both.attach(MIMEText("a letter"))
    both.attach(MIMEText("<p>and a footer that says something else</p>", "html"))
    assert read_message(bytes(both)).text == "a letter\n\nand a footer that says something else"


def test_what_mail_programs_get_wrong() -> None:
    russian = "Старый смотритель маяка каждое утро поднимался наверх и протирал стёкла."
    raw = b"Subject: %b\nFrom: a@b\nContent-Type: text/plain; charset=us-ascii\n\n%b" % (
        (russian.encode("koi8-r"),) * 2
    )
    assert read_message(raw).text == f"Subject: {russian}\nFrom: a@b\n\n{russian}"
    no_boundary = b"Subject: a\nFrom: a@b\nContent-Type: multipart/mixed\n\nstill a text"
    assert read_message(no_boundary).text.endswith("\n\nstill a text")
    cut_off = MIMEMultipart("mixed", boundary="=b=")
    cut_off.attach(MIMEText("all of it"))
    cut_off.attach(MIMEText("never sent"))
    data = bytes(cut_off)
    assert read_message(data[: data.index(b"never")]).text == "all of it"
    assert read_message(b"Date: 99 Foo 2004 99:99\nFrom: <<>,;@\nTo: x\n\nstill read").text.endswith("still read")


def test_soft_line_breaks_and_uuencoded_files() -> None:
    flowed = b"From: a@b\nContent-Type: text/plain; format=flowed\n\nOne \nparagraph.\n> A quoted \n> line.\n-- \nMe\n"
    assert read_message(flowed).text == "From: a@b\n\nOne paragraph.\n> A quoted line.\n--\nMe"
    lines = b"".join(binascii.b2a_uu(b"an old attachment " * 2) for _ in range(3))
    mail = read_message(b"From: a@b\n\nSee below.\n\nbegin 644 old.txt\n%b`\nend\n" % lines)
    assert (mail.text, mail.attachments) == ("From: a@b\n\nSee below.", [("old.txt", b"an old attachment " * 6)])


def test_what_is_in_neither_text_nor_attachments_is_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    signed = message()
    signed.add_alternative("<p>the same once more</p>", "html")  # another form of the body is nothing lost
    signed.add_attachment(b"-----BEGIN PGP SIGNATURE-----", "application", "pgp-signature", filename="sign.asc")
    signed.add_attachment(b"", "application", "octet-stream", filename="empty.bin")
    report = (
        b"From: a@b\nTo: c@d\nContent-Type: multipart/report; boundary=x\n\n--x\n\nIt could not be delivered.\n"
        b"--x\nContent-Type: message/delivery-status\n\nAction: failed\n--x--\n"
    )
    sealed = message()
    sealed.add_attachment(b"\x30\x82", "application", "pkcs7-mime", filename="smime.p7m")
    (tmp_path / "in" / "signed.eml").write_bytes(bytes(signed))
    box = mailbox.mbox(tmp_path / "in" / "Inbox")
    for data in (bytes(signed), report, bytes(sealed)):
        box.add(data)
    box.flush()
    box.close()
    found = texts(tmp_path / "in", tmp_path / "out")
    rows = manifest(tmp_path / "out")
    assert dict(rows["signed.eml"]["not_read"]) == {"empty attachments": 1, "signatures": 1}
    assert dict(rows["Inbox"]["not_read"]) == {
        "delivery reports": 1, "empty attachments": 1, "encrypted parts": 1, "signatures": 1,
    }  # fmt: skip
    assert not any("once more" in text for text in found.values())
    only_sealed = b"From: a@b\nContent-Type: application/pkcs7-mime; smime-type=enveloped-data\n\nMIIB"
    with pytest.raises(Rejected, match="encrypted mail") as rejection:
        read_message(only_sealed)
    assert rejection.value.not_read == {"encrypted parts": 1}


SUBJECT, BODY_TEXT, SENDER, ADDRESS = 0x37, 0x1000, 0xC1A, 0xC1F  # properties of messages
DATA, NAME, METHOD, HTML, RTF = 0x3701, 0x3707, 0x3705, 0x1013, 0x1009


def test_outlook(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    properties = {SUBJECT: "Wasserstände", BODY_TEXT: f"{BODY}\r\nBis bald", SENDER: "Jörg", ADDRESS: "j@example.org"}
    write_message(tmp_path / "in" / "plain.msg", properties, [])
    other = properties | {BODY_TEXT: "ein anderer Text"}
    files = [
        {NAME: "Pegel.csv", DATA: b"Mai,4.3\n", METHOD: 1},
        {NAME: "a message", METHOD: 5},
        {METHOD: 1, DATA: b"x"},
    ]
    write_message(tmp_path / "in" / "saved without a suffix", other, files)
    head = 'Subject: Wasserstände\nFrom: "Jörg" <j@example.org>\n\n'
    found = texts(tmp_path / "in", tmp_path / "out")
    name = "saved without a suffix"
    assert found["plain.msg"] == f"{head}{BODY}\nBis bald"
    assert found[f"{name}!/message.txt"] == f"{head}ein anderer Text"
    assert found[f"{name}!/Pegel.csv"] == "Mai,4.3"
    assert f"{name}!/attachment-3" in manifest(tmp_path / "out")
    assert dict(manifest(tmp_path / "out")[name]["not_read"]) == {"attachments": 1}


def test_other_bodies_of_outlook(tmp_path: Path) -> None:
    html = "<html><body><p>Nur als HTML: März</p></body></html>".encode()
    path = write_message(tmp_path / "a.msg", {SUBJECT: "S", HTML: html, 0x3FDE: 65001}, [])
    assert read_outlook(path).text == "Subject: S\n\nNur als HTML: März"
    path = write_message(tmp_path / "b.msg", {SUBJECT: "S", RTF: b"compressed"}, [])
    with pytest.raises(Rejected, match="no text: the mail has no body but one in RTF") as rejection:
        read_outlook(path)
    assert rejection.value.not_read == {"parts of the body": 1}
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Rejected, match="damaged mail"):
        read_outlook(path)


def test_nested_parts_do_not_end_the_run() -> None:
    deep = b"From: a@b\nTo: c@d\n" + b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(3000)
    )
    with pytest.raises(Rejected, match=r"damaged mail|no text"):
        read_message(deep)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "From: me\nTo: you\nSubject: hello\nDate: today\n\nA letter in a text file.\n"),
        ("notes", "From: the beginning\n\nit was a list.\n"),
        ("a.py", "From: x\n"),
        ("story.txt", "From there on it was easy.\nAnd so on, in 2004.\n"),
    ],
)
def test_what_is_no_mail(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert identify(str(tmp_path / name), name).container is None


def test_base64_of_other_files_is_no_text() -> None:
    mail = message()
    mail.add_attachment(b"\x89PNG\r\n\x1a\n" + bytes(500), "image", "png", filename="a.png")
    read = read_message(bytes(mail))
    assert base64.b64encode(bytes(300)).decode()[:60] not in read.text
    assert [name for name, _ in read.attachments] == ["a.png"]
    assert mailbox_kind("x.eml", bytes(mail)) == "mail"
