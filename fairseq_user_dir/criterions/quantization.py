"""`--criterion quantization`: any criterion, and a pull of the weights to 8-bit codebooks.

That is the 8-bit row of paper B's Table 2. What is trained are still float32 weights, near to their
codebooks: `avhubert-ext export-sparse --codebook` puts them there. It wraps, and is wrapped by,
`pruning`, for a model that is sparse and 8-bit:

    --task vsr_sparse --criterion pruning --base-criterion quantization
    --base-options {"base_criterion":"ctc_attention"}
"""

from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import register_criterion
from torch import Tensor, nn

from avhubert_ext.compression.pruning import Masks
from avhubert_ext.compression.quantization import ADMM

from ..sparse import SparseMask
from .wrapper import Logs, Wrapper, WrapperConfig, log_means, without

BATCHES, LOGGED = "quantization_batches", ("penalty", "codebook_distance")


@dataclass
class QuantizationConfig(WrapperConfig):
    rho: float = field(
        default=0.1,
        metadata={"help": "weight of the penalty rho/2 * ||W + U - Z||^2 beside the mean loss"},
    )
    quantization_interval: int = field(
        default=10, metadata={"help": "new codebooks, and a step of U, every so many updates"}
    )


@register_criterion("quantization", dataclass=QuantizationConfig)
class QuantizationCriterion(Wrapper):
    """The base's loss and ADMM's penalty, whose state is kept in the checkpoint."""

    def prepare(self, cfg: QuantizationConfig) -> None:
        self.admm = ADMM(cfg.rho, cfg.quantization_interval)
        self.task.kept["quantization"] = self.admm

    def forward(
        self, model: nn.Module, sample: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """As the base; in training with the penalty, which is logged apart from the loss.

        The trainer divides by the sum of the sample sizes of all batches of an update: with the
        penalty times the size of each, what is minimized is the mean loss and the penalty once.
        """
        loss, size, log = super().forward(model, sample, *args, **kwargs)
        if not model.training:
            return loss, size, log
        network = self.task.model
        self.admm.advance(self.task.updates, network, self._masks())
        penalty = self.admm.penalty(network)
        values = (penalty.detach(), self.admm.distance(network))
        log |= {BATCHES: 1, **dict(zip(LOGGED, values, strict=True))}
        return loss + size * penalty, size, log

    def _masks(self) -> Masks | None:
        """Of the weights that are zero and stay so."""
        sparse = isinstance(self.task, SparseMask) and self.task.frozen
        return self.task.masks if sparse else None

    @classmethod
    def reduce_metrics(cls, logging_outputs: Logs) -> None:
        super().reduce_metrics(without(logging_outputs, (BATCHES, *LOGGED)))
        log_means(logging_outputs, LOGGED, BATCHES, digits=5)
