"""Graphs as programs of `torch.export`, which PyTorch runs without this library's code."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from avhubert_ext.data.files import whole_file
from avhubert_ext.export.graphs import Graph
from avhubert_ext.export.onnx import dynamic_shapes

SMALLEST = 1e-10  # scale of activations, so that zeros are not divided by zero


def write_program(graph: Graph, path: Path, int8: bool) -> None:
    """Write PATH.pt2; with `int8` its linear layers are `Int8Linear`."""
    module = with_int8_linear(graph.module) if int8 else graph.module
    program = torch.export.export(
        module.eval(), (), dict(graph.inputs), dynamic_shapes=dynamic_shapes(graph)
    )
    buffer = io.BytesIO()  # a file's name would have to end in .pt2
    torch.export.save(program, buffer)
    with whole_file(path.with_name(f"{path.name}.pt2")) as temporary:
        temporary.write_bytes(buffer.getvalue())


def with_int8_linear(module: nn.Module) -> nn.Module:
    """A copy with its linear layers in 8 bits."""
    module = copy.deepcopy(module)
    if isinstance(module, nn.Linear):
        return Int8Linear(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Int8Linear(child))
    return module


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, a scale for each output; so are its inputs, for each row.

    The products are summed in int32. [..., D] -> [..., E].
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.abs().amax(dim=1).clamp(min=SMALLEST) / 127
        self.register_buffer("weight", (linear.weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST) / 127
        rows = (x / scale).round().to(torch.int8).flatten(0, -2)
        sums = torch._int_mm(rows, self.weight.t()).unflatten(0, x.shape[:-1])
        y = sums * (scale * self.scale)
        return y if self.bias is None else y + self.bias
