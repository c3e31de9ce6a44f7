"""The trainings in the documentation run as they stand there, from another folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import torch
import yaml
from conftest import ROOT, run_well
from doc_blocks import play
from official import write_official

from avhubert_ext import load_avhubert
from avhubert_ext.checkpoints.model_file import load_model, read_masks
from avhubert_ext.compression.pruning import mask_sparsity
from avhubert_ext.models.presets import build_vsr

pytestmark = [pytest.mark.recipe, pytest.mark.slow]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
DISTILLER = ROOT / "s3prl_upstream/pretrain/distiller_av"


@pytest.fixture(scope="module")
def folder(corpus: Path, manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands name: corpora, checkpoints, configurations."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "lrs3/test").mkdir(parents=True)
    (folder / "lrs3/trainval").symlink_to(corpus / "trainval")
    for number, clip in enumerate(sorted(corpus.glob("test/*/*.*"))):  # two speakers
        speaker = folder / f"lrs3/test/{'one' if number < 6 else 'two'}"
        speaker.mkdir(exist_ok=True)
        (speaker / clip.name).symlink_to(clip)
    (folder / "musan").symlink_to(corpus / "musan")
    (folder / "clip.mp4").symlink_to(next(corpus.glob("test/*/*.mp4")))
    write_official(folder / "base_noise_pt_noise_ft_433h.pt", manifests)
    write_configurations(folder, "base_noise_pt_noise_ft_433h.pt")
    write_auto_avsr(folder, manifests)
    return folder


def write_configurations(folder: Path, teacher: str) -> None:
    """Two updates of a tiny student."""
    model = {"student": "tiny-7", "teacher": teacher, "teacher_precision": "float32"}
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    run = yaml.safe_load((DISTILLER / "config_runner.yaml").read_text())
    run["runner"] |= {"total_steps": 2, "log_step": 1, "save_step": 1, "fp16": False}
    run["runner"] |= {"gradient_accumulate_steps": 1}
    data = {"train_batch_size": 2, "num_workers": 0, "valid_step": None}
    run["pretrain_expert"]["datarc"] |= data
    (folder / "run.yaml").write_text(yaml.safe_dump(run))


def write_auto_avsr(folder: Path, manifests: Path) -> None:
    """Subwords as Auto-AVSR has them, and a frontend trained on words."""
    (subwords,) = manifests.glob("spm_*.model")
    (folder / "unigram5000.model").write_bytes(subwords.read_bytes())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(subwords))
    ids = range(processor.get_piece_size())
    spoken = [i for i in ids if not (processor.is_control(i) or processor.is_unknown(i))]
    pieces = ["<unk>", *map(processor.id_to_piece, spoken)]
    units = "".join(f"{piece} {number}\n" for number, piece in enumerate(pieces, start=1))
    (folder / "unigram5000_units.txt").write_text(units)
    frontend = build_vsr("tiny").encoder.video.frontend.state_dict()
    torch.save({"model_state_dict": frontend}, folder / "lrw.pth")


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """From the corpus to word error rates in noise."""
    play(
        folder,
        "data-manifests",
        "distill-teacher",
        "distill-s3prl",
        "distill-fairseq",
        "finetune",
        "evaluate-fairseq",
        "evaluate-noise",
        "evaluate-visual",
        **ONE_THREAD,
    )
    return folder


def test_distill_finetune_and_evaluate(trained: Path) -> None:
    assert load_avhubert(trained / "teacher.safetensors").config.dim == 128
    assert load_avhubert(trained / "student.safetensors").config.block == "conformer"
    lines = (trained / "decoded/decoded-test.jsonl").read_text().splitlines()
    assert len(lines) == 4 and {json.loads(line)["noise"]["snr_db"] for line in lines} == {0}
    page = (trained / "evaluation/table_1.html").read_text()
    assert "teacher" in page and "talker" in page
    rows = (trained / "evaluation_visual/results.csv").read_text()
    assert "gaussian_blur" in rows or "gaussian blur" in rows
    assert (trained / "noise.png").stat().st_size > 0


def test_hydra_and_validate(trained: Path, tmp_path: Path) -> None:
    for name in ("data", "noise", "student.safetensors"):
        (tmp_path / name).symlink_to(trained / name)
    play(tmp_path, "finetune-hydra", **ONE_THREAD)
    run_well(
        "fairseq-validate", "data", "--user-dir", ROOT / "fairseq_user_dir", "--task", "av_asr",
        "--valid-subset", "test", "--path", "finetuned/checkpoint_last.pt", "--cpu",
        "--num-workers", "0", "--max-tokens", "200", cwd=tmp_path, **ONE_THREAD,
    )  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} <= {
        "data", "noise", "student.safetensors", "finetuned",
    }  # fmt: skip


def test_lip_reading_pruning_and_quantization(folder: Path) -> None:
    play(folder, "lip-reading", "prune", "quantize", **ONE_THREAD)
    assert len((folder / "vsr_noise/results.csv").read_text().splitlines()) > 7
    for name in ("half.safetensors", "vsr_half/checkpoint_last.pt", "vsr_half.safetensors"):
        assert mask_sparsity(read_masks(folder / name)) == pytest.approx(0.5, abs=1e-4)
    assert (folder / "report").is_dir()
    dense = 4 * sum(p.numel() for p in load_model(folder / "half.safetensors").parameters())
    for name in ("vsr-8bit.safetensors", "qat-8bit.safetensors"):
        assert 0.25 * dense < (folder / name).stat().st_size < 0.35 * dense
