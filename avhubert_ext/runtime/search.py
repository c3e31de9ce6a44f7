"""Beam search over one clip in numpy; finds the same as `decoding.attention.search`."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from avhubert_ext.data.text import EOS, PAD
from avhubert_ext.decoding.beam import BeamConfig, Hypothesis, sort_hypotheses


class Rows(Protocol):
    """A decoder and its cache for K hypotheses of a clip; it starts with one."""

    vocabulary: int

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        """Return the log probabilities float32 [K, V] of what follows `tokens`, int64 [K]."""
        ...

    def extend(self, parents: np.ndarray) -> None:
        """Keep the hypotheses `parents` [K'], with repetitions and their newest tokens."""
        ...


def beam_search(rows: Rows, frames: int, config: BeamConfig) -> list[Hypothesis]:
    """Search one clip.

    Args:
        rows: The decoder with a single, empty hypothesis.
        frames: Length of the clip.
        config: Settings of the search.

    Returns:
        The hypotheses, best first.

    Raises:
        InputError: If none has a finite score.
    """
    limit, beam = config.limit(frames), min(config.beam, rows.vocabulary - 1)
    found: list[Hypothesis] = []
    tokens = np.full((1, 1), EOS)  # [hypotheses, length]; the end of a sentence also begins one
    sums = np.zeros(1, np.float32)
    for step in range(limit + 1):
        log_probs = rows.log_probs(tokens[:, -1])
        _forbid(log_probs, step < config.min_len, step == limit)
        extended = (sums[:, None] + log_probs).ravel()
        # Twice as many candidates as needed: at most `beam` of them end and are not extended.
        best = top(extended, min(2 * beam, len(extended) - 1))
        sums, (parents, chosen) = extended[best], np.divmod(best, rows.vocabulary)

        ends = (chosen == EOS) & (sums > -math.inf)
        for rank in np.flatnonzero(ends[:beam])[: beam - len(found)]:
            text = (*tokens[parents[rank], 1:].tolist(), EOS)
            score = sums[rank] / np.float32((step + 1) ** config.length_penalty)
            found.append(Hypothesis(text, float(score)))

        kept = np.flatnonzero((chosen != EOS) & (sums > -math.inf))[:beam]
        if step == limit or len(found) == beam or not len(kept):
            break
        sums, parents, chosen = sums[kept], parents[kept], chosen[kept]
        tokens = np.concatenate([tokens[parents], chosen[:, None]], axis=1)
        rows.extend(parents)
    return sort_hypotheses([found])[0]


def _forbid(log_probs: np.ndarray, too_short: bool, last: bool) -> None:
    """Set forbidden tokens in [K, V] to -inf, in place; NaN and padding always are."""
    log_probs[np.isnan(log_probs)] = -math.inf
    log_probs[:, PAD] = -math.inf
    if too_short:
        log_probs[:, EOS] = -math.inf
    if last:
        log_probs[:, :EOS] = log_probs[:, EOS + 1 :] = -math.inf


def top(values: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` greatest of [..., N], the greatest first."""
    best = np.argpartition(-values, count - 1, axis=-1)[..., :count]
    order = np.argsort(-np.take_along_axis(values, best, -1), axis=-1, kind="stable")
    return np.take_along_axis(best, order, -1)
