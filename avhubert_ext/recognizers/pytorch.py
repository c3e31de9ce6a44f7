"""Recognizers of both families in PyTorch, decoded in their fused form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avhubert_ext.checkpoints.description import describe
from avhubert_ext.checkpoints.model_file import ModelFile
from avhubert_ext.checkpoints.subwords import find_subwords
from avhubert_ext.data.dataset import Batch
from avhubert_ext.decoding.attention import cross_attention, search
from avhubert_ext.decoding.beam import BeamConfig, Hypothesis, JointConfig, SearchConfig
from avhubert_ext.decoding.joint import joint_search
from avhubert_ext.decoding.recognition import Recognition
from avhubert_ext.device import choose_device
from avhubert_ext.models.attention import MultiheadAttention
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.decoder import AVRecognizer, TransformerDecoder
from avhubert_ext.recognizers.base import Recognizer


class PyTorchRecognizer(Recognizer):
    """A network in PyTorch, fused; it runs on the device of its weights."""

    def __init__(
        self,
        network: AVRecognizer | CTCAttentionRecognizer,
        symbols: list[str],
        settings: BeamConfig | JointConfig,
    ) -> None:
        """The network must be in eval mode; it is copied, not changed."""
        super().__init__(describe(network), symbols, settings)
        self.network = network.fuse()

    @torch.no_grad()
    def search(self, batch: Batch) -> list[list[Hypothesis]]:
        inputs = batch.to(self._device)
        memory, ctc = self._encode(inputs.audio, inputs.video, inputs.padding_mask)
        return self._search(memory, ctc, inputs.padding_mask)

    @torch.no_grad()
    def _recognize(self, audio: np.ndarray | None, video: np.ndarray | None) -> Recognition:
        if audio is not None:
            audio = audio.reshape(1, -1) if self.waveform else audio.T
        pixels = None if video is None else video[None]
        memory, ctc = self._encode(self._tensor(audio), self._tensor(pixels), None)
        best = self._search(memory, ctc, None)[0][0]
        log_probs, attention = explain(self.network.decoder, memory, best.tokens)
        frames = None if ctc is None else ctc[0].cpu().numpy()
        return self._recognition(best, log_probs, attention, frames)

    def _encode(
        self, audio: Tensor | None, video: Tensor | None, padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The decoder's memory [B, T, D], and CTC's log probabilities [B, T, V] or None."""
        if isinstance(self.network, CTCAttentionRecognizer):
            memory, _ = self.network.encode(video, padding_mask, audio)
            return memory, self.network.ctc_log_probs(memory)
        encoded = self.network.encode(audio, video, padding_mask).last_hidden_state
        return self.network.bridge(encoded), None

    def _search(
        self, memory: Tensor, ctc: Tensor | None, padding_mask: Tensor | None
    ) -> list[list[Hypothesis]]:
        decoder, settings = self.network.decoder, self.settings
        if isinstance(settings, BeamConfig):
            return search(decoder, memory, padding_mask, settings)
        assert ctc is not None, "models with these settings have a CTC layer"
        return joint_search(decoder, ctc, memory, padding_mask, settings)

    @property
    def _device(self) -> torch.device:
        return self.network.decoder.embed_tokens.weight.device

    def _tensor(self, array: np.ndarray | None) -> Tensor | None:
        """[...] -> [1, ...], on the network's device."""
        if array is None:
            return None
        return torch.from_numpy(np.ascontiguousarray(array))[None].to(self._device)


def open_checkpoint(
    path: Path,
    dictionary: Path | None,
    search: SearchConfig,
    device: str,
    threads: int | None,
) -> PyTorchRecognizer:
    """See `Recognizer.from_file`."""
    if threads is not None:
        torch.set_num_threads(threads)
    file = ModelFile(path)
    network = file.recognizer().to(choose_device(device))
    ctc = isinstance(network, CTCAttentionRecognizer)
    settings = search.applied_to(JointConfig() if ctc else BeamConfig(), path)
    return PyTorchRecognizer(network, find_subwords(file, dictionary), settings)


@torch.no_grad()
def explain(
    decoder: TransformerDecoder, memory: Tensor, tokens: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute how the decoder scores each token of a hypothesis, and what it attends to.

    Args:
        decoder: The decoder.
        memory: What it attends to for one clip, [1, T, D].
        tokens: U ids; the last one ends the sentence, and also begins it.

    Returns:
        The log probability of each token given those before it, float32 [U], and the attention to
        each frame when it was chosen, float32 [U, T], the mean over layers and heads.
    """
    looks: list[Tensor] = []

    def look(attention: MultiheadAttention, inputs: tuple) -> None:
        query, (keys, _), *_ = inputs
        looks.append(attention.weights(query, keys)[0].mean(dim=0))

    hooks = [a.register_forward_pre_hook(look) for a in cross_attention(decoder)]
    try:
        chosen = torch.tensor([tokens], device=memory.device)
        logits = decoder(chosen.roll(1, dims=1), memory)
    finally:
        for hook in hooks:
            hook.remove()
    log_probs = logits.float().log_softmax(dim=-1).gather(2, chosen[..., None])[0, :, 0]
    return log_probs.cpu().numpy(), torch.stack(looks).mean(dim=0).float().cpu().numpy()
