"""The upstream that s3prl loads. The network and the features are the library's."""

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
from s3prl_upstream.upstream.avhubert_ext.clips import ClipInput, by_streams, read_clips


class UpstreamExpert(UpstreamBase):
    """An encoder for waveforms, video or both. It is in eval mode until s3prl trains it.

    There are gradients for the weights, not for the waveforms: the filter banks are computed
    outside of PyTorch.
    """

    def __init__(self, ckpt: Path | str) -> None:
        """Load an encoder.

        Args:
            ckpt: Any file that `load_avhubert` reads.

        Raises:
            InputError: The file is missing, damaged, or has no encoder.
        """
        super().__init__()
        self.model = load_avhubert(ckpt)
        self.eval()

    def get_downsample_rates(self, key: str) -> int:
        """The number of samples per frame at 16 kHz, the same for every hidden state."""
        return SAMPLES_PER_FRAME

    def forward(self, wavs: Sequence[ClipInput] | Tensor) -> dict[str, Any]:
        """Encode clips. The result for a clip does not depend on the others.

        Args:
            wavs: Waveforms, pairs (waveform, video) or a mixture of both, as for `read_clips`.

        Returns:
            `hidden_states`: the fused input, the residual stream after each block, and the output
            of the final layer norm; each [B, T, D], zero at padding. `last_hidden_state`: the last
            of them. `padding_mask`: bool [B, T], True at padding. If hooks were added with
            `add_hook`, s3prl collects the hidden states from these instead.

        Raises:
            InputError: A clip is invalid, or there are hooks and clips with different streams.
        """
        samples = read_clips(wavs)
        groups = by_streams(samples)
        if self.hooks and len(groups) > 1:
            raise InputError(
                "the list has clips with different streams, which hooks cannot handle: give each "
                "kind its own list, or remove the hooks"
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
        """The hidden states and the output, on the device and in the precision of the weights."""
        weight = self.model.layer_norm.weight
        audio = None if batch.audio is None else batch.audio.to(weight)
        video = None if batch.video is None else batch.video.to(weight)
        output = self.model(audio, video, batch.padding_mask.to(weight.device))
        return (*output.hidden_states, output.last_hidden_state)
