"""Attention beam search: batched, with cached keys and values, on any device.

It finds the same hypotheses as fairseq 0.12's SequenceGenerator, except that the length limit is
per utterance here, so that a result does not depend on the rest of the batch.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from avhubert_ext.data.text import EOS, PAD
from avhubert_ext.decoding.beam import BeamConfig, Hypothesis, sort_hypotheses
from avhubert_ext.errors import InputError
from avhubert_ext.models.attention import MultiheadAttention
from avhubert_ext.models.decoder import AVRecognizer, DecoderCache, TransformerDecoder


@torch.no_grad()
def beam_search(
    model: AVRecognizer,
    audio: Tensor | None,
    video: Tensor | None,
    padding_mask: Tensor | None,
    config: BeamConfig,
) -> list[list[Hypothesis]]:
    """Decode a batch of B utterances of up to T frames.

    Args:
        model: The recognizer, in eval mode.
        audio: Features [B, 104, T], or None.
        video: [B, 1, T, 88, 88], or None.
        padding_mask: [B, T] bool, True = padding, or None.
        config: Settings of the search.

    Returns:
        The hypotheses of each utterance, best first.

    Raises:
        InputError: If the model is in training mode, the inputs do not fit it, or an utterance
            has no hypothesis with a finite score.
    """
    check_not_training(model)
    memory = model.bridge(model.encode(audio, video, padding_mask).last_hidden_state)
    return search(model.decoder, memory, padding_mask, config)


def check_not_training(model: nn.Module) -> None:
    """Raise an InputError for a model in training mode."""
    if model.training:
        raise InputError("the model is in training mode, with dropout on: call model.eval()")


@torch.no_grad()
def search(
    decoder: TransformerDecoder, memory: Tensor, padding_mask: Tensor | None, config: BeamConfig
) -> list[list[Hypothesis]]:
    """Decode a batch from the outputs of the encoder and the bridge.

    Args:
        decoder: The decoder.
        memory: What it attends to, [B, T, D].
        padding_mask: [B, T] bool, True = padding, or None.
        config: Settings of the search.

    Returns:
        The hypotheses of each utterance, best first.

    Raises:
        InputError: If an utterance has no hypothesis with a finite score.
    """
    batch, frames, _ = memory.shape
    lengths = [frames] * batch if padding_mask is None else (~padding_mask).sum(dim=1).tolist()
    limits = [config.limit(length) for length in lengths]
    beam = min(config.beam, decoder.config.vocabulary - 1)
    found: list[list[Hypothesis]] = [[] for _ in range(batch)]
    active = list(range(batch))  # indices of the utterances that are still being extended
    # As in fairseq, the end of a sentence also begins one. Each utterance starts with a single
    # hypothesis, which the first step extends to `beam` different ones.
    tokens = torch.full((batch, 1, 1), EOS, device=memory.device)  # [active, hypotheses, length]
    sums = torch.zeros(batch, 1, device=memory.device)
    rows = DecoderRows(decoder, memory, padding_mask)
    for step in range(max(limits) + 1):
        log_probs = rows.log_probs(tokens[:, :, -1])
        last = [place for place, utterance in enumerate(active) if step == limits[utterance]]
        forbid(log_probs, step < config.min_len, last)
        sums, parents, chosen = candidates(sums, log_probs, 2 * beam)

        # Twice as many candidates as needed: at most `beam` of them end and are not extended.
        ends = chosen == EOS
        places, ranks = (ends & (sums > -math.inf))[:, :beam].nonzero(as_tuple=True)
        texts = tokens[places, parents[places, ranks], 1:].tolist()
        scores = (sums[places, ranks] / (step + 1) ** config.length_penalty).tolist()
        for place, text, score in zip(places.tolist(), texts, scores, strict=True):
            if len(found[active[place]]) < beam:
                found[active[place]].append(Hypothesis((*text, EOS), score))

        kept = [
            place
            for place, utterance in enumerate(active)
            if place not in last and len(found[utterance]) < beam
        ]
        if not kept:
            break
        left = torch.tensor(kept, device=memory.device)
        sums, ranks = sums.masked_fill(ends, -math.inf)[left].topk(beam)
        parents, chosen = parents[left].gather(1, ranks), chosen[left].gather(1, ranks)
        tokens = torch.cat([tokens[left[:, None], parents], chosen[..., None]], dim=2)
        rows.extend(left, parents)
        active = [active[place] for place in kept]
    return sort_hypotheses(found)


def forbid(log_probs: Tensor, too_short: bool, last: list[int]) -> None:
    """Set the log probabilities [B, K, V] of forbidden tokens to -inf, in place.

    NaN and padding are always forbidden, the end of the sentence if `too_short`, and everything
    but the end for the utterances `last`.
    """
    log_probs.masked_fill_(log_probs.isnan(), -math.inf)
    log_probs[..., PAD] = -math.inf
    if too_short:
        log_probs[..., EOS] = -math.inf
    if last:
        log_probs[last, :, :EOS] = -math.inf
        log_probs[last, :, EOS + 1 :] = -math.inf


def candidates(sums: Tensor, log_probs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the best extensions of each utterance's hypotheses.

    Args:
        sums: Log probabilities of the hypotheses, [B, K].
        log_probs: Log probabilities of each next token, [B, K, V].
        count: How many extensions to return.

    Returns:
        Their sums, the hypotheses that are extended, and the new tokens; each [B, count] or
        smaller, best first.
    """
    vocabulary = log_probs.shape[2]
    extended = (sums[..., None] + log_probs).flatten(1)
    best, index = extended.topk(min(count, extended.shape[1] - 1))
    return best, index // vocabulary, index % vocabulary


