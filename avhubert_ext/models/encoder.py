"""The audio-visual encoder: AV-HuBERT's network, and thinner students built from the same parts.

Shi et al. 2022 (AV-HuBERT); paper A, section 2. Parameters are named as in the public checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avhubert_ext.data.audio import FEATURES as AUDIO_FEATURES
from avhubert_ext.data.video import CROP as FRAME_SIZE
from avhubert_ext.errors import InputError
from avhubert_ext.models.blocks import (
    ConformerBlock,
    PositionalConvolution,
    TransformerBlock,
    sinusoidal_positions,
)
from avhubert_ext.models.checks import (
    check_choice,
    check_counts,
    check_factor,
    check_probabilities,
)
from avhubert_ext.models.frontends import VISUAL_FRONTENDS, AudioFrontend, VideoFrontend

BLOCKS = ("transformer", "conformer")


@dataclass(frozen=True)
class EncoderConfig:
    """Widths, depth and dropout of an encoder; the defaults are AV-HuBERT base's.

    Raises:
        InputError: If a value is invalid.
    """

    layers: int = 12
    dim: int = 768
    ffn: int = 3072
    heads: int = 12
    block: str = "transformer"  # one of BLOCKS
    visual: str = "resnet"  # one of VISUAL_FRONTENDS
    visual_width: float = 1.0  # multiplies every channel count of the visual frontend
    conv_pos: int = 128  # kernel of the positional convolution, of a transformer only
    conv_pos_groups: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    dropout_input: float = 0.1
    layerdrop: float = 0.0  # probability of skipping a block in training
    modality_dropout: float = 0.0  # probability of losing one stream of a training batch
    audio_dropout: float = 0.5  # probability that the lost stream is the audio

    def __post_init__(self) -> None:
        check_choice("block", self.block, BLOCKS)
        check_choice("visual", self.visual, tuple(VISUAL_FRONTENDS))
        check_counts(self, "layers", "dim", "ffn", "heads", "conv_pos", "conv_pos_groups")
        check_factor(self, "visual_width")
        check_probabilities(self, "dropout", "attention_dropout", "activation_dropout")
        check_probabilities(self, "dropout_input", "layerdrop")
        check_probabilities(self, "modality_dropout", "audio_dropout")
        groups = self.conv_pos_groups if self.block == "transformer" else 1
        if self.dim % self.heads or self.dim % groups:
            raise InputError(
                f"dim {self.dim}: expected a multiple of heads ({self.heads}) and of the groups of "
                f"the positional convolution ({groups})"
            )


@dataclass(frozen=True)
class EncoderOutput:
    """The output of an encoder.

    Attributes:
        last_hidden_state: [B, T, D], after the final layer norm.
        hidden_states: The fused streams before any positional encoding (zero at padding), then the
            residual stream after each block, before the final layer norm; each [B, T, D].
        padding_mask: [B, T] bool, True = padding; None if the batch has none.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...]
    padding_mask: Tensor | None


torch.export.register_dataclass(EncoderOutput, serialized_type_name="avhubert_ext.EncoderOutput")


