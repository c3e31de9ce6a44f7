"""The conditions that `fairseq-generate --scoring wer` prints beside the rate.

Nobody can compare rates without them.
"""

from __future__ import annotations

from fairseq.scoring import SCORER_REGISTRY
from fairseq.scoring.wer import WerScorer

# Of the decoding that is going on. The scorer, which fairseq makes, knows nothing of it.
conditions: list[str] = []
unreadable: list[str] = []


class ConditionedWer(WerScorer):
    """fairseq's word error rate: total edits over total reference words, as AV-HuBERT's."""

    def result_string(self) -> str:
        counts = f"{self.distance} edits in {self.ref_length} words"
        left_out = f"{len(unreadable)} utterances unreadable and counted as deleted"
        return f"{super().result_string()} ({', '.join([counts, left_out, *conditions])})"


def install() -> None:
    SCORER_REGISTRY["wer"] = ConditionedWer
