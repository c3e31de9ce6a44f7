"""Decoding in acoustic noise (paper A, section 3.1) and visual noise (paper B).

Every condition is a kind and a level of noise. It is decoded in several passes over the whole
split, each with other noise. The noise of an utterance depends only on the seed, the condition, the
utterance and the number of the pass. Each pass is a file, `OUT/MODEL/CONDITION/pass-N.jsonl`, so
that an interrupted evaluation continues where it stopped. If too many utterances are unreadable,
the evaluation ends before the pass is written; a pass with any unreadable one is decoded again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from avhubert_ext.checkpoints.description import build_for
from avhubert_ext.checkpoints.model_file import ModelFile
from avhubert_ext.compression.pruning import kept_parameters, strip_prefix
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
from avhubert_ext.data.text import (
    Subwords,
    Vocabulary,
    check_dictionary,
    dictionary_digest,
    find_subword_model,
)
from avhubert_ext.data.visual_noise import LEVELS, TYPES, VisualNoiseConfig
from avhubert_ext.decoding.beam import BeamConfig, Hypothesis, JointConfig, SearchConfig
from avhubert_ext.device import choose_device
from avhubert_ext.errors import InputError, check_printable
from avhubert_ext.evaluation.complexity import flops_per_frame
from avhubert_ext.evaluation.hypotheses import Decoded, read_decoded, write_decoded
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.progress import Progress
from avhubert_ext.recognizers.base import Recognizer
from avhubert_ext.recognizers.exported import ExportedRecognizer, open_exported
from avhubert_ext.recognizers.pytorch import open_checkpoint
from avhubert_ext.runtime.folder import MODEL_FILE

CLEAN = "clean"
MOST_LAYERS = 1000  # of a network; a damaged description could ask for more than can be built


@dataclass(frozen=True)
class EncoderSummary:
    """The columns of Table 1 about an encoder.

    Attributes:
        visual: Visual frontend.
        block: Kind of the blocks.
        layers: Number of blocks.
        dim: Width of the blocks.
        ffn: Width of the feed-forward layers.
        parameters: Number of parameters without pruned ones; None if unknown.
        flops_per_frame: FLOPs per video frame.
    """

    visual: str
    block: str
    layers: int
    dim: int
    ffn: int
    parameters: int | None
    flops_per_frame: float


@dataclass(frozen=True)
class Condition:
    """The noise that is added to all utterances; clean speech has neither kind."""

    noise: NoiseConfig | None = None
    visual_noise: VisualNoiseConfig | None = None

    def reaches(self, modalities: str) -> bool:
        """Whether the noise changes the input of a model that takes these modalities."""
        hears, sees = MODALITIES[modalities]
        return (hears and self.noise is not None) or (sees and self.visual_noise is not None)

    def varies(self) -> bool:
        """Whether the noise differs between passes."""
        visual = self.visual_noise
        return self.noise is not None or (visual is not None and TYPES[visual.types[0]].random)


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Attributes:
        data: Manifest folder.
        split: Name of the manifest.
        noise: Folders with `SPLIT.tsv`, one for each kind of acoustic noise.
        snr_db: Levels of the acoustic noise.
        visual_noise: Types of visual noise, see `visual_noise.TYPES`.
        levels: Levels of the visual noise, 1 to LEVELS.
        passes: Passes for each condition whose noise varies; others are decoded once.
        seed: Seed of the noise.
        modalities: Input of models that take several modalities; others get their own.
        beam: Settings of the search. Models with CTC use only its `beam`.
        ctc_weight: Weight of CTC in the search, for models with CTC.
        max_frames: Most frames in a batch, including padding.
        cache: Folder for decoded frames and features, or None.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps"; exported models run on the CPU.
        subword_model: The sentencepiece model; None for the one in the data folder.
        allow_unreadable: Score a pass even if too many utterances are unreadable
            (`check_scored`).

    Raises:
        InputError: For an invalid value, or if the data folder or the device does not exist.
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
        self.conditions()  # these two raise an InputError for invalid values
        self.joint()
        if not self.data.is_dir():
            raise InputError(
                f"{self.data}: no such folder; make it with `avhubert-ext data prepare`"
            )
        choose_device(self.device)

    def conditions(self) -> dict[str, Condition]:
        """Return the conditions by name: clean, then like babble_-5dB, then like block_level3."""
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
        """Return the search settings of models with CTC."""
        return JointConfig(self.beam.beam, self.ctc_weight)

    def modalities_of(self, model: Recognizer) -> str:
        """Return what a model is given: `modalities`, or the only one that it takes."""
        return self.modalities if self.modalities in model.modalities else model.modalities[0]

    def dictionary(self) -> Path:
        """Return the path of the dictionary in the data folder."""
        return self.data / "dict.wrd.txt"

    def subwords(self) -> Path:
        """Return the path of the sentencepiece model."""
        return self.subword_model or find_subword_model(self.data)

    def text(self) -> TextConfig:
        """Return how references and hypotheses are normalized."""
        return read_text_config(self.data)

    def record(self) -> dict[str, Any]:
        """Return what all results depend on; for files, digests of their contents."""
        names = (f"{self.split}.tsv", f"{self.split}.wrd", "dict.wrd.txt")
        files = [*(self.data / name for name in names), self.subwords()]
        return {
            "data": str(self.data.absolute()),
            "split": self.split,
            "data_sha256": content_digest(*files),
            "noise_seed": self.seed,
            "text": asdict(self.text()),
        }

    def noise_record(self) -> dict[str, dict[str, str]]:
        """Return the path and digest of each kind of noise's list."""
        lists = {folder.name: folder / f"{self.split}.tsv" for folder in self.noise}
        return {
            k: {"list": str(p.absolute()), "sha256": content_digest(p)} for k, p in lists.items()
        }


