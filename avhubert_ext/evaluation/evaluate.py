"""Decoding in noise: kinds x levels x passes (paper A, section 3.1), acoustic or visual (paper B).

A pass is a decoding of the whole split with other noise; which snippet and offset, or which blocks,
an utterance gets follows from (seed, condition, utterance, pass) alone. Every pass is a file of its
own, `OUT/MODEL/CONDITION/pass-N.jsonl`, so that an evaluation continues where it stopped. Too many
unreadable utterances end it before a pass is written, and a pass with any is decoded again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from avhubert_ext.checkpoints.files import choose_device, read_masks, strip_prefix
from avhubert_ext.compression.pruning import kept_parameters
from avhubert_ext.data.batching import batches_by_frames
from avhubert_ext.data.corrupt import check_scored
from avhubert_ext.data.dataset import (
    MODALITIES,
    AVDataset,
    DataConfig,
    Sample,
    collate,
    read_transcripts,
)
from avhubert_ext.data.files import write_text
from avhubert_ext.data.noise import NoiseConfig
from avhubert_ext.data.normalization import TextConfig, comparable, read_text_config
from avhubert_ext.data.text import Subwords, Vocabulary, find_subword_model
from avhubert_ext.data.visual_noise import LEVELS, TYPES, VisualNoiseConfig
from avhubert_ext.decoding.attention import BeamConfig, Hypothesis
from avhubert_ext.decoding.joint import JointConfig
from avhubert_ext.errors import InputError, check_printable
from avhubert_ext.evaluation.complexity import flops_per_frame
from avhubert_ext.evaluation.families import (
    ExportedFamily,
    Family,
    load_family,
    model_file,
    origin_of,
)
from avhubert_ext.evaluation.hypotheses import Decoded, read_decoded, write_decoded
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.progress import Progress

CLEAN = "clean"


@dataclass(frozen=True)
class Encoder:
    """What Table 1 shows of an encoder; parameters without pruned ones, None where not known."""

    visual: str
    block: str
    layers: int
    dim: int
    ffn: int
    parameters: int | None
    flops_per_frame: float


@dataclass(frozen=True)
class Condition:
    """What is added to all utterances; clean speech is the one without either."""

    noise: NoiseConfig | None = None
    visual_noise: VisualNoiseConfig | None = None

    def reaches(self, modalities: str) -> bool:
        """Whether a model that takes these modalities gets another input than clean speech."""
        hears, sees = MODALITIES[modalities]
        return (hears and self.noise is not None) or (sees and self.visual_noise is not None)

    def varies(self) -> bool:
        """Whether passes differ."""
        visual = self.visual_noise
        return self.noise is not None or (visual is not None and TYPES[visual.types[0]].random)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is decoded, and how.

    data: manifest folder. noise: folders with `SPLIT.tsv`, each a kind of noise. snr_db: levels.
    visual_noise: types, see `visual_noise.TYPES`. levels: 1 to LEVELS, of each type.
    passes: of each condition with noise; what is the same in all passes, as clean speech, is
    decoded once.
    modalities, beam: of AV-HuBERT's family. SparseVSR's takes its own modality whatever stands
    here, and is searched with the same beam and the `ctc_weight`, nothing else of `beam`.
    max_frames: in a batch, padding included. cache: folder for decoded frames and features.
    subword_model: sentencepiece model, None for the one in the data folder.
    device: see `choose_device`; an exported model runs on the CPU.
    allow_unreadable: score a pass even if too many utterances are unreadable (`check_scored`).
    """

    data: Path
    split: str = "test"
    noise: tuple[Path, ...] = ()
    snr_db: tuple[float, ...] = (-10, -5, 0, 5, 10)
    visual_noise: tuple[str, ...] = ()
    levels: tuple[int, ...] = tuple(range(1, LEVELS + 1))
    passes: int = 10
    seed: int = 1
    modalities: str = "both"
    beam: BeamConfig = field(default_factory=BeamConfig)
    ctc_weight: float = 0.1
    max_frames: int = 2000
    cache: Path | None = None
    device: str = "auto"
    subword_model: Path | None = None
    allow_unreadable: bool = False

    def __post_init__(self) -> None:
        if self.passes < 1 or self.max_frames < 1:
            raise InputError("passes and frames in a batch: expected at least 1")
        names = [folder.name for folder in self.noise]
        if len(set(names)) < len(names) or CLEAN in names:
            raise InputError(f"noise folders {names}: the names of their kinds must differ")
        self.conditions()  # these two raise InputError for values that make no sense
        self.joint()
        if not self.data.is_dir():
            raise InputError(f"{self.data}: no such folder; make it with `avhubert-ext prepare`")
        choose_device(self.device)

    def conditions(self) -> dict[str, Condition]:
        """By name: `clean`, then as `babble_-5dB`, then as `block_level3`."""
        noisy = {
            f"{folder.name}_{snr:g}dB": Condition(NoiseConfig((folder,), 1.0, (snr, snr)))
            for folder in self.noise
            for snr in self.snr_db
        }
        visual = {
            f"{kind}_level{level}": Condition(
                visual_noise=VisualNoiseConfig((kind,), level, clean=False)
            )
            for kind in self.visual_noise
            for level in self.levels
        }
        return {CLEAN: Condition()} | noisy | visual

    def joint(self) -> JointConfig:
        """How SparseVSR's family is searched."""
        return JointConfig(self.beam.beam, self.ctc_weight)

    def dictionary(self) -> Path:
        return self.data / "dict.wrd.txt"

    def subwords(self) -> Path:
        return self.subword_model or find_subword_model(self.data)

    def text(self) -> TextConfig:
        """How references and hypotheses are normalized."""
        return read_text_config(self.data)

    def record(self) -> dict[str, Any]:
        """What the results of all models depend on; of files, what is in them."""
        names = (f"{self.split}.tsv", f"{self.split}.wrd", "dict.wrd.txt")
        files = [*(self.data / name for name in names), self.subwords()]
        return {
            "data": str(self.data.absolute()),
            "split": self.split,
            "data_sha256": digest(*files),
            "noise_seed": self.seed,
            "text": asdict(self.text()),
        }

    def noise_record(self) -> dict[str, dict[str, str]]:
        """The list of each kind of noise, and what is in it."""
        lists = {folder.name: folder / f"{self.split}.tsv" for folder in self.noise}
        return {k: {"list": str(p.absolute()), "sha256": digest(p)} for k, p in lists.items()}


