"""`avhubert-ext report decoded sparsity`: where the pruned weights are."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from avhubert_ext import build_vsr
from avhubert_ext.checkpoints.fairseq_file import save_fairseq
from avhubert_ext.checkpoints.model_file import save_model
from avhubert_ext.checkpoints.sparse_file import save_masks
from avhubert_ext.cli import main
from avhubert_ext.compression.pruning import (
    apply_masks,
    count_pruned,
    global_magnitude_mask,
)
from avhubert_ext.models.decoder import AVRecognizer
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.presets import DECODERS, STUDENTS, TEACHERS
from avhubert_ext.reports.sparsity import (
    OTHER,
    grids,
    layers_of,
    percent,
    place,
    sparse_report,
)

TINY_TEACHER = ROOT / "scripts/models/tiny-teacher/model.safetensors"
# Every family that can be pruned: lip readers, one or two streams, and AV-HuBERT's with both kinds
# of blocks and frontends, alone or with a decoder.
MODELS = {
    "vsr": lambda: build_vsr("tiny", vocabulary=40),
    "vsr-both": lambda: build_vsr("tiny", modality="both", vocabulary=40),
    "student-7": lambda: AVRecognizer(STUDENTS["tiny-7"].encoder, DECODERS["tiny"]),
    "teacher": lambda: AVRecognizer(TEACHERS["tiny"], DECODERS["tiny"]),
    "encoder-4": lambda: AVHubertEncoder(STUDENTS["tiny-4"].encoder),
}


@dataclass
class Reported:
    """A mask of 60% and all that is made of it."""

    masks: dict[str, torch.Tensor]
    text: str
    out: Path


@pytest.fixture(scope="module", params=MODELS)
def reported(request, tmp_path_factory):
    torch.manual_seed(0)
    masks = global_magnitude_mask(MODELS[request.param](), 0.6)
    out = tmp_path_factory.mktemp(request.param)
    save_masks(out / "mask.safetensors", masks)
    return Reported(masks, sparse_report(out / "mask.safetensors", out), out)


@pytest.mark.slow
def test_counts_are_those_of_the_masks(reported):
    masks, text = reported.masks, reported.text
    rows = list(csv.DictReader((reported.out / "sparsity.csv").open()))
    assert {row["name"] for row in rows} == masks.keys()
    lines = {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}
    for row in rows:
        mask = masks[row["name"]]
        weights, kept = mask.numel(), int(mask.sum())
        assert (int(row["weights"]), int(row["kept"])) == (weights, kept)
        assert float(row["sparsity"]) == pytest.approx(1 - kept / weights, abs=1e-6)
        assert row["shape"] == "x".join(map(str, mask.shape))
        sparsity = f"{1 - kept / weights:.4f}"
        assert lines[row["name"]] == [row["shape"], f"{weights:,}", f"{kept:,}", sparsity]
    weights, pruned = sum(m.numel() for m in masks.values()), count_pruned(masks)
    assert pruned == round(0.6 * weights)
    assert f"{pruned:,} of {weights:,} prunable weights are pruned" in text
    assert lines["all"] == [str(len(masks)), f"{weights:,}", f"{weights - pruned:,}", "0.6000"]
    assert max(map(len, text.splitlines())) <= 120


def test_sums_of_parts_and_kinds_fit_the_layers(reported):
    report = json.loads((reported.out / "sparsity.json").read_text())
    parts = [one for one in report["parts"] if one["kind"] is None]
    for key in ("weights", "kept"):
        assert report[key] == sum(one[key] for one in parts)
        for part in parts:
            own = [layer for layer in report["layers"] if layer["part"] == part["part"]]
            kinds = [o for o in report["parts"] if o["part"] == part["part"] and o["kind"]]
            assert part["layers"] == len(own) and part[key] == sum(layer[key] for layer in own)
            assert not kinds or part[key] == sum(one[key] for one in kinds)


def test_every_layer_has_its_place_in_the_picture_and_a_name_for_people(reported):
    layers = layers_of(reported.masks)
    assert not [layer.name for layer in layers if layer.part == OTHER or "_proj" in layer.kind]
    drawn = [layer.name for grid in grids(layers) for layer in grid.cells.values()]
    assert sorted(drawn) == sorted(reported.masks)


def test_the_picture_is_full_and_nothing_is_cut_off(reported):
    cv2 = pytest.importorskip("cv2")
    picture = cv2.imread(str(reported.out / "sparsity.png"))
    border = [picture[:5], picture[-5:], picture[:, :5], picture[:, -5:]]
    assert all((edge == 255).all() for edge in border)
    pixels = picture[::7, ::7].reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 50 and (pixels != 255).any(axis=-1).mean() > 0.15


def test_the_heat_map_of_blocks():
    """Kinds by block, in the order in which a block computes."""
    masks = global_magnitude_mask(build_vsr("tiny", vocabulary=40), 0.0)
    found = {grid.title: grid for grid in grids(layers_of(masks))}
    blocks, frontend = found["video encoder blocks"], found["visual frontend"]
    assert blocks.columns == [str(number) for number in range(12)]
    assert blocks.rows[0] == "feed-forward 1, in" and blocks.rows[-1] == "feed-forward 2, out"
    assert len(blocks.rows) == 12 and len(blocks.cells) == 12 * 12
    cell = blocks.cells["self-attention, q", "7"]
    assert cell.name == "encoder.video.layers.7.self_attn.q_proj.weight"
    assert frontend.columns == ["1.0", "1.1", "2.0", "2.1", "3.0", "3.1", "4.0", "4.1"]
    assert ("shortcut", "1.0") not in frontend.cells and ("shortcut", "2.0") in frontend.cells
    assert len(found["decoder"].columns) == 6 and len(found["decoder"].rows) == 10
    assert list(found["single layers"].cells) == [
        ("visual frontend, stem", ""),
        ("video projection", ""),
        ("CTC", ""),
        ("decoder, output", ""),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.encoder.layers.3.fc1.weight", ("encoder blocks", "feed-forward, in", "3")),
        ("encoder.layers.3.fc1.weight", ("encoder blocks", "feed-forward, in", "3")),
        ("bridge.weight", ("bridge", "", None)),
        ("heads.shared.weight", ("prediction heads", "shared", None)),
        ("elsewhere.3.fc1.weight", (OTHER, "elsewhere.3.fc1", None)),
    ],
)
def test_places(name, expected):
    assert place(name) == expected


def test_a_layer_without_weights_left_is_told_from_one_with_few():
    dense, few, empty, one_lost = (torch.ones(50, 50).bool() for _ in range(4))
    few[:], empty[:] = False, False
    few[0, 0], one_lost[0, 0] = True, False
    masks = {"dense": dense, "few": few, "empty": empty, "one lost": one_lost}
    assert [percent(layer) for layer in layers_of(masks)] == ["0", ">99.9", "100", "<0.1"]


def test_every_kind_of_file(tmp_path, capsys):
    model = build_vsr("tiny", vocabulary=40)
    masks = global_magnitude_mask(model, 0.5)
    apply_masks(model, masks)
    save_model(tmp_path / "pruned.safetensors", model, masks=masks)
    save_fairseq(tmp_path / "pruned.pt", model, masks=masks)
    save_masks(tmp_path / "mask.safetensors", masks)
    printed = set()
    for name in ("pruned.safetensors", "pruned.pt", "mask.safetensors"):
        assert main(["report", "sparsity", str(tmp_path / name)]) == 0
        printed.add(capsys.readouterr().out)
    assert len(printed) == 1


@pytest.mark.slow
def test_the_command_writes_what_it_says(tmp_path, capsys):
    pruned, out = tmp_path / "pruned.safetensors", tmp_path / "out"
    assert main(["model", "prune", str(TINY_TEACHER), str(pruned), "--sparsity", "0.3"]) == 0
    assert main(["report", "sparsity", str(pruned), "--out", str(out)]) == 0
    assert f"written: {out}/sparsity.csv, .json, .png" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        f"sparsity.{e}" for e in ("csv", "json", "png")
    }
    assert json.loads((out / "sparsity.json").read_text())["sparsity"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("file", "words"),
    [(TINY_TEACHER, "permanently pruned"), ("nowhere.pt", "nowhere.pt not found")],
)
def test_a_dense_model_is_one_line(file, words, capsys):
    assert main(["report", "sparsity", str(file)]) == 1
    errors = capsys.readouterr().err
    assert words in errors and errors.count("\n") == 1
