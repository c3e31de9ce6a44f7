"""What a checkpoint of the official AV-HuBERT code means here: its network and tensor names.

Shi et al. 2022. The fields, their defaults and the tensors are those of
github.com/facebookresearch/av_hubert at 258fb50.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from avhubert_ext.checkpoints.torch_file import read_torch_file, section, state_of
from avhubert_ext.data.audio import FEATURES as AUDIO_FEATURES
from avhubert_ext.data.text import SPECIALS, dictionary_digest, join_symbols
from avhubert_ext.errors import InputError

PRETRAINED = "av_hubert"
FINETUNED = "av_hubert_seq2seq"

# Where a finetuned file nests the encoder.
NESTED = "encoder.w2v_model."

# The file's prefixes -> ours.
PREFIXES = {PRETRAINED: {}, FINETUNED: {NESTED: "encoder."}}

# Tensors that only pretraining needs; fairseq's positions hold one that only marks the device.
PRETRAINING_ONLY = ("mask_emb", "label_embs_concat", "final_proj.weight", "final_proj.bias")
UNUSED = {
    PRETRAINED: {*PRETRAINING_ONLY},
    FINETUNED: {
        *(NESTED + name for name in PRETRAINING_ONLY),
        "decoder.embed_positions._float_tensor",
    },
}

# Official field -> our field, official default.
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

# Official field -> the only value that our network has, official default.
ENCODER_PARTS = {
    "_name": (PRETRAINED, PRETRAINED),
    "layer_norm_first": (True, False),
    "activation_fn": ("gelu", "gelu"),
    "resnet_relu_type": ("prelu", "prelu"),
    "modality_fuse": ("concat", "concat"),
    "sub_encoder_layers": (0, 0),
    # The official default, -1, builds no network: the weights' shape decides.
    "audio_feat_dim": (AUDIO_FEATURES, AUDIO_FEATURES),
}
# Final norm and tied embeddings are not among the decoder's: its tensors show them.
DECODER_PARTS = {
    "no_scale_embedding": (True, True),
    "decoder_learned_pos": (False, False),
    "no_token_positional_embeddings": (False, False),
}


def description(path: Path, config: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    """The configuration of an official checkpoint, in the form of `checkpoint.describe`.

    `config` is the file's cfg.model, `state` its tensors under their official names. Dropouts are
    those of pretraining; modality dropout stays 0. Raises InputError where a field asks for a part
    that our network does not have, or where the encoder's configuration is missing.
    """
    if config["_name"] == PRETRAINED:
        return {"kind": "encoder", "encoder": _encoder(path, config)}
    decoder = _translated(path, config, DECODER_FIELDS, DECODER_PARTS)
    embedding = state.get("decoder.embed_tokens.weight")
    if embedding is not None and embedding.dim() == 2:
        decoder["vocabulary"] = embedding.shape[0]
    return {"kind": "recognizer", "encoder": _nested_encoder(path, config), "decoder": decoder}


def subwords(path: Path) -> tuple[list[str], bytes]:
    """The dictionary's subwords and the sentencepiece model that a finetuned file holds.

    Raises InputError where they are not in it, as in a pretrained one.
    """
    task = section(read_torch_file(path), "task_state")
    symbols = _symbols(task)
    processor = state_of(task.get("s2s_tokenizer")).get("sp")
    state = getattr(processor, "state", None)  # its model, or a dict with that; as by its version
    model = state.get("model_proto") if isinstance(state, dict) else state
    if not isinstance(model, bytes) or not isinstance(symbols, list):
        raise InputError(f"{path}: no subwords in it: name a finetuned checkpoint of AV-HuBERT")
    return [str(symbol) for symbol in symbols[SPECIALS:]], model


def dictionary(task_state: dict[str, Any]) -> dict[str, str]:
    """A finetuned file's subwords and their `dictionary_digest`; empty where they aren't in it."""
    symbols = _symbols(task_state)
    if not isinstance(symbols, list):
        return {}
    symbols = [str(symbol) for symbol in symbols]
    return {"dictionary": dictionary_digest(symbols), "subwords": join_symbols(symbols)}


def _symbols(task_state: dict[str, Any]) -> object:
    """The special symbols, then the subwords."""
    return state_of(task_state.get("target_dictionary")).get("symbols")


def _nested_encoder(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Of a finetuned file: its w2v_args, or the configuration in the file that w2v_path names."""
    pretrained = section(config, "w2v_args", "model")
    if pretrained:
        return _encoder(path, pretrained)
    source = config.get("w2v_path")
    if isinstance(source, str) and os.path.isfile(source):  # False where Path raises
        stored = read_torch_file(Path(source))
        return _encoder(Path(source), section(stored, "cfg", "model"))
    where = f", or put the pretrained checkpoint at {source}" if isinstance(source, str) else ""
    raise InputError(
        f"{path}: lacks its encoder's configuration (w2v_args): run AV-HuBERT's misc/fix_state.py "
        f"on it{where}"
    )


def _encoder(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    return _translated(path, config, ENCODER_FIELDS, ENCODER_PARTS)


def _translated(
    path: Path,
    config: dict[str, Any],
    fields: dict[str, tuple[str, float]],
    parts: dict[str, tuple[object, object]],
) -> dict[str, Any]:
    for field, (ours, default) in parts.items():
        value = config.get(field, default)
        if type(value) is not type(ours) or value != ours:
            raise InputError(
                f"{path}: {field} is {value!r}, but this network is built for {ours!r}; use a "
                "checkpoint trained with that, as the released ones are"
            )
    translated = {}
    for field, (ours, default) in fields.items():
        translated[ours] = value = config.get(field, default)
        if isinstance(value, bool) or not isinstance(value, type(default) | int):
            raise InputError(f"{path}: {field} is {value!r}: expected a number; copy it again")
    return translated
