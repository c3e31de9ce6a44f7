"""`--task av_distillation`: a student learns a teacher's blocks, on one machine or many (paper A).

The settings are the library's, under the names that they have in s3prl's YAML files.
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
    teacher: Optional[str] = field(
        default=None, metadata={"help": "checkpoint of the teacher, any that load_avhubert reads"}
    )
    student: str = field(
        default=DistillationConfig.student,
        metadata={
            "help": "preset, or changes to one as JSON: "
            '{"preset": "7", "targets": [12], "encoder": {"ffn": 1024}}'
        },
    )
    targets: Optional[str] = field(
        default=DistillationConfig.targets,
        metadata={"help": "teacher blocks to predict: 4,8,12 (default: the student's)"},
    )
    final_norm: bool = field(
        default=DistillationConfig.final_norm,
        metadata={"help": "teacher's final layer norm on the target from its last block"},
    )
    cosine_weight: float = field(
        default=DistillationConfig.cosine_weight, metadata={"help": "lambda of the loss"}
    )
    teacher_precision: str = field(
        default=DistillationConfig.teacher_precision,
        metadata={"help": "bfloat16, float16, float32; auto: bfloat16 where the hardware has it"},
    )
    modality_dropout: float = field(
        default=DistillationConfig.modality_dropout,
        metadata={"help": "probability that a batch loses its audio or its video"},
    )
    audio_dropout: float = field(
        default=DistillationConfig.audio_dropout,
        metadata={"help": "probability that it is the audio"},
    )
    modality_dropout_for: str = field(
        default=DistillationConfig.modality_dropout_for,
        metadata={"help": "who loses it: both networks, or the student alone"},
    )
    imagenet: Optional[str] = field(
        default=DistillationConfig.imagenet,
        metadata={"help": "torchvision's weights for a ShuffleNetV2 frontend"},
    )
    max_frames: int = field(
        default=500, metadata={"help": "longer utterances are cut to a random window of so many"}
    )
    noise_for: str = field(
        default="both", metadata={"help": "who hears the noise: both, or the student alone"}
    )


def distillation_config(cfg: AVDistillationConfig) -> DistillationConfig:
    """The library's settings in fairseq's; InputError where a value makes no sense."""
    values = {f.name: getattr(cfg, f.name) for f in fields(DistillationConfig)}
    values["student"] = parse_student(cfg.student)
    return DistillationConfig.from_mapping(values, "--task av_distillation")


def parse_student(text: str) -> str | Mapping[str, Any]:
    """A preset's name, or the JSON object of a change to one."""
    if not text.lstrip().startswith("{"):
        return text
    return parse_json(text, "student")


@register_task("av_distillation", dataclass=AVDistillationConfig)
class AVDistillationTask(AVTask):
    """Loads utterances and owns the teacher, which no checkpoint, optimizer or DDP must see."""

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
        """The student at the start of its training."""
        return self.distillation.new_student(load_avhubert(self.distillation.teacher))

    def build_criterion(
        self, cfg: FairseqDataclass, from_checkpoint: bool = False
    ) -> FairseqCriterion:
        self.teacher = self.distillation.new_teacher(load_avhubert(self.distillation.teacher))
        return super().build_criterion(cfg, from_checkpoint)

    def optimizer_step(
        self, optimizer: FairseqOptimizer, model: torch.nn.Module, update_num: int
    ) -> None:
        # A modality that every batch of the update lost leaves its frontend without a gradient: in
        # one process the optimizer would pass it over, in several (and in half precision, where
        # fairseq fills in zeros) its momentum would still move it.
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        super().optimizer_step(optimizer, model, update_num)

    def valid_step(
        self, sample: dict[str, Any], model: torch.nn.Module, criterion: FairseqCriterion
    ) -> tuple:
        self.report_corrupt(sample)
        return super().valid_step(sample, model, criterion)
