"""What a model costs: parameters, and FLOPs for each video frame, part by part.

FLOPs are 2 x MACs of convolutions and matrix products, as PyTorch's own counter counts them on a
clip of 100 frames. The matrix products of attention stand apart and outside the totals, as paper A
leaves them out, and so do prediction heads, CTC layer and decoder. Pruned weights count as any
other: unstructured sparsity does not change what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from avhubert_ext.checkpoints.model_file import load_model, read_masks
from avhubert_ext.compression.pruning import count_pruned
from avhubert_ext.data.audio import FEATURES, SAMPLES_PER_FRAME
from avhubert_ext.data.video import CROP
from avhubert_ext.models.conformer import (
    Conformer,
    ConformerConfig,
    ConformerEncoder,
    CTCAttentionRecognizer,
)
from avhubert_ext.models.decoder import AVRecognizer, DecoderCache, DecoderConfig
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig
from avhubert_ext.models.presets import DECODERS, STUDENTS, VSR, encoder_preset, full_name, preset
from avhubert_ext.models.student import HeadsConfig, PredictionHeads

FRAMES = 100  # length of the clip that is counted
ATTENTION = ("bmm", "scaled_dot_product")  # the operators of attention's matrix products

# Paper A, Table 1: parameters and FLOPs/frame of the encoder, in millions.
PAPER = {
    "teacher-base": (103, 875),
    "student-1": (32, 734),
    "student-2": (32, 734),
    "student-3": (32, 734),
    "student-4": (31, 678),
    "student-5": (31, 678),
    "student-6": (32, 674),
    "student-7": (22, 107),
}
NOT_IN_TOTALS = ("attention", "heads", "ctc", "decoder", "decoder_attention")
NOTE = """\
Parameters and FLOPs are the encoder's, per frame of a clip of 100; FLOPs = 2 x MACs of convolutions
and linear layers. Parts with * are not in the totals (attention: its matrix products, by formula).
Whole model: parameters of encoder, CTC layer if it has one, and decoder, which for presets writes
1000 subwords, or 5049 for paper B's. Paper: Table 1 of paper A; nobody reproduces about 60
of its 875 and 734 MFLOPs and 6 of its 678, its authors' own recount included."""

Encoder = AVHubertEncoder | ConformerEncoder
AnyEncoderConfig = EncoderConfig | ConformerConfig
Part = dict[str, float]
Parts = dict[str, Part]


@dataclass(frozen=True)
class Cost:
    """One model. `parameters` and `flops_per_frame` are the encoder's: the sums of its parts.

    model_parameters: of encoder, CTC layer and decoder; None where there is no decoder.
    parts: name -> `parameters`, and `flops_per_frame`, `flops_per_token` or both.
    paper_...: None for a model that is not in Table 1. pruned: weights of the whole model that
    masks prune; they are counted in all parameters, as they cost the same FLOPs.
    """

    model: str
    parameters: int
    flops_per_frame: float
    paper_parameters: int | None
    paper_flops_per_frame: int | None
    model_parameters: int | None
    parts: Parts
    pruned: int = 0


def flops_per_frame(encoder: Encoder) -> float:
    """FLOPs of the whole encoder for one video frame, without attention's products."""
    return _total(encoder_parts(encoder.config), "flops_per_frame")


def preset_cost(name: str) -> Cost:
    """The cost of a preset, see `full_name`.

    Beside an encoder of AV-HuBERT's kind that of the decoder it is finetuned with, for 1000
    subwords.
    """
    full = full_name(name)
    if full.startswith("vsr-"):
        chosen = preset(VSR, full.removeprefix("vsr-"), "VSR")
        return _cost(name, chosen.encoder, decoder_parts(chosen.encoder, chosen.decoder))
    encoder = encoder_preset(full)
    others = {}
    if full.startswith("student-"):
        targets = STUDENTS[full.removeprefix("student-")].targets
        others["heads"] = heads_part(encoder.dim, HeadsConfig(targets))
    decoder = DECODERS["tiny" if "tiny" in full else "base"]
    return _cost(name, encoder, others | decoder_parts(encoder, decoder), PAPER.get(full))


