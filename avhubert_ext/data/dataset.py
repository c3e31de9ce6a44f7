"""From a manifest to padded batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avhubert_ext.data.audio import audio_features, load_audio
from avhubert_ext.data.batching import PassIndex
from avhubert_ext.data.cache import load_video_cached
from avhubert_ext.data.manifest import Utterance, read_lines, read_manifest
from avhubert_ext.data.noise import NoiseConfig, NoiseMixer, hashed_generator
from avhubert_ext.data.video import CROP, centre_crop, normalise, random_crop_and_flip
from avhubert_ext.errors import InputError

MODALITIES = {"both": (True, True), "audio": (True, False), "video": (False, True)}


@dataclass(frozen=True)
class DataConfig:
    """How utterances are read.

    modalities: both, audio or video. augment: random crop and flip (training).
    noise: acoustic noise to add, or None. cache: folder for decoded frames, or None.
    max_frames: longer utterances are cut to a random window of this many frames; None keeps all.
    seed, pass_index: the draws follow from them and the utterance id alone.
    """

    modalities: str = "both"
    augment: bool = False
    noise: NoiseConfig | None = None
    cache: Path | None = None
    max_frames: int | None = None
    seed: int = 1
    pass_index: int = 0

    def __post_init__(self) -> None:
        if self.modalities not in MODALITIES:
            raise InputError(f"modalities '{self.modalities}': expected both, audio or video")


@dataclass(frozen=True)
class Sample:
    """One utterance: audio [104, T], video [1, T, 88, 88] (None where not used), T frames."""

    audio: Tensor | None
    video: Tensor | None
    frames: int


@dataclass(frozen=True)
class Batch:
    """Utterances padded with zeros to the longest; padding_mask [B, T] is True at padding."""

    audio: Tensor | None
    video: Tensor | None
    padding_mask: Tensor


class AVDataset(torch.utils.data.Dataset[Sample]):
    """The utterances of `folder/split.tsv`."""

    def __init__(self, folder: Path, split: str, config: DataConfig) -> None:
        self.utterances = read_manifest(folder / f"{split}.tsv")
        self.config = config
        self.mixer = NoiseMixer(config.noise, split, config.seed) if config.noise else None

    def __len__(self) -> int:
        return len(self.utterances)

    def set_pass(self, index: int) -> None:
        """The epoch (or evaluation pass) that the random draws belong to."""
        self.config = replace(self.config, pass_index=index)

    def frames(self) -> np.ndarray:
        """int64 [N]: the length of each utterance as it is read, in video frames."""
        lengths = np.array([u.frames for u in self.utterances])
        limit = self.config.max_frames
        return lengths if limit is None else np.minimum(lengths, limit)

    def __getitem__(self, index: int | PassIndex) -> Sample:
        """Utterance `index`, or `(pass, index)`: the pass fixes the random draws."""
        pass_index, index = index if isinstance(index, tuple) else (self.config.pass_index, index)
        utterance = self.utterances[index]
        c = self.config
        rng = hashed_generator("crop", c.seed, utterance.id, pass_index)
        use_audio, use_video = MODALITIES[c.modalities]
        video = load_video_cached(utterance.video, c.cache) if use_video else None
        n_frames = utterance.frames if video is None else len(video)
        audio = self._audio(utterance, n_frames, pass_index) if use_audio else None
        if c.max_frames is not None and n_frames > c.max_frames:
            start = int(rng.integers(n_frames - c.max_frames + 1))
            window = slice(start, start + c.max_frames)
            n_frames = c.max_frames
            audio = None if audio is None else audio[window]
            video = None if video is None else video[window]
        return Sample(
            None if audio is None else torch.from_numpy(np.ascontiguousarray(audio.T)),
            None if video is None else self._video(utterance, video, rng),
            n_frames,
        )

    def _audio(self, utterance: Utterance, n_frames: int, pass_index: int) -> np.ndarray:
        waveform = load_audio(utterance.audio)
        if self.mixer is not None:
            waveform = self.mixer(utterance.id, waveform, pass_index)
        return audio_features(waveform, n_frames=n_frames)

    def _video(self, utterance: Utterance, frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        if min(frames.shape[1:]) < CROP:
            raise InputError(
                f"{utterance.video}: frames are {frames.shape[1]}x{frames.shape[2]}, expected at "
                f"least {CROP}x{CROP}: crop the mouth region to 96x96 first"
            )
        cropped = random_crop_and_flip(frames, rng) if self.config.augment else centre_crop(frames)
        return torch.from_numpy(normalise(cropped))[None]


def collate(samples: list[Sample]) -> Batch:
    """Pad with zeros (in normalised space) to the longest utterance."""
    longest = max(s.frames for s in samples)
    padding_mask = torch.arange(longest)[None] >= torch.tensor([s.frames for s in samples])[:, None]
    audio = video = None
    if samples[0].audio is not None:
        audio = torch.zeros(len(samples), samples[0].audio.shape[0], longest)
        for row, sample in zip(audio, samples, strict=True):
            row[:, : sample.frames] = sample.audio
    if samples[0].video is not None:
        video = torch.zeros(len(samples), 1, longest, CROP, CROP)
        for row, sample in zip(video, samples, strict=True):
            row[:, : sample.frames] = sample.video
    return Batch(audio, video, padding_mask)


def read_transcripts(folder: Path, split: str, utterances: list[Utterance]) -> list[str]:
    """The lines of `split.wrd`, checked against the manifest: same number, none empty."""
    path = folder / f"{split}.wrd"
    lines = read_lines(path)
    if len(lines) != len(utterances):
        raise InputError(
            f"{path} has {len(lines)} transcripts, {folder / split}.tsv {len(utterances)} "
            "utterances: make both with the same `avhubert-ext prepare`"
        )
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise InputError(f"{path} line {number}: the transcript is empty; remove the utterance")
    return lines