class Evaluator:
    """Decodes a split with one model after another."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config
        self.conditions = config.conditions()
        self.text = config.text()
        subwords, vocabulary = Subwords(config.subwords()), Vocabulary(config.dictionary())
        # Open everything now, so that a missing file is found before hours of decoding. Visual
        # noise needs no files.
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

    def load(self, path: Path) -> Recognizer:
        """Load a model, see `load_for`."""
        return load_for(self.config, path)

    def passes(self, model: Recognizer) -> list[tuple[str, int]]:
        """Return all pairs of condition and pass number, clean speech first."""
        return [
            (name, number)
            for name, condition in self.conditions.items()
            for number in range(self._count(condition, model))
        ]

    def _count(self, condition: Condition, model: Recognizer) -> int:
        several = condition.varies() and condition.reaches(self.config.modalities_of(model))
        return self.config.passes if several else 1

    def run(self, model: Recognizer, folder: Path, name: str, number: int) -> None:
        """Write one pass, unless it is there and all of its utterances were readable.

        Raises:
            InputError: If too many utterances are unreadable; nothing is written then.
        """
        target = pass_file(folder, name, number)
        if is_done(target):
            return
        clean = pass_file(folder, CLEAN, 0)
        if target != clean and not self.conditions[name].reaches(self.config.modalities_of(model)):
            write_decoded(target, read_decoded(clean))
            return
        decoded = self.decode(model, name, number)
        report_unreadable(decoded)
        write_decoded(target, decoded)

    def decode(self, model: Recognizer, name: str, number: int) -> list[Decoded]:
        """Decode the split once; results are in the order of the manifest."""
        modalities = self.config.modalities_of(model)
        dataset = self._open(self.conditions[name], modalities, model.waveform)
        decoded: dict[int, Decoded] = {}
        for batch in self.batches:
            samples = [dataset[number, index] for index in batch]
            found = model.search(collate(samples))
            for sample, hypotheses in zip(samples, found, strict=True):
                text = comparable(model.text(hypotheses[0]), self.text)
                decoded[sample.utterance] = self._decoded(sample, hypotheses[0], text)
            # After each batch: if the corpus is gone, decoding the rest would be wasted.
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


def load_for(config: EvaluationConfig, path: Path) -> Recognizer:
    """Load a model to be evaluated, with the search settings of the evaluation.

    Args:
        config: The evaluation.
        path: A checkpoint, or the `model.json` of an exported model.

    Raises:
        InputError: If the model cannot be read, or its subwords are not those of the data.
    """
    dictionary = config.dictionary()
    if path.name == MODEL_FILE:
        model = open_exported(path.parent, SearchConfig(), torch.get_num_threads())
        symbols = Vocabulary(dictionary, model.ctc).symbols
        check_dictionary(dictionary, symbols, len(model.symbols), dictionary_digest(model.symbols))
    else:
        model = open_checkpoint(path, dictionary, SearchConfig(), config.device, None)
    model.settings = config.joint() if model.ctc else config.beam
    return model


def model_file(path: Path) -> Path:
    """The file that identifies a model: the `model.json` of an exported model's folder."""
    return path / MODEL_FILE if path.is_dir() else path


