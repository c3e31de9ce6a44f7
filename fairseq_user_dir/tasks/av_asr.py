"""`--task av_asr`: audio-visual speech recognition on AV-HuBERT's manifests."""

import logging
from argparse import Namespace
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion
from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks import register_task
from omegaconf import II, MISSING, open_dict

from avhubert_ext.data.corrupt import CorruptUtterances, check_scored
from avhubert_ext.data.dataset import AVDataset, DataConfig, read_transcripts
from avhubert_ext.data.normalization import comparable, read_text_config
from avhubert_ext.data.text import (
    Subwords,
    dictionary_digest,
    find_subword_model,
    join_symbols,
    read_dictionary,
)
from avhubert_ext.decoding.attention import BeamConfig
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.hypotheses import Decoded, append_decoded

from ..base import AVTask, AVTaskConfig
from ..data import AVSpeechDataset
from ..scoring import Score

logger = logging.getLogger(__name__)


@dataclass
class AVASRConfig(AVTaskConfig):
    """The options of speech recognition."""

    data: str = field(
        default=MISSING,
        metadata={
            "help": "The folder with {train,valid,test}.{tsv,wrd}, dict.wrd.txt and spm_*.model."
        },
    )
    subword_model: Optional[str] = field(
        default=None,
        metadata={"help": "The sentencepiece model. The default is the one in the data folder."},
    )
    noise_pass: int = field(
        default=0,
        metadata={"help": "The number of this evaluation pass. Each has other noise snippets."},
    )
    max_train_frames: Optional[int] = field(
        default=None,
        metadata={"help": "Leave longer utterances out of the training. Tests use all of them."},
    )
    valid_beam: int = field(
        default=1,
        metadata={"help": "The beam size of validations with --best-checkpoint-metric wer."},
    )
    allow_unreadable: bool = field(
        default=False,
        metadata={
            "help": "Validate or test although more than one in a hundred utterances cannot be "
            "read. All their words count as deletions, and the result reports their number."
        },
    )
    best_checkpoint_metric: str = II("checkpoint.best_checkpoint_metric")
    results_path: Optional[str] = II("common_eval.results_path")


