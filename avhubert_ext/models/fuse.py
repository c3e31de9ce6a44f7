"""The form of an encoder for inference: the same function in fewer operations."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from avhubert_ext.models.blocks import PositionalConvolution
from avhubert_ext.models.frontends import ShuffleNetV2

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def fused(model: M) -> M:
    """A copy of `model` in eval mode with batch norm, weight norm and channel shuffles folded away.

    Its outputs are those of `model` up to rounding; it cannot be trained or saved.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(model.modules()):
        fold_batch_norms(module)
        if isinstance(module, PositionalConvolution):
            module.fold_weight_norm()
        if isinstance(module, nn.ReLU):
            module.inplace = True
    for module in list(model.modules()):
        if isinstance(module, ShuffleNetV2) and not isinstance(module.stage2, ShuffleFreeStage):
            fold_shuffles(module)
    return model


def fold_batch_norms(module: nn.Module) -> None:
    """Fold each batch norm among the children of `module` into the convolution before it."""
    children = list(module.named_children())
    for (name, convolution), (norm_name, norm) in pairwise(children):
        if isinstance(convolution, CONVOLUTIONS) and isinstance(norm, BATCH_NORMS):
            setattr(module, name, fuse_conv_bn_eval(convolution, norm))
            setattr(module, norm_name, nn.Identity())


def fold_shuffles(trunk: ShuffleNetV2) -> None:
    """Replace the stages of `trunk` by ones without channel shuffles."""
    order = None
    for name in ("stage2", "stage3", "stage4"):
        stage = ShuffleFreeStage(getattr(trunk, name), order)
        setattr(trunk, name, stage)
        order = stage.order
    reorder_inputs(trunk.conv5, order)


class ShuffleFreeStage(nn.Module):
    """A stage of ShuffleNetV2 for inference; batch norms must be folded already.

    A channel shuffle only decides which channels the coming units process. Here each channel waits
    in the tensor that its unit made until it is due, and the unit that processes it has its weights
    in the order in which the channels arrive: nothing is shuffled, and half as much is copied.
    """

    def __init__(self, stage: nn.Sequential, inputs: list[int] | None) -> None:
        """`inputs`: which channel of the original stage each channel of the input is."""
        super().__init__()
        first, *units = stage
        self.branch1, self.branch2 = first.branch1, first.branch2
        if inputs is not None:
            reorder_inputs(self.branch1, inputs)
            reorder_inputs(self.branch2, inputs)
        self.branches = nn.ModuleList(unit.branch2 for unit in units)
        self.kept: list[list[int]] = []  # for each unit and waiting tensor: channels that stay
        half = self.branch2[-3].out_channels
        made = [list(range(0, 2 * half, 2)), list(range(1, 2 * half, 2))]
        waiting = made  # the position of each waiting channel in the shuffled order, ascending
        for branch in self.branches:
            kept = [sum(p < half for p in positions) for positions in waiting]
            due = [p for positions, k in zip(waiting, kept, strict=True) for p in positions[k:]]
            reorder_inputs(branch, [p - half for p in due])
            self.kept.append(kept)
            waiting = [[2 * p for p in ps[:k]] for ps, k in zip(waiting, kept, strict=True)]
            waiting = [*(positions for positions in waiting if positions), made[1]]
        self.order = [p for positions in waiting for p in positions]

    def forward(self, x: Tensor) -> Tensor:
        waiting = [self.branch1(x), self.branch2(x)]
        for kept, branch in zip(self.kept, self.branches, strict=True):
            pairs = list(zip(waiting, kept, strict=True))
            due = torch.cat([y[:, k:] for y, k in pairs if k < y.shape[1]], dim=1)
            waiting = [*(y[:, :k] for y, k in pairs if k), branch(due)]
        return torch.cat(waiting, dim=1)


def reorder_inputs(layers: nn.Sequential, order: list[int]) -> None:
    """Make `layers` expect input channel `order[i]` at place i."""
    for layer in layers:
        if not isinstance(layer, nn.Conv2d):
            continue
        if layer.groups == 1:
            layer.weight.data = layer.weight[:, order].contiguous()
            return
        layer.weight.data, layer.bias.data = layer.weight[order].contiguous(), layer.bias[order]
