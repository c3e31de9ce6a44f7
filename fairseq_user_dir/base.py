"""What all tasks share: the utterances of a manifest folder, with noise."""

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

from .criterions.wrapper import Wrapper
from .options import parse_range
from .precision import check_finite, unmoved
from .schedule import EpochLength

logger = logging.getLogger(__name__)


@dataclass
class AVTaskConfig(FairseqDataclass):
    """The options of every task of this plugin."""

    data: str = field(
        default=MISSING,
        metadata={"help": "The folder with manifests that `avhubert-ext data prepare` wrote."},
    )
    modalities: str = field(
        default="both", metadata={"help": "The input: `both`, `audio` or `video`."}
    )
    noise_manifests: Optional[str] = field(
        default=None,
        metadata={
            "help": "Comma-separated folders that list noise files in {train,valid,test}.tsv. "
            "Without them all speech is clean."
        },
    )
    noise_prob: float = field(
        default=0.25, metadata={"help": "The probability that noise is added to an utterance."}
    )
    noise_snr: str = field(
        default="0",
        metadata={"help": "The signal-to-noise ratio in dB, or a range, for example (-5,20)."},
    )
    noise_num: int = field(
        default=1, metadata={"help": "How many noise files are averaged into one noise."}
    )
    noise_start: str = field(
        default="random",
        metadata={
            "help": "Where a noise snippet starts in its file: `random`, or `first` as AV-HuBERT."
        },
    )
    noise_seed: int = field(
        default=1,
        metadata={
            "help": "The seed of the noise. Snippet and SNR follow from it, the utterance and the "
            "pass over the data."
        },
    )
    visual_noise: Optional[str] = field(
        default=None,
        metadata={
            "help": "Comma-separated types of visual noise. SparseVSR trains with "
            "block,gaussian_blur,motion_blur,pixelation."
        },
    )
    visual_noise_level: Optional[int] = field(
        default=None,
        metadata={
            "help": "The level of the visual noise for all utterances, from 1 to 10. Without it "
            "the level and the type are random, and some utterances stay clean."
        },
    )
    time_mask: bool = field(
        default=False,
        metadata={"help": "Mask random spans of up to 0.4 s in training, one for every second."},
    )
    cache_dir: Optional[str] = field(
        default=None,
        metadata={"help": "A folder for decoded frames and features, so that files are read once."},
    )
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")
    update_freq: list[int] = field(default=II("optimization.update_freq"))


@dataclass
class RecognizerConfig(FairseqDataclass):
    """What the checkpoint of a recognizer stores about it."""

    description: Optional[str] = field(
        default=None,
        metadata={"help": "The network as JSON. The task sets it, for checkpoints."},
    )
    dictionary: Optional[str] = field(
        default=None,
        metadata={"help": "A hash of the subwords. The task sets it, for checkpoints."},
    )
    subwords: Optional[str] = field(
        default=None,
        metadata={"help": "The subwords, one per line. The task sets them, for checkpoints."},
    )
    trained_with: Optional[str] = field(
        default=None,
        metadata={"help": "The effective batch size of the training. Set when a model is loaded."},
    )


