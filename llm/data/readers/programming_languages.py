"""The programming language of a file: by its suffix or name, by what begins it, by its #! line.

Worth knowing: several languages share a suffix (.h, .m, .v). One of them is the default; the others are told by a word
that begins a line in them and in no other. The identify package was tried: docs/log.md says why it is not used.
"""

from __future__ import annotations

import re

# Language: the suffixes of its files, then whole names in lower case, marked by a slash.
_LANGUAGES = """
actionscript: as | ada: adb ads | agda: agda | antlr: g4 | apex: cls apex | applescript: applescript | assembly: asm s
autohotkey: ahk | autoit: au3 | awk: awk | batch: bat cmd | bicep: bicep | c#: cs csx
c++: cc cpp cxx hh hpp hxx inl ipp tpp | c: c h | capnproto: capnp | chapel: chpl | clojure: clj cljs cljc edn
cmake: cmake /cmakelists.txt | cobol: cob cbl cpy | coffeescript: coffee | common lisp: lisp lsp cl asd | crystal: cr
css: css scss sass less | cuda: cu cuh | cue: cue | cython: pyx pxd pxi | d: d di | dart: dart | dhall: dhall
diff: diff patch | dockerfile: dockerfile /dockerfile /containerfile | eiffel: e | elisp: el | elixir: ex exs
elm: elm | erlang: erl hrl | f#: fs fsi fsx | factor: factor | fish: fish | forth: fth 4th
fortran: f f77 f90 f95 f03 f08 for | gdscript: gd | gherkin: feature | glsl: glsl vert frag comp | go: go /go.mod
gradle: gradle | graphql: graphql gql | groovy: groovy /jenkinsfile | handlebars: hbs handlebars | haskell: hs lhs hsc
haxe: hx | hcl: hcl tf tfvars nomad | hlsl: hlsl fx | idl: idl webidl | idris: idr | ini: ini cfg conf properties
io: io | java: java | javascript: js mjs cjs jsx | jinja: j2 jinja jinja2 | json: json json5 jsonc geojson webmanifest
jsonnet: jsonnet libsonnet | julia: jl | just: just /justfile | kotlin: kt kts ktm | lean: lean | llvm: ll | lua: lua
m4: m4 ac | make: mk mak /makefile /gnumakefile am | mathematica: wl wls | meson: /meson.build /meson_options.txt
mlir: mlir | modula-2: mod | nasm: nasm | nim: nim nims nimble | nix: nix | nushell: nu | objective-c: m mm
ocaml: ml mli mll mly | opencl: clh | pascal: pas pp dpr lpr | perl: pl pm t xs /cpanfile
php: php phtml php3 php4 php5 | pony: pony | powershell: ps1 psm1 psd1 | prolog: pro prolog
protobuf: proto | pug: pug jade | puppet: epp | purescript: purs | python: py pyi pyw /sconstruct /sconscript /wscript
qml: qml | r: r rprofile | racket: rkt | raku: raku rakumod p6 | reason: re rei | rego: rego | rescript: res resi
robot framework: robot | ruby: rb rake gemspec podspec ru erb /rakefile /gemfile /vagrantfile /brewfile /podfile
rust: rs | sas: sas | scala: scala sbt sc | scheme: scm ss sld | shell: sh bash zsh ksh bats /pkgbuild /configure
smalltalk: st | solidity: sol | spss: sps | sql: sql ddl dml psql | standard ml: sml sig fun
starlark: bzl star bazel /build /workspace | stata: do ado | stylus: styl | svelte: svelte | swift: swift
systemverilog: sv svh | tcl: tcl tk | thrift: thrift | toml: toml | typescript: ts tsx mts cts | v: v vsh
vala: vala vapi | vba: vb vba bas frm | verilog: vh vlog | vhdl: vhd vhdl | vim: vim /vimrc | vue: vue
webassembly: wat wast | wgsl: wgsl | xml: svg xsd | xquery: xq xql xquery | xslt: xsl xslt | yacc: y yy
yaml: yaml yml | zig: zig zon
"""
_INTERPRETERS = {
    "python": "python", "pypy": "python", "bash": "shell", "sh": "shell", "zsh": "shell", "ksh": "shell",
    "dash": "shell", "ash": "shell", "perl": "perl", "ruby": "ruby", "node": "javascript", "nodejs": "javascript",
    "deno": "typescript", "bun": "typescript", "ts-node": "typescript", "php": "php", "lua": "lua", "luajit": "lua",
    "tclsh": "tcl", "wish": "tcl", "expect": "tcl", "awk": "awk", "gawk": "awk", "mawk": "awk", "rscript": "r",
    "make": "make", "fish": "fish", "pwsh": "powershell", "guile": "scheme", "racket": "racket", "sbcl": "common lisp",
    "julia": "julia", "groovy": "groovy", "scala": "scala", "elixir": "elixir", "escript": "erlang", "swipl": "prolog",
    "ocaml": "ocaml", "runhaskell": "haskell", "runghc": "haskell", "octave": "matlab", "raku": "raku", "nu": "nushell",
    "crystal": "crystal", "nim": "nim", "bats": "shell", "sed": "sed", "nix-shell": "nix", "just": "just",
}  # fmt: skip
_PLAIN_TEXT = {"txt", "text", "md", "markdown", "rst", "log", "csv", "tsv"}  # whatever their first line looks like
# Suffixes that several languages use: what tells the others apart from the one in the table above.
_TELLTALES: dict[str, list[tuple[re.Pattern[bytes], str]]] = {
    suffix: [(re.compile(pattern, re.MULTILINE), language) for pattern, language in rules]
    for suffix, rules in {
        "h": [
            (rb"^\s*(@interface|@protocol|@class|#import)\b", "objective-c"),
            (rb"^\s*(class|namespace|template|using|public:|private:)(?!\w)", "c++"),
        ],
        "m": [(rb"^\s*(%|function\b|end\s*$|clear\b|clc\b)", "matlab")],
        "v": [
            (rb"^\s*(module\s+\w+\s*[(#;]|`timescale|`include|endmodule)", "verilog"),
            (rb"^\s*(Require|Lemma|Theorem|Definition|Inductive|Proof)\b", "coq"),
        ],
        "pl": [(rb"^\s*:-|^[a-z]\w*\(.*\)\s*(:-|\.\s*$)", "prolog")],
        "pro": [(rb"^\s*(QT|TEMPLATE|TARGET|SOURCES|CONFIG|HEADERS)\s*[+*-]?=", "qmake")],
        "pp": [(rb"^\s*(class|define|node)\s+[\w:]+.*\{", "puppet")],
        "cl": [(rb"\b(__kernel|__global|get_global_id)\b", "opencl")],
        "fs": [(rb"^\s*(#version|void\s+main\s*\()", "glsl")],
        "ts": [(rb"^\s*<(\?xml|!DOCTYPE TS|TS\b)", "xml")],
        "cls": [
            (rb"\\(NeedsTeXFormat|ProvidesClass|def)\b", "tex"),
            (rb"^(VERSION|Attribute|Option Explicit)\b", "vba"),
        ],
        "d": [(rb"^[\w./-]+\.o\s*:", "make")],
        "mod": [(rb"^\s*(<\?xml|<!)", "xml")],
    }.items()
}
_SHEBANG = re.compile(rb"#!\s*(?:\S*/)?([^/\s]+)(?:[ \t]+(?:-\S+\s+)*(\S+))?")  # program, and its first argument


def language_of(name: str, head: bytes = b"") -> str:
    """The programming language of a file with this name and beginning, or an empty string if it is none."""
    name = name.lower()
    stem, _, suffix = name.rpartition(".")
    for pattern, language in _TELLTALES.get(suffix, []) if stem else []:
        if pattern.search(head):
            return language
    language = _BY_NAME.get(name) or (_BY_SUFFIX.get(suffix, "") if stem else "")
    if not language and suffix not in _PLAIN_TEXT and (shebang := _SHEBANG.match(head)):
        program, argument = (part.decode("ascii", "replace").lower() for part in (shebang[1], shebang[2] or b""))
        program = argument.rpartition("/")[2] if program == "env" else program
        language = _INTERPRETERS.get(program.rstrip("0123456789."), "")
    return language or _BY_NAME.get(stem, "")  # Dockerfile.test


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
