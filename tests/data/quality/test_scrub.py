"""What is found, what is left alone, and that the rest of a text stays as it is."""

from __future__ import annotations

import pickle
import random
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import ScrubParams
from llm.data.quality.scrub import KINDS, Scrubber

OFF: dict[str, Any] = {
    "emails": False,
    "ip_addresses": False,
    "phone_numbers": False,
    "phone_region": None,
    "secrets": False,
}


def scrubber(**on: Any) -> Scrubber:
    return Scrubber(ScrubParams(**OFF | on))


def letters(n: int, alphabet: str = string.ascii_letters + string.digits, seed: int = 1) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=n))


@pytest.mark.parametrize(
    "address",
    ["jane@example.org", "j.doe+list@sub.example.co.uk", "R-help@R-project.org", "müller@exämple.de", "a_b%c@x-y.info"],
)
def test_emails(address: str) -> None:
    scrub = scrubber(emails=True)
    for text in (f"{address}", f"Write to <{address}>, please.", f"mailto:{address}?subject=x", f"({address}).\n"):
        assert scrub(text) == (text.replace(address, "<email>"), {"email": 1})


@pytest.mark.parametrize(
    "text", ["@property", "x @ y", "a@b", "user@host", "foo@1.2", "@a.bc", "A@B.T", "user@10.0.0.1"]
)
def test_what_is_no_email(text: str) -> None:
    assert scrubber(emails=True)(text) == (text, {})


def test_ip_addresses() -> None:
    scrub = scrubber(ip_addresses=True)
    text = "from 151.101.128.223 to [2a04:4e42:600::223]:443, 130.89.148.77. via 2001:500:200::b."
    assert scrub(text) == ("from <ip> to [<ip>]:443, <ip>. via <ip>.", {"ip": 4})


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "192.168.100.200", "10.11.12.13", "203.0.113.195", "::1", "fe80::1ff:fe23:4567:890a"),
        *(
            "2001:db8::1",
            "1.2.3.4",
            "3.7.15.2",
            "8.2.4.44",
            "version 10.12.134.99",
            "v123.123.123.123",
            "Section 12.16.22.21",
        ),
        *(
            "151.101.128.223.5",
            "151.101.128.223-rc1",
            "351.101.128.223",
            "2023:11:12:13",
            "a::b",
            "std::vec::Vec",
            "3:45:12",
        ),
        *("2021:12:31 23:59:59", "lib2001:500:200::b"),
    ],
)
def test_what_is_no_public_address(text: str) -> None:
    assert scrubber(ip_addresses=True)(text) == (text, {})


@pytest.mark.parametrize("region", ["US", "DE", "GB", "FR", "IN", "JP", "BR", "CN", "AU", "ES"])
def test_phone_numbers(region: str) -> None:
    library = pytest.importorskip("phonenumbers")
    number = library.example_number(region)
    for form in ("E164", "INTERNATIONAL", "NATIONAL"):
        written = library.format_number(number, getattr(library.PhoneNumberFormat, form))
        text = f"Call {written}, or write."
        assert scrubber(phone_numbers=True, phone_region=region)(text) == ("Call <phone>, or write.", {"phone": 1})
        if form != "NATIONAL":
            assert scrubber(phone_numbers=True)(text)[1] == {"phone": 1}


@pytest.mark.parametrize(
    "text",
    [
        *("2147483647", "2022-12-12 22:44:21 +0200", "Decimal('+35236450.6')", "0.5772156649", "x+4915123456789"),
        *("20 35 45 55 70", "978-3-16-148410-0", "ISBN 0-306-40615-2", "1.6000 2.1585 4.0000", "6107-1415-32"),
        *("modified test (2147483648 is not", "huge = 2147483016 x 2"),
    ],
)
def test_what_is_no_phone_number(text: str) -> None:
    pytest.importorskip("phonenumbers")
    for region in (None, "US", "DE"):
        assert scrubber(phone_numbers=True, phone_region=region)(text) == (text, {})


