"""Reports of models that were trained with several seeds."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from avhubert_ext.errors import InputError
from avhubert_ext.reports.decoded import CONDITIONS
from avhubert_ext.reports.seeds import read_metrics, report


def decode(folder: Path, wrong: int) -> Path:
    """What fairseq-generate leaves of ten words, `wrong` of them wrong, in every condition."""
    hypothesis = " ".join(["b"] * wrong + ["a"] * (10 - wrong))
    for condition in CONDITIONS:
        (folder / condition).mkdir(parents=True)
        (folder / condition / "generate-test.txt").write_text(
            f"T-0\t{' '.join(['a'] * 10)}\nD-0\t-1.0\t{hypothesis}\n"
            "Generate test: WER: 0 (beam 5)\n"
        )
    return folder


def test_mean_spread_and_curves(tmp_path: Path) -> None:
    runs = [("one", decode(tmp_path / f"one{n}", n)) for n in (1, 2, 6)]
    runs.append(("two", decode(tmp_path / "two", 5)))
    distillation = tmp_path / "distill"
    distillation.mkdir()
    entries = [
        {"step": 1, "train-loss": 3.0},
        {"step": 2, "train-loss": 9.0},
        {"step": 2, "train-loss": 2.0, "valid-loss": 2.5, "valid-cosine_similarity_8": 0.5},
    ]
    (distillation / "metrics.jsonl").write_text(
        "".join(json.dumps(e) + "\n" for e in entries) + '{"step": 3, "tr'
    )
    table = report(runs, [distillation], tmp_path / "out")
    spread = statistics.stdev([10.0, 20.0, 60.0])
    assert f"30.00 ± {spread:.2f}" in table and table.count("  50.00") == 3
    assert table.count("one, clean: beam 5\n") == 3 and "two, babble_0db: beam 5\n" in table
    content = json.loads((tmp_path / "out/compare.json").read_text())
    assert content["wer"]["one"]["clean"] == [10.0, 20.0, 60.0]
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")
    assert [m["train-loss"] for m in read_metrics(distillation)] == [3.0, 2.0], "resumed at 2"
    with pytest.raises(InputError, match=r"metrics\.jsonl not found"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="nothing was logged"):
        read_metrics(tmp_path)
