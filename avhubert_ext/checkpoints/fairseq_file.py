"""This project's own checkpoints of fairseq."""

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
from avhubert_ext.compression.pruning import Masks, pack
from avhubert_ext.data.files import whole_file
from avhubert_ext.models.conformer import CTCAttentionRecognizer

NOTHING: Mapping[str, str] = MappingProxyType({})

# The names of fairseq's models.
FAIRSEQ_ASR = "av_asr_seq2seq"

FAIRSEQ_STUDENT = "av_student"

FAIRSEQ_VSR = "vsr_ctc_attention"

# The class of each one's sparse-mask task, under whose name a checkpoint stores the masks.
SPARSE_TASKS = {
    FAIRSEQ_ASR: "SparseASRTask",
    FAIRSEQ_STUDENT: "SparseDistillationTask",
    FAIRSEQ_VSR: "SparseVSRTask",
}

# Their prefixes of names -> ours. The first nests the parts of a recognizer in fairseq's encoder
# and decoder classes, the others hold the library's model whole.
FAIRSEQ_PREFIXES = {
    FAIRSEQ_ASR: {
        "encoder.w2v_model.": "encoder.",
        "encoder.bridge.": "bridge.",
        "decoder.network.": "decoder.",
    },
    FAIRSEQ_STUDENT: {"student.": ""},
    FAIRSEQ_VSR: {"recognizer.": ""},
}


def _fairseq_prefixes(model: str | None) -> dict[str, str]:
    """Of one of fairseq's models; without its name, of the first."""
    return FAIRSEQ_PREFIXES.get(model, FAIRSEQ_PREFIXES[FAIRSEQ_ASR])


def from_fairseq_names(
    state: dict[str, Tensor], model: str | None = FAIRSEQ_ASR
) -> dict[str, Tensor]:
    """The tensors of one of fairseq's models under the library's own names."""
    return {_renamed(name, _fairseq_prefixes(model)): tensor for name, tensor in state.items()}


def to_fairseq_names(state: dict[str, Tensor], model: str = FAIRSEQ_ASR) -> dict[str, Tensor]:
    """The inverse of `from_fairseq_names`."""
    prefixes = _inverse(_fairseq_prefixes(model))
    return {_renamed(name, prefixes): tensor for name, tensor in state.items()}


def _renamed(name: str, prefixes: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _inverse(prefixes: dict[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in prefixes.items()}


def effective_batch(config: Mapping[str, Any]) -> str:
    """On how much an update of a fairseq training rested, from the `cfg` in its checkpoint.

    As `800 frames x 2 batches x 8 processes = 12800 frames`; unknown for files without it.
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


def fairseq_state(
    model: RecognizerNetwork, origin: Mapping[str, str] = NOTHING, masks: Masks = NOTHING
) -> dict[str, Any]:
    """A recognizer, perhaps pruned, as the content of a fairseq checkpoint."""
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
    """Write a recognizer as a fairseq checkpoint that `fairseq-generate --path` reads."""
    # By way of memory: torch.save would write the temporary file's name into the file.
    buffer = io.BytesIO()
    torch.save(fairseq_state(model, origin, masks), buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
