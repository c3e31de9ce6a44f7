"""Size and speed of whole recognizers in every form they can take, on the CPU.

One clip from features to hypotheses: frontends, encoder and beam search. The forms are PyTorch,
eager and fused, and everything that `avhubert_ext.export` writes, run by `avhubert_ext.runtime`.
Models with random weights would not end their sentences, so the number of tokens is fixed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from avhubert_ext.benchmarks.timing import Features, machine, measure_in_turn
from avhubert_ext.checkpoints.model_file import load_avhubert_asr, read_masks, save_model
from avhubert_ext.data.video import FPS
from avhubert_ext.decoding.attention import search
from avhubert_ext.decoding.beam import BeamConfig, SearchConfig
from avhubert_ext.errors import InputError
from avhubert_ext.export.folder import ExportConfig, export_recognizer
from avhubert_ext.models.decoder import AVRecognizer
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.presets import decoder_preset, encoder_preset, full_name
from avhubert_ext.recognizers.exported import ExportedRecognizer, open_exported
from avhubert_ext.runtime.folder import MODEL_FILE

SUBWORDS_PER_SECOND = 3.5  # in LRS3, with 1000 subwords
PYTORCH = ("pytorch", "pytorch fused")
EXPORTED = {
    "onnx": ExportConfig(),
    "onnx int8": ExportConfig(int8=True),
    "openvino": ExportConfig("openvino"),
    "openvino int8": ExportConfig("openvino", int8=True),
}
FORMS = (*PYTORCH, *EXPORTED)

Parts = tuple[float, float]  # seconds of the encoder, and of the search after it


@dataclass(frozen=True)
class RecognizerTiming:
    """One form of one model.

    Attributes:
        model: its preset or file.
        form: one of `FORMS`.
        threads: number of CPU threads.
        megabytes: size of its files.
        encoder_seconds: median of the rounds, frontends included.
        decoder_seconds: median of the rounds, of the search.
        median_seconds: of the whole.
        fastest_seconds: of the whole.
        real_time_factor: time to recognize a clip over the length of the clip.
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


def benchmark_runtime(
    models: list[str],
    folder: Path,
    forms: list[str],
    threads: list[int],
    beam: int = 10,
    seconds: float = 4.0,
    tokens: int | None = None,
    rounds: int = 5,
    decoder: str | None = None,
) -> dict[str, Any]:
    """Time recognizers of the AV-HuBERT family.

    Args:
        models: encoder presets (see `full_name`), which get random weights, or model files.
        folder: where exported models are written, and found again. With `onnx int8` the frontends
            are calibrated with the clip.
        forms: some of `FORMS`.
        threads: numbers of CPU threads.
        beam: number of hypotheses in the search.
        seconds: length of the clip.
        tokens: number of tokens to decode without the end of the sentence; by default as many as
            LRS3 has in that time.
        rounds: number of times that each form is timed.
        decoder: preset of the decoder for encoder presets; by default base, and tiny for tiny ones.

    Returns:
        The conditions, and under `results` the fields of a `RecognizerTiming` for every model, form
        and number of threads.

    Raises:
        InputError: if a model, decoder or form is unknown, two models have the same name, or the
            clip is shorter than one frame.
    """
    unknown = [form for form in forms if form not in FORMS]
    if unknown:
        raise InputError(f"form '{unknown[0]}': expected one of {', '.join(FORMS)}")
    stems = [Path(name).stem for name in models]
    if len(set(stems)) < len(stems):
        raise InputError(f"models {', '.join(models)}: their names must differ; rename one")
    frames = round(seconds * FPS)
    if frames < 1:
        raise InputError(f"{seconds:g} seconds: expected at least one frame of {1 / FPS:g} s")
    if tokens is None:
        tokens = max(1, round(SUBWORDS_PER_SECOND * seconds))
    config = BeamConfig(beam, max_len_a=0.0, max_len_b=tokens, min_len=tokens)
    clip = Features.random(frames)
    found = {name: _open(name, folder, forms, clip, decoder) for name in models}
    timings = [timing for count in threads for timing in _time(found, count, clip, config, rounds)]
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
    """A recognizer, and the file or folder of each of its forms."""

    network: AVRecognizer
    forms: dict[str, Path]


