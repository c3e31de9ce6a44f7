"""Reads files of `torch.save` without executing anything in them: containers and tensors only.

Training leaves objects of fairseq, s3prl and other packages beside the tensors. They become
placeholders, so none of those packages have to be installed.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avhubert_ext.errors import InputError

# Whatever a file names in these packages becomes a placeholder. It is not looked up or imported.
FOREIGN_PACKAGES = {
    "argparse",
    "av_hubert",
    "avhubert",
    "datetime",
    "fairseq",
    "numpy",
    "omegaconf",
    "optimizers",  # s3prl's schedules, under the name that its scripts import
    "pathlib",
    "s3prl",
    "sentencepiece",
}
# Types of the values in those objects.
FOREIGN_TYPES = {
    "builtins.bool",
    "builtins.bytes",
    "builtins.dict",
    "builtins.float",
    "builtins.frozenset",
    "builtins.int",
    "builtins.list",
    "builtins.object",
    "builtins.set",
    "builtins.str",
    "builtins.tuple",
    "collections.defaultdict",
    "typing.Any",
}


# Where training scripts put a model's tensors, or a whole checkpoint; averages (EMA) last.
WRAPPERS = (
    *("checkpoint", "state_dict", "model_state_dict", "model", "module", "net", "network", "state"),
    *("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema"),
)
WRAPPED = 3  # how deep wrappers are searched
SHOWN = 6  # names in an error message


class _Inert:
    """A placeholder for a foreign class, function or object: does nothing, keeps its state."""

    state: object = None

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __repr__(self) -> str:
        return "a foreign object"


def read_torch_file(path: Path, mapped: bool = False) -> dict[str, Any]:
    """The dict in a file of `torch.save`, with tensors on the CPU.

    The file is read once for its checksums. Its tensors are then loaded, or mapped.

    Args:
        path: The file.
        mapped: Leave the tensors in the file and map it into memory: only what is used takes
            memory. The file must not be overwritten in place as long as a tensor is in use.

    Raises:
        InputError: If the file is missing, truncated, or damaged, is not a dict, or names anything
            outside FOREIGN_PACKAGES, FOREIGN_TYPES and what torch itself considers safe.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: correct the path")
    allowed_here = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()  # those would be real classes, not placeholders
    try:
        check_sums(path)
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        strange = sorted(name for name in names if not _is_foreign(name))
        if strange:
            raise InputError(
                f"{path}: refused, because it names {', '.join(strange)}, which might be executed; "
                "get it from a source you trust, as tensors"
            )
        placeholders = torch.serialization.safe_globals([(_Inert, name) for name in names])
        with placeholders, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's about other problems of the pickle
            mapped = mapped and _can_be_mapped(path)
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        # Without PyTorch's own message, which advises the user to switch its safety off.
        raise InputError(
            f"{path}: truncated, not a checkpoint, or written before PyTorch 1.6 "
            f"({type(error).__name__}); copy it again, or save it again with a later PyTorch"
        ) from None
    finally:
        torch.serialization.add_safe_globals(allowed_here)
    if not isinstance(stored, dict):
        raise InputError(f"{path}: not a checkpoint (holds a {type(stored).__name__})")
    return stored


def _can_be_mapped(path: Path) -> bool:
    """Whether PyTorch can map a file: its name is UTF-8, and nothing in it is compressed."""
    if any(0xD800 <= ord(char) < 0xE000 for char in str(path)):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def read_checkpoint(path: Path, mapped: bool = False) -> dict[str, Any]:
    """As `read_torch_file`, without known wrappers around the content."""
    return unwrapped(read_torch_file(path, mapped))


def check_sums(path: Path) -> None:
    """Check the checksums in a zip file, which PyTorch itself ignores.

    Without this, a changed byte among the weights would be a model that recognizes less.

    Raises:
        InputError: If a checksum does not match.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise InputError(
            f"{path}: damaged, the checksum of {damaged} in it does not match; copy it again"
        )


def _is_foreign(name: str) -> bool:
    return name.partition(".")[0] in FOREIGN_PACKAGES or name in FOREIGN_TYPES


def state_of(placeholder: object) -> dict[str, Any]:
    """The state of a foreign object in a file if it is a dict; else empty."""
    state = getattr(placeholder, "state", None)
    return state if isinstance(state, dict) else {}


def section(stored: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The dict below `keys`; empty if there is none."""
    for key in keys:
        value = stored.get(key)
        stored = value if isinstance(value, dict) else {}
    return stored


def plain_tensors(path: Path, state: object) -> dict[str, Tensor]:
    """The tensors of a state dict in a file, see `bare_names` for their names.

    Raises:
        InputError: If it is anything but a dict of tensors with real numbers in memory, that is,
            none of them sparse, nested, quantized, complex, or meta.
    """
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and _is_plain(tensor) for name, tensor in state.items()
    ):
        raise InputError(f"{path}: its weights are not a dict of plain tensors; copy it again")
    return bare_names(state)


def _is_plain(tensor: object) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.is_complex())
    )


def check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that are NaN or infinite, which would make all outputs NaN.

    Raises:
        InputError: If there is one; it names the tensor.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(
                f"{path}: {name} holds NaN or infinity; the training diverged, or the file is "
                "damaged: take an earlier checkpoint, or copy it again"
            )


def layers(stored: dict[str, Any], depth: int = WRAPPED) -> Iterator[dict[str, Any]]:
    """The content of a file, then of each known wrapper in it, such as {"state_dict": ...}."""
    yield stored
    for key in WRAPPERS if depth else ():
        if isinstance(stored.get(key), dict):
            yield from layers(stored[key], depth - 1)


def unwrapped(stored: dict[str, Any]) -> dict[str, Any]:
    """The fairseq checkpoint or s3prl state in a file, perhaps inside known wrappers.

    Returns:
        The content without the wrappers; the whole content if there is neither.
    """
    return next((c for c in layers(stored) if "cfg" in c or "Student" in c), stored)


def bare_names(state: dict[Any, Any], prefixes: tuple[str, ...] = ("module.",)) -> dict[str, Any]:
    """Names without what DistributedDataParallel, torch.compile and averages add to them.

    Args:
        state: A state dict.
        prefixes: Removed from a name as often as it starts with one of them.

    Returns:
        The state dict under the bare names.
    """
    found = {}
    for name, value in state.items():
        bare = str(name).replace("_orig_mod.", "")
        while bare.startswith(prefixes):
            bare = bare.partition(".")[2]
        found[bare] = value
    if isinstance(found.get("n_averaged"), Tensor):  # the counter of torch's AveragedModel
        del found["n_averaged"]
    return found


def summary(stored: dict[str, Any]) -> str:
    """The first entries of a file, for an error message."""
    names = [f"{key} ({_kind(value)})" for key, value in list(stored.items())[:SHOWN]]
    more = f" and {len(stored) - SHOWN} more" if len(stored) > SHOWN else ""
    return f"{', '.join(names)}{more}" if names else "nothing"


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)}"
    if isinstance(value, dict):
        some = ", ".join(map(str, list(value)[:2]))
        return f"{len(value)} entries such as {some}" if value else "empty"
    return type(value).__name__
