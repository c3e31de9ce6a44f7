"""`--fp16` and `--bf16` without giving up float32 weights.

fairseq casts the model for --fp16 with half() and for --bf16 with to(dtype=...), and keeps float32
weights in its optimizer alone: a checkpoint would hold rounded ones, a resumed run go on from
those, and batch norm's running statistics stop moving where a step is below rounding. Autocast has
none of this, and is what s3prl's fp16 does too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from fairseq.optim import FairseqOptimizer
from torch import Tensor, nn

from avhubert_ext.errors import InputError

HALF = (torch.float16, torch.bfloat16)

T = TypeVar("T", bound="Float32Weights")


class Precision:
    """The precision of matrix products and convolutions, shared by a model and its parts."""

    def __init__(self) -> None:
        self.dtype = torch.float32

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """Around a forward; in float32 it leaves things as they are around the call."""
        if self.dtype not in HALF:
            return nullcontext()
        return torch.autocast(device.type, self.dtype)


class Float32Weights(nn.Module):
    """A fairseq model whose weights stay float32; its `precision` is for its forward to apply."""

    precision: Precision

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Those that the update in progress must not change."""
        return []

    def half(self: T) -> T:
        return self.to(dtype=torch.float16)

    def to(self: T, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> T:
        if dtype is not None:
            self.precision.dtype = dtype
        return super().to(*args, **kwargs)


def check_finite(loss: torch.Tensor, model: Float32Weights, updates: int) -> None:
    """Raise an InputError for a training loss that is NaN or infinite.

    Not in float16, where it is the loss scaler's affair, which skips such updates.
    """
    scaled = model.precision.dtype is torch.float16 or torch.is_autocast_enabled()
    if not scaled and not torch.isfinite(loss):
        raise InputError(
            f"the loss is {loss.item()} after {updates} updates: lower the learning rate, then go "
            "on from the last checkpoint with the same command"
        )


def master_copies(optimizer: FairseqOptimizer) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """The parameters and the float32 copies of them that an optimizer steps, if it keeps any.

    --bf16 has a copy of each, which shares the memory of a float32 weight; --fp16 has one flat
    tensor of all, from which every step writes the weights back into the model.
    """
    copies = getattr(optimizer, "fp32_params", ())
    if isinstance(copies, dict):  # one flat tensor a device
        (flat,) = copies.values()
        copies = flat.split([parameter.numel() for parameter in optimizer.fp16_params])
    if len(copies):
        yield from zip(optimizer.fp16_params, copies, strict=True)


@contextmanager
def unmoved(optimizer: FairseqOptimizer, frozen: list[nn.Parameter]) -> Iterator[None]:
    """A step of the optimizer that leaves the frozen parameters as they are, bit for bit.

    An optimizer skips a parameter without a gradient. But legacy DDP makes gradients of zeros, and
    copies for half precision always have one: weight decay and momentum would move the weights.
    """
    for parameter in frozen:
        parameter.grad = None
    known = {id(parameter) for parameter in frozen}
    with torch.no_grad():
        before = [
            (parameter, copy, parameter.clone())
            for parameter, copy in master_copies(optimizer)
            if id(parameter) in known
        ]
    yield
    with torch.no_grad():
        for parameter, copy, value in before:
            parameter.copy_(value)
            copy.copy_(value.view_as(copy))