def _open(name: str, folder: Path, forms: list[str], clip: Features, decoder: str | None) -> _Model:
    """A model in all forms; those that are missing are exported."""
    file, place = Path(name), folder / Path(name).stem
    if not file.suffix:
        size = (decoder or ("tiny" if "tiny" in name else "base")).removeprefix("decoder-")
        file = place / f"{size}.safetensors"
        if not file.is_file():
            torch.manual_seed(0)
            config = decoder_preset(size)
            save_model(file, AVRecognizer(encoder_preset(full_name(name)), config))
        place /= size
    network = load_avhubert_asr(file)
    symbols = [str(i) for i in range(network.decoder.config.vocabulary)]
    paths = {}
    for form in forms:
        if form in PYTORCH:
            paths[form] = file
            continue
        paths[form] = place / form.replace(" ", "-")
        if not (paths[form] / MODEL_FILE).is_file():
            clips = {"video": [clip.video.numpy()]} if form == "onnx int8" else {}
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
    models: dict[str, _Model], threads: int, clip: Features, config: BeamConfig, rounds: int
) -> list[RecognizerTiming]:
    torch.set_num_threads(threads)
    runs = {
        (name, form): _runner(model.network, form, path, threads, clip, config)
        for name, model in models.items()
        for form, path in model.forms.items()
    }
    return [
        _timing(name, form, threads, models[name].forms[form], parts, clip.seconds)
        for (name, form), parts in measure_in_turn(runs, rounds).items()
    ]


def _runner(
    network: AVRecognizer, form: str, path: Path, threads: int, clip: Features, config: BeamConfig
) -> Callable[[], Parts]:
    if form in PYTORCH:
        encoder = network.encoder if form == "pytorch" else network.encoder.fuse()
        return partial(_run_pytorch, network, encoder, clip, config)
    recognizer = open_exported(path, SearchConfig(), threads)
    recognizer.settings = config
    return partial(_run_exported, recognizer, clip)


@torch.no_grad()
def _run_pytorch(
    network: AVRecognizer, encoder: AVHubertEncoder, clip: Features, config: BeamConfig
) -> Parts:
    start = time.perf_counter()
    memory = network.bridge(encoder(clip.audio, clip.video).last_hidden_state)
    middle = time.perf_counter()
    search(network.decoder, memory, None, config)
    return middle - start, time.perf_counter() - middle


def _run_exported(recognizer: ExportedRecognizer, clip: Features) -> Parts:
    audio, video = clip.audio[0].T.contiguous().numpy(), clip.video[0, 0].numpy()
    start = time.perf_counter()
    encoded = recognizer.encode(audio, video)
    middle = time.perf_counter()
    recognizer.hypotheses(encoded)
    return middle - start, time.perf_counter() - middle


def _timing(
    name: str, form: str, threads: int, path: Path, times: list[Parts], clip_seconds: float
) -> RecognizerTiming:
    encoder, decoder = (statistics.median(part) for part in zip(*times, strict=True))
    whole = [sum(parts) for parts in times]
    median = statistics.median(whole)
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    return RecognizerTiming(
        name, form, threads, size / 1e6, encoder, decoder, median, min(whole), median / clip_seconds
    )


def text_table(report: dict[str, Any]) -> str:
    """The report for a terminal, one line per model, form and number of threads."""
    results = report["results"]
    width = max(12, *(len(r["model"]) + 2 for r in results))
    header = f"{'model':<{width}}{'form':<16}{'threads':>8}{'MB':>9}{'encoder ms':>12}"
    header += f"{'search ms':>11}{'all ms':>9}{'RTF':>8}"
    lines = [
        f"{report['frames']} frames ({report['frames'] / FPS:g} s), {report['tokens']} tokens, "
        f"beam {report['beam']}, median of {report['rounds']} rounds; {report['machine']['cpu']}",
        "encoder: frontends included; RTF: real-time factor",
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
