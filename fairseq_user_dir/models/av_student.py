"""`--arch av_student`: the student that `--task av_distillation` trains."""

import json
from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from fairseq.tasks import FairseqTask
from torch import Tensor

from avhubert_ext.checkpoints.description import build, describe
from avhubert_ext.checkpoints.fairseq_file import FAIRSEQ_STUDENT
from avhubert_ext.models.student import Student, StudentOutput

from ..precision import Float32Weights, Precision


@dataclass
class AVStudentConfig(FairseqDataclass):
    """What the checkpoint of a student stores about it."""

    description: Optional[str] = field(
        default=None, metadata={"help": "The network as JSON. The task sets it, for checkpoints."}
    )


@register_model(FAIRSEQ_STUDENT, dataclass=AVStudentConfig)
class AVStudent(Float32Weights, BaseFairseqModel):
    """The library's Student as a fairseq model. Its options are those of the task."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        self.description = json.dumps(describe(student))
        self.precision = Precision()

    @classmethod
    def build_model(cls, cfg: AVStudentConfig, task: FairseqTask) -> "AVStudent":
        return cls(build(json.loads(cfg.description)) if cfg.description else task.new_student())

    def forward(
        self, audio: Tensor | None, video: Tensor | None, padding_mask: Tensor | None = None
    ) -> StudentOutput:
        """As `Student.forward`."""
        device = next(x for x in (audio, video) if x is not None).device
        with self.precision.autocast(device):
            return self.student(audio, video, padding_mask)
