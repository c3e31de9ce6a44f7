"""The runtime: its searches against those in PyTorch, features, folders, what it imports."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT
from python_speech_features import logfbank
from test_joint_decoding import CASES, WEIGHTS, clips
from torch import Tensor

from avhubert_ext.beam import BeamConfig, Hypothesis, JointConfig
from avhubert_ext.data.audio import log_filter_bank
from avhubert_ext.data.text import EOS, PAD
from avhubert_ext.decoding import DecoderRows, search
from avhubert_ext.errors import InputError
from avhubert_ext.joint_decoding import joint_search
from avhubert_ext.models.decoder import DecoderConfig, TransformerDecoder
from avhubert_ext.runtime import joint_search as numpy_joint
from avhubert_ext.runtime import load_exported
from avhubert_ext.runtime.search import beam_search


class TorchRows:
    """A decoder in PyTorch as the searches in numpy want it."""

    def __init__(self, decoder: TransformerDecoder, memory: Tensor) -> None:
        self.vocabulary = decoder.config.vocabulary
        self.rows = DecoderRows(decoder, memory, None)

    @torch.no_grad()
    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        return self.rows.log_probs(torch.from_numpy(tokens)[None])[0].numpy()

    def extend(self, parents: np.ndarray) -> None:
        self.rows.extend(torch.tensor([0]), torch.from_numpy(parents)[None])


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=1e-4)


@torch.no_grad()
def decoder_of(vocabulary: int, ends: float) -> TransformerDecoder:
    """Random weights; hypotheses end the sooner the greater `ends` is. Padding seems likely."""
    torch.manual_seed(vocabulary)
    decoder = TransformerDecoder(DecoderConfig(vocabulary, layers=1, dim=16, ffn=32, heads=2))
    decoder.embed_tokens.weight.mul_(4)
    # The first channel is a one, by which the embedding becomes a bias of the logits.
    decoder.layer_norm.weight[0], decoder.layer_norm.bias[0] = 0.0, 1.0
    decoder.embed_tokens.weight[EOS, 0], decoder.embed_tokens.weight[PAD, 0] = ends, 3.0
    return decoder.eval()


@pytest.mark.parametrize("vocabulary", [5, 7, 40])
@pytest.mark.parametrize("beam", [1, 3, 10])
@pytest.mark.parametrize(
    "config",
    [
        BeamConfig(),
        BeamConfig(length_penalty=0.0),
        BeamConfig(length_penalty=2.0, min_len=3),
        BeamConfig(max_len_a=0.0, max_len_b=4, min_len=0),
    ],
    ids=["default", "no-penalty", "long", "short"],
)
def test_the_beam_search_finds_what_the_one_in_pytorch_finds(vocabulary, beam, config):
    config = replace(config, beam=beam)
    generator = torch.Generator().manual_seed(1)
    for frames, ends in ((1, 0.0), (6, 2.0), (12, 5.0)):
        decoder = decoder_of(vocabulary, ends)
        memory = 2 * torch.randn(1, frames, 16, generator=generator)
        (expected,) = search(decoder, memory, None, config)
        assert_same(beam_search(TorchRows(decoder, memory), frames, config), expected)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("case", CASES)
def test_the_joint_search_finds_what_the_one_in_pytorch_finds(case, weight):
    make, lengths, config = CASES[case]
    decoder, config = make(), replace(config, ctc_weight=weight)
    log_probs, memory, _ = clips(lengths, decoder.config.vocabulary)
    for i, frames in enumerate(lengths):
        ctc, looked_at = log_probs[i : i + 1, :frames], memory[i : i + 1, :frames]
        (expected,) = joint_search(decoder, ctc, looked_at, None, config)
        rows = TorchRows(decoder, looked_at)
        assert_same(numpy_joint.joint_search(rows, ctc[0].numpy(), config), expected)


def test_a_clip_without_a_finite_score_is_an_error():
    decoder, memory = decoder_of(7, 0.0), torch.full((1, 4, 16), math.nan)
    with pytest.raises(InputError, match="no hypothesis has a finite score"):
        beam_search(TorchRows(decoder, memory), 4, BeamConfig(3))
    ctc = np.full((4, 7), math.nan, np.float32)
    for weight in (0.1, 1.0):
        with pytest.raises(InputError, match="no hypothesis has a finite score"):
            numpy_joint.joint_search(TorchRows(decoder, memory), ctc, JointConfig(3, weight))


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 560, 561, 16_123])
def test_filter_banks_are_those_of_python_speech_features_bit_for_bit(samples):
    noise = 3000 * np.random.default_rng(samples).standard_normal(samples)
    for wave in (noise.astype(np.int16), noise.astype(np.float32), np.zeros(samples, np.int16)):
        assert np.array_equal(log_filter_bank(wave), logfbank(wave, 16_000))


# ---- the shipped teacher, exported


def clip(frames: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """int16 [N], uint8 [T, 96, 96]."""
    rng = np.random.default_rng(0)
    samples = (3000 * rng.standard_normal(frames * 640)).astype(np.int16)
    return samples, rng.integers(0, 256, (frames, 96, 96), dtype=np.uint8)


ALONE = """
import sys, json
for name in ("torch", "fairseq", "s3prl", "scipy", "python_speech_features", "sentencepiece"):
    sys.modules[name] = None  # an import of it fails
