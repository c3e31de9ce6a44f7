"""Multi-head attention on `scaled_dot_product_attention`, with an optional key/value cache."""

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


def append(past: KeyValue | None, new: KeyValue) -> KeyValue:
    """Cached keys and values followed by new ones."""
    if past is None:
        return new
    return torch.cat([past[0], new[0]], dim=2), torch.cat([past[1], new[1]], dim=2)
