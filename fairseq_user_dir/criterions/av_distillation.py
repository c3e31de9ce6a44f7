"""`--criterion av_distillation`: the library's distillation loss (paper A), summed over frames."""

from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor, nn

from avhubert_ext.training.distillation import distill_batch

COUNTS = ("ntokens", "nsentences", "sample_size")


@register_criterion("av_distillation", dataclass=FairseqDataclass)
class AVDistillationCriterion(FairseqCriterion):
    """The task owns settings and teacher; here they meet the student."""

    def forward(
        self, model: nn.Module, sample: dict[str, Any]
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss summed over the valid frames, their number, and what is logged.

        The trainer divides the gradient by the frames of all processes and accumulated batches:
        what is minimized is the mean over the frames of the global batch, however it is spread.
        """
        device = next(model.parameters()).device
        config, teacher = self.task.distillation, self.task.teacher.to(device)
        loss, terms = distill_batch(
            config, teacher, model, sample["batch"].to(device), training=model.training
        )
        frames = sample["ntokens"]
        sums = {name: value.detach() * frames for name, value in {"loss": loss, **terms}.items()}
        counts = {"ntokens": frames, "nsentences": sample["nsentences"], "sample_size": frames}
        return loss * frames, frames, sums | counts

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the means over the frames of all batches."""
        frames = sum(float(log["sample_size"]) for log in logging_outputs)
        for name in (name for name in logging_outputs[0] if name not in COUNTS):
            total = sum(float(log[name]) for log in logging_outputs)
            metrics.log_scalar(name, total / frames, weight=frames, round=5)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
