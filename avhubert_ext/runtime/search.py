"""Beam search over one clip in numpy; it finds what `decoding.attention.search` finds."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from avhubert_ext.data.text import EOS, PAD
from avhubert_ext.decoding.beam import BeamConfig, Hypothesis, sort_hypotheses


class Rows(Protocol):
    """A decoder and what it remembers of K hypotheses of a clip, to begin with one."""

    vocabulary: int

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        """float32 [K, V] of what comes after the newest `tokens`, int64 [K]."""
        ...

    def extend(self, parents: np.ndarray) -> None:
        """Keep the hypotheses `parents` [K'], some repeatedly, each with its newest token."""
        ...


def beam_search(rows: Rows, frames: int, config: BeamConfig) -> list[Hypothesis]:
    """The hypotheses of a clip of so many frames, best first.

    Raises InputError if none has a finite score.
    """
    limit, beam = config.limit(frames), min(config.beam, rows.vocabulary - 1)
    found: list[Hypothesis] = []
    tokens = np.full((1, 1), EOS)  # [hypotheses, length]; the end of a sentence also begins one
    sums = np.zeros(1, np.float32)
    for step in range(limit + 1):
        log_probs = rows.log_probs(tokens[:, -1])
        _forbid(log_probs, step < config.min_len, step == limit)
        extended = (sums[:, None] + log_probs).ravel()
        # Twice as many candidates as needed, for `beam` of them at most end and are not extended.
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
    """Set to -inf, in place, what may not come next in [K, V]: never NaN and padding."""
    log_probs[np.isnan(log_probs)] = -math.inf
    log_probs[:, PAD] = -math.inf
    if too_short:
        log_probs[:, EOS] = -math.inf
    if last:
        log_probs[:, :EOS] = log_probs[:, EOS + 1 :] = -math.inf


def top(values: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` greatest of [..., N] are along the last axis, the greatest first."""
    best = np.argpartition(-values, count - 1, axis=-1)[..., :count]
    order = np.argsort(-np.take_along_axis(values, best, -1), axis=-1, kind="stable")
    return np.take_along_axis(best, order, -1)
