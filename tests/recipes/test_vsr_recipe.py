"""`scripts/vsr.sh --quick`: two lip readers, from a raw corpus to paper B's Figure 2."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import run, run_well

from avhubert_ext.data.visual_noise import PAPER_TYPES


def test_from_the_corpus_to_the_figure(tmp_path: Path) -> None:
    environment = {"WORK": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run_well("scripts/vsr.sh", "--quick", **environment)
    found = json.loads((tmp_path / "evaluation/results.json").read_text())
    assert [result["model"] for result in found] == ["dense", "dense-noise"]
    conditions = ["clean", *(f"{kind}_level5" for kind in PAPER_TYPES)]
    for result in found:
        assert sorted(result["conditions"]) == sorted(conditions)
        assert result["settings"]["trained_with"].startswith("400 frames x 1 batches")
    for name in ("table_1.md", "table_1.html", "visual_noise_seen.png", "visual_noise_unseen.png"):
        assert (tmp_path / "evaluation" / name).stat().st_size > 0
    # The difference between the two trainings.
    for model, noisy in (("dense", False), ("dense-noise", True)):
        log = (tmp_path / f"log/{model}.log").read_text()
        assert ("'visual_noise': 'block,gaussian_blur,motion_blur,pixelation'" in log) == noisy


def test_wrong_use_is_reported() -> None:
    result = run("scripts/vsr.sh", "--huge")
    assert result.returncode == 2 and "scripts/vsr.sh --quick" in result.stdout
