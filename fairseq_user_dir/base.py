"""What the tasks share: utterances of a manifest folder, with noise."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Protocol

import numpy as np
import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion
from fairseq.data import FairseqDataset
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.tasks import FairseqTask
from omegaconf import II, MISSING, open_dict

from avhubert_ext.data.corrupt import CorruptUtterances
from avhubert_ext.data.dataset import DataConfig
from avhubert_ext.data.noise import NoiseConfig, hashed_generator
from avhubert_ext.data.visual_noise import VisualNoiseConfig
from avhubert_ext.errors import InputError

from . import schedule
from .precision import check_finite, unmoved

logger = logging.getLogger(__name__)


@dataclass
class AVTaskConfig(FairseqDataclass):
    data: str = field(
        default=MISSING, metadata={"help": "manifest folder, as `avhubert-ext prepare` makes it"}
    )
    modalities: str = field(default="both", metadata={"help": "both, audio or video"})
    noise_manifests: Optional[str] = field(
        default=None,
        metadata={"help": "comma-separated folders with {train,valid,test}.tsv of noise wavs"},
    )
    noise_prob: float = field(
        default=0.25, metadata={"help": "probability that an utterance is noised"}
    )
    noise_snr: str = field(
        default="0", metadata={"help": "signal-to-noise ratio in dB, or a range: (-5,20)"}
    )
    noise_num: int = field(
        default=1, metadata={"help": "number of noise files averaged into one noise"}
    )
    noise_start: str = field(
        default="random",
        metadata={"help": "where in its file a snippet begins: random, or first as AV-HuBERT"},
    )
    noise_seed: int = field(
        default=1, metadata={"help": "with the utterance and the pass it fixes snippet and level"}
    )
    visual_noise: Optional[str] = field(
        default=None,
        metadata={
            "help": "comma-separated types of visual noise; training: block,gaussian_blur,"
            "motion_blur,pixelation"
        },
    )
    visual_noise_level: Optional[int] = field(
        default=None,
        metadata={
            "help": "1 to 10, for all utterances; without it type (clean is one more) and level "
            "are drawn"
        },
    )
    time_mask: bool = field(
        default=False, metadata={"help": "adaptive time masking in training, up to 0.4 s each"}
    )
    cache_dir: Optional[str] = field(
        default=None,
        metadata={"help": "folder for decoded frames and features, to decode a file once"},
    )
    reuse_dataloader: bool = field(
        default=False,
        metadata={"help": "keep worker processes over epochs; they would not see the epoch change"},
    )
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")
    update_freq: list[int] = field(default=II("optimization.update_freq"))


@dataclass
class RecognizerConfig(FairseqDataclass):
    """What the checkpoint of a recognizer says of it."""

    description: Optional[str] = field(
        default=None, metadata={"help": "set by the task: the network in full, for checkpoints"}
    )
    dictionary: Optional[str] = field(
        default=None, metadata={"help": "set by the task: which subwords, for checkpoints"}
    )
    subwords: Optional[str] = field(
        default=None, metadata={"help": "set by the task: the subwords, for checkpoints"}
    )
    trained_with: Optional[str] = field(
        default=None, metadata={"help": "of a converted model: frames in an update of its training"}
    )


class Stateful(Protocol):
    """What can be kept in a checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class AVTask(FairseqTask):
    """A task on AV-HuBERT's manifests; one that has targets names their dictionary."""

    model: torch.nn.Module  # in training; the model itself, not what wraps it on several GPUs
    updates = 0  # of the model, before the one in progress

    def __init__(self, cfg: AVTaskConfig) -> None:
        super().__init__(cfg)
        self.corrupt: dict[str, CorruptUtterances] = {}  # by split
        # What criterions want kept in checkpoints: fairseq keeps theirs only with parameters.
        self.kept: dict[str, Stateful] = {}

    @classmethod
    def setup_task(cls, cfg: AVTaskConfig, **kwargs: Any) -> "AVTask":
        return cls(cfg)

    @property
    def target_dictionary(self) -> None:
        return None

    @property
    def source_dictionary(self) -> None:
        return None

    def data_config(self, split: str) -> DataConfig:
        """How the utterances of a split are read; only what is trained on is augmented."""
        return DataConfig(
            modalities=self.cfg.modalities,
            augment=self.is_training(split),
            noise=self._noise(),
            cache=Path(self.cfg.cache_dir) if self.cfg.cache_dir else None,
            seed=self.cfg.noise_seed,
            visual_noise=self._visual_noise(),
            time_mask=self.cfg.time_mask,
        )

    def is_training(self, split: str) -> bool:
        return split in self.cfg.train_subset.split(",")

    def _noise(self) -> NoiseConfig | None:
        if not self.cfg.noise_manifests:
            logger.info("no --noise-manifests: clean speech only")
            return None
        folders = tuple(Path(folder) for folder in self.cfg.noise_manifests.split(","))
        return NoiseConfig(
            folders,
            self.cfg.noise_prob,
            parse_range(self.cfg.noise_snr),
            self.cfg.noise_num,
            self.cfg.noise_start,
        )

    def _visual_noise(self) -> VisualNoiseConfig | None:
        if not self.cfg.visual_noise:
            if self.cfg.visual_noise_level is not None:
                raise InputError("visual_noise_level without a type: name some with --visual-noise")
            return None
        types = tuple(self.cfg.visual_noise.split(","))
        level = self.cfg.visual_noise_level
        return VisualNoiseConfig(types, level, clean=level is None)

    def get_batch_iterator(self, dataset: FairseqDataset, *args: Any, **kwargs: Any) -> Any:
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        # fairseq's default keeps the worker processes of a loader that it drops after each epoch.
        iterator.persistent_workers &= self.cfg.reuse_dataloader
        if self.is_training(dataset.split):
            schedule.updates_per_epoch = -(-len(iterator) // self.cfg.update_freq[-1])
        return iterator

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> torch.nn.Module:
        model = super().build_model(cfg, from_checkpoint)
        # The checkpoint must rebuild the network without the files it was started from.
        with open_dict(cfg):
            cfg.description = model.description
        return model

    def checkpoint_state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the model."""
        return {name: kept.state_dict() for name, kept in self.kept.items()}

    def get_checkpoint_dict(self) -> dict[str, Any]:
        """`checkpoint_state` under the name by which fairseq finds it again."""
        state = self.checkpoint_state()
        return {type(self).__name__: state} if state else {}

    def set_checkpoint_dict(self, state: dict[str, Any]) -> None:
        """Take up the state in a checkpoint to go on from."""
        for name, kept in self.kept.items():
            if name in state:
                kept.load_state_dict(state[name])

    def begin_epoch(self, epoch: int, model: torch.nn.Module) -> None:
        self.model = model

    def train_step(
        self,
        sample: dict[str, Any],
        model: torch.nn.Module,
        criterion: FairseqCriterion,
        optimizer: FairseqOptimizer,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple:
        self.report_corrupt(sample)
        self.updates = update_num
        # fairseq seeds all processes alike at each update, and goes on drawing for the batches
        # that it accumulates: all would lose the same modality and drop the same units, and two
        # processes would not compute what one does with --update-freq 2. So the draws follow from
        # the batch and the update, wherever that batch is.
        utils.set_torch_seed(batch_seed(self.cfg.seed, update_num, sample["numbers"]))
        loss, *rest = super().train_step(
            sample, model, criterion, optimizer, update_num, ignore_grad
        )
        check_finite(loss, model, update_num)  # before a step is made of it
        return loss, *rest

    def optimizer_step(
        self, optimizer: FairseqOptimizer, model: torch.nn.Module, update_num: int
    ) -> None:
        with unmoved(optimizer, self.model.frozen_parameters()):
            super().optimizer_step(optimizer, model, update_num)

    def end_update(self, optimizer: FairseqOptimizer, updates: int) -> None:
        """Called after each update, with their number; also after one that was skipped."""

    def report_corrupt(self, sample: dict[str, Any]) -> None:
        """Name what of a training batch was replaced; more than 1% of a split end the run.

        Each process reports what it meets, and the 1% is of all utterances: with several processes
        the run may go on until one of them has met so many.
        """
        self.corrupt[sample["split"]].add([r for reasons in sample["corrupt"] for r in reasons])

    def max_positions(self) -> None:
        return None

    def filter_indices_by_size(self, indices: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        """All of them: fairseq would leave out what has more frames than a batch may have."""
        return indices

    def begin_valid_epoch(self, epoch: int, model: torch.nn.Module) -> None:
        average_statistics(model)


def batch_seed(seed: int, update: int, utterances: list[int]) -> int:
    """What the draws of a training batch, dropout and lost modality, follow from."""
    return int(hashed_generator("update", seed, update, *utterances).integers(2**31))


def average_statistics(model: torch.nn.Module) -> None:
    """Give batch norm in all processes the mean of their running statistics.

    Each process has followed its own batches, and one of them writes the checkpoint: so all of them
    validate, and it saves, what all have seen.
    """
    if not torch.distributed.is_initialized():
        return
    for buffer in (b for b in model.buffers() if b.is_floating_point()):
        torch.distributed.all_reduce(buffer)
        buffer /= torch.distributed.get_world_size()


def parse_json(text: str, option: str) -> dict[str, Any]:
    """The JSON object that an option holds."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{option} {text}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f'{option} {text}: expected an object, as in {{"dropout": 0.0}}')
    return found


def parse_range(text: str) -> tuple[float, float]:
    """`"0"` -> (0, 0); `"-5,20"` or `"(-5,20)"` -> (-5, 20)."""
    try:
        values = [float(v) for v in text.strip("() ").split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or values[0] > values[-1]:
        raise InputError(f"noise_snr '{text}': expected a number in dB, or a range like (-5,20)")
    return values[0], values[-1]
