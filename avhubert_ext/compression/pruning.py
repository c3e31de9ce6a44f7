"""Global magnitude pruning with exact counts (paper B, sections 2.2 and 3.3).

Prunable are the weights of linear and 1D, 2D and 3D convolution layers; biases, norms and
embeddings stay dense, and so does the positional convolution, whose weight is a product (weight
norm). A mask is a dict: parameter name -> bool tensor, True = kept.

In checkpoints a mask has one bit a weight: see `pack`, and `checkpoints/sparse_file.py` for files.
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
    """The prunable parameters by name, in the model's order; one that layers share comes once."""
    named = {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE_LAYERS)
    }
    first = {id(weight): name for name, weight in reversed(named.items())}
    return {name: weight for name, weight in named.items() if first[id(weight)] == name}


def check_sparsity(sparsity: float) -> None:
    """Raise InputError for a sparsity outside [0, 1)."""
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity {sparsity}: expected at least 0 and less than 1 (0.5 = 50%)")


@torch.no_grad()
def global_magnitude_mask(
    model: nn.Module, sparsity: float, previous: Masks | None = None
) -> Masks:
    """Prune exactly round(sparsity * prunable) weights, the smallest of the whole model.

    Weights that `previous` pruned stay pruned and count. Among equal magnitudes the first are
    pruned, in the model's order: the same weights give the same mask anywhere. The mask is on the
    CPU. Raises InputError for a sparsity outside [0, 1), below the present one, a mask that does
    not fit the model, or weights that are NaN.
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
    """The `count`-th smallest kept magnitude, and how many of those that equal it are pruned.

    The bits of a float that is not negative sort as it does, so that counts of their upper halves,
    then of the lower halves below one upper half, find it without a copy of all weights.
    """
    upper, lower = (np.zeros(1 << 16, dtype=np.int64) for _ in range(2))
    for name, weight in weights.items():
        magnitudes = _magnitudes(weight)[kept[name].numpy()]
        if np.isnan(magnitudes).any():
            raise InputError(f"{name}: NaN among the weights; prune a checkpoint from before")
        upper += np.bincount(magnitudes.view(np.uint32) >> 16, minlength=1 << 16)
    top, count = _reached(upper, count)
    for name, weight in weights.items():
        bits = _magnitudes(weight).view(np.uint32)
        found = bits[kept[name].numpy() & (bits >> 16 == top)]
        lower += np.bincount(found & 0xFFFF, minlength=1 << 16)
    bottom, count = _reached(lower, count)
    return np.uint32(top << 16 | bottom).view(np.float32), count


def _reached(counts: np.ndarray, count: int) -> tuple[int, int]:
    """The bin with the `count`-th element, and that element's number in the bin; from 1."""
    until = np.cumsum(counts)
    place = int(np.searchsorted(until, count))
    return place, count - int(until[place] - counts[place])


def check_fits(weights: dict[str, nn.Parameter], masks: Masks) -> None:
    """Raise InputError if the masks are not for these weights."""
    expected = {name: tuple(w.shape) for name, w in weights.items()}
    found = {name: tuple(m.shape) for name, m in masks.items()}
    if expected != found:
        odd = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise InputError(
            f"the mask does not fit the model: {len(odd)} tensors differ, e.g. {odd[0]}; name the "
            "mask of a model of the same network"
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


def same(some: Masks, others: Masks) -> bool:
    """Whether both prune the same weights."""
    return some.keys() == others.keys() and all(torch.equal(some[n], others[n]) for n in some)


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def count_pruned(masks: Masks) -> int:
    """How many weights the masks prune."""
    return sum(m.numel() - int(torch.count_nonzero(m)) for m in masks.values())


def mask_sparsity(masks: Masks) -> float:
    """Pruned fraction of the prunable weights, counted from the masks."""
    return count_pruned(masks) / sum(m.numel() for m in masks.values())


@torch.no_grad()
def regrown(model: nn.Module, masks: Masks) -> float:
    """Share of the pruned weights that are not zero: what PARP lets grow again."""
    weights = prunable_weights(model)
    # Greater, of bools: not zero, and not kept.
    grown = sum(
        torch.count_nonzero((weights[n] != 0) > m.to(weights[n].device)) for n, m in masks.items()
    )
    return int(grown) / max(1, count_pruned(masks))


def kept_parameters(model: nn.Module, masks: Masks | None = None) -> int:
    """Number of parameters, without the pruned ones."""
    return sum(p.numel() for p in model.parameters()) - count_pruned(masks or {})


def pack(masks: Masks) -> dict[str, Any]:
    """Masks as tensors and plain containers, a bit a weight.

    bits: name -> uint8 tensor, NumPy's `packbits` of the flattened mask; shapes: name -> list;
    sha256: of names, shapes and bits.
    """
    bits = {name: torch.from_numpy(np.packbits(m.cpu().numpy())) for name, m in masks.items()}
    shapes = {name: list(m.shape) for name, m in masks.items()}
    return {"bits": bits, "shapes": shapes, "sha256": _digest(bits, shapes)}


def unpack(packed: dict[str, Any], where: object) -> Masks:
    """The inverse of `pack`; InputError, which names `where`, if the checksum is another."""
    try:
        bits, shapes = packed["bits"], packed["shapes"]
        if packed["sha256"] != _digest(bits, shapes):
            raise ValueError("their checksum is another")
        return {name: _unpack(bits[name], shapes[name]) for name in shapes}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{where}: its pruning masks are damaged ({error}); copy it again"
        ) from None


def _unpack(bits: Tensor, shape: list[int]) -> Tensor:
    flat = np.unpackbits(bits.numpy(), count=math.prod(shape))
    return torch.from_numpy(flat.view(bool).reshape(shape))


def _digest(bits: dict[str, Tensor], shapes: dict[str, list[int]]) -> str:
    total = hashlib.sha256(json.dumps(sorted(shapes.items())).encode())
    for name in sorted(bits):
        total.update(bits[name].numpy().tobytes())
    return total.hexdigest()
