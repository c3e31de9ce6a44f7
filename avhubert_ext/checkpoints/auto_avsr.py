"""Checkpoints of Auto-AVSR and of Visual Speech Recognition for Multiple Languages.

Both contain nothing but tensors, with the names of github.com/mpc001/auto_avsr at 182b628, or the
names of 2023 (also in Visual_Speech_Recognition_for_Multiple_Languages at 5e1405d), where the
frontend is part of the encoder and audio-visual models have an `aux_encoder`. The second repository
also has an older kind of relative positions (`legacy_rel_mha`). No tensor shows which kind a model
has: one with the older kind loads, but gives other results.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from avhubert_ext.checkpoints import sparse_file
from avhubert_ext.checkpoints.safetensors_file import SafetensorsFile
from avhubert_ext.checkpoints.stored_network import StoredNetwork
from avhubert_ext.checkpoints.torch_file import (
    bare_names,
    check_finite,
    layers,
    plain_tensors,
    read_torch_file,
)
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.data.text import CTC_FIRST
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.frontends import RESNET_CHANNELS, ResNet18

MARK = "ctc.ctc_lo.weight"  # in every checkpoint of these projects, and in no others
PREFIXES = ("module.", "model.")  # left by training in front of the names
# The visual frontend in a file of Auto-AVSR, of this library, or of a word recognizer.
FRONTEND_PREFIXES = ("encoder.frontend.", "encoder.video.frontend.", "frontend.", "")

# Parts of names, replaced one after another: Auto-AVSR's -> the library's. The encoder of an audio
# model has the same name there as that of a video model.
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


def network(path: Path, stored: dict[str, Any]) -> StoredNetwork | None:
    """The network in the content of a file; None if the file is not one of these checkpoints.

    Raises:
        InputError: If the weights are not plain tensors, or as `description`.
    """
    candidates = (bare_names(content, PREFIXES) for content in layers(stored))
    found = next((state for state in candidates if MARK in state), None)
    if found is None:
        return None
    tensors = renamed(plain_tensors(path, found))
    return StoredNetwork(description(path, tensors), tensors, {})


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Auto-AVSR's tensors under the library's names."""
    stream = "video" if any(".frontend3D." in f".{name}" for name in state) else "audio"
    return {_our_name(name, stream): tensor for name, tensor in state.items()}


def _our_name(name: str, stream: str) -> str:
    for theirs, ours in RENAMED:
        name = re.sub(theirs, ours.replace("{stream}", stream), name)
    return name


def description(path: Path, state: dict[str, Tensor]) -> dict[str, Any]:
    """The description of the network, see `description.describe`, from the shapes of its tensors.

    Args:
        path: The file's name for error messages.
        state: The tensors by the library's names.

    Raises:
        InputError: If a tensor that is needed for it is missing.
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
            f"{path}: not a complete checkpoint of Auto-AVSR ({error}); copy it again"
        ) from None
    decoder = {
        "vocabulary": vocabulary,
        "layers": _layers(state, "decoder."),
        "dim": decoder_dim,
        "ffn": ffn,
        "heads": heads,  # no shape shows it; in public models it is the encoder's
        "attention_dropout": 0.1,
        "padding_idx": None,
    }
    return {"kind": "ctc_attention", "encoder": encoder, "decoder": decoder}


def _layers(state: dict[str, Tensor], prefix: str) -> int:
    """The number of layers below a prefix."""
    found = re.compile(re.escape(prefix) + r"layers\.(\d+)\.")
    return 1 + max(int(match[1]) for name in state if (match := found.match(name)))


def subwords(units: Path, model: Path | None) -> tuple[list[str], bytes]:
    """Auto-AVSR's subwords and its sentencepiece model.

    Args:
        units: Auto-AVSR's `unigram5000_units.txt`.
        model: The sentencepiece model beside it.

    Returns:
        The subwords in the order of their ids, and the content of the model.

    Raises:
        InputError: If a file is missing or damaged.
    """
    import sentencepiece

    if model is None:
        raise InputError(f"{units}: also name the sentencepiece model: --sentencepiece MODEL")
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

    The file has one unit per line, in the order of their ids; the first line is `<unk> 1`.

    Raises:
        InputError: If the file is missing, or its ids have gaps.
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
    """Give a model the visual frontend of a trained one, as in paper B.

    Args:
        model: The model to change.
        path: A word recognizer trained on LRW (`model_state_dict` with `trunk.*` and
            `frontend3D.*`), a checkpoint of Auto-AVSR, or a lip reader of this library, `.pt` or
            `.safetensors`.

    Raises:
        InputError: If the file has no visual frontend or one with another network, or if the model
            has none.
    """
    path = Path(path)
    if model.encoder.video is None:
        raise InputError(f"{path}: the model has no visual frontend; leave this file out")
    frontend: ResNet18 = model.encoder.video.frontend
    if path.suffix == ".safetensors":
        file = SafetensorsFile(path)
        stored = sparse_file.to_dense(file.tensors(), file.metadata, path)
    else:
        stored = read_torch_file(path, mapped=True)
    own = frontend.state_dict()
    given = next(filter(None, map(_frontend_in, layers(stored))), {})
    misfits = sorted(own.keys() ^ given.keys())
    misfits += [n for n in own.keys() & given.keys() if own[n].shape != given[n].shape]
    if misfits:
        raise InputError(
            f"{path}: not a ResNet-18 with SiLU of {len(own)} tensors: {len(misfits)} differ, "
            f"for example {misfits[0]}; name a checkpoint of Auto-AVSR or of its word recognizer "
            "on LRW"
        )
    check_finite(path, given)
    frontend.load_state_dict(given)


def _frontend_in(content: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a visual frontend by its own names; empty if there are none."""
    state = bare_names(content, (*PREFIXES, "recognizer."))
    state = {name: t for name, t in state.items() if isinstance(t, Tensor)}
    for prefix in FRONTEND_PREFIXES:
        given = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        given = {n: t for n, t in given.items() if n.startswith(("trunk.", "frontend3D."))}
        if given:
            return given
    return {}
