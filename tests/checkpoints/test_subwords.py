"""The subwords of a model's outputs: in its file, beside it, or given."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from avhubert_ext.checkpoints.conversion import convert, prune
from avhubert_ext.checkpoints.fairseq_file import fairseq_state
from avhubert_ext.checkpoints.model_file import (
    load_avhubert_asr,
    load_model,
    read_origin,
    save_model,
)
from avhubert_ext.checkpoints.subwords import find_subwords
from avhubert_ext.cli import main
from avhubert_ext.data.text import (
    SPECIAL_SYMBOLS,
    Vocabulary,
    ctc_symbols,
    dictionary_digest,
    join_symbols,
)
from avhubert_ext.errors import InputError
from avhubert_ext.models.presets import build_vsr

TEACHER = ROOT / "scripts/models/tiny-teacher"
LINES = (TEACHER / "dict.wrd.txt").read_text().splitlines()
SYMBOLS = [*SPECIAL_SYMBOLS, *(line.split()[0] for line in LINES)]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The teacher in a folder without its dictionary."""
    folder = tmp_path / "bare"
    folder.mkdir()
    return Path(shutil.copy(TEACHER / "model.safetensors", folder))


def known(path: Path, **more: str) -> Path:
    """The teacher as a file that stores the digest of its subwords."""
    origin = {"dictionary": dictionary_digest(SYMBOLS), **more}
    save_model(path, load_avhubert_asr(TEACHER / "model.safetensors"), origin=origin)
    return path


def test_beside_the_file_or_given(bare: Path) -> None:
    assert find_subwords(TEACHER / "model.safetensors") == SYMBOLS
    for given in (TEACHER, TEACHER / "dict.wrd.txt"):
        assert find_subwords(bare, given) == SYMBOLS
    with pytest.raises(InputError, match=r"bare.*name the folder .* --dictionary"):
        find_subwords(bare)


def test_another_dictionary_is_refused_and_passed_over(bare: Path) -> None:
    model = known(bare.parent / "known.safetensors")
    other = bare.parent / "dict.wrd.txt"
    other.write_text("".join(f"{line}\n" for line in LINES[::-1]))
    with pytest.raises(InputError, match=r"dict\.wrd\.txt: not the subwords .* in another order"):
        find_subwords(model, other)
    with pytest.raises(InputError, match="neither in it nor in a dict"):
        find_subwords(model)
    other.write_text("one 1\n")
    with pytest.raises(InputError, match=r"5 subwords .* the model has 128"):
        find_subwords(model, bare.parent)


@pytest.mark.slow
def test_models_made_of_a_model_keep_its_subwords(bare: Path) -> None:
    """New files contain them if the digest in the old file fits."""
    shutil.copy(TEACHER / "dict.wrd.txt", bare.parent)
    model = known(bare.parent / "known.safetensors")
    elsewhere = bare.parent / "elsewhere"
    convert(model, elsewhere / "converted.pt")
    convert(elsewhere / "converted.pt", elsewhere / "back.safetensors", half=True)
    prune(model, elsewhere / "pruned.safetensors", 0.5)
    for made in elsewhere.iterdir():
        assert find_subwords(made) == SYMBOLS
    convert(bare, elsewhere / "unknown.safetensors")
    assert "subwords" not in read_origin(elsewhere / "unknown.safetensors")


def test_the_data_folder_of_a_training(bare: Path) -> None:
    """An older fairseq checkpoint does not contain them."""
    import torch

    state = fairseq_state(load_model(bare), {"dictionary": dictionary_digest(SYMBOLS)})
    state["cfg"]["task"]["data"] = str(TEACHER)
    torch.save(state, bare.parent / "checkpoint.pt")
    assert find_subwords(bare.parent / "checkpoint.pt") == SYMBOLS


def test_of_a_ctc_model_in_auto_avsrs_units(tmp_path: Path) -> None:
    subwords = ["\u2581A", "\u2581CAT", "S"]
    units = tmp_path / "unigram5000_units.txt"
    lines = [f"{piece} {i}\n" for i, piece in enumerate(["<unk>", *subwords], start=1)]
    units.write_text("".join(lines))
    path = tmp_path / "model.safetensors"
    save_model(path, build_vsr("tiny", vocabulary=6))
    assert find_subwords(path) == find_subwords(path, units) == ctc_symbols(subwords)
    units.write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=r"5 subwords .* the model has 6"):
        find_subwords(path, units)


def test_new_lip_readers_bring_them(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    assert main(["model", "init", "tiny", str(path), "--data", str(TEACHER)]) == 0
    assert find_subwords(path) == ctc_symbols(SYMBOLS[4:])
    assert read_origin(path)["subwords"] == join_symbols(ctc_symbols(SYMBOLS[4:]))


def test_files_without_any(tmp_path: Path) -> None:
    encoder = tmp_path / "encoder.safetensors"
    save_model(encoder, load_avhubert_asr(TEACHER / "model.safetensors").encoder)
    with pytest.raises(InputError, match="holds an encoder only"):
        find_subwords(encoder)
    with pytest.raises(InputError, match="not found"):
        find_subwords(tmp_path / "missing.pt")
    with pytest.raises(InputError, match="name the right folder"):
        find_subwords(TEACHER / "model.safetensors", tmp_path)


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", "empty"),
        ("\u2581a 1\n\u2581b\n", "line 2: expected a subword and its count, found '\u2581b'"),
        ("\u2581a 1\n\n", "line 2: expected"),
        ("\u2581a x\n", "line 1: expected"),
        ("\u2581a 1\n\u2581a 1\n", "line 2: '\u2581a' occurs twice"),
        ("<unk> 1\n", "line 1: '<unk>' occurs twice, or is a special symbol"),
        (" 1\n", "line 1: expected"),
    ],
)
def test_a_damaged_dictionary_is_named(tmp_path: Path, text: str, about: str) -> None:
    path = tmp_path / "dict.wrd.txt"
    path.write_text(text)
    for ctc in (False, True):
        with pytest.raises(InputError, match=re.escape(about)) as error:
            Vocabulary(path, ctc)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_dictionary_as_editors_on_windows_save_it(tmp_path: Path) -> None:
    path = tmp_path / "dict.wrd.txt"
    path.write_bytes("".join(f"{line}\r\n" for line in LINES).encode("utf-8-sig"))
    assert Vocabulary(path).symbols == SYMBOLS
