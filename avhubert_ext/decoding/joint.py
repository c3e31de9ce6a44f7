"""Joint beam search over decoder and CTC: batched, cached, on any device.

It finds the same hypotheses as ESPnet's BatchBeamSearch with Auto-AVSR's settings, except
impossible ones (see `joint_search`). Of the V units, 0 is CTC's blank and V - 1 begins and ends a
sentence.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from avhubert_ext.decoding.attention import DecoderRows, check_not_training
from avhubert_ext.decoding.beam import Hypothesis, JointConfig, settled, sort_hypotheses
from avhubert_ext.decoding.ctc import CTCPrefixScorer
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.decoder import TransformerDecoder


@torch.no_grad()
def joint_beam_search(
    model: CTCAttentionRecognizer,
    audio: Tensor | None,
    video: Tensor | None,
    padding_mask: Tensor | None,
    config: JointConfig,
) -> list[list[Hypothesis]]:
    """Decode a batch of B utterances of up to T frames.

    Args:
        model: The recognizer, in eval mode.
        audio: Waveforms [B, 1, 640 T], or None.
        video: [B, 1, T, 88, 88], or None. The model's configuration says which streams it takes.
        padding_mask: [B, T] bool, True = padding, or None.
        config: Settings of the search.

    Returns:
        The hypotheses of each utterance, best first.

    Raises:
        InputError: If the model is in training mode, the inputs do not fit it, or an utterance
            has no hypothesis with a finite score.
    """
    check_not_training(model)
    encoded, _ = model.encode(video, padding_mask, audio)
    log_probs = model.ctc_log_probs(encoded)
    return joint_search(model.decoder, log_probs, encoded, padding_mask, config)


@torch.no_grad()
def joint_search(
    decoder: TransformerDecoder,
    ctc_log_probs: Tensor,
    memory: Tensor,
    padding_mask: Tensor | None,
    config: JointConfig,
) -> list[list[Hypothesis]]:
    """Decode a batch from the outputs of the encoder and the CTC layer.

    An utterance of T frames gets at most T tokens; hypotheses of that length end at no cost, as in
    ESPnet. Hypotheses that are too long for CTC to align are left out: ESPnet returns them when it
    runs out of others, with meaningless scores (they may even rank first).

    Args:
        decoder: The decoder.
        ctc_log_probs: [B, T, V].
        memory: What the decoder attends to, [B, T, D].
        padding_mask: [B, T] bool, True = padding, or None.
        config: Settings of the search.

    Returns:
        The hypotheses of each utterance, best first.

    Raises:
        InputError: If the shapes do not match, or an utterance has no hypothesis with a finite
            score.
    """
    check_shapes(decoder, ctc_log_probs, memory)
    batch, frames, vocabulary = ctc_log_probs.shape
    end = vocabulary - 1
    limits = [frames] * batch if padding_mask is None else (~padding_mask).sum(dim=1).tolist()
    found: list[list[Hypothesis]] = [[] for _ in range(batch)]
    active = list(range(batch))  # indices of the utterances that are still being extended
    tokens = torch.full((batch, 1, 1), end, device=memory.device)  # [active, hypotheses, length]
    rows = _JointRows(decoder, ctc_log_probs, memory, padding_mask, config)
    for step in range(max(limits)):
        scores, sums, parents, chosen = rows.candidates(tokens[:, :, -1])
        ends = chosen == end
        ends[[place for place, utterance in enumerate(active) if step + 1 == limits[utterance]]] = (
            True
        )
        places, ranks = (ends & (scores > -math.inf)).nonzero(as_tuple=True)
        texts = tokens[places, parents[places, ranks], 1:].tolist()
        news, values = chosen[places, ranks].tolist(), scores[places, ranks].tolist()
        for place, text, new, score in zip(places.tolist(), texts, news, values, strict=True):
            text = [*text, end] if new == end else [*text, new, end]
            found[active[place]].append(Hypothesis(tuple(text), score))

        scores = scores.masked_fill(ends, -math.inf)
        running = (scores > -math.inf).sum(dim=1).tolist()
        kept = [
            place
            for place, utterance in enumerate(active)
            if running[place] and not settled(found[utterance], step)
        ]
        if not kept:
            break
        # A single utterance's rows share its memory and may shrink in number. Several utterances
        # have copies of theirs: the number of rows stays, and some rows hold no hypothesis.
        width = running[kept[0]] if len(kept) == 1 else scores.shape[1]
        left = torch.tensor(kept, device=memory.device)
        scores, ranks = scores[left].topk(width)
        sums, parents, chosen = (x[left].gather(1, ranks) for x in (sums, parents, chosen))
        tokens = torch.cat([tokens[left[:, None], parents], chosen[..., None]], dim=2)
        rows.extend(left, parents, chosen, sums.masked_fill(scores == -math.inf, -math.inf))
        active = [active[place] for place in kept]
    return [hypotheses[: config.beam] for hypotheses in sort_hypotheses(found)]


def check_shapes(decoder: TransformerDecoder, ctc_log_probs: Tensor, memory: Tensor) -> None:
    """Raise an InputError unless there is one CTC probability per unit and frame."""
    expected = (*memory.shape[:2], decoder.config.vocabulary)
    if ctc_log_probs.shape != expected:
        raise InputError(
            f"CTC's log probabilities have the shape {tuple(ctc_log_probs.shape)}, expected "
            f"{expected}: the memory's frames and the decoder's units"
        )


class _JointRows:
    """The states of decoder and CTC for the hypotheses of each utterance."""

    def __init__(
        self,
        decoder: TransformerDecoder,
        ctc_log_probs: Tensor,
        memory: Tensor,
        padding_mask: Tensor | None,
        config: JointConfig,
    ) -> None:
        """Start with one empty hypothesis per utterance; a part with weight 0 is skipped."""
        self.config = config
        self.vocabulary = decoder.config.vocabulary
        self.count = config.options(self.vocabulary)
        self.decoder = DecoderRows(decoder, memory, padding_mask) if config.ctc_weight < 1 else None
        self.ctc = CTCPrefixScorer(ctc_log_probs, padding_mask) if config.ctc_weight > 0 else None
        # The decoder's log probabilities of the hypotheses, [B, K]; -inf for empty rows.
        self.sums = torch.zeros(len(memory), 1, dtype=torch.float64, device=memory.device)

    def candidates(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Find the best extensions of the hypotheses that end with `tokens` [B, K].

        Returns:
            Weighted scores (-inf for impossible extensions), the decoder's sums, the hypotheses
            that are extended, and the new tokens; each [B, beam] or smaller, best first.
        """
        sums, options = self._options(tokens)
        scores = sums
        if self.ctc is not None:
            weight = self.config.ctc_weight
            ctc_scores = self.ctc.scores(options if self.count < self.vocabulary else None)
            scores = (1 - weight) * sums + weight * ctc_scores
        scores = scores.masked_fill(scores.isnan(), -math.inf).flatten(1)
        scores, index = scores.topk(min(self.config.beam, scores.shape[1]))
        sums, chosen = (x.flatten(1).gather(1, index) for x in (sums, options))
        return scores, sums, index // options.shape[2], chosen

    def _options(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's sums for the P candidate tokens, and those tokens, [B, K, P]."""
        if self.decoder is None:
            log_probs = self.sums.new_zeros(*tokens.shape, self.vocabulary)
        else:
            log_probs = self.decoder.log_probs(tokens)
        if self.count == self.vocabulary:
            options = torch.arange(self.vocabulary, device=tokens.device).expand_as(log_probs)
            return self.sums[..., None] + log_probs, options
        best, options = log_probs.topk(self.count)
        # The end of the sentence is always a candidate, but only once.
        end = self.vocabulary - 1
        best = torch.cat([best.masked_fill(options == end, -math.inf), log_probs[..., -1:]], dim=2)
        return self.sums[..., None] + best, F.pad(options, (0, 1), value=end)

    def extend(self, utterances: Tensor, parents: Tensor, tokens: Tensor, sums: Tensor) -> None:
        """Keep `utterances` [B'] and extend `parents` of each by `tokens`, all else [B', K']."""
        self.sums = sums
        if self.decoder is not None:
            self.decoder.extend(utterances, parents)
        if self.ctc is not None:
            self.ctc.extend(utterances, parents, tokens)
