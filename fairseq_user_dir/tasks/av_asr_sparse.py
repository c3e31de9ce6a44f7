"""`--task av_asr_sparse`: training a pruned model, its zeros kept at zero."""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer
from fairseq.tasks import register_task

from avhubert_ext import pruning
from avhubert_ext.errors import InputError

from .av_asr import AVASRConfig, AVASRTask

logger = logging.getLogger(__name__)


@dataclass
class SparseMaskConfig(AVASRConfig):
    sparsity: float = field(
        default=0.5, metadata={"help": "fraction of the prunable weights to prune, in [0, 1)"}
    )


@register_task("av_asr_sparse", dataclass=SparseMaskConfig)
class SparseMaskTask(AVASRTask):
    """Global magnitude pruning before the first update, then retraining of the kept weights.

    Start from a dense model with `--finetune-from-model`; the masks live in the checkpoint.
    """

    masks: pruning.Masks | None = None
    pruned: torch.nn.Module | None = None  # the model itself, not what wraps it on several GPUs

    def begin_epoch(self, epoch: int, model: torch.nn.Module) -> None:
        if self.masks is None:
            self.masks = pruning.global_magnitude_mask(model, self.cfg.sparsity)
        sparsity = pruning.mask_sparsity(self.masks)
        if abs(sparsity - self.cfg.sparsity) > 1e-4:
            raise InputError(
                f"sparsity {self.cfg.sparsity}: the checkpoint to go on from has {sparsity:.4f}; "
                "choose another --save-dir, or the same sparsity"
            )
        device = next(model.parameters()).device
        self.masks = {name: mask.to(device) for name, mask in self.masks.items()}
        self.pruned = model
        pruning.apply_masks(model, self.masks)
        kept = pruning.kept_parameters(model, self.masks)
        logger.info(f"sparsity {sparsity:.4f} of the prunable weights, {kept:,} parameters kept")

    def train_step(
        self,
        sample: dict[str, Any],
        model: torch.nn.Module,
        *args: Any,
        **kwargs: Any,
    ) -> tuple:
        result = super().train_step(sample, model, *args, **kwargs)
        # Before the trainer clips, so that pruned weights do not count in the gradient norm.
        pruning.mask_gradients(self.pruned, self.masks)
        return result

    def optimizer_step(
        self, optimizer: FairseqOptimizer, model: torch.nn.Module, update_num: int
    ) -> None:
        super().optimizer_step(optimizer, model, update_num)
        pruning.apply_masks(self.pruned, self.masks)

    def get_checkpoint_dict(self) -> dict[str, Any]:
        masks = {name: mask.cpu() for name, mask in self.masks.items()} if self.masks else {}
        return {type(self).__name__: masks}

    def set_checkpoint_dict(self, masks: pruning.Masks) -> None:
        self.masks = masks
