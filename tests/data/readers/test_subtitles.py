from __future__ import annotations

from pathlib import Path

import pytest

from llm.data.readers import subtitles


def read(path: Path, text: str) -> str:
    path.write_text(text)
    return subtitles.read(path).text


@pytest.mark.parametrize("blank", ["\n\n", "\n"])
def test_subrip_gives_its_words(tmp_path: Path, blank: str) -> None:
    cues = [
        "1\n00:00:01,000 --> 00:00:02,500\n<i>The first, 3 &lt; 5</i>",
        '2\n00:00:03,000 --> 00:00:04,000 X1:10 Y1:20\n{\\an8}- Is it?\n- In <font color="#fff">1998</font>.',
        "3\n00:01:03,000 --> 00:01:04,000\n42\nNOTE it down",
    ]
    expected = "The first, 3 < 5\n- Is it?\n- In 1998.\n42\nNOTE it down"
    assert read(tmp_path / "a.srt", blank.join(cues)) == expected
    assert read(tmp_path / "a.srt", blank.join(cues).replace("\n", "\r\n")) == expected


def test_web_subtitles_name_speakers_and_leave_out_styles(tmp_path: Path) -> None:
    text = (
        "WEBVTT Kind: captions\n\nNOTE a remark\nof two lines\n\nSTYLE\n::cue { color: red }\n\n"
        "opening\n00:01.000 --> 00:04.000 align:start\n<v Ann Lee>Hello &amp; <b>you</b></v>\n\n"
        "NOTE another\n\n01:00:05.000 --> 01:00:06.000\nBye."
    )
    assert read(tmp_path / "a.vtt", text) == "Ann Lee: Hello & you\nBye."
    assert subtitles.read(tmp_path / "a.vtt").not_read == {"comments": 2}


def test_rolling_captions_give_each_line_once(tmp_path: Path) -> None:
    text = (
        "WEBVTT\n\n00:01.000 --> 00:02.000\nthe<00:01.500><c> first</c>\n\n00:02.000 --> 00:02.010\nthe first\n\n"
        "00:02.010 --> 00:03.000\nthe first\nthe<00:02.500><c> second</c>\n"
    )
    assert read(tmp_path / "a.vtt", text) == "the first\nthe second"
    # Where nothing rolls, a line that is said twice is there twice.
    twice = "WEBVTT\n\n00:01.000 --> 00:02.000\nNo.\n\n00:02.000 --> 00:03.000\nNo.\n"
    assert read(tmp_path / "b.vtt", twice) == "No.\nNo."


def test_substation_alpha_gives_its_dialogue_by_time(tmp_path: Path) -> None:
    text = (
        "[Script Info]\nTitle: x\n[V4+ Styles]\nFormat: Name, Fontname\nStyle: Default,Arial\n[Events]\n"
        "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
        "Comment: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,a remark\n"
        "Dialogue: 0,0:00:10.00,0:00:14.00,Default,Bob,0,0,0,,{\\i1}Two,{\\i0} three\\Nfour\\hfive\n"
        "Dialogue: 0,0:00:09.00,0:00:14.00,Default,,0,0,0,,{\\p1}m 0 0 l 100 0{\\p0}One\n"
    )
    assert read(tmp_path / "a.ass", text) == "One\nTwo, three\nfour five"
    assert subtitles.read(tmp_path / "a.ass").not_read == {"comments": 1}


def test_a_file_without_cues_stays_as_it_is(tmp_path: Path) -> None:
    assert read(tmp_path / "a.srt", "only words\n") == "only words\n"
