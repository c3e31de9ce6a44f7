"""Reads what `torch.save` wrote without running anything in it: containers and tensors only.

Training leaves objects of fairseq, s3prl and others beside the tensors. They become placeholders,
so that none of those packages need be installed.
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

# Whatever the file names in these becomes a placeholder: it is not looked up, not even imported.
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
# Types that objects of those hold as values.
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
WRAPPED = 3  # how deep
SHOWN = 6  # keys in an error


class _Inert:
    """Stands in for a foreign class, function or object: does nothing, holds what it was told."""

    state: object = None

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __repr__(self) -> str:
        return "a foreign object"


def read_torch_file(path: Path) -> dict[str, Any]:
    """The dict in a file of `torch.save`, on the CPU.

    A name outside FOREIGN_PACKAGES, FOREIGN_TYPES and torch's own safe ones makes the file an
    InputError, and so does a truncated file, or one whose bytes are not those that were written.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: correct the path")
    allowed_here = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()  # what this process allowed for others is real code
    try:
        check_sums(path)
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        strange = sorted(name for name in names if not _is_foreign(name))
        if strange:
            raise InputError(
                f"{path}: refused, for it names {', '.join(strange)}, which might be run; get it "
                "from a source you trust, as tensors"
            )
        stand_ins = torch.serialization.safe_globals([(_Inert, name) for name in names])
        with stand_ins, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what else could be wrong with the pickle
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        # Not PyTorch's own message, which advises to switch its safety off.
        raise InputError(
            f"{path}: truncated, not a checkpoint, or written before PyTorch 1.6 "
            f"({type(error).__name__}); copy it again, or save it again with a later PyTorch"
        ) from None
    finally:
        torch.serialization.add_safe_globals(allowed_here)
    if not isinstance(stored, dict):
        raise InputError(f"{path}: not a checkpoint (holds a {type(stored).__name__})")
    return stored


def read_checkpoint(path: Path) -> dict[str, Any]:
    """As `read_torch_file`, without known wrappers."""
    return unwrapped(read_torch_file(path))


def check_sums(path: Path) -> None:
    """Raise an InputError if a checksum in a zip file is wrong; PyTorch itself ignores them.

    Without this, a changed byte among the weights would be a model that recognizes less.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise InputError(f"{path}: damaged, {damaged} in it has another checksum; copy it again")


def _is_foreign(name: str) -> bool:
    return name.partition(".")[0] in FOREIGN_PACKAGES or name in FOREIGN_TYPES


def state_of(stand_in: object) -> dict[str, Any]:
    """What a foreign object in a file was told to hold, a dict; empty if it was nothing of it."""
    state = getattr(stand_in, "state", None)
    return state if isinstance(state, dict) else {}


def section(stored: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The dict below `keys`; empty if there is none."""
    for key in keys:
        value = stored.get(key)
        stored = value if isinstance(value, dict) else {}
    return stored


def check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise an InputError for a weight that is NaN or infinite: all outputs would be."""
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
    """The checkpoint of fairseq or state of s3prl in a file, perhaps within known wrappers."""
    return next((c for c in layers(stored) if "cfg" in c or "Student" in c), stored)


def bare_names(state: dict[Any, Any], prefixes: tuple[str, ...] = ("module.",)) -> dict[str, Any]:
    """Without what DistributedDataParallel, torch.compile and averages add to the names.

    prefixes: that are removed, as often as a name starts with one.
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
    """What a file holds, for an error: its first keys."""
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
