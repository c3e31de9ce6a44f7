"""The device that a model runs on."""

from __future__ import annotations

import torch

from avhubert_ext.errors import InputError


def choose_device(device: str) -> str:
    """The device itself, or for `auto` the first CUDA GPU, or the CPU if there is none.

    Raises InputError for a device that PyTorch does not have here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"device '{device}': PyTorch does not have it here; use auto, cpu, cuda, cuda:N, or mps"
        ) from None
    return device
