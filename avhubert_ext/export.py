"""Encoders in the form that other runtimes read."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from avhubert_ext.data.audio import FEATURES
from avhubert_ext.data.files import whole_file
from avhubert_ext.data.video import CROP
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.models.encoder import AVHubertEncoder

LONGEST = 10_000  # frames; the exporter wants a bound


class _LastState(nn.Module):
    """Audio and video of one length in, the last hidden state out."""

    def __init__(self, encoder: AVHubertEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return self.encoder(audio, video).last_hidden_state


def export_onnx(encoder: AVHubertEncoder | ConformerEncoder, path: Path) -> None:
    """Write the fused encoder as ONNX, float32: `audio` [B, 104, T] and `video` [B, 1, T, 88, 88]
    -> `last_hidden_state` [B, T, D], for any B and T, without padding.

    A lip reader of paper B takes `video` alone. Raises InputError if the packages of the extra
    `export` are missing, or for an encoder of waveforms.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError("onnx is missing: pip install 'avhubert-ext[export]'") from None
    model, inputs = _traceable(encoder)
    # A batch of one is a case of its own to the exporter, but what it writes is right for one too.
    batch = torch.export.Dim("batch", min=2, max=1000)
    frames = torch.export.Dim("frames", max=LONGEST)
    with _quiet(), whole_file(path) as temporary:
        torch.onnx.export(
            model,
            tuple(inputs.values()),
            temporary,
            input_names=list(inputs),
            output_names=["last_hidden_state"],
            dynamic_shapes=tuple({0: batch, 2: frames} for _ in inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _traceable(encoder: AVHubertEncoder | ConformerEncoder) -> tuple[nn.Module, dict[str, Tensor]]:
    """What maps example inputs to the last hidden state, and those by name."""
    fused = encoder.fuse().float()
    # Lengths other than 1, or the exporter takes them for constants.
    audio, video = torch.zeros(2, FEATURES, 25), torch.zeros(2, 1, 25, CROP, CROP)
    if isinstance(encoder, AVHubertEncoder):
        return _LastState(fused), {"audio": audio, "video": video}
    if encoder.config.modality != "video":
        raise InputError(f"encoders of {encoder.config.modality} are not exported, of video alone")
    return fused, {"video": video}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings about packages that nothing here uses."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
