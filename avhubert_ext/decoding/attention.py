"""Beam search over a recognizer: batched, with cached keys and values, on any device.

It finds what fairseq 0.12's SequenceGenerator finds, but for the limit of the length: here each
utterance has its own, so that its result does not depend on what else is in the batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from avhubert_ext.data.text import EOS, PAD
from avhubert_ext.decoding.beam import BeamConfig, Hypothesis, sort_hypotheses
from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import AVRecognizer, DecoderCache, TransformerDecoder


@torch.no_grad()
def beam_search(
    model: AVRecognizer,
    audio: Tensor | None,
    video: Tensor | None,
    padding_mask: Tensor | None,
    config: BeamConfig,
) -> list[list[Hypothesis]]:
    """The hypotheses of each utterance, best first; inputs as `AVHubertEncoder.forward`.

    Raises InputError if the model is in training mode, the inputs do not fit, or nothing is found.
    """
    check_not_training(model)
    memory = model.bridge(model.encode(audio, video, padding_mask).last_hidden_state)
    return search(model.decoder, memory, padding_mask, config)


def check_not_training(model: nn.Module) -> None:
    """Raise an InputError for a model in training mode."""
    if model.training:
        raise InputError("the model is in training mode, where dropout is on: call model.eval()")


@torch.no_grad()
def search(
    decoder: TransformerDecoder, memory: Tensor, padding_mask: Tensor | None, config: BeamConfig
) -> list[list[Hypothesis]]:
    """As `beam_search`, from what the encoder and the bridge made.

    memory: [B, T, D]; padding_mask: [B, T] bool, True = padding, or None.
    """
    batch, frames, _ = memory.shape
    lengths = [frames] * batch if padding_mask is None else (~padding_mask).sum(dim=1).tolist()
    limits = [config.limit(length) for length in lengths]
    beam = min(config.beam, decoder.config.vocabulary - 1)
    found: list[list[Hypothesis]] = [[] for _ in range(batch)]
    active = list(range(batch))  # utterances that are still extended, by their place in the batch
    # As in fairseq the end of a sentence also begins one. One hypothesis an utterance to begin
    # with: the first step makes `beam` different ones of it.
    tokens = torch.full((batch, 1, 1), EOS, device=memory.device)  # [active, hypotheses, length]
    sums = torch.zeros(batch, 1, device=memory.device)
    rows = DecoderRows(decoder, memory, padding_mask)
    for step in range(max(limits) + 1):
        log_probs = rows.log_probs(tokens[:, :, -1])
        last = [place for place, utterance in enumerate(active) if step == limits[utterance]]
        forbid(log_probs, step < config.min_len, last)
        sums, parents, chosen = candidates(sums, log_probs, 2 * beam)

        # Twice as many candidates as needed, for `beam` of them at most end and are not extended.
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
    """Set to -inf, in place, what may not come next: `log_probs` [B, K, V].

    Never NaN and padding; not the end if `too_short`; nothing else for the utterances `last`.
    """
    log_probs.masked_fill_(log_probs.isnan(), -math.inf)
    log_probs[..., PAD] = -math.inf
    if too_short:
        log_probs[..., EOS] = -math.inf
    if last:
        log_probs[last, :, :EOS] = -math.inf
        log_probs[last, :, EOS + 1 :] = -math.inf


def candidates(sums: Tensor, log_probs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best extensions of each utterance's hypotheses, best first.

    sums: [B, K], log probabilities of the hypotheses; log_probs: [B, K, V], of each next token.
    Returns sums, hypotheses extended and tokens, each [B, count], or less if there are not so many.
    """
    vocabulary = log_probs.shape[2]
    extended = (sums[..., None] + log_probs).flatten(1)
    best, index = extended.topk(min(count, extended.shape[1] - 1))
    return best, index // vocabulary, index % vocabulary


class DecoderRows:
    """The decoder and its cache with a row for each hypothesis, those of an utterance together."""

    def __init__(
        self, decoder: TransformerDecoder, memory: Tensor, padding_mask: Tensor | None
    ) -> None:
        """A row an utterance."""
        self.decoder = decoder
        self.memory = memory
        self.padding = padding_mask
        self.shape = (len(memory), 1)  # utterances, hypotheses of each
        self.cache = DecoderCache()
        for i, layer in enumerate(decoder.layers):
            self.cache.encoder_attention[i] = layer.encoder_attn.project_memory(memory)

    def log_probs(self, tokens: Tensor) -> Tensor:
        """float32 [B, K, V] of what comes after the newest `tokens` [B, K]."""
        # The keys and values of the memory are cached: the memory itself is not looked at.
        logits = self.decoder(tokens.reshape(-1, 1), self.memory, self.padding, self.cache)
        return logits.float().log_softmax(dim=-1).view(*tokens.shape, -1)

    def extend(self, utterances: Tensor, parents: Tensor) -> None:
        """Keep `utterances` [B'] and of each the hypotheses `parents` [B', K'], some repeatedly."""
        # The rows of an utterance see the same memory: its keys and values, most of the cache, are
        # copied only where the number of utterances or of their rows changes.
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
    """[B, ...] -> [B * times, ...], each row repeated; no copy is made of a single row."""
    return x[:, None].expand(-1, times, *x.shape[1:]).flatten(0, 1)
