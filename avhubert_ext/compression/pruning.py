"""Global magnitude pruning with exact counts (paper B, sections 2.2 and 3.3).

The weights of linear and of 1D, 2D and 3D convolution layers are prunable. Biases, norms and
embeddings stay dense, and so does the positional convolution, whose weight is a product (weight
norm). Masks are a dict: parameter name -> bool tensor, True = kept.

Checkpoints store masks with one bit per weight, see `pack` and `checkpoints/sparse_file.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avhubert_ext.errors import InputError

PRUNABLE_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Masks = dict[str, Tensor]


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The prunable parameters by name, in the model's order; a shared one is listed once."""
    named = {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE_LAYERS)
    }
    first = {id(weight): name for name, weight in reversed(named.items())}
    return {name: weight for name, weight in named.items() if first[id(weight)] == name}


def check_sparsity(sparsity: float) -> None:
    """Check a target sparsity.

    Raises:
        InputError: If it is outside [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity {sparsity}: expected at least 0 and less than 1 (0.5 = 50%)")


@torch.no_grad()
def global_magnitude_mask(
    model: nn.Module, sparsity: float, previous: Masks | None = None
) -> Masks:
    """Masks that prune exactly round(sparsity * prunable) weights, the smallest of the model.

    Among equal magnitudes the first in the model's order are pruned, so the same weights give the
    same masks on any machine.

    Args:
        model: The model; it does not change.
        sparsity: Fraction of the prunable weights to prune, at least 0 and less than 1.
        previous: Masks of weights that are already pruned; these stay pruned and count.

    Returns:
        The masks by parameter name, on the CPU.

    Raises:
        InputError: If the sparsity is outside [0, 1) or below that of `previous`, the previous
            masks do not fit the model, or a weight is NaN.
    """
    check_sparsity(sparsity)
    weights = prunable_weights(model)
    if previous is not None:
        check_fits(weights, previous)
    total = sum(w.numel() for w in weights.values())
    before = count_pruned(previous or {})
    count = round(sparsity * total) - before
    if count < 0:
        raise InputError(
            f"sparsity {sparsity} is below the present {before / total:.4f}: "
            "pruned weights never return; choose a higher target"
        )
    kept = {
        name: previous[name].cpu().clone(memory_format=torch.contiguous_format)
        if previous
        else torch.ones(w.shape, dtype=torch.bool)
        for name, w in weights.items()
    }
    if not count:
        return kept
    threshold, equal = _threshold(weights, kept, count)
    for name, weight in weights.items():
        magnitudes = _magnitudes(weight)
        mask = kept[name].numpy()
        ties = np.flatnonzero((magnitudes == threshold) & mask)[:equal]
        equal -= len(ties)
        mask &= magnitudes >= threshold
        mask.reshape(-1)[ties] = False
    return kept


def _magnitudes(weight: Tensor) -> np.ndarray:
    return weight.detach().abs().float().cpu().numpy()


def _threshold(weights: dict[str, nn.Parameter], kept: Masks, count: int) -> tuple[np.float32, int]:
    """The `count`-th smallest kept magnitude, and how many of the equal magnitudes are pruned.

    Floats that are not negative sort like their bits. So a histogram of the upper half of the bits,
    and then one of the lower half for a single upper half, find it without a copy of all weights.
    """
    upper, lower = (np.zeros(1 << 16, dtype=np.int64) for _ in range(2))
    for name, weight in weights.items():
        magnitudes = _magnitudes(weight)[kept[name].numpy()]
        if np.isnan(magnitudes).any():
            raise InputError(f"{name}: NaN among the weights; prune an earlier checkpoint")
        upper += np.bincount(magnitudes.view(np.uint32) >> 16, minlength=1 << 16)
    top, count = _reached(upper, count)
    for name, weight in weights.items():
        bits = _magnitudes(weight).view(np.uint32)
        found = bits[kept[name].numpy() & (bits >> 16 == top)]
        lower += np.bincount(found & 0xFFFF, minlength=1 << 16)
    bottom, count = _reached(lower, count)
    return np.uint32(top << 16 | bottom).view(np.float32), count


def _reached(counts: np.ndarray, count: int) -> tuple[int, int]:
    """The bin of the `count`-th element, and the element's number in the bin, both from 1."""
    until = np.cumsum(counts)
    place = int(np.searchsorted(until, count))
    return place, count - int(until[place] - counts[place])


