"""Multi-head attention on `scaled_dot_product_attention`: cached, or with relative positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]  # each [B, heads, S, D / heads]


class MultiheadAttention(nn.Module):
    """Queries [B, T, D] attend to a memory [B, S, D]; parameter names as in fairseq."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not divisible by {heads} attention heads")
        self.heads = heads
        self.dropout = dropout
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project_memory(self, memory: Tensor) -> KeyValue:
        """Keys and values of `memory` [B, S, D]."""
        return self._split(self.k_proj(memory)), self._split(self.v_proj(memory))

    def forward(
        self,
        query: Tensor,
        keys_values: KeyValue,
        padding_mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]; `padding_mask` [B, S] is True where the memory is padding.

        `causal` (without a padding mask): the queries are the last T of the S positions, and each
        sees those up to its own.
        """
        keys, values = keys_values
        allowed = None if padding_mask is None else ~padding_mask[:, None, None, :]
        if causal:
            shape = (query.shape[1], keys.shape[2])
            causal_mask = torch.ones(shape, dtype=torch.bool, device=query.device)
            allowed = causal_mask.tril(shape[1] - shape[0])
        attended = F.scaled_dot_product_attention(
            self._split(self.q_proj(query)),
            keys,
            values,
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def weights(self, query: Tensor, keys: Tensor, unseen: Tensor | None = None) -> Tensor:
        """How much each query [B, T, D] attends to each key [B, heads, S, d]: [B, heads, T, S].

        unseen: bool [T, S], True where a query must not look, or None.
        """
        queries = self._split(self.q_proj(query))
        scores = queries * queries.shape[-1] ** -0.5 @ keys.transpose(2, 3)
        if unseen is not None:
            scores = scores.masked_fill(unseen, -torch.inf)
        return scores.softmax(dim=-1)

    def mix(self, weights: Tensor, values: Tensor) -> Tensor:
        """The output [B, T, D] for `weights` and values [B, heads, S, d]."""
        return self.out_proj((weights @ values).transpose(1, 2).flatten(2))


class RelativeAttention(MultiheadAttention):
    """Self-attention with relative positions (Dai et al. 2019, section 3.3).

    The score of a query q at i and a key k at j is ((q + u) k + (q + v) W p[i - j]) / sqrt(d), with
    d = D / heads, the sinusoid p of the distance, and u and v learned for each head.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, dropout)
        self.pos_proj = nn.Linear(dim, dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, dim // heads))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, dim // heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, x: Tensor, padding_mask: Tensor | None, positions: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; positions: [2T-1, D], of the distances T-1 ... 1-T.

        padding_mask: [B, T] bool, True = padding, or None.
        """
        queries = self._split(self.q_proj(x))
        keys, values = self.project_memory(x)
        distances = self._split(self.pos_proj(positions)[None])
        scale = queries.shape[-1] ** -0.5
        bias = (queries + self.pos_bias_v[:, None]) @ distances.transpose(2, 3)
        scores = shift_to_keys(bias) * scale
        if padding_mask is not None:
            scores = scores.masked_fill(padding_mask[:, None, None, :], -torch.inf)
        attended = F.scaled_dot_product_attention(
            queries + self.pos_bias_u[:, None],
            keys,
            values,
            attn_mask=scores,
            dropout_p=self.dropout if self.training else 0.0,
            scale=scale,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))


def shift_to_keys(scores: Tensor) -> Tensor:
    """Scores by distance, [..., T, 2T-1] for T-1 ... 1-T, -> by key, [..., T, T].

    Query i finds key j at column T-1-i+j, so each row has to move by one against the row above it:
    it does where rows of 2T values are read as rows of 2T-1.
    """
    time = scores.shape[-2]
    flat = F.pad(scores, (0, 1)).flatten(-2)[..., time - 1 : time - 1 + time * (2 * time - 1)]
    return flat.unflatten(-1, (time, 2 * time - 1))[..., :time]


def append(past: KeyValue | None, new: KeyValue) -> KeyValue:
    """Cached keys and values followed by new ones."""
    if past is None:
        return new
    return torch.cat([past[0], new[0]], dim=2), torch.cat([past[1], new[1]], dim=2)
