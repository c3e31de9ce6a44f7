"""Frontends: video of the mouth, or audio, to one vector per video frame.

Parameters are named as in the public checkpoints (AV-HuBERT's ResNet-18, torchvision's
ShuffleNetV2), so their weights load without renaming.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESNET_CHANNELS = (64, 128, 256, 512)
SHUFFLENET_CHANNELS = (24, 116, 232, 464, 512)  # stem, three stages, last convolution
SHUFFLENET_REPEATS = (4, 8, 4)


def scaled_channels(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Channel counts times `width`, rounded to multiples of 8 unless `width` is 1."""
    if width == 1.0:
        return channels
    return tuple(max(8, round(c * width / 8) * 8) for c in channels)


class Stem3d(nn.Sequential):
    """Convolution 5x7x7 over (time, height, width), batch norm, activation, max pooling.

    [B, 1, T, 88, 88] -> [B*T, C, 22, 22]: the frame rate does not change. The input has one
    channel, so the 3D convolution is computed as a 2D convolution whose channels are five
    neighboring frames.
    """

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__(
            nn.Conv3d(1, channels, (5, 7, 7), stride=(1, 2, 2), padding=(2, 3, 3), bias=False),
            nn.BatchNorm2d(channels),
            activation,
            nn.MaxPool2d(3, stride=2, padding=1),
        )

    def forward(self, video: Tensor) -> Tensor:
        # Channels last is faster on a CPU (pooling 15 times), but with it PyTorch's batch norm sums
        # its statistics with errors of 1e-4, so it is not used in training.
        layout = torch.contiguous_format if self.training else torch.channels_last
        convolution, norm, activation, pool = self
        time = video.shape[2]
        padded = F.pad(video[:, 0], (0, 0, 0, 0, 2, 2))
        frames = torch.stack([padded[:, t : t + time] for t in range(5)], dim=2).flatten(0, 1)
        x = F.conv2d(
            frames.contiguous(memory_format=layout),
            convolution.weight[:, 0],
            convolution.bias,
            stride=2,
            padding=3,
        )
        return pool(activation(norm(x)))


Activation = Callable[[int], nn.Module]  # makes an activation for a number of channels


def silu(channels: int) -> nn.Module:
    """Auto-AVSR's activation, which has no parameters per channel."""
    return nn.SiLU()


