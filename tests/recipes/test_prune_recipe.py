"""`scripts/prune_sweep.sh --preset quick`: every method, from a raw corpus to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import run, run_well
from torch import Tensor

from avhubert_ext.checkpoints.model_file import load_model, read_masks
from avhubert_ext.compression.pruning import count_pruned, prunable_weights, same
from avhubert_ext.data.visual_noise import PAPER_TYPES

QUICK = ("scripts/prune_sweep.sh", "--preset", "quick")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("sweep") / "my sweep"
    run_well(*QUICK, WORK=str(work))
    return work


def state(path: Path) -> dict[str, Tensor]:
    return load_model(path).state_dict()


def test_every_cell_is_pruned_exactly_and_reported(sweep: Path) -> None:
    one_shot = ("naive", "finetune", "parp", "lth", "lrr", "rewind-1")
    cells = {f"{method}-20": 0.2 for method in one_shot}
    cells |= {f"{m}-{s}": s / 100 for m in ("lth-iterative", "lrr-iterative") for s in (10, 20)}
    assert {path.stem for path in (sweep / "models").iterdir()} == {"dense", *cells}
    for name, sparsity in cells.items():
        path = sweep / f"models/{name}.safetensors"
        masks, weights = read_masks(path), prunable_weights(load_model(path))
        total = sum(weight.numel() for weight in weights.values())
        assert count_pruned(masks) == round(sparsity * total), name
        assert all(not weights[n][~mask].any() for n, mask in masks.items()), name
    table = (sweep / "report/pruning.md").read_text()
    assert "Finetune" in table and "PARP" in table
    for picture in ("pruning_methods.png", "pruning_rewinding.png"):
        assert (sweep / "report" / picture).stat().st_size > 0


def test_sparse_and_dense_meet_under_visual_noise(sweep: Path) -> None:
    found = json.loads((sweep / "noise/evaluation/results.json").read_text())
    assert [result["model"] for result in found] == ["dense", "lrr-iterative-10"]
    conditions = sorted(["clean", *(f"{kind}_level5" for kind in PAPER_TYPES)])
    assert all(sorted(result["conditions"]) == conditions for result in found)
    for log in ("dense", "lrr-iterative-10"):
        assert "'visual_noise': 'block," in (sweep / f"noise/log/{log}.log").read_text()
        assert "'visual_noise': 'block," not in (sweep / f"log/{log}.log").read_text()


def test_methods_prune_and_rewind_as_described(sweep: Path) -> None:
    def masks(name: str) -> dict[str, Tensor]:
        return read_masks(sweep / f"models/{name}.safetensors")

    # All one-shot methods have the mask of the dense model, except PARP, which prunes again.
    for name in ("finetune-20", "lth-20", "lrr-20", "rewind-1-20"):
        assert same(masks(name), masks("naive-20")), name
    for name, regrows in (("parp-20", True), ("finetune-20", False)):
        assert ("regrown" in (sweep / f"log/{name}.log").read_text()) == regrows
    for method in ("lth-iterative", "lrr-iterative"):
        first, second = masks(f"{method}-10"), masks(f"{method}-20")
        assert all(not (second[n] & ~first[n]).any() for n in first)

    # The masked weights that the training starts from: theta_0, or theta_1.
    for name, start in (
        ("lth-20", sweep / "start.safetensors"),
        ("lth-iterative-20", sweep / "start.safetensors"),
        ("rewind-1-20", next((sweep / "dense").glob("checkpoint_*_1.pt"))),
    ):
        rewound, wanted = state(sweep / name / "start.safetensors"), state(start)
        kept = masks(name)
        for tensor, value in wanted.items():
            expected = value * kept[tensor] if tensor in kept else value
            assert torch.equal(rewound[tensor], expected), (name, tensor)


def test_methods_start_from_the_right_weights(sweep: Path) -> None:
    dense, models = sweep / "dense/checkpoint_last.pt", sweep / "models"
    starts = {f"{name}-20": dense for name in ("finetune", "parp", "lrr")}
    starts |= {
        "lrr-iterative-10": dense,
        "lrr-iterative-20": models / "lrr-iterative-10.safetensors",
    }
    starts |= {n: sweep / n / "start.safetensors" for n in ("lth-20", "rewind-1-20")}
    for name, start in starts.items():
        log = (sweep / f"log/{name}.log").read_text()
        assert f"loading pretrained model from {start}:" in log, name


def test_finished_cells_are_skipped(sweep: Path) -> None:
    options = ("--max-update", "2", "--")  # as in the sweep
    printed = run_well("scripts/prune.sh", *options, "lrr-iterative", "20", WORK=str(sweep))
    steps = [f"lrr-iterative-{s}{part}" for s in (10, 20) for part in ("", ".export")]
    assert printed.splitlines() == [f"{step}: done before" for step in steps]


def test_another_dense_model_is_not_passed_off_as_the_old_one(sweep: Path) -> None:
    dense = sweep / "dense/checkpoint_last.pt"
    content = dense.read_bytes()
    dense.write_bytes(content[:-1])
    result = run("scripts/prune.sh", "naive", "20", WORK=str(sweep))
    dense.write_bytes(content)
    assert result.returncode == 1
    assert "naive-20: its settings or input files have changed" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lrr", "20", "100"), "sparsity 100: expected 1 to 99 percent"),
        (("lrr", "0"), "sparsity 0: expected 1 to 99 percent"),
        (("lrr", "0.5"), "sparsity 0.5: expected 1 to 99 percent"),
        (("lrr-iterative", "25"), "sparsity 25: every round prunes 10%"),
        (("rewind-7", "50"), "has no checkpoint of epoch or update 7; choose one of these: check"),
        (("magic", "50"), "scripts/prune.sh [OPTION... --] METHOD SPARSITY"),
        (("magic-iterative", "50"), "scripts/prune.sh [OPTION... --] METHOD SPARSITY"),
        (("--max-update", "2", "--", "lrr"), "scripts/prune.sh [OPTION... --] METHOD SPARSITY"),
    ],
)
def test_wrong_use_ends_before_any_training(sweep: Path, words: tuple[str, ...], said: str) -> None:
    before = sorted(path.name for path in sweep.iterdir())
    result = run("scripts/prune.sh", *words, WORK=str(sweep))
    assert result.returncode != 0 and said in result.stdout
    assert sorted(path.name for path in sweep.iterdir()) == before


def test_a_missing_dense_model_is_reported(tmp_path: Path) -> None:
    result = run("scripts/prune.sh", "naive", "50", WORK=str(tmp_path))
    assert result.returncode == 1
    assert "dense/checkpoint_last.pt not found: train the dense model first" in result.stdout
