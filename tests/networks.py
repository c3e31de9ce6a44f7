"""Small networks with random weights, and clips to run them on."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from avhubert_ext.models.conformer import ConformerConfig, ConformerEncoder
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig

SMALL = EncoderConfig(
    layers=2, dim=32, ffn=48, heads=4, visual_width=0.125, conv_pos=16, conv_pos_groups=4
)
VARIANTS = {
    f"{block}-{visual}": replace(SMALL, block=block, visual=visual)
    for block in ("transformer", "conformer")
    for visual in ("resnet", "shufflenet")
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
# Two networks that cover all parts, for slow tests.
PARTS = ("transformer-resnet", "conformer-shufflenet")
parts = pytest.mark.parametrize("config", [VARIANTS[name] for name in PARTS], ids=PARTS)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw random values everywhere, so that no scale of one and no bias of zero hides an error."""
    torch.manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.3)
    return module.eval()


def clip(batch: int = 1, frames: int = 5, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw random audio [B, 104, T] and video [B, 1, T, 88, 88]."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 104, frames, generator=generator),
        torch.randn(batch, 1, frames, 88, 88, generator=generator),
    )


def trained(config: EncoderConfig | ConformerConfig) -> AVHubertEncoder | ConformerEncoder:
    """Fresh weights, but batch norms and gains as after training."""
    torch.manual_seed(0)
    encoder = (
        AVHubertEncoder(config) if isinstance(config, EncoderConfig) else ConformerEncoder(config)
    )
    worn(encoder)
    return encoder.eval()


def worn(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        norm = ".bn" in name or ".batch_norm" in name
        if name.endswith("running_mean"):
            tensor.normal_(std=0.2)
        elif name.endswith(("running_var", "weight_g")) or (norm and "weight" in name):
            tensor.mul_(torch.empty_like(tensor).uniform_(0.5, 2.0))


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """The greatest difference relative to the greatest value."""
    return (found - expected).abs().max().item() <= tolerance * expected.abs().max().item()
