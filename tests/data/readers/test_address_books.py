from __future__ import annotations

from pathlib import Path

from llm.data.readers import address_books


def test_calendars(tmp_path: Path) -> None:
    (tmp_path / "a.ics").write_bytes(
        b"BEGIN:VCALENDAR\r\nPRODID:-//x//y\r\nBEGIN:VTIMEZONE\r\nTZID:Europe/Berlin\r\nCOMMENT:hidden\r\nEND:VTIMEZONE\r\n"
        b"BEGIN:VEVENT\r\nUID:1-2\r\nDTSTART;TZID=Europe/Berlin:20240131T093000\r\nDTEND;VALUE=DATE:20240201\r\n"
        b"SUMMARY:Meeting\\, of the\r\n  board\r\nDESCRIPTION:Line one\\nline two\\; end\r\n"
        b'ORGANIZER;CN="Lee: Ann";ROLE=CHAIR:mailto:ann@x.org\r\nATTENDEE:mailto:bob@x.org\r\nATTACH:http://x.org/a\r\n'
        b"BEGIN:VALARM\r\nDESCRIPTION:Reminder\r\nEND:VALARM\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    plain = address_books.read(tmp_path / "a.ics")
    assert plain.text.split("\n") == [
        "2024-01-31 09:30", "2024-02-01", "Meeting, of the board", "Line one", "line two; end", "Lee: Ann", "bob@x.org"
    ]  # fmt: skip
    assert plain.not_read == {"attachments": 1}


def test_address_books(tmp_path: Path) -> None:
    (tmp_path / "a.vcf").write_bytes(
        b"BEGIN:VCARD\nVERSION:4.0\nN:Lee;Ann;;;\nFN:Ann Lee\nORG:The Board;Levels\nitem1.TEL;TYPE=cell:+1 555\n"
        b"ADR;TYPE=home:;;1 Main St\\, back;Town;;12345;Land\nPHOTO;ENCODING=b:AAAA\n BBBB\nBDAY:19700102\nEND:VCARD\n"
        b"BEGIN:VCARD\nVERSION:2.1\n"
        b"FN;CHARSET=ISO-8859-1;ENCODING=QUOTED-PRINTABLE:J=FCrgen=\n M\xc3\xbcller\nEND:VCARD\n"
    )
    plain = address_books.read(tmp_path / "a.vcf")
    first, second = plain.text.split("\n\n")
    assert first == "Ann Lee\nThe Board Levels\n+1 555\n1 Main St, back, Town, 12345, Land\n1970-01-02"
    assert second.startswith("Jürgen")
    assert plain.not_read == {"pictures": 1}
