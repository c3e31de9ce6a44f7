"""Multi-head attention with `scaled_dot_product_attention`, also with relative positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]  # each [B, heads, S, D / heads]


class MultiheadAttention(nn.Module):
    """Attention of queries [B, T, D] to a memory [B, S, D]; parameters are named as in fairseq.

    Args:
        dim: Width D.
        heads: Number of heads; D must be a multiple of it.
        dropout: Dropout of the attention weights.
    """

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
        """[B, T, D] -> [B, heads, T, D / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project_memory(self, memory: Tensor) -> KeyValue:
        """The keys and values of `memory` [B, S, D]."""
        return self._split(self.k_proj(memory)), self._split(self.v_proj(memory))

    def forward(
        self,
        query: Tensor,
        keys_values: KeyValue,
        padding_mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attend to a memory.

        Args:
            query: [B, T, D].
            keys_values: Keys and values of the memory, from `project_memory`.
            padding_mask: [B, S] bool, True where the memory is padding, or None.
            causal: The queries are the last T of the S positions, and each sees the positions up to
                its own. The padding mask must be None.

        Returns:
            [B, T, D].
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
        """The attention weights.

        Args:
            query: [B, T, D].
            keys: [B, heads, S, D / heads].
            unseen: [T, S] bool, True where a query must not attend, or None.

        Returns:
            [B, heads, T, S]; the weights of a query sum to 1.
        """
        queries = self._split(self.q_proj(query))
        scores = queries * queries.shape[-1] ** -0.5 @ keys.transpose(2, 3)
        if unseen is not None:
            scores = scores.masked_fill(unseen, -torch.inf)
        return scores.softmax(dim=-1)

    def mix(self, weights: Tensor, values: Tensor) -> Tensor:
        """The output [B, T, D] for weights [B, heads, T, S] and values [B, heads, S, D / heads]."""
        return self.out_proj((weights @ values).transpose(1, 2).flatten(2))


class RelativeAttention(MultiheadAttention):
    """Self-attention with relative positions (Dai et al. 2019, section 3.3).

    The score of query q at position i and key k at position j is
    ((q + u) k + (q + v) W p[i - j]) / sqrt(d), where d = D / heads, p is the sinusoid of the
    distance, and u and v are learned for each head.

    Args:
        dim: Width D.
        heads: Number of heads; D must be a multiple of it.
        dropout: Dropout of the attention weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, dropout)
        self.pos_proj = nn.Linear(dim, dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, dim // heads))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, dim // heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, x: Tensor, padding_mask: Tensor | None, positions: Tensor) -> Tensor:
        """Attend to the sequence itself.

        Args:
            x: [B, T, D].
            padding_mask: [B, T] bool, True = padding, or None.
            positions: [2T-1, D], the sinusoids of the distances T-1 ... 1-T.

        Returns:
            [B, T, D].
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
    """Arrange scores by key instead of by distance.

    The score of query i and key j is at column T-1-i+j, so each row has to be shifted by one
    relative to the row above it. Reading rows of 2T values as rows of 2T-1 values does that.

    Args:
        scores: [..., T, 2T-1], for the distances T-1 ... 1-T.

    Returns:
        [..., T, T].
    """
    time = scores.shape[-2]
    flat = F.pad(scores, (0, 1)).flatten(-2)[..., time - 1 : time - 1 + time * (2 * time - 1)]
    return flat.unflatten(-1, (time, 2 * time - 1))[..., :time]


def append(past: KeyValue | None, new: KeyValue) -> KeyValue:
    """Cached keys and values followed by new ones."""
    if past is None:
        return new
    return torch.cat([past[0], new[0]], dim=2), torch.cat([past[1], new[1]], dim=2)