def cross_attention(decoder: TransformerDecoder) -> list[MultiheadAttention]:
    """Return each layer's attention to the memory."""
    return [cast(MultiheadAttention, layer.encoder_attn) for layer in decoder.layers]


class DecoderRows:
    """The decoder and its cache, with one row per hypothesis, grouped by utterance."""

    def __init__(
        self, decoder: TransformerDecoder, memory: Tensor, padding_mask: Tensor | None
    ) -> None:
        """Start with one row per utterance."""
        self.decoder = decoder
        self.memory = memory
        self.padding = padding_mask
        self.shape: tuple[int, ...] = (len(memory), 1)  # utterances, hypotheses of each
        self.cache = DecoderCache()
        for i, attention in enumerate(cross_attention(decoder)):
            self.cache.encoder_attention[i] = attention.project_memory(memory)

    def log_probs(self, tokens: Tensor) -> Tensor:
        """Return the log probabilities float32 [B, K, V] of what follows `tokens` [B, K]."""
        # The memory's keys and values are cached: the memory itself is not used.
        logits = self.decoder(tokens.reshape(-1, 1), self.memory, self.padding, self.cache)
        return logits.float().log_softmax(dim=-1).view(*tokens.shape, -1)

    def extend(self, utterances: Tensor, parents: Tensor) -> None:
        """Keep `utterances` [B'] and hypotheses `parents` [B', K'] of each, with repetitions."""
        # The rows of an utterance share its memory. Its keys and values, most of the cache, are
        # copied only when the number of utterances or of rows changes.
        memory, self.cache.encoder_attention = self.cache.encoder_attention, {}
        first = utterances * self.shape[1]
        self.cache.reorder((first[:, None] + parents).flatten())
        if parents.shape != self.shape:
            times = parents.shape[1]
            memory = {
                i: (_repeat(k[first], times), _repeat(v[first], times))
                for i, (k, v) in memory.items()
            }
            self.padding = None if self.padding is None else _repeat(self.padding[first], times)
            self.shape = parents.shape
        self.cache.encoder_attention = memory


def _repeat(x: Tensor, times: int) -> Tensor:
    """[B, ...] -> [B * times, ...], each row repeated; a single row is not copied."""
    return x[:, None].expand(-1, times, *x.shape[1:]).flatten(0, 1)
