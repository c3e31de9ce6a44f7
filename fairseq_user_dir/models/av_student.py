"""`--arch av_student`: the student that `--task av_distillation` trains."""

import json
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from fairseq.tasks import FairseqTask
from torch import Tensor

from avhubert_ext.models.checkpoint import FAIRSEQ_STUDENT, build, describe
from avhubert_ext.models.student import Student, StudentOutput

HALF = (torch.float16, torch.bfloat16)


@dataclass
class AVStudentConfig(FairseqDataclass):
    description: Optional[str] = field(
        default=None, metadata={"help": "set by the task: the network in full, for checkpoints"}
    )


@register_model(FAIRSEQ_STUDENT, dataclass=AVStudentConfig)
class AVStudent(BaseFairseqModel):
    """The library's Student; its network and targets are the task's options.

    Its weights stay float32 under `--fp16` and `--bf16`, which choose the precision of the matrix
    products and convolutions only.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        self.description = json.dumps(describe(student))
        self.precision = torch.float32

    @classmethod
    def build_model(cls, cfg: AVStudentConfig, task: FairseqTask) -> "AVStudent":
        return cls(build(json.loads(cfg.description)) if cfg.description else task.new_student())

    # fairseq casts the model for --fp16 with half() and for --bf16 with to(dtype=...), and keeps
    # float32 weights in its optimizer alone: a checkpoint would hold rounded ones, a resumed run
    # go on from those, and batch norm's running statistics stop moving where a step is below
    # rounding. Autocast has none of this, and is what s3prl's fp16 does too.

    def half(self) -> "AVStudent":
        return self.to(dtype=torch.float16)

    def to(self, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> "AVStudent":
        if dtype is not None:
            self.precision = dtype
        return super().to(*args, **kwargs)

    def forward(
        self, audio: Tensor | None, video: Tensor | None, padding_mask: Tensor | None = None
    ) -> StudentOutput:
        """As `Student.forward`."""
        device = next(x for x in (audio, video) if x is not None).device.type
        if self.precision not in HALF:  # as it is around this call
            return self.student(audio, video, padding_mask)
        with torch.autocast(device, self.precision):
            return self.student(audio, video, padding_mask)
