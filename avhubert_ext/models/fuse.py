"""The form of an encoder for inference: the same function in fewer operations."""

from __future__ import annotations

import copy
from collections import OrderedDict
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from avhubert_ext.models.attention import RelativeAttention
from avhubert_ext.models.blocks import ConformerConvolution, PositionalConvolution
from avhubert_ext.models.frontends import BasicBlock, ResNet18, ShuffleNetV2, Trunk

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def fused(model: M) -> M:
    """A copy of `model` in eval mode with batch norm, weight norm and channel shuffles folded away.

    Its outputs are those of `model` up to rounding; it cannot be trained or saved. What relative
    positions are projected to is kept for the longest clip so far. Where the model is on a CPU now,
    and float32, its ResNet-18 has a faster form for that: see `FramesLastTrunk`.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(model.modules()):
        fold_batch_norms(module)
        if isinstance(module, PositionalConvolution):
            module.fold_weight_norm()
        if isinstance(module, ConformerConvolution):
            module.pointwise1 = as_linear(module.pointwise1)
            module.pointwise2 = as_linear(module.pointwise2)
        if isinstance(module, RelativeAttention) and isinstance(module.pos_proj, nn.Linear):
            module.pos_proj = ProjectedPositions(module.pos_proj)
        if isinstance(module, nn.ReLU | nn.SiLU):
            module.inplace = True
    for module in list(model.modules()):
        if isinstance(module, ShuffleNetV2) and not isinstance(module.stage2, ShuffleFreeStage):
            fold_shuffles(module)
        if isinstance(module, ResNet18) and can_be_packed(module.trunk):
            module.trunk = FramesLastTrunk(module.trunk)
    return model


def fold_batch_norms(module: nn.Module) -> None:
    """Fold each batch norm among the children of `module` into the layer before it."""
    children = list(module.named_children())
    for (name, layer), (norm_name, norm) in pairwise(children):
        if isinstance(layer, (*CONVOLUTIONS, nn.Linear)) and isinstance(norm, BATCH_NORMS):
            fold = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
            setattr(module, name, fold(layer, norm))
            setattr(module, norm_name, nn.Identity())


def as_linear(convolution: nn.Conv1d | nn.Linear) -> nn.Linear:
    """The linear layer that a convolution of kernel 1 is; a layer that is one already stays."""
    if isinstance(convolution, nn.Linear):
        return convolution
    outputs, inputs, _ = convolution.weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight = nn.Parameter(convolution.weight[..., 0].contiguous(), requires_grad=False)
    linear.bias = convolution.bias
    return linear


class ProjectedPositions(nn.Module):
    """`pos_proj` of a RelativeAttention for inference, which keeps its outputs.

    They depend on nothing but the length of a clip, and those for a shorter clip are the middle of
    those for a longer one.
    """

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.weight = projection.weight
        self.register_buffer("kept", self.weight.new_empty(0, len(self.weight)), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """[2T-1, D] -> [2T-1, D]."""
        if torch.compiler.is_compiling() or torch.is_autocast_enabled(positions.device.type):
            return F.linear(positions, self.weight)
        kept = self.kept
        if len(positions) > len(kept):
            kept = self.kept = F.linear(positions, self.weight)
        start = (len(kept) - len(positions)) // 2
        return kept[start : start + len(positions)]


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


def can_be_packed(trunk: Trunk) -> bool:
    """Whether `FramesLastTrunk` is the faster form: float32 on a CPU with AVX-512.

    Without it the order in which oneDNN wants weights depends on how many frames there are.
    """
    weight = next(trunk.parameters())
    return (
        not isinstance(trunk, FramesLastTrunk)
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


class FramesLastTrunk(Trunk):
    """A ResNet-18 trunk for inference on a CPU; batch norms must be folded already.

    oneDNN multiplies matrices with as many rows as the last dimension is long, and leaves padding
    out in all others. A map has 22 to 3 columns, but a clip a hundred frames: so the frames become
    the last dimension, which the kernels, 3x3x1, do not reach over. Weights are put into oneDNN's
    order once. Where that does not serve (GPU, other types, gradients, export) all is as before.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__(OrderedDict(trunk.named_children()))
        self.blocks = [FramesLastBlock(block) for layer in trunk for block in layer]

    def forward(self, frames: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, E, H / 8, W / 8]."""
        if (
            torch.compiler.is_compiling()
            or torch.is_autocast_enabled(frames.device.type)
            or frames.device.type != "cpu"
            or frames.dtype != torch.float32
            or frames.requires_grad
        ):
            return super().forward(frames)
        # A copy in any case: blocks overwrite what they are given.
        x = frames.permute(1, 2, 3, 0)[None].clone(memory_format=torch.channels_last_3d)
        for block in self.blocks:
            x = block(x)
        return x[0].permute(3, 0, 1, 2)


class FramesLastBlock:
    """A BasicBlock for [1, C, H, W, N] with channels last in memory."""

    def __init__(self, block: BasicBlock) -> None:
        self.block = block
        self.conv1, self.conv2 = PackedConvolution(block.conv1), PackedConvolution(block.conv2)

    def __call__(self, x: Tensor) -> Tensor:
        """[1, C, H, W, N] -> [1, E, H', W', N]; `x` is overwritten."""
        residual = x
        if self.block.downsample is not None:
            residual = pointwise(self.block.downsample[0], x)
        y = self.block.relu1(self.conv1(x))
        return self.block.relu2(self.conv2.add_to(residual, y))


def pointwise(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution of [1, C, H, W, N], channels last in memory."""
    stride = convolution.stride[0]
    pixels = x[0, :, ::stride, ::stride].permute(1, 2, 3, 0)
    y = F.linear(pixels, convolution.weight[..., 0, 0], convolution.bias)
    return y.permute(3, 0, 1, 2)[None]


class PackedConvolution:
    """A 3x3 convolution over H and W of [1, C, H, W, N], channels last in memory."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        stride, padding = convolution.stride[0], convolution.padding[0]
        self.geometry = ([padding, padding, 0], [stride, stride, 1], [1, 1, 1], 1)
        weight = convolution.weight[..., None].contiguous(memory_format=torch.channels_last_3d)
        typical = [1, convolution.in_channels, 22, 22, 100]
        self.weight = torch.ops.aten.mkldnn_reorder_conv3d_weight(
            weight.to_mkldnn(), *self.geometry, typical
        )
        self.bias = convolution.bias

    def __deepcopy__(self, memo: dict[int, object]) -> PackedConvolution:
        return self  # PyTorch cannot copy such weights, and nobody changes them

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, "none", [], None
        )

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """`y` plus the convolution of `x`, in the memory of `y`."""
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            y, x, self.weight, self.bias, *self.geometry, "add", 1.0, None, [], None
        )
