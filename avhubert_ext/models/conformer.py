"""Auto-AVSR's recognizer, which SparseVSR prunes: conformer encoder, CTC layer, and decoder.

Ma et al. 2021 and 2023; paper B, section 3.3. It takes video (lip reading), audio, or both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avhubert_ext.data.audio import SAMPLES_PER_FRAME
from avhubert_ext.errors import InputError
from avhubert_ext.models.blocks import RelativeConformerBlock, interleaved_positions, set_norm_eps
from avhubert_ext.models.checks import (
    check_choice,
    check_counts,
    check_factor,
    check_probabilities,
    check_switch,
)
from avhubert_ext.models.decoder import DecoderConfig, UntiedDecoder
from avhubert_ext.models.encoder import check_streams
from avhubert_ext.models.frontends import ResNet18, WaveformResNet18, silu

MODALITIES = ("video", "audio", "both")


@dataclass(frozen=True)
class ConformerConfig:
    """Widths, depth and dropout of a conformer encoder; the defaults are BASE-L's.

    Attributes:
        modality: video, audio, or both, which has one conformer for each.
        layers: Number of blocks.
        dim: Width D.
        ffn: Width of the feed-forward modules.
        heads: Number of attention heads.
        kernel: Kernel of the convolutions, an odd number of frames.
        width: Multiplies the channel counts of the ResNet-18.
        fusion: Number of hidden units in the fusion of both streams.
        dropout: Dropout of modules and positions.
        attention_dropout: Dropout of attention weights.
        mask_padding: See `RelativeConformerBlock`.

    Raises:
        InputError: If a value is invalid.
    """

    modality: str = "video"
    layers: int = 12
    dim: int = 768
    ffn: int = 3072
    heads: int = 12
    kernel: int = 31
    width: float = 1.0
    fusion: int = 8192
    dropout: float = 0.1
    attention_dropout: float = 0.1
    mask_padding: bool = True

    def __post_init__(self) -> None:
        check_choice("modality", self.modality, MODALITIES)
        check_counts(self, "layers", "dim", "ffn", "heads", "kernel", "fusion")
        check_factor(self, "width")
        check_probabilities(self, "dropout", "attention_dropout")
        check_switch(self, "mask_padding")
        if self.kernel % 2 == 0:
            raise InputError(f"kernel {self.kernel}: expected an odd number of frames")
        if self.dim % self.heads:
            raise InputError(f"dim {self.dim}: expected a multiple of heads ({self.heads})")


class Conformer(nn.Module):
    """A frontend, the projection of its output, and blocks with relative positions."""

    def __init__(self, config: ConformerConfig, frontend: nn.Module) -> None:
        super().__init__()
        c = config
        self.frontend = frontend
        self.projection = nn.Linear(frontend.out_channels, c.dim)
        self.dropout = nn.Dropout(c.dropout)
        self.layers = nn.ModuleList(
            RelativeConformerBlock(
                c.dim, c.ffn, c.heads, c.dropout, c.attention_dropout, c.kernel, c.mask_padding
            )
            for _ in range(c.layers)
        )
        self.layer_norm = nn.LayerNorm(c.dim)
        set_norm_eps(self)

    def forward(self, features: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Encode the output of the frontend.

        Args:
            features: [B, T, C].
            padding_mask: [B, T] bool, True = padding, or None.

        Returns:
            [B, T, D].
        """
        x = self.projection(features)
        time, dim = x.shape[1:]
        distances = torch.arange(time - 1, -time, -1, device=x.device)
        positions = self.dropout(interleaved_positions(distances, dim).to(x.dtype))
        x = self.dropout(x * math.sqrt(dim))
        for layer in self.layers:
            x = layer(x, padding_mask, positions)
        return self.layer_norm(x)


class Fusion(nn.Module):
    """Fuses two streams: linear, batch norm, ReLU, linear. [B, T, 2D] -> [B, T, D]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * dim, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.bn1(self.fc1(x).transpose(1, 2)).transpose(1, 2)
        return self.fc2(F.relu(hidden))


class ConformerEncoder(nn.Module):
    """Encodes video, waveforms, or both as one vector per video frame (25 Hz)."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.video = self.audio = self.fusion = None
        if config.modality != "audio":
            self.video = Conformer(config, ResNet18(config.width, silu))
        if config.modality != "video":
            self.audio = Conformer(config, WaveformResNet18(config.width))
        if config.modality == "both":
            self.fusion = Fusion(config.dim, config.fusion)

    def forward(
        self, video: Tensor | None, padding_mask: Tensor | None = None, audio: Tensor | None = None
    ) -> Tensor:
        """The encoded batch, [B, T, D]; see `CTCAttentionRecognizer.encode` for the inputs."""
        if (self.video is None) != (video is None) or (self.audio is None) != (audio is None):
            wanted = {"both": "video and audio"}.get(self.config.modality, self.config.modality)
            raise InputError(f"the model takes {wanted}: pass exactly that")
        check_streams(audio, waveform_frames(audio), video, padding_mask)
        seen = heard = None
        if self.video is not None:
            # Its only convolution over time is on pixels, where padding is zero as after a clip.
            seen = self.video.frontend(video)
        if self.audio is not None:
            masked = padding_mask if self.config.mask_padding else None
            heard = self.audio.frontend(audio, masked)
        return self.encode_streams(seen, heard, padding_mask)

    def encode_streams(
        self, video: Tensor | None, audio: Tensor | None, padding_mask: Tensor | None
    ) -> Tensor:
        """Encode the outputs of the frontends.

        Args:
            video: [B, T, C], or None.
            audio: [B, T, C], or None.
            padding_mask: [B, T] bool, True = padding, or None.

        Returns:
            [B, T, D].
        """
        streams = []
        if self.video is not None:
            streams.append(self.video(video, padding_mask))
        if self.audio is not None:
            streams.append(self.audio(audio, padding_mask))
        return streams[0] if self.fusion is None else self.fusion(torch.cat(streams, dim=-1))

    def fuse(self) -> ConformerEncoder:
        """A faster copy for inference with the same outputs up to rounding (see `fuse.py`)."""
        from avhubert_ext.models.fuse import fused

        return fused(self)


