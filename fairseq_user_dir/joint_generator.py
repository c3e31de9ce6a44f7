"""The library's joint CTC/attention beam search where fairseq wants a generator."""

from __future__ import annotations

from typing import Any

import torch

from avhubert_ext.decoding.joint import JointConfig, joint_beam_search
from avhubert_ext.errors import InputError

from .models.vsr_ctc_attention import VSRCTCAttention


class JointGenerator:
    """What `fairseq-generate` needs of a generator."""

    def __init__(self, eos: int, config: JointConfig) -> None:
        self.eos = eos
        self.config = config

    def generate(
        self, models: list[VSRCTCAttention], sample: dict[str, Any], **kwargs: Any
    ) -> list[list[dict[str, Any]]]:
        """fairseq's hypotheses of each utterance, best first; a score is the whole hypothesis'."""
        if len(models) > 1:
            raise InputError(f"{len(models)} models: joint decoding takes one; average them first")
        audio, video, mask = (sample["net_input"][n] for n in ("audio", "video", "padding_mask"))
        with models[0].precision.autocast(mask.device):
            found = joint_beam_search(models[0].recognizer, audio, video, mask, self.config)
        return [[_as_fairseq(h.tokens, h.score) for h in hypotheses] for hypotheses in found]


def _as_fairseq(tokens: tuple[int, ...], score: float) -> dict[str, Any]:
    # There are no scores of single tokens: fairseq prints the share of each in the whole.
    shares = torch.full((len(tokens),), score / len(tokens))
    return {
        "tokens": torch.tensor(tokens),
        "score": torch.tensor(score),
        "attention": torch.empty(0),
        "alignment": torch.empty(0),
        "positional_scores": shares,
    }
