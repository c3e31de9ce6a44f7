"""CTC prefix scores: how likely a transcript starts with given units, or is just them, by CTC.

Graves' prefix search in the form of Watanabe et al. 2017, "Hybrid CTC/Attention Architecture for
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
    """Log probabilities of the hypotheses of a batch, and of what may come next, in float64.

    Unit 0 is the blank, the last one the end of the sentence. An utterance has K hypotheses, to
    begin with a single empty one. What is kept of each are the log probabilities that the first
    t = 0 ... T frames give exactly its units: all in all (`total`) and with a blank as the last
    (`blank`), [B, K, T + 1].
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
        # A unit's frames lie together, for its probabilities are what is looked up.
        table = log_probs.masked_fill(padding[..., None], 0.0).transpose(1, 2).contiguous()
        self.probs = table.double().clamp_(min=LOWEST).exp_()  # [B, V, T]
        self.last = torch.full((batch, 1), -1, device=device)  # newest unit, none as yet
        self.repeated = torch.full((batch, 1), -math.inf, dtype=torch.float64, device=device)
        self.blank = F.pad(self._log_probs_of_blank().cumsum(dim=-1), (1, 0))
        self.total = self.blank

    def scores(self, tokens: Tensor | None = None) -> Tensor:
        """[B, K, P]: log probability that a transcript starts with a hypothesis and then a token.

        tokens: [B, K, P], what may come next, or None for all V in their order. For the end of the
        sentence it is the log probability that the hypothesis is all; the blank is impossible.
        """
        # Units only come after the frames t that gave the hypothesis: a sum over t of products,
        # of which the greatest factor on the left is made 1.
        log_weights = self._before_frames(self.total)
        # Nothing is the greatest of a hypothesis that is impossible.
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
        """Keep `utterances` [B'], and of each the hypotheses `parents` [B', K'] with a token more.

        utterances: places in the batch, in their order; parents: some may be there repeatedly;
        tokens: [B', K'], neither blank nor the end (else the hypothesis means nothing).
        """
        places = utterances[:, None]
        # The same unit again needs a blank between.
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
        """Probabilities of `tokens` [B, K, P] at each frame: [B, K, P, T]."""
        batch, vocabulary, frames = self.probs.shape
        first = torch.arange(batch, device=tokens.device)[:, None, None] * vocabulary
        rows = self.probs.view(-1, frames).index_select(0, (first + tokens).flatten())
        return rows.view(*tokens.shape, frames)

    def _log_probs_of_blank(self) -> Tensor:
        """[B, 1, T]."""
        return self.probs[:, BLANK].log()[:, None]

    def _before_frames(self, state: Tensor) -> Tensor:
        """[B, K, T + 1] -> [B, K, T], before each frame; impossible where that is padding."""
        return state[..., :-1].masked_fill(self.padding, -math.inf)


def accumulate(inflow: Tensor, log_probs: Tensor) -> Tensor:
    """r[0] = -inf, r[t + 1] = logaddexp(r[t], inflow[t]) + log_probs[t], over the last dimension.

    inflow: [..., T], may be -inf; log_probs: finite [..., T]; both float64, of which the sums over
    the frames leave enough digits. Returns [..., T + 1].
    """
    sums = log_probs.cumsum(dim=-1)
    r = sums + (inflow - F.pad(sums[..., :-1], (1, 0))).logcumsumexp(dim=-1)
    return F.pad(r, (1, 0), value=-math.inf)
