"""Model files made from others: converted, averaged, pruned, or stored small.

Every function returns a line about the file that it wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from avhubert_ext.checkpoints import sparse_file
from avhubert_ext.checkpoints.description import RecognizerNetwork, describe
from avhubert_ext.checkpoints.fairseq_file import save_fairseq
from avhubert_ext.checkpoints.model_file import NOTHING, load_model, read_masks, save_model
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
    """Rewrite a model file in the form that `target`'s ending names."""
    source = newest_state(source) if source.is_dir() else source
    model, masks = load_model(source), read_masks(source)
    codebooks = {} if half else sparse_file.read_codebooks(source)
    return _save(target, model, whole_origin(source), half, masks, codebooks)


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

    Weights that `source` lacks already stay pruned. weights: another checkpoint of the same
    network, from which the kept weights come (rewinding); its norms and biases come along. Raises
    InputError for a sparsity that makes no sense, or another network.
    """
    check_sparsity(sparsity)
    model = load_model(source)
    masks = global_magnitude_mask(model, sparsity, read_masks(source) or None)
    if weights is not None:
        rewound = load_model(weights)
        if describe(rewound) != describe(model):
            raise InputError(f"{weights}: another network than that of {source}")
        if any((masks[name] & ~mask).any() for name, mask in read_masks(weights).items()):
            raise InputError(f"{weights}: pruned in other places itself; name a dense checkpoint")
        model = rewound
    apply_masks(model, masks)
    return _save(target, model, whole_origin(weights or source), masks=masks)


def export_sparse(source: Path, target: Path, codebook: bool = False) -> str:
    """Write a pruned or 8-bit model without what it does not need.

    A pruned model is stored without its zeros, its kept weights as they are. codebook: store these,
    or a dense model's weights, in a byte each, on a codebook of 256 values a tensor; a tensor with
    no more values comes back as it was, any other is changed. Raises InputError for a dense model
    without `codebook`.
    """
    if target.suffix != ".safetensors":
        raise InputError(f"{target}: expected .safetensors, the one form that has this layout")
    model, masks = load_model(source), read_masks(source)
    if not masks and not codebook:
        raise InputError(
            f"{source}: a dense model, without zeros to leave out; prune it first, or store a byte "
            "a weight with --codebook"
        )
    codebooks = quantize(model, masks) if codebook else {}
    save_model(target, model, origin=whole_origin(source), masks=masks, codebooks=codebooks)
    size = target.stat().st_size
    dense = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    sparsity = f", sparsity {mask_sparsity(masks):.4f}" if masks else ""
    return (
        f"{target}: {size / 1e6:.1f} MB, {size / dense:.3f} of the dense model's {dense / 1e6:.1f} "
        f"MB in float32{sparsity}{', 8-bit' if codebook else ''}"
    )


def average(sources: list[Path], target: Path) -> str:
    """Write the mean of the weights of several checkpoints of one run.

    Batch norm's counters are those of the last one. Raises InputError where networks differ.
    """
    if len(sources) < 2:
        raise InputError("one checkpoint is its own average: name two or more")
    if target.exists():
        raise InputError(f"{target} is there already: name a new file for the average last")
    masks = [read_masks(path) for path in sources]
    for path, found in zip(sources, masks, strict=True):
        if not same(found, masks[-1]):
            raise InputError(f"{path}: pruned in other places than {sources[-1]}")
    models = [load_model(path) for path in sources]
    for path, model in zip(sources, models, strict=True):
        if describe(model) != describe(models[-1]):
            raise InputError(f"{path}: another network than that of {sources[-1]}")
    states = [model.state_dict() for model in models]
    averaged = {
        name: torch.stack([s[name].double() for s in states]).mean(0).to(last.dtype)
        if last.is_floating_point()
        else last
        for name, last in states[-1].items()
    }
    models[-1].load_state_dict(averaged)
    saved = _save(target, models[-1], whole_origin(sources[-1]), masks=masks[-1])
    return f"{saved}, mean of {len(sources)} checkpoints"
