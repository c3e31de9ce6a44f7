"""`--criterion ctc_attention_distillation`: a small lip reader learns from a large one (paper B).

The paper tells neither weight nor temperature of the teacher's posteriors: 0.5 and 1 are ours.
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
    teacher: Optional[str] = field(
        default=None, metadata={"help": "checkpoint of the teacher, any that load_auto_avsr reads"}
    )
    distillation_weight: float = field(
        default=0.5,
        metadata={"help": "of the teacher's posteriors in the loss; the rest is the labels'"},
    )
    temperature: float = field(
        default=1.0, metadata={"help": "softens the posteriors of both; 1 leaves them as they are"}
    )


class LipReadingTeacher:
    """A frozen lip reader, which no checkpoint, optimizer or DDP must see: so it is no nn.Module.

    Raises InputError where the file is missing, holds no lip reader, or one that reads other
    streams or writes other subwords than the task's.
    """

    def __init__(self, path: Path, task: FairseqTask) -> None:
        recognizer = load_auto_avsr(path)
        check_teacher(path, recognizer, task)
        self.model = VSRCTCAttention(recognizer.fuse()).eval()

    @torch.no_grad()
    def __call__(self, inputs: dict[str, Any], precision: Precision) -> tuple[Tensor, Tensor]:
        """What the model gives for the student's inputs, on their device, in its precision."""
        self.model.precision = precision
        return self.model.to(inputs["padding_mask"].device)(**inputs)


def check_teacher(path: Path, teacher: CTCAttentionRecognizer, task: FairseqTask) -> None:
    """Raise an InputError if the teacher in a file does not fit what the task's models do."""
    if not isinstance(task.target_dictionary, CTCDictionary):
        raise InputError(f"--criterion {NAME} is for lip readers: set --task vsr or vsr_sparse")
    modality, wanted = teacher.encoder.config.modality, task.cfg.modalities
    if modality != wanted:
        raise InputError(
            f"teacher {path} reads {modality}, its student {wanted}: name another teacher, or set "
            f"--modalities {modality}"
        )
    outputs, digest = teacher.decoder.config.vocabulary, read_origin(path).get("dictionary")
    try:
        check_dictionary(Path(task.cfg.data) / "dict.wrd.txt", task.outputs, outputs, digest)
    except InputError as error:
        raise InputError(f"teacher {path}: {error}") from None


@register_criterion(NAME, dataclass=CTCAttentionDistillationConfig)
class CTCAttentionDistillationCriterion(CTCAttentionCriterion):
    """Labels and the teacher's posteriors, on the same batch in training and validation."""

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
            raise InputError(f"--criterion {NAME}: teacher missing; name its checkpoint: --teacher")
        self.distillation_weight = distillation_weight
        self.temperature = temperature
        self.teacher = LipReadingTeacher(Path(teacher), task)

    def losses(
        self, model: nn.Module, inputs: dict[str, Any], targets: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms, as `ctc_attention_distillation_loss`; inputs: the model's."""
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
