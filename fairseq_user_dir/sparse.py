"""The training of a pruned model, for any task: what the `*_sparse` tasks share."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.criterions import FairseqCriterion
from fairseq.data import EpochBatchIterator, FairseqDataset
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.optim import FairseqOptimizer
from omegaconf import II
from torch import nn

from avhubert_ext.checkpoints.fairseq_file import to_fairseq_names
from avhubert_ext.checkpoints.model_file import read_masks
from avhubert_ext.compression import pruning
from avhubert_ext.errors import InputError

from .precision import master_copies

logger = logging.getLogger(__name__)


@dataclass
class SparseMaskConfig:
    """The options that a `*_sparse` task adds to those of the task itself."""

    mask: Optional[str] = field(
        default=None,
        metadata={
            "help": "A pruned model, or a file with masks only. The default is the mask of "
            "--finetune-from-model, if that model is pruned."
        },
    )
    sparsity: Optional[float] = field(
        default=None,
        metadata={
            "help": "Prune this fraction of the prunable weights, in [0, 1), before the first "
            "update. Weights that --mask prunes count."
        },
    )
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    max_epoch: int = II("optimization.max_epoch")
    max_update: int = II("optimization.max_update")
    patience: int = II("checkpoint.patience")
    stop_min_lr: float = II("optimization.stop_min_lr")
    log_interval: int = II("common.log_interval")


class SparseMask:
    """Mixin for a task that trains a model whose pruned weights stay exactly zero.

    It goes before the task in the list of base classes. Checkpoints store the masks under the name
    of the task's class.

    With `regrow`, which the pruning criterion sets for PARP, pruned weights may grow again. The
    last update then prunes the smallest weights to the same sparsity, even if a loss scaler skips
    that update. A training that stops before --max-update and --max-epoch leaves a dense model:
    resume it with the same command, or prune it with `avhubert-ext model prune`.
    """

    masks: pruning.Masks | None = None
    sparsity: float  # of the masks
    batches: EpochBatchIterator  # of the training split
    regrow = False
    begun = False
    frozen = True  # whether the pruned weights stay zero
    stale_copies = False  # whether the optimizer may have copies that are not pruned yet

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> nn.Module:
        self.model_name = getattr(cfg, "_name", None)
        return super().build_model(cfg, from_checkpoint)

    def get_batch_iterator(
        self, dataset: FairseqDataset, *args: Any, **kwargs: Any
    ) -> EpochBatchIterator:
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        if self.is_training(dataset.split):
            self.batches = iterator
        return iterator

    def begin_epoch(self, epoch: int, model: nn.Module) -> None:
        super().begin_epoch(epoch, model)
        if not self.begun:
            self._begin(model)
            self.begun = True

    def _begin(self, model: nn.Module) -> None:
        """Find the masks and prune, before the first update or the first one after a resume."""
        if self.regrow and not (self.cfg.max_update or self.cfg.max_epoch):
            raise InputError("regrow prunes in the last update: set --max-update or --max-epoch")
        if self.regrow and (self.cfg.patience > 0 or self.cfg.stop_min_lr >= 0):
            raise InputError(
                "regrow prunes in the last update, but --patience and --stop-min-lr may end the "
                "training earlier: leave them out"
            )
        resumed = self.masks is not None
        if resumed:
            self._check_resumed(model)
        else:
            self.masks = self._new_masks(model)
        self._share(next(model.parameters()).device)
        self.frozen = not self.regrow
        if self.frozen or not resumed:
            pruning.apply_masks(model, self.masks)
            self.stale_copies = True
        kept = pruning.kept_parameters(model, self.masks)
        logger.info(
            f"sparsity {self.sparsity:.4f} of the prunable weights, {kept:,} parameters kept"
        )

    def _new_masks(self, model: nn.Module) -> pruning.Masks:
        """The masks of --mask or of the pruned model to start from, extended to --sparsity."""
        given = self._masks_in(self.cfg.mask, model)
        if given is None and self.cfg.mask is not None:
            raise InputError(f"{self.cfg.mask}: a dense model; name a pruned model or a mask")
        if given is None:
            given = self._masks_in(self.cfg.finetune_from_model, model)
        if self.cfg.sparsity is not None:
            return pruning.global_magnitude_mask(model, self.cfg.sparsity, given)
        if given is None:
            raise InputError("nothing says what to prune: set --mask or --sparsity")
        return given

    def _masks_in(self, file: str | None, model: nn.Module) -> pruning.Masks | None:
        if file is None:
            return None
        path = Path(file)
        masks = to_fairseq_names(read_masks(path, whole_student=True), self.model_name)
        if not masks:
            return None
        try:
            pruning.check_fits(pruning.prunable_weights(model), masks)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        return masks

    def _check_resumed(self, model: nn.Module) -> None:
        """Check that the masks in the checkpoint are those that the options ask for."""
        pruning.check_fits(pruning.prunable_weights(model), self.masks)
        advice = "set another --save-dir, or the value that this one was started with"
        if self.cfg.sparsity is not None:
            pruning.check_sparsity(self.cfg.sparsity)
            total = sum(mask.numel() for mask in self.masks.values())
            if pruning.count_pruned(self.masks) != round(self.cfg.sparsity * total):
                raise InputError(
                    f"sparsity {self.cfg.sparsity}: the checkpoint to resume from has "
                    f"{pruning.mask_sparsity(self.masks):.4f}; {advice}"
                )
        given = self._masks_in(self.cfg.mask, model)
        # The last update of PARP chooses a mask that is not the given one.
        if given is None or (self.regrow and self.frozen):
            return
        if self.cfg.sparsity is None:
            fits = pruning.same(given, self.masks)
        else:
            fits = not any((self.masks[name] & ~given[name]).any() for name in given)
        if not fits:
            raise InputError(
                f"{self.cfg.mask}: not the mask of the checkpoint to resume from; {advice}"
            )

    def _share(self, device: torch.device) -> None:
        """Move the masks to the model's device, and copy those of the first process to the rest."""
        self.masks = {name: mask.to(device) for name, mask in self.masks.items()}
        if torch.distributed.is_initialized():
            for mask in self.masks.values():
                torch.distributed.broadcast(mask.view(torch.uint8), 0)
        self.sparsity = pruning.mask_sparsity(self.masks)

    def _is_last(self, update: int) -> bool:
        """Whether the training ends after `update` updates.

        The end of the last epoch is taken from the data, because a loss scaler may skip updates.
        """
        if self.cfg.max_update and update >= self.cfg.max_update:
            return True
        return self.batches.epoch == self.cfg.max_epoch and self.batches.end_of_epoch()

    def train_step(
        self, sample: dict[str, Any], model: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple:
        result = super().train_step(sample, model, *args, **kwargs)
        if self.frozen:
            # Before the trainer clips, so that pruned weights do not add to the gradient norm.
            pruning.mask_gradients(self.model, self.masks)
        return result

    def optimizer_step(
        self, optimizer: FairseqOptimizer, model: nn.Module, update_num: int
    ) -> None:
        if self.stale_copies:
            mask_master_copies(optimizer, self.model, self.masks)
            self.stale_copies = False
        super().optimizer_step(optimizer, model, update_num)
        if self.frozen:
            self._prune(optimizer)

    def end_update(self, optimizer: FairseqOptimizer, updates: int) -> None:
        super().end_update(optimizer, updates)
        if self.regrow and not self.frozen and self._is_last(updates):
            self.masks = pruning.global_magnitude_mask(self.model, self.sparsity)
            self._share(next(self.model.parameters()).device)
            self.frozen = True
            self._prune(optimizer)

    def _prune(self, optimizer: FairseqOptimizer) -> None:
        pruning.apply_masks(self.model, self.masks)
        mask_master_copies(optimizer, self.model, self.masks)

    def reduce_metrics(
        self, logging_outputs: list[dict[str, Any]], criterion: FairseqCriterion
    ) -> None:
        """Log the metrics, with PARP also the fraction of pruned weights that have grown again.

        This reads all weights, so it is done only for updates that are printed and for the last one
        of an epoch.
        """
        super().reduce_metrics(logging_outputs, criterion)
        if not (self.regrow and self.begun and self.model.training):
            return
        if (self.updates + 1) % self.cfg.log_interval == 0 or self.batches.end_of_epoch():
            metrics.log_scalar("regrown", pruning.regrown(self.model, self.masks), round=4)

    def checkpoint_state(self) -> dict[str, Any]:
        state = super().checkpoint_state()
        if self.masks is not None:
            state |= {"masks": pruning.pack(self.masks), "frozen": self.frozen}
        return state

    def set_checkpoint_dict(self, state: dict[str, Any]) -> None:
        super().set_checkpoint_dict(state)
        self.masks = pruning.unpack(state["masks"], "the checkpoint to resume from")
        self.frozen = state["frozen"]


@torch.no_grad()
def mask_master_copies(optimizer: FairseqOptimizer, model: nn.Module, masks: pruning.Masks) -> None:
    """Set pruned weights to zero in the optimizer's float32 copies, if it has any.

    Args:
        optimizer: fairseq's optimizer.
        model: The model whose weights it changes.
        masks: The masks of the model; True is kept.
    """
    of = {id(weight): masks[name] for name, weight in pruning.prunable_weights(model).items()}
    for parameter, copy in master_copies(optimizer):
        if id(parameter) in of:
            copy.mul_(of[id(parameter)].view_as(copy))
