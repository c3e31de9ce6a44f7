"""Model complexity: parameters and FLOPs per video frame, by part.

FLOPs are 2 x MACs of convolutions and matrix products, counted by PyTorch's FLOP counter on a clip
of 100 frames. The matrix products of attention are listed separately and not in the totals, as in
paper A; neither are prediction heads, CTC layer and decoder. Pruned weights are counted like any
other, since unstructured sparsity does not change what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from avhubert_ext.checkpoints.description import EncoderNetwork
from avhubert_ext.checkpoints.model_file import ModelFile
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
from avhubert_ext.models.presets import (
    DECODERS,
    encoder_preset,
    full_name,
    student_preset,
    vsr_preset,
)
from avhubert_ext.models.student import HeadsConfig, PredictionHeads

FRAMES = 100  # length of the clip
ATTENTION = ("bmm", "scaled_dot_product")  # operators of the matrix products in attention

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
Whole model: parameters of encoder, CTC layer if there is one, and decoder; presets have 1000
subwords, those of paper B 5049. Paper: Table 1 of paper A. This repository counts about 60 MFLOPs
less than its 875 and 734, and 6 less than its 678; so does the authors' own recount."""

AnyEncoderConfig = EncoderConfig | ConformerConfig
Part = dict[str, float]
Parts = dict[str, Part]


@dataclass(frozen=True)
class Cost:
    """The cost of one model.

    Attributes:
        model: Its name.
        parameters: Parameters of the encoder, the sum over its parts.
        flops_per_frame: FLOPs per frame of the encoder, the sum over its parts.
        paper_parameters: The parameters in Table 1 of paper A, or None.
        paper_flops_per_frame: The FLOPs per frame in Table 1 of paper A, or None.
        model_parameters: Parameters of encoder, CTC layer and decoder; None without a decoder.
        parts: Name -> `parameters`, and `flops_per_frame`, `flops_per_token` or both.
        pruned: Pruned weights of the whole model. They are included in all parameters, since they
            cost the same FLOPs.
    """

    model: str
    parameters: int
    flops_per_frame: float
    paper_parameters: int | None
    paper_flops_per_frame: int | None
    model_parameters: int | None
    parts: Parts
    pruned: int = 0


def flops_per_frame(encoder: EncoderNetwork) -> float:
    """Return the encoder's FLOPs per video frame, without attention's matrix products."""
    return _total(encoder_parts(encoder.config), "flops_per_frame")


def preset_cost(name: str) -> Cost:
    """Return the cost of a preset, see `full_name`.

    AV-HuBERT encoders include the decoder that they are finetuned with, for 1000 subwords.
    """
    full = full_name(name)
    if full.startswith("vsr-"):
        chosen = vsr_preset(full)
        return _cost(name, chosen.encoder, decoder_parts(chosen.encoder, chosen.decoder))
    encoder = encoder_preset(full)
    others = {}
    if full.startswith("student-"):
        targets = student_preset(full).targets
        others["heads"] = heads_part(encoder.dim, HeadsConfig(targets))
    decoder = DECODERS["tiny" if "tiny" in full else "base"]
    return _cost(name, encoder, others | decoder_parts(encoder, decoder), PAPER.get(full))


def checkpoint_cost(path: Path) -> Cost:
    """Return the cost of the model in a file that `ModelFile` reads."""
    file = ModelFile(path)
    model = file.model()
    if isinstance(model, AVRecognizer | CTCAttentionRecognizer):
        encoder, decoder = model.encoder.config, model.decoder.config
        cost = _cost(path.stem, encoder, decoder_parts(encoder, decoder))
    else:
        cost = _cost(path.stem, model.config, {})
    return replace(cost, pruned=count_pruned(file.masks))


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
    """Return parameters and FLOPs of the encoder by part."""
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
    """Return the existing parts; projections and blocks of two streams are counted together."""
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
    """Return the cost of the matrix products in the blocks' attention, by formula.

    Scores and weighted sum take 2 T D MACs per frame; relative positions add the product of the
    queries with 2T - 1 distances. The FLOP counter misses PyTorch's fused attention on the CPU.
    """
    macs = 2 * FRAMES * config.dim
    if isinstance(config, ConformerConfig):
        streams = 2 if config.modality == "both" else 1
        macs = streams * (macs + (2 * FRAMES - 1) * config.dim)
    return {"parameters": 0, "flops_per_frame": float(config.layers * 2 * macs)}


def heads_part(dim: int, config: HeadsConfig) -> Part:
    """Return the cost of the prediction heads, which only distillation needs."""
    with torch.device("meta"):
        return _frame_part(PredictionHeads(dim, config), dim)


def decoder_parts(encoder: AnyEncoderConfig, decoder: DecoderConfig) -> Parts:
    """Return the cost of CTC layer or bridge, and of the decoder with a key-value cache.

    Per frame: the CTC layer, the bridge, and the keys and values of the encoder's output. Per
    token: everything else. The decoder's attention is that of a first token over 100 frames; each
    earlier token adds 4 D per block.
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
    """Return the cost of a module on the meta device that maps each frame [D] separately."""
    x = torch.zeros(1, FRAMES, dim, device="meta")
    flops = count_flops(lambda: module(x)).get("Global", 0)
    return {"parameters": parameter_count(module), "flops_per_frame": flops / FRAMES}


@torch.no_grad()
def count_flops(run: Callable[[], object]) -> dict[str, int]:
    """Count the FLOPs of `run` without attention's products, by module name and as "Global"."""
    with FlopCounterMode(display=False) as counter:
        run()
    return {
        name: sum(n for op, n in operators.items() if not any(a in str(op) for a in ATTENTION))
        for name, operators in counter.get_flop_counts().items()
    }


def parameter_count(module: nn.Module) -> int:
    """Return the number of parameters, including pruned ones."""
    return sum(p.numel() for p in module.parameters())


def text_table(costs: list[Cost]) -> str:
    """Format costs for a terminal: one line per model beside the paper's, then the parts."""
    header = f"{'encoder of':<20}{'parameters':>14}{'paper':>8}{'MFLOPs/frame':>16}{'paper':>8}"
    header += f"{'difference':>13}{'whole model':>16}"
    lines = [header, "-" * len(header), *map(_line, costs), "", NOTE]
    lines += [
        f"{cost.model}: {cost.pruned:,} of the parameters are pruned; they are counted above, "
        "since pruning single weights saves no FLOPs."
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
