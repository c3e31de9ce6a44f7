"""The device that a model runs on."""

from __future__ import annotations

import torch

from avhubert_ext.errors import InputError


def choose_device(device: torch.device | str) -> torch.device | str:
    """Resolve "auto" to the first CUDA GPU, or the CPU if there is none; keep other devices.

    Raises:
        InputError: If PyTorch does not have the device here.
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
