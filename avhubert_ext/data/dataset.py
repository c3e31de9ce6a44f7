"""From a manifest to padded batches."""

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

    modalities: both, audio or video. augment: random crop and flip (training).
    noise: acoustic noise to add, or None. cache: folder for decoded frames and features, or None.
    max_frames: longer utterances are cut to a random window of this many frames; None keeps all.
    keep_clean: also give the audio without the noise.
    corrupt: what to give for an utterance that cannot be read: `raise` an InputError, `replace` it
    by another utterance, or leave it `blank`, zeros of the length in the manifest.
    seed, pass_index: the draws follow from them and the utterance id alone.
    visual_noise: to add, or None. time_mask: with `augment`, adaptive time masking too.
    waveform: audio as the waveform that Auto-AVSR takes, not as AV-HuBERT's features.
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
            raise InputError("keep_clean is for features: leave it out, or waveform")


@dataclass(frozen=True)
class Sample:
    """One utterance of T frames: audio [104, T], video [1, T, 88, 88], None where not used.

    Audio as a waveform is [1, 640 T]. clean_audio: the audio without the noise, None unless asked
    for. noise, visual_noise: what was drawn. corrupt: why this utterance, or those in whose place
    it is given, cannot be read. utterance: its number in the manifest.
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
    """Utterances padded with zeros to the longest; padding_mask [B, T] is True at padding."""

    audio: Tensor | None
    video: Tensor | None
    padding_mask: Tensor
    clean_audio: Tensor | None = None
    corrupt: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        tensors = {n: v.to(device) for n, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


@dataclass(frozen=True)
class _Streams:
    """What the files of an utterance of T frames hold, as far as a sample needs it.

    clean: features float32 [T, 104]. waveform: int16 [N], to which noise is added.
    video: uint8 [T, H, W].
    """

    frames: int
    clean: np.ndarray | None
    waveform: np.ndarray | None
    video: np.ndarray | None


class AVDataset(torch.utils.data.Dataset[Sample]):
    """The utterances of `folder/split.tsv`."""

    def __init__(self, folder: Path, split: str, config: DataConfig) -> None:
        self.utterances = read_manifest(folder / f"{split}.tsv")
        self.config = config
        self.mixer = NoiseMixer(config.noise, split, config.seed) if config.noise else None
        if config.cache is not None:
            make_folder(config.cache)  # a wrong one is no fault of the first utterance
        self.by_length = np.argsort([u.frames for u in self.utterances], kind="stable")

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
        """Utterance `index`, or the first one after it that can be read."""
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
        raise AssertionError("check_corrupt ends the loop before")

    def _blank(self, index: int, reason: str) -> Sample:
        frames = int(self.frames()[index])
        use_audio, use_video = MODALITIES[self.config.modalities]
        shape = (1, SAMPLES_PER_FRAME * frames) if self.config.waveform else (FEATURES, frames)
        audio = torch.zeros(shape) if use_audio else None
        video = torch.zeros(1, frames, CROP, CROP) if use_video else None
        clean = audio if self.config.keep_clean else None
        return Sample(audio, video, frames, clean, corrupt=(reason,), utterance=index)

    def _no_longer_than(self, index: int) -> Iterator[int]:
        """All utterances from `index` on to shorter ones; the longest follow the shortest."""
        yield index  # nearly always the only one: the order of all others is not needed
        rank = int(np.flatnonzero(self.by_length == index)[0])
        yield from np.roll(self.by_length[::-1], rank + 1 - len(self))[1:].tolist()

    def _draw(self, utterance: Utterance, pass_index: int) -> NoiseDraw | None:
        """The noise that the utterance gets in this pass, if any."""
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
        """[T, 104], or [T, 640] as a waveform, which is masked before noise is added."""
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
        """The mouth region before it is cropped, with visual noise, and what was drawn."""
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
    """[T, F] -> [F, T] of a window of frames."""
    if features is None:
        return None
    # A copy in any case: entries of the cache cannot be written to.
    return torch.from_numpy(np.array(features[window].T, order="C"))


def collate(samples: list[Sample]) -> Batch:
    """Pad with zeros (in normalized space) to the longest utterance."""
    frames = torch.tensor([s.frames for s in samples])
    longest = int(frames.max())

    def padded(name: str) -> Tensor | None:
        tensors = [getattr(s, name) for s in samples]
        if tensors[0] is None:
            return None
        shape = list(tensors[0].shape)
        # Time is the second axis of audio and video alike; a waveform has more values a frame.
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
    """The lines of `split.wrd`, normalized as `text.json` beside it says (see `normalize`).

    Labels of `prepare` are; what changes in those made elsewhere is logged. Raises InputError for
    another number than in the manifest, and for one without words.
    """
    path = folder / f"{split}.wrd"
    lines = read_lines(path)
    if len(lines) != len(utterances):
        raise InputError(
            f"{path} has {len(lines)} transcripts, {folder / split}.tsv {len(utterances)} "
            "utterances: make both with the same `avhubert-ext prepare`"
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
