"""Makes model files from others: converts, averages, prunes, and compresses them.

Each function reads every input file once and returns one line about the file that it wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from avhubert_ext.checkpoints.description import RecognizerNetwork, describe
from avhubert_ext.checkpoints.fairseq_file import NOTHING, save_fairseq
from avhubert_ext.checkpoints.model_file import ModelFile, save_model
from avhubert_ext.checkpoints.s3prl_file import newest_state
from avhubert_ext.checkpoints.subwords import whole_origin
from avhubert_ext.compression.pruning import (
    Masks,
    apply_masks,
    check_sparsity,
    global_magnitude_mask,
    kept_parameters,
    mask_sparsity,
    same,
)
from avhubert_ext.compression.quantization import Codebooks, quantize
from avhubert_ext.errors import InputError


def convert(source: Path, target: Path, half: bool = False) -> str:
    """Write the model of a file in another format.

    Args:
        source: A model file of any kind, or an s3prl experiment folder for its newest state.
        target: The file to write: `.safetensors`, or `.pt` for a fairseq checkpoint.
        half: Whether to store the weights as float16.

    Returns:
        One line about the new file.

    Raises:
        InputError: If the source cannot be read, or the target's format cannot hold the model.
    """
    file = ModelFile(newest_state(source) if source.is_dir() else source)
    codebooks = {} if half else file.codebooks
    return _save(target, file.model(), whole_origin(file), half, file.masks, codebooks)


def _save(
    target: Path,
    model: nn.Module,
    origin: Mapping[str, str],
    half: bool = False,
    masks: Masks = NOTHING,
    codebooks: Codebooks = NOTHING,
) -> str:
    if target.suffix == ".safetensors":
        save_model(target, model, half, origin, masks, codebooks)
    elif target.suffix == ".pt" and isinstance(model, RecognizerNetwork) and not half:
        save_fairseq(target, model, origin, masks)
    else:
        raise InputError(
            f"{target}: expected .safetensors, or .pt for a whole recognizer in float32"
        )
    parameters = kept_parameters(model, masks)
    sparsity = f", sparsity {mask_sparsity(masks):.4f}" if masks else ""
    return f"{target}: {type(model).__name__}, {parameters / 1e6:.2f}M parameters{sparsity}"


def prune(source: Path, target: Path, sparsity: float, weights: Path | None = None) -> str:
    """Prune a model by the magnitudes of its weights (paper B, eq. 2).

    Weights that are already pruned in `source` stay pruned.

    Args:
        source: A model file of any kind.
        target: The file to write: `.safetensors`, or `.pt` for a fairseq checkpoint.
        sparsity: Fraction of the prunable weights to prune, at least 0 and less than 1.
        weights: Rewinding: a checkpoint of the same network whose weights are kept instead, its
            norms and biases included.

    Returns:
        One line about the new file.

    Raises:
        InputError: If the sparsity is invalid, or `weights` holds another network or is itself
            pruned elsewhere.
    """
    check_sparsity(sparsity)
    kept = file = ModelFile(source)
    model = file.model()
    masks = global_magnitude_mask(model, sparsity, file.masks or None)
    if weights is not None:
        kept = ModelFile(weights)
        rewound = kept.model()
        if describe(rewound) != describe(model):
            raise InputError(f"{weights}: not the same network as in {source}")
        if any((masks[name] & ~mask).any() for name, mask in kept.masks.items()):
            raise InputError(f"{weights}: pruned in other places itself; name a dense checkpoint")
        model = rewound
    apply_masks(model, masks)
    return _save(target, model, whole_origin(kept), masks=masks)


def export_sparse(source: Path, target: Path, codebook: bool = False) -> str:
    """Write a pruned or 8-bit model in the smallest form.

    A pruned model is stored without its zeros; its kept weights do not change.

    Args:
        source: A model file of any kind.
        target: The `.safetensors` file to write.
        codebook: Store one byte per kept weight, an index into a codebook of 256 values for each
            tensor. A tensor with more values changes.

    Returns:
        One line about the new file.

    Raises:
        InputError: If the model is dense and `codebook` is not set, or the target has another
            format.
    """
    if target.suffix != ".safetensors":
        raise InputError(f"{target}: expected .safetensors, the only format with this layout")
    file = ModelFile(source)
    model, masks = file.model(), file.masks
    if not masks and not codebook:
        raise InputError(
            f"{source}: a dense model, without zeros to leave out; prune it first, or store one "
            "byte per weight with --codebook"
        )
    codebooks = quantize(model, masks) if codebook else {}
    save_model(target, model, origin=whole_origin(file), masks=masks, codebooks=codebooks)
    size = target.stat().st_size
    dense = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    sparsity = f", sparsity {mask_sparsity(masks):.4f}" if masks else ""
    return (
        f"{target}: {size / 1e6:.1f} MB, {size / dense:.3f} of the dense model's {dense / 1e6:.1f} "
        f"MB in float32{sparsity}{', 8-bit' if codebook else ''}"
    )


def average(sources: list[Path], target: Path) -> str:
    """Write the mean of the weights of several checkpoints of one training run.

    The counters of batch norm and the origin are taken from the last checkpoint.

    Args:
        sources: Two or more model files of the same network with the same masks.
        target: The file to write: `.safetensors`, or `.pt` for a fairseq checkpoint.

    Returns:
        One line about the new file.

    Raises:
        InputError: If the networks or masks differ, or the target exists.
    """
    if len(sources) < 2:
        names = ", ".join(map(str, sources)) or "no checkpoint"
        raise InputError(f"{names}: nothing to average; give at least two checkpoints")
    if target.exists():
        raise InputError(f"{target} already exists: give a new file for the average as the last")
    files = [ModelFile(path) for path in sources]
    last = files[-1]
    for file in files:
        if not same(file.masks, last.masks):
            raise InputError(f"{file.path}: pruned in other places than {last.path}")
    models = [file.model() for file in files]
    for file, model in zip(files, models, strict=True):
        if describe(model) != describe(models[-1]):
            raise InputError(f"{file.path}: not the same network as in {last.path}")
    states = [model.state_dict() for model in models]
    averaged = {
        name: torch.stack([s[name].double() for s in states]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[-1].items()
    }
    models[-1].load_state_dict(averaged)
    saved = _save(target, models[-1], whole_origin(last), masks=last.masks)
    return f"{saved}, mean of {len(sources)} checkpoints"
