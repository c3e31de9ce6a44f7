"""Size of a recognizer in each form that it can have, and how long it takes, on the CPU.

From features to hypotheses: frontends, encoder, beam search, of one clip. PyTorch eager and fused,
and what `avhubert_ext.export` writes, run by `avhubert_ext.runtime`. All forms of all models run in
one process, in rounds: each round times every one once, see `benchmark.py`. Random weights do not
know when to stop, so that the number of tokens is fixed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from avhubert_ext.benchmarks.decoding import SUBWORDS_A_SECOND
from avhubert_ext.benchmarks.encoder import machine
from avhubert_ext.checkpoints.model_file import load_avhubert_asr, read_masks, save_model
from avhubert_ext.data.audio import FEATURES
from avhubert_ext.data.video import CROP, FPS
from avhubert_ext.decoding.attention import search
from avhubert_ext.decoding.beam import BeamConfig, SearchConfig
from avhubert_ext.errors import InputError
from avhubert_ext.export.folder import ExportConfig, export_recognizer
from avhubert_ext.models.decoder import AVRecognizer
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.presets import DECODERS, encoder_preset, full_name
from avhubert_ext.recognizers.exported import ExportedRecognizer, open_exported
from avhubert_ext.runtime.folder import MODEL_FILE

PYTORCH = ("pytorch", "pytorch fused")
EXPORTED = {
    "onnx": ExportConfig(),
    "onnx int8": ExportConfig(int8=True),
    "openvino": ExportConfig("openvino"),
    "openvino int8": ExportConfig("openvino", int8=True),
}
FORMS = (*PYTORCH, *EXPORTED)

Parts = tuple[float, float]  # seconds until the decoder's memory is there, and of the search


@dataclass(frozen=True)
class Timing:
    """A form of a model: its files' size, medians over the rounds in seconds.

    real_time_factor: time to recognize a clip over the clip's own time.
    """

    model: str
    form: str
    threads: int
    megabytes: float
    encoder_seconds: float
    decoder_seconds: float
    median_seconds: float
    fastest_seconds: float
    real_time_factor: float


@dataclass(frozen=True)
class Clip:
    """Random features [T, 104] and video [T, 88, 88], float32."""

    audio: np.ndarray
    video: np.ndarray


def benchmark_runtime(
    models: list[str],
    folder: Path,
    forms: list[str],
    threads: list[int],
    beam: int = 10,
    seconds: float = 4.0,
    tokens: int | None = None,
    rounds: int = 5,
) -> dict[str, Any]:
    """Time AV-HuBERT's family: presets with random weights (see `full_name`), or model files.

    folder: where models are exported to, and found again. seconds: of the clip; tokens: decoded,
    the end of the sentence not counted, by default as many as LRS3 has in that time. Presets have
    the decoder base, tiny ones tiny. Frontends in 8 bits (onnx int8) are calibrated with the clip.
    Returns the conditions, and under `results` the fields of a Timing for every model, form and
    number of threads. Raises InputError if a model or form is unknown, two models would share a
    place in the folder, or a number makes no sense.
    """
    unknown = [form for form in forms if form not in FORMS]
    if unknown:
        raise InputError(f"form '{unknown[0]}': expected one of {', '.join(FORMS)}")
    stems = [Path(name).stem for name in models]
    if len(set(stems)) < len(stems):
        raise InputError(f"models {', '.join(models)}: their names must differ; rename one")
    frames = round(seconds * FPS)
    if frames < 1:
        raise InputError(f"{seconds:g} seconds: expected a frame of {1 / FPS:g} s at least")
    if tokens is None:
        tokens = max(1, round(SUBWORDS_A_SECOND * seconds))
    config = BeamConfig(beam, max_len_a=0.0, max_len_b=tokens, min_len=tokens)
    rng = np.random.default_rng(0)
    clip = Clip(
        rng.standard_normal((frames, FEATURES), np.float32),
        rng.standard_normal((frames, CROP, CROP), np.float32),
    )
    found = [_open(name, folder, forms, clip) for name in models]
    timings = [
        timing
        for count in threads
        for timing in _time(dict(zip(models, found, strict=True)), count, clip, config, rounds)
    ]
    return {
        "machine": machine(),
        "beam": beam,
        "frames": frames,
        "tokens": tokens,
        "rounds": rounds,
        "results": [asdict(timing) for timing in timings],
    }


@dataclass(frozen=True)
class _Model:
    """A recognizer, and the files or folders of its forms."""

    network: AVRecognizer
    forms: dict[str, Path]


def _open(name: str, folder: Path, forms: list[str], clip: Clip) -> _Model:
    """A model whose forms are all there; what is missing is exported."""
    place = folder / Path(name).stem
    file = Path(name)
    if file.suffix:
        network = load_avhubert_asr(file)
    else:
        file = place / "model.safetensors"
        if not file.is_file():
            torch.manual_seed(0)
            decoder = DECODERS["tiny" if "tiny" in name else "base"]
            save_model(file, AVRecognizer(encoder_preset(full_name(name)), decoder))
        network = load_avhubert_asr(file)
    symbols = [str(i) for i in range(network.decoder.config.vocabulary)]
    paths = {}
    for form in forms:
        if form in PYTORCH:
            paths[form] = file
            continue
        paths[form] = place / form.replace(" ", "-")
        if not (paths[form] / MODEL_FILE).is_file():
            clips = {"video": [clip.video[None, None]]} if form == "onnx int8" else {}
            export_recognizer(
                network,
                symbols,
                paths[form],
                EXPORTED[form],
                clips=clips,
                masks=read_masks(file),
            )
    return _Model(network, paths)


def _time(
    models: dict[str, _Model], threads: int, clip: Clip, config: BeamConfig, rounds: int
) -> list[Timing]:
    torch.set_num_threads(threads)
    runs = {
        (name, form): _runner(model.network, form, path, threads, clip, config)
        for name, model in models.items()
        for form, path in model.forms.items()
    }
    for run in tqdm(runs.values(), desc=f"warming up, {threads} thread(s)", unit="form"):
        run()
    times: dict[tuple[str, str], list[Parts]] = {key: [] for key in runs}
    for _ in tqdm(range(rounds), desc=f"rounds, {threads} thread(s)", unit="round"):
        for key, run in runs.items():
            times[key].append(run())
    return [
        _timing(name, form, threads, models[name].forms[form], parts, len(clip.video) / FPS)
        for (name, form), parts in times.items()
    ]


def _runner(
    network: AVRecognizer, form: str, path: Path, threads: int, clip: Clip, config: BeamConfig
) -> Callable[[], Parts]:
    if form in PYTORCH:
        encoder = network.encoder if form == "pytorch" else network.encoder.fuse()
        return partial(_run_pytorch, network, encoder, clip, config)
    recognizer = open_exported(path, SearchConfig(), threads)
    recognizer.settings = config
    return partial(_run_exported, recognizer, clip)


@torch.no_grad()
def _run_pytorch(
    network: AVRecognizer, encoder: AVHubertEncoder, clip: Clip, config: BeamConfig
) -> Parts:
    audio, video = torch.from_numpy(clip.audio.T)[None], torch.from_numpy(clip.video)[None, None]
    start = time.perf_counter()
    memory = network.bridge(encoder(audio, video).last_hidden_state)
    middle = time.perf_counter()
    search(network.decoder, memory, None, config)
    return middle - start, time.perf_counter() - middle


def _run_exported(recognizer: ExportedRecognizer, clip: Clip) -> Parts:
    start = time.perf_counter()
    encoded = recognizer.encode(clip.audio, clip.video)
    middle = time.perf_counter()
    recognizer.hypotheses(encoded)
    return middle - start, time.perf_counter() - middle


def _timing(
    name: str, form: str, threads: int, path: Path, times: list[Parts], clip_seconds: float
) -> Timing:
    encoder, decoder = (statistics.median(part) for part in zip(*times, strict=True))
    whole = [sum(parts) for parts in times]
    median = statistics.median(whole)
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    return Timing(
        name, form, threads, size / 1e6, encoder, decoder, median, min(whole), median / clip_seconds
    )


def text_table(report: dict[str, Any]) -> str:
    """The report for a terminal: a line a model, form and number of threads."""
    results = report["results"]
    width = max(12, *(len(r["model"]) + 2 for r in results))
    header = f"{'model':<{width}}{'form':<16}{'threads':>8}{'MB':>9}{'encoder ms':>12}"
    header += f"{'search ms':>11}{'all ms':>9}{'RTF':>8}"
    lines = [
        f"{report['frames']} frames ({report['frames'] / FPS:g} s), {report['tokens']} tokens, "
        f"beam {report['beam']}, median of {report['rounds']} rounds; {report['machine']['cpu']}",
        "encoder: with frontends; RTF: real-time factor",
        "",
        header,
        "-" * len(header),
    ]
    for r in results:
        parts = f"{1000 * r['encoder_seconds']:>12.1f}{1000 * r['decoder_seconds']:>11.1f}"
        whole = f"{1000 * r['median_seconds']:>9.1f}{r['real_time_factor']:>8.4f}"
        size = f"{r['threads']:>8}{r['megabytes']:>9.1f}"
        lines.append(f"{r['model']:<{width}}{r['form']:<16}{size}{parts}{whole}")
    return "\n".join(lines)
