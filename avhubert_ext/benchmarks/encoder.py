"""How long the encoders take: every model and backend on the same clip, one after another.

Times taken in different processes, or minutes apart, differ by more than the models do. So all of
them run in one process, in rounds: each round times every model on every backend once.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from avhubert_ext.data.audio import FEATURES
from avhubert_ext.data.video import CROP, FPS
from avhubert_ext.errors import InputError
from avhubert_ext.export.onnx import export_encoder
from avhubert_ext.models.attention import RelativeAttention
from avhubert_ext.models.blocks import (
    ConformerConvolution,
    RelativeConformerBlock,
    ReluFeedForward,
    TransformerBlock,
    interleaved_positions,
)
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.frontends import ResNet18
from avhubert_ext.models.presets import encoder_preset, full_name, vsr_preset

TEACHER = "teacher-base"
REFERENCE = "plain"
PACKAGES = ("torch", "onnxruntime")

Encoder = AVHubertEncoder | ConformerEncoder
Run = Callable[[], object]


@dataclass(frozen=True)
class Clip:
    """The input of every run: audio [1, 104, T] and video [1, 1, T, 88, 88]."""

    audio: Tensor
    video: Tensor

    @property
    def seconds(self) -> float:
        return self.audio.shape[2] / FPS

    def inputs(self, encoder: Encoder) -> dict[str, Tensor]:
        """What an encoder takes of it, by name; paper B's take video alone."""
        if isinstance(encoder, ConformerEncoder):
            return {"video": self.video}
        return {"audio": self.audio, "video": self.video}


@dataclass(frozen=True)
class Timing:
    """One model on one backend; a ratio is of medians, to the teacher on the same backend."""

    model: str
    backend: str
    median_seconds: float
    fastest_seconds: float
    ratio_to_teacher: float | None
    real_time_factor: float  # time to encode a clip over the clip's own time


def eager(encoder: Encoder, clip: Clip, threads: int) -> Run:
    """The encoder as it is trained."""
    return partial(encoder, **clip.inputs(encoder))


def fused(encoder: Encoder, clip: Clip, threads: int) -> Run:
    """`encoder.fuse()`."""
    return eager(encoder.fuse(), clip, threads)


