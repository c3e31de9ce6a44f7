"""s3prl's contract for an upstream; the network and the features are the library's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from s3prl.upstream.interfaces import UpstreamBase
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from avhubert_ext.checkpoints.model_file import load_avhubert
from avhubert_ext.data.audio import SAMPLES_PER_FRAME
from avhubert_ext.data.dataset import Batch, collate
from avhubert_ext.errors import InputError
from s3prl_upstream.upstream.avhubert_ext.clips import Clip, by_streams, read_clips


class UpstreamExpert(UpstreamBase):
    """An encoder on waveforms, video or both; in eval mode until s3prl trains it.

    Gradients reach the weights, not the waveforms: the filter banks are computed outside PyTorch.
    """

    def __init__(self, ckpt: Path | str) -> None:
        """`ckpt`: any file that `load_avhubert` reads; raises its InputError."""
        super().__init__()
        self.model = load_avhubert(ckpt)
        self.eval()

    def get_downsample_rates(self, key: str) -> int:
        """Samples at 16 kHz for one frame, the same in every hidden state."""
        return SAMPLES_PER_FRAME

    def forward(self, wavs: Sequence[Clip] | Tensor) -> dict[str, Any]:
        """Encode a list of waveforms or pairs (waveform, video), see `read_clips`; they may mix.

        hidden_states: the fused input, the residual stream after each block, last the output of
            the final layer norm; each [B, T, D], zero at padding.
        last_hidden_state: the last of them. padding_mask: [B, T] bool, True = padding.
        With hooks of your own (`add_hook`) the hidden states are what these collect instead.
        Every clip's result is the same as alone. Raises InputError for clips it cannot encode.
        """
        samples = read_clips(wavs)
        groups = by_streams(samples)
        if self.hooks and len(groups) > 1:
            raise InputError(
                "clips with and without video, or audio, in one list: hooks see one kind at a "
                "time; give each kind its own list, or remove the hooks"
            )
        states_of: dict[int, list[Tensor]] = {}
        for group in groups:
            states = self._encode(collate([samples[index] for index in group]))
            for row, index in enumerate(group):
                states_of[index] = [s[row, : samples[index].frames] for s in states]
        if self.hooks:
            return {}
        clips = [states_of[index] for index in range(len(samples))]
        hidden_states = tuple(
            pad_sequence(list(s), batch_first=True) for s in zip(*clips, strict=True)
        )
        last = hidden_states[-1]
        frames = torch.tensor([s.frames for s in samples], device=last.device)
        padding_mask = torch.arange(last.shape[1], device=last.device) >= frames[:, None]
        return {
            "hidden_states": hidden_states,
            "last_hidden_state": last,
            "padding_mask": padding_mask,
        }

    def _encode(self, batch: Batch) -> tuple[Tensor, ...]:
        """The encoder's states, then its output, on the weights' device and in their precision."""
        weight = self.model.layer_norm.weight
        audio = None if batch.audio is None else batch.audio.to(weight)
        video = None if batch.video is None else batch.video.to(weight)
        output = self.model(audio, video, batch.padding_mask.to(weight.device))
        return (*output.hidden_states, output.last_hidden_state)
