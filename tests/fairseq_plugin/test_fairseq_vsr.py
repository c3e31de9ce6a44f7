"""Lip reading with CTC and attention, with fairseq's stock commands."""

from __future__ import annotations

import json
import math
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, run_well
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.utils import import_user_module
from test_fairseq_training import INTERPOLATED
from test_fairseq_training import new_task as av_asr_task

from avhubert_ext import build_vsr, load_auto_avsr
from avhubert_ext.checkpoints.model_file import save_model
from avhubert_ext.checkpoints.torch_file import read_torch_file
from avhubert_ext.cli import main
from avhubert_ext.data.dataset import AVDataset, DataConfig, collate
from avhubert_ext.data.text import Vocabulary
from avhubert_ext.data.visual_noise import TRAINING_TYPES, VisualNoiseConfig
from avhubert_ext.decoding.joint import JointConfig, joint_beam_search
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.hypotheses import read_decoded

import_user_module(Namespace(user_dir=str(ROOT / "fairseq_user_dir")))
from fairseq_user_dir.criterions.ctc_attention import CTCAttentionCriterion  # noqa: E402
from fairseq_user_dir.joint_generator import JointGenerator  # noqa: E402
from fairseq_user_dir.models.av_asr_seq2seq import AVASRSeq2SeqConfig  # noqa: E402
from fairseq_user_dir.models.vsr_ctc_attention import (  # noqa: E402
    VSRCTCAttention,
    VSRModelConfig,
)
from fairseq_user_dir.schedule import CosineEpochs, CosineEpochsConfig, cosine_rate  # noqa: E402
from fairseq_user_dir.tasks.vsr import VSRTask, VSRTaskConfig  # noqa: E402

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
EPOCHS, PER_EPOCH = 3, 2


def train(data: Path, folder: Path, *options: object) -> list[object]:
    return [
        "fairseq-train", data, "--user-dir", "fairseq_user_dir", "--task", "vsr",
        "--arch", "vsr_ctc_attention", "--network", "tiny", "--criterion", "ctc_attention",
        "--optimizer", "adam", "--adam-betas", "(0.9,0.98)", "--weight-decay", 0.03,
        "--lr", 1e-3, "--lr-scheduler", "cosine_epochs", "--warmup-epochs", 1,
        "--max-epoch", EPOCHS, "--clip-norm", 5, "--batch-size", 6, "--time-mask",
        "--visual-noise", "block,gaussian_blur,motion_blur,pixelation", "--seed", 3,
        "--num-workers", 0, "--cpu", "--save-dir", folder, "--log-format", "json",
        "--log-interval", 1, "--disable-validation", "--save-interval-updates", 3, *options,
    ]  # fmt: skip


