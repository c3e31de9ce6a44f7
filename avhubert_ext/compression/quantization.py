"""8-bit weights: a codebook of 256 values for every weight tensor (paper B, Table 2).

As in ATMC, whom the paper follows (Gui et al., Model compression with adversarial robustness,
NeurIPS 2019): k-means over the values of each tensor, no biases, no norms, no tensor of up to 256
elements. Here those are prunable weights (`pruning.py`). Codebooks of a pruned model are
of its kept weights alone: zeros stay zeros, and cost no value. Activations stay float32.

`quantize` is for a trained model, `ADMM` for training one that will lose little by it;
`avhubert_ext.checkpoints.sparse_file` stores the result in a byte a weight.
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

SIZE = 256  # of a codebook: what a byte can count
ITERATIONS, TOLERANCE = 20, 1e-4  # ATMC's

Codebooks = dict[str, Tensor]


def quantizable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that get a codebook, by name in the model's order."""
    return {name: w for name, w in prunable_weights(model).items() if w.numel() > SIZE}


@torch.no_grad()
def fit_codebook(values: Tensor, size: int = SIZE) -> Tensor:
    """The `size` values that are near to all others: sorted, float32, where `values` are.

    Lloyd's algorithm, at most 20 iterations, exact and with sums in float64: the values that are
    nearest to one center lie side by side once they are sorted. It ends, as ATMC's, when the square
    of all shifts' sum is below 1e-4, here in standard deviations of the values: in absolute units
    the small weights of a network would end it at once. Where no more than `size` values differ the
    codebook holds just these. Raises InputError for values that are not finite.
    """
    ordered = _sorted(values.flatten().float())
    if len(ordered) and not ordered[[0, -1]].isfinite().all():  # NaN comes last
        raise InputError("NaN or infinite values: quantize a checkpoint from before")
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
    return torch.from_numpy(np.sort(values.detach().numpy()))  # torch.sort takes ten times as long


def _start(ordered: Tensor, size: int) -> Tensor:
    """Values of a sorted tensor that lie as dense as the cube root of its density.

    For many centers that is the best they can be (Panter and Dite, 1951). Random values or
    quantiles are as dense as the values: 20 iterations spread them too little to the tails.
    """
    parts = ordered.diff() ** (2 / 3)  # the density there is 1 / gap: its cube root over the gap
    one = float(parts.sum(dtype=torch.float64)) / size  # a wide gap has no use for more
    share = parts.clamp(max=one).cumsum(0, dtype=torch.float64)
    wanted = (torch.arange(size, device=ordered.device) + 0.5) / size * share[-1]
    return ordered[1 + torch.searchsorted(share, wanted)]


def _boundaries(codebook: Tensor) -> Tensor:
    """The largest float32 values that are nearer to an entry than to the next, or in the middle."""
    middle = (codebook[:-1].double() + codebook[1:].double()) / 2
    rounded = middle.float()
    below = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(rounded.double() > middle, below, rounded)


def nearest(values: Tensor, codebook: Tensor) -> Tensor:
    """The index of the nearest entry of a sorted codebook for each value: uint8, their shape."""
    return torch.bucketize(values.float(), _boundaries(codebook), out_int32=True).to(torch.uint8)


def look_up(codebook: Tensor, indices: Tensor) -> Tensor:
    """The entries of a codebook at uint8 indices, in their shape."""
    return codebook[indices.int()]


@torch.no_grad()
def on_codebook(values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Values moved to the nearest entry of a codebook that is fitted to them, and the codebook.

    mask: bool, of their shape; where it is False the result is zero, and the value has no say.
    """
    if mask is None:
        codebook = fit_codebook(values)
        return look_up(codebook, nearest(values, codebook)), codebook
    moved = torch.zeros_like(values)
    moved[mask], codebook = on_codebook(values[mask])
    return moved, codebook


@torch.no_grad()
def quantize(model: nn.Module, masks: Masks | None = None) -> Codebooks:
    """Put the weights of a model, perhaps pruned, on codebooks; returns these by name.

    Raises InputError, which names the tensor, for weights that are NaN or infinite.
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
    """Pulls the weights W of a model to codebooks while it is trained for something else (ATMC).

    Every tensor has a target Z on a codebook and a dual U. `penalty` is rho/2 * ||W + U - Z||^2, to
    be added to the loss; `update`, every few updates of the weights, makes Z the nearest to W + U
    that a codebook allows and adds W - Z to U. Where masks say that weights are pruned, and zero,
    Z and U are zero.
    """

    def __init__(self, rho: float, interval: int) -> None:
        if rho <= 0 or interval < 1:
            raise InputError(
                f"rho {rho:g}, interval {interval}: expected more than 0, and at least 1 update"
            )
        self.rho = rho
        self.interval = interval
        self.updates: int | None = None  # of the weights, when this was last brought up to date
        self.target: dict[str, Tensor] = {}
        self.dual: dict[str, Tensor] = {}

    def advance(self, updates: int, model: nn.Module, masks: Masks | None = None) -> None:
        """Do what is due after so many updates of the weights; the same number again does nothing.

        The first time that is `start`, later `update` after every `interval` of them.
        """
        device = next(model.parameters()).device  # a checkpoint's state comes on the CPU
        self.dual, self.target = _moved(self.dual, device), _moved(self.target, device)
        if self.updates is None:
            self.start(model, masks)
        elif updates != self.updates and updates % self.interval == 0:
            self.update(model, masks)
        self.updates = updates

    @torch.no_grad()
    def start(self, model: nn.Module, masks: Masks | None = None) -> None:
        """Z = the nearest to W on a codebook; U = 0."""
        weights = quantizable_weights(model)
        self.dual = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self._project(weights, masks)

    @torch.no_grad()
    def update(self, model: nn.Module, masks: Masks | None = None) -> None:
        """Z = the nearest to W + U on a codebook; U = U + W - Z."""
        weights = quantizable_weights(model)
        self._project(weights, masks)
        for name, weight in weights.items():
            # Not in place: a checkpoint may be written meanwhile.
            self.dual[name] = self.dual[name] + weight - self.target[name]

    def _project(self, weights: dict[str, nn.Parameter], masks: Masks | None) -> None:
        for name, weight in weights.items():
            mask = masks[name] if masks else None
            self.target[name], _ = on_codebook(weight + self.dual[name], mask)

    def penalty(self, model: nn.Module) -> Tensor:
        """rho/2 * ||W + U - Z||^2 over all tensors, with a gradient for W."""
        parts = [(w + u - z).square().sum() for w, u, z in self._tensors(model)]
        return self.rho / 2 * torch.stack(parts).sum()

    @torch.no_grad()
    def distance(self, model: nn.Module) -> Tensor:
        """||W - Z|| / ||W|| over all tensors."""
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
