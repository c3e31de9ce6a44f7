"""Transformer decoder over subwords, and AV-HuBERT's recognizer: encoder, bridge, decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avhubert_ext.errors import InputError
from avhubert_ext.models.attention import KeyValue, MultiheadAttention, append
from avhubert_ext.models.blocks import interleaved_positions, set_norm_eps, sinusoidal_positions
from avhubert_ext.models.checks import check_counts, check_probabilities
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig, EncoderOutput

FIRST_POSITION = 2  # fairseq counts positions from padding_idx + 1


@dataclass(frozen=True)
class DecoderConfig:
    """Widths, depth and dropout of a decoder.

    The defaults are AV-HuBERT base's (6 blocks, 57M parameters with 1000 subwords).

    Raises:
        InputError: If a value is invalid.
    """

    vocabulary: int = 1000
    layers: int = 6
    dim: int = 768
    ffn: int = 3072
    heads: int = 4
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.1
    padding_idx: int | None = 1

    def __post_init__(self) -> None:
        check_counts(self, "vocabulary", "layers", "dim", "ffn", "heads")
        check_probabilities(self, "dropout", "attention_dropout", "activation_dropout")
        if self.dim % self.heads:
            raise InputError(f"dim {self.dim}: expected a multiple of heads ({self.heads})")


@dataclass
class DecoderCache:
    """Keys and values of the decoded tokens and of the encoder's output, one pair per block."""

    self_attention: dict[int, KeyValue] = field(default_factory=dict)
    encoder_attention: dict[int, KeyValue] = field(default_factory=dict)
    length: int = 0  # tokens decoded so far

    def reorder(self, order: Tensor) -> None:
        """Keep the hypotheses with the indices `order` [B'] of the batch."""
        for cache in (self.self_attention, self.encoder_attention):
            for layer, (k, v) in cache.items():
                cache[layer] = (k.index_select(0, order), v.index_select(0, order))


class DecoderBlock(nn.Module):
    """Pre-norm self-attention, encoder attention and feed-forward (ReLU, as AV-HuBERT's)."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(c.dim, c.heads, c.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(c.dim)
        self.encoder_attn = MultiheadAttention(c.dim, c.heads, c.attention_dropout)
        self.encoder_attn_layer_norm = nn.LayerNorm(c.dim)
        self.fc1 = nn.Linear(c.dim, c.ffn)
        self.fc2 = nn.Linear(c.ffn, c.dim)
        self.final_layer_norm = nn.LayerNorm(c.dim)
        self.dropout = nn.Dropout(c.dropout)
        self.activation_dropout = nn.Dropout(c.activation_dropout)

    def forward(
        self, x: Tensor, past: KeyValue | None, memory: KeyValue, memory_padding: Tensor | None
    ) -> tuple[Tensor, KeyValue]:
        """Decode tokens after those in `past`.

        Args:
            x: [B, L, D].
            past: Self-attention keys and values of the tokens before, or None.
            memory: Keys and values of the encoder's output.
            memory_padding: [B, T] bool, True = padding, or None.

        Returns:
            [B, L, D], and all self-attention keys and values so far.
        """
        y = self.self_attn_layer_norm(x)
        present = append(past, self.self_attn.project_memory(y))
        x = x + self.dropout(self.self_attn(y, present, causal=True))
        y = self.encoder_attn_layer_norm(x)
        x = x + self.dropout(self.encoder_attn(y, memory, memory_padding))
        y = self.activation_dropout(F.relu(self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(y)), present


class TransformerDecoder(nn.Module):
    """Predicts the next subword from the subwords so far and the encoder's output.

    Input and output embeddings are tied, without scale or bias; positions are sinusoidal.

    Args:
        config: Widths, depth and dropout.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.dim, config.padding_idx)
        nn.init.normal_(self.embed_tokens.weight, std=config.dim**-0.5)
        if config.padding_idx is not None:
            nn.init.zeros_(self.embed_tokens.weight[config.padding_idx].data)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.dim)

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor,
        memory_padding: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Predict the token after each of `tokens`.

        Args:
            tokens: [B, L] int64, padded at the end; with a cache, only the tokens that are not in
                it yet.
            memory: The encoder's output, [B, T, D].
            memory_padding: [B, T] bool, True = padding, or None.
            cache: Keys and values of the tokens before; `tokens` are added to it.

        Returns:
            Logits [B, L, V]; those at padding have no meaning.
        """
        x = self.dropout(self.embed(tokens, cache.length if cache else 0))
        for i, layer in enumerate(self.layers):
            if cache is None:
                x, _ = layer(x, None, layer.encoder_attn.project_memory(memory), memory_padding)
                continue
            if i not in cache.encoder_attention:
                cache.encoder_attention[i] = layer.encoder_attn.project_memory(memory)
            past = cache.self_attention.get(i)
            x, cache.self_attention[i] = layer(x, past, cache.encoder_attention[i], memory_padding)
        if cache is not None:
            cache.length += tokens.shape[1]
        return self.predict(self.layer_norm(x))

    def embed(self, tokens: Tensor, start: int) -> Tensor:
        """Embed tokens [B, L], the first of which is at position `start`: [B, L, D]."""
        x = self.embed_tokens(tokens)
        first = FIRST_POSITION + start
        positions = sinusoidal_positions(first, tokens.shape[1], self.config.dim, tokens.device)
        return x + positions.to(x.dtype)

    def predict(self, x: Tensor) -> Tensor:
        """[B, L, D] -> logits [B, L, V]."""
        return F.linear(x, self.embed_tokens.weight)


class UntiedDecoder(TransformerDecoder):
    """Paper B's decoder: the same blocks, a separate output layer, and scaled embeddings."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        nn.init.normal_(self.embed_tokens.weight)
        self.output = nn.Linear(config.dim, config.vocabulary)
        set_norm_eps(self)

    def embed(self, tokens: Tensor, start: int) -> Tensor:
        x = self.embed_tokens(tokens) * math.sqrt(self.config.dim)
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        return x + interleaved_positions(positions, self.config.dim).to(x.dtype)

    def predict(self, x: Tensor) -> Tensor:
        return self.output(x)


class AVRecognizer(nn.Module):
    """AV-HuBERT's recognizer: encoder, bridge between the two widths, and decoder.

    Args:
        encoder: Widths, depth and dropout of the encoder.
        decoder: The same of the decoder.
    """

    def __init__(self, encoder: EncoderConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        self.encoder = AVHubertEncoder(encoder)
        self.decoder = TransformerDecoder(decoder)
        self.bridge: nn.Module = nn.Identity()
        if encoder.dim != decoder.dim:
            self.bridge = nn.Linear(encoder.dim, decoder.dim)
            nn.init.normal_(self.bridge.weight, std=1 / math.sqrt(encoder.dim))

    def encode(
        self, audio: Tensor | None, video: Tensor | None, padding_mask: Tensor | None = None
    ) -> EncoderOutput:
        """Encode a batch, see `AVHubertEncoder.forward`."""
        return self.encoder(audio, video, padding_mask)

    def fuse(self) -> AVRecognizer:
        """A copy for inference with a fused encoder; bridge and decoder do not change."""
        from avhubert_ext.models.fuse import fused

        return fused(self)

    def forward(
        self,
        audio: Tensor | None,
        video: Tensor | None,
        padding_mask: Tensor | None,
        prev_tokens: Tensor,
    ) -> Tensor:
        """Teacher-forced logits [B, L, V] of the token after each of prev_tokens [B, L]."""
        out = self.encode(audio, video, padding_mask)
        return self.decoder(prev_tokens, self.bridge(out.last_hidden_state), padding_mask)
