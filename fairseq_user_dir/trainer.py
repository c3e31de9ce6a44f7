"""What fairseq's trainer leaves out: the end of each update, and one line for --fp16 on a CPU."""

from __future__ import annotations

from typing import Any

from fairseq.trainer import Trainer

from avhubert_ext.errors import InputError

from .base import AVTask

_train_step, _build_optimizer = Trainer.train_step, Trainer._build_optimizer


def train_step(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
    """Do an update and report it to the task; fairseq itself reports no skipped ones."""
    output = _train_step(trainer, *args, **kwargs)
    if isinstance(trainer.task, AVTask):
        trainer.task.end_update(trainer.optimizer, trainer.get_num_updates())
    return output


def build_optimizer(trainer: Trainer) -> None:
    """Raises InputError for float16 without a GPU, where fairseq fails for want of a driver."""
    common = trainer.cfg.common
    if (common.fp16 or common.amp) and not trainer.cuda:
        option = "--fp16" if common.fp16 else "--amp"
        raise InputError(f"{option} needs a GPU: set --bf16, or leave it out to train in float32")
    _build_optimizer(trainer)


def install() -> None:
    Trainer.train_step = train_step
    Trainer._build_optimizer = build_optimizer
