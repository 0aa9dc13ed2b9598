"""Names for the binary formats that no reader knows, so that the manifest says what a file is.

Worth knowing: a signature here must not fit a text in any encoding, UTF-16 without a mark among them.
"""

from __future__ import annotations

import re

_SIGNATURES = {
    "JPEG XL picture": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "Photoshop picture": rb"8BPS\0",
    "OpenEXR picture": rb"\x76\x2f\x31\x01",
    "camera raw picture": rb".{4}ftypcrx |FUJIFILMCCD-RAW|II\x1a\0\0\0HEAPCCDR",
    "icon": rb"\0\0[\x01\x02]\0[^\0]\0",
    "Windows metafile drawing": rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF",
    "AutoCAD drawing": rb"AC10\d\d",
    "DjVu document": rb"AT&TFORM",
    "WordPerfect document": rb"\xffWPC",
    "OneNote notebook": rb"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d|\xa1\x2f\xff\x43\xd9\xef\x76\x4c",
    "compiled help (CHM)": rb"ITSF\x03\0",
    "Windows help (HLP)": rb"\x3f\x5f\x03\0",
    "offline encyclopedia (ZIM)": rb"ZIM\x04.{3}\0",
    "compiled translations (MO)": rb"\xde\x12\x04\x95[\0\1]\0|\x95\x04\x12\xde\0[\0\1]",
    "Arrow or Feather table (save it as Parquet)": rb"ARROW1\0\0|FEA1\0|\xff{4}.{2}\0\0\x10\0\0\0",
    "Mobipocket book": rb".{60}(?:BOOKMOBI|TEXtREAd)",
    "Microsoft Reader book": rb"ITOLITLS",
    "Outlook mailbox (PST)": rb"!BDN",
    "Access database": rb"\0\x01\0\0Standard (?:Jet|ACE) DB",
    "MP4, QuickTime or 3GP video or audio": rb".{4}(?:ftyp|moov|mdat|wide\0)",
    "AVI video": rb"RIFF.{4}AVI ",
    "WAV audio": rb"RIFF.{4}WAVE",
    "Matroska or WebM video": rb"\x1a\x45\xdf\xa3",
    "Windows Media video or audio": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "Flash video or animation": rb"FLV\x01|[CF]WS[\x01-\x30].{3}\0",
    "MPEG video": rb"\0\0\x01[\xba\xb3]",
    "MP3 audio": rb"\xff[\xfb\xf3\xf2][\x10-\xeb]|ID3[\x02-\x04]",
    "AIFF audio": rb"FORM.{4}AIF[FC]",
    "MIDI music": rb"MThd\0\0\0\x06",
    "font": rb"\0\x01\0\0\0[\x01-\x40]|OTTO\0|ttcf\0|wOF[F2]",
    "Windows program or library": rb"MZ.{58,}?PE\0\0|MZ[\x90\x50\0]\0",
    "Mach-O program": rb"[\xcf\xce]\xfa\xed\xfe|\xfe\xed\xfa[\xcf\xce]",
    "ar archive (a Debian package or a library)": rb"!<arch>\n",
    "RPM package": rb"\xed\xab\xee\xdb",
    "Unix compress file (unpack it with uncompress)": rb"\x1f\x9d",
    "LZ4 file": rb"\x04\x22\x4d\x18",
    "lzip file": rb"LZIP\x01",
    "HDF5 data": rb"\x89HDF\r\n",
    "NetCDF data": rb"CDF[\x01\x02\x05]",
    "NumPy array": rb"\x93NUMPY",
    "Python pickle": rb"\x80[\x02-\x05](?:\x95.{6}\0\0|[\x5d\x7d\x28c]q?)",
    "GGUF model": rb"GGUF[\x01-\x0f]\0",
    "compiled Python code": rb"..\r\n[\0-\x03]\0\0\0",
    "Apple property list": rb"bplist0",
    "Windows shortcut": rb"L\0\0\0\x01\x14\x02\0",
    "Windows registry": rb"regf.{4}",
    "network capture": rb"\xd4\xc3\xb2\xa1|\xa1\xb2\xc3\xd4|\x0a\x0d\x0d\x0a.{4}\x4d\x3c\x2b\x1a",
    "disk image": rb"QFI\xfb|KDMV|vhdxfile|conectix",
}
_PATTERNS = {name: re.compile(signature, re.DOTALL) for name, signature in _SIGNATURES.items()}


def unread_format(head: bytes) -> str:
    """What a binary file that begins like this is, or an empty string."""
    return next((name for name, pattern in _PATTERNS.items() if pattern.match(head)), "")
