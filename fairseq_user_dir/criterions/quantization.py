"""`--criterion quantization`: any criterion, with a penalty that pulls weights to 8-bit codebooks.

This is for the 8-bit row of paper B's Table 2. The trained weights are still in float32, close to
their codebooks; `avhubert-ext model compress --codebook` rounds them. For a model that is sparse
and has 8 bits, `pruning` can have this criterion as its base:

    --task vsr_sparse --criterion pruning --base-criterion quantization
    --base-options {"base_criterion":"ctc_attention"}
"""

from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from avhubert_ext.compression.pruning import Masks
from avhubert_ext.compression.quantization import ADMM

from ..sparse import SparseMask
from .wrapper import Wrapper, WrapperConfig


@dataclass
class QuantizationConfig(WrapperConfig):
    """The base criterion, and the settings of ADMM."""

    rho: float = field(
        default=0.1,
        metadata={
            "help": "The weight of the penalty: rho/2 * ||W + U - Z||^2 is added to the mean loss."
        },
    )
    quantization_interval: int = field(
        default=10,
        metadata={"help": "Compute new codebooks, and a step of U, every this many updates."},
    )


@register_criterion("quantization", dataclass=QuantizationConfig)
class QuantizationCriterion(Wrapper):
    """The loss of the base and the penalty of ADMM, whose state checkpoints store."""

    added = ("penalty", "codebook_distance")
    batches = "quantization_batches"
    digits = 5

    def __init__(self, task: FairseqTask, base: FairseqCriterion, admm: ADMM) -> None:
        super().__init__(task, base)
        self.admm = admm

    @classmethod
    def with_base(
        cls, cfg: QuantizationConfig, task: FairseqTask, base: FairseqCriterion
    ) -> "QuantizationCriterion":
        criterion = cls(task, base, ADMM(cfg.rho, cfg.quantization_interval))
        task.kept["quantization"] = criterion.admm
        return criterion

    def forward(
        self, model: nn.Module, sample: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Compute the loss of the base; in training add the penalty, which is logged separately.

        The trainer divides by the sample sizes of all batches of an update. With the penalty times
        the size in each batch, the sum that is minimized has the mean loss and the penalty once.
        """
        loss, size, log = super().forward(model, sample, *args, **kwargs)
        if not model.training:
            return loss, size, log
        network = self.task.model
        self.admm.advance(self.task.updates, network, self._masks())
        penalty = self.admm.penalty(network)
        values = (penalty.detach(), self.admm.distance(network))
        log |= {self.batches: 1, **dict(zip(self.added, values, strict=True))}
        return loss + size * penalty, size, log

    def _masks(self) -> Masks | None:
        """The masks of the weights that are zero and stay zero."""
        sparse = isinstance(self.task, SparseMask) and self.task.frozen
        return self.task.masks if sparse else None
