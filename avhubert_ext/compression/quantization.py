"""8-bit weights: a codebook of 256 values for every weight tensor (paper B, Table 2).

This is the method of ATMC, which the paper uses (Gui et al., Model compression with adversarial
robustness, NeurIPS 2019): k-means over the values of each tensor, except for biases, norms, and
tensors of up to 256 elements. Here these tensors are the prunable weights (`pruning.py`). For a
pruned model only the kept weights are quantized: zeros stay zero and do not use up a value.
Activations stay float32.

`quantize` is for a trained model, `ADMM` for training a model that will lose little by it.
`avhubert_ext.checkpoints.sparse_file` stores the result with one byte per weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avhubert_ext.compression.pruning import Masks, prunable_weights
from avhubert_ext.errors import InputError

SIZE = 256  # values in a codebook: an index takes one byte
ITERATIONS, TOLERANCE = 20, 1e-4  # ATMC's

Codebooks = dict[str, Tensor]


def quantizable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that get a codebook, by name in the model's order."""
    return {name: w for name, w in prunable_weights(model).items() if w.numel() > SIZE}


@torch.no_grad()
def fit_codebook(values: Tensor, size: int = SIZE) -> Tensor:
    """The `size` values that represent all others best (k-means in one dimension).

    Lloyd's algorithm with at most 20 iterations. It is exact, with sums in float64, because the
    values nearest to one center are neighbors once all values are sorted. As in ATMC it stops when
    the square of the summed shifts is below 1e-4, here in units of the standard deviation of the
    values: in absolute units it would stop at once for the small weights of a network.

    Args:
        values: Any shape, at least one value.
        size: Number of values in the codebook.

    Returns:
        The sorted codebook, float32 [size], on the device of the values. If there are at most
        `size` different values, the codebook contains exactly these.

    Raises:
        InputError: If a value is NaN or infinite.
    """
    ordered = _sorted(values.flatten().float())
    if len(ordered) and not ordered[[0, -1]].isfinite().all():  # NaN is sorted to the end
        raise InputError("NaN or infinite values: quantize an earlier checkpoint")
    if int(torch.count_nonzero(ordered.diff())) < size:
        return ordered.unique_consecutive()
    sums = F.pad(ordered.double().cumsum(0), (1, 0))
    smallest_shift = float(ordered.std()) * TOLERANCE**0.5
    codebook = _start(ordered, size)
    for _ in range(ITERATIONS):
        ends = torch.searchsorted(ordered, _boundaries(codebook), right=True)
        ends = F.pad(F.pad(ends, (1, 0)), (0, 1), value=len(ordered))
        counts = ends.diff()
        means = (sums[ends].diff() / counts).float()
        moved = torch.where(counts > 0, means, codebook)
        shift = float((moved - codebook).abs().sum())
        codebook = moved
        if shift < smallest_shift:
            break
    return codebook


def _sorted(values: Tensor) -> Tensor:
    if values.is_cuda:
        return values.sort().values
    return torch.from_numpy(np.sort(values.detach().numpy()))  # torch.sort is ten times slower


def _start(ordered: Tensor, size: int) -> Tensor:
    """Values of a sorted tensor whose density is the cube root of the density of all values.

    For many centers this is optimal (Panter and Dite, 1951). Random values or quantiles have the
    density of the values itself, and 20 iterations do not move enough of them to the tails.
    """
    parts = ordered.diff() ** (2 / 3)  # density 1 / gap: its cube root times the gap
    one = float(parts.sum(dtype=torch.float64)) / size  # a wide gap needs no more than this
    share = parts.clamp(max=one).cumsum(0, dtype=torch.float64)
    wanted = (torch.arange(size, device=ordered.device) + 0.5) / size * share[-1]
    return ordered[1 + torch.searchsorted(share, wanted)]


def _boundaries(codebook: Tensor) -> Tensor:
    """The largest float32 value that belongs to each entry but the last: up to the middle."""
    middle = (codebook[:-1].double() + codebook[1:].double()) / 2
    rounded = middle.float()
    below = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(rounded.double() > middle, below, rounded)


def nearest(values: Tensor, codebook: Tensor) -> Tensor:
    """The index of the nearest entry of a sorted codebook for each value: uint8, same shape."""
    return torch.bucketize(values.float(), _boundaries(codebook), out_int32=True).to(torch.uint8)


def look_up(codebook: Tensor, indices: Tensor) -> Tensor:
    """The entries of a codebook at uint8 indices: float32, same shape."""
    return codebook[indices.int()]


