"""`avhubert-ext evaluate` in visual noise, and of CTC/attention recognizers."""

from __future__ import annotations

import csv
import json
import statistics
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from conftest import ROOT
from networks import randomize

from avhubert_ext.checkpoints.model_file import load_auto_avsr, save_model
from avhubert_ext.cli import main
from avhubert_ext.data.dataset import AVDataset, DataConfig
from avhubert_ext.data.noise import NoiseConfig
from avhubert_ext.data.text import Vocabulary
from avhubert_ext.data.visual_noise import (
    PAPER_TYPES,
    TYPES,
    VisualNoiseConfig,
    add_visual_noise,
)
from avhubert_ext.decoding.attention import BeamConfig
from avhubert_ext.decoding.joint import JointConfig, joint_search
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.evaluate import EvaluationConfig, evaluate
from avhubert_ext.evaluation.hypotheses import Decoded, read_decoded, write_decoded
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.presets import VSR
from avhubert_ext.reports import noise as noise_report

TEACHER = ROOT / "scripts/models/tiny-teacher/model.safetensors"
JOINT = JointConfig(beam=2, ctc_weight=0.3)


def make_recognizer(path: Path, data: Path, modality: str) -> Path:
    """A small one with random weights whose scores depend on what it gets."""
    encoder, decoder = VSR["tiny"].encoder, VSR["tiny"].decoder
    vocabulary = len(Vocabulary(data / "dict.wrd.txt", ctc=True))
    model = CTCAttentionRecognizer(
        replace(encoder, modality=modality, layers=1, dim=16, ffn=16, heads=2),
        replace(decoder, vocabulary=vocabulary, layers=1, dim=16, ffn=16, heads=2),
    )
    save_model(path, randomize(model))
    return path


