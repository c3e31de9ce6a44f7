"""Clips for calibrating the 8-bit activations of frontends."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avhubert_ext.checkpoints.description import RecognizerNetwork
from avhubert_ext.data.dataset import AVDataset, DataConfig, Sample
from avhubert_ext.models.conformer import CTCAttentionRecognizer

CLIPS = 32


def calibration_clips(
    folder: Path, split: str, model: RecognizerNetwork
) -> dict[str, list[np.ndarray]]:
    """Read inputs of the convolutional frontends from 32 clips, spread over a manifest.

    Args:
        folder: Manifest folder.
        split: Name of the manifest.
        model: The recognizer, whose streams are read.

    Returns:
        Frontend (video, audio) -> inputs.

    Raises:
        InputError: If a clip cannot be read.
    """
    if not isinstance(model, CTCAttentionRecognizer):
        return {
            "video": [_video(sample) for sample in _samples(folder, split, DataConfig("video"))]
        }
    config = DataConfig(model.encoder.config.modality, waveform=True)
    samples = _samples(folder, split, config)
    clips: dict[str, list[np.ndarray]] = {}
    if samples[0].video is not None:
        clips["video"] = [_video(sample) for sample in samples]
    if samples[0].audio is not None:
        clips["audio"] = [s.audio.reshape(1, s.frames, -1).numpy() for s in samples]
    return clips


def _samples(folder: Path, split: str, config: DataConfig) -> list[Sample]:
    dataset = AVDataset(folder, split, config)
    places = np.unique(np.linspace(0, len(dataset) - 1, CLIPS).astype(int))
    return [dataset[place] for place in places.tolist()]


def _video(sample: Sample) -> np.ndarray:
    return sample.video[None].numpy()