def generate(data: Path, model: Path, results: Path, *options: object) -> list[object]:
    return [
        "fairseq-generate", data, "--user-dir", "fairseq_user_dir", "--task", "vsr",
        "--gen-subset", "test", "--path", model, "--cpu", "--num-workers", 0, "--beam", 3,
        "--max-tokens", 100, "--scoring", "wer", "--post-process", "sentencepiece",
        "--results-path", results, *options,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the checkpoints of three epochs of two updates, and the log."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, run_well(*train(manifests, folder), **ONE_THREAD)


def new_task(data: Path, **changes: Any) -> VSRTask:
    return VSRTask.setup_task(VSRTaskConfig(data=str(data), **INTERPOLATED | changes))


def test_rates_follow_the_cosine_in_epochs(trained: tuple[Path, str]) -> None:
    rates = [float(json.loads(line)["lr"]) for line in re.findall(r"\{.*\"lr\".*\}", trained[1])
             if "train_lr" not in line]  # fmt: skip
    total = EPOCHS * PER_EPOCH
    # fairseq logs the rate of the next update.
    expected = [1e-3 * cosine_rate(u + 1, PER_EPOCH, total) for u in range(1, total + 1)]
    assert rates == pytest.approx(expected, abs=1e-6)


def test_the_cosine_is_its_formula() -> None:
    rates = [cosine_rate(u, 10, 50) for u in range(1, 51)]
    assert rates[:10] == pytest.approx([u / 10 for u in range(1, 11)])
    assert rates[29] == pytest.approx(0.5) and rates[-1] == pytest.approx(0)
    assert rates[19] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_a_schedule_without_its_epochs_is_refused() -> None:
    for warmup, most in ((5.0, 5), (5.0, 0), (-1.0, 4)):
        cfg = CosineEpochsConfig(warmup_epochs=warmup, max_epoch=most, lr=[1e-3])
        with pytest.raises(InputError, match="set --max-epoch, and fewer epochs of warm-up"):
            CosineEpochs(cfg, None)


def test_resumed_is_uninterrupted(
    trained: tuple[Path, str], manifests: Path, tmp_path: Path
) -> None:
    shutil.copy(trained[0] / "checkpoint_2_3.pt", tmp_path / "checkpoint_last.pt")
    run_well(*train(manifests, tmp_path), **ONE_THREAD)
    one, two = (
        read_torch_file(folder / "checkpoint_last.pt")["model"] for folder in (trained[0], tmp_path)
    )
    assert one.keys() == two.keys()
    assert [n for n in one if not torch.equal(one[n], two[n])] == []


def test_generate_finds_what_the_library_finds(
    trained: tuple[Path, str], manifests: Path, tmp_path: Path
) -> None:
    """For a checkpoint, and for the file that it is converted to."""
    checkpoint, converted = trained[0] / "checkpoint_last.pt", tmp_path / "model.safetensors"
    options = ["--visual-noise", "motion_blur", "--visual-noise-level", 4, "--ctc-weight", 0.3]
    log = run_well(*generate(manifests, checkpoint, tmp_path / "one", *options), **ONE_THREAD)
    assert "beam 3, CTC weight 0.3, no length penalty" in log
    assert "visual noise motion_blur level 4" in log and "trained with 6 utterances x 1" in log
    assert main(["model", "convert", str(checkpoint), str(converted)]) == 0
    run_well(*generate(manifests, converted, tmp_path / "two", *options), **ONE_THREAD)
    lines = [(tmp_path / n / "decoded-test.jsonl").read_text() for n in ("one", "two")]
    assert lines[0] == lines[1]

    model = load_auto_avsr(checkpoint)
    blur = VisualNoiseConfig(("motion_blur",), 4, clean=False)
    dataset = AVDataset(manifests, "test", DataConfig("video", visual_noise=blur))
    batch = collate([dataset[index] for index in range(len(dataset))])
    hypotheses = joint_beam_search(
        model, None, batch.video, batch.padding_mask, JointConfig(3, 0.3)
    )
    vocabulary = Vocabulary(manifests / "dict.wrd.txt", ctc=True)
    found = {d.id: d for d in read_decoded(tmp_path / "one/decoded-test.jsonl")}
    assert len(found) == len(dataset)
    for utterance, best in zip(dataset.utterances, (h[0] for h in hypotheses), strict=True):
        decoded = found[utterance.id]
        assert decoded.hypothesis == vocabulary.text(best.tokens)
        assert decoded.score == pytest.approx(best.score, abs=1e-3)
        assert decoded.visual_noise == {"kind": "motion_blur", "level": 4}
        assert decoded.noise is None


def test_what_does_not_fit_is_refused(
    trained: tuple[Path, str], manifests: Path, teacher_data: Path
) -> None:
    stored = read_torch_file(trained[0] / "checkpoint_last.pt")["cfg"]["model"]
    assert stored["subwords"].split("\n") == new_task(manifests).outputs
    cfg = VSRModelConfig(description=stored["description"], dictionary=stored["dictionary"])
    assert VSRCTCAttention.build_model(cfg, new_task(manifests))
    with pytest.raises(InputError, match=r"subwords .* the model has"):
        VSRCTCAttention.build_model(cfg, new_task(teacher_data))
    with pytest.raises(InputError, match="visual_noise_level without a type"):
        new_task(manifests, visual_noise_level=3).load_dataset("train")
    for task, cfg, said in (
        (av_asr_task(manifests), VSRModelConfig(network="tiny"), "has the outputs of --task vsr"),
        (new_task(manifests), AVASRSeq2SeqConfig(), "--task vsr is for models of --arch vsr_ctc"),
    ):
        with pytest.raises(InputError, match=said):
            if isinstance(cfg, VSRModelConfig):
                VSRCTCAttention.build_model(cfg, task)
            else:
                task.build_model(cfg)
    model = VSRCTCAttention.build_model(VSRModelConfig(network="tiny"), new_task(manifests))
    with pytest.raises(InputError, match="set --criterion ctc_attention"):
        model.get_normalized_probs(None, log_probs=True)
    with pytest.raises(InputError, match="visual noise 'fog': expected one of block"):
        new_task(manifests, visual_noise="fog").load_dataset("train")
    with pytest.raises(InputError, match=r"ctc_weight 1\.5: expected 0 to 1"):
        CTCAttentionCriterion(new_task(manifests), 1.5, 0.1)


@pytest.mark.parametrize("modalities", ["audio", "both"])
def test_audio_and_both_train(manifests: Path, modalities: str) -> None:
    task = new_task(manifests, modalities=modalities, time_mask=True)
    torch.manual_seed(0)
    model = VSRCTCAttention.build_model(VSRModelConfig(network="tiny"), task).train()
    task.load_dataset("train")
    dataset = task.datasets["train"]
    sample = dataset.collater([dataset[index] for index in (0, 1)])
    frames = sample["net_input"]["padding_mask"].shape[1]
    assert sample["net_input"]["audio"].shape == (2, 1, 640 * frames)
    loss, size, log = CTCAttentionCriterion(task, 0.1, 0.1)(model, sample)
    loss.backward()
    assert size == 2 and loss.isfinite() and log["sample_size"] == 2
    grad = model.recognizer.encoder.audio.frontend.trunk.conv1.weight.grad
    assert grad.abs().sum() > 0


def test_the_criterion_ignores_padding(manifests: Path) -> None:
    """The loss of a batch is the sum of the losses of its utterances."""
    task = new_task(manifests)
    torch.manual_seed(0)
    model = VSRCTCAttention.build_model(VSRModelConfig(network="tiny"), task).eval()
    task.load_dataset("test")
    dataset = task.datasets["test"]
    items = [dataset[index] for index in range(3)]
    assert len({item["sample"].frames for item in items}) > 1
    criterion = CTCAttentionCriterion(task, 0.1, 0.1)
    with torch.no_grad():
        together = criterion(model, dataset.collater(items))
        apart = [criterion(model, dataset.collater([item])) for item in items]
    for name in ("loss", "loss_ctc", "loss_attention", "accuracy"):
        parts = sum(float(log[name]) for _, _, log in apart)
        assert float(together[2][name]) == pytest.approx(parts, rel=1e-4), name


def test_options_reach_the_data_and_the_network(manifests: Path, tmp_path: Path) -> None:
    task = new_task(manifests, time_mask=True, visual_noise="block", update_freq=[2])
    config = task.data_config("train")
    assert config.time_mask and config.augment and config.waveform
    assert config.visual_noise == VisualNoiseConfig(("block",))
    assert not new_task(manifests).data_config("train").time_mask
    task.load_dataset("train")
    iterator = task.get_batch_iterator(task.datasets["train"], max_sentences=4)
    assert task.epoch_length.updates == math.ceil(len(iterator) / 2) < len(iterator)

    start = build_vsr("tiny", vocabulary=9)
    save_model(tmp_path / "start.safetensors", start)
    cfg = VSRModelConfig(
        network="tiny",
        frontend_checkpoint=str(tmp_path / "start.safetensors"),
        unmasked_padding=True,
    )
    built = VSRCTCAttention.build_model(cfg, task).recognizer
    assert not built.encoder.config.mask_padding
    stems = [m.encoder.video.frontend.frontend3D[0].weight for m in (built, start)]
    assert torch.equal(*stems)


def test_half_precision_keeps_what_needs_float32(manifests: Path) -> None:
    task = new_task(manifests)
    model = VSRCTCAttention.build_model(VSRModelConfig(network="tiny"), task).eval()
    model.to(dtype=torch.bfloat16)
    task.load_dataset("test")
    dataset = task.datasets["test"]
    sample = dataset.collater([dataset[0]])
    video = sample["net_input"]["video"]
    with torch.no_grad():
        ctc_log_probs, _ = model(**sample["net_input"])
        exact, _ = model.recognizer.encode(video)
        with model.precision.autocast(video.device):
            encoded, _ = model.recognizer.encode(video)
    assert ctc_log_probs.dtype == torch.float32
    (found,) = JointGenerator(model.recognizer.eos, JointConfig(2)).generate([model], sample)
    mask = sample["net_input"]["padding_mask"]
    (in_float32,) = joint_beam_search(model.recognizer, None, video, mask, JointConfig(2))
    assert found[0]["score"] == pytest.approx(in_float32[0].score, rel=0.05)
    assert float(found[0]["score"]) != in_float32[0].score
    error = float((encoded - exact).abs().max())
    assert 0 < error < 0.5, "bfloat16 has 8 bits, but must not break anything"


def test_the_dictionary_is_auto_avsrs(manifests: Path) -> None:
    dictionary = new_task(manifests).target_dictionary
    subwords = [line.split()[0] for line in (manifests / "dict.wrd.txt").read_text().splitlines()]
    assert dictionary.outputs == ["<blank>", "<unk>", *subwords, "<eos>"]
    assert dictionary.eos() == dictionary.bos() == len(subwords) + 2
    assert dictionary.pad() == len(dictionary.outputs) and dictionary.unk() == 1
    line = dictionary.encode_line(f"{subwords[4]} nothing-like-it", add_if_not_exist=False)
    assert line.tolist() == [6, 1, dictionary.eos()]


@pytest.mark.parametrize(
    ("size", "expected"),
    [("s", ("base-s", 6e-4, 2400)), ("l", ("base-l", 1e-3, 1800))],
)
def test_the_papers_settings(size: str, expected: tuple) -> None:
    folder = ROOT / "scripts/config/lrs3"
    words = [
        word
        for name in ("vsr.args", "vsr_dense.args", f"vsr_base_{size}.args", "vsr_noise.args")
        for line in (folder / name).read_text().splitlines()
        if not line.startswith("#")
        for word in line.split()
    ]
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(
        parser, ["data", "--user-dir", str(ROOT / "fairseq_user_dir"), *words]
    )
    cfg = convert_namespace_to_omegaconf(args)
    rate, frames = cfg.optimization.lr[0], cfg.dataset.max_tokens
    assert (cfg.model.network, rate, frames) == expected
    assert (cfg.lr_scheduler.warmup_epochs, cfg.optimization.max_epoch) == (5, 75)
    assert cfg.lr_scheduler.max_epoch == 75 and cfg.lr_scheduler.lr == cfg.optimization.lr
    assert eval(cfg.optimizer.adam_betas) == (0.9, 0.98)
    assert (cfg.criterion.ctc_weight, cfg.criterion.label_smoothing) == (0.1, 0.1)
    assert cfg.task.time_mask and cfg.task.visual_noise.split(",") == list(TRAINING_TYPES)
    assert cfg.task.modalities == "video" and cfg.task.ctc_weight == 0.1
