"""Joint search over one clip in numpy; finds the same as `decoding.joint.joint_search`."""

from __future__ import annotations

import math

import numpy as np

from avhubert_ext.data.text import BLANK
from avhubert_ext.decoding.beam import LOWEST, Hypothesis, JointConfig, settled, sort_hypotheses
from avhubert_ext.runtime.search import Rows, top


def joint_search(rows: Rows, ctc_log_probs: np.ndarray, config: JointConfig) -> list[Hypothesis]:
    """Search one clip.

    Args:
        rows: The decoder with a single, empty hypothesis.
        ctc_log_probs: [T, V].
        config: Settings of the search.

    Returns:
        The hypotheses, best first.

    Raises:
        InputError: If none has a finite score.
    """
    frames, vocabulary = ctc_log_probs.shape
    end = vocabulary - 1
    scorer = _JointScorer(rows, ctc_log_probs, config)
    found: list[Hypothesis] = []
    tokens = np.full((1, 1), end)  # [hypotheses, length]
    for step in range(frames):
        scores, sums, parents, chosen = scorer.candidates(tokens[:, -1])
        ends = (chosen == end) | (step + 1 == frames)
        for rank in np.flatnonzero(ends & (scores > -math.inf)):
            text = [*tokens[parents[rank], 1:].tolist(), int(chosen[rank])]
            text = text if text[-1] == end else [*text, end]
            found.append(Hypothesis(tuple(text), float(scores[rank])))
        kept = np.flatnonzero(~ends & (scores > -math.inf))
        if not len(kept) or settled(found, step):
            break
        parents, chosen = parents[kept], chosen[kept]
        tokens = np.concatenate([tokens[parents], chosen[:, None]], axis=1)
        scorer.extend(parents, chosen, sums[kept])
    return sort_hypotheses([found])[0][: config.beam]


class _JointScorer:
    """The states of decoder and CTC for the hypotheses; a part with weight 0 is skipped."""

    def __init__(self, rows: Rows, ctc_log_probs: np.ndarray, config: JointConfig) -> None:
        self.config = config
        self.vocabulary = ctc_log_probs.shape[1]
        self.count = config.options(self.vocabulary)
        self.decoder = rows if config.ctc_weight < 1 else None
        self.ctc = CTCPrefixScorer(ctc_log_probs) if config.ctc_weight > 0 else None
        self.sums = np.zeros(1)  # the decoder's log probabilities of the hypotheses, float64 [K]

    def candidates(self, tokens: np.ndarray) -> tuple[np.ndarray, ...]:
        """Find the best extensions of the hypotheses that end with `tokens` [K].

        Returns:
            Weighted scores, the decoder's sums, the hypotheses that are extended, and the new
            tokens; each [beam] or smaller, best first.
        """
        sums, options = self._options(tokens)
        scores = sums
        if self.ctc is not None:
            weight = self.config.ctc_weight
            ctc = self.ctc.scores(options if self.count < self.vocabulary else None)
            scores = (1 - weight) * sums + weight * ctc
        scores = np.where(np.isnan(scores), -math.inf, scores).ravel()
        best = top(scores, min(self.config.beam, len(scores)))
        return scores[best], sums.flat[best], best // options.shape[1], options.flat[best]

    def _options(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the decoder's sums for the P candidate tokens, and those tokens, [K, P]."""
        log_probs = np.zeros((len(tokens), self.vocabulary))
        if self.decoder is not None:
            log_probs = self.decoder.log_probs(tokens)
        if self.count == self.vocabulary:
            options = np.broadcast_to(np.arange(self.vocabulary), log_probs.shape)
            return self.sums[:, None] + log_probs, options
        options = top(log_probs, self.count)
        best = np.take_along_axis(log_probs, options, axis=1)
        # The end of the sentence is always a candidate, but only once.
        end = self.vocabulary - 1
        best = np.where(options == end, -math.inf, best)
        best = np.concatenate([best, log_probs[:, -1:]], axis=1)
        return self.sums[:, None] + best, np.pad(options, ((0, 0), (0, 1)), constant_values=end)

    def extend(self, parents: np.ndarray, tokens: np.ndarray, sums: np.ndarray) -> None:
        """Extend the hypotheses `parents` [K'] by one token each."""
        self.sums = sums
        if self.decoder is not None:
            self.decoder.extend(parents)
        if self.ctc is not None:
            self.ctc.extend(parents, tokens)


class CTCPrefixScorer:
    """`avhubert_ext.decoding.ctc.CTCPrefixScorer` for one clip; see there for the definitions."""

    def __init__(self, log_probs: np.ndarray) -> None:
        """log_probs: [T, V]."""
        self.end = log_probs.shape[1] - 1
        self.log_probs = np.maximum(log_probs.T.astype(np.float64), LOWEST)  # [V, T]
        self.probs = np.exp(self.log_probs)
        self.last = np.array([-1])  # newest unit of each hypothesis, none yet
        self.repeated = np.array([-math.inf])
        self.blank = np.pad(self.log_probs[BLANK].cumsum(), (1, 0))[None]  # [K, T + 1]
        self.total = self.blank

    def scores(self, tokens: np.ndarray | None = None) -> np.ndarray:
        """Score the units `tokens` [K, P] that may come next, or all V: [K, P]."""
        before = self.total[:, :-1]
        # The maximum is -inf for an impossible hypothesis; clamped, so that -inf - -inf is avoided.
        greatest = before.max(axis=1, keepdims=True).clip(min=np.finfo(np.float64).min)
        weights = np.exp(before - greatest)
        if tokens is None:
            sums, tokens = weights @ self.probs.T, np.arange(self.end + 1)
        else:
            sums = (self.probs[tokens] @ weights[:, :, None])[..., 0]
        with np.errstate(divide="ignore"):
            scores = greatest + np.log(sums)
        scores = np.where(tokens == self.last[:, None], self.repeated[:, None], scores)
        scores = np.where(tokens == self.end, self.total[:, -1:], scores)
        return np.where(tokens == BLANK, -math.inf, scores)

    def extend(self, parents: np.ndarray, tokens: np.ndarray) -> None:
        """Extend the hypotheses `parents` [K'] by `tokens` [K'], neither blank nor the end."""
        again = (tokens == self.last[parents])[:, None]  # needs a blank in between
        before = np.where(again, self.blank[parents], self.total[parents])
        log_probs = self.log_probs[tokens]
        unit = accumulate(before[:, :-1], log_probs)
        self.blank = accumulate(unit[:, :-1], self.log_probs[BLANK])
        self.total = np.logaddexp(unit, self.blank)
        self.repeated = np.logaddexp.reduce(self.blank[:, :-1] + log_probs, axis=1)
        self.last = tokens


def accumulate(inflow: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """Compute r[0] = -inf, r[t + 1] = logaddexp(r[t], inflow[t]) + log_probs[t].

    Args:
        inflow: [K, T], may be -inf.
        log_probs: [T] or [K, T], finite.

    Returns:
        r, [K, T + 1].
    """
    sums = log_probs.cumsum(axis=-1)
    earlier = inflow - (sums - log_probs)
    r = sums + np.logaddexp.accumulate(earlier, axis=-1)
    return np.pad(r, ((0, 0), (1, 0)), constant_values=-math.inf)
