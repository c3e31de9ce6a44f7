"""`--path` and `--finetune-from-model` with any file of a recogniser that the library reads.

That is fairseq's own checkpoints, the official AV-HuBERT's finetuned ones, and safetensors.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from omegaconf import OmegaConf

from avhubert_ext.models.avhubert import FINETUNED, PRETRAINED
from avhubert_ext.models.checkpoint import effective_batch, fairseq_state, load_avhubert_asr

_load_checkpoint = checkpoint_utils.load_checkpoint_to_cpu

# Of the last model that was loaded, see `effective_batch`: a score is printed with it.
trained_with = "unknown"


def load_any_checkpoint(
    path: str, arg_overrides: dict[str, Any] | None = None, load_on_all_ranks: bool = False
) -> dict[str, Any]:
    """The content of a checkpoint as fairseq wants it. Raises InputErrors of `load_model`."""
    global trained_with
    state = _own_checkpoint(path, arg_overrides, load_on_all_ranks)
    if state is None:
        state = fairseq_state(load_avhubert_asr(Path(path)))
        state["cfg"] = OmegaConf.create(state["cfg"])
    trained_with = effective_batch(state["cfg"] or {})
    return state


def _own_checkpoint(path: str, *args: Any) -> dict[str, Any] | None:
    """What fairseq reads; None for a file that is of another kind, or damaged."""
    if path.endswith(".safetensors"):
        return None
    try:
        state = _load_checkpoint(path, *args)
    except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, ValueError):
        return None
    config = state.get("cfg") or {}
    official = config.get("model", {}).get("_name") in (PRETRAINED, FINETUNED)
    return None if official else state


def install() -> None:
    checkpoint_utils.load_checkpoint_to_cpu = load_any_checkpoint
