"""`--task av_distillation`: a student learns to predict blocks of a teacher (paper A).

This is for training on several GPUs or machines. The settings are those of the library and have the
same names as in the YAML files for s3prl.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.tasks import register_task

from avhubert_ext.checkpoints.model_file import load_avhubert
from avhubert_ext.data.corrupt import CorruptUtterances
from avhubert_ext.data.dataset import AVDataset, DataConfig
from avhubert_ext.models.student import Student
from avhubert_ext.training.distillation import RECEIVERS, DistillationConfig, Teacher, check_choice

from ..base import AVTask, AVTaskConfig
from ..data import DistillationUtterances
from ..options import parse_json


@dataclass
class AVDistillationConfig(AVTaskConfig):
    """The options of a distillation."""

    teacher: Optional[str] = field(
        default=None,
        metadata={"help": "The file of the teacher: AV-HuBERT, an encoder or a recognizer."},
    )
    student: str = field(
        default=DistillationConfig.student,
        metadata={
            "help": "The preset of the student, for example 7, or changes to one as JSON: "
            '{"preset": "7", "targets": [12], "encoder": {"ffn": 1024}}.'
        },
    )
    targets: Optional[str] = field(
        default=DistillationConfig.targets,
        metadata={
            "help": "The blocks of the teacher to predict, for example 4,8,12. The default depends "
            "on the student."
        },
    )
    final_norm: bool = field(
        default=DistillationConfig.final_norm,
        metadata={
            "help": "Apply the teacher's final layer norm to the target from its last block."
        },
    )
    cosine_weight: float = field(
        default=DistillationConfig.cosine_weight,
        metadata={"help": "The weight of the cosine term in the loss (lambda in equation 2)."},
    )
    teacher_precision: str = field(
        default=DistillationConfig.teacher_precision,
        metadata={
            "help": "The precision of the teacher: `bfloat16`, `float16`, `float32`, or `auto`, "
            "which is bfloat16 if the hardware supports it."
        },
    )
    modality_dropout: float = field(
        default=DistillationConfig.modality_dropout,
        metadata={"help": "The probability that one stream of a batch is dropped."},
    )
    audio_dropout: float = field(
        default=DistillationConfig.audio_dropout,
        metadata={"help": "The probability that the dropped stream is the audio."},
    )
    modality_dropout_for: str = field(
        default=DistillationConfig.modality_dropout_for,
        metadata={"help": "Drop the stream for `both` networks or for the `student` only."},
    )
    imagenet: Optional[str] = field(
        default=DistillationConfig.imagenet,
        metadata={"help": "A file with torchvision's weights for a ShuffleNetV2 frontend."},
    )
    max_frames: int = field(
        default=500,
        metadata={"help": "Cut longer utterances to a random window of this many frames."},
    )
    noise_for: str = field(
        default="both",
        metadata={"help": "Add the noise for `both` networks or for the `student` only."},
    )


def distillation_config(cfg: AVDistillationConfig) -> DistillationConfig:
    """Translate fairseq's options to the library's settings.

    Args:
        cfg: The options of the task.

    Returns:
        The settings of the distillation.

    Raises:
        InputError: A value is invalid, or there is no teacher.
    """
    values = {f.name: getattr(cfg, f.name) for f in fields(DistillationConfig)}
    values["student"] = parse_student(cfg.student)
    return DistillationConfig.from_mapping(values, "--task av_distillation")


def parse_student(text: str) -> str | Mapping[str, Any]:
    """The name of a preset, or the changes to one, which are a JSON object."""
    if not text.lstrip().startswith("{"):
        return text
    return parse_json(text, "student")


@register_task("av_distillation", dataclass=AVDistillationConfig)
class AVDistillationTask(AVTask):
    """Distillation. The task has the teacher, out of reach of checkpoints, optimizers and DDP."""

    def __init__(self, cfg: AVDistillationConfig) -> None:
        super().__init__(cfg)
        check_choice("noise_for", cfg.noise_for, RECEIVERS)
        self.distillation = distillation_config(cfg)
        self.teacher: Teacher | None = None

    def data_config(self, split: str) -> DataConfig:
        config = super().data_config(split)
        return replace(
            config,
            max_frames=self.cfg.max_frames,
            keep_clean=config.noise is not None and self.cfg.noise_for == "student",
            corrupt="replace",
        )

    def load_dataset(self, split: str, **kwargs: Any) -> None:
        dataset = AVDataset(Path(self.cfg.data), split, self.data_config(split))
        self.corrupt[split] = CorruptUtterances(len(dataset))
        self.datasets[split] = DistillationUtterances(dataset, split)

    def new_student(self) -> Student:
        """Build a student as it is before its training."""
        return self.distillation.new_student(load_avhubert(self.distillation.teacher))

    def build_criterion(
        self, cfg: FairseqDataclass, from_checkpoint: bool = False
    ) -> FairseqCriterion:
        self.teacher = self.distillation.new_teacher(load_avhubert(self.distillation.teacher))
        return super().build_criterion(cfg, from_checkpoint)

    def optimizer_step(
        self, optimizer: FairseqOptimizer, model: torch.nn.Module, update_num: int
    ) -> None:
        # Where all batches of an update dropped the same stream, its frontend has no gradient. In
        # one process the optimizer would skip it. In several, and in half precision, where fairseq
        # fills in zeros, its momentum would still change it. With zeros all of them agree.
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        super().optimizer_step(optimizer, model, update_num)

    def valid_step(
        self, sample: dict[str, Any], model: torch.nn.Module, criterion: FairseqCriterion
    ) -> tuple:
        self.report_corrupt(sample)
        return super().valid_step(sample, model, criterion)
