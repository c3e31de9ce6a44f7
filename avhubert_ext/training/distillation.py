"""Distillation of a student from an AV-HuBERT teacher (paper A, section 2).

Settings, frozen teacher, and the loss of one batch, for both the s3prl expert and the fairseq task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avhubert_ext.data.dataset import Batch
from avhubert_ext.errors import InputError
from avhubert_ext.models.checks import check_choice
from avhubert_ext.models.encoder import AVHubertEncoder, drop_modality
from avhubert_ext.models.presets import StudentPreset, check_fields, parse_targets, student_preset
from avhubert_ext.models.student import Student, StudentOutput
from avhubert_ext.training.losses import distillation_loss
from avhubert_ext.training.student import build_student

RECEIVERS = ("both", "student")
PRECISIONS = ("auto", "bfloat16", "float16", "float32")


@dataclass(frozen=True)
class DistillationConfig:
    """The settings of a distillation, with the same names in s3prl's YAML and fairseq's options.

    Attributes:
        teacher: Any file that `load_avhubert` reads.
        student: The name of a preset, or changes to a preset, see `student_preset`.
        targets: Teacher blocks to predict, from 1; None takes those of the student's preset.
        final_norm: Whether the teacher's final layer norm is applied if its last block is a target.
            Without it the target is the residual stream, as with AV-HuBERT's `output_layer`.
        cosine_weight: lambda of equation (2).
        teacher_precision: Precision of the teacher's matrix products and convolutions. auto is
            bfloat16 if the hardware supports it, else float32.
        modality_dropout: Probability that one stream of a training batch is dropped.
        audio_dropout: Probability that the dropped stream is the audio.
        modality_dropout_for: Whether the stream is dropped for both networks or only the student.
        imagenet: torchvision's weights for a student with the ShuffleNetV2 frontend.

    Raises:
        InputError: If a value is invalid.
    """

    teacher: str | Path
    student: str | Mapping[str, Any] = "7"
    targets: tuple[int, ...] | None = None
    final_norm: bool = False
    cosine_weight: float = 1.0
    teacher_precision: str = "auto"
    modality_dropout: float = 0.0
    audio_dropout: float = 0.5
    modality_dropout_for: str = "student"
    imagenet: str | Path | None = None

    def __post_init__(self) -> None:
        check_choice("modality_dropout_for", self.modality_dropout_for, RECEIVERS)
        check_choice("teacher_precision", self.teacher_precision, PRECISIONS)
        if not isinstance(self.teacher, str | Path):
            raise InputError(f"teacher {self.teacher!r}: expected the path of a checkpoint")
        if not isinstance(self.final_norm, bool):
            raise InputError(f"final_norm {self.final_norm!r}: expected true or false")
        for name in ("cosine_weight", "modality_dropout", "audio_dropout"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                raise InputError(f"{name} {value!r}: expected a number, 0 or more")
        if self.targets is not None:
            object.__setattr__(self, "targets", parse_targets(self.targets))
        for name in ("modality_dropout", "audio_dropout"):
            if getattr(self, name) > 1:
                raise InputError(f"{name} {getattr(self, name)}: expected a probability")

    @classmethod
    def from_mapping(cls, values: object, where: str | Path) -> DistillationConfig:
        """The settings in a mapping.

        Args:
            values: The mapping.
            where: The file that it was read from, for error messages.

        Raises:
            InputError: If it is not a mapping, or a key or value is invalid.
        """
        check_fields(cls, values, where)
        if not values.get("teacher"):
            raise InputError(f"{where}: teacher missing; name the teacher's checkpoint")
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def preset(self) -> StudentPreset:
        """The student's network and targets.

        Raises:
            InputError: If the student is unknown.
        """
        chosen = student_preset(self.student)
        return chosen if self.targets is None else replace(chosen, targets=self.targets)

    def new_student(self, teacher: AVHubertEncoder) -> Student:
        """The student at the start of its training, see `build_student`."""
        return build_student(self.preset(), teacher, self.imagenet)

    def new_teacher(self, encoder: AVHubertEncoder) -> Teacher:
        """The frozen, fused teacher whose output are the targets."""
        targets = self.preset().targets
        return Teacher(encoder, targets, self.final_norm, self.teacher_precision)


class Teacher(nn.Module):
    """A frozen encoder that computes the targets: always in eval mode, without gradients.

    Args:
        encoder: The teacher.
        targets: Its blocks, from 1.
        final_norm: See `DistillationConfig`.
        precision: `teacher_precision` there.

    Raises:
        InputError: If the encoder has fewer blocks.
    """

    def __init__(
        self,
        encoder: AVHubertEncoder,
        targets: tuple[int, ...],
        final_norm: bool = False,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        depth = encoder.config.layers
        if max(targets) > depth:
            raise InputError(
                f"the student learns from teacher blocks {targets}, but its teacher has {depth}: "
                "choose another teacher, or other targets"
            )
        self.targets = targets
        self.normalized = depth if final_norm else None
        self.precision = precision
        self.encoder = encoder.fuse()
        # Blocks above the last target are not needed.
        self.encoder.encoder.layers = self.encoder.encoder.layers[: max(targets)]
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, audio: Tensor | None, video: Tensor | None, padding_mask: Tensor | None = None
    ) -> dict[int, Tensor]:
        """The targets for inputs as in `AVHubertEncoder.forward`: block -> [B, T, F]."""
        audio, video = (None if x is None else x.float() for x in (audio, video))
        device = next(x for x in (audio, video) if x is not None).device.type
        dtype = autocast_dtype(self.precision, device)
        # Switched off explicitly for float32, because it may be on for the training step.
        with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
            output = self.encoder(audio, video, padding_mask)
        return {
            block: output.last_hidden_state
            if block == self.normalized
            else output.hidden_states[block]
            for block in self.targets
        }


def autocast_dtype(precision: str, device_type: str) -> torch.dtype | None:
    """The dtype of autocast for a `teacher_precision`; None for float32."""
    if precision == "auto":
        if device_type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if fast else None
    return None if precision == "float32" else getattr(torch, precision)


def distill_batch(
    config: DistillationConfig,
    teacher: Teacher,
    student: Callable[..., StudentOutput],
    batch: Batch,
    training: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch, see `distillation_loss`.

    Teacher and student get the same augmented input, with two exceptions: modality dropout may be
    for the student only, and the teacher gets `batch.clean_audio` if there is any.

    Args:
        config: The settings.
        teacher: The frozen teacher.
        student: The student, or a wrapper around it.
        batch: The batch.
        training: Whether modality dropout is applied.

    Returns:
        The loss, and its terms for the log.
    """
    heard = audio, video = batch.audio, batch.video
    if training:
        heard = drop_modality(audio, video, config.modality_dropout, config.audio_dropout)
    taught = (audio if batch.clean_audio is None else batch.clean_audio, video)
    if config.modality_dropout_for == "both":
        taught = tuple(None if h is None else t for h, t in zip(heard, taught, strict=True))
    targets = teacher(*taught, batch.padding_mask)
    predictions = student(*heard, batch.padding_mask).predictions
    return distillation_loss(predictions, targets, batch.padding_mask, config.cosine_weight)


def mean_terms(results: list[tuple[dict[str, Tensor], int]]) -> dict[str, float]:
    """The terms of several batches, averaged over all frames.

    Args:
        results: The terms and the number of valid frames of each batch.

    Returns:
        The means by the terms' names.
    """
    total = sum(frames for _, frames in results)
    return {
        name: sum(float(terms[name]) * frames for terms, frames in results) / total
        for name in results[0][0]
    }