def checkpoint_cost(path: Path) -> Cost:
    """The cost of the model in a file that `load_model` reads."""
    model = load_model(path)
    if isinstance(model, AVRecognizer | CTCAttentionRecognizer):
        encoder, decoder = model.encoder.config, model.decoder.config
        cost = _cost(path.stem, encoder, decoder_parts(encoder, decoder))
    else:
        cost = _cost(path.stem, model.config, {})
    return replace(cost, pruned=count_pruned(read_masks(path)))


def _cost(
    name: str, encoder: AnyEncoderConfig, others: Parts, paper: tuple[int, int] | None = None
) -> Cost:
    parts = encoder_parts(encoder)
    parameters = _total(parts, "parameters")
    beside = {part: cost for part, cost in others.items() if part != "heads"}
    return Cost(
        name,
        parameters,
        _total(parts, "flops_per_frame"),
        paper[0] * 10**6 if paper else None,
        paper[1] * 10**6 if paper else None,
        parameters + _total(beside, "parameters") if beside else None,
        parts | {"attention": attention_part(encoder)} | others,
    )


def _total(parts: Parts, key: str) -> float:
    return sum(part[key] for part in parts.values())


def encoder_parts(config: AnyEncoderConfig) -> Parts:
    """Parameters and FLOPs of the encoder, part by part."""
    with torch.device("meta"):
        audio = torch.zeros(1, FEATURES, FRAMES)
        video = torch.zeros(1, 1, FRAMES, CROP, CROP)
        waveform = torch.zeros(1, 1, FRAMES * SAMPLES_PER_FRAME)
        if isinstance(config, EncoderConfig):
            encoder = AVHubertEncoder(config).eval()
            inputs, parts = {"audio": audio, "video": video}, _avhubert_parts(encoder)
        else:
            encoder = ConformerEncoder(config).eval()
            inputs = {
                "video": None if encoder.video is None else video,
                "audio": None if encoder.audio is None else waveform,
            }
            parts = _conformer_parts(encoder)
    flops = count_flops(lambda: encoder(**inputs))
    root = type(encoder).__name__
    names = {module: f"{root}.{name}" for name, module in encoder.named_modules()}
    return {
        part: {
            "parameters": sum(parameter_count(m) for m in modules),
            "flops_per_frame": sum(flops.get(names[m], 0) for m in modules) / FRAMES,
        }
        for part, modules in parts.items()
    }


def _avhubert_parts(encoder: AVHubertEncoder) -> dict[str, list[nn.Module]]:
    stack = encoder.encoder
    return {
        "visual_frontend": [encoder.feature_extractor_video],
        "audio_frontend": [encoder.feature_extractor_audio],
        "fusion": [encoder.layer_norm, encoder.post_extract_proj],
        "positional": [] if stack.pos_conv is None else [stack.pos_conv],
        "blocks": [*stack.layers, stack.layer_norm],
    }


def _conformer_parts(encoder: ConformerEncoder) -> dict[str, list[nn.Module]]:
    """Only the parts that there are; two streams have their projections and blocks together."""
    parts: dict[str, list[nn.Module]] = {}
    if encoder.video is not None:
        parts["visual_frontend"] = [encoder.video.frontend]
    if encoder.audio is not None:
        parts["audio_frontend"] = [encoder.audio.frontend]
    streams = [m for m in encoder.children() if isinstance(m, Conformer)]
    parts["projection"] = [stream.projection for stream in streams]
    parts["blocks"] = [m for stream in streams for m in (*stream.layers, stream.layer_norm)]
    if encoder.fusion is not None:
        parts["fusion"] = [encoder.fusion]
    return parts


def attention_part(config: AnyEncoderConfig) -> Part:
    """The matrix products of each block's attention, by formula.

    Scores and weighted sum, 2 T D MACs a frame; relative positions add the product of the queries
    with 2T-1 distances. The counter sees them on some devices only: PyTorch's fused attention on
    CPU counts as nothing.
    """
    macs = 2 * FRAMES * config.dim
    if isinstance(config, ConformerConfig):
        streams = 2 if config.modality == "both" else 1
        macs = streams * (macs + (2 * FRAMES - 1) * config.dim)
    return {"parameters": 0, "flops_per_frame": float(config.layers * 2 * macs)}


def heads_part(dim: int, config: HeadsConfig) -> Part:
    """The prediction heads, which distillation needs and recognition does not."""
    with torch.device("meta"):
        return _frame_part(PredictionHeads(dim, config), dim)


