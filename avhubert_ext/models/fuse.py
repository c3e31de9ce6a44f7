"""Networks for inference: the same function with fewer operations."""

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
    """A faster copy of a model for inference, in eval mode.

    Batch norm, weight norm and channel shuffles are folded into other layers. The projected
    relative positions are kept for the longest clip so far. A ResNet-18 that is on a CPU in float32
    now gets a faster form, see `FramesLastTrunk`.

    Args:
        model: An encoder, a recognizer, or a part of one; it does not change.

    Returns:
        A model with the same outputs up to rounding. It cannot be trained or saved.
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
    """A convolution with kernel 1 as a linear layer; a linear layer is returned as it is."""
    if isinstance(convolution, nn.Linear):
        return convolution
    outputs, inputs, _ = convolution.weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight = nn.Parameter(convolution.weight[..., 0].contiguous(), requires_grad=False)
    linear.bias = convolution.bias
    return linear


class ProjectedPositions(nn.Module):
    """`pos_proj` of a RelativeAttention for inference, which keeps its outputs.

    The outputs depend only on the length of a clip, and those of a shorter clip are the middle part
    of those of a longer clip.
    """

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.weight = projection.weight
        self.register_buffer("kept", self.weight.new_empty(0, len(self.weight)), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """The projected positions: [2T-1, D] -> [2T-1, D]."""
        if torch.compiler.is_compiling() or torch.is_autocast_enabled(positions.device.type):
            return F.linear(positions, self.weight)
        kept = self.kept
        if len(positions) > len(kept):
            kept = self.kept = F.linear(positions, self.weight)
        start = (len(kept) - len(positions)) // 2
        return kept[start : start + len(positions)]


def fold_shuffles(trunk: ShuffleNetV2) -> None:
    """Replace the stages of `trunk` by stages without channel shuffles."""
    order = None
    for name in ("stage2", "stage3", "stage4"):
        stage = ShuffleFreeStage(getattr(trunk, name), order)
        setattr(trunk, name, stage)
        order = stage.order
    reorder_inputs(trunk.conv5, order)


class ShuffleFreeStage(nn.Module):
    """A stage of ShuffleNetV2 for inference; its batch norms must be folded already.

    A channel shuffle only decides which channels the next units process. Here each channel stays in
    the tensor in which its unit wrote it until it is needed. The weights of the unit that processes
    it are in the order in which the channels arrive, so nothing is shuffled, and half as much is
    copied.

    Args:
        stage: The original stage.
        inputs: The index of each input channel in the input of the original stage; None if the
            order is the same.
    """

    def __init__(self, stage: nn.Sequential, inputs: list[int] | None) -> None:
        super().__init__()
        first, *units = stage
        self.branch1, self.branch2 = first.branch1, first.branch2
        if inputs is not None:
            reorder_inputs(self.branch1, inputs)
            reorder_inputs(self.branch2, inputs)
        self.branches = nn.ModuleList(unit.branch2 for unit in units)
        self.kept: list[list[int]] = []  # for each unit, how many channels of each tensor stay
        half = self.branch2[-3].out_channels
        made = [list(range(0, 2 * half, 2)), list(range(1, 2 * half, 2))]
        waiting = made  # positions of the channels in the shuffled order, ascending
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
    """Change `layers` so that they expect input channel `order[i]` at index i."""
    for layer in layers:
        if not isinstance(layer, nn.Conv2d):
            continue
        if layer.groups == 1:
            layer.weight.data = layer.weight[:, order].contiguous()
            return
        layer.weight.data, layer.bias.data = layer.weight[order].contiguous(), layer.bias[order]


def can_be_packed(trunk: Trunk) -> bool:
    """Whether `FramesLastTrunk` works and is faster: in float32 on a CPU with AVX-512.

    On other CPUs the order of the weights that oneDNN expects depends on the number of frames.
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
    """A ResNet-18 trunk for inference on a CPU; its batch norms must be folded already.

    oneDNN multiplies matrices with as many rows as the last dimension has elements, and skips
    padding in all other dimensions. A feature map has 22 to 3 columns, but a clip has about a
    hundred frames. So the frames become the last dimension, with kernels of 3x3x1. The weights are
    brought into oneDNN's order once. In all other cases (GPU, other types, gradients, export) the
    original trunk is used.
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
        # Always a copy, because the blocks overwrite their input.
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
    """A 3x3 convolution over H and W of [1, C, H, W, N] with channels last in memory."""

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
        return self  # PyTorch cannot copy such weights, and nothing changes them

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, "none", [], None
        )

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """The sum of `y` and the convolution of `x`, written to `y`."""
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            y, x, self.weight, self.bias, *self.geometry, "add", 1.0, None, [], None
        )
