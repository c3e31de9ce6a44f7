"""The layout of pruned and 8-bit models in `.safetensors`: files shrink as sparsity grows.

A weight NAME that is neither pruned nor quantized is stored under its name. Any other weight is
replaced by two or three tensors:

    pruned:                NAME.mask, NAME.values
    pruned and quantized:  NAME.mask, NAME.indices, NAME.codebook
    quantized only:        NAME.indices, NAME.codebook

    NAME.mask       uint8, NumPy's `packbits` of the flattened mask, 1 = kept
    NAME.values     float32 (float16 after `convert --half`), the kept weights in the order of the
                    flattened mask
    NAME.indices    uint8, the place of each weight in the codebook, from 0: in the weight's shape,
                    or for a pruned weight only the kept values, in the order of the flattened mask
    NAME.codebook   float32, up to 256 values in ascending order

If there are masks, the metadata entry `avhubert_ext_masks` is JSON: `shapes` (NAME -> shape) and
`sha256`, the checksum that `pruning.pack` defines. A mask file holds the `NAME.mask` only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from avhubert_ext.checkpoints.safetensors_file import write_tensors
from avhubert_ext.compression.pruning import Masks, pack, unpack
from avhubert_ext.compression.quantization import Codebooks, look_up, nearest
from avhubert_ext.errors import InputError

MASKS_KEY = "avhubert_ext_masks"
MASK, VALUES, INDICES, CODEBOOK = ".mask", ".values", ".indices", ".codebook"
DENSE: Codebooks = MappingProxyType({})


def to_sparse(
    state: Mapping[str, Tensor], masks: Masks, codebooks: Codebooks = DENSE
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model's weights in the layout of a file.

    Args:
        state: The model's state dict.
        masks: The masks of its pruned weights by name.
        codebooks: The codebooks of its quantized weights by name, as `quantization.quantize`
            returns them.

    Returns:
        The file's tensors and its metadata.
    """
    bits, metadata = _packed(masks)
    tensors = {n: t for n, t in state.items() if n not in masks and n not in codebooks}
    for name in masks.keys() | codebooks.keys():
        weights = state[name][masks[name]] if name in masks else state[name]
        if name in codebooks:
            tensors[name + INDICES] = nearest(weights, codebooks[name])
            tensors[name + CODEBOOK] = codebooks[name]
        else:
            tensors[name + VALUES] = weights
    return tensors | bits, metadata


def _packed(masks: Masks) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata that store masks."""
    packed = pack(masks)
    bits = {name + MASK: tensor for name, tensor in packed.pop("bits").items()}
    return bits, {MASKS_KEY: json.dumps(packed)} if masks else {}


def to_dense(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: object
) -> dict[str, Tensor]:
    """The inverse of `to_sparse`.

    Args:
        tensors: All tensors of a file.
        metadata: Its metadata.
        where: The file's name for error messages.

    Returns:
        The model's state dict: pruned weights are zero, quantized ones are float32.

    Raises:
        InputError: If the parts of a weight do not fit together.
    """
    masks = masks_in(tensors, metadata, where)
    parts = (MASK, VALUES, INDICES, CODEBOOK)
    state = {n: t for n, t in tensors.items() if not n.endswith(parts)}
    weights = _named(tensors, VALUES)
    for name in _named(tensors, INDICES) | _named(tensors, CODEBOOK):
        weights[name] = _on_codebook(tensors, name, where)
    for name, mask in masks.items():
        values = weights.pop(name, None)
        if values is None or values.shape != (int(mask.sum()),):
            raise InputError(f"{where}: its weights {name} do not fit their mask; copy it again")
        state[name] = torch.zeros(mask.shape, dtype=values.dtype)
        state[name][mask] = values
    return state | weights


def _named(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors with the ending `part`, by the name of their weight."""
    return {n.removesuffix(part): t for n, t in tensors.items() if n.endswith(part)}


def _on_codebook(tensors: Mapping[str, Tensor], name: str, where: object) -> Tensor:
    """The weights that are stored as indices into a codebook."""
    indices, codebook = tensors.get(name + INDICES), tensors.get(name + CODEBOOK)
    fits = (
        indices is not None
        and codebook is not None
        and (indices.dtype, codebook.dtype) == (torch.uint8, torch.float32)
        and codebook.dim() == 1
        and (not indices.numel() or int(indices.max()) < len(codebook))
    )
    if not fits:
        raise InputError(f"{where}: its weights {name} do not fit their codebook; copy it again")
    return look_up(codebook, indices)


def masks_in(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: object) -> Masks:
    """The masks in a file.

    Args:
        tensors: The file's tensors, at least those that end in `.mask`.
        metadata: Its metadata.
        where: The file's name for error messages.

    Returns:
        The masks by the name of their weight; empty for a file without masks.

    Raises:
        InputError: If the masks are damaged.
    """
    if MASKS_KEY not in metadata:
        return {}
    try:
        packed = json.loads(metadata[MASKS_KEY]) | {"bits": _named(tensors, MASK)}
    except (ValueError, TypeError):
        packed = {}  # `unpack` refuses it
    return unpack(packed, where)


def codebooks_in(tensors: Mapping[str, Tensor]) -> Codebooks:
    """The codebooks among the tensors of a file, by the name of their weight."""
    return _named(tensors, CODEBOOK)


def save_masks(path: Path, masks: Masks) -> None:
    """Write a mask file.

    Args:
        path: The `.safetensors` file to write.
        masks: The masks by the name of their weight.
    """
    write_tensors(path, *_packed(masks))
