"""Recognizers of both families in PyTorch, for one clip at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from avhubert_ext.decoding.attention import search
from avhubert_ext.decoding.beam import BeamConfig, Hypothesis, JointConfig
from avhubert_ext.decoding.joint import joint_search
from avhubert_ext.decoding.recognition import Recognition, network_inputs
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.decoder import AVRecognizer, TransformerDecoder


class AVHubert:
    """A recognizer of AV-HuBERT's family."""

    modalities = ("both", "audio", "video")

    def __init__(self, model: AVRecognizer, pieces: list[str], beam: BeamConfig) -> None:
        """pieces: what the outputs stand for. The encoder is fused; `model` is left as it is."""
        self.encoder, self.bridge, self.decoder = model.encoder.fuse(), model.bridge, model.decoder
        self.pieces = pieces
        self.beam = beam

    @torch.no_grad()
    def recognize(self, audio: np.ndarray | None, video: np.ndarray | None) -> Recognition:
        """See `Recognizer`."""
        features, pixels = network_inputs(audio, video, self.modalities)
        device = self.decoder.embed_tokens.weight.device
        heard = None if features is None else _tensor(features.T, device)
        encoded = self.encoder(heard, _clip(pixels, device)).last_hidden_state
        memory = self.bridge(encoded)
        best = search(self.decoder, memory, None, self.beam)[0][0]
        log_probs, attention = explain(self.decoder, memory, best.tokens)
        return _recognition(self.pieces, best, log_probs, attention=attention[:-1])


class CTCAttention:
    """A recognizer of Auto-AVSR's family; it takes what it was built for and no other."""

    def __init__(self, model: CTCAttentionRecognizer, pieces: list[str], beam: JointConfig) -> None:
        """pieces: what the outputs stand for. `model` is left as it is."""
        self.model = model.fuse()
        self.modalities = (model.encoder.config.modality,)
        self.pieces = pieces
        self.beam = beam

    @torch.no_grad()
    def recognize(self, audio: np.ndarray | None, video: np.ndarray | None) -> Recognition:
        """See `Recognizer`."""
        samples, pixels = network_inputs(audio, video, self.modalities, waveform=True)
        device = self.model.ctc.weight.device
        heard = None if samples is None else _tensor(samples.reshape(1, -1), device)
        memory, _ = self.model.encode(_clip(pixels, device), None, heard)
        ctc = self.model.ctc_log_probs(memory)
        best = joint_search(self.model.decoder, ctc, memory, None, self.beam)[0][0]
        log_probs, _ = explain(self.model.decoder, memory, best.tokens)
        return _recognition(self.pieces, best, log_probs, ctc=ctc[0].cpu().numpy())


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """[...] -> [1, ...]."""
    return torch.from_numpy(np.ascontiguousarray(array))[None].to(device)


def _clip(pixels: np.ndarray | None, device: torch.device) -> Tensor | None:
    """[T, 88, 88] -> [1, 1, T, 88, 88]."""
    return None if pixels is None else _tensor(pixels[None], device)


def _recognition(
    pieces: list[str], best: Hypothesis, log_probs: np.ndarray, **timing: np.ndarray
) -> Recognition:
    tokens = best.tokens[:-1]
    return Recognition(
        tuple(pieces[token] for token in tokens), tokens, best.score, log_probs[:-1], **timing
    )


@torch.no_grad()
def explain(
    decoder: TransformerDecoder, memory: Tensor, tokens: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """How a decoder came to a hypothesis over the memory [1, T, D] of a clip.

    tokens: U ids, the last the end of the sentence, which also begins one. Returns the log
    probability of each after those before it, float32 [U], and how much the decoder looked at each
    frame when it chose it, float32 [U, T], the mean over layers and heads.
    """
    looks: list[Tensor] = []

    def look(attention: nn.Module, inputs: tuple) -> None:
        query, (keys, _), *_ = inputs
        looks.append(attention.weights(query, keys)[0].mean(dim=0))

    hooks = [layer.encoder_attn.register_forward_pre_hook(look) for layer in decoder.layers]
    try:
        chosen = torch.tensor([tokens], device=memory.device)
        logits = decoder(chosen.roll(1, dims=1), memory)
    finally:
        for hook in hooks:
            hook.remove()
    log_probs = logits.float().log_softmax(dim=-1).gather(2, chosen[..., None])[0, :, 0]
    return log_probs.cpu().numpy(), torch.stack(looks).mean(dim=0).float().cpu().numpy()
