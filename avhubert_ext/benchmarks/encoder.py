"""How long encoders take: all models and backends side by side on one clip, on the CPU."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from avhubert_ext.benchmarks.plain import plain_forward
from avhubert_ext.benchmarks.timing import Features, Run, machine, medians, time_in_turn
from avhubert_ext.checkpoints.description import EncoderNetwork
from avhubert_ext.data.video import FPS
from avhubert_ext.errors import InputError
from avhubert_ext.export.onnx import export_encoder
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.presets import encoder_preset, full_name, vsr_preset
from avhubert_ext.progress import Progress

TEACHER = "teacher-base"
REFERENCE = "plain"

Times = dict[tuple[str, str], list[float]]  # (model, backend) -> seconds of each round


@dataclass(frozen=True)
class EncoderTiming:
    """One model on one backend.

    Attributes:
        model: its preset.
        backend: a key of `BACKENDS`, or `plain`.
        median_seconds: of the rounds.
        fastest_seconds: of the rounds.
        ratio_to_teacher: of the medians on the same backend; None without the teacher.
        real_time_factor: time to encode a clip over the length of the clip.
    """

    model: str
    backend: str
    median_seconds: float
    fastest_seconds: float
    ratio_to_teacher: float | None
    real_time_factor: float


def eager(encoder: EncoderNetwork, clip: Features, threads: int) -> Run:
    """Run the encoder as it is trained."""
    return partial(encoder, **clip.inputs(encoder))


def fused(encoder: EncoderNetwork, clip: Features, threads: int) -> Run:
    """Run the encoder after `.fuse()`."""
    return eager(encoder.fuse(), clip, threads)


def compiled(encoder: EncoderNetwork, clip: Features, threads: int) -> Run:
    """Run the fused encoder after `torch.compile`, with its weights as constants."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise InputError("the backend compile needs a C++ compiler; install g++")
    # All encoders share one `forward`; by default PyTorch gives up after eight versions of it.
    torch._dynamo.config.recompile_limit = 1000
    run = torch.compile(encoder.fuse(), options={"freezing": True})
    return partial(run, **clip.inputs(encoder))


def onnx(encoder: EncoderNetwork, clip: Features, threads: int) -> Run:
    """Run the exported encoder in ONNX Runtime; float32 only."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError("onnxruntime is missing: pip install 'avhubert-ext[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        export_encoder(encoder, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {name: stream.numpy() for name, stream in clip.inputs(encoder).items()}
    return lambda: session.run(None, inputs)


BACKENDS: dict[str, Callable[[EncoderNetwork, Features, int], Run]] = {
    "eager": eager,
    "fused": fused,
    "compile": compiled,
    "onnx": onnx,
}


def benchmark_encoder(
    models: list[str],
    backends: list[str],
    threads: int = 1,
    frames: int = 100,
    dtype: torch.dtype = torch.float32,
    rounds: int = 9,
) -> dict[str, Any]:
    """Time encoders with random weights.

    The teacher and paper B's encoders are also timed as `plain_forward`.

    Args:
        models: presets, see `full_name`.
        backends: keys of `BACKENDS`.
        threads: number of CPU threads.
        frames: length of the clip in video frames.
        dtype: of weights and activations.
        rounds: number of times that each is timed.

    Returns:
        The conditions, and under `results` the fields of an `EncoderTiming` for every model and
        backend.

    Raises:
        InputError: if a preset is unknown, or a backend cannot run.
    """
    if "onnx" in backends and dtype != torch.float32:
        raise InputError("the backend onnx supports float32 only; choose others with --backend")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clip = Features.random(frames, dtype)
    with torch.no_grad():
        times = time_in_turn(_make_runs(models, backends, clip, threads), rounds)
    return {
        "machine": machine(),
        "threads": threads,
        "frames": frames,
        "dtype": str(dtype).removeprefix("torch."),
        "rounds": rounds,
        "results": [asdict(timing) for timing in _timings(times, clip.seconds)],
    }


def _make_runs(
    models: list[str], backends: list[str], clip: Features, threads: int
) -> dict[tuple[str, str], Run]:
    runs: dict[tuple[str, str], Run] = {}
    for model in Progress(models, desc="building", unit="model", leave=False):
        encoder = fresh_encoder(full_name(model)).eval().to(clip.audio.dtype)
        for backend in backends:
            runs[model, backend] = BACKENDS[backend](encoder, clip, threads)
        if full_name(model) == TEACHER or isinstance(encoder, ConformerEncoder):
            runs[model, REFERENCE] = partial(plain_forward, encoder, clip)
    return runs


def fresh_encoder(name: str) -> EncoderNetwork:
    """An encoder with random weights by the full name of its preset."""
    if name.startswith("vsr-"):
        return ConformerEncoder(vsr_preset(name).encoder)
    return AVHubertEncoder(encoder_preset(name))


def _timings(times: Times, clip_seconds: float) -> list[EncoderTiming]:
    typical = medians(times)
    teachers = {
        b: seconds for (model, b), seconds in typical.items() if full_name(model) == TEACHER
    }
    return [
        EncoderTiming(
            model,
            backend,
            median,
            min(times[model, backend]),
            median / teachers[backend] if backend in teachers else None,
            median / clip_seconds,
        )
        for (model, backend), median in typical.items()
    ]


def text_table(report: dict[str, Any]) -> str:
    """The report for a terminal, one line per model: time and ratio on each backend, best RTF."""
    results = {(r["model"], r["backend"]): r for r in report["results"]}
    backends = [b for b in BACKENDS if any(backend == b for _, backend in results)]
    header = f"{'model':<14}" + "".join(f"{b + ' ms':>11}{'ratio':>7}" for b in backends)
    header += f"{'best RTF':>10}"
    lines = [
        f"{report['frames']} frames ({report['frames'] / FPS:g} s), {report['threads']} thread(s), "
        f"{report['dtype']}, median of {report['rounds']} rounds; {report['machine']['cpu']}",
        "ratio: to the teacher on the same backend; RTF: real-time factor",
        "",
        header,
        "-" * len(header),
    ]
    for model in dict.fromkeys(model for model, _ in results):
        row = [results[model, backend] for backend in backends]
        best = min(result["real_time_factor"] for result in row)
        lines.append(f"{model:<14}" + "".join(map(_cell, row)) + f"{best:>10.3f}")
    plain = {model: r for (model, backend), r in results.items() if backend == REFERENCE}
    if plain:
        lines += ["", "For comparison, computed exactly as the formulas read:"]
    for model, result in plain.items():
        lines.append(f"{model:<14}{1000 * result['median_seconds']:>11.0f} ms")
    return "\n".join(lines)


def _cell(result: dict[str, Any]) -> str:
    ratio = result["ratio_to_teacher"]
    shown = "-" if ratio is None else f"{ratio:.3f}"
    return f"{1000 * result['median_seconds']:>11.0f}{shown:>7}"
