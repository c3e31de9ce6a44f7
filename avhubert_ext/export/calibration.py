"""Clips that show which values the activations of a frontend have."""

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
    """Inputs of the frontends that have convolutions, by name: 32 clips of a split, or all.

    They are spread over the manifest. Raises InputError for one that cannot be read.
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
