#!/usr/bin/env bash
# Guess: the text that pdfium gives of a page is what it draws of it.
# Seen (pypdfium2 5.15.2): a layer (optional content group) that is off is not drawn, but its text is in the text page, in
# the middle of the visible line. Removing the page's objects of that layer before the text page is loaded helps.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pypdfium2==5.15.2 pillow numpy 2>"$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'P'
import importlib.metadata

import pypdfium2

content = b"BT /F1 20 Tf 20 100 Td (shown) Tj ET /OC /L BDC BT /F1 20 Tf 90 100 Td (hidden) Tj ET EMC"
objects = [
    b"<</Type/Catalog/Pages 2 0 R/OCProperties<</OCGs[6 0 R]/D<</OFF[6 0 R]/Order[6 0 R]>>>>>>",
    b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
    b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>/Properties<</L 6 0 R>>>>>>",
    b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
    b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    b"<</Type/OCG/Name(draft)>>",
]
pdf, offsets = b"%PDF-1.5\n", []
for number, body in enumerate(objects, 1):
    offsets.append(len(pdf))
    pdf += b"%d 0 obj%s endobj\n" % (number, body)
start = len(pdf)
pdf += b"xref\n0 7\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % at for at in offsets)
pdf += b"trailer<</Size 7/Root 1 0 R>>startxref\n%d\n%%%%EOF" % start

page = pypdfium2.PdfDocument(pdf)[0]
picture = page.render(scale=2).to_numpy()
ink = (picture.min(axis=2) < 128).any(axis=0)  # columns with something drawn
text = page.get_textpage().get_text_range()
print("pypdfium2", importlib.metadata.version("pypdfium2"))
print("drawn right of x=90:", bool(ink[180:].any()), "text:", repr(text))
assert ink[:180].any() and not ink[180:].any()
assert "hidden" in text
P
