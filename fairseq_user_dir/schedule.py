"""`--lr-scheduler cosine_epochs`: warm-up and cosine counted in epochs (Auto-AVSR, paper B)."""

import math
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from avhubert_ext.errors import InputError


@dataclass
class EpochLength:
    """How many updates an epoch of one task's training has; None until its data is loaded."""

    updates: Optional[int] = None


@dataclass
class CosineEpochsConfig(FairseqDataclass):
    warmup_epochs: float = field(
        default=5.0, metadata={"help": "The learning rate rises linearly for this many epochs."}
    )
    max_epoch: int = II("optimization.max_epoch")
    lr: list[float] = field(default=II("optimization.lr"))


@register_lr_scheduler("cosine_epochs", dataclass=CosineEpochsConfig)
class CosineEpochs(FairseqLRScheduler):
    """Linear from 0 to the peak `--lr`, then a half cosine to 0 at `--max-epoch`.

    The rate changes with every update. The length of an epoch is that of the task's data. Until it
    is known, the rate is 0, or follows the length in the checkpoint that the training resumes from.
    """

    def __init__(self, cfg: CosineEpochsConfig, optimizer: FairseqOptimizer) -> None:
        if not 0 <= cfg.warmup_epochs < cfg.max_epoch:
            raise InputError(
                f"warmup_epochs {cfg.warmup_epochs:g}, max_epoch {cfg.max_epoch}: set --max-epoch, "
                "and fewer epochs of warm-up"
            )
        super().__init__(cfg, optimizer)
        self.epoch_length = EpochLength()
        self.stored_length: Optional[int] = None
        self.optimizer.set_lr(0.0)

    @property
    def updates_per_epoch(self) -> Optional[int]:
        """The length of an epoch: that of the data, else that in the checkpoint."""
        return self.epoch_length.updates or self.stored_length

    def follow(self, epoch_length: EpochLength) -> None:
        """Take the length of an epoch from a task, and set the rate of the first update.

        Args:
            epoch_length: The task's own object, which the task updates with every data iterator.
        """
        self.epoch_length = epoch_length
        self.step_update(0)

    def state_dict(self) -> dict[str, Any]:
        return {"updates_per_epoch": self.updates_per_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stored_length = state_dict["updates_per_epoch"]

    def step_update(self, num_updates: int) -> float:
        """Set the rate of the update that follows the first `num_updates`.

        Args:
            num_updates: How many updates are done.

        Returns:
            The new learning rate.
        """
        epoch = self.updates_per_epoch
        if epoch is not None:
            rate = cosine_rate(
                num_updates + 1, self.cfg.warmup_epochs * epoch, self.cfg.max_epoch * epoch
            )
            self.optimizer.set_lr(self.cfg.lr[0] * rate)
        return self.optimizer.get_lr()


def cosine_rate(update: int, warmup: float, total: float) -> float:
    """The fraction of the peak rate that one update has.

    Args:
        update: The number of the update; the first is 1.
        warmup: The length of the linear warm-up in updates.
        total: The update at which the rate reaches 0.

    Returns:
        A number from 0 to 1.
    """
    if update < warmup:
        return update / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (update - warmup) / (total - warmup))))
