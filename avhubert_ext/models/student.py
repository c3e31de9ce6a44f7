"""A student encoder and the heads that predict the teacher's blocks from its output."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from avhubert_ext.errors import InputError
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig, EncoderOutput


@dataclass(frozen=True)
class HeadsConfig:
    """Which teacher blocks are predicted (1-based), and the teacher's width F."""

    targets: tuple[int, ...] = (8, 12)
    teacher_dim: int = 768


@dataclass(frozen=True)
class StudentOutput(EncoderOutput):
    """An encoder's output and `predictions`: teacher block -> [B, T, F]."""

    predictions: dict[int, Tensor]


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
        """Copy the teacher's frontends and first blocks (paper A, baseline student).

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
