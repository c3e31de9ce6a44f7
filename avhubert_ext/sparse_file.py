"""Pruned models on disk: `.safetensors` that shrink with sparsity, and masks alone.

Layout. A weight NAME that is not pruned is stored as it is. A pruned one is two tensors instead:

    NAME.mask     uint8, NumPy's `packbits` of the flattened mask, 1 = kept
    NAME.values   float32, the kept weights in the order of the flattened mask

The metadata `avhubert_ext_masks` is JSON: `shapes` (NAME -> shape) and `sha256`, the checksum that
`avhubert_ext.pruning.pack` defines. A file of masks alone holds the `NAME.mask` only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from avhubert_ext.data.files import whole_file
from avhubert_ext.errors import InputError
from avhubert_ext.pruning import Masks, pack, unpack

METADATA_KEY = "avhubert_ext_masks"
MASK, VALUES = ".mask", ".values"


def to_sparse(
    state: Mapping[str, Tensor], masks: Masks
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file, from a model's state and its masks."""
    packed = pack(masks)
    bits = packed.pop("bits")
    tensors = {name: tensor for name, tensor in state.items() if name not in masks}
    tensors |= {name + VALUES: state[name][mask] for name, mask in masks.items()}
    tensors |= {name + MASK: tensor for name, tensor in bits.items()}
    return tensors, {METADATA_KEY: json.dumps(packed)} if masks else {}


def to_dense(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: object
) -> dict[str, Tensor]:
    """The inverse of `to_sparse`; InputError, which names `where`, for a damaged file."""
    masks = masks_in(tensors, metadata, where)
    state = {n: t for n, t in tensors.items() if not n.endswith((MASK, VALUES))}
    for name, mask in masks.items():
        values = tensors.get(name + VALUES)
        if values is None or values.shape != (int(mask.sum()),):
            raise InputError(f"{where}: its weights {name} do not fit their mask; copy it again")
        state[name] = torch.zeros(mask.shape, dtype=values.dtype)
        state[name][mask] = values
    return state


def masks_in(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: object) -> Masks:
    """The masks among the tensors of a file; empty where it has none."""
    if METADATA_KEY not in metadata:
        return {}
    bits = {n.removesuffix(MASK): t for n, t in tensors.items() if n.endswith(MASK)}
    return unpack(json.loads(metadata[METADATA_KEY]) | {"bits": bits}, where)


def save_masks(path: Path, masks: Masks) -> None:
    """Write masks alone."""
    from safetensors.torch import save

    tensors, metadata = to_sparse({n: torch.zeros(m.shape) for n, m in masks.items()}, masks)
    bits = {name: tensor for name, tensor in tensors.items() if name.endswith(MASK)}
    with whole_file(path) as temporary:
        temporary.write_bytes(save(bits, metadata))


def read_masks(path: Path) -> Masks:
    """The masks in a `.safetensors` file, alone or with their model; empty where it has none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.endswith(MASK)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path}: truncated or not safetensors ({error}); copy it again") from None
    return masks_in(tensors, metadata, path)
