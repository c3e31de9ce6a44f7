"""Whether unstructured sparsity saves time on the CPU: pruned layers and encoders, dense and CSR.

Weights are random, and every linear layer is pruned to the same sparsity by magnitude. PyTorch
multiplies CSR (compressed sparse rows) matrices with MKL. Before a backend is timed, its output is
compared with that of the dense layer.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avhubert_ext.benchmarks.encoder import fresh_encoder
from avhubert_ext.benchmarks.timing import Features, Run, machine, medians, time_in_turn
from avhubert_ext.checkpoints.description import EncoderNetwork
from avhubert_ext.compression.pruning import apply_masks, check_sparsity, global_magnitude_mask
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.models.presets import full_name
from avhubert_ext.progress import Progress

Case = tuple[str, str, float, str]  # preset, what is timed, sparsity, backend

LAYER_ROUNDS = 10  # rounds of the layers per round of the encoders, which take far longer
TOLERANCE = 1e-4  # relative to the largest output: float32 sums in another order
HALF_TOLERANCE = 1e-2
MARGIN = 1.1  # a smaller speed-up is noise


class CsrLinear(nn.Module):
    """A linear layer with its weight as CSR, for inference on a CPU: [..., I] -> [..., O]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            csr = linear.weight.detach().to_sparse_csr()
            # MKL uses 32-bit indices here; PyTorch would convert longer ones in every call.
            indices = csr.crow_indices().int(), csr.col_indices().int()
            self.weight = torch.sparse_csr_tensor(*indices, csr.values(), csr.shape)
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        self.bias = bias[:, None]

    def forward(self, x: Tensor) -> Tensor:
        # `F.linear` multiplies from the other side, which takes two to three times as long.
        y = torch.addmm(self.bias, self.weight, x.reshape(-1, x.shape[-1]).t())
        return y.t().unflatten(0, x.shape[:-1])


def dense(linear: nn.Linear, x: Tensor, threads: int) -> Run:
    """Run PyTorch's linear layer."""
    return partial(linear, x)


def csr(linear: nn.Linear, x: Tensor, threads: int) -> Run:
    """Run the layer as CSR, with MKL."""
    return partial(CsrLinear(linear), x)


def onnx(linear: nn.Linear, x: Tensor, threads: int) -> Run:
    """Run the pruned layer in ONNX Runtime, which has no sparse kernels and computes it densely."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = onnx_model(linear, x)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {"x": x.numpy()}
    return lambda: session.run(None, inputs)[0]


def openvino(linear: nn.Linear, x: Tensor, threads: int) -> Run:
    """Run the pruned layer in OpenVINO, densely too: it decompresses sparse 8-bit weights only."""
    from avhubert_ext.runtime.backends import openvino_core

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino_core()
    model = core.compile_model(core.read_model(onnx_model(linear, x)), "CPU", settings)
    request = model.create_infer_request()
    inputs = x.numpy()
    return lambda: request.infer([inputs])[0]


# What a layer is timed on, and the packages that some of it needs.
BACKENDS: dict[str, Callable[[nn.Linear, Tensor, int], Run]] = {
    "dense": dense,
    "csr": csr,
    "onnx": onnx,
    "openvino": openvino,
}
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
SEMI_STRUCTURED = "semi_structured"
NAMES = {
    "dense": "dense",
    "csr": "CSR",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    SEMI_STRUCTURED: "2:4 sparsity",
}
ENCODERS = {
    "encoder": "whole encoder, fused, with its linear layers as CSR",
    "blocks": "the same after the frontends",
}


def onnx_model(linear: nn.Linear, x: Tensor) -> bytes:
    """A linear layer for inputs `x` [T, I] as a serialized ONNX model: `x` -> `y` [T, O]."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {"weight": linear.weight, "bias": linear.bias}
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", *weights], ["y"], transB=1)],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(x), linear.out_features])],
        [numpy_helper.from_array(w.detach().numpy(), name) for name, w in weights.items()],
    )
    opset = helper.make_opsetid("", 17)
    # An old version of the format, which any runtime reads.
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


