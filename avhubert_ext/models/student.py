"""A student encoder and the heads that predict the teacher's blocks from its output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avhubert_ext.checkpoints.imagenet import load_imagenet_shufflenet
from avhubert_ext.errors import InputError
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig, EncoderOutput
from avhubert_ext.models.presets import STUDENTS, StudentPreset, preset


@dataclass(frozen=True)
class HeadsConfig:
    """Which teacher blocks are predicted (1-based), and the teacher's width F."""

    targets: tuple[int, ...] = (8, 12)
    teacher_dim: int = 768

    def __post_init__(self) -> None:
        if not self.targets or min(self.targets) < 1 or len(set(self.targets)) < len(self.targets):
            raise InputError(
                f"targets {self.targets}: expected different blocks of the teacher, the first is 1"
            )


@dataclass(frozen=True)
class StudentOutput(EncoderOutput):
    """An encoder's output and `predictions`: teacher block -> [B, T, F]."""

    predictions: dict[int, Tensor]


torch.export.register_dataclass(StudentOutput, serialized_type_name="avhubert_ext.StudentOutput")


class PredictionHeads(nn.Module):
    """Linear(D, M*D), GELU, then an own Linear(D, F) for each target (paper A, Fig. 1)."""

    def __init__(self, dim: int, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Linear(dim, len(config.targets) * dim)
        self.heads = nn.ModuleList(nn.Linear(dim, config.teacher_dim) for _ in config.targets)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """[B, T, D] -> teacher block: [B, T, F]."""
        chunks = F.gelu(self.shared(x)).chunk(len(self.config.targets), dim=-1)
        return {
            t: head(c) for t, head, c in zip(self.config.targets, self.heads, chunks, strict=True)
        }


class Student(nn.Module):
    """Encoder and heads, trained by distillation; only the encoder is kept afterwards."""

    def __init__(self, encoder: EncoderConfig, heads: HeadsConfig) -> None:
        super().__init__()
        self.encoder = AVHubertEncoder(encoder)
        self.heads = PredictionHeads(encoder.dim, heads)

    def start_from(self, teacher: AVHubertEncoder) -> None:
        """Copy the teacher's frontends, first blocks and final norm (paper A, baseline student).

        Raises InputError if the teacher's network is not the student's, but deeper.
        """
        own = self.encoder.state_dict()
        given = teacher.state_dict()
        misfits = [n for n, t in own.items() if n not in given or given[n].shape != t.shape]
        if misfits:
            raise InputError(
                f"the student cannot start from this teacher: {len(misfits)} tensors differ, e.g. "
                f"{misfits[0]}; choose a student that starts from scratch"
            )
        if teacher.config.heads != self.encoder.config.heads:  # no shape shows it
            raise InputError(
                f"the student cannot start from this teacher: {self.encoder.config.heads} "
                f"attention heads, the teacher has {teacher.config.heads}; choose the same number"
            )
        self.encoder.load_state_dict({name: given[name] for name in own})

    def forward(
        self, audio: Tensor | None, video: Tensor | None, padding_mask: Tensor | None = None
    ) -> StudentOutput:
        """As `AVHubertEncoder.forward`, with the predictions of the teacher's blocks."""
        out = self.encoder(audio, video, padding_mask)
        return StudentOutput(
            out.last_hidden_state,
            out.hidden_states,
            out.padding_mask,
            self.heads(out.last_hidden_state),
        )


def build_student(
    student: str | StudentPreset,
    teacher: AVHubertEncoder | None = None,
    imagenet: Path | str | None = None,
) -> Student:
    """A student of paper A, Table 1 by name, "1" ... "7", or any other by a preset of your own.

    teacher: the predictions get its width (768 without one), and a student that is initialized by
        its teacher gets its weights (fresh ones without one).
    imagenet: a file of torchvision's `shufflenetv2_x1_0` for the visual frontend.
    Raises InputError if the name is unknown, or teacher or file do not fit the student.
    """
    chosen = preset(STUDENTS, student, "student") if isinstance(student, str) else student
    if not isinstance(chosen, StudentPreset):
        raise InputError(f"student {student!r}: expected a preset's name or a StudentPreset")
    heads = HeadsConfig(chosen.targets)
    if teacher is not None:
        heads = HeadsConfig(chosen.targets, teacher.config.dim)
        if max(chosen.targets) > teacher.config.layers:
            raise InputError(
                f"the student learns from teacher blocks {chosen.targets}, but its teacher has "
                f"{teacher.config.layers}: choose another teacher, or other targets"
            )
    built = Student(chosen.encoder, heads)
    copies_teacher = chosen.from_teacher and teacher is not None
    if copies_teacher:
        built.start_from(teacher)
    if imagenet is not None:
        network = chosen.encoder
        if copies_teacher or network.visual != "shufflenet" or network.visual_width != 1.0:
            raise InputError(
                f"{imagenet}: ImageNet weights are for a student with visual='shufflenet' at width "
                "1.0 that does not start from its teacher; choose such a student, or leave them out"
            )
        load_imagenet_shufflenet(built.encoder.feature_extractor_video.shufflenet, imagenet)
    return built
