"""Utterances that cannot be read: each is reported once and left out; too many stop the run."""

from __future__ import annotations

import logging
from collections.abc import Collection

from avhubert_ext.errors import InputError

logger = logging.getLogger(__name__)

TOLERATED = 0.01  # of a data set's utterances


def check_corrupt(reasons: Collection[str], total: int) -> None:
    """Raise an InputError if more than 1% of `total` utterances cannot be read.

    reasons: one for each corrupt utterance.
    """
    if len(reasons) > TOLERATED * total:
        first = next(iter(reasons))
        raise InputError(
            f"more than {TOLERATED:.0%} of {total} utterances cannot be read, {len(reasons)} so "
            f"far: {first}"
        )


class CorruptUtterances:
    """Collects what the batches of a run tell about utterances that cannot be read."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.reasons: dict[str, None] = {}  # a set in the order in which they were met

    def add(self, reasons: Collection[str]) -> None:
        """Report what was not met before; InputError once it is more than 1% of the utterances."""
        for reason in reasons:
            if reason not in self.reasons:
                logger.warning(f"left out, another utterance takes its place: {reason}")
                self.reasons[reason] = None
        check_corrupt(self.reasons, self.total)
