"""The fairseq plugin through fairseq's own command lines."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run, run_well

from avhubert_ext.checkpoints.model_file import load_model
from avhubert_ext.checkpoints.torch_file import read_torch_file
from avhubert_ext.evaluation.wer import word_error_rate
from avhubert_ext.reports.decoded import read_hypotheses

UPDATES = 4
TEACHER = ROOT / "scripts/models/tiny-teacher"


def train_command(data: Path, save_dir: Path, *options: object) -> list[object]:
    return [
        "fairseq-train", data, "--user-dir", "fairseq_user_dir", "--save-dir", save_dir,
        "--task", "av_asr", "--arch", "av_asr_seq2seq", "--encoder", "student-tiny-7",
        "--decoder", "tiny", "--criterion", "label_smoothed_cross_entropy", "--sentence-avg",
        "--optimizer", "adam", "--lr", "1e-3", "--lr-scheduler", "polynomial_decay",
        "--total-num-update", UPDATES, "--max-update", UPDATES, "--max-tokens", 200,
        "--num-workers", 0, "--cpu", "--seed", 3, "--no-epoch-checkpoints",
        "--log-format", "simple", "--log-interval", 1, *options,
    ]  # fmt: skip


def generate_command(data: Path, checkpoint: Path, results: Path) -> list[object]:
    return [
        "fairseq-generate", data, "--user-dir", "fairseq_user_dir", "--task", "av_asr",
        "--gen-subset", "test", "--path", checkpoint, "--cpu", "--num-workers", 0,
        "--max-tokens", 400, "--beam", 3, "--max-len-a", 1, "--max-len-b", 0,
        "--scoring", "wer", "--post-process", "sentencepiece", "--results-path", results,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(manifests: Path, noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The save folder of a student, trained for a few updates with noise, frozen at first."""
    folder = tmp_path_factory.mktemp("trained")
    run_well(
        *train_command(
            manifests, folder, "--noise-manifests", f"{noise}/babble,{noise}/music",
            "--noise-prob", 0.5, "--noise-snr", "(-5,5)", "--freeze-encoder-updates", 2,
            "--cache-dir", folder / "cache",
        )
    )  # fmt: skip
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_torch_file(folder / "checkpoint_last.pt")["model"]


def test_frozen_encoder_stays_and_decoder_learns(manifests: Path, tmp_path: Path) -> None:
    run_well(*train_command(manifests, tmp_path / "a", "--max-update", 1, "--lr", "0"))
    start = weights(tmp_path / "a")
    frozen = train_command(manifests, tmp_path / "b", "--freeze-encoder-updates", UPDATES)
    run_well(*frozen)
    end = weights(tmp_path / "b")
    learned = {name for name in start if not torch.equal(start[name], end[name])}
    encoder = {n for n in learned if n.startswith("encoder.w2v_model.") and "running" not in n}
    assert {n for n in encoder if "num_batches" not in n} == set()
    assert any(name.startswith("decoder.") for name in learned)
    assert "encoder.bridge.weight" in learned, "the bridge must learn while the encoder is frozen"


def test_resumed_equals_uninterrupted(trained: Path, manifests: Path, noise: Path) -> None:
    folder = trained.parent / "resumed"
    options = (
        "--noise-manifests", f"{noise}/babble,{noise}/music", "--noise-prob", 0.5,
        "--noise-snr", "(-5,5)", "--freeze-encoder-updates", 2,
    )  # fmt: skip
    run_well(*train_command(manifests, folder, *options, "--max-update", 3))
    log = run_well(*train_command(manifests, folder, *options))
    assert re.search(r"Loaded checkpoint.*@ 3 updates", log)
    straight, resumed = weights(trained), weights(folder)
    assert straight.keys() == resumed.keys()
    different = [name for name in straight if not torch.equal(straight[name], resumed[name])]
    assert different == []


def test_generate_scores_as_the_library_does(
    trained: Path, manifests: Path, tmp_path: Path
) -> None:
    run_well(*generate_command(manifests, trained / "checkpoint_last.pt", tmp_path))
    path = tmp_path / "generate-test.txt"
    printed = float(re.search(r"WER: ([\d.]+)", path.read_text())[1])
    pairs = read_hypotheses(path)
    assert len(pairs) == 4
    transcripts = (manifests / "test.wrd").read_text().splitlines()
    # Letters that are not in the training transcripts are `<<unk>>` in the reference.
    known = [re.escape(reference).replace("<<unk>>", ".+") for reference, _ in pairs]
    for transcript in transcripts:
        assert any(re.fullmatch(pattern, transcript) for pattern in known), transcript
    assert word_error_rate(pairs) == pytest.approx(printed, abs=0.01)


