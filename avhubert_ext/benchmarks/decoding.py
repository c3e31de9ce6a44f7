"""How long recognition takes, from features to hypotheses: encoder and beam search, on the CPU.

All recognizers run in one process, in rounds: each round times every one once, see `benchmark.py`.
Random weights do not know when to stop, so that the number of tokens is fixed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from avhubert_ext.benchmarks.encoder import Clip, machine
from avhubert_ext.data.audio import FEATURES
from avhubert_ext.data.video import CROP, FPS
from avhubert_ext.decoding.attention import BeamConfig, search
from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import AVRecognizer
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.presets import decoder_preset, encoder_preset, full_name

SUBWORDS_A_SECOND = 3.5  # of LRS3, with 1000 subwords
BACKENDS = ("eager", "fused")  # of the encoder; `.fuse()` leaves the decoder as it is


@dataclass(frozen=True)
class Timing:
    """One recognizer: medians over the rounds, each part's own and the whole's, in seconds."""

    model: str
    backend: str
    encoder_seconds: float
    decoder_seconds: float  # the bridge's too
    median_seconds: float
    fastest_seconds: float
    real_time_factor: float  # time to recognize a clip over the clip's own time


@dataclass
class Times:
    """Of the encoder and of the decoder in each round."""

    encoder: list[float] = field(default_factory=list)
    decoder: list[float] = field(default_factory=list)


def benchmark_decoding(
    models: list[str],
    beam: int = 10,
    seconds: float = 4.0,
    tokens: int | None = None,
    threads: int = 1,
    rounds: int = 5,
    decoder: str = "base",
) -> dict[str, Any]:
    """Time recognizers with random weights on one clip; all times in seconds.

    models: encoder presets, see `full_name`; seconds: of the clip; tokens: decoded, the end of the
    sentence not counted, by default as many as LRS3 has in that time; decoder: preset for all.
    Returns the conditions, and under `results` the fields of a Timing for every model, its encoder
    eager and fused. Raises InputError if a preset is unknown or a number makes no sense.
    """
    frames = round(seconds * FPS)
    if frames < 1:
        raise InputError(f"{seconds:g} seconds: expected a frame of {1 / FPS:g} s at least")
    if tokens is None:
        tokens = max(1, round(SUBWORDS_A_SECOND * seconds))
    config = BeamConfig(beam, max_len_a=0.0, max_len_b=tokens, min_len=tokens)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clip = Clip(torch.randn(1, FEATURES, frames), torch.randn(1, 1, frames, CROP, CROP))
    times: dict[tuple[str, str], Times] = {}
    with torch.no_grad():
        runs = _make_runs(models, decoder, clip, config)
        for run in tqdm(runs.values(), desc="warming up", unit="model"):
            run(Times())
        for _ in tqdm(range(rounds), desc="rounds", unit="round"):
            for key, run in runs.items():
                run(times.setdefault(key, Times()))
    return {
        "machine": machine(),
        "decoder": decoder,
        "beam": beam,
        "frames": frames,
        "tokens": tokens,
        "threads": threads,
        "rounds": rounds,
        "results": [asdict(_timing(*key, t, clip.seconds)) for key, t in times.items()],
    }


def _make_runs(
    models: list[str], decoder: str, clip: Clip, config: BeamConfig
) -> dict[tuple[str, str], Callable[[Times], None]]:
    runs: dict[tuple[str, str], Callable[[Times], None]] = {}
    for name in tqdm(models, desc="building", unit="model"):
        encoder = encoder_preset(full_name(name))
        model = AVRecognizer(encoder, decoder_preset(decoder)).eval()
        for backend in BACKENDS:
            form = model.encoder if backend == "eager" else model.encoder.fuse()
            runs[name, backend] = partial(_recognize, model, form, clip, config)
    return runs


def _recognize(
    model: AVRecognizer, encoder: AVHubertEncoder, clip: Clip, config: BeamConfig, times: Times
) -> None:
    """What `beam_search` does, with a clock between its two parts."""
    start = time.perf_counter()
    encoded: Tensor = encoder(clip.audio, clip.video).last_hidden_state
    middle = time.perf_counter()
    search(model.decoder, model.bridge(encoded), None, config)
    times.encoder.append(middle - start)
    times.decoder.append(time.perf_counter() - middle)


def _timing(model: str, backend: str, times: Times, clip_seconds: float) -> Timing:
    whole = [sum(parts) for parts in zip(times.encoder, times.decoder, strict=True)]
    median = statistics.median(whole)
    parts = statistics.median(times.encoder), statistics.median(times.decoder)
    return Timing(model, backend, *parts, median, min(whole), median / clip_seconds)


def text_table(report: dict[str, Any]) -> str:
    """The report for a terminal: a line a model and form of its encoder."""
    header = f"{'encoder':<14}{'':<8}{'encoder ms':>12}{'decoder ms':>12}{'all ms':>10}{'RTF':>8}"
    lines = [
        f"{report['frames']} frames ({report['frames'] / FPS:g} s), {report['tokens']} tokens, "
        f"beam {report['beam']}, decoder {report['decoder']}, {report['threads']} thread(s),",
        f"median of {report['rounds']} rounds; {report['machine']['cpu']}",
        "RTF: real-time factor",
        "",
        header,
        "-" * len(header),
    ]
    for r in report["results"]:
        parts = f"{1000 * r['encoder_seconds']:>12.0f}{1000 * r['decoder_seconds']:>12.0f}"
        whole = f"{1000 * r['median_seconds']:>10.0f}{r['real_time_factor']:>8.3f}"
        lines.append(f"{r['model']:<14}{r['backend']:<8}{parts}{whole}")
    return "\n".join(lines)
