"""The plain encoders, and `avhubert-ext benchmark encoder`."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import SMALL, clip, near, trained

from avhubert_ext.benchmarks.plain import plain_forward
from avhubert_ext.benchmarks.timing import Features
from avhubert_ext.cli import main
from avhubert_ext.models.conformer import ConformerConfig

LIPS = ConformerConfig(layers=2, dim=32, ffn=48, heads=4, width=0.125, fusion=24)


def test_the_plain_forward_is_the_teacher():
    encoder = trained(replace(SMALL, layers=3))
    audio, video = clip(frames=7)
    with torch.no_grad():
        expected = encoder(audio, video).last_hidden_state
        assert near(plain_forward(encoder, Features(audio, video)), expected)


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_the_plain_forward_is_the_lip_reader(frames):
    encoder = trained(LIPS)
    video = clip(2, frames)[1]
    with torch.no_grad():
        assert near(plain_forward(encoder, Features(torch.empty(0), video)), encoder(video))


def run(out: Path, *options: str) -> int:
    return main(["benchmark", "encoder", "--out", str(out), "--rounds", "3", *options])


@pytest.mark.slow
def test_benchmark(tmp_path, capsys, monkeypatch):
    """Every cell is there, and the figures fit each other."""
    # The tiny teacher in place of the base one; "teacher-tiny" and "tiny-7" are full and short.
    monkeypatch.setattr("avhubert_ext.benchmarks.encoder.TEACHER", "teacher-tiny")
    threads = torch.get_num_threads()
    out = tmp_path / "folder" / "b.json"
    names, backends = ("teacher-tiny", "tiny-7"), ("eager", "fused")
    options = ["--preset", *names, "--backend", *backends, "--frames", "10"]
    try:
        assert run(out, *options) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads(out.read_text())
    assert (report["frames"], report["threads"], report["dtype"]) == (10, 1, "float32")
    cells = {(r["model"], r["backend"]): r for r in report["results"]}
    expected = {(model, backend) for model in names for backend in backends}
    assert cells.keys() == expected | {("teacher-tiny", "plain")}
    for (_, backend), cell in cells.items():
        median = cell["median_seconds"]
        assert 0 < cell["fastest_seconds"] <= median
        teacher = cells["teacher-tiny", backend]["median_seconds"]
        assert math.isclose(cell["ratio_to_teacher"], median / teacher)
        assert math.isclose(cell["real_time_factor"], median / 0.4)
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*names, *backends, str(out)))
    assert max(map(len, printed.splitlines())) <= 100 + len(str(out))


def test_benchmark_of_a_lip_reader(tmp_path, capsys):
    options = ("--preset", "vsr-tiny", "--backend", "eager", "fused", "--frames", "5")
    assert run(tmp_path / "b.json", *options) == 0
    results = json.loads((tmp_path / "b.json").read_text())["results"]
    assert [r["backend"] for r in results] == ["eager", "fused", "plain"]
    lines = capsys.readouterr().out.splitlines()
    assert "formulas" in lines[7] and "vsr-tiny" in lines[8]


def test_benchmark_without_a_compiler(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(tmp_path / "b.json", "--preset", "tiny-7", "--backend", "compile") == 1
    assert "the backend compile needs a C++ compiler" in capsys.readouterr().err


def test_benchmark_of_half_precision(tmp_path):
    options = ("--preset", "tiny-7", "--dtype", "bfloat16", "--backend", "eager", "fused")
    assert run(tmp_path / "b.json", *options) == 0
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["dtype"] == "bfloat16" and len(report["results"]) == 2


def test_benchmark_without_the_teacher_has_no_ratios(tmp_path):
    assert run(tmp_path / "b.json", "--preset", "tiny-7", "--backend", "eager") == 0
    (cell,) = json.loads((tmp_path / "b.json").read_text())["results"]
    assert cell["ratio_to_teacher"] is None


@pytest.mark.slow
def test_benchmark_of_other_runtimes(tmp_path):
    backends = ("compile", "onnx")
    assert run(tmp_path / "b.json", "--preset", "teacher-tiny", "--backend", *backends) == 0
    results = json.loads((tmp_path / "b.json").read_text())["results"]
    assert [r["backend"] for r in results] == list(backends)
    assert all(r["median_seconds"] > 0 for r in results)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "99"], "preset '99' is unknown: choose one of"),
        (["--preset", "tiny-7", "--dtype", "bfloat16", "--backend", "onnx"], "float32 only"),
    ],
)
def test_benchmark_errors_are_one_line(tmp_path, capsys, options, words):
    assert run(tmp_path / "b.json", *options) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("avhubert-ext: error: ") and words in last
