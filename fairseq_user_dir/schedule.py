"""`--lr-scheduler cosine_epochs`: warm-up and cosine counted in epochs (Auto-AVSR, paper B)."""

import math
from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from avhubert_ext.errors import InputError

# Of the training that goes on, told by its task. A schedule, which fairseq makes, knows nothing of
# the data.
updates_per_epoch: int | None = None


@dataclass
class CosineEpochsConfig(FairseqDataclass):
    warmup_epochs: float = field(default=5.0, metadata={"help": "epochs of linear warm-up"})
    max_epoch: int = II("optimization.max_epoch")
    lr: list[float] = field(default=II("optimization.lr"))


@register_lr_scheduler("cosine_epochs", dataclass=CosineEpochsConfig)
class CosineEpochs(FairseqLRScheduler):
    """Linear from 0 to the peak `--lr`, then a half cosine to 0 at `--max-epoch`, each update."""

    def __init__(self, cfg: CosineEpochsConfig, optimizer: FairseqOptimizer) -> None:
        if not 0 <= cfg.warmup_epochs < cfg.max_epoch:
            raise InputError(
                f"warmup_epochs {cfg.warmup_epochs:g}, max_epoch {cfg.max_epoch}: set --max-epoch, "
                "and fewer epochs of warm-up"
            )
        super().__init__(cfg, optimizer)
        self.per_epoch: int | None = None
        self.optimizer.set_lr(0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"updates_per_epoch": updates_per_epoch or self.per_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.per_epoch = state_dict["updates_per_epoch"]

    def step_update(self, num_updates: int) -> float:
        """Set the rate of the update that follows `num_updates` others."""
        epoch = updates_per_epoch or self.per_epoch
        if epoch is not None:  # else no data was loaded so far
            rate = cosine_rate(
                num_updates + 1, self.cfg.warmup_epochs * epoch, self.cfg.max_epoch * epoch
            )
            self.optimizer.set_lr(self.cfg.lr[0] * rate)
        return self.optimizer.get_lr()


def cosine_rate(update: int, warmup: float, total: float) -> float:
    """The share of the peak rate that an update has, the first is 1."""
    if update < warmup:
        return update / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (update - warmup) / (total - warmup))))