def test_checkpoint_converts_without_fairseq(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    run_well("avhubert-ext", "model", "convert", trained / "checkpoint_last.pt", target)
    model = load_model(target)
    stored = weights(trained)
    key = "encoder.w2v_model.post_extract_proj.weight"
    assert torch.equal(model.encoder.post_extract_proj.weight, stored[key])


def test_shipped_teacher_recognizes_an_unseen_speaker(teacher_data: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "teacher.pt"
    run_well("avhubert-ext", "model", "convert", TEACHER / "model.safetensors", checkpoint)
    run_well(*generate_command(teacher_data, checkpoint, tmp_path))
    assert word_error_rate(read_hypotheses(tmp_path / "generate-test.txt")) < 25


def broken_copy(manifests: Path, folder: Path) -> Path:
    shutil.copytree(manifests, folder)
    return folder


def error_line(result_text: str) -> str:
    assert "Traceback" not in result_text.splitlines()[-1]
    return result_text.strip().splitlines()[-1]


def test_corrupt_video_ends_training_with_one_line(manifests: Path, tmp_path: Path) -> None:
    data = broken_copy(manifests, tmp_path / "data")
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"not a video")
    rows = (data / "train.tsv").read_text().splitlines()
    fields = [row.split("\t") for row in rows[1:]]
    for row in fields:
        row[1] = str(torn)
    (data / "train.tsv").write_text("/\n" + "\n".join("\t".join(row) for row in fields) + "\n")
    for workers in (0, 1):
        result = run(*train_command(data, tmp_path / "out", "--num-workers", workers))
        assert result.returncode != 0
        assert error_line(result.stdout).startswith("error: more than 1% of 12 utterances")
        assert str(torn) in error_line(result.stdout)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda d: (d / "train.tsv").unlink(), "train.tsv"),
        (lambda d: (d / "dict.wrd.txt").unlink(), "dict.wrd.txt"),
        (lambda d: (d / "spm_bpe64.model").unlink(), "spm_"),
        (lambda d: (d / "train.wrd").write_text("\n" * 12), "train.wrd"),
    ],
    ids=["manifest", "dictionary", "subwords", "empty transcripts"],
)
def test_spoilt_data_folder_ends_with_one_line(
    manifests: Path, tmp_path: Path, spoil: object, named: str
) -> None:
    data = broken_copy(manifests, tmp_path / "data")
    spoil(data)
    result = run(*train_command(data, tmp_path / "out"))
    assert result.returncode != 0
    line = error_line(result.stdout)
    assert line.startswith("error: ") and named in line


def test_fairseqs_own_checks_end_with_one_line(manifests: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.pt"
    generate = generate_command(manifests, gone, tmp_path)
    place = generate.index("--path")
    for command, said in (
        ([*generate[:place], *generate[place + 2 :]], "--path required for generation!"),
        (generate, f"Model file not found: {gone}"),
        (train_command(manifests, tmp_path, "--finetune-from-model", gone), f"{gone} does not ex"),
    ):
        result = run(*command)
        assert result.returncode == 1 and "Traceback" not in result.stdout
        line = error_line(result.stdout)
        assert line.startswith("error: ") and said in line


def test_an_unknown_noise_range_is_refused(manifests: Path, noise: Path, tmp_path: Path) -> None:
    options = ("--noise-manifests", f"{noise}/babble", "--noise-snr", "loud")
    result = run(*train_command(manifests, tmp_path, *options))
    assert result.returncode != 0 and "noise_snr 'loud'" in error_line(result.stdout)


def test_a_torn_copy_never_replaces_a_checkpoint(tmp_path: Path) -> None:
    """fairseq copies in place. The plugin copies to a temporary file, which it renames."""
    code = """
import os, shutil, sys
import fairseq_user_dir
from fairseq.file_io import PathManager
whole, target = sys.argv[1:]
def die_half_way(source, temporary):
    open(temporary, "w").write("ha")
    os._exit(9)
shutil.copyfile = die_half_way
PathManager.copy(whole, target, overwrite=True)
"""
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    assert run("python", "-c", code, tmp_path / "new", tmp_path / "old").returncode == 9
    assert (tmp_path / "old").read_text() == "old"
