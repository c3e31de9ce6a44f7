"""`--criterion pruning`: any criterion for a pruned model; logs sparsity, lets weights regrow."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import register_criterion
from torch import Tensor, nn

from avhubert_ext.errors import InputError

from ..sparse import SparseMask
from .wrapper import Logs, Wrapper, WrapperConfig, log_means, without

BATCHES, LOGGED = "pruning_batches", ("sparsity",)


@dataclass
class PruningConfig(WrapperConfig):
    regrow: bool = field(
        default=False,
        metadata={
            "help": "PARP: pruned weights may grow again; the last update prunes to the same "
            "sparsity"
        },
    )


@register_criterion("pruning", dataclass=PruningConfig)
class PruningCriterion(Wrapper):
    """The loss is the base's; the task keeps the zeros, or lets them grow (paper B, 2.2.2)."""

    def prepare(self, cfg: PruningConfig) -> None:
        if not isinstance(self.task, SparseMask):
            raise InputError(
                "--criterion pruning is for a pruned model: set --task vsr_sparse, av_asr_sparse "
                "or av_distillation_sparse"
            )
        self.task.regrow = cfg.regrow

    def forward(
        self, model: nn.Module, sample: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """As the base, and the sparsity of the masks.

        Outside a training, as in fairseq-validate, there are no masks and the base is all.
        """
        loss, size, log = super().forward(model, sample, *args, **kwargs)
        if self.task.masks is not None:
            log |= {BATCHES: 1, "sparsity": self.task.sparsity}
        return loss, size, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: Logs) -> None:
        super().reduce_metrics(without(logging_outputs, (BATCHES, *LOGGED)))
        log_means(logging_outputs, LOGGED, BATCHES, digits=4)