@register_task("av_asr", dataclass=AVASRConfig)
class AVASRTask(AVTask):
    """Speech recognition into subwords. Hypotheses come from fairseq's own beam search."""

    def __init__(self, cfg: AVASRConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self.text_config = read_text_config(Path(cfg.data))
        self.valid_generator: SequenceGenerator | None = None
        self.blank: dict[str, dict[str, None]] = {}  # by split: why utterances were left blank
        self.blank_everywhere = 0  # their number in this validation, over all processes
        self.trained_with = "unknown"  # the effective batch size of the last model loaded
        self.new_score()

    @classmethod
    def setup_task(cls, cfg: AVASRConfig, **kwargs: Any) -> "AVASRTask":
        path = Path(cfg.data) / "dict.wrd.txt"
        dictionary = Dictionary()
        for subword in read_dictionary(path):
            dictionary.add_symbol(subword)
        return cls(cfg, dictionary)

    @property
    def target_dictionary(self) -> Dictionary:
        return self.dictionary

    @property
    def outputs(self) -> list[str]:
        """The symbol of each output of a model."""
        return self.dictionary.symbols

    def data_config(self, split: str) -> DataConfig:
        """As `AVTask.data_config`. Training replaces unreadable utterances, a test keeps them."""
        config = super().data_config(split)
        corrupt = "replace" if self.is_training(split) else "blank"
        return replace(config, pass_index=self.cfg.noise_pass, corrupt=corrupt)

    def load_dataset(self, split: str, **kwargs: Any) -> None:
        folder = Path(self.cfg.data)
        dataset = AVDataset(folder, split, self.data_config(split))
        subword_model = self.cfg.subword_model
        subwords = Subwords(Path(subword_model) if subword_model else find_subword_model(folder))
        targets = [
            self.dictionary.encode_line(
                " ".join(subwords.encode(text)), add_if_not_exist=False
            ).long()
            for text in read_transcripts(folder, split, dataset.utterances)
        ]
        self.corrupt[split] = CorruptUtterances(len(dataset))
        self.datasets[split] = AVSpeechDataset(
            dataset,
            split,
            targets,
            self.dictionary,
            max_frames=self.cfg.max_train_frames if self.is_training(split) else None,
        )

    def text(self, tokens: torch.Tensor, reference: bool = False) -> str:
        """Join subwords into normalized words.

        Args:
            tokens: Indices of the dictionary, int64 [L].
            reference: Write an unknown subword so that it matches no hypothesis.

        Returns:
            The text, normalized as `text_config` says.
        """
        stripped = utils.strip_pad(tokens, self.dictionary.pad())
        text = self.dictionary.string(stripped.int().cpu(), "sentencepiece", escape_unk=reference)
        return comparable(text, self.text_config)

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> torch.nn.Module:
        model = super().build_model(cfg, from_checkpoint)
        with open_dict(cfg):
            cfg.dictionary = dictionary_digest(self.outputs)
            cfg.subwords = join_symbols(self.outputs)
        if from_checkpoint:
            self.trained_with = getattr(cfg, "trained_with", None) or "unknown"
        if self.cfg.best_checkpoint_metric == "wer":
            BeamConfig(self.cfg.valid_beam)  # raises an InputError for an invalid value
            search = Namespace(beam=self.cfg.valid_beam, max_len_a=1, max_len_b=0)
            self.valid_generator = self.new_generator([model], search)
        return model

    def valid_step(
        self, sample: dict[str, Any], model: torch.nn.Module, criterion: FairseqCriterion
    ) -> tuple:
        self._report_blank(sample)
        loss, size, log = super().valid_step(sample, model, criterion)
        log["unreadable"] = sum(bool(reasons) for reasons in sample["corrupt"])
        if self.valid_generator is not None:
            decoded = self._decode(self.valid_generator, [model], sample)[1]
            log["wer_edits"] = sum(d.edits for d in decoded)
            log["wer_words"] = sum(d.words for d in decoded)
        return loss, size, log

    def reduce_metrics(
        self, logging_outputs: list[dict[str, Any]], criterion: FairseqCriterion
    ) -> None:
        super().reduce_metrics(logging_outputs, criterion)
        self._check_everywhere(sum(int(log.get("unreadable", 0)) for log in logging_outputs))
        if not any("wer_words" in log for log in logging_outputs):
            return
        for name in ("wer_edits", "wer_words"):
            metrics.log_scalar_sum(
                f"_{name}", sum(int(log.get(name, 0)) for log in logging_outputs)
            )
        metrics.log_derived(
            "wer", lambda m: 100 * m["_wer_edits"].sum / max(1, m["_wer_words"].sum), priority=20
        )

    def begin_valid_epoch(self, epoch: int, model: torch.nn.Module) -> None:
        super().begin_valid_epoch(epoch, model)
        self.blank_everywhere = 0

    def _check_everywhere(self, unreadable: int) -> None:
        """Apply the rule of `check_scored` to a validation that several processes share.

        Args:
            unreadable: How many utterances of the last batches of all processes are unreadable.
                It is the same number in all processes, so that all of them stop.

        Raises:
            InputError: Too many utterances of the split cannot be read.
        """
        self.blank_everywhere += unreadable
        validated = [s for s in self.datasets if not self.is_training(s)]
        total = sum(len(self.datasets[split]) for split in validated)
        if unreadable and torch.distributed.is_initialized():
            reasons = [f"{self.cfg.data}, {', '.join(validated)}"] * self.blank_everywhere
            check_scored(reasons, total, self.cfg.allow_unreadable)

    def build_generator(
        self, models: list[torch.nn.Module], args: Any, *rest: Any, **kwargs: Any
    ) -> SequenceGenerator:
        """Make a generator as `new_generator` does, and record the conditions of the decoding."""
        noise, visual = self._noise(), self._visual_noise()
        share = "none"
        if noise:
            lists = self.cfg.noise_manifests
            share = f"{noise.condition} in {noise.probability:.0%} from {lists}"
        self.new_score(
            str(self.text_config),
            *self.search_conditions(args),
            f"noise {share}",
            f"visual noise {visual.condition if visual else 'none'}",
            f"noise seed {self.cfg.noise_seed}",
            f"pass {self.cfg.noise_pass}",
            f"trained with {self.trained_with}",
        )
        if self.cfg.results_path:
            self.decoded_path.unlink(missing_ok=True)
        return self.new_generator(models, args, *rest, **kwargs)

    def new_score(self, *conditions: str) -> None:
        """Begin a decoding under these conditions.

        The dictionary is the only part of a task that fairseq gives to a scorer, so the scorer
        finds the conditions there (`patches.score_with_conditions`).
        """
        self.score = Score(self.text_config, self.cfg.allow_unreadable, list(conditions))
        self.dictionary.score = self.score

    def search_conditions(self, args: Any) -> list[str]:
        """The settings of the search, in words."""
        return [f"beam {args.beam}", f"length penalty {args.lenpen:g}"]

    def new_generator(
        self, models: list[torch.nn.Module], args: Any, *rest: Any, **kwargs: Any
    ) -> SequenceGenerator:
        """Make fairseq's own generator."""
        return super().build_generator(models, args, *rest, **kwargs)

    @property
    def decoded_path(self) -> Path:
        """The file with the hypotheses of fairseq-generate, beside its own generate-SPLIT.txt."""
        return Path(self.cfg.results_path) / f"decoded-{next(iter(self.datasets))}.jsonl"

    def inference_step(
        self,
        generator: SequenceGenerator,
        models: list[torch.nn.Module],
        sample: dict[str, Any],
        **kwargs: Any,
    ) -> list[list[dict[str, Any]]]:
        try:
            self._report_blank(sample)
        except InputError:
            if self.cfg.results_path:
                self.decoded_path.unlink(missing_ok=True)  # it has the earlier batches only
            raise
        hypotheses, decoded = self._decode(generator, models, sample, **kwargs)
        if self.cfg.results_path:
            append_decoded(self.decoded_path, decoded)
        return hypotheses

    def _report_blank(self, sample: dict[str, Any]) -> None:
        """Warn once about each unreadable utterance of a validation or test batch.

        Raises:
            InputError: Too many utterances of the split cannot be read.
        """
        split = sample["split"]
        blank = self.blank.setdefault(split, {})
        for reason in (r for reasons in sample["corrupt"] for r in reasons if r not in blank):
            logger.warning(f"left blank, its words count as deleted: {reason}")
            blank[reason] = self.score.unreadable[reason] = None
        check_scored(blank, len(self.datasets[split]), self.cfg.allow_unreadable)

    def _decode(
        self,
        generator: SequenceGenerator,
        models: list[torch.nn.Module],
        sample: dict[str, Any],
        **kwargs: Any,
    ) -> tuple[list[list[dict[str, Any]]], list[Decoded]]:
        """fairseq's hypotheses, best first, and the best one of each utterance in words.

        An unreadable utterance gets an empty hypothesis.
        """
        hypotheses = super().inference_step(generator, models, sample, **kwargs)
        utterances = self.datasets[sample["split"]].dataset.utterances
        decoded = []
        for row, index in enumerate(sample["id"].tolist()):
            best = hypotheses[row][0]
            reasons, draw = sample["corrupt"][row], sample["noise"][row]
            visual = sample["visual_noise"][row]
            if reasons:
                best["tokens"], best["positional_scores"] = (
                    best[name][-1:] for name in ("tokens", "positional_scores")
                )
                hypotheses[row] = [best]
            decoded.append(
                Decoded(
                    utterances[index].id,
                    self.text(sample["target"][row], reference=True),
                    self.text(best["tokens"]),
                    float(best["score"]),
                    draw.record() if draw else None,
                    reasons[0] if reasons else None,
                    visual.record() if visual else None,
                )
            )
        return hypotheses, decoded