@dataclass(frozen=True)
class Shape:
    """The linear layers of one shape in an encoder: their names, and how many there are."""

    outputs: int
    inputs: int
    names: tuple[str, ...]
    count: int

    def __str__(self) -> str:
        return f"{self.outputs}x{self.inputs}"


def layer_shapes(encoder: nn.Module) -> list[Shape]:
    """The shapes of an encoder's linear layers, pointwise convolutions over time included."""
    found: dict[tuple[int, int], list[str]] = {}
    for name, module in encoder.named_modules():
        pointwise = isinstance(module, nn.Conv1d) and module.kernel_size == (1,)
        if pointwise or isinstance(module, nn.Linear):
            shape = tuple(module.weight.shape[:2])
            found.setdefault(shape, []).append(name.rpartition(".")[2])
    return [Shape(*shape, tuple(dict.fromkeys(n)), len(n)) for shape, n in found.items()]


def prune_each(model: nn.Module, sparsity: float) -> nn.Module:
    """Prune every linear layer of `model` in place to exactly this sparsity; returns the model."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            apply_masks(module, global_magnitude_mask(module, sparsity))
    return model


def with_csr(model: nn.Module) -> nn.Module:
    """Replace the linear layers of `model` by CSR ones in place; returns the model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, CsrLinear(child))
    return model


def benchmark_sparsity(
    models: list[str],
    sparsities: list[float],
    threads: int = 1,
    frames: int = 100,
    rounds: int = 5,
) -> dict[str, Any]:
    """Time layers and encoders, pruned to several sparsities.

    Args:
        models: presets, see `full_name`.
        sparsities: shares of pruned weights, in [0, 1).
        threads: number of CPU threads. With one thread CPU time is measured, which other processes
            disturb less.
        frames: length of the clip in video frames.
        rounds: number of times that each encoder is timed; layers are timed `LAYER_ROUNDS` times as
            often.

    Returns:
        The conditions; under `layers` and `encoders` the median seconds of each backend by preset,
        what is timed and sparsity; under `semi_structured` those of 2:4 sparsity.

    Raises:
        InputError: if a preset is unknown, a sparsity is invalid or PyTorch was built without MKL.
        RuntimeError: if the output of a backend differs from that of the dense layer.
    """
    for sparsity in sparsities:
        check_sparsity(sparsity)
    if not torch.backends.mkl.is_available():
        raise InputError(
            "this PyTorch was built without MKL, which multiplies CSR; install another"
        )
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clock = time.process_time if threads == 1 else time.perf_counter
    missing = unavailable()
    clip = Features.random(frames)
    with torch.device("meta"):
        shapes = {name: layer_shapes(fresh_encoder(full_name(name))) for name in models}
    backends = [backend for backend in BACKENDS if backend not in missing]
    whole: dict[Case, float] = {}
    with torch.no_grad():
        # Runs hold weights in every form, so no name here keeps them longer than needed.
        layers = medians(
            time_in_turn(
                _layer_runs(shapes, sparsities, backends, frames, threads),
                LAYER_ROUNDS * rounds,
                clock,
            )
        )
        for name in models:
            encoder = fresh_encoder(full_name(name)).eval().fuse()
            for sparsity in sorted(sparsities):  # pruned weights stay pruned
                prune_each(encoder, sparsity)
                whole |= medians(
                    time_in_turn(_encoder_runs(name, encoder, sparsity, clip), rounds, clock)
                )
        half = [] if SEMI_STRUCTURED in missing else _time_semi_structured(shapes, frames, rounds)
    return {
        "machine": machine(),
        "threads": threads,
        "clock": "CPU time" if threads == 1 else "wall-clock time",
        "frames": frames,
        "rounds": {"layers": LAYER_ROUNDS * rounds, "encoders": rounds},
        "unavailable": missing,
        "shapes": {name: {str(s): asdict(s) for s in found} for name, found in shapes.items()},
        "layers": _results(layers),
        "encoders": _results(whole),
        SEMI_STRUCTURED: half,
    }


