"""Quantization of ONNX graphs to 8 bits, for ONNX Runtime.

Weights have one scale per output channel and use 7 bits: with 8, sums of two products overflow on
CPUs without VNNI. Activations are uint8. Those of linear layers are scaled at run time, those of
convolutions by calibration clips. The matrix products of attention stay float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avhubert_ext.errors import InputError
from avhubert_ext.export.onnx import quiet

LINEAR = ["MatMul", "Gemm"]
# The operators between two convolutions, where values would otherwise go to float32 and back.
BETWEEN = (
    *("Relu", "Sigmoid", "Mul", "Add", "Concat", "Slice", "Split"),
    *("MaxPool", "AveragePool", "ReduceMean"),
)
FRONTEND = ["Conv", *BETWEEN, *LINEAR]


def quantize_linear(source: Path, target: Path) -> None:
    """Quantize the linear layers of a graph."""
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
    """Quantize a graph of convolutions; clips: calibration values of its `input`."""
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
    """Fold constants, so that no weight is computed from others."""
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
