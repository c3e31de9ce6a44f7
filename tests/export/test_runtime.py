"""The runtime in numpy: searches against those in PyTorch, filter banks, `model.json`, times."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import run_well
from python_speech_features import logfbank
from test_joint_decoding import CASES, WEIGHTS, clips
from torch import Tensor

from avhubert_ext.benchmarks.runtime import benchmark_runtime
from avhubert_ext.data.audio import log_filter_bank
from avhubert_ext.data.text import EOS, PAD
from avhubert_ext.decoding.attention import DecoderRows, search
from avhubert_ext.decoding.beam import BeamConfig, Hypothesis, JointConfig
from avhubert_ext.decoding.joint import joint_search
from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import DecoderConfig, TransformerDecoder
from avhubert_ext.runtime.backends import import_openvino
from avhubert_ext.runtime.folder import ExportedModel, read_model, write_model
from avhubert_ext.runtime.joint_search import joint_search as numpy_joint_search
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        assert_same(numpy_joint_search(rows, ctc[0].numpy(), config), expected)


def test_a_clip_without_a_finite_score_is_an_error():
    decoder, memory = decoder_of(7, 0.0), torch.full((1, 4, 16), math.nan)
    with pytest.raises(InputError, match="no hypothesis has a finite score"):
        beam_search(TorchRows(decoder, memory), 4, BeamConfig(3))
    ctc = np.full((4, 7), math.nan, np.float32)
    for weight in (0.1, 1.0):
        with pytest.raises(InputError, match="no hypothesis has a finite score"):
            numpy_joint_search(TorchRows(decoder, memory), ctc, JointConfig(3, weight))


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 560, 561, 16_123])
def test_filter_banks_are_those_of_python_speech_features_bit_for_bit(samples):
    noise = 3000 * np.random.default_rng(samples).standard_normal(samples)
    for wave in (noise.astype(np.int16), noise.astype(np.float32), np.zeros(samples, np.int16)):
        assert np.array_equal(log_filter_bank(wave), logfbank(wave, 16_000))


MODEL = ExportedModel(
    "onnx",
    "fp32",
    network={"kind": "recognizer", "decoder": {"layers": 1, "heads": 2, "dim": 8, "vocabulary": 5}},
    symbols=["<s>", "<pad>", "</s>", "<unk>", "\u2581a"],
    search={"beam": 3},
    origin={},
    graphs={"encoder": ["memory"], "decoder": ["log_probs", "present", "attention"]},
    files={"encoder.onnx": "", "decoder.onnx": ""},
)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"format": "tflite"},
        {"format": "openvino"},
        {"symbols": MODEL.symbols[:-1]},
        {"network": {"decoder": MODEL.network["decoder"]}},
        {"network": {"kind": "recognizer", "decoder": {"heads": 0}}},
        {"search": {"beam": 0}},
        {"search": {"ctc_weight": 0.1}},
        {"graphs": {"encoder": ["memory"]}},
        {"graphs": []},
        {"graphs": MODEL.graphs | {"decoder": ["log_probs"]}},
        {"graphs": MODEL.graphs | {"video": ["projected"]}},
        {"symbols": [*MODEL.symbols[:-1], 5]},
        {"encoder_parameters": "2"},
        {"files": {"encoder.onnx": ""}},
    ],
    ids=str,
)
def test_what_does_not_fit_in_a_model_json_is_an_error(tmp_path: Path, changes: dict[str, Any]):
    write_model(tmp_path, MODEL)
    assert read_model(tmp_path) == MODEL
    write_model(tmp_path, replace(MODEL, **changes))
    with pytest.raises(InputError, match=r"model\.json: damaged, or of another version"):
        read_model(tmp_path)


def test_what_the_benchmark_does_not_know_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="form 'onnx int4': expected one of pytorch, "):
        benchmark_runtime(["7"], tmp_path, ["onnx", "onnx int4"], [1])
    models = ["a/model.pt", "b/model.pt"]
    with pytest.raises(InputError, match=r"b/model\.pt: their names must differ"):
        benchmark_runtime(models, tmp_path, ["onnx"], [1])


def test_openvino_sends_no_telemetry(tmp_path: Path):
    if importlib.util.find_spec("openvino") is None:  # importing it here would send some
        pytest.skip("openvino is missing")
    code = "from avhubert_ext.runtime.backends import import_openvino as i; i().convert_model"
    quiet = {**os.environ, "HOME": str(tmp_path), "CI": ""}  # it is silent in CI
    subprocess.run([sys.executable, "-c", code], env=quiet, check=True)
    assert not (tmp_path / "intel").exists()


SIGNAL_STACK = """
import ctypes, sys
from pathlib import Path
from avhubert_ext.runtime.backends import open_openvino

class Stack(ctypes.Structure):  # stack_t of <signal.h>
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

graphs = [open_openvino(Path(sys.argv[1]), ["y"], 1) for _ in range(3)]
while graphs:
    del graphs[0]
stack = Stack()
assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
disabled = stack.flags & 2
mapped = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
assert disabled or any(int(a, 16) <= stack.start < int(b, 16) for a, b in mapped)
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at mapped memory in /proc")
def test_closed_openvino_graphs_leave_signals_alone(tmp_path: Path):
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is missing")
    import_openvino()
    import openvino
    from openvino import opset13

    x = opset13.parameter([1, 4], name="x")
    y = opset13.relu(x)
    y.output(0).set_names({"y"})
    openvino.save_model(openvino.Model([y], [x]), tmp_path / "graph.xml")
    run_well(sys.executable, "-c", SIGNAL_STACK, tmp_path / "graph.xml")