@pytest.fixture(scope="module")
def models(teacher_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("models")
    own = [
        (name, make_recognizer(folder / f"{name}.safetensors", teacher_data, modality))
        for name, modality in (("ears", "audio"), ("lips", "video"))
    ]
    return [*own, ("teacher", TEACHER)]


@pytest.fixture(scope="module")
def config(
    teacher_data: Path, noise: Path, tmp_path_factory: pytest.TempPathFactory
) -> EvaluationConfig:
    return EvaluationConfig(
        teacher_data,
        noise=(noise / "babble",),
        snr_db=(0,),
        visual_noise=("block", "contrast"),
        levels=(1, 10),
        passes=2,
        beam=BeamConfig(JOINT.beam),
        ctc_weight=JOINT.ctc_weight,
        cache=tmp_path_factory.mktemp("cache"),
    )


@pytest.fixture(scope="module")
def evaluated(
    models: list[tuple[str, Path]],
    config: EvaluationConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("evaluated")
    evaluate(models, config, out)
    return out


def passes(folder: Path) -> dict[str, list[Decoded]]:
    """By condition and number."""
    return {
        f"{path.parent.name} {path.stem}": read_decoded(path)
        for path in sorted(folder.glob("*/pass-*.jsonl"))
    }


def scores(decoded: list[Decoded]) -> list[tuple[str, float]]:
    return [(d.hypothesis, d.score) for d in decoded]


VISUAL = {
    "block_level1 pass-0", "block_level1 pass-1", "block_level10 pass-0", "block_level10 pass-1",
    "contrast_level1 pass-0", "contrast_level10 pass-0",
}  # fmt: skip


@pytest.mark.slow
def test_a_file_a_pass_but_one_where_all_would_be_the_same(evaluated: Path) -> None:
    found = passes(evaluated / "lips")
    assert found.keys() == {"clean pass-0", "babble_0dB pass-0"} | VISUAL
    assert passes(evaluated / "teacher").keys() == found.keys() | {"babble_0dB pass-1"}
    for name in VISUAL:
        kind, level = name.split(" ")[0].split("_level")
        assert [d.visual_noise for d in found[name]] == 4 * [{"kind": kind, "level": int(level)}]
    assert all(d.visual_noise is None for d in found["clean pass-0"])
    different = {tuple(scores(found[name])) for name in (*VISUAL, "clean pass-0")}
    assert len(different) == 7, "other types, levels and passes are other noise"


@pytest.mark.parametrize("kind", TYPES)
def test_types_of_which_one_pass_is_enough(kind: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 96, 96), dtype=np.uint8)
    one, other = (add_visual_noise(frames, kind, 5, np.random.default_rng(n)) for n in (1, 2))
    assert np.array_equal(one, other) != TYPES[kind].random


def test_noise_reaches_only_the_models_that_take_it(evaluated: Path) -> None:
    """The others have the results of clean speech under it."""
    lips, ears, teacher = (passes(evaluated / name) for name in ("lips", "ears", "teacher"))
    assert scores(lips["babble_0dB pass-0"]) == scores(lips["clean pass-0"])
    assert all(d.noise is None for d in lips["babble_0dB pass-0"])
    assert scores(ears["block_level10 pass-0"]) == scores(ears["clean pass-0"])
    assert "block_level10 pass-1" not in ears
    assert scores(ears["babble_0dB pass-0"]) != scores(ears["clean pass-0"])
    assert scores(ears["babble_0dB pass-0"]) != scores(ears["babble_0dB pass-1"])
    for name in ("babble_0dB pass-0", "block_level10 pass-0"):
        assert scores(teacher[name]) != scores(teacher["clean pass-0"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "condition"), [("lips", "block_level10"), ("ears", "babble_0dB")])
def test_the_same_as_decoded_by_hand(
    models: list[tuple[str, Path]],
    config: EvaluationConfig,
    evaluated: Path,
    name: str,
    condition: str,
) -> None:
    inputs = {
        "block_level10": {"visual_noise": VisualNoiseConfig(("block",), 10, clean=False)},
        "babble_0dB": {"noise": NoiseConfig(config.noise, 1.0, (0, 0))},
    }[condition]
    model = load_auto_avsr(dict(models)[name])
    reading = DataConfig(model.encoder.config.modality, waveform=True, seed=1, **inputs)
    dataset = AVDataset(config.data, "test", reading)
    vocabulary = Vocabulary(config.data / "dict.wrd.txt", ctc=True)
    for number, decoded in enumerate(passes(evaluated / name)[f"{condition} pass-1"]):
        sample = dataset[1, number]
        video, audio = (None if x is None else x[None] for x in (sample.video, sample.audio))
        with torch.no_grad():
            memory, _ = model.encode(video, None, audio)
            log_probs = model.ctc_log_probs(memory)
        ((best, *_),) = joint_search(model.decoder, log_probs, memory, None, JOINT)
        assert decoded.id == dataset.utterances[number].id
        assert decoded.hypothesis == vocabulary.text(best.tokens)
        assert decoded.score == pytest.approx(best.score, abs=1e-3)


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(
    models: list[tuple[str, Path]], config: EvaluationConfig, evaluated: Path
) -> None:
    lost = evaluated / "lips/block_level1/pass-1.jsonl"
    kept = {p: p.stat().st_mtime_ns for p in evaluated.glob("*/*/*.jsonl") if p != lost}
    before = read_decoded(lost)
    lost.unlink()
    evaluate(models, replace(config, max_frames=60), evaluated)
    after = read_decoded(lost)
    assert [(d.hypothesis, d.visual_noise) for d in after] == [
        (d.hypothesis, d.visual_noise) for d in before
    ]
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


@pytest.mark.slow
def test_what_results_depend_on_is_told_by_family(
    models: list[tuple[str, Path]], config: EvaluationConfig, evaluated: Path
) -> None:
    records = {
        name: json.loads((evaluated / name / "model.json").read_text()) for name, _ in models
    }
    taken = {name: record["modalities"] for name, record in records.items()}
    assert taken == {"ears": "audio", "lips": "video", "teacher": "both"}
    assert records["lips"]["beam"] == {"beam": 2, "ctc_weight": 0.3, "pre_beam": 1.5}
    assert records["teacher"]["beam"]["length_penalty"] == 1
    network = records["lips"]["encoder"]
    assert (network["visual"], network["block"], network["dim"]) == ("resnet", "conformer", 16)
    encoder = load_auto_avsr(dict(models)["lips"]).encoder
    assert network["parameters"] == sum(p.numel() for p in encoder.parameters())
    assert network["flops_per_frame"] > 1e6
    # The CTC weight is nothing to a model without CTC, nor the modalities to one that has its own.
    changed = replace(config, ctc_weight=0.5)
    evaluate(models[2:], changed, evaluated)
    with pytest.raises(InputError, match="another beam; delete it"):
        evaluate(models[1:2], changed, evaluated)
    evaluate(models[1:2], replace(config, modalities="audio"), evaluated)


def test_another_dictionary_is_refused(
    models: list[tuple[str, Path]], config: EvaluationConfig, manifests: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"subwords .* the model has"):
        evaluate(models[1:2], replace(config, data=manifests, noise=()), tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"visual_noise": ("fog",)}, "visual noise 'fog': expected one of block, "),
        ({"levels": (1, 11)}, "level 11: expected an integer from 1 to 10"),
        ({"levels": (0,)}, "level 0: expected an integer from 1 to 10"),
        ({"ctc_weight": 1.5}, "ctc_weight 1.5: expected a number, 0 to 1"),
    ],
)
def test_settings_that_make_no_sense(config: EvaluationConfig, change: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(config, **change)


def word_error_rate(folder: Path, name: str) -> float:
    decoded = passes(folder)[name]
    return 100 * jiwer.wer([d.reference for d in decoded], [d.hypothesis for d in decoded])


def test_report(evaluated: Path) -> None:
    text = noise_report.report(evaluated)
    lips = evaluated / "lips"
    clean = word_error_rate(lips, "clean pass-0")
    with (evaluated / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "lips"]
    places = [(row["noise"], row["snr_db"], row["level"], row["pass"]) for row in rows]
    assert places == [
        ("babble", "0", "", "0"), ("block", "", "1", "0"), ("block", "", "1", "1"),
        ("block", "", "10", "0"), ("block", "", "10", "1"), ("clean", "", "", "0"),
        ("contrast", "", "1", "0"), ("contrast", "", "10", "0"),
    ]  # fmt: skip
    wers = {p: float(row["wer"]) for p, row in zip(places, rows, strict=True)}
    assert wers["block", "", "10", "1"] == pytest.approx(
        word_error_rate(lips, "block_level10 pass-1"), abs=1e-3
    )
    found = json.loads((evaluated / "results.json").read_text())[2]["conditions"]["block_level10"]
    assert (found["noise"], found["snr_db"], found["level"]) == ("block", None, 10)

    means = [
        statistics.mean(wer for place, wer in wers.items() if place[0] == kind)
        for kind in ("block", "contrast")
    ]
    expected = [f"{value:.2f}" for value in (clean, *means, statistics.mean(means))]
    table = text[text.index("Visual noise, mean over levels 1, 10") :].splitlines()
    assert table[1].split()[-5:] == ["clean", "block", "contrast", "all", "types"]
    (row,) = [line for line in table if line.startswith("lips ")]
    assert row.split()[3:] == expected
    assert text.startswith("Acoustic noise")
    for name in ("table_1.md", "table_1.html"):
        page = (evaluated / name).read_text()
        for told in (
            "wer_babble.png", "visual_noise_seen.png", "visual_noise_unseen.png", expected[1],
            "beam 2, CTC weight 0.3", "beam 2, length penalty 1", "modalities video",
            "2 of block at each of levels 1, 10", "1 of contrast at each of levels 1, 10",
        ):  # fmt: skip
            assert told in page, told
    for name in ("seen", "unseen"):
        picture = (evaluated / f"visual_noise_{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")


def test_report_without_acoustic_noise_and_with_missing_levels(
    evaluated: Path, tmp_path: Path
) -> None:
    def write(model: str, condition: str, hypothesis: str) -> None:
        target = tmp_path / model / condition / "pass-0.jsonl"
        write_decoded(target, [Decoded("u", "a b c d", hypothesis, -0.1)])
        record = (evaluated / "lips/model.json").read_text()
        (tmp_path / model / "model.json").write_text(record)

    for model, levels in (("dense", (1, 2, 3)), ("sparse", (1, 3))):
        write(model, "clean", "a b c d")
        write(model, "motion_blur_level2", "")
        for level in levels:
            write(model, f"block_level{level}", "a b c" if level < 3 else "a b")
    text = noise_report.report(tmp_path)
    assert text.startswith("Visual noise, mean over levels 1 to 3 of block; 2 of motion blur\n")
    rows = [line.split()[3:] for line in text.splitlines()[3:5]]
    assert rows == [["0.00", "33.33", "100.00", "66.67"], ["0.00", "-", "100.00", "-"]]
    page = (tmp_path / "table_1.md").read_text()
    assert "Acoustic" not in page and "visual_noise_unseen.png" not in page
    assert {p.name for p in tmp_path.glob("*.png")} == {"visual_noise_seen.png"}


@pytest.mark.parametrize(
    ("options", "types"),
    [
        ([], ()),
        (["--visual-noise"], PAPER_TYPES),
        (["--visual-noise", "jpeg", "--levels", "1", "3"], ("jpeg",)),
    ],
)
def test_the_command_line(
    teacher_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    types: tuple[str, ...],
) -> None:
    seen = []
    monkeypatch.setattr(
        "avhubert_ext.evaluation.evaluate.evaluate", lambda models, config, out: seen.append(config)
    )
    monkeypatch.setattr("avhubert_ext.reports.noise.report", lambda out: "")
    command = ["evaluate", "--data", str(teacher_data), "--out", str(tmp_path)]
    assert main([*command, "--ctc-weight", "0.2", *options]) == 0
    (config,) = seen
    assert config.visual_noise == types and config.ctc_weight == 0.2
    assert config.levels == ((1, 3) if "jpeg" in types else tuple(range(1, 11)))
