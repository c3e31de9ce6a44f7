"""The Python examples in the documentation do what their comments say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from doc_blocks import call, run_python
from serving import utterance

from avhubert_ext.data.visual_noise import TYPES


def spoken() -> list[str]:
    return [word.lower() for word, _, _ in utterance(1).words]


def test_transcribe_a_file(stage: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run_python(stage, monkeypatch, "python")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [word for _, word in lines] == spoken()
    starts = [float(start) for start, _ in lines]
    assert starts == sorted(starts)


def test_transcribe_arrays(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(stage, monkeypatch, "transcribe-python")
    assert names["transcript"].text.split() == spoken()
    clip = {"audio": names["clip"].audio, "video": names["clip"].video}
    assert clip["video"].shape[1:] == (96, 96) and clip["audio"].dtype == np.int16
    again = run_python(stage, monkeypatch, "api-search", **clip)
    assert again["transcript"].text == names["transcript"].text
    assert again["transcript"].seconds == len(clip["video"]) / 25


@pytest.mark.slow
def test_an_exported_folder_hears_the_same(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(stage, monkeypatch, "deploy-export", "deploy-commands")
    said = utterance(1)
    names = run_python(stage, monkeypatch, "deploy-python", audio=said.samples, video=said.frames)
    assert names["found"].text.split() == spoken()
    assert (stage / "evaluation_exported/results.csv").is_file()


def test_encoder(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(stage, monkeypatch, "api-encoder")
    output = names["output"]
    assert output.last_hidden_state.shape[:2] == (2, 50)
    assert len(output.hidden_states) == names["encoder"].config.layers + 1
    with torch.no_grad():
        fused = names["fast"](names["audio"], names["video"]).last_hidden_state
    assert torch.allclose(fused, output.last_hidden_state, atol=1e-3)


def test_features_of_files(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(stage, monkeypatch, "api-features")
    frames = len(utterance(1).frames)
    assert names["audio"].shape[:2] == (1, 104)
    assert names["video"].shape == (1, 1, frames, 88, 88)


def test_student(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(stage, monkeypatch, "api-student")
    shapes = {block: tuple(p.shape) for block, p in names["output"].predictions.items()}
    assert shapes == {8: (2, 50, 768), 12: (2, 50, 768)}


def test_noise(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, other = utterance(1), utterance(2)
    names = run_python(
        stage,
        monkeypatch,
        "api-noise",
        samples=said.samples,
        babble=other.samples,
        frames=said.frames,
    )
    assert names["noisy"].shape == said.samples.shape and names["noisy"].dtype == np.int16
    assert names["blurred"].std() < said.frames.std()


def test_presets(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(stage, monkeypatch, "api-presets")
    everything = names["list_presets"]()
    assert {"teacher-base", "student-7", "vsr-base-s", "decoder-base"} <= set(everything)
    students = names["list_presets"]("student")
    assert "student-tiny-7" in students and set(students) < set(everything)


def test_metadata_of_a_file(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(stage, monkeypatch, "formats-metadata")
    assert names["description"]["kind"] == "recognizer"
    assert names["description"]["encoder"]["dim"] == 128


def test_lip_reader(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(stage, monkeypatch, "lip-reading-python")
    assert names["log_probs"].shape == (2, 50, 5049) and names["logits"].shape == (2, 1, 5049)


@pytest.mark.s3prl
def test_upstream_of_s3prl(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(stage, monkeypatch, "s3prl-python")
    assert names["hidden_states"][-1].shape[:2] == (2, 25)
    assert [n.tolist() for n in names["lengths"]][-1] == [25, 19]


def test_a_student_of_your_own(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(stage, monkeypatch, "extend-student")
    assert names["output"].predictions[12].shape == (1, 25, 768)


@pytest.mark.slow
def test_a_pruning_method_of_your_own(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(stage, monkeypatch, "extend-pruning")
    for mask in names["masks"].values():
        assert int(mask.sum()) == mask.numel() - round(0.5 * mask.numel())
    whole, pruned = (stage / f"{n}.safetensors" for n in ("finetuned", "layerwise"))
    assert pruned.stat().st_size > 0 and whole.stat().st_size > 0
    call(stage, monkeypatch, "extend-pruning-use")
    assert (stage / "layerwise_evaluation/results.csv").is_file()
    assert list((stage / "layerwise_report").iterdir())


def test_a_visual_noise_of_your_own(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = utterance(1).frames
    try:
        noisy = run_python(stage, monkeypatch, "extend-noise", frames=frames)["noisy"]
    finally:
        TYPES.pop("flicker", None)
    assert noisy.shape == frames.shape and noisy.dtype == np.uint8
    gains = noisy.mean((1, 2)) / frames.mean((1, 2))
    assert 0.4 < gains.min() < 0.8 and 1.05 < gains.max() < 1.6
