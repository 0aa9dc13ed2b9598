#!/usr/bin/env bash
# Guess: lxml.html with huge_tree=True reads pages of any depth, or raises an error.
# Seen (6.1.3, libxml2 of its wheel): text below some two thousand nested elements is missing from the tree, no exception is
# raised, and only parser.error_log says that a resource limit was hit.
# What to do: look at parser.error_log for ERR_RESOURCE_LIMIT after each page, and read such pages in another way.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check lxml==6.1.3 2>"$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'P'
from lxml import etree, html

print("lxml", etree.LXML_VERSION, "libxml2", etree.LIBXML_VERSION)
for depth in (1000, 3000):
    page = "<html><body>" + "<div>" * depth + "the innermost" + "</div>" * depth + "</body></html>"
    parser = html.HTMLParser(huge_tree=True)
    text = html.document_fromstring(page, parser=parser).text_content()
    limits = [entry.type_name for entry in parser.error_log if "LIMIT" in entry.type_name]
    print(depth, "levels: text is", "there" if "the innermost" in text else "missing", "log:", limits[:1])
    assert ("the innermost" in text) == (depth == 1000)
    assert bool(limits) == (depth == 3000)
P
