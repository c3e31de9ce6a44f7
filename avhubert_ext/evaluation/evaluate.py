"""Decoding in noise: kinds of noise x levels x passes (paper A, section 3.1).

A pass is a decoding of the whole split with other noise snippets; which snippet, offset and level
an utterance gets follows from (seed, condition, utterance, pass) alone. Every pass is a file of its
own, `OUT/MODEL/CONDITION/pass-N.jsonl`, so that an evaluation goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from avhubert_ext.data.batching import batches_by_frames
from avhubert_ext.data.dataset import AVDataset, DataConfig, Sample, collate, read_transcripts
from avhubert_ext.data.files import write_text
from avhubert_ext.data.noise import NoiseConfig
from avhubert_ext.data.text import Subwords, Vocabulary, check_dictionary, find_subword_model
from avhubert_ext.decoding import BeamConfig, Hypothesis, beam_search
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.complexity import flops_per_frame
from avhubert_ext.evaluation.hypotheses import Decoded, write_decoded
from avhubert_ext.models.checkpoint import (
    load_avhubert,
    load_avhubert_asr,
    read_masks,
    read_origin,
    strip_prefix,
)
from avhubert_ext.models.decoder import AVRecognizer
from avhubert_ext.pruning import kept_parameters

CLEAN = "clean"


@dataclass(frozen=True)
class Encoder:
    """What Table 1 tells about an encoder; parameters without pruned ones."""

    visual: str
    block: str
    layers: int
    dim: int
    ffn: int
    parameters: int
    flops_per_frame: float


@dataclass(frozen=True)
class EvaluationConfig:
    """What is decoded, and how.

    data: manifest folder. noise: folders with `SPLIT.tsv`, each a kind of noise. snr_db: levels.
    passes: of each condition with noise; clean speech is decoded once, all passes are the same.
    max_frames: in a batch, padding included. cache: folder for decoded frames and features.
    subword_model: sentencepiece model, None for the one in the data folder.
    """

    data: Path
    split: str = "test"
    noise: tuple[Path, ...] = ()
    snr_db: tuple[float, ...] = (-10, -5, 0, 5, 10)
    passes: int = 10
    seed: int = 1
    modalities: str = "both"
    beam: BeamConfig = field(default_factory=BeamConfig)
    max_frames: int = 2000
    cache: Path | None = None
    device: str = "cpu"
    subword_model: Path | None = None

    def __post_init__(self) -> None:
        if self.passes < 1 or self.max_frames < 1:
            raise InputError("passes and frames in a batch: expected at least 1")
        names = [folder.name for folder in self.noise]
        if len(set(names)) < len(names) or CLEAN in names:
            raise InputError(f"noise folders {names}: the names of their kinds must differ")
        if not self.data.is_dir():
            raise InputError(f"{self.data}: no such folder; make it with `avhubert-ext prepare`")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError):
            raise InputError(
                f"device '{self.device}': PyTorch has none such here; leave --device out"
            ) from None

    def conditions(self) -> dict[str, NoiseConfig | None]:
        """By name, `clean` and as `babble_-5dB`."""
        noisy = {
            f"{folder.name}_{snr:g}dB": NoiseConfig((folder,), 1.0, (snr, snr))
            for folder in self.noise
            for snr in self.snr_db
        }
        return {CLEAN: None} | noisy

    def subwords(self) -> Path:
        return self.subword_model or find_subword_model(self.data)

    def record(self) -> dict[str, Any]:
        """What results depend on, for a JSON file; of files, what is in them."""
        names = (f"{self.split}.tsv", f"{self.split}.wrd", "dict.wrd.txt")
        files = [*(self.data / name for name in names), self.subwords()]
        return {
            "data": str(self.data.absolute()),
            "split": self.split,
            "data_sha256": digest(*files),
            "noise_seed": self.seed,
            "modalities": self.modalities,
            "beam": asdict(self.beam),
        }

    def noise_record(self) -> dict[str, dict[str, str]]:
        """The list of each kind of noise, and what is in it."""
        lists = {folder.name: folder / f"{self.split}.tsv" for folder in self.noise}
        return {k: {"list": str(p.absolute()), "sha256": digest(p)} for k, p in lists.items()}


class Evaluator:
    """Decodes a split with one model after another; the data is read by the library's data set."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config
        self.subwords = Subwords(config.subwords())
        self.vocabulary = Vocabulary(config.data / "dict.wrd.txt")
        # Everything the conditions need is opened now: what is missing must not be found out later.
        self.datasets = {
            name: AVDataset(config.data, config.split, self._data_config(noise))
            for name, noise in config.conditions().items()
        }
        dataset = self.datasets[CLEAN]
        self.batches = batches_by_frames(dataset.frames(), config.max_frames)
        transcripts = read_transcripts(config.data, config.split, dataset.utterances)
        self.references = [
            self.vocabulary.reference(self.subwords.encode(text)) for text in transcripts
        ]

    def _data_config(self, noise: NoiseConfig | None) -> DataConfig:
        c = self.config
        return DataConfig(c.modalities, noise=noise, cache=c.cache, seed=c.seed, corrupt="blank")

    def load(self, path: Path) -> AVRecognizer:
        """A model whose vocabulary is that of the data."""
        model = load_avhubert_asr(path, self.config.device)
        check_dictionary(
            self.config.data / "dict.wrd.txt",
            self.vocabulary.pieces,
            model.decoder.config.vocabulary,
            read_origin(path).get("dictionary"),
        )
        return model

    def passes(self) -> list[tuple[str, int]]:
        """All (condition, pass)."""
        return [
            (condition, number)
            for condition in self.datasets
            for number in range(1 if condition == CLEAN else self.config.passes)
        ]

    def decode(self, model: AVRecognizer, condition: str, number: int) -> list[Decoded]:
        """One pass over the split, in the order of its manifest."""
        dataset = self.datasets[condition]
        decoded: dict[int, Decoded] = {}
        for batch in self.batches:
            samples = [dataset[number, index] for index in batch]
            inputs = collate(samples).to(self.config.device)
            found = beam_search(
                model, inputs.audio, inputs.video, inputs.padding_mask, self.config.beam
            )
            for sample, hypotheses in zip(samples, found, strict=True):
                decoded[sample.utterance] = self._decoded(sample, hypotheses[0])
        return [decoded[index] for index in range(len(dataset))]

    def _decoded(self, sample: Sample, hypothesis: Hypothesis) -> Decoded:
        unreadable = sample.corrupt[0] if sample.corrupt else None
        return Decoded(
            self.datasets[CLEAN].utterances[sample.utterance].id,
            self.references[sample.utterance],
            "" if unreadable else self.vocabulary.text(hypothesis.tokens),
            hypothesis.score,
            sample.noise.record() if sample.noise else None,
            unreadable,
        )