def check_fits(weights: dict[str, nn.Parameter], masks: Masks) -> None:
    """Check masks against the prunable weights of a model.

    Raises:
        InputError: If names or shapes differ.
    """
    expected = {name: tuple(w.shape) for name, w in weights.items()}
    found = {name: tuple(m.shape) for name, m in masks.items()}
    if expected != found:
        odd = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise InputError(
            f"the mask does not fit the model: {len(odd)} tensors differ, for example {odd[0]}; "
            "name the mask of a model of the same network"
        )


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set the pruned weights of a model to zero."""
    for name, weight in prunable_weights(model).items():
        weight.mul_(masks[name].to(weight.device))


@torch.no_grad()
def mask_gradients(model: nn.Module, masks: Masks) -> None:
    """Set the gradients of the pruned weights of a model to zero."""
    for name, weight in prunable_weights(model).items():
        if weight.grad is not None:
            weight.grad.mul_(masks[name].to(weight.device))


def same(some: Masks, others: Masks) -> bool:
    """Whether two sets of masks prune the same weights."""
    return some.keys() == others.keys() and all(torch.equal(some[n], others[n]) for n in some)


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names start with `prefix`, under their names without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def count_pruned(masks: Masks) -> int:
    """The number of weights that the masks prune."""
    return sum(m.numel() - int(torch.count_nonzero(m)) for m in masks.values())


def mask_sparsity(masks: Masks) -> float:
    """The pruned fraction of the prunable weights, counted from the masks."""
    return count_pruned(masks) / sum(m.numel() for m in masks.values())


@torch.no_grad()
def regrown(model: nn.Module, masks: Masks) -> float:
    """The fraction of the pruned weights that are not zero, because PARP lets them grow back."""
    weights = prunable_weights(model)
    # For bools, greater means: not zero, and not kept.
    grown = sum(
        torch.count_nonzero((weights[n] != 0) > m.to(weights[n].device)) for n, m in masks.items()
    )
    return int(grown) / max(1, count_pruned(masks))


def kept_parameters(model: nn.Module, masks: Masks | None = None) -> int:
    """The number of parameters that are not pruned."""
    return sum(p.numel() for p in model.parameters()) - count_pruned(masks or {})


def pack(masks: Masks) -> dict[str, Any]:
    """Masks as tensors and plain containers with one bit per weight.

    Returns:
        `bits`: name -> uint8 tensor, NumPy's `packbits` of the flattened mask; `shapes`: name ->
        list; `sha256`: the checksum of names, shapes and bits.
    """
    bits = {name: torch.from_numpy(np.packbits(m.cpu().numpy())) for name, m in masks.items()}
    shapes = {name: list(m.shape) for name, m in masks.items()}
    return {"bits": bits, "shapes": shapes, "sha256": _checksum(bits, shapes)}


def unpack(packed: dict[str, Any], where: object) -> Masks:
    """The inverse of `pack`.

    Args:
        packed: The packed masks.
        where: The file's name for error messages.

    Raises:
        InputError: If a part is missing or the checksum does not match.
    """
    try:
        bits, shapes = packed["bits"], packed["shapes"]
        if packed["sha256"] != _checksum(bits, shapes):
            raise ValueError("their checksum does not match")
        return {name: _unpack(bits[name], shapes[name]) for name in shapes}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{where}: its pruning masks are damaged ({error}); copy it again"
        ) from None


def _unpack(bits: Tensor, shape: list[int]) -> Tensor:
    flat = np.unpackbits(bits.numpy(), count=math.prod(shape))
    return torch.from_numpy(flat.view(bool).reshape(shape))


def _checksum(bits: dict[str, Tensor], shapes: dict[str, list[int]]) -> str:
    total = hashlib.sha256(json.dumps(sorted(shapes.items())).encode())
    for name in sorted(bits):
        total.update(bits[name].numpy().tobytes())
    return total.hexdigest()