class Evaluator:
    """Decodes a split with one model after another; the data is read by the library's data set."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config
        self.device = choose_device(config.device)
        self.conditions = config.conditions()
        self.text = config.text()
        subwords, vocabulary = Subwords(config.subwords()), Vocabulary(config.dictionary())
        # Everything the conditions need is opened now: what is missing must not be found out later.
        # Visual noise needs no files.
        dataset, *_ = [
            self._open(condition, config.modalities)
            for condition in self.conditions.values()
            if condition.visual_noise is None
        ]
        self.utterances = dataset.utterances
        self.batches = batches_by_frames(dataset.frames(), config.max_frames)
        transcripts = read_transcripts(config.data, config.split, self.utterances)
        self.references = [vocabulary.reference(subwords.encode(text)) for text in transcripts]

    def _open(self, condition: Condition, modalities: str, waveform: bool = False) -> AVDataset:
        c = self.config
        reading = DataConfig(
            modalities,
            noise=condition.noise,
            visual_noise=condition.visual_noise,
            waveform=waveform,
            cache=c.cache,
            seed=c.seed,
            corrupt="blank",
        )
        return AVDataset(c.data, c.split, reading)

    def load(self, path: Path) -> Family:
        """A model whose vocabulary is that of the data."""
        c = self.config
        return load_family(path, c.dictionary(), c.modalities, c.beam, c.joint(), self.device)

    def passes(self, model: Family) -> list[tuple[str, int]]:
        """All (condition, pass), clean speech first."""
        return [
            (name, number)
            for name, condition in self.conditions.items()
            for number in range(self._count(condition, model))
        ]

    def _count(self, condition: Condition, model: Family) -> int:
        several = condition.varies() and condition.reaches(model.modalities)
        return self.config.passes if several else 1

    def run(self, model: Family, folder: Path, name: str, number: int) -> None:
        """Write one pass, unless it is there with every utterance read.

        Raises InputError, and writes nothing, if too many utterances are unreadable.
        """
        target = pass_file(folder, name, number)
        if is_done(target):
            return
        clean = pass_file(folder, CLEAN, 0)
        if target != clean and not self.conditions[name].reaches(model.modalities):
            write_decoded(target, read_decoded(clean))
            return
        decoded = self.decode(model, name, number)
        report_unreadable(decoded)
        write_decoded(target, decoded)

    def decode(self, model: Family, name: str, number: int) -> list[Decoded]:
        """One pass over the split, in the order of its manifest."""
        dataset = self._open(self.conditions[name], model.modalities, model.waveform)
        decoded: dict[int, Decoded] = {}
        for batch in self.batches:
            samples = [dataset[number, index] for index in batch]
            found = model.search(collate(samples).to(self.device))
            for sample, hypotheses in zip(samples, found, strict=True):
                text = comparable(model.vocabulary.text(hypotheses[0].tokens), self.text)
                decoded[sample.utterance] = self._decoded(sample, hypotheses[0], text)
            # At once: if the corpus is gone, a whole pass over blanks would be wasted.
            reasons = [d.unreadable for d in decoded.values() if d.unreadable]
            check_scored(reasons, len(dataset), self.config.allow_unreadable)
        return [decoded[index] for index in range(len(dataset))]

    def _decoded(self, sample: Sample, hypothesis: Hypothesis, text: str) -> Decoded:
        unreadable = sample.corrupt[0] if sample.corrupt else None
        return Decoded(
            self.utterances[sample.utterance].id,
            self.references[sample.utterance],
            "" if unreadable else text,
            hypothesis.score,
            sample.noise.record() if sample.noise else None,
            unreadable,
            sample.visual_noise.record() if sample.visual_noise else None,
        )


def is_done(path: Path) -> bool:
    """Whether a pass is there and need not be decoded again: its files may be readable by now."""
    try:
        return path.is_file() and not any(d.unreadable for d in read_decoded(path))
    except InputError:  # damaged
        return False


def pass_file(folder: Path, condition: str, number: int) -> Path:
    """Where a pass of the model in `folder` lies."""
    return folder / condition / f"pass-{number}.jsonl"


def evaluate(models: list[tuple[str, Path]], config: EvaluationConfig, out: Path) -> None:
    """Decode all passes of all models, (name, file), that are not in `out` yet.

    Raises InputError where `out` holds results of other settings or of another file by that name.
    """
    for name, _ in models:
        check_printable(name)
        if name != Path(name).name or name in ("", ".", ".."):
            raise InputError(f"model name '{name}': it becomes a folder, choose one without /")
    evaluator = Evaluator(config)
    for name, given in models:
        path = model_file(given)
        model = evaluator.load(path)
        begin_model(out / name, path, config, model)
        passes = evaluator.passes(model)
        with Progress(passes, unit="pass", desc=f"evaluate {name}") as bar:
            for condition, number in bar:
                bar.set_postfix_str(f"{condition} {number}")
                evaluator.run(model, out / name, condition, number)


def begin_model(folder: Path, path: Path, config: EvaluationConfig, model: Family) -> None:
    """Write `model.json`, what the results in `folder` depend on, or check that it is still so."""
    own = {"modalities": model.modalities, "beam": asdict(model.beam)}
    record = {"file": str(path.absolute()), "sha256": digest(path)} | config.record() | own
    noise = config.noise_record()
    more = {"allow_unreadable": config.allow_unreadable, **describe_model(path, model)}
    target = folder / "model.json"
    if not target.is_file():
        write_text(target, json.dumps(record | {"noise": noise} | more, indent=2) + "\n")
        return
    before = {"text": asdict(TextConfig())} | read_record(target)
    changed = [key for key in record if key != "file" and before.get(key) != record[key]]
    known = before.get("noise", {})
    changed += [f"noise {kind}" for kind in noise if kind in known and known[kind] != noise[kind]]
    if changed:
        raise InputError(
            f"{folder}: holds results with another {', '.join(changed)}; delete it, or choose "
            "another --out"
        )
    now = before | record | more | {"noise": known | noise}
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
            raise InputError(f"{path} not found: correct the path, or make it again")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def describe_model(path: Path, model: Family) -> dict[str, Any]:
    """The encoder's network and cost, parameters without pruned ones; its training's batch."""
    encoder = model.encoder
    c = encoder.config
    if isinstance(encoder, ConformerEncoder):
        visual, block = "none" if c.modality == "audio" else "resnet", "conformer"
    else:
        visual, block = c.visual, c.block
    if isinstance(model, ExportedFamily):
        parameters = model.model.encoder_parameters
    else:
        parameters = kept_parameters(encoder, strip_prefix(read_masks(path), "encoder."))
    cost = (parameters, flops_per_frame(encoder))
    return {
        "encoder": asdict(Encoder(visual, block, c.layers, c.dim, c.ffn, *cost)),
        "trained_with": origin_of(path).get("trained_with", "unknown"),
    }


def report_unreadable(decoded: list[Decoded]) -> None:
    for utterance in decoded:
        if utterance.unreadable:
            Progress.write(f"counted as deleted: {utterance.id}: {utterance.unreadable}")
