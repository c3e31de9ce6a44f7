"""The description of a network: the configuration from which it is rebuilt.

Every model file stores it as JSON: `kind`, and one configuration for each part of the network.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import ConformerConfig, ConformerEncoder, CTCAttentionRecognizer
from avhubert_ext.models.decoder import AVRecognizer, DecoderConfig
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig
from avhubert_ext.models.student import HeadsConfig, Student

DESCRIPTION_KEY = "avhubert_ext"  # of the description in the metadata of a `.safetensors` file
EncoderNetwork = AVHubertEncoder | ConformerEncoder
RecognizerNetwork = AVRecognizer | CTCAttentionRecognizer
Network = AVHubertEncoder | RecognizerNetwork | Student


def describe(model: nn.Module) -> dict[str, Any]:
    """The description of an encoder, recognizer, or student.

    Raises:
        InputError: If the model is of another type.
    """
    if isinstance(model, RecognizerNetwork):
        return {
            "kind": "recognizer" if isinstance(model, AVRecognizer) else "ctc_attention",
            "encoder": asdict(model.encoder.config),
            "decoder": asdict(model.decoder.config),
        }
    if isinstance(model, AVHubertEncoder):
        return {"kind": "encoder", "encoder": asdict(model.config)}
    if isinstance(model, Student):
        return {
            "kind": "student",
            "encoder": asdict(model.encoder.config),
            "heads": asdict(model.heads.config),
        }
    raise InputError(f"a {type(model).__name__} is not a model that can be stored")


def build(description: dict[str, Any]) -> Network:
    """The inverse of `describe`: the network with fresh weights.

    Raises:
        InputError: If a value in a configuration is invalid.
    """
    if description["kind"] == "ctc_attention":
        return CTCAttentionRecognizer(
            ConformerConfig(**description["encoder"]), DecoderConfig(**description["decoder"])
        )
    encoder = EncoderConfig(**description["encoder"])
    if description["kind"] == "encoder":
        return AVHubertEncoder(encoder)
    if description["kind"] == "student":
        heads = description["heads"]
        return Student(encoder, HeadsConfig(tuple(heads["targets"]), heads["teacher_dim"]))
    return AVRecognizer(encoder, DecoderConfig(**description["decoder"]))


def build_for(path: Path, description: dict[str, Any] | str, tensors: int) -> Network:
    """`build` for a description that was found in a file, without memory for the weights.

    Args:
        path: The file's name for error messages.
        description: The result of `describe`, or its JSON.
        tensors: Number of tensors in the file, the upper limit for the number of layers.

    Returns:
        The network on the meta device.

    Raises:
        InputError: If the description is invalid.
    """
    try:
        found = json.loads(description) if isinstance(description, str) else description
        for part in ("encoder", "decoder"):
            layers = found.get(part, {}).get("layers", 0)
            if layers > tensors:  # building that many might never end
                raise InputError(f"{layers} {part} layers, but {tensors} tensors")
        with torch.device("meta"):
            return build(found)
    except Exception as error:  # a configuration can be wrong in any way
        reason = error if isinstance(error, InputError) else repr(error)
        raise InputError(
            f"{path}: its configuration does not fit this version ({reason}); convert it again, "
            "or copy it again"
        ) from None
