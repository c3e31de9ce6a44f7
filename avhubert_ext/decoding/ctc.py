"""CTC prefix scores: the probability that a transcript starts with, or is, given units.

This is Graves' prefix search as in Watanabe et al. 2017, "Hybrid CTC/Attention Architecture for
End-to-End Speech Recognition", algorithm 2, for all hypotheses of a batch and all frames at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from avhubert_ext.data.text import BLANK
from avhubert_ext.decoding.beam import LOWEST


class CTCPrefixScorer:
    """Scores the hypotheses of a batch and their extensions, in float64.

    Unit 0 is the blank, the last one is the end of the sentence. Each utterance has K hypotheses
    and starts with a single, empty one. For each hypothesis the state holds the log probability
    that the first t = 0 ... T frames emit exactly its units: over all paths (`total`), and over
    those that end with a blank (`blank`), both [B, K, T + 1].
    """

    def __init__(self, log_probs: Tensor, padding_mask: Tensor | None) -> None:
        """log_probs: [B, T, V]; padding_mask: [B, T] bool, True = padding, or None."""
        batch, frames, vocabulary = log_probs.shape
        device = log_probs.device
        none = torch.zeros(batch, frames, dtype=torch.bool, device=device)
        padding = none if padding_mask is None else padding_mask
        self.end = vocabulary - 1
        self.padding = padding[:, None]  # [B, 1, T]
        self.lengths = (~padding).sum(dim=1)  # [B]
        # The frames of a unit are contiguous, since lookups are by unit.
        table = log_probs.masked_fill(padding[..., None], 0.0).transpose(1, 2).contiguous()
        self.probs = table.double().clamp_(min=LOWEST).exp_()  # [B, V, T]
        self.last = torch.full((batch, 1), -1, device=device)  # newest unit, none yet
        self.repeated = torch.full((batch, 1), -math.inf, dtype=torch.float64, device=device)
        self.blank = F.pad(self._log_probs_of_blank().cumsum(dim=-1), (1, 0))
        self.total = self.blank

    def scores(self, tokens: Tensor | None = None) -> Tensor:
        """Score the extensions of the hypotheses.

        Args:
            tokens: Candidate next units [B, K, P], or None for all V in order.

        Returns:
            [B, K, P]: the log probability that a transcript starts with the hypothesis and then
            the unit; for the end of the sentence, that it is exactly the hypothesis; -inf for the
            blank.
        """
        # A sum over frames t of products: the first t frames emit the hypothesis, the next one
        # emits the unit. The largest first factor is scaled to 1.
        log_weights = self._before_frames(self.total)
        # The maximum is -inf for an impossible hypothesis; clamped, so that -inf - -inf is avoided.
        greatest = log_weights.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).min)
        weights = (log_weights - greatest).exp()
        if tokens is None:
            sums = weights @ self.probs.transpose(1, 2)
            tokens = torch.arange(self.end + 1, device=sums.device)
        else:
            sums = (self._look_up(tokens) @ weights[..., None]).squeeze(-1)
        scores = greatest + sums.log()
        scores = torch.where(tokens == self.last[..., None], self.repeated[..., None], scores)
        whole = self.total.gather(2, self.lengths[:, None, None].expand(-1, scores.shape[1], 1))
        scores = torch.where(tokens == self.end, whole, scores)
        return scores.masked_fill(tokens == BLANK, -math.inf)

    def extend(self, utterances: Tensor, parents: Tensor, tokens: Tensor) -> None:
        """Keep some utterances, and extend some hypotheses of each by one unit.

        Args:
            utterances: Indices into the batch [B'], ascending.
            parents: Hypotheses of each that are extended [B', K'], with repetitions.
            tokens: The new units [B', K']; neither the blank nor the end of the sentence, which
                would make the scores meaningless.
        """
        places = utterances[:, None]
        # A repeated unit needs a blank in between.
        again = tokens == self.last[places, parents]
        before = torch.where(
            again[..., None], self.blank[places, parents], self.total[places, parents]
        )
        if len(utterances) < len(self.probs):
            self.probs, self.padding = self.probs[utterances], self.padding[utterances]
            self.lengths = self.lengths[utterances]
        log_probs = self._look_up(tokens[..., None]).squeeze(2).log()
        unit = accumulate(before[..., :-1], log_probs)
        self.blank = accumulate(unit[..., :-1], self._log_probs_of_blank())
        self.total = torch.logaddexp(unit, self.blank)
        self.repeated = (self._before_frames(self.blank) + log_probs).logsumexp(dim=-1)
        self.last = tokens

    def _look_up(self, tokens: Tensor) -> Tensor:
        """Return the probabilities of `tokens` [B, K, P] at each frame, [B, K, P, T]."""
        batch, vocabulary, frames = self.probs.shape
        first = torch.arange(batch, device=tokens.device)[:, None, None] * vocabulary
        rows = self.probs.view(-1, frames).index_select(0, (first + tokens).flatten())
        return rows.view(*tokens.shape, frames)

    def _log_probs_of_blank(self) -> Tensor:
        """[B, 1, T]."""
        return self.probs[:, BLANK].log()[:, None]

    def _before_frames(self, state: Tensor) -> Tensor:
        """[B, K, T + 1] -> [B, K, T]: the state before each frame, -inf before padding."""
        return state[..., :-1].masked_fill(self.padding, -math.inf)


def accumulate(inflow: Tensor, log_probs: Tensor) -> Tensor:
    """Compute r[0] = -inf, r[t + 1] = logaddexp(r[t], inflow[t]) + log_probs[t].

    Args:
        inflow: float64 [..., T], may be -inf.
        log_probs: float64 [..., T], finite. Sums over the frames need this precision.

    Returns:
        r, [..., T + 1].
    """
    sums = log_probs.cumsum(dim=-1)
    r = sums + (inflow - F.pad(sums[..., :-1], (1, 0))).logcumsumexp(dim=-1)
    return F.pad(r, (1, 0), value=-math.inf)
