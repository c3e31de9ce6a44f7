"""`--path` and `--finetune-from-model` with any file of a recognizer that the library reads.

That is fairseq's own checkpoints, the official AV-HuBERT's finetuned ones, and safetensors.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import DictConfig, OmegaConf

from avhubert_ext.checkpoints.avhubert import FINETUNED, PRETRAINED
from avhubert_ext.checkpoints.fairseq_file import effective_batch, fairseq_state
from avhubert_ext.checkpoints.model_file import load_recognizer, read_origin
from avhubert_ext.checkpoints.torch_file import check_sums
from avhubert_ext.errors import InputError

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
        state = fairseq_state(load_recognizer(Path(path)), read_origin(Path(path)))
    config = state["cfg"] or {}
    if "criterion" not in config:
        state["cfg"] = config = complete(config, arg_overrides or {})
    trained_with = effective_batch(config)
    return state


def complete(config: Mapping[str, Any], overrides: dict[str, Any]) -> DictConfig:
    """The configuration of a file that no training wrote, with fairseq's defaults for the rest."""
    parts = OmegaConf.to_container(OmegaConf.structured(FairseqConfig()), resolve=False)
    merged = parts | OmegaConf.to_container(OmegaConf.create(config))
    name = merged["task"]["_name"]
    task = OmegaConf.to_container(OmegaConf.structured(TASK_DATACLASS_REGISTRY[name]()))
    merged["task"] = task | merged["task"]
    merged["criterion"] = {"_name": "cross_entropy", "sentence_avg": True}
    found = OmegaConf.create(merged, flags={"allow_objects": True})
    checkpoint_utils.overwrite_args_by_name(found, overrides)
    return found


def _own_checkpoint(path: str, *args: Any) -> dict[str, Any] | None:
    """What fairseq reads; None for a file that is of another kind, or damaged."""
    if path.endswith(".safetensors"):
        return None
    try:
        if zipfile.is_zipfile(path):
            check_sums(Path(path))  # PyTorch itself ignores them
        state = _load_checkpoint(path, *args)
    except (
        *(InputError, pickle.UnpicklingError, zipfile.BadZipFile),
        *(EOFError, RuntimeError, KeyError, ValueError),
    ):
        return None
    config = state.get("cfg") or {}
    official = config.get("model", {}).get("_name") in (PRETRAINED, FINETUNED)
    return None if official else state


def install() -> None:
    checkpoint_utils.load_checkpoint_to_cpu = load_any_checkpoint
