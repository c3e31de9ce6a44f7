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
    """The distillation loss, with the settings and the teacher of the task."""

    def forward(
        self, model: nn.Module, sample: dict[str, Any]
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Compute the loss of one batch.

        The trainer divides the gradient by the frames of all processes and accumulated batches.
        What is minimized is the mean over all frames, however they are distributed.

        Args:
            model: The student.
            sample: The batch.

        Returns:
            The loss summed over the valid frames, their number, and the metrics.
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
        """Log the means over all frames of the batches."""
        frames = sum(float(log["sample_size"]) for log in logging_outputs)
        for name in (name for name in logging_outputs[0] if name not in COUNTS):
            total = sum(float(log[name]) for log in logging_outputs)
            metrics.log_scalar(name, total / frames, weight=frames, round=5)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
