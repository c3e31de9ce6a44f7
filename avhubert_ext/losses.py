"""Training criteria in plain PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from avhubert_ext.errors import InputError


def distillation_loss(
    predictions: Mapping[int, Tensor],
    targets: Mapping[int, Tensor],
    padding_mask: Tensor | None,
    cosine_weight: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Paper A, equations (1) and (2), averaged over the valid frames of the batch.

    predictions, targets: teacher block -> [B, T, F]; padding_mask: [B, T] bool, True = padding.
    Per block, L1 / F plus `cosine_weight` (lambda) times -log sigmoid(cosine); the blocks are
    summed. Computed in float32 whatever the inputs are, for half precision cannot hold the norms.
    Raises InputError where a target is missing or has another shape than its prediction.
    Returns the loss and, without gradient, its terms for the log: `l1_BLOCK` and
    `cosine_similarity_BLOCK`.
    """
    total = next(iter(predictions.values())).new_zeros((), dtype=torch.float32)
    terms = {}
    for block, prediction in predictions.items():
        found = list(targets[block].shape) if block in targets else "missing"
        if found != list(prediction.shape):
            raise InputError(
                f"the student predicts teacher block {block} as {list(prediction.shape)}, its "
                f"target is {found}: build the student for its teacher"
            )
        predicted, target = prediction.float(), targets[block].float()
        if padding_mask is not None:
            predicted, target = predicted[~padding_mask], target[~padding_mask]
        l1 = F.l1_loss(predicted, target)
        similarity = F.cosine_similarity(predicted, target, dim=-1)
        total = total + l1 - cosine_weight * F.logsigmoid(similarity).mean()
        terms[f"l1_{block}"] = l1.detach()
        terms[f"cosine_similarity_{block}"] = similarity.detach().mean()
    return total, terms
