"""`--criterion ctc_attention`: the loss of paper B, averaged over utterances."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from avhubert_ext.errors import InputError
from avhubert_ext.training.losses import IGNORED, ctc_attention_loss


@dataclass
class CTCAttentionConfig(FairseqDataclass):
    """The options of the loss."""

    ctc_weight: float = field(
        default=0.1,
        metadata={
            "help": "The weight of CTC in the loss and in the beam search, from 0 to 1. The "
            "attention decoder has the rest."
        },
    )
    label_smoothing: float = field(
        default=0.1,
        metadata={"help": "The probability that a target gives to all other outputs together."},
    )


@register_criterion("ctc_attention", dataclass=CTCAttentionConfig)
class CTCAttentionCriterion(FairseqCriterion):
    """Paper B's loss, which the trainer divides by the utterances of all processes and batches."""

    logged = ("loss", "loss_ctc", "loss_attention")  # sums over utterances, logged as means

    def __init__(self, task: FairseqTask, ctc_weight: float, label_smoothing: float) -> None:
        super().__init__(task)
        for name, value in (("ctc_weight", ctc_weight), ("label_smoothing", label_smoothing)):
            if not 0 <= value <= 1:
                raise InputError(f"{name} {value}: expected 0 to 1")
        self.ctc_weight = ctc_weight
        self.label_smoothing = label_smoothing

    def forward(
        self, model: nn.Module, sample: dict[str, Any]
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Compute the loss of one batch.

        Args:
            model: The recognizer.
            sample: The batch.

        Returns:
            The loss summed over the utterances, their number, and the metrics.
        """
        padding = self.task.target_dictionary.pad()
        targets = sample["target"].masked_fill(sample["target"] == padding, IGNORED)
        loss, terms = self.losses(model, sample["net_input"], targets)
        utterances = sample["nsentences"]
        counts = {"ntokens": sample["ntokens"], "nsentences": utterances, "sample_size": utterances}
        return loss, utterances, {"loss": loss.detach(), **terms, **counts}

    def losses(
        self, model: nn.Module, inputs: dict[str, Any], targets: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms, as from `ctc_attention_loss`.

        Args:
            model: The recognizer.
            inputs: Its inputs.
            targets: Indices of outputs, int64 [B, L], with `IGNORED` at padding.

        Returns:
            The loss summed over the utterances, and its terms by name.
        """
        return ctc_attention_loss(
            *model(**inputs),
            inputs["padding_mask"],
            targets,
            self.ctc_weight,
            self.label_smoothing,
        )

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the losses per utterance, and the fraction of tokens that the decoder gets right."""

        def total(name: str) -> float:
            return sum(float(log[name]) for log in logging_outputs)

        utterances, tokens = total("sample_size"), total("ntokens")
        for name in cls.logged:
            metrics.log_scalar(name, total(name) / utterances, weight=utterances, round=4)
        metrics.log_scalar("accuracy", total("accuracy") / tokens, weight=tokens, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
