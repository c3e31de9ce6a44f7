"""Segmentation of long clips, for models that were trained on short ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from avhubert_ext.data.audio import SAMPLES_PER_FRAME
from avhubert_ext.data.video import FPS

QUIET = 0.2  # activity (see `activity`) up to which a frame counts as silent
CLEAN_DB = 40.0  # level difference between quiet and loud frames in a clip without noise
RANGE_DB = 12.0  # least range of the loudness scale
SILENT_DB = 30.0  # above one step of int16; speech is always louder
STILL = 0.1  # gray levels of 256; a still picture changes by less
# Motion relative to a picture's contrast: compression and noise change a photo by up to 0.012 of
# it, GRID's speaking mouths change by 0.06 or more.
PHOTO = 0.015
PAUSE = FPS  # frames; longer pauses are skipped, except for a margin on both sides
MARGIN = FPS // 3
OVERLAP = FPS  # frames that a segment extends beyond a cut within speech
CUT_COST = 0.2  # cost of a cut, in addition to the activity at the cut
WINDOW = 5  # frames around a cut over which the activity is averaged
UNSEEN = FPS  # frames; if the face is missing for longer, the picture is not used there
GLIMPSE = FPS // 2  # frames; shorter appearances between such places are not used either


@dataclass(frozen=True)
class Segment:
    """Frames that are recognized together.

    Attributes:
        start: First frame.
        stop: Frame after the last.
        left: Words are kept if their middle lies between `left` and `right`. Beyond these the
            segment overlaps its neighbors.
        right: See `left`.
        seen: Whether the picture shows the face; if not, only the audio can be used.
    """

    start: int
    stop: int
    left: int
    right: int
    seen: bool = True


def segment(
    audio: np.ndarray | None,
    video: np.ndarray | None,
    longest: int,
    seen: np.ndarray | None = None,
) -> list[Segment]:
    """Cut a clip into segments.

    A short clip is one segment; silence and a still picture are none. In longer clips long pauses
    are skipped, and the rest is cut where it is quiet. If a cut has to be within speech, the
    segments overlap. Clips are also cut where the face appears or disappears for more than UNSEEN
    frames; there only the audio's segments overlap.

    Args:
        audio: int16 [N] at 16 kHz, or None.
        video: uint8 [T, H, W] at 25 frames per second, or None.
        longest: Most frames of a segment, including the overlap.
        seen: bool [T], whether each frame shows the face; None for all of `video`. T is then the
            clip's length and may exceed the video's.

    Returns:
        The segments in order.
    """
    if seen is None:
        samples = 0 if audio is None else len(audio)
        frames = len(video) if video is not None else -(-samples // SAMPLES_PER_FRAME)
        seen = np.full(frames, video is not None)
    frames = len(seen)
    usable = [(0, frames, False)] if video is None else spans(seen)
    active = activity(audio, video, usable)
    spoken = stretches(active)
    if len(usable) == 1 and spoken and frames <= longest:
        return [Segment(0, frames, 0, frames, usable[0][2])]
    usable = _quiet_changes(usable, active)
    found = []
    for start, stop in spoken:
        for first, last, shown in usable:
            left, right = max(start, first), min(stop, last)
            if left >= right:
                continue
            before = 0 if shown or left == start else _overlap(active, left, longest)
            after = 0 if shown or right == stop else _overlap(active, right, longest)
            cut = cut_stretch(active, left, right, longest - before - after)
            cut[0] = replace(cut[0], start=left - before)
            cut[-1] = replace(cut[-1], stop=right + after)
            found += [replace(part, seen=shown) for part in cut]
    return found


def _quiet_changes(
    usable: list[tuple[int, int, bool]], active: np.ndarray
) -> list[tuple[int, int, bool]]:
    """Move the changes between spans to the quietest place within MARGIN frames."""
    quiet = _smoothed(active) + 1e-3 * QUIET  # the nearest of equally quiet places
    edges = [0]
    for _, edge, _ in usable[:-1]:
        near = np.arange(max(edge - MARGIN, 0), min(edge + MARGIN + 1, len(active)))
        edges.append(int(near[(quiet[near] * (1 + np.abs(near - edge) / MARGIN)).argmin()]))
    edges.append(len(active))
    return [(a, b, shown) for (a, b), (*_, shown) in zip(pairwise(edges), usable, strict=True)]


def _overlap(active: np.ndarray, place: int, longest: int) -> int:
    """Return the overlap of audio-only segments at a change within speech, in frames."""
    return min(OVERLAP, longest // 5) if _smoothed(active)[place] > QUIET else 0


def _smoothed(active: np.ndarray) -> np.ndarray:
    """Moving average over WINDOW frames, [T]."""
    around = np.pad(active, WINDOW // 2, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(around, WINDOW).mean(axis=1)


def spans(seen: np.ndarray) -> list[tuple[int, int, bool]]:
    """Split a clip into spans whose picture can, or cannot, be used.

    A face that is missing for up to UNSEEN frames counts as visible; one that appears for up to
    GLIMPSE frames between longer gaps does not.

    Args:
        seen: bool [T], whether each frame shows the face.

    Returns:
        Tuples of the first frame, the frame after the last, and whether the picture can be used.
    """
    return _runs(_reversed(_reversed(seen, False, UNSEEN), True, GLIMPSE))


def _reversed(seen: np.ndarray, value: bool, longest: int) -> np.ndarray:
    """Flip runs of `value` in bool [T] of at most `longest` frames, but never the whole clip."""
    result = seen.copy()
    for start, stop, found in _runs(seen):
        if found == value and stop - start <= min(longest, len(seen) - 1):
            result[start:stop] = not value
    return result


def _runs(values: np.ndarray) -> list[tuple[int, int, bool]]:
    """Split bool [T] into runs of one value: (first, after the last, value)."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(first, after, bool(values[first])) for first, after in pairwise(edges)]


