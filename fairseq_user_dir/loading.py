"""Checkpoints for `--path` and `--finetune-from-model`, from any recognizer that the library reads.

These are fairseq's own checkpoints, official finetuned AV-HuBERT checkpoints, and safetensors.
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
from omegaconf import DictConfig, OmegaConf, open_dict

from avhubert_ext.checkpoints.avhubert import FINETUNED, PRETRAINED
from avhubert_ext.checkpoints.fairseq_file import effective_batch, fairseq_state
from avhubert_ext.checkpoints.model_file import ModelFile
from avhubert_ext.checkpoints.torch_file import check_sums
from avhubert_ext.errors import InputError

_load_checkpoint = checkpoint_utils.load_checkpoint_to_cpu


def load_any_checkpoint(
    path: str, arg_overrides: dict[str, Any] | None = None, load_on_all_ranks: bool = False
) -> dict[str, Any]:
    """Read a checkpoint, or convert another model file, into what fairseq expects.

    Args:
        path: The model file.
        arg_overrides: Settings that replace those in the checkpoint.
        load_on_all_ranks: As in fairseq's own function.

    Returns:
        The checkpoint. Its model's setting `trained_with` is the effective batch of its training.

    Raises:
        InputError: The file is missing, damaged, or not a recognizer.
    """
    state = _own_checkpoint(path, arg_overrides, load_on_all_ranks)
    if state is None:
        file = ModelFile(path)
        state = fairseq_state(file.recognizer(), file.origin)
    config = state["cfg"] or {}
    if "criterion" not in config:
        state["cfg"] = config = complete(config, arg_overrides or {})
    if isinstance(config.get("model"), DictConfig):
        with open_dict(config.model):
            config.model.trained_with = effective_batch(config)
    for entry in state.get("optimizer_history", []):
        entry["criterion_name"] = _criterion_class(entry["criterion_name"])
    return state


def complete(config: Mapping[str, Any], overrides: dict[str, Any]) -> DictConfig:
    """Complete the configuration of a model file that was not written by a training.

    Args:
        config: What the file has.
        overrides: Settings that replace others.

    Returns:
        A whole fairseq configuration, with fairseq's defaults for the rest.
    """
    parts = OmegaConf.to_container(OmegaConf.structured(FairseqConfig()), resolve=False)
    merged = parts | OmegaConf.to_container(OmegaConf.create(config))
    name = merged["task"]["_name"]
    task = OmegaConf.to_container(OmegaConf.structured(TASK_DATACLASS_REGISTRY[name]()))
    merged["task"] = task | merged["task"]
    merged["criterion"] = {"_name": "cross_entropy", "sentence_avg": True}
    found = OmegaConf.create(merged, flags={"allow_objects": True})
    checkpoint_utils.overwrite_args_by_name(found, overrides)
    return found


def _criterion_class(name: str) -> str:
    """The class of a criterion in a checkpoint.

    Earlier versions named a criterion that adds to another after both:
    `PruningCriterionOfCTCAttentionCriterion`.
    """
    first, separator, _ = name.partition("CriterionOf")
    return f"{first}Criterion" if separator else name


def _own_checkpoint(path: str, *args: Any) -> dict[str, Any] | None:
    """The content of fairseq's own checkpoint; None if the file is of another kind or damaged."""
    if path.endswith(".safetensors"):
        return None
    try:
        if zipfile.is_zipfile(path):
            check_sums(Path(path))  # PyTorch ignores the checksums
        state = _load_checkpoint(path, *args)
    except (
        *(InputError, pickle.UnpicklingError, zipfile.BadZipFile),
        *(EOFError, RuntimeError, KeyError, ValueError),
    ):
        return None
    config = state.get("cfg") or {}
    official = config.get("model", {}).get("_name") in (PRETRAINED, FINETUNED)
    return None if official else state