def evaluate(models: list[tuple[str, Path]], config: EvaluationConfig, out: Path) -> None:
    """Decode all passes of all models, (name, file), that are not in `out` yet.

    Raises InputError where `out` holds results of other settings or of another file by that name.
    """
    for name, _ in models:
        if name != Path(name).name or name in ("", ".", ".."):
            raise InputError(f"model name '{name}': it becomes a folder, choose one without /")
    evaluator = Evaluator(config)
    passes = evaluator.passes()
    with tqdm(total=len(models) * len(passes), unit="pass", desc="evaluate") as bar:
        for name, path in models:
            begin_model(out / name, path, config)
            model = None
            for condition, number in passes:
                bar.set_postfix_str(f"{name} {condition} {number}")
                target = out / name / condition / f"pass-{number}.jsonl"
                if not target.is_file():
                    model = model or evaluator.load(path)
                    decoded = evaluator.decode(model, condition, number)
                    report_unreadable(decoded)
                    write_decoded(target, decoded)
                bar.update()


def begin_model(folder: Path, path: Path, config: EvaluationConfig) -> None:
    """Write `model.json`, what the results in `folder` depend on, or check that it is still so."""
    if not path.is_file():
        raise InputError(f"{path} not found: train a model first, or mend the path")
    record = {"file": str(path.absolute()), "sha256": digest(path), **config.record()}
    noise = config.noise_record()
    target = folder / "model.json"
    if not target.is_file():
        more = {"noise": noise, **describe_model(path)}
        write_text(target, json.dumps(record | more, indent=2) + "\n")
        return
    before = read_record(target)
    changed = [key for key in record if key != "file" and before.get(key) != record[key]]
    known = before.get("noise", {})
    changed += [f"noise {kind}" for kind in noise if kind in known and known[kind] != noise[kind]]
    if changed:
        raise InputError(
            f"{folder}: holds results with another {', '.join(changed)}; delete it, or choose "
            "another --out"
        )
    now = before | record | {"noise": known | noise}
    write_text(target, json.dumps(now, indent=2) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """A `model.json`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{path}: not whole; delete the folder and evaluate again") from None


def digest(*paths: Path) -> str:
    """Of the contents of files. Raises InputError for one that is not there."""
    total = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} not found: mend the path, or make it anew")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def describe_model(path: Path) -> dict[str, Any]:
    """The encoder's network and cost, parameters without pruned ones; its training's batch."""
    encoder = load_avhubert(path)
    c = encoder.config
    parameters = kept_parameters(encoder, strip_prefix(read_masks(path), "encoder."))
    cost = (parameters, flops_per_frame(encoder))
    return {
        "encoder": asdict(Encoder(c.visual, c.block, c.layers, c.dim, c.ffn, *cost)),
        "trained_with": read_origin(path).get("trained_with", "unknown"),
    }


def report_unreadable(decoded: list[Decoded]) -> None:
    for utterance in decoded:
        if utterance.unreadable:
            tqdm.write(f"counted as deleted: {utterance.id}: {utterance.unreadable}")