def activity(
    audio: np.ndarray | None, video: np.ndarray | None, usable: list[tuple[int, int, bool]]
) -> np.ndarray:
    """Estimate from loudness and motion how likely someone speaks in each frame.

    Both are scaled so that their 10th percentile is 0 and their 95th is 1. The weight of the
    loudness is its range in dB over CLEAN_DB, motion has the rest: the mouth shows pauses that
    noise hides. Loudness alone counts where the picture cannot be used, and in a photo.

    Args:
        audio: int16 [N] at 16 kHz, or None.
        video: uint8 [T, H, W], or None.
        usable: See `spans`.

    Returns:
        Activity from 0 to 1, [T].
    """
    frames = usable[-1][1]
    seen = np.repeat([shown for *_, shown in usable], [b - a for a, b, _ in usable])
    loudness = motion = np.zeros(frames)
    weight = 0.0
    if audio is not None:
        level = _loudness(audio, frames)
        low, high = np.percentile(level, (10, 95))
        weight = min(1.0, (high - low) / CLEAN_DB)
        high = max(high, SILENT_DB + RANGE_DB)
        loudness = _scaled(level, np.clip(low, SILENT_DB, high - RANGE_DB), high)
    if video is not None and seen.any():
        motion = _motion(video)[:frames]
        motion = np.pad(motion, (0, frames - len(motion)))
        low, high = np.percentile(motion[seen], (10, 95))
        if high < PHOTO * np.median([frame.std() for frame in video[::FPS]]):
            return loudness
        high = max(high, STILL)
        motion = _scaled(motion, min(low, high / 2), high)
    return np.where(seen, weight * loudness + (1 - weight) * motion, loudness)


def _loudness(audio: np.ndarray, frames: int) -> np.ndarray:
    """Level of each frame in dB, [T]."""
    padded = np.zeros(frames * SAMPLES_PER_FRAME, dtype=np.float32)
    padded[: len(audio)] = audio[: len(padded)]
    power = np.square(padded.reshape(frames, -1)).mean(axis=1)
    return 10 * np.log10(np.maximum(power, 1.0))


def _motion(video: np.ndarray) -> np.ndarray:
    """Mean pixel change from frame to frame, [T], without single jumps such as scene cuts."""
    changes = [np.abs(later.astype(np.int16) - frame).mean() for frame, later in pairwise(video)]
    changes = changes[:1] + changes or [0.0]  # a single frame is still
    padded = np.pad(np.array(changes), 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((values - low) / (high - low), 0, 1)


def stretches(active: np.ndarray) -> list[tuple[int, int]]:
    """Return the stretches between long pauses, with a margin: (first frame, after the last)."""
    loud = np.flatnonzero(active > QUIET)
    if not len(loud):
        return []
    gaps = np.flatnonzero(np.diff(loud) > PAUSE)
    starts = loud[np.append(0, gaps + 1)]
    stops = loud[np.append(gaps, len(loud) - 1)] + 1
    ends = zip(starts.tolist(), stops.tolist(), strict=True)
    return [(max(0, start - MARGIN), min(len(active), stop + MARGIN)) for start, stop in ends]


def cut_stretch(active: np.ndarray, start: int, stop: int, longest: int) -> list[Segment]:
    """Cut a stretch of speech into segments of at most `longest` frames, at the least cost.

    A cut costs CUT_COST plus the activity there; a segment costs (length / longest) ** 2. A long
    segment is thus cut at any pause in its middle, a short one is not cut.
    """
    cost = np.append(_smoothed(active)[start:stop], 0.0)
    overlap = np.where(cost > QUIET, min(OVERLAP, longest // 5), 0)
    overlap[0] = overlap[-1] = 0  # the ends of a stretch are not cuts
    places = np.arange(len(cost))
    least = np.zeros(len(cost))  # least cost of the cuts up to each place, with a cut there
    origin = np.zeros(len(cost), dtype=np.int64)
    for place in places[1:]:
        before = slice(max(0, place - longest), place)
        length = place - places[before] + overlap[before] + overlap[place]
        total = np.where(length <= longest, least[before] + (length / longest) ** 2, np.inf)
        origin[place] = before.start + total.argmin()
        least[place] = total.min() + cost[place] + CUT_COST
    cuts = [places[-1]]
    while cuts[-1]:
        cuts.append(origin[cuts[-1]])
    found = []
    for a, b in pairwise(start + int(cut) for cut in reversed(cuts)):
        early, late = int(overlap[a - start]), int(overlap[b - start])
        found.append(Segment(a - early, b + late, a, b))
    return found
