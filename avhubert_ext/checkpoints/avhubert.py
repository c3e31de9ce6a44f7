"""Checkpoints of the official AV-HuBERT code (Shi et al. 2022).

The fields, their defaults and the tensors are those of github.com/facebookresearch/av_hubert at
258fb50.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from avhubert_ext.checkpoints.stored_network import StoredNetwork
from avhubert_ext.checkpoints.torch_file import (
    plain_tensors,
    read_torch_file,
    section,
    state_of,
)
from avhubert_ext.data.audio import FEATURES as AUDIO_FEATURES
from avhubert_ext.data.text import SPECIALS, dictionary_digest, join_symbols
from avhubert_ext.errors import InputError

PRETRAINED = "av_hubert"
FINETUNED = "av_hubert_seq2seq"

# The prefix of the encoder in a finetuned file.
NESTED = "encoder.w2v_model."

# Prefixes of the names in the file -> prefixes of the library's names.
PREFIXES = {PRETRAINED: {}, FINETUNED: {NESTED: "encoder."}}

# Tensors that only pretraining needs. fairseq's positions hold one that only marks the device.
PRETRAINING_ONLY = ("mask_emb", "label_embs_concat", "final_proj.weight", "final_proj.bias")
UNUSED = {
    PRETRAINED: {*PRETRAINING_ONLY},
    FINETUNED: {
        *(NESTED + name for name in PRETRAINING_ONLY),
        "decoder.embed_positions._float_tensor",
    },
}

# Official field -> the library's field, official default.
ENCODER_FIELDS = {
    "encoder_layers": ("layers", 12),
    "encoder_embed_dim": ("dim", 768),
    "encoder_ffn_embed_dim": ("ffn", 3072),
    "encoder_attention_heads": ("heads", 12),
    "conv_pos": ("conv_pos", 128),
    "conv_pos_groups": ("conv_pos_groups", 16),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "dropout_input": ("dropout_input", 0.0),
    "encoder_layerdrop": ("layerdrop", 0.0),
}
DECODER_FIELDS = {
    "decoder_layers": ("layers", 6),
    "decoder_embed_dim": ("dim", 768),
    "decoder_ffn_embed_dim": ("ffn", 3072),
    "decoder_attention_heads": ("heads", 4),
    "decoder_dropout": ("dropout", 0.0),
    "decoder_attention_dropout": ("attention_dropout", 0.0),
    "decoder_activation_dropout": ("activation_dropout", 0.0),
}

# Official field -> the only value that the library's network supports, official default.
ENCODER_PARTS = {
    "_name": (PRETRAINED, PRETRAINED),
    "layer_norm_first": (True, False),
    "activation_fn": ("gelu", "gelu"),
    "resnet_relu_type": ("prelu", "prelu"),
    "modality_fuse": ("concat", "concat"),
    "sub_encoder_layers": (0, 0),
    # The official default, -1, builds no network: the shape of the weights decides.
    "audio_feat_dim": (AUDIO_FEATURES, AUDIO_FEATURES),
}
# Not the decoder's final norm and tied embeddings: its tensors show them.
DECODER_PARTS = {
    "no_scale_embedding": (True, True),
    "decoder_learned_pos": (False, False),
    "no_token_positional_embeddings": (False, False),
}


def network(path: Path, stored: dict[str, Any]) -> StoredNetwork | None:
    """The network in the content of a file; None if the file is not an official checkpoint.

    Raises:
        InputError: If the weights are not plain tensors, or as `description`.
    """
    config = section(stored, "cfg", "model")
    name = config.get("_name")
    if name not in (PRETRAINED, FINETUNED):
        return None
    tensors = plain_tensors(path, stored.get("model"))
    used = {n: tensor for n, tensor in tensors.items() if n not in UNUSED[name]}
    return StoredNetwork(description(path, config, tensors), used, PREFIXES[name])


def description(path: Path, config: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    """The description of the network, see `description.describe`.

    Dropouts are those of pretraining; modality dropout stays 0.

    Args:
        path: The file's name for error messages.
        config: The file's `cfg.model`.
        state: Its tensors by their official names.

    Raises:
        InputError: If a field has a value that the library's network does not support, or if the
            configuration of the encoder is missing.
    """
    if config["_name"] == PRETRAINED:
        return {"kind": "encoder", "encoder": _encoder(path, config)}
    decoder = _translated(path, config, DECODER_FIELDS, DECODER_PARTS)
    embedding = state.get("decoder.embed_tokens.weight")
    if embedding is not None and embedding.dim() == 2:
        decoder["vocabulary"] = embedding.shape[0]
    return {"kind": "recognizer", "encoder": _nested_encoder(path, config), "decoder": decoder}


def origin(stored: dict[str, Any]) -> dict[str, str]:
    """The subwords of a finetuned checkpoint and their digest; empty if they are not in it.

    See `ModelFile.origin` for their names.
    """
    if section(stored, "cfg", "model").get("_name") != FINETUNED:
        return {}
    symbols = _symbols(section(stored, "task_state"))
    if not isinstance(symbols, list):
        return {}
    symbols = [str(symbol) for symbol in symbols]
    return {"dictionary": dictionary_digest(symbols), "subwords": join_symbols(symbols)}


def subwords(path: Path) -> tuple[list[str], bytes]:
    """The subwords and the sentencepiece model in a finetuned checkpoint.

    Returns:
        The dictionary's subwords in the order of their ids, without the special symbols, and the
        content of the sentencepiece model.

    Raises:
        InputError: If they are not in the file, for example because it is a pretrained checkpoint.
    """
    task = section(read_torch_file(path, mapped=True), "task_state")
    symbols = _symbols(task)
    processor = state_of(task.get("s2s_tokenizer")).get("sp")
    state = getattr(processor, "state", None)  # the model or a dict with it, depending on version
    model = state.get("model_proto") if isinstance(state, dict) else state
    if not isinstance(model, bytes) or not isinstance(symbols, list):
        raise InputError(f"{path}: no subwords in it: name a finetuned checkpoint of AV-HuBERT")
    return [str(symbol) for symbol in symbols[SPECIALS:]], model


def _symbols(task_state: dict[str, Any]) -> object:
    """The special symbols followed by the subwords, if they are there."""
    return state_of(task_state.get("target_dictionary")).get("symbols")


def _nested_encoder(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The encoder of a finetuned file, from its w2v_args or from the file that w2v_path names."""
    pretrained = section(config, "w2v_args", "model")
    if pretrained:
        return _encoder(path, pretrained)
    source = config.get("w2v_path")
    if isinstance(source, str) and os.path.isfile(source):  # False where Path raises
        stored = read_torch_file(Path(source), mapped=True)
        return _encoder(Path(source), section(stored, "cfg", "model"))
    where = f", or put the pretrained checkpoint at {source}" if isinstance(source, str) else ""
    raise InputError(
        f"{path}: the encoder's configuration (w2v_args) is missing: run AV-HuBERT's "
        f"misc/fix_state.py on it{where}"
    )


def _encoder(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    return _translated(path, config, ENCODER_FIELDS, ENCODER_PARTS)


def _translated(
    path: Path,
    config: dict[str, Any],
    fields: dict[str, tuple[str, float]],
    parts: dict[str, tuple[object, object]],
) -> dict[str, Any]:
    """The library's fields of a configuration; an InputError for parts that it does not have."""
    for field, (ours, default) in parts.items():
        value = config.get(field, default)
        if type(value) is not type(ours) or value != ours:
            raise InputError(
                f"{path}: {field} is {value!r}, but this network supports only {ours!r}; use a "
                "checkpoint trained with that, such as the released ones"
            )
    translated = {}
    for field, (ours, default) in fields.items():
        translated[ours] = value = config.get(field, default)
        if isinstance(value, bool) or not isinstance(value, type(default) | int):
            raise InputError(f"{path}: {field} is {value!r}: expected a number; copy it again")
    return translated
