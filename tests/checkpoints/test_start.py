"""`avhubert-ext model init`: the weights from which a lip reader's training starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from avhubert_ext.checkpoints.model_file import load_model, save_model
from avhubert_ext.checkpoints.start import start_file
from avhubert_ext.cli import main
from avhubert_ext.errors import InputError
from avhubert_ext.models.presets import build_vsr


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "dict.wrd.txt").write_text("a 1\nb 1\nc 1\n")
    return tmp_path


def test_fresh_weights_for_the_given_subwords(data: Path) -> None:
    path = data / "start.safetensors"
    assert main(["model", "init", "tiny", str(path), "--data", str(data), "--seed", "3"]) == 0
    torch.manual_seed(3)
    expected = build_vsr("tiny", vocabulary=6).state_dict()  # blank, unknown, three, end
    found = load_model(path).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_another_recognizer_gives_all_but_the_layers_of_its_subwords(data: Path) -> None:
    torch.manual_seed(0)
    other = build_vsr("tiny", vocabulary=9)
    for buffer in other.buffers():
        if buffer.is_floating_point():
            buffer.fill_(0.5)  # running statistics are copied as well
    save_model(data / "other.safetensors", other)
    start_file("tiny", data / "start.safetensors", data, recognizer=data / "other.safetensors")
    found, given = load_model(data / "start.safetensors").state_dict(), other.state_dict()
    own = {name for name in given if found[name].shape != given[name].shape}
    assert own == {
        "ctc.weight",
        "ctc.bias",
        "decoder.embed_tokens.weight",
        "decoder.output.weight",
        "decoder.output.bias",
    }
    assert all(torch.equal(found[name], given[name]) for name in given.keys() - own)


def test_another_network_is_refused(data: Path) -> None:
    save_model(data / "other.safetensors", build_vsr("tiny", "audio", 9))
    with pytest.raises(InputError, match=r"other\.safetensors: another network"):
        start_file("tiny", data / "start.safetensors", data, recognizer=data / "other.safetensors")
    assert not (data / "start.safetensors").exists()


def test_missing_files_are_named(data: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.pt"):
        start_file("tiny", data / "start.safetensors", data, recognizer=data / "gone.pt")
    with pytest.raises(InputError, match=r"dict\.wrd\.txt"):
        start_file("tiny", data / "start.safetensors", data / "nowhere")


def test_an_invalid_ending_or_pair_is_refused(data: Path) -> None:
    with pytest.raises(InputError, match=r"start\.pth: expected \.safetensors"):
        start_file("tiny", data / "start.pth", data)
    with pytest.raises(InputError, match="name one of the two"):
        start_file("tiny", data / "start.safetensors", data, frontend=data, recognizer=data)