SECRETS = [
    "AKIA" + letters(16, string.ascii_uppercase + string.digits),
    "ghp_" + letters(36),
    "github_pat_" + letters(22) + "_" + letters(59),
    "glpat-" + letters(20),
    "xoxb-" + letters(12, string.digits) + "-" + letters(24),
    "AIza" + letters(35),
    "sk_live_" + letters(24),
    "sk-proj-" + letters(48),
    "hf_" + letters(34),
    "npm_" + letters(36),
    "pypi-AgEIcHlwaS5vcmc" + letters(60),
    "eyJ" + letters(20) + ".eyJ" + letters(40) + "." + letters(43),
    "-----BEGIN RSA PRIVATE KEY-----\n" + letters(64) + "\n" + letters(20) + "==\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret[:12])
def test_secrets(secret: str) -> None:
    for text in (secret, f"key: {secret}\n", f"x = ['{secret}', 1]", f"({secret})."):
        scrubbed, counts = scrubber(secrets=True)(text)
        assert scrubbed.rstrip() == text.replace(secret, "<secret>").rstrip()
        assert counts == {"secret": 1}


KNOWN_ELSEWHERE = ("AKIA", "ghp_", "glpat-", "xoxb-", "sk_live_", "-----BEGIN")


@pytest.mark.parametrize(
    "secret", [s for s in SECRETS if s.startswith(KNOWN_ELSEWHERE)], ids=lambda secret: secret[:12]
)
def test_detect_secrets_finds_the_same(secret: str, tmp_path: Path) -> None:
    """The examples above are secrets to another program as well, and what we leave is none."""
    module = pytest.importorskip("detect_secrets")
    settings = pytest.importorskip("detect_secrets.settings")
    for text, expected in ((secret, True), (scrubber(secrets=True)(secret)[0], False)):
        (tmp_path / "file.txt").write_text(f"{text}\n")
        collection = module.SecretsCollection()
        with settings.default_settings():
            collection.scan_file(str(tmp_path / "file.txt"))
        assert bool(collection) == expected


def test_assigned_secrets_and_passwords_in_urls() -> None:
    value = letters(24)
    scrub = scrubber(secrets=True, emails=True)
    for text in (f'API_KEY = "{value}"', f"'password': '{value}'", f'config["secret_token"] = "{value}"'):
        assert scrub(text) == (text.replace(value, "<secret>"), {"secret": 1})
    assert scrub("postgres://bob:hunter22@db.example.org/x")[0] == "postgres://bob:<secret>@db.example.org/x"


@pytest.mark.parametrize(
    "text",
    [
        *(
            'token = "end_of_statement"',
            'password = "correct horse battery"',
            'KEY = "0123456789abcdef0123456789abcdef"',
        ),
        *('secret = "aaaaaaaaaaaa1111"', "task-" + "a" * 40, "https://user:$PASSWORD@host", "http://host:8080/a@b"),
        *("-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----", "token = get_token(request)"),
    ],
)
def test_what_is_no_secret(text: str) -> None:
    assert scrubber(secrets=True)(text) == (text, {})


PARTS = ["jane@example.org", "@a.bc", "151.101.128.223", "2a04:4e42:600::223", "+49 30 901820", "https://a:bcd1@e.org"]
GLUE = ["<email>", " ", "\n", ",", ".", ":", "@", "<", "=", '"', "password=", "1", "é"]
PIECES = st.lists(st.sampled_from([*PARTS, *SECRETS, *GLUE]), max_size=12).map("".join)


@settings(deadline=None)
@given(PIECES | st.text(max_size=100))
def test_only_what_is_found_changes(text: str) -> None:
    pytest.importorskip("phonenumbers")
    scrubbed, counts = scrubber(emails=True, ip_addresses=True, phone_numbers=True, secrets=True)(text)
    assert set(counts) <= set(KINDS)
    for kind in KINDS:
        assert scrubbed.count(f"<{kind}>") <= text.count(f"<{kind}>") + counts[kind]
    place = 0
    for piece in re.split("|".join(f"<{kind}>" for kind in KINDS), scrubbed):  # the rest is there, in its order
        place = text.find(piece, place) + len(piece)
        assert place >= len(piece)


@settings(deadline=None)
@given(st.text(max_size=100))
def test_with_all_off_nothing_changes(text: str) -> None:
    assert scrubber()(text) == (text, {})


def test_a_scrubber_can_be_pickled() -> None:
    scrub = scrubber(emails=True)
    assert pickle.loads(pickle.dumps(scrub)) == scrub
