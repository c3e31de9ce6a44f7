"""A network as a file stores it, and how its weights get into a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from avhubert_ext.checkpoints.torch_file import SHOWN, check_finite
from avhubert_ext.errors import InputError


@dataclass(frozen=True)
class StoredNetwork:
    """A network as a file stores it.

    Attributes:
        description: The result of `describe`, or its JSON.
        tensors: The weights by their names in the file.
        prefixes: Prefixes of these names -> prefixes of the model's names.
    """

    description: dict[str, Any] | str
    tensors: dict[str, Tensor]
    prefixes: dict[str, str]

    def load_into(self, model: nn.Module, path: Path) -> None:
        """Give the weights to a model on the meta device.

        Args:
            model: The model; its weights are float32 on the CPU afterwards.
            path: The file's name for error messages.

        Raises:
            InputError: If tensors are missing, unknown, of another shape, NaN, or infinite.
        """
        own = model.state_dict()
        theirs = inverse(self.prefixes)
        names = {replace_prefix(name, theirs): name for name in own}  # the file's -> the model's
        missing, unknown = names.keys() - self.tensors.keys(), self.tensors.keys() - names.keys()
        if missing or unknown:
            raise InputError(
                f"{path}: missing tensors {_some(missing)}, unknown tensors {_some(unknown)}; "
                "copy it again, or name another file"
            )
        for name, tensor in self.tensors.items():
            expected = own[names[name]]
            if tensor.shape != expected.shape:
                raise InputError(
                    f"{path}: {name} has shape {list(tensor.shape)}, expected "
                    f"{list(expected.shape)}; copy it again, or name another file"
                )
        check_finite(path, self.tensors)
        model.to_empty(device="cpu")
        model.load_state_dict({names[name]: tensor for name, tensor in self.tensors.items()})


def replace_prefix(name: str, prefixes: dict[str, str]) -> str:
    """A name with its prefix replaced.

    Args:
        name: The name of a tensor.
        prefixes: Old prefix -> new prefix; the first one that fits is used.

    Returns:
        The new name, or the same if no prefix fits.
    """
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def inverse(prefixes: dict[str, str]) -> dict[str, str]:
    """New prefix -> old prefix."""
    return {new: old for old, new in prefixes.items()}


def _some(names: set[str]) -> str:
    """The first names, and how many more there are."""
    shown = sorted(names)[:SHOWN]
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else f"{shown}"
