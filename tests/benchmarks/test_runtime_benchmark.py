"""`avhubert-ext benchmark runtime`: whole recognizers, and the old `benchmark-decoding`."""

import json
import math
from pathlib import Path

import pytest
import torch

from avhubert_ext.benchmarks import runtime
from avhubert_ext.cli import main
from avhubert_ext.decoding.attention import search


def benchmark(out: Path, *options: object, command: tuple[str, ...] = ("benchmark", "runtime")):
    short = ("--form", "pytorch", "pytorch fused", "--threads", 1, "--decoder", "tiny")
    short += ("--seconds", 0.2, "--rounds", 3, "--beam", 2, "--folder", out.parent / "kept")
    threads = torch.get_num_threads()
    try:
        return main([*command, "--out", str(out), *map(str, (*short, *options))])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("benchmark", "runtime", "--model"), ("benchmark-decoding", "--preset")], ids=str
)
def test_presets_in_pytorch(command, tmp_path, capsys):
    out = tmp_path / "folder" / "b.json"
    names = ["teacher-tiny", "student-tiny-7"]
    *command, option = command
    assert benchmark(out, option, *names, "--tokens", 3, command=command) == 0
    report = json.loads(out.read_text())
    conditions = {"beam": 2, "frames": 5, "tokens": 3, "rounds": 3}
    assert conditions.items() <= report.items() and report["machine"]["cpu"]
    results = report["results"]
    expected = [(name, form, 1) for name in names for form in ("pytorch", "pytorch fused")]
    assert [(r["model"], r["form"], r["threads"]) for r in results] == expected
    for r in results:
        assert 0 < r["fastest_seconds"] <= r["median_seconds"]
        assert 0 < min(r["encoder_seconds"], r["decoder_seconds"]) < r["median_seconds"]
        assert math.isclose(r["real_time_factor"], r["median_seconds"] / 0.2)
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*names, "pytorch fused", "3 tokens", str(out)))
    assert max(map(len, printed.splitlines())) <= 100 + len(str(out))


@pytest.mark.slow
def test_every_token_of_the_clip_is_decoded(tmp_path, monkeypatch):
    """By default as many as LRS3 has in that time, and no fewer."""
    found = []
    monkeypatch.setattr(runtime, "search", lambda *inputs: found.append(search(*inputs)))
    assert benchmark(tmp_path / "b.json", "--model", "student-tiny-7", "--seconds", 2) == 0
    assert json.loads((tmp_path / "b.json").read_text())["tokens"] == 7
    assert len(found) == 2 * (1 + 3)  # eager and fused, a warm-up and the rounds
    assert {len(h.tokens) for (hypotheses,) in found for h in hypotheses} == {8}


@pytest.mark.slow
def test_models_are_kept_by_decoder(tmp_path):
    for decoder in ("decoder-tiny", "base"):
        options = ("--model", "student-tiny-7", "--decoder", decoder, "--rounds", 1)
        assert benchmark(tmp_path / "b.json", *options, "--tokens", 1) == 0
    kept = {path.name for path in (tmp_path / "kept/student-tiny-7").iterdir()}
    assert kept == {"tiny.safetensors", "base.safetensors"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "99"], "preset '99' is unknown: choose one of"),
        (["--decoder", "huge"], "decoder preset 'huge' is unknown: choose one of"),
        (["--seconds", "0.01"], "0.01 seconds: expected at least one frame of 0.04 s"),
        (["--form", "torch"], "form 'torch': expected one of pytorch, "),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, options, words):
    assert benchmark(tmp_path / "b.json", "--model", "student-tiny-7", *options) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("avhubert-ext: error: ") and words in last
