"""Checkpoints of this project's models in fairseq."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from avhubert_ext.checkpoints.description import RecognizerNetwork, describe
from avhubert_ext.checkpoints.stored_network import StoredNetwork, inverse, replace_prefix
from avhubert_ext.checkpoints.torch_file import plain_tensors, section
from avhubert_ext.compression.pruning import Masks, pack, strip_prefix, unpack
from avhubert_ext.data.files import whole_file
from avhubert_ext.models.conformer import CTCAttentionRecognizer

# Names of the models in fairseq.
FAIRSEQ_ASR = "av_asr_seq2seq"
FAIRSEQ_STUDENT = "av_student"
FAIRSEQ_VSR = "vsr_ctc_attention"

# The class of each model's sparse-mask task. A checkpoint stores the masks under its name.
SPARSE_TASKS = {
    FAIRSEQ_ASR: "SparseASRTask",
    FAIRSEQ_STUDENT: "SparseDistillationTask",
    FAIRSEQ_VSR: "SparseVSRTask",
}
# Prefixes of the names in a checkpoint -> prefixes of the library's names. The first model keeps
# the parts of a recognizer in fairseq's encoder and decoder classes, the others wrap the library's
# model as a whole.
FAIRSEQ_PREFIXES = {
    FAIRSEQ_ASR: {
        "encoder.w2v_model.": "encoder.",
        "encoder.bridge.": "bridge.",
        "decoder.network.": "decoder.",
    },
    FAIRSEQ_STUDENT: {"student.": ""},
    FAIRSEQ_VSR: {"recognizer.": ""},
}

NOTHING: Any = MappingProxyType({})  # the default of every mapping


def network(path: Path, stored: dict[str, Any]) -> StoredNetwork | None:
    """The network in the content of a checkpoint; None if the file is not one of these.

    Raises:
        InputError: If the weights are not plain tensors.
    """
    config = section(stored, "cfg", "model")
    if not config.get("description"):
        return None
    tensors = plain_tensors(path, stored.get("model"))
    return StoredNetwork(config["description"], tensors, _prefixes(str(config.get("_name"))))


def masks(path: Path, stored: dict[str, Any], whole_student: bool = False) -> Masks:
    """The masks of a sparse-mask task in the content of a checkpoint.

    Args:
        path: The file's name for error messages.
        stored: The content of the file.
        whole_student: Whether a student's masks keep the names of the whole student, prediction
            heads included, instead of those of its encoder.

    Returns:
        The masks by the library's names, True = kept. Empty for a dense model, and for a model
        whose pruned weights may still grow back (PARP before its end).

    Raises:
        InputError: If the masks are damaged.
    """
    name = str(section(stored, "cfg", "model").get("_name"))
    found = section(stored, "extra_state", SPARSE_TASKS.get(name, ""))
    if not found.get("frozen"):
        return {}
    renamed = from_fairseq_names(unpack(section(found, "masks"), path), name)
    if name == FAIRSEQ_STUDENT and not whole_student:
        return strip_prefix(renamed, "encoder.")
    return renamed


def origin(stored: dict[str, Any]) -> dict[str, Any]:
    """The fields of `cfg.model`, and `trained_with` from the rest of the configuration."""
    config = section(stored, "cfg")
    return section(config, "model") | {"trained_with": effective_batch(config)}


def training_data(stored: dict[str, Any]) -> Path | None:
    """The data folder that a model was trained on, if the checkpoint stores it."""
    folder = section(stored, "cfg", "task").get("data")
    return Path(folder) if isinstance(folder, str) else None


def effective_batch(config: Mapping[str, Any]) -> str:
    """How much data each update of a training run used.

    Args:
        config: The `cfg` of a fairseq checkpoint.

    Returns:
        For example `800 frames x 2 batches x 8 processes = 12800 frames`; "unknown" if the
        configuration does not say.
    """
    model, dataset, optimization, distributed = (
        part if isinstance(part := config.get(name), Mapping) else {}
        for name in ("model", "dataset", "optimization", "distributed_training")
    )
    update_freq = optimization.get("update_freq")
    unit = "frames" if dataset.get("max_tokens") else "utterances"
    size = dataset.get("max_tokens") or dataset.get("batch_size")
    if not size or not update_freq:
        return model.get("trained_with") or "unknown"
    try:
        batches, processes = int(update_freq[0]), int(distributed.get("distributed_world_size", 1))
        total = int(size) * batches * processes
    except (TypeError, ValueError, IndexError):
        return "unknown"
    return f"{size} {unit} x {batches} batches x {processes} processes = {total} {unit}"


def from_fairseq_names(
    state: dict[str, Tensor], model: str | None = FAIRSEQ_ASR
) -> dict[str, Tensor]:
    """The tensors of one of the models in fairseq under the library's names."""
    prefixes = _prefixes(model)
    return {replace_prefix(name, prefixes): tensor for name, tensor in state.items()}


def to_fairseq_names(state: dict[str, Tensor], model: str = FAIRSEQ_ASR) -> dict[str, Tensor]:
    """The inverse of `from_fairseq_names`."""
    prefixes = inverse(_prefixes(model))
    return {replace_prefix(name, prefixes): tensor for name, tensor in state.items()}


def _prefixes(model: str | None) -> dict[str, str]:
    return FAIRSEQ_PREFIXES.get(model, FAIRSEQ_PREFIXES[FAIRSEQ_ASR])


def fairseq_state(
    model: RecognizerNetwork, origin: Mapping[str, str] = NOTHING, masks: Masks = NOTHING
) -> dict[str, Any]:
    """The content of a fairseq checkpoint for a recognizer.

    Args:
        model: The recognizer.
        origin: See `ModelFile.origin`.
        masks: The masks of a pruned model by the library's names.

    Returns:
        A dict for `torch.save`.
    """
    lip_reader = isinstance(model, CTCAttentionRecognizer)
    name, task = (FAIRSEQ_VSR, "vsr") if lip_reader else (FAIRSEQ_ASR, "av_asr")
    sparse = {}
    if masks:
        packed = pack(to_fairseq_names(masks, name))
        sparse = {SPARSE_TASKS[name]: {"masks": packed, "frozen": True}}
    return {
        "args": None,
        "cfg": {
            "model": {"_name": name, "description": json.dumps(describe(model)), **origin},
            "task": {"_name": task},
        },
        "model": to_fairseq_names(model.state_dict(), name),
        "optimizer_history": [
            {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
        ],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, **sparse},
    }


def save_fairseq(
    path: Path,
    model: RecognizerNetwork,
    origin: Mapping[str, str] = NOTHING,
    masks: Masks = NOTHING,
) -> None:
    """Write a recognizer as a fairseq checkpoint that `fairseq-generate --path` reads.

    Args:
        path: The `.pt` file to write.
        model: The recognizer.
        origin: See `ModelFile.origin`.
        masks: The masks of a pruned model by the library's names.
    """
    # In memory first: torch.save would write the name of the temporary file into the file.
    buffer = io.BytesIO()
    torch.save(fairseq_state(model, origin, masks), buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
