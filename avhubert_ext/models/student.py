"""A student encoder and the heads that predict the teacher's blocks from its output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avhubert_ext.errors import InputError
from avhubert_ext.models.checks import check_counts
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig, EncoderOutput


@dataclass(frozen=True)
class HeadsConfig:
    """The predictions of a student.

    Attributes:
        targets: The teacher blocks that are predicted, from 1.
        teacher_dim: The teacher's width F.

    Raises:
        InputError: If a value is invalid.
    """

    targets: tuple[int, ...] = (8, 12)
    teacher_dim: int = 768

    def __post_init__(self) -> None:
        check_counts(self, "teacher_dim")
        if not self.targets or min(self.targets) < 1 or len(set(self.targets)) < len(self.targets):
            raise InputError(
                f"targets {self.targets}: expected different blocks of the teacher, the first is 1"
            )


@dataclass(frozen=True)
class StudentOutput(EncoderOutput):
    """The output of an encoder and the `predictions`: teacher block -> [B, T, F]."""

    predictions: dict[int, Tensor]


torch.export.register_dataclass(StudentOutput, serialized_type_name="avhubert_ext.StudentOutput")


class PredictionHeads(nn.Module):
    """Linear(D, M*D), GELU, and one Linear(D, F) for each of M targets (paper A, Fig. 1)."""

    def __init__(self, dim: int, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Linear(dim, len(config.targets) * dim)
        self.heads = nn.ModuleList(nn.Linear(dim, config.teacher_dim) for _ in config.targets)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """The predictions for x [B, T, D]: teacher block -> [B, T, F]."""
        chunks = F.gelu(self.shared(x)).chunk(len(self.config.targets), dim=-1)
        return {
            t: head(c) for t, head, c in zip(self.config.targets, self.heads, chunks, strict=True)
        }


class Student(nn.Module):
    """An encoder and prediction heads for distillation; only the encoder is kept afterwards.

    Args:
        encoder: The network of the encoder.
        heads: The predictions.
    """

    def __init__(self, encoder: EncoderConfig, heads: HeadsConfig) -> None:
        super().__init__()
        self.encoder = AVHubertEncoder(encoder)
        self.heads = PredictionHeads(encoder.dim, heads)

    def start_from(self, teacher: AVHubertEncoder) -> None:
        """Copy the teacher's frontends, first blocks and final norm (paper A, baseline student).

        Raises:
            InputError: If the student's network is not that of the teacher's first blocks.
        """
        own = self.encoder.state_dict()
        given = teacher.state_dict()
        misfits = [n for n, t in own.items() if n not in given or given[n].shape != t.shape]
        if misfits:
            raise InputError(
                f"the student cannot start from this teacher: {len(misfits)} tensors differ, for "
                f"example {misfits[0]}; choose a student that starts from scratch"
            )
        if teacher.config.heads != self.encoder.config.heads:  # no shape shows it
            raise InputError(
                f"the student cannot start from this teacher: {self.encoder.config.heads} "
                f"attention heads, but the teacher has {teacher.config.heads}; choose the same "
                "number"
            )
        self.encoder.load_state_dict({name: given[name] for name in own})

    def forward(
        self, audio: Tensor | None, video: Tensor | None, padding_mask: Tensor | None = None
    ) -> StudentOutput:
        """As `AVHubertEncoder.forward`, and predict the teacher's blocks."""
        out = self.encoder(audio, video, padding_mask)
        return StudentOutput(
            out.last_hidden_state,
            out.hidden_states,
            out.padding_mask,
            self.heads(out.last_hidden_state),
        )
