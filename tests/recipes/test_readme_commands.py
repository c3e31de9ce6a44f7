"""Every stock command line of the README runs, from another folder than the repository's."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path

import pytest
import sentencepiece
import torch
import yaml
from conftest import ROOT
from fairseq.data import Dictionary, encoders
from readme import BLOCKS, block, commands, play
from test_avhubert import checkpoint, finetuned_config, official_finetuned

from avhubert_ext import build_student
from avhubert_ext.checkpoints.model_file import load_avhubert, read_masks, save_model
from avhubert_ext.compression.pruning import mask_sparsity
from avhubert_ext.models.decoder import DecoderConfig
from avhubert_ext.models.encoder import EncoderConfig
from avhubert_ext.models.presets import build_vsr

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
OFFICIAL = "base_noise_pt_noise_ft_433h.pt"
RUN_HERE = (
    "avhubert-ext noise --musan",
    "--encoder teacher-base",
    "avhubert-ext convert distill ",
    "--task av_distillation",
    "--encoder-checkpoint student.safetensors",
    "fairseq-generate data ",
    "avhubert-ext evaluate --data data ",
    "--save-dir vsr ",
    "avhubert-ext prune vsr.pt",
)
# Text of a block -> where its commands run; a step of the installation runs nowhere.
ELSEWHERE = {
    "scripts/demo.sh ": "test_demo.py",
    "pip install -e . ": None,
    "avhubert-ext transcribe talk.mp4": "test_transcribe_command.py",
    "avhubert-ext transcribe corpus/test": "test_transcribe_command.py",
    "avhubert-ext serve": "test_serve.py",
    "avhubert-ext export ": "test_export.py",
    "run_downstream.py": "test_upstream.py",
    "S3PRL=~/s3prl": "test_s3prl.py",
    'ln -s "$PWD': "test_s3prl.py",
}


def write_official(path: Path, data: Path) -> None:
    """A tiny finetuned file in the official layout, with the subwords of a manifest folder."""
    encoder = EncoderConfig(layers=12, dim=32, ffn=24, heads=2, conv_pos=8, conv_pos_groups=4)
    dictionary = Dictionary.load(str(data / "dict.wrd.txt"))
    decoder = DecoderConfig(vocabulary=len(dictionary), layers=1, dim=32, ffn=24, heads=4)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.tensor(7)
        if name.endswith("num_batches_tracked")
        else torch.rand(shape, generator=generator) * 0.1 + name.endswith("running_var")
        for name, shape in official_finetuned(encoder, decoder).items()
    }
    (model,) = data.glob("spm_*.model")
    bpe = encoders.build_bpe(Namespace(bpe="sentencepiece", sentencepiece_model=str(model)))
    state = {"dictionaries": [dictionary], "target_dictionary": dictionary, "s2s_tokenizer": bpe}
    torch.save(checkpoint(finetuned_config(encoder, decoder), tensors, task_state=state), path)


@pytest.fixture(scope="module")
def folder(corpus: Path, manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's commands name: corpora, checkpoints, configurations."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "lrs3/test").mkdir(parents=True)
    (folder / "lrs3/trainval").symlink_to(corpus / "trainval")
    for number, clip in enumerate(sorted(corpus.glob("test/*/*.*"))):  # two speakers
        speaker = folder / f"lrs3/test/{'one' if number < 6 else 'two'}"
        speaker.mkdir(exist_ok=True)
        (speaker / clip.name).symlink_to(clip)
    (folder / "musan").symlink_to(corpus / "musan")
    write_official(folder / OFFICIAL, manifests)
    model = {"student": "tiny-7", "teacher": OFFICIAL, "teacher_precision": "float32"}
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    run = yaml.safe_load(
        (ROOT / "s3prl_upstream/pretrain/distiller_av/config_runner.yaml").read_text()
    )
    run["runner"] |= {"total_steps": 2, "log_step": 1, "save_step": 1, "fp16": False}
    run["runner"] |= {"gradient_accumulate_steps": 1}
    run["pretrain_expert"]["datarc"] |= {
        "train_batch_size": 2,
        "num_workers": 0,
        "valid_step": None,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))

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
    return folder


def test_run_it_on_lrs3_and_evaluate(folder: Path) -> None:
    play(
        folder,
        block("avhubert-ext noise --musan", "PAPER="),
        block("--encoder teacher-base"),
        block("run_pretrain.py", "avhubert-ext convert distill "),
        block("--task av_distillation"),
        block("--encoder-checkpoint student.safetensors"),
        block("fairseq-generate data "),
        block("avhubert-ext evaluate --data data "),
        **ONE_THREAD,
    )
    assert load_avhubert(folder / "teacher.safetensors").config.dim == 128
    assert load_avhubert(folder / "student.safetensors").config.block == "conformer"
    lines = (folder / "decoded/decoded-test.jsonl").read_text().splitlines()
    assert len(lines) == 4 and {json.loads(line)["noise"]["snr_db"] for line in lines} == {0}
    page = (folder / "evaluation/table_1.html").read_text()
    assert "teacher" in page and "talker" in page


def test_lip_reading_and_pruning(folder: Path) -> None:
    lip_reading = block("--save-dir vsr ", "avhubert-ext average")
    assert "checkpoint{66..75}.pt" in lip_reading  # of 75 epochs; here there is one
    lip_reading = lip_reading.replace("checkpoint{66..75}.pt", "checkpoint{1,_last}.pt")
    pruning = block("avhubert-ext prune vsr.pt", "--save-dir vsr_half")
    play(folder, lip_reading, pruning, **ONE_THREAD)
    assert len((folder / "vsr_noise/results.csv").read_text().splitlines()) > 7
    for name in ("half.safetensors", "vsr_half/checkpoint_last.pt", "vsr_half.safetensors"):
        assert mask_sparsity(read_masks(folder / name)) == pytest.approx(0.5, abs=1e-4)
    assert (folder / "report").is_dir()


def test_hydra_and_validate(manifests: Path, noise: Path, tmp_path: Path) -> None:
    """As finetune.yaml says, with relative paths; then fairseq-validate of what it trained."""
    comment = (ROOT / "scripts/config/lrs3/finetune.yaml").read_text()
    lines = re.findall(r"^#   (.*)$", comment, flags=re.MULTILINE)
    (command,) = commands("\n".join(lines))
    assert command.startswith("fairseq-hydra-train ") and "task.data=data " in command
    (tmp_path / "data").symlink_to(manifests)
    (tmp_path / "noise").symlink_to(noise)
    command = command.replace(",noise/talker", "")  # one speaker in the validation split
    save_model(tmp_path / "student.safetensors", build_student("tiny-7").encoder)
    play(
        tmp_path,
        f"{command} common.user_dir=fairseq_user_dir common.cpu=true common.fp16=false"
        " model.decoder=tiny dataset.num_workers=0 optimization.max_update=1"
        " optimization.update_freq=[1] dataset.max_tokens=200\n"
        "fairseq-validate data --user-dir fairseq_user_dir --task av_asr --valid-subset test"
        " --path finetuned/checkpoint_last.pt --cpu --num-workers 0 --max-tokens 200\n",
        **ONE_THREAD,
    )
    assert (tmp_path / "finetuned/checkpoint_last.pt").is_file()
    assert {path.name for path in tmp_path.iterdir()} <= {
        "data", "noise", "student.safetensors", "finetuned",
    }  # fmt: skip


def test_every_block_runs_somewhere() -> None:
    for text in BLOCKS:
        known = [name for name in (*RUN_HERE, *ELSEWHERE) if name in text]
        assert len(known) == 1, (known, text)
    for name in filter(None, ELSEWHERE.values()):
        assert (ROOT / "tests" / name).is_file()
