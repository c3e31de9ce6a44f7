"""Training criteria in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def distillation_loss(
    predictions: dict[int, Tensor],
    hidden_states: tuple[Tensor, ...],
    padding_mask: Tensor | None,
    cosine_weight: float = 1.0,
) -> tuple[Tensor, dict[str, float]]:
    """Paper A, equations (1) and (2), averaged over the valid frames of the batch.

    predictions: teacher block -> [B, T, F]; hidden_states: the teacher's, index = block;
    padding_mask: [B, T] bool, True = padding. Per block, L1 / F plus `cosine_weight` times
    -log sigmoid(cosine); the blocks are summed. Returns the loss and its terms for the log.
    """
    total = next(iter(predictions.values())).new_zeros(())
    terms = {}
    for block, predicted in predictions.items():
        target = hidden_states[block]
        if padding_mask is not None:
            predicted, target = predicted[~padding_mask], target[~padding_mask]
        l1 = F.l1_loss(predicted, target)
        similarity = F.cosine_similarity(predicted, target, dim=-1)
        cosine = -F.logsigmoid(similarity).mean()
        total = total + l1 + cosine_weight * cosine
        terms[f"l1_{block}"] = l1.item()
        terms[f"cosine_similarity_{block}"] = similarity.mean().item()
    return total, terms