def decoder_parts(encoder: AnyEncoderConfig, decoder: DecoderConfig) -> Parts:
    """CTC layer or bridge, and decoder with a cache of keys and values.

    Per frame: the CTC layer, the bridge, and keys and values of the encoder's output. Per token:
    all else. The decoder's attention is that of a first token on 100 frames; each token before it
    adds 4 D per block.
    """
    with torch.device("meta"):
        if isinstance(encoder, ConformerConfig):
            model = CTCAttentionRecognizer(encoder, decoder).eval()
            parts = {"ctc": _frame_part(model.ctc, encoder.dim)}
            bridge = _frame_part(nn.Identity(), encoder.dim)
        else:
            model = AVRecognizer(encoder, decoder).eval()
            parts = {}
            bridge = _frame_part(model.bridge, encoder.dim)
        memory = torch.zeros(1, FRAMES, decoder.dim)
        token = torch.zeros(1, 1, dtype=torch.int64)
    cache = DecoderCache()
    first = count_flops(lambda: model.decoder(token, memory, cache=cache))["Global"]
    second = count_flops(lambda: model.decoder(token, memory, cache=cache))["Global"]
    attention = decoder.layers * 4 * (FRAMES + 1) * decoder.dim
    parts["decoder"] = {
        "parameters": parameter_count(model.decoder) + bridge["parameters"],
        "flops_per_frame": bridge["flops_per_frame"] + (first - second) / FRAMES,
        "flops_per_token": float(second),
    }
    parts["decoder_attention"] = {"parameters": 0, "flops_per_token": float(attention)}
    return parts


def _frame_part(module: nn.Module, dim: int) -> Part:
    """Cost of a module on the meta device that maps each frame [D] by itself."""
    x = torch.zeros(1, FRAMES, dim, device="meta")
    flops = count_flops(lambda: module(x)).get("Global", 0)
    return {"parameters": parameter_count(module), "flops_per_frame": flops / FRAMES}


@torch.no_grad()
def count_flops(run: Callable[[], object]) -> dict[str, int]:
    """FLOPs while `run` runs, without attention's products: by module name, and as "Global"."""
    with FlopCounterMode(display=False) as counter:
        run()
    return {
        name: sum(n for op, n in operators.items() if not any(a in str(op) for a in ATTENTION))
        for name, operators in counter.get_flop_counts().items()
    }


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def text_table(costs: list[Cost]) -> str:
    """The costs for a terminal: a line a model beside the paper's, then each model's parts."""
    header = f"{'encoder of':<20}{'parameters':>14}{'paper':>8}{'MFLOPs/frame':>16}{'paper':>8}"
    header += f"{'difference':>13}{'whole model':>16}"
    lines = [header, "-" * len(header), *map(_line, costs), "", NOTE]
    lines += [
        f"{cost.model}: {cost.pruned:,} of the parameters are pruned; they are counted here, since "
        "pruning single weights saves no FLOPs."
        for cost in costs
        if cost.pruned
    ]
    for cost in costs:
        lines += ["", *_part_lines(cost)]
    return "\n".join(lines)


def _line(c: Cost) -> str:
    paper_parameters = paper_flops = difference = "-"
    if c.paper_parameters and c.paper_flops_per_frame:
        paper_parameters = f"{c.paper_parameters / 1e6:.0f}M"
        paper_flops = f"{c.paper_flops_per_frame / 1e6:.0f}"
        difference = f"{100 * (c.flops_per_frame / c.paper_flops_per_frame - 1):+.1f} %"
    whole = "-" if c.model_parameters is None else f"{c.model_parameters:,}"
    return (
        f"{c.model:<20}{c.parameters:>14,}{paper_parameters:>8}"
        f"{c.flops_per_frame / 1e6:>16.1f}{paper_flops:>8}{difference:>13}{whole:>16}"
    )


def _part_lines(c: Cost) -> list[str]:
    lines = [f"{c.model:<20}{'parameters':>14}{'MFLOPs/frame':>16}"]
    if "decoder" in c.parts:
        lines[0] += f"{'MFLOPs/token':>16}"
    for name, part in c.parts.items():
        label = name.replace("_", " ") + (" *" if name in NOT_IN_TOTALS else "")
        line = f"  {label:<18}{part['parameters']:>14,}"
        for key in ("flops_per_frame", "flops_per_token"):
            line += f"{part[key] / 1e6:>16.2f}" if key in part else " " * 16
        lines.append(line.rstrip())
    return lines
