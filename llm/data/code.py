"""Source code: decoded, and otherwise left as it is; and the table of languages.

Worth knowing: indentation, trailing blanks and odd characters can all be part of a program, so only newlines are
normalised and control characters dropped. The language comes from the file's name, then from its #! line.
"""

from __future__ import annotations

import re
from pathlib import Path

from llm.config import IngestParams
from llm.data.extract import Extraction
from llm.data.text import decode, tidy_characters

READER_VERSION = 1

# Language: the suffixes of its files, then whole names in lower case, marked by a slash.
_LANGUAGES = """
ada: adb ads | assembly: asm s | awk: awk | batch: bat cmd | c#: cs | c++: cc cpp cxx hh hpp hxx inl ipp | c: c h
clojure: clj cljs cljc edn | cmake: cmake /cmakelists.txt | cobol: cob cbl | coffeescript: coffee | crystal: cr
css: css scss sass less | cuda: cu cuh | cython: pyx pxd pxi | d: d | dart: dart | diff: diff patch
dockerfile: dockerfile /dockerfile /containerfile | elisp: el | elixir: ex exs | elm: elm | erlang: erl hrl
f#: fs fsi fsx | fish: fish | fortran: f f77 f90 f95 f03 f08 for | gdscript: gd | glsl: glsl vert frag comp hlsl wgsl
go: go /go.mod | gradle: gradle | graphql: graphql gql | groovy: groovy /jenkinsfile | haskell: hs lhs | haxe: hx
hcl: hcl tf tfvars nomad | ini: ini cfg conf properties | java: java | javascript: js mjs cjs jsx
json: json jsonl json5 | julia: jl | kotlin: kt kts | lisp: lisp lsp cl scm ss rkt | llvm: ll | lua: lua | m4: m4 ac
make: mk mak /makefile /gnumakefile | meson: /meson.build /meson_options.txt | nasm: nasm | nim: nim nims | nix: nix
objective-c: m mm | ocaml: ml mli | pascal: pas pp dpr | perl: pl pm t | php: php | powershell: ps1 psm1 psd1
prolog: pro prolog | protobuf: proto | python: py pyi pyw /sconstruct | r: r | raku: raku rakumod
ruby: rb rake gemspec /rakefile /gemfile | rust: rs | sas: sas | scala: scala sbt sc | shell: sh bash zsh ksh
smalltalk: st | solidity: sol | sql: sql | starlark: bzl star /build /workspace | stata: do ado | svelte: svelte
swift: swift | systemverilog: sv svh | tcl: tcl tk | toml: toml | typescript: ts tsx mts cts | v: v | vala: vala
vba: vb vba bas frm | vhdl: vhd vhdl | vim: vim | vue: vue | xml: xml xsd xsl xslt svg | yaml: yaml yml | zig: zig
"""
_INTERPRETERS = {
    "python": "python", "bash": "shell", "sh": "shell", "zsh": "shell", "ksh": "shell", "dash": "shell",
    "perl": "perl", "ruby": "ruby", "node": "javascript", "php": "php", "lua": "lua", "tclsh": "tcl", "awk": "awk",
    "gawk": "awk", "rscript": "r", "make": "make", "fish": "fish", "pwsh": "powershell", "guile": "lisp",
}  # fmt: skip
_SHEBANG = re.compile(rb"#!\s*(?:\S*/)?([^/\s]+)(?:[ \t]+(?:-\S+\s+)*(\S+))?")  # program, and its first argument


def read(path: Path, params: IngestParams) -> Extraction:
    """The file as one text, with its language.

    Raises:
        Rejected: the content is binary or in no known encoding.
    """
    data = path.read_bytes()
    text, encoding = decode(data)
    return Extraction(
        [tidy_characters(text)],
        n_pages=0,
        extractor=f"code {READER_VERSION} ({encoding})",
        language=language_of(path.name, data[:256]),
    )


def language_of(name: str, head: bytes = b"") -> str:
    """The programming language of a file with this name and beginning, or an empty string if it is none."""
    name = name.lower()
    suffix = name.rpartition(".")[2] if "." in name else ""
    language = _BY_NAME.get(name) or _BY_SUFFIX.get(suffix, "")
    if not language and not suffix and (shebang := _SHEBANG.match(head)):
        program, argument = (part.decode("ascii", "replace").lower() for part in (shebang[1], shebang[2] or b""))
        program = argument.rpartition("/")[2] if program == "env" else program
        language = _INTERPRETERS.get(program.rstrip("0123456789."), "")
    return language


def _tables() -> tuple[dict[str, str], dict[str, str]]:
    by_suffix: dict[str, str] = {}
    by_name: dict[str, str] = {}
    for entry in _LANGUAGES.replace("\n", "|").split("|"):
        language, _, keys = entry.strip().partition(": ")
        for key in keys.split():
            table = by_name if key.startswith("/") else by_suffix
            table[key.lstrip("/")] = language
    return by_suffix, by_name


_BY_SUFFIX, _BY_NAME = _tables()
