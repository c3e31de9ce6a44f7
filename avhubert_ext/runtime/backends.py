"""Graph runtimes on the CPU: a graph becomes a function from named arrays to named arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from avhubert_ext.errors import InputError

Arrays = dict[str, np.ndarray]
RunGraph = Callable[[Arrays], Arrays]


def open_onnx(path: Path, outputs: list[str], threads: int) -> RunGraph:
    """Open a graph with ONNX Runtime; threads: 0 for the default."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError("onnxruntime is missing: pip install 'avhubert-ext[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised, so it need not print them as well
    # Spinning threads would take the cores from the graph that runs next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: dict(zip(outputs, session.run(outputs, inputs), strict=True))


def open_openvino(path: Path, outputs: list[str], threads: int) -> RunGraph:
    """Open a graph with OpenVINO, in float32: by default it would use bfloat16 if available."""
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    request = openvino_core().compile_model(path, "CPU", settings).create_infer_request()

    def run(inputs: Arrays) -> Arrays:
        found = request.infer(inputs, share_inputs=True)
        return {name: found[name] for name in outputs}

    return run


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry.

    Raises:
        InputError: If it is not installed.
    """
    # Importing it and converting a model are reported to Intel, unless this module is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise InputError("openvino is missing: pip install 'avhubert-ext[openvino]'") from None
    return openvino


@cache
def openvino_core() -> Any:
    """Return OpenVINO's `Core`, the same one in the whole process.

    On CPUs with AMX each `Core` sets a stack for signal handlers, and one that is deleted after a
    newer one leaves it in unmapped memory: the next signal, such as the end of a child process,
    kills the process.

    Raises:
        InputError: If OpenVINO is not installed.
    """
    return import_openvino().Core()


@dataclass(frozen=True)
class Backend:
    """How a format is run. endings: of a graph's files, starting with the one to open."""

    endings: tuple[str, ...]
    open: Callable[[Path, list[str], int], RunGraph]


BACKENDS = {
    "onnx": Backend(("onnx",), open_onnx),
    "openvino": Backend(("xml", "bin"), open_openvino),
}
