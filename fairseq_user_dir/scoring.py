"""The conditions that `fairseq-generate --scoring wer` prints beside the rate.

Nobody can compare rates without them.
"""

from __future__ import annotations

import logging

from fairseq.scoring import SCORER_REGISTRY
from fairseq.scoring.wer import WerScorer

from avhubert_ext.data.corrupt import check_scored, scored_note
from avhubert_ext.data.normalization import TextConfig, comparable
from avhubert_ext.data.text import join_pieces

logger = logging.getLogger(__name__)

# Of the decoding that is going on. The scorer, which fairseq makes, knows nothing of it.
conditions: list[str] = []
unreadable: dict[str, None] = {}  # reasons, in the order in which they were met
allow_unreadable = False
text: list[TextConfig] = []  # how references and hypotheses are normalized; of the data, if known


class ConditionedWer(WerScorer):
    """fairseq's word error rate: total edits over total reference words, as AV-HuBERT's."""

    utterances = 0

    def reset(self) -> None:
        super().reset()
        self.utterances = 0

    def add_string(self, ref: str, pred: str) -> None:
        """Also without --post-process sentencepiece it is words that are scored."""
        if "\u2581" in ref:
            ref, pred = (join_pieces(pieces.split()) for pieces in (ref, pred))
        config = text[-1] if text else TextConfig()
        ref, pred = (comparable(words, config) for words in (ref, pred))
        super().add_string(ref, pred)
        self.utterances += 1

    def result_string(self) -> str:
        """The rate and its conditions. Raises InputError if too much was unreadable for one."""
        check_scored(unreadable, self.utterances, allow_unreadable)
        counts = f"{self.distance} edits in {self.ref_length} words"
        left_out = scored_note(len(unreadable), self.utterances, allow_unreadable)
        result = f"{super().result_string()} ({', '.join([counts, left_out, *conditions])})"
        logger.info(result)  # fairseq's own line goes to a file where there is --results-path
        return result


def install() -> None:
    SCORER_REGISTRY["wer"] = ConditionedWer
