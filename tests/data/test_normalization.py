"""Text normalization of transcripts, and its use in scoring."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from avhubert_ext.data.dataset import read_transcripts
from avhubert_ext.data.manifest import Utterance
from avhubert_ext.data.normalization import (
    TextConfig,
    changes,
    comparable,
    normalize,
    read_text_config,
    write_text_config,
)
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.wer import word_error_rate
from avhubert_ext.reports.decoded import read_hypotheses

KEEP = TextConfig("keep", "keep", "")


@pytest.mark.parametrize(
    "label",
    [
        "IT'S WHAT WE'VE GOT",
        "'CAUSE THE DOGS' TALKIN' ROCK 'N' ROLL TO 'EM",
        "THE '90S AND 25 OF 1000",
        "{NS} AND SO {LG}",
        "O'NEIL'S NA\u00cfVE CAF\u00c9",
    ],
)
def test_labels_of_lrs3_change_only_in_case(label):
    assert normalize(label) == label.lower()
    assert changes([label], TextConfig()).changed == 0
    assert normalize(label, KEEP) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("\ufeffHello, world!\r\n", "hello world"),
        ("\u201cYes,\u201d she said \u2014 \u00abnon\u00bb.", "yes she said non"),
        ("It\u2019s the dogs\u2019 bowl, \u2018cause", "it's the dogs' bowl 'cause"),
        ("\u2018Hello,\u2019 he said, \u2018don\u2019t.\u2019", "hello he said don't"),
        ("'Hello there,' he said", "hello there he said"),
        ("it`s \u00b4", "it's"),
        ("[laughter] a <noise> b (and so on)", "a b and so on"),
        ("well-known, and/or word\u2014word", "well known and or word word"),
        ("3.5 of 1,000 at 10:30, 20-30%, -5, $5!", "3.5 of 1,000 at 10:30 20-30% -5 $5"),
        ("AT&T, U.S.", "at&t u s"),
        ("cafe\u0301 co\u00adop", "caf\u00e9 coop"),
        ("2 < 3", "2 3"),
        ("\u266a la la \U0001f642", "la la"),
        ("col\u00b7lega l'home", "col\u00b7lega l'home"),
        ("... '' \u2019 [x]", ""),
    ],
)
def test_normalization_of_written_text(text, label):
    assert normalize(text) == label
    assert normalize(label) == label


def test_options():
    text = "[laughter] \u201cHi,\u201d {NS} (so) <b>."
    assert normalize(text, TextConfig("upper")) == "HI {NS} SO"
    assert normalize(text, TextConfig(tags="[]{}()<>")) == "hi"
    assert normalize(text, TextConfig(tags="")) == "[laughter] hi {ns} so b"
    assert normalize(text, TextConfig(punctuation="keep")) == "\u201chi,\u201d {ns} (so) ."
    assert normalize(text, KEEP) == text
    for config in (TextConfig(), KEEP, TextConfig("upper", "remove", "[]{}")):
        assert TextConfig.find(f"beam 5, {config}, noise none)") == config
    for wrong in ({"case": "Lower"}, {"punctuation": "drop"}, {"tags": "[)"}, {"tags": "["}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TextConfig(**wrong)


def test_normalization_is_idempotent():
    rng = random.Random(0)
    letters = "ab'\u2019\u2018-.,3 5%&[]<>{}() \"\u201c\u201d\u00c9\u0301\u0130\u00df"
    letters += "\ufeff\u00b7/\u200d`"
    for _ in range(3000):
        text = "".join(rng.choice(letters) for _ in range(rng.randint(0, 14)))
        for config in (TextConfig(), TextConfig("upper", "keep", "[]<>{}()"), KEEP):
            label = normalize(text, config)
            assert normalize(label, config) == label, text


def test_changes_other_than_case_are_counted():
    found = changes(["HELLO  THERE", "Hello, there", "hi", "[x] hi"], TextConfig())
    assert (found.changed, found.total) == (2, 4)
    assert found.examples == (("Hello, there", "hello there"), ("[x] hi", "hi"))
    assert str(found).startswith("text normalization changed 2 of 4 utterances, for example 'Hell")


def test_unknown_subwords_stay_errors():
    """They are not tags: each one counts as an error, in a reference or a hypothesis."""
    assert comparable("he<<unk>>llo you.", TextConfig()) == "he<<unk>>llo you"
    assert comparable("HELLO <unk> You, there", TextConfig()) == "HELLO <unk> You there"
    pair = [comparable(text, TextConfig()) for text in ("a <<unk>> b", "a <unk> b")]
    assert word_error_rate([tuple(pair)]) == pytest.approx(100 / 3)


def test_settings_are_stored_beside_the_manifests(tmp_path):
    assert read_text_config(tmp_path) == TextConfig()
    write_text_config(tmp_path, KEEP)
    assert read_text_config(tmp_path) == KEEP
    for wrong in ("", "[]", "null", '{"case": 3}', '{"tag": ""}', "[" * 100_000):
        (tmp_path / "text.json").write_text(wrong)
        with pytest.raises(InputError, match=r"text\.json: "):
            read_text_config(tmp_path)


def test_labels_made_elsewhere_are_normalized_with_a_warning(tmp_path, caplog):
    utterances = [Utterance(str(n), Path("v"), Path("a"), 1, 640) for n in range(3)]
    path = tmp_path / "test.wrd"
    path.write_bytes("\ufeffHello, there\r\nIT'S\r\n{NS} A\r\n".encode())
    assert read_transcripts(tmp_path, "test", utterances) == ["hello there", "it's", "{ns} a"]
    assert "test.wrd: text normalization changed 1 of 3" in caplog.text
    write_text_config(tmp_path, KEEP)
    assert read_transcripts(tmp_path, "test", utterances)[0] == "Hello, there"
    path.write_text("a\n[x]\nb\n")
    assert len(read_transcripts(tmp_path, "test", utterances)) == 3
    (tmp_path / "text.json").write_text(json.dumps({"tags": "[]"}))
    with pytest.raises(InputError, match=r"line 2: the transcript is empty: no words in '\[x\]'"):
        read_transcripts(tmp_path, "test", utterances)


@pytest.mark.parametrize(("config", "expected"), [(TextConfig(), 0.0), (KEEP, 25.0)])
def test_a_comma_is_an_error_only_where_punctuation_is_kept(tmp_path, config, expected):
    """One of four words, as reports score the output of fairseq-generate."""
    path = tmp_path / "generate-test.txt"
    path.write_text(
        "T-0\tbin blue, at two\nD-0\t-0.1\tbin blue at two\n"
        f"Generate test with beam=5: WER: 0.00 (0 edits, {config}, beam 5)\n"
    )
    assert word_error_rate(read_hypotheses(path)) == expected
