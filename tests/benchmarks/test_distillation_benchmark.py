"""The plain training loop, and `avhubert-ext benchmark distillation`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import run_well
from networks import SMALL, clip, randomize

from avhubert_ext.benchmarks.distillation import benchmark_distillation, plain_loss
from avhubert_ext.benchmarks.plain import plain_hidden_states
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.student import HeadsConfig, Student
from avhubert_ext.training.losses import distillation_loss


def test_the_plain_loop_computes_the_same() -> None:
    teacher = randomize(AVHubertEncoder(SMALL))
    audio, video = clip(frames=6)
    expected = teacher(audio, video).hidden_states
    for plain, state in zip(plain_hidden_states(teacher, audio, video), expected, strict=True):
        torch.testing.assert_close(plain, state, rtol=1e-3, atol=1e-3)
    torch.manual_seed(0)
    student = Student(SMALL, HeadsConfig((1, 2), SMALL.dim)).eval()
    loss, _ = distillation_loss(
        student(audio, video).predictions, dict(enumerate(expected)), padding_mask=None
    )
    assert plain_loss(teacher, student, audio, video).item() == pytest.approx(loss.item(), rel=1e-3)


@pytest.mark.slow
def test_benchmark_of_a_distillation(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    report = benchmark_distillation("tiny-7", "teacher-tiny", 2, 5, 1, 1, "float32")
    torch.set_num_threads(threads)
    assert report["speed_up"] == report["seconds"]["plain"] / report["seconds"]["ours"] > 0
    assert all(seconds > 0 for seconds in report["parts"].values())
    printed = run_well(
        "avhubert-ext", "benchmark", "distillation", "--student", "tiny-7", "--teacher",
        "teacher-tiny", "--batch-size", 1, "--frames", 5, "--rounds", 1, "--out",
        tmp_path / "b.json",
    )  # fmt: skip
    assert "times as fast" in printed and json.loads((tmp_path / "b.json").read_text())["parts"]
