"""`--fp16` and `--bf16` with weights that stay in float32.

fairseq casts the model, for --fp16 with half() and for --bf16 with to(dtype=...), and has float32
weights in its optimizer only. Checkpoints would store rounded weights, a resumed training would
start from those, and the running statistics of batch norm would not change where a step is smaller
than the rounding. Autocast avoids this; s3prl's fp16 uses it, too.
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
        """The context for a forward pass on a device; in float32 it changes nothing."""
        if self.dtype not in HALF:
            return nullcontext()
        return torch.autocast(device.type, self.dtype)


class Float32Weights(nn.Module):
    """A fairseq model whose weights stay in float32. Its forward pass applies `precision`."""

    precision: Precision

    def frozen_parameters(self) -> list[nn.Parameter]:
        """The parameters that the current update must not change."""
        return []

    def half(self: T) -> T:
        return self.to(dtype=torch.float16)

    def to(self: T, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> T:
        if dtype is not None:
            self.precision.dtype = dtype
        return super().to(*args, **kwargs)


def check_finite(loss: torch.Tensor, model: Float32Weights, updates: int) -> None:
    """Check a training loss, except in float16, where the loss scaler skips such updates.

    Args:
        loss: The loss of a batch, a scalar.
        model: The model, for its precision.
        updates: How many updates are done, for the message.

    Raises:
        InputError: The loss is NaN or infinite.
    """
    scaled = model.precision.dtype is torch.float16 or torch.is_autocast_enabled()
    if not scaled and not torch.isfinite(loss):
        raise InputError(
            f"the loss is {loss.item()} after {updates} updates: lower the learning rate, then "
            "resume from the last checkpoint with the same command"
        )


def master_copies(optimizer: FairseqOptimizer) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """The float32 copies of parameters that an optimizer changes instead of the parameters.

    With --bf16 there is a copy of each parameter, which shares the memory of a float32 weight. With
    --fp16 there is one flat tensor, and every step copies it back into the model.

    Args:
        optimizer: fairseq's optimizer.

    Yields:
        Each parameter with its copy, which has the same number of elements; nothing without copies.
    """
    copies = getattr(optimizer, "fp32_params", ())
    if isinstance(copies, dict):  # one flat tensor per device
        (flat,) = copies.values()
        copies = flat.split([parameter.numel() for parameter in optimizer.fp16_params])
    if len(copies):
        yield from zip(optimizer.fp16_params, copies, strict=True)


@contextmanager
def unmoved(optimizer: FairseqOptimizer, frozen: list[nn.Parameter]) -> Iterator[None]:
    """The context for a step of the optimizer that must not change the frozen parameters.

    An optimizer skips parameters without a gradient. But legacy DDP fills in zeros, and the copies
    for half precision always have a gradient: weight decay and momentum would change the weights.

    Args:
        optimizer: fairseq's optimizer.
        frozen: The parameters that keep their values, bit for bit.
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