@torch.no_grad()
def on_codebook(values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Quantize values with a codebook that is fitted to them.

    Args:
        values: Any shape.
        mask: Bool, same shape; where it is False, the result is zero and the value does not
            contribute to the codebook.

    Returns:
        The values, each moved to the nearest entry, and the codebook.
    """
    if mask is None:
        codebook = fit_codebook(values)
        return look_up(codebook, nearest(values, codebook)), codebook
    moved = torch.zeros_like(values)
    moved[mask], codebook = on_codebook(values[mask])
    return moved, codebook


@torch.no_grad()
def quantize(model: nn.Module, masks: Masks | None = None) -> Codebooks:
    """Quantize the weights of a model in place.

    Args:
        model: The model.
        masks: Its masks if it is pruned.

    Returns:
        The codebooks by parameter name.

    Raises:
        InputError: If a weight is NaN or infinite; it names the tensor.
    """
    codebooks = {}
    for name, weight in quantizable_weights(model).items():
        try:
            moved, codebooks[name] = on_codebook(weight, masks[name] if masks else None)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        weight.copy_(moved)
    return codebooks


class ADMM:
    """Pulls the weights W of a model toward codebooks during its training (ATMC).

    Every tensor has a target Z on a codebook and a dual U. `penalty` is rho/2 * ||W + U - Z||^2, to
    be added to the loss. `update`, once every few updates of the weights, sets Z to W + U quantized
    with a codebook and adds W - Z to U. Z and U are zero for pruned weights.

    Args:
        rho: Weight of the penalty, more than 0.
        interval: Number of updates of the weights between two updates of Z and U.

    Raises:
        InputError: If a value is invalid.
    """

    def __init__(self, rho: float, interval: int) -> None:
        if rho <= 0 or interval < 1:
            raise InputError(
                f"rho {rho:g}, interval {interval}: expected rho above 0 and at least 1 update"
            )
        self.rho = rho
        self.interval = interval
        self.updates: int | None = None  # of the weights at the last call of `advance`
        self.target: dict[str, Tensor] = {}
        self.dual: dict[str, Tensor] = {}

    def advance(self, updates: int, model: nn.Module, masks: Masks | None = None) -> None:
        """Call `start` the first time, and `update` after every `interval` updates of the weights.

        Args:
            updates: Number of updates of the weights so far; repeating a number has no effect.
            model: The model in training.
            masks: Its masks if it is pruned.
        """
        device = next(model.parameters()).device  # the state from a checkpoint is on the CPU
        self.dual, self.target = _moved(self.dual, device), _moved(self.target, device)
        if self.updates is None:
            self.start(model, masks)
        elif updates != self.updates and updates % self.interval == 0:
            self.update(model, masks)
        self.updates = updates

    @torch.no_grad()
    def start(self, model: nn.Module, masks: Masks | None = None) -> None:
        """Set Z to the quantized W, and U to 0."""
        weights = quantizable_weights(model)
        self.dual = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self._project(weights, masks)

    @torch.no_grad()
    def update(self, model: nn.Module, masks: Masks | None = None) -> None:
        """Set Z to the quantized W + U, and add W - Z to U."""
        weights = quantizable_weights(model)
        self._project(weights, masks)
        for name, weight in weights.items():
            # Not in place: a checkpoint may be being written.
            self.dual[name] = self.dual[name] + weight - self.target[name]

    def _project(self, weights: dict[str, nn.Parameter], masks: Masks | None) -> None:
        for name, weight in weights.items():
            mask = masks[name] if masks else None
            self.target[name], _ = on_codebook(weight + self.dual[name], mask)

    def penalty(self, model: nn.Module) -> Tensor:
        """The penalty rho/2 * ||W + U - Z||^2 over all tensors, a scalar with a gradient for W."""
        parts = [(w + u - z).square().sum() for w, u, z in self._tensors(model)]
        return self.rho / 2 * torch.stack(parts).sum()

    @torch.no_grad()
    def distance(self, model: nn.Module) -> Tensor:
        """The relative distance ||W - Z|| / ||W|| over all tensors, a scalar."""
        parts = [
            torch.stack([(w - z).square().sum(), w.square().sum()])
            for w, _, z in self._tensors(model)
        ]
        away, whole = torch.stack(parts).sum(0)
        return (away / whole).sqrt()

    def _tensors(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """W, U and Z of each tensor."""
        for name, weight in quantizable_weights(model).items():
            yield weight, self.dual[name], self.target[name]

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, and U and Z by name, on the CPU."""
        return {
            "updates": self.updates,
            "dual": _moved(self.dual, "cpu"),
            "target": _moved(self.target, "cpu"),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.updates, self.dual, self.target = (state[k] for k in ("updates", "dual", "target"))


def _moved(tensors: dict[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