class BasicBlock(nn.Module):
    """A residual block of two 3x3 convolutions, each with an activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = activation(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = activation(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + residual)


class Trunk(nn.Sequential):
    """The four stages of a ResNet-18. [N, C, H, W] -> [N, E, H / 8, W / 8]."""

    def forward(self, x: Tensor) -> Tensor:
        *stages, last = self
        for stage in stages:
            x = stage(x)
        if x.device.type == "cpu" and x.dtype == torch.float32:
            # With channels last, oneDNN is half as fast for maps that are three pixels wide.
            x = x.contiguous()
        return last(x)


class ResNet18(nn.Module):
    """Conv3d stem and a ResNet-18 trunk over single frames. [B, 1, T, 88, 88] -> [B, T, C].

    AV-HuBERT uses PReLU with one slope per channel, Auto-AVSR uses SiLU. Fresh weights are those of
    He et al. for both, while Auto-AVSR, which starts from a trained frontend, has PyTorch's.

    Args:
        width: Multiplies the channel counts.
        activation: Makes an activation for a number of channels.
    """

    def __init__(self, width: float = 1.0, activation: Activation = nn.PReLU) -> None:
        super().__init__()
        channels = scaled_channels(RESNET_CHANNELS, width)
        self.frontend3D = Stem3d(channels[0], activation(channels[0]))
        self.trunk = Trunk()
        inputs = channels[0]
        for i, outputs in enumerate(channels, start=1):
            first = BasicBlock(inputs, outputs, 1 if i == 1 else 2, activation)
            layer = nn.Sequential(first, BasicBlock(outputs, outputs, 1, activation))
            self.trunk.add_module(f"layer{i}", layer)
            inputs = outputs
        self.out_channels = inputs
        for module in self.trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, video: Tensor) -> Tensor:
        batch, _, time = video.shape[:3]
        x = self.trunk(self.frontend3D(video))
        return x.mean(dim=(2, 3)).view(batch, time, -1)


def _conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _depthwise_bn(channels: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return [convolution, nn.BatchNorm2d(channels)]


class ShuffleUnit(nn.Module):
    """ShuffleNetV2 unit (Ma et al. 2018, Fig. 3c, or 3d if the stride is 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.split = stride == 1
        branch_inputs = half if self.split else inputs
        self.branch1 = nn.Sequential()
        if not self.split:
            self.branch1 = nn.Sequential(
                *_depthwise_bn(inputs, stride), *_conv_bn_relu(inputs, half)
            )
        self.branch2 = nn.Sequential(
            *_conv_bn_relu(branch_inputs, half),
            *_depthwise_bn(half, stride),
            *_conv_bn_relu(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, processed = x.chunk(2, dim=1) if self.split else (self.branch1(x), x)
        return F.channel_shuffle(torch.cat([kept, self.branch2(processed)], dim=1), groups=2)


class ShuffleNetV2(nn.Module):
    """Conv3d stem and a ShuffleNetV2 trunk over single frames. [B, 1, T, 88, 88] -> [B, T, C].

    Paper A, section 2.3: the first convolution is 3D (24 channels; the kernel 5x7x7 is the one that
    fits the stated FLOPs), and the last one has 512 channels instead of 1024.

    Args:
        width: Multiplies the channel counts.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        stem, *stages, last = scaled_channels(SHUFFLENET_CHANNELS, width)
        self.frontend3D = Stem3d(stem, nn.ReLU())
        inputs = stem
        for i, (outputs, repeats) in enumerate(
            zip(stages, SHUFFLENET_REPEATS, strict=True), start=2
        ):
            units = [ShuffleUnit(inputs, outputs, stride=2)]
            units += [ShuffleUnit(outputs, outputs, stride=1) for _ in range(repeats - 1)]
            self.add_module(f"stage{i}", nn.Sequential(*units))
            inputs = outputs
        self.conv5 = nn.Sequential(*_conv_bn_relu(inputs, last))
        self.out_channels = last

    def forward(self, video: Tensor) -> Tensor:
        batch, _, time = video.shape[:3]
        x = self.frontend3D(video)
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return x.mean(dim=(2, 3)).view(batch, time, -1)


VISUAL_FRONTENDS: dict[str, type[nn.Module]] = {"resnet": ResNet18, "shufflenet": ShuffleNetV2}


class VideoFrontend(nn.Module):
    """A visual trunk and the projection to the encoder's width. [B, 1, T, 88, 88] -> [B, T, D].

    Args:
        trunk: Its name in VISUAL_FRONTENDS.
        width: Multiplies the channel counts of the trunk.
        dim: The encoder's width D.
    """

    def __init__(self, trunk: str, width: float, dim: int) -> None:
        super().__init__()
        self.trunk_name = trunk
        self.add_module(trunk, VISUAL_FRONTENDS[trunk](width))
        self.proj = nn.Linear(self.get_submodule(trunk).out_channels, dim)

    def forward(self, video: Tensor) -> Tensor:
        return self.proj(self.get_submodule(self.trunk_name)(video))


class BasicBlock1d(nn.Module):
    """A residual block of two convolutions with kernel 3 over time, with SiLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv1d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm1d(outputs)
            )

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """[B, C, L] -> [B, E, L / stride]; see `silenced` for padding_mask."""
        residual = x if self.downsample is None else self.downsample(x)
        y = silenced(F.silu(self.bn1(self.conv1(x))), padding_mask)
        return silenced(F.silu(self.bn2(self.conv2(y)) + residual), padding_mask)


def silenced(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Set padding to zero, as a convolution sees it after the end of a clip.

    Args:
        x: [B, C, L].
        padding_mask: [B, T] bool for video frames of L / T values each, or None.

    Returns:
        [B, C, L].
    """
    if padding_mask is None:
        return x
    mask = padding_mask.repeat_interleave(x.shape[2] // padding_mask.shape[1], dim=1)
    return x.masked_fill(mask[:, None], 0.0)


class WaveformResNet18(nn.Module):
    """Auto-AVSR's ResNet-18 over a waveform at 16 kHz, with SiLU. [B, 1, 640 T] -> [B, T, C].

    The first convolution has a kernel of 80 samples and stride 4, the stages have strides 1, 2, 2
    and 2, and the last step averages over 20 values.

    Args:
        width: Multiplies the channel counts.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = scaled_channels(RESNET_CHANNELS, width)
        self.trunk = nn.Module()  # because of the names in checkpoints, `trunk.conv1` ...
        self.trunk.conv1 = nn.Conv1d(1, channels[0], 80, stride=4, padding=38, bias=False)
        self.trunk.bn1 = nn.BatchNorm1d(channels[0])
        inputs = channels[0]
        for i, outputs in enumerate(channels, start=1):
            first = BasicBlock1d(inputs, outputs, 1 if i == 1 else 2)
            layer = nn.ModuleList([first, BasicBlock1d(outputs, outputs, 1)])
            self.trunk.add_module(f"layer{i}", layer)
            inputs = outputs
        self.out_channels = inputs

    def forward(self, waveform: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Encode waveforms.

        Args:
            waveform: [B, 1, 640 T].
            padding_mask: [B, T] bool, True = padding. With None, padding leaks into the clips.

        Returns:
            [B, T, C].
        """
        trunk = self.trunk
        x = silenced(F.silu(trunk.bn1(trunk.conv1(waveform))), padding_mask)
        for block in (*trunk.layer1, *trunk.layer2, *trunk.layer3, *trunk.layer4):
            x = block(x, padding_mask)
        return F.avg_pool1d(x, 20).transpose(1, 2)


class AudioFrontend(nn.Module):
    """A linear layer on stacked filter banks. [B, F, T] -> [B, T, D]."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(features, dim)

    def forward(self, audio: Tensor) -> Tensor:
        return self.proj(audio.transpose(1, 2))
