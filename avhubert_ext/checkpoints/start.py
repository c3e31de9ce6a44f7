"""The weights from which a lip reader's training starts: theta_0 of paper B, used for rewinding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from avhubert_ext.checkpoints.auto_avsr import load_frontend
from avhubert_ext.checkpoints.model_file import load_auto_avsr, save_model
from avhubert_ext.data.text import Vocabulary, dictionary_digest, join_symbols
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.presets import build_vsr


def start_file(
    network: str,
    target: Path,
    data: Path,
    modality: str = "video",
    frontend: Path | None = None,
    recognizer: Path | None = None,
    seed: int = 1,
) -> str:
    """Write fresh weights for the subwords of a manifest folder.

    Args:
        network: A preset of the family vsr, see `list_presets`.
        target: The `.safetensors` file to write.
        data: Manifest folder with `dict.wrd.txt`.
        modality: video, audio, or both.
        frontend: Checkpoint for the visual frontend (paper B takes that of an LRW recognizer).
        recognizer: Checkpoint of a whole recognizer, perhaps with other subwords. Everything but
            its embedding and output layers is taken from it.
        seed: Seed of the fresh weights.

    Returns:
        One line about the new file.

    Raises:
        InputError: If a file is missing, or a checkpoint does not fit the network.
    """
    if target.suffix != ".safetensors":
        raise InputError(f"{target}: expected .safetensors")
    if frontend is not None and recognizer is not None:
        raise InputError("a recognizer has its own frontend: name one of the two checkpoints")
    vocabulary = Vocabulary(data / "dict.wrd.txt", ctc=True)
    torch.manual_seed(seed)
    model = build_vsr(network, modality, len(vocabulary))
    if frontend is not None:
        load_frontend(model, frontend)
    if recognizer is not None:
        take_over(model, recognizer)
    pieces = vocabulary.symbols
    origin = {"dictionary": dictionary_digest(pieces), "subwords": join_symbols(pieces)}
    save_model(target, model, origin=origin)
    return f"{target}: {network}, {len(vocabulary)} outputs"


def take_over(model: CTCAttentionRecognizer, path: Path) -> None:
    """Give a model the weights of another recognizer, except for the layers of its subwords.

    Args:
        model: The model to change.
        path: A model file with a recognizer of the same network.

    Raises:
        InputError: If the file holds another network.
    """
    other = load_auto_avsr(path)
    vocabulary = model.decoder.config.vocabulary
    same_but_outputs = replace(other.decoder.config, vocabulary=vocabulary)
    if other.encoder.config != model.encoder.config or same_but_outputs != model.decoder.config:
        raise InputError(f"{path}: another network; name a checkpoint of the same network")
    own = ("ctc.", "decoder.embed_tokens.", "decoder.output.")
    state = {n: t for n, t in other.state_dict().items() if not n.startswith(own)}
    model.load_state_dict(model.state_dict() | state)
