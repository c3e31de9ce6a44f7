"""Two tasks in one process: neither changes what the other computes."""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from fairseq import checkpoint_utils, options, scoring, tasks
from fairseq.data.iterators import GroupedIterator
from fairseq.dataclass.configs import GenerationConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from fairseq.utils import import_user_module, set_torch_seed
from omegaconf import OmegaConf

from avhubert_ext.checkpoints.model_file import load_recognizer, save_model
from avhubert_ext.data.manifest import read_manifest, write_manifest
from avhubert_ext.data.normalization import TextConfig, write_text_config

import_user_module(argparse.Namespace(user_dir=str(ROOT / "fairseq_user_dir")))
from fairseq_user_dir.scoring import ConditionedWer  # noqa: E402

TEACHER = ROOT / "scripts/models/tiny-teacher/model.safetensors"
UPDATES = 3


def training(data: Path, subset: str, size: int) -> Iterator[tuple[float, float, torch.Tensor]]:
    """Train a lip reader; yields the rate and loss of each update, and a weight after it."""
    parser = options.get_training_parser()
    words = [
        data, "--user-dir", ROOT / "fairseq_user_dir", "--task", "vsr", "--arch",
        "vsr_ctc_attention", "--network", "tiny-s", "--criterion", "ctc_attention", "--optimizer",
        "adam", "--lr", 1e-3, "--lr-scheduler", "cosine_epochs", "--warmup-epochs", 1,
        "--max-epoch", 4, "--train-subset", subset, "--batch-size", size, "--num-workers", 0,
        "--cpu", "--seed", 3,
    ]  # fmt: skip
    args = options.parse_args_and_arch(parser, [str(word) for word in words])
    cfg = convert_namespace_to_omegaconf(args)
    set_torch_seed(3)
    task = tasks.setup_task(cfg.task)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    trainer = Trainer(cfg, task, model, criterion)
    batches = trainer.get_train_iterator(epoch=1)
    trainer.begin_epoch(1)
    for samples in itertools.islice(GroupedIterator(batches.next_epoch_itr(), 1), UPDATES):
        rate = trainer.get_lr()
        log = trainer.train_step(samples)
        yield rate, float(log["loss"]), model.recognizer.ctc.weight.detach().clone()


def same(some: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> bool:
    return all(
        a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(some, others, strict=True)
    )


def test_two_trainings_at_once_are_the_two_alone(manifests: Path) -> None:
    """Of other utterances and epochs of another length, whose schedules differ."""
    settings = ((manifests, "train", 2), (manifests, "valid", 1))
    alone = [list(training(*each)) for each in settings]
    together = list(zip(*[training(*each) for each in settings], strict=True))
    assert all(len(updates) == UPDATES for updates in alone)
    assert [rate for rate, *_ in alone[0]] != [rate for rate, *_ in alone[1]]
    for number, updates in enumerate(alone):
        assert same(updates, [pair[number] for pair in together])


def decoding(data: Path, model: Path, beam: int, **changes: Any) -> Iterator[str]:
    """Decode a test set as fairseq-generate does, step by step; the last item is the result."""
    settings = {
        "_name": "av_asr", "data": str(data), "seed": 1, "train_subset": "train",
        "update_freq": [1], "best_checkpoint_metric": "loss", "results_path": None,
    }  # fmt: skip
    task = tasks.setup_task(OmegaConf.create(settings | changes))
    yield "set up"
    models, _ = checkpoint_utils.load_model_ensemble([str(model)], task=task)
    task.load_dataset("test")
    yield "loaded"
    search = OmegaConf.structured(GenerationConfig(beam=beam, max_len_a=1, max_len_b=0))
    generator = task.build_generator(models, search)
    yield "can decode"
    scorer = scoring.build_scorer(OmegaConf.create({"_name": "wer"}), task.target_dictionary)
    assert isinstance(scorer, ConditionedWer)
    dataset = task.datasets["test"]
    for index in range(len(dataset)):
        sample = dataset.collater([dataset[index]])
        (hypotheses,) = task.inference_step(generator, models, sample)
        dictionary, post = task.target_dictionary, "sentencepiece"
        reference = dictionary.string(sample["target"][0], post, escape_unk=True)
        scorer.add_string(reference, dictionary.string(hypotheses[0]["tokens"], post))
        yield f"decoded {index}"
    yield scorer.result_string()


@pytest.fixture
def settings(teacher_data: Path, noise: Path, tmp_path: Path) -> list[tuple[tuple, dict]]:
    """Two decodings: other data, noise, search, normalization and model files."""
    spoilt, torn = tmp_path / "data", tmp_path / "torn.mp4"
    shutil.copytree(teacher_data, spoilt)
    torn.write_bytes(b"not a video")
    first, *others = read_manifest(teacher_data / "test.tsv")
    broken = type(first)(first.id, torn, first.audio, first.frames, first.samples)
    write_manifest(spoilt / "test.tsv", [broken, *others])
    write_text_config(spoilt, TextConfig(punctuation="keep"))
    for name in ("one", "two"):
        origin = {"trained_with": f"batch {name}"}
        save_model(tmp_path / f"{name}.safetensors", load_recognizer(TEACHER), origin=origin)
    babble = {"noise_manifests": f"{noise}/babble", "noise_prob": 1.0, "noise_snr": "-5"}
    return [
        ((teacher_data, tmp_path / "one.safetensors", 2), babble),
        ((spoilt, tmp_path / "two.safetensors", 1), {"allow_unreadable": True}),
    ]


def test_two_decodings_at_once_are_the_two_alone(settings: list[tuple[tuple, dict]]) -> None:
    alone = [list(decoding(*words, **options))[-1] for words, options in settings]
    steps = [decoding(*words, **options) for words, options in settings]
    together = list(zip(*steps, strict=True))[-1]
    assert list(together) == alone
    for result, parts in (
        (alone[0], ("0 of 4 utterances unreadable", "beam 2", "-5 dB", "trained with batch one")),
        (alone[1], ("1 of 4 utterances unreadable", "beam 1", "noise none", "with batch two")),
    ):
        assert all(part in result for part in parts)
