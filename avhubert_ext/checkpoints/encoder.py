"""The encoder in any model file."""

from __future__ import annotations

from pathlib import Path

from avhubert_ext.checkpoints.model_file import load_model
from avhubert_ext.device import choose_device
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.models.encoder import AVHubertEncoder


def load(path: Path | str, *, device: str = "auto") -> AVHubertEncoder | ConformerEncoder:
    """Load the encoder in any encoder or recognizer file.

    Args:
        path: `.safetensors` of this project; `.pt` of this project's fairseq plugin or of the
            official AV-HuBERT, pretrained or finetuned; s3prl's `.ckpt`; `.pth` of Auto-AVSR. A
            decoder and prediction heads are left out.
        device: "auto" (the first CUDA GPU, or the CPU if there is none), "cpu", "cuda", "cuda:N"
            or "mps".

    Returns:
        The encoder in eval mode, float32.

    Raises:
        InputError: If the file is missing, damaged, or not a model, or the device does not exist.
    """
    model = load_model(path)
    encoder = model if isinstance(model, AVHubertEncoder) else model.encoder
    assert isinstance(encoder, AVHubertEncoder | ConformerEncoder)
    return encoder.to(choose_device(device))
