"""`--criterion pruning`: any criterion for a pruned model; logs sparsity, lets weights regrow."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from torch import Tensor, nn

from avhubert_ext.errors import InputError
from avhubert_ext.pruning import regrown

from ..sparse import SparseMask
from .wrapper import Wrapper, WrapperConfig


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
        """As the base, and the sparsity of the masks; with regrowth the share that has regrown.

        Outside a training, as in fairseq-validate, there are no masks and the base is all.
        """
        loss, size, log = super().forward(model, sample, *args, **kwargs)
        if self.task.pruned is not None:
            log |= {"batches": 1, "sparsity": self.task.sparsity}
            if self.task.regrow:
                log["regrown"] = regrown(self.task.pruned, self.task.masks)
        return loss, size, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        own = ("batches", "sparsity", "regrown")
        super().reduce_metrics(
            [{k: v for k, v in log.items() if k not in own} for log in logging_outputs]
        )
        batches = sum(float(log.get("batches", 0)) for log in logging_outputs)
        for name in own[1:]:
            if name in logging_outputs[0]:
                total = sum(float(log[name]) for log in logging_outputs)
                metrics.log_scalar(name, total / batches, weight=batches, round=4)
