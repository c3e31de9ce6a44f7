"""What runs a graph: a function from arrays by name to arrays by name, on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from avhubert_ext.errors import InputError

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]


def open_onnx(path: Path, outputs: list[str], threads: int) -> Run:
    """ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError("onnxruntime is missing: pip install 'avhubert-ext[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised: no lines of its own beside ours
    # Threads that wait awake take the cores from those of the graph that runs next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: dict(zip(outputs, session.run(outputs, inputs), strict=True))


def open_openvino(path: Path, outputs: list[str], threads: int) -> Run:
    """OpenVINO, in float32 where the graph is: it would take bfloat16 if the CPU has it."""
    openvino = import_openvino()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

    def run(inputs: Arrays) -> Arrays:
        found = request.infer(inputs, share_inputs=True)
        return {name: found[name] for name in outputs}

    return run


def import_openvino() -> ModuleType:
    """OpenVINO without its telemetry. Raises InputError if it is missing."""
    # Whoever imports it tells Intel so, and of each conversion; where this is missing it goes on.
    sys.modules.setdefault("openvino_telemetry", None)
    try:
        import openvino
    except ImportError:
        raise InputError("openvino is missing: pip install 'avhubert-ext[openvino]'") from None
    return openvino


@dataclass(frozen=True)
class Backend:
    """What runs a format. endings: of a graph's files, the one that is opened first."""

    endings: tuple[str, ...]
    open: Callable[[Path, list[str], int], Run]


BACKENDS = {
    "onnx": Backend(("onnx",), open_onnx),
    "openvino": Backend(("xml", "bin"), open_openvino),
}
