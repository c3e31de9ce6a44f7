"""Checkpoints of Auto-AVSR and of Visual Speech Recognition for Multiple Languages.

Both store tensors alone, under the names of github.com/mpc001/auto_avsr at 182b628, or under those
of 2023 (also in Visual_Speech_Recognition_for_Multiple_Languages at 5e1405d), where the frontend
lies within the encoder and audio-visual models have an `aux_encoder`. The latter repository can
build an older kind of relative positions, too (`legacy_rel_mha`), which no tensor tells from the
newer one: a model of that kind would load and compute something else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from avhubert_ext.checkpoints import sparse_file
from avhubert_ext.checkpoints.torch_file import bare_names, check_finite, layers, read_torch_file
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.data.text import CTC_FIRST
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.frontends import RESNET_CHANNELS, ResNet18

MARK = "ctc.ctc_lo.weight"  # in every checkpoint, and in no other project's
PREFIXES = ("module.", "model.")  # that training left before the names
# Where a file of the peer, of ours, or of a recognizer of words has the visual frontend.
FRONTEND_PREFIXES = ("encoder.frontend.", "encoder.video.frontend.", "frontend.", "")

# Parts of names, one after another: theirs -> ours. The encoder of an audio model is called as
# that of a video model.
RENAMED = [
    (r"^(frontend|proj_encoder)\.", r"encoder.\1."),
    (r"^encoder\.", "encoder.{stream}."),
    (r"^aux_encoder\.", "encoder.audio."),
    (r"^fusion\.", "encoder.fusion."),
    (r"^ctc\.ctc_lo\.", "ctc."),
    (r"\.(embed\.0|proj_encoder)\.(?=weight$|bias$)", r".projection."),
    (r"^decoder\.projection\.", "decoder.embed_tokens."),
    (r"\.(encoders|decoders)\.", ".layers."),
    (r"\.after_norm\.", ".layer_norm."),
    (r"\.output_layer\.", ".output."),
    (r"\.linear_(q|k|v|out|pos)\.", r".\1_proj."),
    (r"\.src_attn\.", ".encoder_attn."),
    (r"^(decoder.*)\.feed_forward\.w_", r"\1.fc"),
    (r"\.norm1\.", ".self_attn_layer_norm."),
    (r"\.norm2\.", ".encoder_attn_layer_norm."),
    (r"\.(norm3|norm_final)\.", ".final_layer_norm."),
    (r"\.feed_forward_macaron\.w_", ".ffn1.fc"),
    (r"\.norm_ff_macaron\.", ".ffn1.layer_norm."),
    (r"\.feed_forward\.w_", ".ffn2.fc"),
    (r"\.norm_ff\.", ".ffn2.layer_norm."),
    (r"\.norm_mha\.", ".self_attn_layer_norm."),
    (r"\.norm_conv\.", ".conv.layer_norm."),
    (r"\.conv_module\.pointwise_cov", ".conv.pointwise"),
    (r"\.conv_module\.depthwise_conv\.", ".conv.depthwise."),
    (r"\.conv_module\.norm\.", ".conv.batch_norm."),
]


def tensors_of(stored: dict[str, Any]) -> dict[str, Any] | None:
    """The tensors in what a file holds, under the peer's names; None if it is not of the peer."""
    found = (bare_names(content, PREFIXES) for content in layers(stored))
    return next((state for state in found if MARK in state), None)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names."""
    stream = "video" if any(".frontend3D." in f".{name}" for name in state) else "audio"
    return {_our_name(name, stream): tensor for name, tensor in state.items()}


def _our_name(name: str, stream: str) -> str:
    for theirs, ours in RENAMED:
        name = re.sub(theirs, ours.replace("{stream}", stream), name)
    return name


def description(path: Path, state: dict[str, Tensor]) -> dict[str, Any]:
    """The network of tensors under our names, in the form of `checkpoint.describe`.

    All of it shows in their shapes. Raises InputError if a tensor that it shows in is missing.
    """
    streams = [s for s in ("video", "audio") if f"encoder.{s}.projection.weight" in state]
    modality = "both" if len(streams) > 1 else "".join(streams)
    stem = {"video": "frontend3D.0", "audio": "trunk.conv1"}
    try:
        first = f"encoder.{streams[0]}."
        heads, head_dim = state[first + "layers.0.self_attn.pos_bias_u"].shape
        stem_weight = state[f"{first}frontend.{stem[streams[0]]}.weight"]
        encoder = {
            "modality": modality,
            "layers": _layers(state, first),
            "dim": heads * head_dim,
            "ffn": len(state[first + "layers.0.ffn1.fc1.bias"]),
            "heads": heads,
            "kernel": state[first + "layers.0.conv.depthwise.weight"].shape[2],
            "width": len(stem_weight) / RESNET_CHANNELS[0],
        }
        if modality == "both":
            encoder["fusion"] = len(state["encoder.fusion.fc1.bias"])
        vocabulary, decoder_dim = state["decoder.embed_tokens.weight"].shape
        ffn = len(state["decoder.layers.0.fc1.bias"])
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: not a whole checkpoint of Auto-AVSR, see {error}; copy it again"
        ) from None
    decoder = {
        "vocabulary": vocabulary,
        "layers": _layers(state, "decoder."),
        "dim": decoder_dim,
        "ffn": ffn,
        "heads": heads,  # no shape shows it; public models have the encoder's
        "attention_dropout": 0.1,
        "padding_idx": None,
    }
    return {"kind": "ctc_attention", "encoder": encoder, "decoder": decoder}


def _layers(state: dict[str, Tensor], prefix: str) -> int:
    found = re.compile(re.escape(prefix) + r"layers\.(\d+)\.")
    return 1 + max(int(match[1]) for name in state if (match := found.match(name)))


def subwords(units: Path, model: Path | None) -> tuple[list[str], bytes]:
    """The subwords in Auto-AVSR's `unigram5000_units.txt`, and the sentencepiece model beside it.

    Raises InputError where a file is missing, and as `read_units`.
    """
    import sentencepiece

    if model is None:
        raise InputError(f"{units}: name the sentencepiece model, too: --sentencepiece MODEL")
    for path in (units, model):
        if not path.is_file():
            raise InputError(f"{path} not found: both files are in Auto-AVSR's spm/")
    try:
        sentencepiece.SentencePieceProcessor().LoadFromSerializedProto(model.read_bytes())
    except RuntimeError:
        raise InputError(f"{model}: not a sentencepiece model; name another file") from None
    return read_units(units), model.read_bytes()


def read_units(units: Path) -> list[str]:
    """The subwords in Auto-AVSR's `unigram5000_units.txt`.

    A unit a line, `<unk> 1` the first, in the order of their ids. Raises InputError where these
    have gaps.
    """
    lines = [line.split() for line in read_lines(units)]
    if [line[1:] for line in lines] != [[str(number)] for number in range(1, len(lines) + 1)]:
        raise InputError(
            f"{units}: expected `unit id` in each line with ids 1, 2, ...; copy it again"
        )
    if not lines or lines[0][0] != CTC_FIRST[1]:
        raise InputError(f"{units}: expected {CTC_FIRST[1]} as the first unit; name another file")
    return [line[0] for line in lines[1:]]


def load_frontend(model: CTCAttentionRecognizer, path: Path | str) -> None:
    """Start the visual frontend from a trained one, as paper B does.

    path: a lip reader of words (LRW; `model_state_dict` with `trunk.*` and `frontend3D.*`), a
    checkpoint of Auto-AVSR, or a lip reader of ours, `.pt` or `.safetensors`. Raises InputError if
    there is none in it, or another network.
    """
    path = Path(path)
    if model.encoder.video is None:
        raise InputError(f"{path}: the model has no visual frontend to start from it; leave it out")
    frontend: ResNet18 = model.encoder.video.frontend
    if path.suffix == ".safetensors":
        stored = sparse_file.to_dense(*sparse_file.read_tensors(path), path)
    else:
        stored = read_torch_file(path)
    own = frontend.state_dict()
    given = next(filter(None, map(_frontend_in, layers(stored))), {})
    misfits = sorted(own.keys() ^ given.keys())
    misfits += [n for n in own.keys() & given.keys() if own[n].shape != given[n].shape]
    if misfits:
        raise InputError(
            f"{path}: not a ResNet-18 with SiLU of {len(own)} tensors: {len(misfits)} differ, "
            f"e.g. {misfits[0]}; name a checkpoint of Auto-AVSR or of its word recognizer on LRW"
        )
    check_finite(path, given)
    frontend.load_state_dict(given)


def _frontend_in(content: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a visual frontend, under its own names; empty if there are none."""
    state = bare_names(content, (*PREFIXES, "recognizer."))
    state = {name: t for name, t in state.items() if isinstance(t, Tensor)}
    for prefix in FRONTEND_PREFIXES:
        given = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        given = {n: t for n, t in given.items() if n.startswith(("trunk.", "frontend3D."))}
        if given:
            return given
    return {}