class BlockStack(nn.Module):
    """Positional encoding, blocks, and the final layer norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        c = config
        self.layerdrop = c.layerdrop
        self.pos_conv = None
        if c.block == "transformer":
            # A Sequential because of the name in checkpoints, `pos_conv.0`.
            self.pos_conv = nn.Sequential(
                PositionalConvolution(c.dim, c.conv_pos, c.conv_pos_groups)
            )
        self.dropout = nn.Dropout(c.dropout)
        self.layers = nn.ModuleList(self._block(c) for _ in range(c.layers))
        self.layer_norm = nn.LayerNorm(c.dim)

    @staticmethod
    def _block(c: EncoderConfig) -> nn.Module:
        if c.block == "conformer":
            return ConformerBlock(c.dim, c.ffn, c.heads, c.dropout, c.attention_dropout)
        return TransformerBlock(
            c.dim, c.ffn, c.heads, c.dropout, c.attention_dropout, c.activation_dropout
        )

    def _positions(self, x: Tensor) -> Tensor:
        if self.pos_conv is not None:
            return self.pos_conv(x)
        return sinusoidal_positions(0, x.shape[1], x.shape[2], x.device).to(x.dtype)

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, ...]:
        """Encode fused streams.

        Args:
            x: [B, T, D], zero at padding.
            padding_mask: [B, T] bool, True = padding, or None.

        Returns:
            The residual stream after each block, each [B, T, D].
        """
        x = self.dropout(x + self._positions(x))
        states = []
        for layer in self.layers:
            if not (self.training and torch.rand(()).item() < self.layerdrop):
                x = layer(x, padding_mask)
            states.append(x)
        return tuple(states)


class AVHubertEncoder(nn.Module):
    """Encodes audio and video as one vector per video frame (25 Hz).

    Args:
        config: Widths, depth and dropout.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor_audio = AudioFrontend(AUDIO_FEATURES, config.dim)
        self.feature_extractor_video = VideoFrontend(config.visual, config.visual_width, config.dim)
        self.layer_norm = nn.LayerNorm(2 * config.dim)
        self.post_extract_proj = nn.Linear(2 * config.dim, config.dim)
        self.dropout_input = nn.Dropout(config.dropout_input)
        self.encoder = BlockStack(config)
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def join(self, audio: Tensor | None, video: Tensor | None) -> Tensor:
        """The frontends and the fusion of their outputs: [B, T, D].

        A missing stream is replaced by zeros after its frontend, as in AV-HuBERT.
        """
        if self.training:
            c = self.config
            audio, video = drop_modality(audio, video, c.modality_dropout, c.audio_dropout)
        a = None if audio is None else self.feature_extractor_audio(audio)
        v = None if video is None else self.feature_extractor_video(video)
        given = v if a is None else a
        assert given is not None, "one of the streams is given"
        a = torch.zeros_like(given) if a is None else a
        v = torch.zeros_like(given) if v is None else v
        return self.dropout_input(self.fuse_streams(a, v))

    def fuse_streams(self, audio: Tensor, video: Tensor) -> Tensor:
        """Concatenation (audio first), layer norm and projection of the frontends' outputs.

        Args:
            audio: [B, T, D].
            video: [B, T, D].

        Returns:
            [B, T, D].
        """
        return self.post_extract_proj(self.layer_norm(torch.cat([audio, video], dim=-1)))

    def forward(
        self, audio: Tensor | None, video: Tensor | None, padding_mask: Tensor | None = None
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            audio: [B, 104, T] float, from `audio_features`, or None.
            video: [B, 1, T, 88, 88] float, from `load_video`, or None.
            padding_mask: [B, T] bool, True = padding, or None.

        Returns:
            The encoder's output and the states after each block.

        Raises:
            InputError: If both streams are None, or their shapes or types do not fit.
        """
        check_inputs(audio, video, padding_mask)
        fused = self.join(audio, video)
        if padding_mask is not None:
            fused = fused.masked_fill(padding_mask[..., None], 0.0)
        states = self.encoder(fused, padding_mask)
        return EncoderOutput(self.encoder.layer_norm(states[-1]), (fused, *states), padding_mask)

    def fuse(self) -> AVHubertEncoder:
        """A faster copy for inference with the same outputs up to rounding (see `fuse.py`)."""
        from avhubert_ext.models.fuse import fused

        return fused(self)


def drop_modality(
    audio: Tensor | None, video: Tensor | None, probability: float, audio_probability: float
) -> tuple[Tensor | None, Tensor | None]:
    """Drop one of the two streams of a batch at random (AV-HuBERT's modality dropout).

    A batch that has only one stream keeps it.

    Args:
        audio: The audio of the batch, or None.
        video: Its video, or None.
        probability: Probability that a stream is dropped, with one draw per batch.
        audio_probability: Probability that the dropped stream is the audio.

    Returns:
        Audio and video, one of which may be None.
    """
    if audio is None or video is None:
        return audio, video
    drop, which = torch.rand(2).tolist()
    if drop >= probability:
        return audio, video
    return (None, video) if which < audio_probability else (audio, None)


def check_inputs(audio: Tensor | None, video: Tensor | None, padding_mask: Tensor | None) -> None:
    """Check the inputs of `AVHubertEncoder.forward`.

    Raises:
        InputError: If their shapes or types do not fit; it names the expected ones.
    """
    if audio is not None and (audio.dim() != 3 or audio.shape[1] != AUDIO_FEATURES):
        raise InputError(f"audio has shape {list(audio.shape)}: expected [B, {AUDIO_FEATURES}, T]")
    frames = None if audio is None else (audio.shape[0], audio.shape[2])
    check_streams(audio, frames, video, padding_mask)


def check_streams(
    audio: Tensor | None,
    audio_frames: tuple[int, int] | None,
    video: Tensor | None,
    padding_mask: Tensor | None,
) -> None:
    """As `check_inputs`, for audio of any kind.

    Args:
        audio: Audio features or waveforms, or None.
        audio_frames: Number of (clips, video frames) in the audio, or None.
        video: [B, 1, T, 88, 88], or None.
        padding_mask: [B, T], or None.

    Raises:
        InputError: If the inputs do not fit together.
    """
    if audio is None and video is None:
        raise InputError("audio and video are both None: give at least one of them")
    frame = (FRAME_SIZE, FRAME_SIZE)
    if video is not None and (
        video.dim() != 5 or video.shape[1] != 1 or tuple(video.shape[3:]) != frame
    ):
        raise InputError(
            f"video has shape {list(video.shape)}: expected [B, 1, T, {FRAME_SIZE}, {FRAME_SIZE}]"
        )
    if any(x is not None and not x.is_floating_point() for x in (audio, video)):
        raise InputError("audio and video must be floating-point numbers like the weights")
    sizes = [] if audio_frames is None else [audio_frames]
    if video is not None:
        sizes.append((video.shape[0], video.shape[2]))
    if sizes[0] != sizes[-1]:
        raise InputError(
            f"audio has {sizes[0]} and video {sizes[1]} (clips, frames): they must be the same"
        )
    if 0 in sizes[0]:
        raise InputError(f"the input has {sizes[0]} (clips, frames): there is nothing to encode")
    if padding_mask is None:
        return
    if padding_mask.dtype != torch.bool or tuple(padding_mask.shape) != sizes[0]:
        raise InputError(
            f"padding_mask is {padding_mask.dtype} {list(padding_mask.shape)}: "
            f"expected torch.bool {list(sizes[0])}"
        )
    # The values of the mask cannot be read while PyTorch traces the network.
    if not torch.compiler.is_compiling() and padding_mask.all(dim=1).any():
        clips = padding_mask.all(dim=1).nonzero().flatten().tolist()
        raise InputError(f"clips {clips} of the batch contain only padding: leave them out")