def unavailable() -> dict[str, str]:
    """The backends that cannot be timed here, with the reason."""
    missing = {b: [p for p in ps if find_spec(p) is None] for b, ps in PACKAGES.items()}
    reasons = {b: f"not installed: {', '.join(ps)}" for b, ps in missing.items() if ps}
    if not torch.cuda.is_available():
        reasons[SEMI_STRUCTURED] = "PyTorch supports it on CUDA only, and there is no such device"
    return reasons


def _layer_runs(
    shapes: dict[str, list[Shape]],
    sparsities: list[float],
    backends: list[str],
    frames: int,
    threads: int,
) -> dict[Case, Run]:
    runs: dict[Case, Run] = {}
    for name, found in shapes.items():
        for shape in Progress(found, desc=f"layers of {name}", unit="layer", leave=False):
            x = torch.randn(frames, shape.inputs)
            for sparsity in sparsities:
                linear = prune_each(nn.Linear(shape.inputs, shape.outputs), sparsity)
                for backend in backends:
                    run = BACKENDS[backend](linear, x, threads)
                    check_outputs(f"{backend}, {shape}", run(), linear(x))
                    runs[name, str(shape), sparsity, backend] = run
    return runs


def _encoder_runs(
    name: str, encoder: EncoderNetwork, sparsity: float, clip: Features
) -> dict[Case, Run]:
    """A whole fused encoder on a clip, and the part of it after the frontends."""
    forms = {"dense": encoder, "csr": with_csr(copy.deepcopy(encoder))}
    outputs = torch.randn(1, clip.video.shape[2], _blocks_width(encoder))
    runs: dict[Case, Run] = {}
    for backend, form in forms.items():
        runs[name, "encoder", sparsity, backend] = partial(_encode, form, clip)
        runs[name, "blocks", sparsity, backend] = partial(_run_blocks, form, outputs)
    for what in ("encoder", "blocks"):
        found, expected = (runs[name, what, sparsity, backend]() for backend in ("csr", "dense"))
        check_outputs(f"csr, {what} of {name}", found, expected)
    return runs


def _encode(encoder: EncoderNetwork, clip: Features) -> Tensor:
    """The output of an encoder, [1, T, D]."""
    output = encoder(**clip.inputs(encoder))
    return output if isinstance(encoder, ConformerEncoder) else output.last_hidden_state


def _blocks_width(encoder: EncoderNetwork) -> int:
    """The width of the input of `_run_blocks`."""
    if isinstance(encoder, ConformerEncoder):
        return encoder.video.frontend.out_channels
    return encoder.config.dim


def _run_blocks(encoder: EncoderNetwork, x: Tensor) -> Tensor:
    """Run what follows the frontends: [1, T, C] -> [1, T, D].

    The input is the ResNet's output in a lip reader, and otherwise both streams fused.
    """
    if isinstance(encoder, ConformerEncoder):
        return encoder.video(x, None)
    return encoder.encoder(x, None)[-1]


