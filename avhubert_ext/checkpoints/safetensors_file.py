"""`.safetensors` files: tensors, metadata, and a checksum of both.

The metadata entry `avhubert_ext_sha256` is the checksum of everything else in the file, see `seal`.
Files of older versions do not have it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from avhubert_ext.data.files import whole_file
from avhubert_ext.errors import InputError

SEAL_KEY = "avhubert_ext_sha256"


class SafetensorsFile:
    """A `.safetensors` file that is opened once; tensors are read on request.

    Args:
        path: The file.

    Raises:
        InputError: If the file is missing, truncated, or not a safetensors file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path} not found: correct the path")
        if any(0xD800 <= ord(char) < 0xE000 for char in str(path)):
            raise InputError(f"{path}: its name is not UTF-8, which safetensors needs; rename it")
        from safetensors import safe_open

        self.path = path
        with _errors_in_one_line(path):
            self._file = safe_open(path, framework="pt")
            self._names = list(self._file.keys())
            self.metadata: dict[str, str] = self._file.metadata() or {}

    def tensors(self, ending: str = "") -> dict[str, Tensor]:
        """The tensors whose names end in `ending`, by name; all of them by default.

        Raises:
            InputError: If a tensor cannot be read, or if all tensors are read and their checksum
                does not match.
        """
        with _errors_in_one_line(self.path):
            found = {n: self._file.get_tensor(n) for n in self._names if n.endswith(ending)}
        stored = None if ending else self.metadata.get(SEAL_KEY)
        if stored is not None and stored != seal(found, self.metadata):
            raise InputError(f"{self.path}: damaged, its checksum does not match; copy it again")
        return found


@contextmanager
def _errors_in_one_line(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: truncated or not safetensors ({reason}); copy it again"
        ) from None


def seal(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of the content of a file, except for the seal itself.

    Args:
        tensors: All tensors of the file by name.
        metadata: Its metadata; the entry `SEAL_KEY` is left out.

    Returns:
        The checksum in hexadecimal.
    """
    entries = sorted((key, value) for key, value in metadata.items() if key != SEAL_KEY)
    total = hashlib.sha256(json.dumps(entries).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a `.safetensors` file; the same content always gives the same bytes.

    safetensors writes metadata in an order that changes from call to call, so it is sorted here.

    Args:
        path: The file to write, in one step.
        tensors: Contiguous tensors by name.
        metadata: Text by name.
    """
    from safetensors.torch import save

    content = memoryview(save(dict(tensors), dict(metadata)))
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:begin]))
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(content[begin:])
