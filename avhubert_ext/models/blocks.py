"""Encoder blocks and positional encodings. A block maps [B, T, D] to [B, T, D]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avhubert_ext.models.attention import MultiheadAttention, RelativeAttention

NORM_EPS = 1e-12  # epsilon of the layer norms in Auto-AVSR's networks


def set_norm_eps(model: nn.Module) -> None:
    """Set the epsilon of all layer norms in a model to Auto-AVSR's."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = NORM_EPS


class TransformerBlock(nn.Module):
    """Pre-norm transformer block of wav2vec 2.0 and AV-HuBERT, with GELU."""

    def __init__(
        self,
        dim: int,
        ffn: int,
        heads: int,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(dim, heads, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn)
        self.fc2 = nn.Linear(ffn, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.activation_dropout = nn.Dropout(activation_dropout)

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        y = self.self_attn_layer_norm(x)
        x = x + self.dropout(self.self_attn(y, self.self_attn.project_memory(y), padding_mask))
        y = self.activation_dropout(F.gelu(self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(y))


class ConformerFeedForward(nn.Module):
    """LayerNorm, linear, SiLU, linear: one of the two feed-forward modules of a conformer block."""

    activation = staticmethod(F.silu)

    def __init__(self, dim: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn)
        self.fc2 = nn.Linear(ffn, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.activation(self.fc1(self.layer_norm(x))))
        return self.dropout(self.fc2(y))


class ConformerConvolution(nn.Module):
    """LayerNorm, pointwise, GLU, depthwise, BatchNorm, SiLU, pointwise.

    Padding is set to zero before the depthwise convolution, so the result for a clip is the same
    alone and in a padded batch.
    """

    def __init__(self, dim: int, kernel: int, dropout: float, bias: bool = False) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(dim)
        self.pointwise1 = nn.Conv1d(dim, 2 * dim, 1, bias=bias)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=bias)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise2 = nn.Conv1d(dim, dim, 1, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        y = F.glu(_pointwise(self.pointwise1, self.layer_norm(x)), dim=-1)
        if padding_mask is not None:
            y = y.masked_fill(padding_mask[..., None], 0.0)
        y = F.silu(self.batch_norm(self.depthwise(y.transpose(1, 2))))
        return self.dropout(_pointwise(self.pointwise2, y.transpose(1, 2)))


def _pointwise(layer: nn.Conv1d | nn.Linear, x: Tensor) -> Tensor:
    """[B, T, D] -> [B, T, E]. On a CPU, Conv1d is slower than a linear layer for one clip."""
    if isinstance(layer, nn.Conv1d):
        return F.linear(x, layer.weight[..., 0], layer.bias)
    return layer(x)  # a fused model has a linear layer


class ConformerBlock(nn.Module):
    """Macaron conformer block (Gulati et al. 2020) of paper A's students; absolute positions."""

    def __init__(
        self,
        dim: int,
        ffn: int,
        heads: int,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        kernel: int = 31,
    ) -> None:
        super().__init__()
        self.ffn1 = ConformerFeedForward(dim, ffn, dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.self_attn = MultiheadAttention(dim, heads, attention_dropout)
        self.dropout = nn.Dropout(dropout)
        self.conv = ConformerConvolution(dim, kernel, dropout)
        self.ffn2 = ConformerFeedForward(dim, ffn, dropout)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        x = x + 0.5 * self.ffn1(x)
        y = self.self_attn_layer_norm(x)
        x = x + self.dropout(self.self_attn(y, self.self_attn.project_memory(y), padding_mask))
        x = x + self.conv(x, padding_mask)
        x = x + 0.5 * self.ffn2(x)
        return self.final_layer_norm(x)


class ReluFeedForward(ConformerFeedForward):
    """As `ConformerFeedForward`, with ReLU."""

    activation = staticmethod(F.relu)


class RelativeConformerBlock(nn.Module):
    """Conformer block of paper B: relative positions, biases in the convolutions, and ReLU.

    Args:
        dim: Width D.
        ffn: Width of the feed-forward modules.
        heads: Number of attention heads.
        dropout: Dropout of the modules.
        attention_dropout: Dropout of the attention weights.
        kernel: Kernel of the depthwise convolution, an odd number of frames.
        mask_padding: Whether padding is set to zero before the depthwise convolution. Auto-AVSR
            does not do that, so there a clip depends on the other clips of its batch.
    """

    def __init__(
        self,
        dim: int,
        ffn: int,
        heads: int,
        dropout: float,
        attention_dropout: float,
        kernel: int,
        mask_padding: bool,
    ) -> None:
        super().__init__()
        self.mask_padding = mask_padding
        self.ffn1 = ReluFeedForward(dim, ffn, dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.self_attn = RelativeAttention(dim, heads, attention_dropout)
        self.dropout = nn.Dropout(dropout)
        self.conv = ConformerConvolution(dim, kernel, dropout, bias=True)
        self.ffn2 = ReluFeedForward(dim, ffn, dropout)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.ffn2.load_state_dict(self.ffn1.state_dict())  # the same start, as in Auto-AVSR

    def forward(self, x: Tensor, padding_mask: Tensor | None, positions: Tensor) -> Tensor:
        """Encode x [B, T, D]; see `RelativeAttention` for positions [2T-1, D]."""
        x = x + 0.5 * self.ffn1(x)
        y = self.self_attn_layer_norm(x)
        x = x + self.dropout(self.self_attn(y, padding_mask, positions))
        x = x + self.conv(x, padding_mask if self.mask_padding else None)
        x = x + 0.5 * self.ffn2(x)
        return self.final_layer_norm(x)


class PositionalConvolution(nn.Module):
    """Grouped convolution over time with weight norm over (output, input) channels, then GELU.

    [B, T, D] -> [B, T, D]. `weight_g` and `weight_v` are the names in public checkpoints.

    Args:
        dim: Width D.
        kernel: Kernel K in frames.
        groups: Number of groups; D must be a multiple of it.
    """

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        if dim % groups:
            raise ValueError(f"width {dim} is not divisible by {groups} convolution groups")
        self.groups = groups
        self.bias = nn.Parameter(torch.zeros(dim))
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.empty(dim, dim // groups, kernel))
        nn.init.normal_(self.weight_v, std=math.sqrt(4.0 / (kernel * dim)))
        with torch.no_grad():
            self.weight_g.copy_(self.weight_v.norm(dim=(0, 1), keepdim=True))

    def weight(self) -> Tensor:
        """The kernel [D, D / groups, K]."""
        if self.weight_g is None:
            return self.weight_v
        # `norm(dim=(0, 1))` is seven times slower on a CPU.
        norm = self.weight_v.square().sum(dim=(0, 1), keepdim=True).sqrt()
        return self.weight_v * (self.weight_g / norm)

    def fold_weight_norm(self) -> None:
        """Replace the two parts of the kernel by the kernel itself, for inference."""
        self.weight_v.data = self.weight()
        self.weight_g = None

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and (
            x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        ):
            # With AMX, PyTorch 2.8's bfloat16 kernel computes wrong sums for a kernel of 128 and
            # groups of 8 channels (relative error 1.1). So it is always float32 here.
            with torch.autocast("cpu", enabled=False):
                return self._convolve(x.float(), self.weight().float(), self.bias.float()).to(
                    x.dtype
                )
        return self._convolve(x, self.weight(), self.bias)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        padding = weight.shape[-1] // 2
        y = F.conv1d(x.transpose(1, 2), weight, bias, padding=padding, groups=self.groups)
        return F.gelu(y[..., : x.shape[1]]).transpose(1, 2)


def sinusoidal_positions(start: int, length: int, dim: int, device: torch.device) -> Tensor:
    """Sinusoids in fairseq's layout: sines, then cosines.

    Args:
        start: First position.
        length: Number of positions.
        dim: Width; if it is odd, the last column is zero.
        device: Device of the result.

    Returns:
        float32 [length, dim].
    """
    half = dim // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10000.0) / (half - 1)))
    angles = torch.arange(start, start + length, device=device)[:, None] * rates[None]
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))


def interleaved_positions(positions: Tensor, dim: int) -> Tensor:
    """Sinusoids in the layout of Vaswani et al.: sines at even indices, cosines at odd ones.

    Args:
        positions: [L].
        dim: Width.

    Returns:
        float32 [L, dim].
    """
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-math.log(10000.0) / dim))
    angles = positions[:, None].float() * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :dim]
