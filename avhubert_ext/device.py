"""The device that a model runs on."""

from __future__ import annotations

import torch

from avhubert_ext.errors import InputError


def choose_device(device: torch.device | str) -> torch.device | str:
    """Check the name of a device, and choose one for `auto`.

    Args:
        device: auto, cpu, cuda, cuda:N, mps, or a torch.device.

    Returns:
        The device; for `auto`, cuda if PyTorch finds a CUDA GPU, else cpu.

    Raises:
        InputError: If PyTorch does not have this device here.
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
