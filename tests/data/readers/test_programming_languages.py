from __future__ import annotations

import re
from fnmatch import fnmatch

import pytest
from pygments.lexers import get_all_lexers

from llm.data.readers.programming_languages import _BY_NAME, _BY_SUFFIX, language_of

# Our names of languages that Pygments calls otherwise, or knows by dialect only.
OTHER_NAMES = {
    "assembly": "nasm gas", "css": "sass scss less", "fortran": "fortranfixed", "gradle": "groovy", "idl": "webidl",
    "javascript": "jsx", "json": "json5", "objective-c": "objectivec++", "pascal": "puppet", "ini": "properties",
    "robot framework": "robotframework", "scala": "supercollider", "typescript": "tsx", "vba": "vb.net",
    "common lisp": "newlisp", "clojure": "clojurescript", "xml schema": "xml", "capnproto": "capnp",
}  # fmt: skip


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9+#]", "", name.lower())


def test_suffixes_mean_what_pygments_takes_them_for() -> None:
    lexers = list(get_all_lexers())
    differ = {}
    n_known = 0
    for suffix, language in _BY_SUFFIX.items():
        names = {
            plain(name)
            for title, aliases, patterns, _ in lexers
            if any(fnmatch(f"x.{suffix}", pattern.lower()) for pattern in patterns)
            for name in (title, *aliases)
        }
        n_known += bool(names)
        ours = {plain(language), *map(plain, OTHER_NAMES.get(language, "").split())}
        if names and not any(own and own in name for own in ours for name in names):
            differ[suffix] = (language, sorted(names))
    assert n_known > 150
    assert differ == {"cls": ("apex", ["abl", "openedge", "openedgeabl", "progress"])}


def test_there_are_many_languages() -> None:
    assert len({*_BY_SUFFIX.values(), *_BY_NAME.values()}) >= 100


@pytest.mark.parametrize(
    ("name", "head", "language"),
    [
        ("a.h", b"#include <x.h>\nint f(void);\n", "c"),
        ("a.h", b"#pragma once\nnamespace x {\nclass Y;\n}\n", "c++"),
        ("a.h", b"#import <Foundation/Foundation.h>\n@interface A : NSObject\n", "objective-c"),
        ("a.m", b'#import "A.h"\n@implementation A\n', "objective-c"),
        ("a.m", b"function y = f(x)\n% twice x\ny = 2 * x;\n", "matlab"),
        ("a.v", b"module main\n\nfn main() {\n}\n", "v"),
        ("a.v", b"module counter (input clk, output reg [3:0] q);\n", "verilog"),
        ("a.v", b"Require Import List.\nLemma l : True.\n", "coq"),
        ("a.pl", b"use strict;\nmy $x = 1;\n", "perl"),
        ("a.pl", b"parent(tom, bob).\ngrandparent(X, Z) :- parent(X, Y), parent(Y, Z).\n", "prolog"),
        ("a.pro", b"QT += core\nSOURCES += main.cpp\n", "qmake"),
        ("a.pp", b"class nginx {\n  package { 'nginx': ensure => installed }\n}\n", "puppet"),
        ("a.pp", b"program Hello;\nbegin\nend.\n", "pascal"),
        ("a.ts", b"export const x: number = 1\n", "typescript"),
        ("a.ts", b'<?xml version="1.0"?>\n<!DOCTYPE TS>\n', "xml"),
        ("a.cl", b"__kernel void f(__global float *x) {}\n", "opencl"),
        ("run.cgi", b"#!/usr/bin/perl -w\n", "perl"),
        ("run", b"#!/usr/bin/env -S deno run\n", "typescript"),
        ("run", b"#!/usr/bin/env python3.11\n", "python"),
        ("notes.md", b"#!/bin/sh is the first line of a script\n", ""),
        ("Dockerfile.test", b"FROM debian\n", "dockerfile"),
        ("Makefile.am", b"bin_PROGRAMS = x\n", "make"),
        ("CMakeLists.txt", b"project(x)\n", "cmake"),
        (".py", b"", ""),
        ("README", b"", ""),
        ("data.unknown", b"x", ""),
    ],
)
def test_content_tells_languages_of_one_suffix_apart(name: str, head: bytes, language: str) -> None:
    assert language_of(name, head) == language


@pytest.mark.parametrize(
    ("name", "head", "language"),
    [
        ("a.py", b"", "python"),
        ("Makefile", b"", "make"),
        ("a.H", b"", "c"),
        ("run", b"#!/usr/bin/env python3\n", "python"),
        ("run", b"#!/bin/bash -e\n", "shell"),
        ("run", b"#! /usr/bin/env -S node --x\n", "javascript"),
        ("README", b"", ""),
        ("notes.txt", b"#!/bin/sh\n", ""),
        ("x.json", b"", "json"),
        ("archive", b"#!magic", ""),
        ("CMakeLists.txt", b"", "cmake"),
    ],
)
def test_language_by_name_and_shebang(name: str, head: bytes, language: str) -> None:
    assert language_of(name, head) == language