def check_outputs(name: str, found: Any, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Raise a RuntimeError if a backend's output, a tensor or array, is not the dense layer's."""
    error = (torch.as_tensor(found) - expected).abs().max() / expected.abs().max()
    if not error <= tolerance:
        raise RuntimeError(f"{name}: differs from the dense output by {error:.1e} of its maximum")


def _results(medians: dict[Case, float]) -> list[dict[str, Any]]:
    """One result per preset, thing that is timed and sparsity, with the seconds of all backends."""
    found: dict[tuple[str, str, float], dict[str, float]] = {}
    for (*place, backend), seconds in medians.items():
        found.setdefault(tuple(place), {})[backend] = seconds
    return [
        {"preset": preset, "what": what, "sparsity": sparsity, "seconds": seconds}
        | {"speed_up": seconds["dense"] / seconds["csr"], "faster": is_faster(seconds)}
        for (preset, what, sparsity), seconds in found.items()
    ]


def is_faster(seconds: dict[str, float]) -> bool:
    """Whether CSR is faster than every dense backend by more than the noise."""
    return min(s for b, s in seconds.items() if b != "csr") > MARGIN * seconds["csr"]


def _time_semi_structured(
    shapes: dict[str, list[Shape]], frames: int, rounds: int
) -> list[dict[str, Any]]:
    """Time 2:4 sparsity against dense layers, float16 on a GPU, in wall-clock time.

    PyTorch's kernels accept multiples of 64 only; other layers are left out.
    """
    results = []
    for name, found in shapes.items():
        for shape in found:
            if shape.outputs % 64 or shape.inputs % 64:
                continue
            x = torch.randn(frames, shape.inputs, device="cuda", dtype=torch.float16)
            weight = two_of_four(torch.randn(shape.outputs, shape.inputs)).to(x)
            sparse = torch.sparse.to_sparse_semi_structured(weight)
            check_outputs(f"2:4, {shape}", F.linear(x, sparse), F.linear(x, weight), HALF_TOLERANCE)
            runs = {"dense": partial(_on_gpu, x, weight), "2:4": partial(_on_gpu, x, sparse)}
            seconds = medians(time_in_turn(runs, LAYER_ROUNDS * rounds))
            results.append({"preset": name, "what": str(shape), "seconds": seconds})
    return results


def two_of_four(weight: Tensor) -> Tensor:
    """Set the two smallest of every four weights in a row to zero: [O, I] -> [O, I]."""
    groups = weight.unflatten(1, (-1, 4))
    smallest = groups.abs().argsort(dim=-1)[..., :2]
    return groups.scatter(-1, smallest, 0.0).flatten(1)


def _on_gpu(x: Tensor, weight: Tensor) -> None:
    F.linear(x, weight)
    torch.cuda.synchronize()


def text_table(report: dict[str, Any]) -> str:
    """The report for a terminal, one line per layer and sparsity, then per encoder and sparsity."""
    rounds = report["rounds"]
    lines = [
        f"{report['frames']} frames, {report['threads']} thread(s), float32, median "
        f"{report['clock']} of {rounds['layers']} rounds of the layers and {rounds['encoders']} of "
        "the encoders;",
        f"{report['machine']['cpu']}",
        "speed-up: dense over CSR, both in PyTorch; faster: CSR beats all dense backends by 10% or "
        "more.",
        "ONNX Runtime and OpenVINO have no kernels for such sparsity and compute densely.",
        "Layers: outputs x inputs, their number in the encoder, their names.",
        *(f"Not timed: {NAMES[backend]} ({why})" for backend, why in report["unavailable"].items()),
    ]
    for preset, shapes in report["shapes"].items():
        for name, shape in shapes.items():
            rows = _rows(report["layers"], preset, name)
            names = ", ".join(shape["names"])
            title = f"{preset}, {name}, {shape['count']} of: {names}"
            lines += ["", title, *_table(rows)]
        for what, title in ENCODERS.items():
            lines += ["", f"{preset}, {title}", *_table(_rows(report["encoders"], preset, what))]
    for r in report[SEMI_STRUCTURED]:
        times = ", ".join(f"{backend} {1000 * s:.3f} ms" for backend, s in r["seconds"].items())
        lines.append(f"{r['preset']}, {r['what']}, {NAMES[SEMI_STRUCTURED]}: {times}")
    return "\n".join(lines)


def _rows(results: list[dict[str, Any]], preset: str, what: str) -> list[dict[str, Any]]:
    return [r for r in results if r["preset"] == preset and r["what"] == what]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    backends = list(rows[0]["seconds"])
    lines = [f"{'sparsity':>10}" + "".join(f"{NAMES[b] + ' ms':>18}" for b in backends)]
    lines[0] += f"{'speed-up':>10}{'faster':>8}"
    for r in rows:
        times = "".join(f"{1000 * r['seconds'][b]:>18.3f}" for b in backends)
        faster = "yes" if r["faster"] else "no"
        lines.append(f"{r['sparsity']:>10.2f}{times}{r['speed_up']:>10.2f}{faster:>8}")
    return lines