class Stateful(Protocol):
    """An object whose state a checkpoint can store."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class AVTask(FairseqTask):
    """A task on AV-HuBERT's manifests. A task with targets overrides `target_dictionary`.

    The state of a run is in this object, so that several tasks can be used in one process.
    """

    model: torch.nn.Module  # in training: the model itself, without a wrapper for several GPUs
    updates = 0  # how many are done, without the one in progress

    def __init__(self, cfg: AVTaskConfig) -> None:
        super().__init__(cfg)
        self.corrupt: dict[str, CorruptUtterances] = {}  # by split
        self.epoch_length = EpochLength()
        # State of criterions. fairseq stores that of a criterion only if it has parameters.
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
        """How the utterances of a split are read. Only the training split is augmented."""
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
                raise InputError("visual_noise_level without a type: set --visual-noise as well")
            return None
        types = tuple(self.cfg.visual_noise.split(","))
        level = self.cfg.visual_noise_level
        return VisualNoiseConfig(types, level, clean=level is None)

    def get_batch_iterator(self, dataset: FairseqDataset, *args: Any, **kwargs: Any) -> Any:
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        # fairseq would keep the loader and its worker processes, which would repeat the
        # augmentation of the first epoch in all others.
        iterator.reuse_dataloader = iterator.persistent_workers = False
        if self.is_training(dataset.split):
            self.epoch_length.updates = -(-len(iterator) // self.cfg.update_freq[-1])
        return iterator

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> torch.nn.Module:
        model = super().build_model(cfg, from_checkpoint)
        # A checkpoint must suffice to rebuild the network, without the files it started from.
        with open_dict(cfg):
            cfg.description = model.description
        return model

    def checkpoint_state(self) -> dict[str, Any]:
        """What a checkpoint stores besides the model and the optimizer."""
        return {name: kept.state_dict() for name, kept in self.kept.items()}

    def get_checkpoint_dict(self) -> dict[str, Any]:
        """`checkpoint_state` under the task's name, where fairseq looks for it on resume."""
        state = self.checkpoint_state()
        return {type(self).__name__: state} if state else {}

    def set_checkpoint_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from the checkpoint that a training resumes from."""
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
        # fairseq seeds all processes alike before each update, and not again for the batches that
        # it accumulates: all processes would drop the same modality and units, and two of them
        # would not compute what one does with --update-freq 2. So the seed is that of the batch
        # and the update, in whichever process the batch is.
        utils.set_torch_seed(batch_seed(self.cfg.seed, update_num, sample["numbers"]))
        loss, *rest = super().train_step(
            sample, model, criterion, optimizer, update_num, ignore_grad
        )
        check_finite(loss, model, update_num)  # before the optimizer uses it
        return loss, *rest

    def optimizer_step(
        self, optimizer: FairseqOptimizer, model: torch.nn.Module, update_num: int
    ) -> None:
        with unmoved(optimizer, self.model.frozen_parameters()):
            super().optimizer_step(optimizer, model, update_num)

    def end_update(self, optimizer: FairseqOptimizer, updates: int) -> None:
        """Do what follows an update; the trainer calls this after skipped updates as well.

        Args:
            optimizer: fairseq's optimizer, after its step.
            updates: How many updates are done; a skipped one does not count.
        """

    def report_corrupt(self, sample: dict[str, Any]) -> None:
        """Report the utterances of a training batch that were replaced.

        Each process counts those in its own batches, and the limit is 1% of all utterances: with
        several processes the run ends once one of them has found that many.

        Args:
            sample: The batch, with its `split` and the reasons in `corrupt`.

        Raises:
            InputError: More than 1% of the split cannot be read.
        """
        self.corrupt[sample["split"]].add([r for reasons in sample["corrupt"] for r in reasons])

    def max_positions(self) -> None:
        return None

    def filter_indices_by_size(self, indices: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        """Keep all utterances. fairseq would skip those with more frames than a batch may have."""
        return indices

    def begin_valid_epoch(self, epoch: int, model: torch.nn.Module) -> None:
        average_statistics(model)

    def reduce_metrics(
        self, logging_outputs: list[dict[str, Any]], criterion: FairseqCriterion
    ) -> None:
        """Log the metrics of a criterion, after those of the one that it adds to, if any."""
        outer = []
        while isinstance(criterion, Wrapper):
            outer.append((type(criterion), logging_outputs))
            logging_outputs = criterion.base_logs(logging_outputs)
            criterion = criterion.base
        super().reduce_metrics(logging_outputs, criterion)
        for wrapper, logs in reversed(outer):
            wrapper.reduce_metrics(logs)


def batch_seed(seed: int, update: int, utterances: list[int]) -> int:
    """The seed for the random draws of a training batch: dropout and modality dropout.

    Args:
        seed: The seed of the run.
        update: How many updates were done before.
        utterances: The indices of the utterances in the batch.

    Returns:
        A seed below 2**31, the same wherever and in whichever process the batch is computed.
    """
    return int(hashed_generator("update", seed, update, *utterances).integers(2**31))


def average_statistics(model: torch.nn.Module) -> None:
    """Average the running statistics of batch norm over all processes.

    Each process updates its own from its own batches. Averaged before a validation, they are the
    same in all processes, and the one that writes the checkpoint stores those of all.

    Args:
        model: The model of this process; its floating-point buffers are changed.
    """
    if not torch.distributed.is_initialized():
        return
    for buffer in (b for b in model.buffers() if b.is_floating_point()):
        torch.distributed.all_reduce(buffer)
        buffer /= torch.distributed.get_world_size()
