"""Where a long clip is cut for models that were trained on short ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from avhubert_ext.data.audio import SAMPLES_PER_FRAME
from avhubert_ext.data.video import FPS

# Of activity, from 0, the quiet of a clip, to 1, its loudest speech: see `activity`.
QUIET = 0.2
CLEAN_DB = 40.0  # between quiet and loud in a clip without noise
RANGE_DB = 12.0  # least that the scale of loudness spans
SILENT_DB = 30.0  # over int16's least step: speech is never as faint
STILL = 0.1  # of the 256 levels of gray: pictures change by less where nothing moves
PAUSE = FPS  # frames; a longer pause is left out, but for a margin on either side
MARGIN = FPS // 3
OVERLAP = FPS  # frames beyond a cut that is within speech
CUT_COST = 0.2  # of a cut, beside the activity where it is
WINDOW = 5  # frames around a cut that must be quiet


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop`, recognised together, of which the words in the middle are kept.

    left, right: words whose middle lies between these are this segment's own. Where they are not
    its ends, its neighbour hears what is beyond, too.
    """

    start: int
    stop: int
    left: int
    right: int


def segment(audio: np.ndarray | None, video: np.ndarray | None, longest: int) -> list[Segment]:
    """The segments of a clip, in order, each of at most `longest` frames with what it overlaps.

    audio: int16 [N]; video: uint8 [T, H, W]; one of them may be None. A clip that is short enough
    is one segment; silence and a still picture are none. Else long pauses are left out, and what
    lies between is cut where it is quiet; where there is no such place and a cut is within speech,
    the pieces overlap.
    """
    frames = len(video) if video is not None else -(-len(audio) // SAMPLES_PER_FRAME)
    active = activity(audio, video, frames)
    spoken = stretches(active)
    if spoken and frames <= longest:
        return [Segment(0, frames, 0, frames)]
    return [piece for start, stop in spoken for piece in pieces(active, start, stop, longest)]


def activity(audio: np.ndarray | None, video: np.ndarray | None, frames: int) -> np.ndarray:
    """How likely somebody speaks in each frame, as far as loudness and motion tell: [T], 0 to 1.

    Each on a scale from its quietest tenth of the frames to its loudest twentieth. Of both, the
    loudness counts for its range in dB as a part of CLEAN_DB, the motion for the rest: the mouth
    tells of pauses that noise hides.
    """
    scales, weights = [], []
    if audio is not None:
        level = _loudness(audio, frames)
        low, high = np.percentile(level, (10, 95))
        weights.append(1.0 if video is None else min(1.0, (high - low) / CLEAN_DB))
        high = max(high, SILENT_DB + RANGE_DB)
        scales.append(_scaled(level, np.clip(low, SILENT_DB, high - RANGE_DB), high))
    if video is not None:
        motion = _motion(video)
        low, high = np.percentile(motion, (10, 95))
        high = max(high, STILL)
        scales.append(_scaled(motion, min(low, high / 2), high))
        weights.append(1.0 - sum(weights))
    return np.average(scales, axis=0, weights=weights)


def _loudness(audio: np.ndarray, frames: int) -> np.ndarray:
    """dB of each frame, [T]."""
    padded = np.zeros(frames * SAMPLES_PER_FRAME, dtype=np.float32)
    padded[: len(audio)] = audio[: len(padded)]
    power = np.square(padded.reshape(frames, -1)).mean(axis=1)
    return 10 * np.log10(np.maximum(power, 1.0))


def _motion(video: np.ndarray) -> np.ndarray:
    """Mean change of a pixel from frame to frame, [T], without jumps of a frame, as at a cut."""
    changes = [np.abs(later.astype(np.int16) - frame).mean() for frame, later in pairwise(video)]
    changes = changes[:1] + changes or [0.0]  # a single frame is still
    padded = np.pad(np.array(changes), 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((values - low) / (high - low), 0, 1)


def stretches(active: np.ndarray) -> list[tuple[int, int]]:
    """What lies between long pauses, with a margin: (first frame, after the last)."""
    loud = np.flatnonzero(active > QUIET)
    if not len(loud):
        return []
    gaps = np.flatnonzero(np.diff(loud) > PAUSE)
    starts = loud[np.append(0, gaps + 1)]
    stops = loud[np.append(gaps, len(loud) - 1)] + 1
    ends = zip(starts.tolist(), stops.tolist(), strict=True)
    return [(max(0, start - MARGIN), min(len(active), stop + MARGIN)) for start, stop in ends]


def pieces(active: np.ndarray, start: int, stop: int, longest: int) -> list[Segment]:
    """A stretch, cut so that the sum of these is least: what each cut costs, CUT_COST and the
    activity there, and each piece, the square of its length in `longest`.

    So a long piece is cut at any pause in its middle, a short one nowhere.
    """
    around = np.pad(active, WINDOW // 2, mode="edge")
    cost = np.lib.stride_tricks.sliding_window_view(around, WINDOW).mean(axis=1)[start:stop]
    cost = np.append(cost, 0.0)
    overlap = np.where(cost > QUIET, min(OVERLAP, longest // 5), 0)
    overlap[0] = overlap[-1] = 0  # the ends of a stretch are no cuts
    places = np.arange(len(cost))
    least = np.zeros(len(cost))  # of the cuts up to here, the last one here
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
    return [
        Segment(*(start + int(x) for x in (a - overlap[a], b + overlap[b], a, b)))
        for a, b in pairwise(reversed(cuts))
    ]
