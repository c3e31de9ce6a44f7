"""Pruned layers as CSR, and `avhubert-ext benchmark sparsity`."""

import json

import numpy as np
import pytest
import torch
from networks import VARIANTS, clip, randomize
from torch import nn

from avhubert_ext import build_vsr
from avhubert_ext.benchmarks.sparsity import (
    CsrLinear,
    Shape,
    benchmark_sparsity,
    check_outputs,
    is_faster,
    layer_shapes,
    prune_each,
    two_of_four,
    with_csr,
)
from avhubert_ext.cli import main
from avhubert_ext.compression.pruning import prunable_weights
from avhubert_ext.errors import InputError
from avhubert_ext.models.encoder import AVHubertEncoder


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (2, 7, 24), (2, 3, 7, 24)])
def test_csr_gives_what_the_dense_layer_gives(bias, shape):
    torch.manual_seed(0)
    linear = prune_each(nn.Linear(24, 36, bias=bias), 0.75)
    assert int((linear.weight == 0).sum()) == 0.75 * 24 * 36
    x = torch.randn(shape)
    with torch.no_grad():
        found, expected = CsrLinear(linear)(x), linear(x)
    assert found.shape == expected.shape
    check_outputs("csr", found, expected, 1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_encoder_with_csr_gives_the_same(name):
    encoder = prune_each(randomize(AVHubertEncoder(VARIANTS[name])), 0.8)
    fused = encoder.fuse()
    linear = sum(isinstance(module, nn.Linear) for module in fused.modules())
    inputs = clip(2, 7)
    with torch.no_grad():
        expected = encoder(*inputs).last_hidden_state
        sparse = with_csr(fused)
        assert sum(isinstance(module, CsrLinear) for module in sparse.modules()) == linear
        check_outputs("csr", sparse(*inputs).last_hidden_state, expected)


def test_pruned_weights_stay_pruned():
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    before = prune_each(model, 0.5)[1].weight == 0
    after = prune_each(model, 0.9)[1].weight == 0
    assert [int((w == 0).sum()) for w in prunable_weights(model).values()] == [540, 270]
    assert (after | ~before).all()


def test_outputs_that_differ_are_refused():
    expected = torch.tensor([1.0, -2.0])
    check_outputs("csr", np.array([1.0, -2.0001]), expected)
    with pytest.raises(RuntimeError, match=r"csr: differs from the dense output by 5\.0e-03"):
        check_outputs("csr", np.array([1.0, -2.01]), expected)
    with pytest.raises(RuntimeError, match="differs"):
        check_outputs("csr", torch.full((2,), torch.nan), expected)


def test_two_of_four():
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5, -8.0, 7.0, 9.0, 1.0]])
    assert two_of_four(weight).tolist() == [[0.0, -3.0, 2.0, 0.0, -8.0, 0.0, 9.0, 0.0]]


def test_faster_means_than_everything_dense():
    assert is_faster({"dense": 2.0, "csr": 1.0, "onnx": 1.5})
    assert not is_faster({"dense": 2.0, "csr": 1.0, "onnx": 1.09})
    assert not is_faster({"dense": 1.0, "csr": 1.0})


def test_layer_shapes():
    found = {str(shape): shape for shape in layer_shapes(build_vsr("tiny").encoder)}
    assert found.keys() == {"64x64", "256x64", "64x256", "128x64"}
    assert found["256x64"] == Shape(256, 64, ("fc1",), 24)
    assert found["128x64"].names == ("pointwise1",)


def benchmark(out, *options):
    threads = torch.get_num_threads()
    try:
        return main(["benchmark", "sparsity", "--out", str(out), "--rounds", "1", *options])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["vsr-tiny", "tiny-7"])
def test_benchmark(preset, tmp_path, capsys):
    """It runs, which means that all outputs agree, and its figures fit each other."""
    out = tmp_path / "b.json"
    options = ("--preset", preset, "--sparsity", "0.9", "0.5", "--frames", "10")
    assert benchmark(out, *options) == 0
    report = json.loads(out.read_text())
    assert (report["frames"], report["threads"], report["clock"]) == (10, 1, "CPU time")
    timed = {(r["what"], r["sparsity"]) for r in report["layers"]}
    assert timed == {(s, p) for s in report["shapes"][preset] for p in (0.5, 0.9)}
    assert {(r["what"], r["sparsity"]) for r in report["encoders"]} == {
        (what, sparsity) for what in ("encoder", "blocks") for sparsity in (0.5, 0.9)
    }
    for r in report["layers"] + report["encoders"]:
        assert min(r["seconds"].values()) > 0
        assert r["speed_up"] == r["seconds"]["dense"] / r["seconds"]["csr"]
        assert r["faster"] == is_faster(r["seconds"])
    if not torch.cuda.is_available():
        assert (
            report["semi_structured"] == [] and "CUDA" in report["unavailable"]["semi_structured"]
        )
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert sum(line.endswith((" yes", " no")) for line in lines) == 2 * (len(timed) // 2 + 2)
    assert max(map(len, lines)) <= 110 and str(out) in lines[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--sparsity", "1.0"), "sparsity 1.0: expected at least 0 and less than 1"),
        (("--preset", "99"), "student preset '99' is unknown: choose one of"),
    ],
)
def test_benchmark_errors_are_one_line(options, words, tmp_path, capsys):
    assert benchmark(tmp_path / "b.json", *options) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("avhubert-ext: error: ") and words in last


def test_a_pytorch_without_mkl_is_an_input_error(monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    with pytest.raises(InputError, match="MKL"):
        benchmark_sparsity(["tiny-7"], [0.5])


def test_backends_that_are_not_installed_are_named(monkeypatch):
    from avhubert_ext.benchmarks import sparsity as module

    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "openvino" else object())
    assert module.unavailable()["openvino"] == "not installed: openvino"
    assert "onnx" not in module.unavailable()
