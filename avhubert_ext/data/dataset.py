"""Read utterances of a manifest as samples, and pad them to batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avhubert_ext.data.audio import (
    FEATURES,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    audio_features,
    audio_length,
    load_audio,
    waveform_input,
)
from avhubert_ext.data.augment import mask_time, random_crop_and_flip
from avhubert_ext.data.batching import PassIndex
from avhubert_ext.data.cache import load_features_cached, load_video_cached
from avhubert_ext.data.corrupt import check_corrupt
from avhubert_ext.data.files import make_folder
from avhubert_ext.data.manifest import Utterance, read_lines, read_manifest
from avhubert_ext.data.noise import NoiseConfig, NoiseDraw, NoiseMixer, hashed_generator
from avhubert_ext.data.normalization import changes, normalize, read_text_config
from avhubert_ext.data.video import CROP, FPS, center_crop, check_in_step, normalize_pixels
from avhubert_ext.data.visual_noise import (
    VisualNoiseConfig,
    VisualNoiseDraw,
    add_visual_noise,
    draw_visual_noise,
)
from avhubert_ext.errors import InputError

logger = logging.getLogger(__name__)

CORRUPT = ("raise", "replace", "blank")
MODALITIES = {"both": (True, True), "audio": (True, False), "video": (False, True)}


@dataclass(frozen=True)
class DataConfig:
    """How utterances are read.

    Attributes:
        modalities: `both`, `audio`, or `video`.
        augment: Whether to crop and flip at random (training).
        noise: Acoustic noise to add, or None.
        cache: Folder for decoded frames and features, or None.
        max_frames: Longer utterances are cut to a random window of this many video frames. None
            keeps all frames.
        keep_clean: Whether to return the audio without noise, too.
        corrupt: What to do with an unreadable utterance: `raise` an InputError, `replace` it by
            another utterance, or leave it `blank` (zeros, as long as the manifest says).
        seed: Random draws depend on the seed, the pass, and the utterance id only.
        pass_index: The epoch, or the pass of an evaluation.
        visual_noise: Visual noise to add, or None.
        time_mask: With `augment`, whether to apply adaptive time masking, too.
        waveform: Whether audio is the waveform that Auto-AVSR takes instead of AV-HuBERT's
            features.
    """

    modalities: str = "both"
    augment: bool = False
    noise: NoiseConfig | None = None
    cache: Path | None = None
    max_frames: int | None = None
    keep_clean: bool = False
    corrupt: str = "raise"
    seed: int = 1
    pass_index: int = 0
    visual_noise: VisualNoiseConfig | None = None
    time_mask: bool = False
    waveform: bool = False

    def __post_init__(self) -> None:
        if self.modalities not in MODALITIES:
            raise InputError(f"modalities '{self.modalities}': expected both, audio or video")
        if self.max_frames is not None and self.max_frames < 1:
            raise InputError(f"max_frames {self.max_frames}: expected at least 1 video frame")
        if self.corrupt not in CORRUPT:
            raise InputError(f"corrupt '{self.corrupt}': expected one of {', '.join(CORRUPT)}")
        if self.waveform and self.keep_clean:
            raise InputError("keep_clean is for features: disable either keep_clean or waveform")


@dataclass(frozen=True)
class Sample:
    """One utterance of T video frames.

    Attributes:
        audio: float32 [104, T], or [1, 640 T] as a waveform; None if not used.
        video: float32 [1, T, 88, 88]; None if not used.
        frames: T.
        clean_audio: The audio without noise, None unless requested.
        noise: The acoustic noise that was drawn, None if it is clean.
        visual_noise: The visual noise that was drawn, None if it is clean.
        corrupt: Why this utterance, or those that it replaces, cannot be read.
        utterance: Its number in the manifest.
    """

    audio: Tensor | None
    video: Tensor | None
    frames: int
    clean_audio: Tensor | None = None
    noise: NoiseDraw | None = None
    visual_noise: VisualNoiseDraw | None = None
    corrupt: tuple[str, ...] = ()
    utterance: int = 0


@dataclass(frozen=True)
class Batch:
    """Utterances zero-padded to the longest.

    Attributes:
        audio: float32 [B, 104, T], or [B, 1, 640 T] as a waveform; None if not used.
        video: float32 [B, 1, T, 88, 88]; None if not used.
        padding_mask: bool [B, T], True at padding.
        clean_audio: The audio without noise, None unless requested.
        corrupt: Why some utterances cannot be read.
    """

    audio: Tensor | None
    video: Tensor | None
    padding_mask: Tensor
    clean_audio: Tensor | None = None
    corrupt: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """Return a copy on another device."""
        tensors = {n: v.to(device) for n, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


@dataclass(frozen=True)
class _Streams:
    """The data read from the files of an utterance, as far as a sample needs it.

    Attributes:
        frames: T, the number of video frames.
        clean: Features without noise, float32 [T, 104].
        waveform: int16 [N], to which noise is added.
        video: uint8 [T, H, W].
    """

    frames: int
    clean: np.ndarray | None
    waveform: np.ndarray | None
    video: np.ndarray | None


class AVDataset(torch.utils.data.Dataset[Sample]):
    """The utterances of `folder/split.tsv`.

    Args:
        folder: The manifest folder.
        split: The name of the manifest, without `.tsv`.
        config: How utterances are read.

    Raises:
        InputError: If a manifest is missing or malformed.
    """

    def __init__(self, folder: Path, split: str, config: DataConfig) -> None:
        self.utterances = read_manifest(folder / f"{split}.tsv")
        self.config = config
        self.mixer = NoiseMixer(config.noise, split, config.seed) if config.noise else None
        if config.cache is not None:
            make_folder(config.cache)  # fail now, not at the first utterance
        self.by_length = np.argsort([u.frames for u in self.utterances], kind="stable")

    def __len__(self) -> int:
        return len(self.utterances)

    def set_pass(self, index: int) -> None:
        """Set the epoch (or evaluation pass) that the random draws depend on."""
        self.config = replace(self.config, pass_index=index)

    def frames(self) -> np.ndarray:
        """Return the length of each utterance as it is read, in video frames: int64 [N]."""
        lengths = np.array([u.frames for u in self.utterances])
        limit = self.config.max_frames
        return lengths if limit is None else np.minimum(lengths, limit)

    def __getitem__(self, index: int | PassIndex) -> Sample:
        """Return utterance `index`, or that of `(pass, index)`: the pass determines the draws."""
        pass_index, index = index if isinstance(index, tuple) else (self.config.pass_index, index)
        if self.config.corrupt == "replace":
            return self._readable(index, pass_index)
        draw = self._draw(self.utterances[index], pass_index)
        try:
            streams = self._read(index, draw)
        except InputError as error:
            if self.config.corrupt == "raise":
                raise
            return self._blank(index, str(error))
        return self._sample(index, streams, draw, pass_index)

    def _readable(self, index: int, pass_index: int) -> Sample:
        """Return utterance `index`, or the next readable one in the order of `_no_longer_than`."""
        corrupt: list[str] = []
        for candidate in self._no_longer_than(index):
            draw = self._draw(self.utterances[candidate], pass_index)
            try:
                streams = self._read(candidate, draw)
            except InputError as error:
                corrupt.append(str(error))
                check_corrupt(corrupt, len(self))
                continue
            sample = self._sample(candidate, streams, draw, pass_index)
            return replace(sample, corrupt=tuple(corrupt))
        raise AssertionError("check_corrupt raises before the loop ends")

    def _blank(self, index: int, reason: str) -> Sample:
        frames = int(self.frames()[index])
        use_audio, use_video = MODALITIES[self.config.modalities]
        shape = (1, SAMPLES_PER_FRAME * frames) if self.config.waveform else (FEATURES, frames)
        audio = torch.zeros(shape) if use_audio else None
        video = torch.zeros(1, frames, CROP, CROP) if use_video else None
        clean = audio if self.config.keep_clean else None
        return Sample(audio, video, frames, clean, corrupt=(reason,), utterance=index)

    def _no_longer_than(self, index: int) -> Iterator[int]:
        """Yield all utterances from `index` to shorter ones; the longest follow the shortest."""
        yield index  # nearly always the only one: do not sort the others for it
        rank = int(np.flatnonzero(self.by_length == index)[0])
        yield from np.roll(self.by_length[::-1], rank + 1 - len(self))[1:].tolist()

    def _draw(self, utterance: Utterance, pass_index: int) -> NoiseDraw | None:
        """Draw the noise of the utterance in this pass, None if it stays clean."""
        if self.mixer is None or not MODALITIES[self.config.modalities][0]:
            return None
        return self.mixer.draw(utterance.id, pass_index)

    def _read(self, index: int, draw: NoiseDraw | None) -> _Streams:
        c = self.config
        utterance = self.utterances[index]
        use_audio, use_video = MODALITIES[c.modalities]
        video = load_video_cached(utterance.video, c.cache) if use_video else None
        if video is not None and min(video.shape[1:]) < CROP:
            raise InputError(
                f"{utterance.video}: frames are {video.shape[1]}x{video.shape[2]}, expected at "
                f"least {CROP}x{CROP}: crop the mouth region to 96x96 first"
            )
        frames = utterance.frames if video is None else len(video)
        if use_audio:
            named = utterance.video if use_video else utterance.audio
            check_in_step(named, frames, audio_length(utterance.audio))
        clean = waveform = None
        if use_audio and not c.waveform and (draw is None or c.keep_clean):
            clean = load_features_cached(utterance.audio, frames, c.cache)
        if draw is not None or (use_audio and c.waveform):
            waveform = load_audio(utterance.audio)
        return _Streams(frames, clean, waveform, video)

    def _sample(
        self, index: int, streams: _Streams, draw: NoiseDraw | None, pass_index: int
    ) -> Sample:
        c = self.config
        rng = hashed_generator("crop", c.seed, self.utterances[index].id, pass_index)
        window = slice(0, streams.frames)
        if c.max_frames is not None and streams.frames > c.max_frames:
            start = int(rng.integers(streams.frames - c.max_frames + 1))
            window = slice(start, start + c.max_frames)
        video = visual = None
        if streams.video is not None:
            noised, visual = self._noised(streams.video[window], index, pass_index)
            video = self._video(noised, rng)
        audio = self._audio(streams, draw, rng)
        waveform = c.waveform and audio is not None
        return Sample(
            torch.from_numpy(audio[window].reshape(1, -1)) if waveform else _cut(audio, window),
            video,
            window.stop - window.start,
            _cut(streams.clean, window) if c.keep_clean else None,
            draw,
            visual,
            utterance=index,
        )

    def _audio(
        self, streams: _Streams, draw: NoiseDraw | None, rng: np.random.Generator
    ) -> np.ndarray | None:
        """Return features [T, 104], or a waveform [T, 640], masked before noise is added."""
        if streams.waveform is None:
            return streams.clean
        c, speech = self.config, streams.waveform
        if c.waveform and c.augment and c.time_mask:
            speech = mask_time(speech, rng, SAMPLE_RATE)
        mixed = speech if draw is None else self.mixer.add(speech, draw)
        if c.waveform:
            return waveform_input(mixed, streams.frames)
        return audio_features(mixed, n_frames=streams.frames)

    def _noised(
        self, frames: np.ndarray, index: int, pass_index: int
    ) -> tuple[np.ndarray, VisualNoiseDraw | None]:
        """Add visual noise to the mouth region before it is cropped; also returns the draw."""
        c = self.config
        if c.visual_noise is None:
            return frames, None
        utterance = self.utterances[index].id
        condition = c.visual_noise.condition
        rng = hashed_generator("visual", c.seed, condition, utterance, pass_index)
        drawn = draw_visual_noise(c.visual_noise, rng)
        if drawn is None:
            return frames, None
        return add_visual_noise(frames, drawn.kind, drawn.level, rng), drawn

    def _video(self, frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        c = self.config
        cropped = random_crop_and_flip(frames, rng) if c.augment else center_crop(frames)
        masked = mask_time(cropped, rng, FPS) if c.augment and c.time_mask else cropped
        return torch.from_numpy(normalize_pixels(masked))[None]


def _cut(features: np.ndarray | None, window: slice) -> Tensor | None:
    """Cut a window of frames: [T, F] -> [F, T]."""
    if features is None:
        return None
    # Always a copy: entries of the cache are read-only.
    return torch.from_numpy(np.array(features[window].T, order="C"))


def collate(samples: list[Sample]) -> Batch:
    """Pad samples with zeros (in normalized space) to the longest one.

    Args:
        samples: Samples with the same modalities.
    """
    frames = torch.tensor([s.frames for s in samples])
    longest = int(frames.max())

    def padded(name: str) -> Tensor | None:
        tensors = [getattr(s, name) for s in samples]
        if tensors[0] is None:
            return None
        shape = list(tensors[0].shape)
        # Time is the second axis of both audio and video; a waveform has 640 values per frame.
        shape[1] = longest * (shape[1] // samples[0].frames)
        batch = torch.zeros(len(samples), *shape)
        for row, tensor in zip(batch, tensors, strict=True):
            row[:, : tensor.shape[1]] = tensor
        return batch

    return Batch(
        padded("audio"),
        padded("video"),
        torch.arange(longest)[None] >= frames[:, None],
        padded("clean_audio"),
        tuple(reason for s in samples for reason in s.corrupt),
    )


def read_transcripts(folder: Path, split: str, utterances: list[Utterance]) -> list[str]:
    """Read the transcripts of a split, normalized with the settings in `text.json`.

    Labels of `data prepare` are already normalized. For labels made elsewhere, the changes are
    logged.

    Args:
        folder: The manifest folder.
        split: The split; the transcripts are in `split.wrd`.
        utterances: The utterances of its manifest.

    Raises:
        InputError: If the number of transcripts differs from the manifest, or one has no words.
    """
    path = folder / f"{split}.wrd"
    lines = read_lines(path)
    if len(lines) != len(utterances):
        raise InputError(
            f"{path} has {len(lines)} transcripts, {folder / split}.tsv {len(utterances)} "
            "utterances: make both with the same `avhubert-ext data prepare`"
        )
    config = read_text_config(folder)
    texts = [normalize(line, config) for line in lines]
    for number, (line, text) in enumerate(zip(lines, texts, strict=True), start=1):
        if not text:
            raise InputError(
                f"{path} line {number}: the transcript is empty: no words in {line[:80]!r}; remove "
                "the utterance"
            )
    if (changed := changes(lines, config)).changed:
        logger.warning(f"{path}: {changed}")
    return texts
