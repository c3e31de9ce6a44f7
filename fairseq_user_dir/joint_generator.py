"""The library's joint CTC/attention beam search with the interface of fairseq's generators."""

from __future__ import annotations

from typing import Any

import torch

from avhubert_ext.decoding.joint import JointConfig, joint_beam_search
from avhubert_ext.errors import InputError

from .models.vsr_ctc_attention import VSRCTCAttention


class JointGenerator:
    """A generator for `fairseq-generate`."""

    def __init__(self, eos: int, config: JointConfig) -> None:
        self.eos = eos
        self.config = config

    def generate(
        self, models: list[VSRCTCAttention], sample: dict[str, Any], **kwargs: Any
    ) -> list[list[dict[str, Any]]]:
        """Decode one batch.

        Args:
            models: The model, a single one.
            sample: The batch, of which `net_input` is used.
            kwargs: Arguments of fairseq's generators; they are ignored.

        Returns:
            The hypotheses of each utterance in fairseq's format, best first. `score` is that of a
            whole hypothesis.

        Raises:
            InputError: There is more than one model.
        """
        if len(models) > 1:
            raise InputError(f"{len(models)} models: joint decoding takes one; average them first")
        audio, video, mask = (sample["net_input"][n] for n in ("audio", "video", "padding_mask"))
        with models[0].precision.autocast(mask.device):
            found = joint_beam_search(models[0].recognizer, audio, video, mask, self.config)
        return [[_as_fairseq(h.tokens, h.score) for h in hypotheses] for hypotheses in found]


def _as_fairseq(tokens: tuple[int, ...], score: float) -> dict[str, Any]:
    # There are no scores of single tokens, so each gets an equal share of the score.
    shares = torch.full((len(tokens),), score / len(tokens))
    return {
        "tokens": torch.tensor(tokens),
        "score": torch.tensor(score),
        "attention": torch.empty(0),
        "alignment": torch.empty(0),
        "positional_scores": shares,
    }
