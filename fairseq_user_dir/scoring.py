"""The word error rate of `fairseq-generate --scoring wer`, with the conditions of the decoding.

Rates that were measured under unknown conditions cannot be compared.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from fairseq.scoring.wer import WerScorer

from avhubert_ext.data.corrupt import check_scored, scored_note
from avhubert_ext.data.normalization import TextConfig, comparable
from avhubert_ext.data.text import join_pieces

logger = logging.getLogger(__name__)


@dataclass
class Score:
    """What one decoding is measured under. The task makes it, the scorer prints it.

    Attributes:
        text_config: How references and hypotheses are normalized.
        allow_unreadable: Whether more than 1% of the utterances may be unreadable.
        conditions: The search, the noise and the training of the model, in words.
        unreadable: Why utterances could not be read, in the order in which this was found.
    """

    text_config: TextConfig = field(default_factory=TextConfig)
    allow_unreadable: bool = False
    conditions: list[str] = field(default_factory=list)
    unreadable: dict[str, None] = field(default_factory=dict)


class ConditionedWer(WerScorer):
    """fairseq's word error rate: all edits divided by all reference words, as in AV-HuBERT."""

    def __init__(self, cfg: Any, score: Score) -> None:
        super().__init__(cfg)
        self.conditions = score

    def reset(self) -> None:
        super().reset()
        self.utterances = 0

    def add_string(self, ref: str, pred: str) -> None:
        """Add one utterance. Subwords are joined first, so that always words are scored.

        Args:
            ref: The reference, in words or in subwords.
            pred: The hypothesis, likewise.
        """
        if "\u2581" in ref:
            ref, pred = (join_pieces(pieces.split()) for pieces in (ref, pred))
        ref, pred = (comparable(text, self.conditions.text_config) for text in (ref, pred))
        super().add_string(ref, pred)
        self.utterances += 1

    def result_string(self) -> str:
        """Describe the rate and its conditions, and log both.

        Returns:
            One line, for example `WER: 4.17 (1 edits in 24 words, ..., beam 5)`.

        Raises:
            InputError: Too many utterances were unreadable for a meaningful rate.
        """
        found = self.conditions
        check_scored(found.unreadable, self.utterances, found.allow_unreadable)
        counts = f"{self.distance} edits in {self.ref_length} words"
        left_out = scored_note(len(found.unreadable), self.utterances, found.allow_unreadable)
        result = f"{super().result_string()} ({', '.join([counts, left_out, *found.conditions])})"
        logger.info(result)  # with --results-path fairseq's own line goes to a file
        return result
