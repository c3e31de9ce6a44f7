"""Global magnitude pruning with exact counts (paper B, sections 2.2 and 3.3).

Prunable are the weights of linear and 1D, 2D and 3D convolution layers; biases, norms and
embeddings stay dense, and so does the positional convolution, whose weight is a product (weight
norm). A mask is a dict: parameter name -> bool tensor, True = kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avhubert_ext.errors import InputError

PRUNABLE_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Masks = dict[str, Tensor]


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The prunable parameters by name, in the model's order."""
    return {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE_LAYERS)
    }


@torch.no_grad()
def global_magnitude_mask(
    model: nn.Module, sparsity: float, previous: Masks | None = None
) -> Masks:
    """Prune exactly round(sparsity * prunable) weights, the smallest of the whole model.

    Weights that `previous` pruned stay pruned and count. Raises InputError for a sparsity outside
    [0, 1), below the present one, or a mask that does not fit the model.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity {sparsity}: expected at least 0 and less than 1 (0.5 = 50%)")
    weights = prunable_weights(model)
    magnitudes = torch.cat([w.detach().abs().float().flatten() for w in weights.values()])
    if previous is not None:
        check_fits(weights, previous)
        kept_before = torch.cat([previous[name].flatten() for name in weights])
        magnitudes.masked_fill_(~kept_before, -1.0)  # below any magnitude: pruned first
    count = round(sparsity * len(magnitudes))
    if previous is not None and count < int((~kept_before).sum()):
        raise InputError(
            f"sparsity {sparsity} is below the present {mask_sparsity(previous):.4f}: "
            "pruned weights never return; choose a higher target"
        )
    kept = torch.ones_like(magnitudes, dtype=torch.bool)
    if count:
        # Exactly `count`, also where magnitudes tie at the threshold: the first ones go.
        threshold = magnitudes.kthvalue(count).values
        kept = magnitudes > threshold
        tied = (magnitudes == threshold).nonzero().squeeze(1)
        kept[tied[count - int((magnitudes < threshold).sum()) :]] = True
    sizes = [w.numel() for w in weights.values()]
    pieces = kept.split(sizes)
    return {name: m.view_as(w) for (name, w), m in zip(weights.items(), pieces, strict=True)}


def check_fits(weights: dict[str, nn.Parameter], masks: Masks) -> None:
    """Raise InputError if the masks are not for these weights."""
    expected = {name: tuple(w.shape) for name, w in weights.items()}
    found = {name: tuple(m.shape) for name, m in masks.items()}
    if expected != found:
        odd = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise InputError(
            f"the mask does not fit the model: {len(odd)} tensors differ, e.g. {odd[0]}"
        )


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set pruned weights to zero."""
    for name, weight in prunable_weights(model).items():
        weight.mul_(masks[name].to(weight.device))


@torch.no_grad()
def mask_gradients(model: nn.Module, masks: Masks) -> None:
    """Set the gradients of pruned weights to zero."""
    for name, weight in prunable_weights(model).items():
        if weight.grad is not None:
            weight.grad.mul_(masks[name].to(weight.device))


def mask_sparsity(masks: Masks) -> float:
    """Pruned fraction of the prunable weights, counted from the masks."""
    total = sum(m.numel() for m in masks.values())
    return sum(int((~m).sum()) for m in masks.values()) / total


def kept_parameters(model: nn.Module, masks: Masks | None = None) -> int:
    """Number of parameters, without the pruned ones."""
    pruned = sum(int((~m).sum()) for m in masks.values()) if masks else 0
    return sum(p.numel() for p in model.parameters()) - pruned