def compiled(encoder: Encoder, clip: Clip, threads: int) -> Run:
    """`torch.compile` of the fused encoder, its weights constants."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise InputError("the backend compile needs a C++ compiler: install g++, or use --backend")
    # All encoders share one `forward`, and after eight versions of it PyTorch would stop compiling.
    torch._dynamo.config.recompile_limit = 1000
    run = torch.compile(encoder.fuse(), options={"freezing": True})
    return partial(run, **clip.inputs(encoder))


def onnx(encoder: Encoder, clip: Clip, threads: int) -> Run:
    """ONNX Runtime on the exported encoder; float32 only."""
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


BACKENDS: dict[str, Callable[[Encoder, Clip, int], Run]] = {
    "eager": eager,
    "fused": fused,
    "compile": compiled,
    "onnx": onnx,
}


def plain_forward(encoder: Encoder, clip: Clip) -> Tensor:
    """The network of an encoder with a ResNet-18 computed as its formulas read: [B, T, D].

    AV-HuBERT's with transformer blocks, or paper B's of video; without padding.
    """
    if isinstance(encoder, ConformerEncoder):
        return _plain_conformer(encoder, clip.video)
    return encoder.encoder.layer_norm(plain_hidden_states(encoder, clip.audio, clip.video)[-1])


def plain_hidden_states(encoder: AVHubertEncoder, audio: Tensor, video: Tensor) -> list[Tensor]:
    """As `AVHubertEncoder.hidden_states`, each [B, T, D]; without padding.

    3D convolution, normalization and pooling in the stem, attention by softmax, time first: what a
    research implementation does, and what this library's encoder must not be slower than.
    """
    frontend = encoder.feature_extractor_video
    x = _plain_resnet(frontend.resnet, video)
    streams = [encoder.feature_extractor_audio(audio), frontend.proj(x)]
    states = [encoder.post_extract_proj(encoder.layer_norm(torch.cat(streams, dim=-1)))]
    x = (states[0] + encoder.encoder.pos_conv(states[0])).transpose(0, 1)  # [T, B, D]
    for block in encoder.encoder.layers:
        x = _plain_block(block, x)
        states.append(x.transpose(0, 1))
    return states


def _plain_resnet(resnet: ResNet18, video: Tensor) -> Tensor:
    """[B, 1, T, 88, 88] -> [B, T, C]."""
    convolution, norm, activation, _ = resnet.frontend3D
    x = F.conv3d(video, convolution.weight, stride=(1, 2, 2), padding=(2, 3, 3))
    x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    x = F.max_pool3d(activation(x), (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    batch, channels, frames, height, width = x.shape
    x = x.transpose(1, 2).reshape(batch * frames, channels, height, width)
    return resnet.trunk(x).mean(dim=(2, 3)).view(batch, frames, -1)


def _plain_block(block: TransformerBlock, x: Tensor) -> Tensor:
    attention = block.self_attn
    y = block.self_attn_layer_norm(x)
    time, batch, dim = y.shape
    width = dim // attention.heads

    def heads(z: Tensor) -> Tensor:
        return z.contiguous().view(time, batch * attention.heads, width).transpose(0, 1)

    queries = heads(attention.q_proj(y) / math.sqrt(width))
    keys, values = heads(attention.k_proj(y)), heads(attention.v_proj(y))
    weights = torch.bmm(queries, keys.transpose(1, 2)).softmax(dim=-1)
    y = torch.bmm(weights, values).transpose(0, 1).reshape(time, batch, dim)
    x = x + attention.out_proj(y)
    return x + block.fc2(F.gelu(block.fc1(block.final_layer_norm(x))))


def _plain_conformer(encoder: ConformerEncoder, video: Tensor) -> Tensor:
    conformer, dim = encoder.video, encoder.config.dim
    x = conformer.projection(_plain_resnet(conformer.frontend, video)) * math.sqrt(dim)
    time = x.shape[1]
    positions = interleaved_positions(torch.arange(time - 1, -time, -1), dim).to(x.dtype)
    for block in conformer.layers:
        x = _plain_conformer_block(block, x, positions[None])
    return conformer.layer_norm(x)


def _plain_conformer_block(block: RelativeConformerBlock, x: Tensor, positions: Tensor) -> Tensor:
    x = x + 0.5 * _plain_feed_forward(block.ffn1, x)
    y = block.self_attn_layer_norm(x)
    x = x + _plain_relative_attention(block.self_attn, y, positions)
    x = x + _plain_convolution(block.conv, x)
    x = x + 0.5 * _plain_feed_forward(block.ffn2, x)
    return block.final_layer_norm(x)


def _plain_feed_forward(module: ReluFeedForward, x: Tensor) -> Tensor:
    return module.fc2(F.relu(module.fc1(module.layer_norm(x))))


def _plain_relative_attention(a: RelativeAttention, x: Tensor, positions: Tensor) -> Tensor:
    """[B, T, D] -> [B, T, D]; positions: [1, 2T-1, D]."""
    batch, time, dim = x.shape
    width = dim // a.heads

    def heads(z: Tensor) -> Tensor:
        return z.view(z.shape[0], -1, a.heads, width)

    queries, distances = heads(a.q_proj(x)), heads(a.pos_proj(positions)).transpose(1, 2)
    keys, values = (heads(project(x)).transpose(1, 2) for project in (a.k_proj, a.v_proj))
    by_content = (queries + a.pos_bias_u).transpose(1, 2) @ keys.transpose(2, 3)
    by_distance = (queries + a.pos_bias_v).transpose(1, 2) @ distances.transpose(2, 3)
    # A column of zeros in front, and rows of T instead of 2T: Dai et al. 2019, appendix B.
    padded = F.pad(by_distance, (1, 0)).view(batch, a.heads, 2 * time, time)
    by_distance = padded[:, :, 1:].reshape(batch, a.heads, time, 2 * time - 1)[..., :time]
    weights = ((by_content + by_distance) / math.sqrt(width)).softmax(dim=-1)
    return a.out_proj((weights @ values).transpose(1, 2).reshape(batch, time, dim))


def _plain_convolution(module: ConformerConvolution, x: Tensor) -> Tensor:
    y = F.glu(module.pointwise1(module.layer_norm(x).transpose(1, 2)), dim=1)
    y = F.silu(module.batch_norm(module.depthwise(y)))
    return module.pointwise2(y).transpose(1, 2)


def benchmark(
    models: list[str],
    backends: list[str],
    threads: int = 1,
    frames: int = 100,
    dtype: torch.dtype = torch.float32,
    rounds: int = 9,
) -> dict[str, Any]:
    """Time presets (see `full_name`) with random weights; all times in seconds.

    The teacher and paper B's models also run as `plain_forward`. Returns the conditions, and under
    `results` the fields of a Timing for every model and backend. Raises InputError if a
    model is unknown, or a backend cannot run.
    """
    if "onnx" in backends and dtype != torch.float32:
        raise InputError("the backend onnx runs in float32 only: choose others with --backend")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clip = Clip(
        torch.randn(1, FEATURES, frames).to(dtype), torch.randn(1, 1, frames, CROP, CROP).to(dtype)
    )
    times: dict[tuple[str, str], list[float]] = {}
    with torch.no_grad():
        runs = _make_runs(models, backends, clip, threads)
        for run in tqdm(runs.values(), desc="warming up", unit="encoder"):
            run()  # torch.compile compiles here
        for _ in tqdm(range(rounds), desc="rounds", unit="round"):
            for key, run in runs.items():
                start = time.perf_counter()
                run()
                times.setdefault(key, []).append(time.perf_counter() - start)
    return {
        "machine": machine(),
        "threads": threads,
        "frames": frames,
        "dtype": str(dtype).removeprefix("torch."),
        "rounds": rounds,
        "results": [asdict(timing) for timing in _timings(times, clip.seconds)],
    }


def _make_runs(
    models: list[str], backends: list[str], clip: Clip, threads: int
) -> dict[tuple[str, str], Run]:
    runs: dict[tuple[str, str], Run] = {}
    for model in tqdm(models, desc="building", unit="model"):
        encoder = fresh_encoder(full_name(model)).eval().to(clip.audio.dtype)
        for backend in backends:
            runs[model, backend] = BACKENDS[backend](encoder, clip, threads)
        if full_name(model) == TEACHER or isinstance(encoder, ConformerEncoder):
            runs[model, REFERENCE] = partial(plain_forward, encoder, clip)
    return runs


def fresh_encoder(name: str) -> Encoder:
    """An encoder by full name, with random weights."""
    if name.startswith("vsr-"):
        return ConformerEncoder(vsr_preset(name).encoder)
    return AVHubertEncoder(encoder_preset(name))


def _timings(times: dict[tuple[str, str], list[float]], clip_seconds: float) -> list[Timing]:
    medians = {key: statistics.median(seconds) for key, seconds in times.items()}
    timings = []
    teachers = {backend: s for (m, backend), s in medians.items() if full_name(m) == TEACHER}
    for (model, backend), median in medians.items():
        teacher = teachers.get(backend)
        ratio = None if teacher is None else median / teacher
        fastest = min(times[model, backend])
        timings.append(Timing(model, backend, median, fastest, ratio, median / clip_seconds))
    return timings


def time_in_turn(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in tqdm(range(rounds + 1), desc="rounds", unit="round"):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> dict[str, str]:
    found = {"cpu": _cpu(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _cpu() -> str:
    """The processor's name, as Linux knows it, and the widest vector instructions PyTorch uses."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def text_table(report: dict[str, Any]) -> str:
    """The report for a terminal: a line a model, time and ratio on each backend, the best RTF."""
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
        lines += ["", "Computed as their formulas read, for comparison:"]
    for model, result in plain.items():
        lines.append(f"{model:<14}{1000 * result['median_seconds']:>11.0f} ms")
    return "\n".join(lines)


def _cell(result: dict[str, Any]) -> str:
    ratio = result["ratio_to_teacher"]
    shown = "-" if ratio is None else f"{ratio:.3f}"
    return f"{1000 * result['median_seconds']:>11.0f}{shown:>7}"
