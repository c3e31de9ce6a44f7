"""`--criterion ctc_attention_distillation`: a small lip reader learns from a large one (paper B).

The paper gives neither the weight nor the temperature of the teacher's posteriors. The defaults,
0.5 and 1, are ours.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from avhubert_ext.checkpoints.model_file import load_auto_avsr, read_origin
from avhubert_ext.data.text import check_dictionary
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.training.losses import ctc_attention_distillation_loss

from ..dictionary import CTCDictionary
from ..models.vsr_ctc_attention import VSRCTCAttention
from ..precision import Precision
from .ctc_attention import CTCAttentionConfig, CTCAttentionCriterion

NAME = "ctc_attention_distillation"


@dataclass
class CTCAttentionDistillationConfig(CTCAttentionConfig):
    """The options of the loss and of the teacher."""

    teacher: Optional[str] = field(
        default=None,
        metadata={"help": "The file of the teacher: a lip reader for the same subwords."},
    )
    distillation_weight: float = field(
        default=0.5,
        metadata={
            "help": "The weight of the teacher's posteriors in the loss, from 0 to 1. The labels "
            "have the rest."
        },
    )
    temperature: float = field(
        default=1.0,
        metadata={
            "help": "Divide the logits of teacher and student by this before the comparison. 1 "
            "changes nothing."
        },
    )


class LipReadingTeacher:
    """A frozen lip reader.

    It is not a module, so that it stays out of checkpoints, optimizers and DDP.
    """

    def __init__(self, path: Path, task: FairseqTask) -> None:
        """Load the teacher.

        Args:
            path: The model file.
            task: The task of the student.

        Raises:
            InputError: The file is missing or has no lip reader, or that one has other input
                streams or other subwords than the task.
        """
        recognizer = load_auto_avsr(path)
        check_teacher(path, recognizer, task)
        self.model = VSRCTCAttention(recognizer.fuse()).eval()

    @torch.no_grad()
    def __call__(self, inputs: dict[str, Any], precision: Precision) -> tuple[Tensor, Tensor]:
        """Run the teacher.

        Args:
            inputs: The inputs of the student.
            precision: The precision of the student.

        Returns:
            What `VSRCTCAttention.forward` returns, on the device of the inputs.
        """
        self.model.precision = precision
        return self.model.to(inputs["padding_mask"].device)(**inputs)


def check_teacher(path: Path, teacher: CTCAttentionRecognizer, task: FairseqTask) -> None:
    """Check that a teacher fits the models of a task.

    Args:
        path: The file of the teacher.
        teacher: Its network.
        task: The task of the student.

    Raises:
        InputError: The task is no lip reading, or the teacher has other input streams or subwords.
    """
    if not isinstance(task.target_dictionary, CTCDictionary):
        raise InputError(f"--criterion {NAME} is for lip readers: set --task vsr or vsr_sparse")
    modality, wanted = teacher.encoder.config.modality, task.cfg.modalities
    if modality != wanted:
        raise InputError(
            f"teacher {path} reads {modality}, its student {wanted}: name another teacher, or set "
            f"--modalities {modality} for the student"
        )
    outputs, digest = teacher.decoder.config.vocabulary, read_origin(path).get("dictionary")
    try:
        check_dictionary(Path(task.cfg.data) / "dict.wrd.txt", task.outputs, outputs, digest)
    except InputError as error:
        raise InputError(f"teacher {path}: {error}") from None


@register_criterion(NAME, dataclass=CTCAttentionDistillationConfig)
class CTCAttentionDistillationCriterion(CTCAttentionCriterion):
    """The loss on the labels and on the teacher's posteriors, in training and validation."""

    logged = (*CTCAttentionCriterion.logged, "kl_ctc", "kl_attention")

    def __init__(
        self,
        task: FairseqTask,
        ctc_weight: float,
        label_smoothing: float,
        teacher: str | None,
        distillation_weight: float,
        temperature: float,
    ) -> None:
        super().__init__(task, ctc_weight, label_smoothing)
        if not 0 <= distillation_weight <= 1:
            raise InputError(f"distillation_weight {distillation_weight}: expected 0 to 1")
        if not 0 < temperature < float("inf"):
            raise InputError(f"temperature {temperature}: expected a number above 0")
        if not teacher:
            raise InputError(f"--criterion {NAME}: teacher missing; name its file with --teacher")
        self.distillation_weight = distillation_weight
        self.temperature = temperature
        self.teacher = LipReadingTeacher(Path(teacher), task)

    def losses(
        self, model: nn.Module, inputs: dict[str, Any], targets: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms, as from `ctc_attention_distillation_loss`."""
        return ctc_attention_distillation_loss(
            model(**inputs),
            self.teacher(inputs, model.precision),
            inputs["padding_mask"],
            targets,
            self.ctc_weight,
            self.label_smoothing,
            self.distillation_weight,
            self.temperature,
        )