import numpy as np
from pathlib import Path
from avhubert_ext.runtime import load_exported
folder, clip = sys.argv[1:]
recognizer = load_exported(Path(folder), threads=1, beam=3)
before = sorted({name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
arrays = np.load(clip)
found = recognizer.recognize(arrays["audio"], arrays["video"])
print(json.dumps({"before": before, "tokens": found.tokens, "score": found.score}))
"""


def test_it_needs_numpy_and_onnxruntime_alone(teacher_onnx, tmp_path):
    audio, video = clip()
    np.savez(tmp_path / "clip.npz", audio=audio, video=video)
    command = [sys.executable, "-c", ALONE, teacher_onnx, tmp_path / "clip.npz"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert "numpy" in found["before"] and "onnxruntime" not in found["before"]
    here = load_exported(teacher_onnx, threads=1, beam=3).recognize(audio, video)
    assert found["tokens"] == list(here.tokens) and found["score"] == here.score


def test_a_damaged_folder_is_named(teacher_onnx, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(teacher_onnx, folder)
    video = folder / "video.onnx"
    video.write_bytes(video.read_bytes()[:-1])
    recognizer = load_exported(folder, threads=1, beam=1)
    audio, pixels = clip(3)
    assert recognizer.recognize(audio, None).tokens  # which needs no video
    with pytest.raises(InputError, match=r"video\.onnx: missing or damaged; .* export it again"):
        recognizer.recognize(audio, pixels)
    video.unlink()
    with pytest.raises(InputError, match=r"video\.onnx: missing or damaged"):
        recognizer.recognize(None, pixels)

    record = folder / "model.json"
    whole = record.read_text()
    for spoiled in (whole[:100], whole.replace('"version": 1', '"version": 2'), "{}", "[]"):
        record.write_text(spoiled)
        with pytest.raises(InputError, match=r"model\.json: not whole, or of another version"):
            load_exported(folder)
    record.unlink()
    with pytest.raises(InputError, match=r"no model\.json in it; make it with"):
        load_exported(folder)


def test_what_does_not_fit_the_model_is_refused(teacher_onnx):
    recognizer = load_exported(teacher_onnx, threads=1)
    audio, video = clip(3)
    with pytest.raises(InputError, match="neither audio nor video"):
        recognizer.recognize(None, None)
    with pytest.raises(InputError, match="expected the mouth region"):
        recognizer.recognize(audio, video[:, :50])
    with pytest.raises(InputError, match="no CTC layer"):
        load_exported(teacher_onnx, ctc_weight=0.1)
    with pytest.raises(InputError, match="beam 0"):
        load_exported(teacher_onnx, beam=0)