def waveform_frames(audio: Tensor | None) -> tuple[int, int] | None:
    """The number of (clips, video frames) in waveforms [B, 1, 640 T]; None for None.

    Raises:
        InputError: If the shape is another.
    """
    if audio is None:
        return None
    if audio.dim() != 3 or audio.shape[1] != 1 or audio.shape[2] % SAMPLES_PER_FRAME:
        raise InputError(
            f"audio has shape {list(audio.shape)}: expected [B, 1, {SAMPLES_PER_FRAME} T], 16 kHz"
        )
    return audio.shape[0], audio.shape[2] // SAMPLES_PER_FRAME


class CTCAttentionRecognizer(nn.Module):
    """Conformer encoder with a CTC layer and a transformer decoder that have the same outputs.

    The outputs are blank (0), unknown (1), the subwords, and last the begin and end of a sentence.

    Args:
        encoder: Widths, depth and dropout of the encoder.
        decoder: The same of the decoder, whose width must be the encoder's.

    Raises:
        InputError: If the widths differ.
    """

    def __init__(self, encoder: ConformerConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        if encoder.dim != decoder.dim:
            raise InputError(
                f"encoder and decoder are {encoder.dim} and {decoder.dim} wide: choose one width"
            )
        self.encoder = ConformerEncoder(encoder)
        self.decoder = UntiedDecoder(decoder)
        self.ctc = nn.Linear(encoder.dim, decoder.vocabulary)
        self.ctc_dropout = nn.Dropout(encoder.dropout)

    @property
    def eos(self) -> int:
        """The output that begins and ends a sentence."""
        return self.decoder.config.vocabulary - 1

    def encode(
        self,
        video: Tensor | None,
        padding_mask: Tensor | None = None,
        audio: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Encode a batch. The `modality` of the configuration says which inputs it takes.

        Args:
            video: [B, 1, T, 88, 88] float, or None.
            padding_mask: [B, T] bool, True = padding, or None. The inputs must be zero at padding,
                as `collate` makes them.
            audio: [B, 1, 640 T] float, waveforms at 16 kHz, or None.

        Returns:
            The encoder's output [B, T, D], and the padding mask as it was given.

        Raises:
            InputError: If the inputs do not fit.
        """
        return self.encoder(video, padding_mask, audio), padding_mask

    def set_mask_padding(self, mask_padding: bool) -> CTCAttentionRecognizer:
        """Change `ConformerConfig.mask_padding` of an existing model; returns the model."""
        self.encoder.config = replace(self.encoder.config, mask_padding=mask_padding)
        for module in self.encoder.modules():
            if isinstance(module, RelativeConformerBlock):
                module.mask_padding = mask_padding
        return self

    def fuse(self) -> CTCAttentionRecognizer:
        """A copy for inference with a fused encoder; CTC layer and decoder do not change."""
        from avhubert_ext.models.fuse import fused

        return fused(self)

    def ctc_log_probs(self, encoded: Tensor) -> Tensor:
        """The log probabilities of the CTC layer, float32 [B, T, V], for encoded [B, T, D]."""
        return self.ctc(self.ctc_dropout(encoded)).float().log_softmax(dim=-1)

    def decode_logits(
        self, prev_tokens: Tensor, encoded: Tensor, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Logits [B, L, V] of the token after each of prev_tokens [B, L]; the first is `eos`."""
        return self.decoder(prev_tokens, encoded, padding_mask)

    def forward(
        self,
        video: Tensor | None,
        padding_mask: Tensor | None,
        prev_tokens: Tensor,
        audio: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """CTC log probabilities [B, T, V] and teacher-forced logits [B, L, V]."""
        encoded, _ = self.encode(video, padding_mask, audio)
        logits = self.decode_logits(prev_tokens, encoded, padding_mask)
        return self.ctc_log_probs(encoded), logits
