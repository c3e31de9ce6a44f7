"""Reads what `torch.save` wrote without running anything in it: containers and tensors only.

Training leaves objects of fairseq, s3prl and others beside the tensors. They become placeholders,
so that none of those packages need be installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
    InputError, and so does a truncated file.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: mend the path")
    allowed_here = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()  # what this process allowed for others is real code
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        strange = sorted(name for name in names if not _is_foreign(name))
        if strange:
            raise InputError(
                f"{path}: refused, for it names {', '.join(strange)}, which might be run; get it "
                "from a source you trust, as tensors"
            )
        with torch.serialization.safe_globals([(_Inert, name) for name in names]):
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        # Not PyTorch's own message, which advises to switch its safety off.
        raise InputError(
            f"{path}: truncated, not a checkpoint, or written before PyTorch 1.6 "
            f"({type(error).__name__}); copy it again, or save it anew with a later PyTorch"
        ) from None
    finally:
        torch.serialization.add_safe_globals(allowed_here)
    if not isinstance(stored, dict):
        raise InputError(f"{path}: not a checkpoint (holds a {type(stored).__name__})")
    return stored


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
