"""Unreadable utterances: each is reported once, and too many of them stop the run."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection

from avhubert_ext.errors import InputError

logger = logging.getLogger(__name__)

TOLERATED = 0.01  # share of a data set that may be unreadable
ALLOW = "--allow-unreadable"


def too_many(count: int, total: int) -> bool:
    """Return whether `count` unreadable utterances are more than 1% of `total`."""
    return count > TOLERATED * total


def check_corrupt(reasons: Collection[str], total: int) -> None:
    """Raise an InputError if more than 1% of `total` utterances cannot be read.

    Args:
        reasons: One reason per corrupt utterance.
        total: The number of utterances in the data set.
    """
    if too_many(len(reasons), total):
        first = next(iter(reasons))
        raise InputError(
            f"more than {TOLERATED:.0%} of {total} utterances cannot be read, {len(reasons)} so "
            f"far: {first}"
        )


def check_scored(reasons: Collection[str], total: int, allow: bool = False) -> None:
    """Raise an InputError if too many utterances are unreadable for a meaningful score.

    Their words count as deleted, so a missing corpus would look like a bad model. Call it before
    anything is written.

    Args:
        reasons: One reason per unreadable utterance.
        total: The number of utterances in the data set.
        allow: Whether to score them anyway (the user passed --allow-unreadable).
    """
    if not allow and too_many(len(reasons), total):
        raise InputError(
            f"{len(reasons)} of {total} utterances cannot be read, more than {TOLERATED:.0%}: "
            f"{next(iter(reasons))}; restore the files, or score them as deleted with {ALLOW}"
        )


def scored_note(count: int, total: int, allow: bool = False) -> str:
    """Return the note of a score on unreadable utterances. `noted` parses it."""
    allowed = f" ({ALLOW})" if allow and count else ""
    return f"{count} of {total} utterances unreadable and counted as deleted{allowed}"


def noted(text: str) -> tuple[int, bool]:
    """Parse a `scored_note`: the number of unreadable utterances, and whether that was allowed."""
    # Older versions did not write the total.
    found = re.search(r"(\d+)( of \d+)? utterances unreadable and counted as deleted( \()?", text)
    return (int(found[1]), found[3] is not None) if found else (0, False)


class CorruptUtterances:
    """Collects the unreadable utterances that the batches of a run report."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.reasons: dict[str, None] = {}  # an ordered set

    def add(self, reasons: Collection[str]) -> None:
        """Log each new reason. Raises InputError once they exceed 1% of the utterances."""
        for reason in reasons:
            if reason not in self.reasons:
                logger.warning(f"replaced by another utterance: {reason}")
                self.reasons[reason] = None
        check_corrupt(self.reasons, self.total)
