"""Export of graphs to OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from avhubert_ext.export.graphs import Graph
from avhubert_ext.export.onnx import write_onnx
from avhubert_ext.runtime.backends import import_openvino


def write_openvino(graph: Graph, path: Path, int8: bool) -> None:
    """Write `path`.xml and `path`.bin.

    Raises:
        InputError: If a package is missing.
    """
    openvino = import_openvino()
    onnx = path.with_name(f"{path.name}.onnx")
    try:
        write_onnx(graph, onnx)
        model = openvino.convert_model(onnx)
    finally:
        onnx.unlink(missing_ok=True)
    if int8:
        compress_linear(model)
    openvino.save_model(model, path.with_name(f"{path.name}.xml"), compress_to_fp16=False)


def compress_linear(model: Any) -> None:
    """Store the weights of an openvino.Model's linear layers as int8, with one scale per output.

    At run time OpenVINO also quantizes the activations, group by group.
    """
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        source = node.input_value(1).get_node()
        if source.get_type_name() != "Constant" or source.get_output_partial_shape(0).rank != 2:
            continue
        weight = source.get_data()
        inputs = 1 if node.get_attributes()["transpose_b"] else 0
        scale = np.abs(weight).max(axis=inputs, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1
        stored = ops.convert(ops.constant(np.round(weight / scale).astype(np.int8)), "f32")
        product = ops.multiply(stored, ops.constant(scale))
        node.input(1).replace_source_output(product.output(0))
    model.validate_nodes_and_infer_types()
