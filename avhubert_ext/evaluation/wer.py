"""Word error rate as AV-HuBERT computes it: total word edits over total reference words."""

from __future__ import annotations

from collections.abc import Iterable

from avhubert_ext.errors import InputError


def word_edits(reference: str, hypothesis: str) -> int:
    """Return the Levenshtein distance between the words (split at blanks) of two strings."""
    hypothesis_words = hypothesis.split()
    row = list(range(len(hypothesis_words) + 1))
    for i, expected in enumerate(reference.split(), start=1):
        previous, row[0] = row[0], i
        for j, found in enumerate(hypothesis_words, start=1):
            best = min(row[j] + 1, row[j - 1] + 1, previous + (expected != found))
            previous, row[j] = row[j], best
    return row[-1]


def word_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """Compute the WER over (reference, hypothesis) pairs.

    Returns:
        The WER in percent; it can exceed 100.

    Raises:
        InputError: If the references have no words.
    """
    pairs = list(pairs)
    words = sum(len(reference.split()) for reference, _ in pairs)
    if not words:
        raise InputError("no reference words: the transcripts are empty; decode another set")
    return 100 * sum(word_edits(*pair) for pair in pairs) / words