def is_done(path: Path) -> bool:
    """Whether a pass is complete; unreadable utterances may be readable by now."""
    try:
        return path.is_file() and not any(d.unreadable for d in read_decoded(path))
    except InputError:  # damaged
        return False


def pass_file(folder: Path, condition: str, number: int) -> Path:
    """Return the file of a pass of the model in `folder`."""
    return folder / condition / f"pass-{number}.jsonl"


def evaluate(models: list[tuple[str, Path]], config: EvaluationConfig, out: Path) -> None:
    """Decode all passes of all models that are not in `out` yet.

    Args:
        models: Name, and file or exported folder, of each model.
        config: What is decoded, and how.
        out: Folder for the results.

    Raises:
        InputError: If a model or the data cannot be read, too many utterances are unreadable, or
            `out` holds results of other settings or of another file under the same name.
    """
    for name, _ in models:
        check_printable(name)
        if name != Path(name).name or name in ("", ".", ".."):
            raise InputError(f"model name '{name}': it becomes a folder name; choose one without /")
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


def begin_model(folder: Path, path: Path, config: EvaluationConfig, model: Recognizer) -> None:
    """Write `model.json`, which records what the results depend on, or check that it still fits."""
    own = {"modalities": config.modalities_of(model), "beam": asdict(model.settings)}
    record = {"file": str(path.absolute()), "sha256": content_digest(path)} | config.record() | own
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
    """Read a `model.json`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{path}: damaged; delete the folder and evaluate again") from None


def content_digest(*paths: Path) -> str:
    """Return a digest of the contents of files.

    Raises:
        InputError: If a file does not exist.
    """
    total = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} not found: correct the path, or create it again")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def describe_model(path: Path, model: Recognizer) -> dict[str, Any]:
    """Return the encoder's `EncoderSummary` fields, and the effective batch of its training."""
    encoder = build_for(path, model.description, MOST_LAYERS).encoder
    c = encoder.config
    if isinstance(encoder, ConformerEncoder):
        visual, block = "none" if c.modality == "audio" else "resnet", "conformer"
    else:
        visual, block = c.visual, c.block
    if isinstance(model, ExportedRecognizer):
        origin, parameters = model.model.origin, model.model.encoder_parameters
    else:
        file = ModelFile(path)
        masks = strip_prefix(file.masks, "encoder.")
        origin, parameters = file.origin, kept_parameters(encoder, masks)
    cost = (parameters, flops_per_frame(encoder))
    return {
        "encoder": asdict(EncoderSummary(visual, block, c.layers, c.dim, c.ffn, *cost)),
        "trained_with": origin.get("trained_with", "unknown"),
    }


def report_unreadable(decoded: list[Decoded]) -> None:
    """Print the unreadable utterances."""
    for utterance in decoded:
        if utterance.unreadable:
            Progress.write(f"counted as deleted: {utterance.id}: {utterance.unreadable}")
