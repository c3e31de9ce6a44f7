"""Utterances that cannot be read: each is reported once; too many stop the run."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection

from avhubert_ext.errors import InputError

logger = logging.getLogger(__name__)

TOLERATED = 0.01  # of a data set's utterances
ALLOW = "--allow-unreadable"


def too_many(count: int, total: int) -> bool:
    """Whether `count` unreadable utterances are more than 1% of `total`."""
    return count > TOLERATED * total


def check_corrupt(reasons: Collection[str], total: int) -> None:
    """Raise an InputError if more than 1% of `total` utterances cannot be read.

    reasons: one for each corrupt utterance.
    """
    if too_many(len(reasons), total):
        first = next(iter(reasons))
        raise InputError(
            f"more than {TOLERATED:.0%} of {total} utterances cannot be read, {len(reasons)} so "
            f"far: {first}"
        )


def check_scored(reasons: Collection[str], total: int, allow: bool = False) -> None:
    """Raise an InputError if too many of `total` utterances are unreadable for a score.

    Their words count as deleted, so that a missing corpus would score as a bad model does. Call it
    before anything is written. reasons: one for each unreadable utterance. allow: score them
    anyway (the user passed --allow-unreadable).
    """
    if not allow and too_many(len(reasons), total):
        raise InputError(
            f"{len(reasons)} of {total} utterances cannot be read, more than {TOLERATED:.0%}: "
            f"{next(iter(reasons))}; restore the files, or score them as deleted with {ALLOW}"
        )


def scored_note(count: int, total: int, allow: bool = False) -> str:
    """What a score says about the utterances that could not be read; `noted` reads it back."""
    allowed = f" ({ALLOW})" if allow and count else ""
    return f"{count} of {total} utterances unreadable and counted as deleted{allowed}"


def noted(text: str) -> tuple[int, bool]:
    """From text with a `scored_note`: how many were unreadable, and whether that was allowed."""
    # Older versions did not write the total.
    found = re.search(r"(\d+)( of \d+)? utterances unreadable and counted as deleted( \()?", text)
    return (int(found[1]), found[3] is not None) if found else (0, False)


class CorruptUtterances:
    """Collects what the batches of a run report about utterances that cannot be read."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.reasons: dict[str, None] = {}  # a set in the order in which they were met

    def add(self, reasons: Collection[str]) -> None:
        """Report each new reason; InputError once they are more than 1% of the utterances."""
        for reason in reasons:
            if reason not in self.reasons:
                logger.warning(f"left out, another utterance takes its place: {reason}")
                self.reasons[reason] = None
        check_corrupt(self.reasons, self.total)
