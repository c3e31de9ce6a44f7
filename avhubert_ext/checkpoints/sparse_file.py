"""Pruned and 8-bit models on disk: `.safetensors` that shrink with sparsity, and masks alone.

Layout. A weight NAME that is neither pruned nor on a codebook is stored as it is. A pruned one is
two tensors instead, three on a codebook; one that is on a codebook and not pruned is the last two:

    NAME.mask       uint8, NumPy's `packbits` of the flattened mask, 1 = kept
    NAME.values     float32 (float16 after `convert --half`), the kept weights in the order of the
                    flattened mask

    NAME.mask       as above
    NAME.indices    uint8, for each kept weight in that order its place in the codebook, from 0;
                    without a mask for every weight, in the weight's shape
    NAME.codebook   float32, up to 256 values in ascending order

The metadata `avhubert_ext_masks`, where there are masks, is JSON: `shapes` (NAME -> shape) and
`sha256`, the checksum that `pruning.pack` defines. A file of masks alone holds the
`NAME.mask` only.

The metadata `avhubert_ext_sha256` is the checksum of all else in the file, see `seal`; files of
older versions have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from avhubert_ext.compression.pruning import Masks, pack, unpack
from avhubert_ext.compression.quantization import Codebooks, look_up, nearest
from avhubert_ext.data.files import whole_file
from avhubert_ext.errors import InputError

METADATA_KEY = "avhubert_ext_masks"
SEAL = "avhubert_ext_sha256"
MASK, VALUES, INDICES, CODEBOOK = ".mask", ".values", ".indices", ".codebook"
DENSE: Codebooks = MappingProxyType({})


def to_sparse(
    state: Mapping[str, Tensor], masks: Masks, codebooks: Codebooks = DENSE
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file, from a model's state and its masks.

    codebooks: by name, of weights that are on them, as `quantization.quantize` leaves
    a model.
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
    """What a file holds of masks: tensors and metadata."""
    packed = pack(masks)
    bits = {name + MASK: tensor for name, tensor in packed.pop("bits").items()}
    return bits, {METADATA_KEY: json.dumps(packed)} if masks else {}


def to_dense(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: object
) -> dict[str, Tensor]:
    """The inverse of `to_sparse`; InputError, which names `where`, for a damaged file."""
    masks = masks_in(tensors, metadata, where)
    parts = (MASK, VALUES, INDICES, CODEBOOK)
    state = {n: t for n, t in tensors.items() if not n.endswith(parts)}
    weights = {n.removesuffix(VALUES): t for n, t in tensors.items() if n.endswith(VALUES)}
    for name in _named(tensors, INDICES) | _named(tensors, CODEBOOK):
        weights[name] = _on_codebook(tensors, name, where)
    for name, mask in masks.items():
        values = weights.pop(name, None)
        if values is None or values.shape != (int(mask.sum()),):
            raise InputError(f"{where}: its weights {name} do not fit their mask; copy it again")
        state[name] = torch.zeros(mask.shape, dtype=values.dtype)
        state[name][mask] = values
    return state | weights


def seal(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of what a file holds, without the seal itself: one changed bit is another sum."""
    told = sorted((key, value) for key, value in metadata.items() if key != SEAL)
    total = hashlib.sha256(json.dumps(told).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _named(tensors: Mapping[str, Tensor], part: str) -> set[str]:
    return {name.removesuffix(part) for name in tensors if name.endswith(part)}


def _on_codebook(tensors: Mapping[str, Tensor], name: str, where: object) -> Tensor:
    """The weights that are stored as places in a codebook."""
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
    """The masks among the tensors of a file; empty where it has none."""
    if METADATA_KEY not in metadata:
        return {}
    bits = {n.removesuffix(MASK): t for n, t in tensors.items() if n.endswith(MASK)}
    try:
        packed = json.loads(metadata[METADATA_KEY]) | {"bits": bits}
    except (ValueError, TypeError):
        packed = {}  # which `unpack` refuses
    return unpack(packed, where)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a `.safetensors` file: the same bytes for the same content.

    safetensors writes metadata in an order that differs from call to call, so it is sorted here.
    """
    from safetensors.torch import save

    content = memoryview(save(dict(tensors), dict(metadata)))
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:begin]))
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(content[begin:])


def save_masks(path: Path, masks: Masks) -> None:
    """Write masks alone."""
    write_tensors(path, *_packed(masks))


def read_masks(path: Path) -> Masks:
    """The masks in a `.safetensors` file, alone or with their model; empty where it has none."""
    return masks_in(*read_tensors(path, MASK), path)


def read_codebooks(path: Path) -> Codebooks:
    """By name, of a model stored in 8 bits; empty for any other file."""
    if path.suffix != ".safetensors":
        return {}
    tensors, _ = read_tensors(path, CODEBOOK)
    return {name.removesuffix(CODEBOOK): tensor for name, tensor in tensors.items()}


def read_tensors(path: Path, ending: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a `.safetensors` file whose names end so, and its metadata.

    Raises InputError for a file that is missing, truncated or another, and, if all tensors are
    read, for one whose seal is broken.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: correct the path")
    if any(0xD800 <= ord(char) < 0xE000 for char in str(path)):
        raise InputError(f"{path}: its name is not UTF-8, as safetensors wants it; rename it")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.endswith(ending)]  # noqa: SIM118
            tensors, metadata = {n: file.get_tensor(n) for n in names}, file.metadata() or {}
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: truncated or not safetensors ({reason}); copy it again"
        ) from None
    if not ending and SEAL in metadata and metadata[SEAL] != seal(tensors, metadata):
        raise InputError(f"{path}: damaged, its checksum is another; copy it again")
    return tensors, metadata
