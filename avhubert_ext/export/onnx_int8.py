"""ONNX graphs in 8 bits, for ONNX Runtime.

Weights have a scale for each output channel, and 7 bits: with 8, CPUs that lack VNNI overflow in
sums of two products. Activations are uint8: those of linear layers are scaled when the graph runs,
those of convolutions by what clips showed before. Attention's own products stay float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avhubert_ext.errors import InputError
from avhubert_ext.export.onnx import quiet

LINEAR = ["MatMul", "Gemm"]
# All that lies between two convolutions, or values would become float32 and 8 bits again there.
BETWEEN = (
    *("Relu", "Sigmoid", "Mul", "Add", "Concat", "Slice", "Split"),
    *("MaxPool", "AveragePool", "ReduceMean"),
)
FRONTEND = ["Conv", *BETWEEN, *LINEAR]


def quantize_linear(source: Path, target: Path) -> None:
    """Write a graph with its linear layers in 8 bits."""
    quantization = _quantization()
    with quiet():
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=LINEAR,
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def quantize_frontend(source: Path, target: Path, clips: list[np.ndarray]) -> None:
    """Write a graph of convolutions in 8 bits; clips: what its `input` may be."""
    quantization = _quantization()
    folded = target.with_name(f"{target.name}.folded")

    class Clips(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(clips)

        def get_next(self) -> dict[str, np.ndarray] | None:
            clip = next(self.left, None)
            return None if clip is None else {"input": clip}

    try:
        _fold(source, folded)
        with quiet():
            quantization.quantize_static(
                folded,
                target,
                Clips(),
                op_types_to_quantize=FRONTEND,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    finally:
        folded.unlink(missing_ok=True)


def _fold(source: Path, target: Path) -> None:
    """Write a graph in which all weights are constants, none computed from others."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _quantization() -> object:
    try:
        from onnxruntime import quantization
    except ImportError:
        raise InputError("onnxruntime is missing: pip install 'avhubert-ext[export]'") from None
    return quantization
