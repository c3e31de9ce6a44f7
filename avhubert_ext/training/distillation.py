"""Distillation of a student from an AV-HuBERT teacher (paper A, section 2).

What s3prl's expert and fairseq's task both call: settings, frozen teacher, one training batch.
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
from avhubert_ext.models.encoder import AVHubertEncoder, drop_modality
from avhubert_ext.models.presets import StudentPreset, check_fields, parse_targets, student_preset
from avhubert_ext.models.student import Student, StudentOutput, build_student
from avhubert_ext.training.losses import distillation_loss

RECEIVERS = ("both", "student")
PRECISIONS = ("auto", "bfloat16", "float16", "float32")


@dataclass(frozen=True)
class DistillationConfig:
    """The settings of a distillation, under the same names in s3prl's YAML and fairseq's options.

    teacher: any file that `load_avhubert` reads.
    student: a preset's name, or changes to a preset, see `student_preset`.
    targets: teacher blocks to predict, the first is 1; None takes the student preset's.
    final_norm: the teacher's final layer norm is applied where its last block is a target, which
        is otherwise the residual stream, as AV-HuBERT's `output_layer` gives it.
    cosine_weight: lambda of equation (2).
    teacher_precision: of the teacher's matrix products and convolutions; auto is bfloat16 where
        the hardware has it, else float32.
    modality_dropout: probability that a training batch loses one stream, and audio_dropout that it
        is the audio; modality_dropout_for: both networks lose it, or the student alone.
    imagenet: torchvision's weights for a student with the ShuffleNetV2 frontend.
    Raises InputError where a value makes no sense.
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
        """The settings in a mapping read from `where`, a file's name for the error messages."""
        check_fields(cls, values, where)
        if not values.get("teacher"):
            raise InputError(f"{where}: teacher missing; name the teacher's checkpoint")
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def preset(self) -> StudentPreset:
        """The student's network and targets."""
        chosen = student_preset(self.student)
        return chosen if self.targets is None else replace(chosen, targets=self.targets)

    def new_student(self, teacher: AVHubertEncoder) -> Student:
        """The student at the start of its training; InputError if it does not fit the teacher."""
        return build_student(self.preset(), teacher, self.imagenet)

    def new_teacher(self, encoder: AVHubertEncoder) -> Teacher:
        """The encoder as it teaches: frozen, fast, with the targets as its output."""
        targets = self.preset().targets
        return Teacher(encoder, targets, self.final_norm, self.teacher_precision)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise an InputError that lists the choices if `value` is none of them."""
    if value not in choices:
        raise InputError(f"{name} {value!r}: expected one of {', '.join(choices)}")


class Teacher(nn.Module):
    """A frozen encoder that gives the targets: always in eval mode, without gradients.

    encoder: the teacher; targets: its blocks, the first is 1. See DistillationConfig for the rest.
    Raises InputError if the encoder lacks one of the blocks.
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
        """Inputs as `AVHubertEncoder.forward`; returns block -> [B, T, F]."""
        audio, video = (None if x is None else x.float() for x in (audio, video))
        device = next(x for x in (audio, video) if x is not None).device.type
        dtype = autocast_dtype(self.precision, device)
        # Switched off explicitly for float32: it may be on around the training step.
        with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
            output = self.encoder(audio, video, padding_mask)
        return {
            block: output.last_hidden_state
            if block == self.normalized
            else output.hidden_states[block]
            for block in self.targets
        }


def autocast_dtype(precision: str, device_type: str) -> torch.dtype | None:
    """The dtype of autocast for a `teacher_precision`; None is float32."""
    if precision == "auto":
        if device_type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if fast else None
    return None if precision == "float32" else getattr(torch, precision)


def distil_batch(
    config: DistillationConfig,
    teacher: Teacher,
    student: Callable[..., StudentOutput],
    batch: Batch,
    training: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch and its terms, see `distillation_loss`.

    Teacher and student see the same augmented input, but for what the settings keep from the
    teacher: the loss of a modality, and noise where `batch.clean_audio` is there.
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
    """Means over the frames of several batches: (terms, valid frames) of each in, one set out."""
    total = sum(frames for _, frames in results)
    return {
        name: sum(float(terms[name]) * frames for terms, frames in results) / total
        for name in results[0][0]
    }
