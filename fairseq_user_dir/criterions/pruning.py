"""`--criterion pruning`: any criterion for a pruned model, whose weights may grow again (PARP)."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from avhubert_ext.errors import InputError

from ..sparse import SparseMask
from .wrapper import Wrapper, WrapperConfig


@dataclass
class PruningConfig(WrapperConfig):
    """The base criterion, and whether pruned weights may grow again."""

    regrow: bool = field(
        default=False,
        metadata={
            "help": "Let pruned weights grow again (PARP). The last update prunes the model to the "
            "same sparsity."
        },
    )


@register_criterion("pruning", dataclass=PruningConfig)
class PruningCriterion(Wrapper):
    """The loss of the base. The task keeps pruned weights at zero (paper B, section 2.2.2)."""

    added = ("sparsity",)
    batches = "pruning_batches"

    @classmethod
    def with_base(
        cls, cfg: PruningConfig, task: FairseqTask, base: FairseqCriterion
    ) -> "PruningCriterion":
        if not isinstance(task, SparseMask):
            raise InputError(
                "--criterion pruning is for a pruned model: set --task vsr_sparse, av_asr_sparse "
                "or av_distillation_sparse"
            )
        task.regrow = cfg.regrow
        return cls(task, base)

    def forward(
        self, model: nn.Module, sample: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Compute the loss of the base, and log the sparsity of the masks.

        Without a training, for example in fairseq-validate, there are no masks to report.
        """
        loss, size, log = super().forward(model, sample, *args, **kwargs)
        if self.task.masks is not None:
            log |= {self.batches: 1, "sparsity": self.task.sparsity}
        return loss, size, log
