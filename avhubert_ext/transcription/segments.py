"""Where a long clip is cut for models that were trained on short ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
# Of a picture's contrast: a photo changes by up to 0.012 of it from compression and noise, GRID's
# speaking mouths by 0.06 or more.
PHOTO = 0.015
PAUSE = FPS  # frames; a longer pause is left out, but for a margin on either side
MARGIN = FPS // 3
OVERLAP = FPS  # frames beyond a cut that is within speech
CUT_COST = 0.2  # of a cut, beside the activity where it is
WINDOW = 5  # frames around a cut that must be quiet
UNSEEN = FPS  # frames; where the face is missing for longer, the picture is not used
GLIMPSE = FPS // 2  # frames; nor where it shows for no longer between such places


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop`, recognized together, of which the words in the middle are kept.

    left, right: words whose middle lies between these are this segment's own. Where they are not
    its ends, its neighbor hears what is beyond, too.
    seen: whether the picture shows the face; otherwise only the sound can be used.
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
    """The segments of a clip, in order, each of at most `longest` frames with what it overlaps.

    audio: int16 [N]; video: uint8 [T, H, W]; one of them may be None. seen: bool [T], where the
    picture shows the face; None for everywhere in `video`. With it the clip has T frames, which
    may be more than `video` has. A clip that is short enough is one segment; silence and a still
    picture are none. Else long pauses are left out, and what lies between is cut where it is quiet;
    where there is no such place and a cut is within speech, the pieces overlap. The clip is also
    cut where the face comes or goes for more than UNSEEN frames; there the sound alone overlaps.
    """
    if seen is None:
        frames = len(video) if video is not None else -(-len(audio) // SAMPLES_PER_FRAME)
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
            cut = pieces(active, left, right, longest - before - after)
            cut[0] = replace(cut[0], start=left - before)
            cut[-1] = replace(cut[-1], stop=right + after)
            found += [replace(piece, seen=shown) for piece in cut]
    return found


def _quiet_changes(
    usable: list[tuple[int, int, bool]], active: np.ndarray
) -> list[tuple[int, int, bool]]:
    """As `spans`, the changes moved to the quietest place within MARGIN frames."""
    quiet = _smoothed(active) + 1e-3 * QUIET  # of places that are as quiet the nearest
    edges = [0]
    for _, edge, _ in usable[:-1]:
        near = np.arange(max(edge - MARGIN, 0), min(edge + MARGIN + 1, len(active)))
        edges.append(int(near[(quiet[near] * (1 + np.abs(near - edge) / MARGIN)).argmin()]))
    edges.append(len(active))
    return [(a, b, shown) for (a, b), (*_, shown) in zip(pairwise(edges), usable, strict=True)]


def _overlap(active: np.ndarray, place: int, longest: int) -> int:
    """Frames that the sound alone is heard beyond a change within speech."""
    return min(OVERLAP, longest // 5) if _smoothed(active)[place] > QUIET else 0


def _smoothed(active: np.ndarray) -> np.ndarray:
    """The mean over WINDOW frames around each, [T]."""
    around = np.pad(active, WINDOW // 2, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(around, WINDOW).mean(axis=1)


def spans(seen: np.ndarray) -> list[tuple[int, int, bool]]:
    """Where the picture can be used and where not: (first frame, after the last, whether it can).

    seen: bool [T]. A face that is missing for up to UNSEEN frames is taken to be there; one that
    shows for up to GLIMPSE frames between such places is left out.
    """
    return _runs(_reversed(_reversed(seen, False, UNSEEN), True, GLIMPSE))


def _reversed(seen: np.ndarray, value: bool, longest: int) -> np.ndarray:
    """bool [T], where runs of `value` of at most that many frames, but no whole clip, are not."""
    result = seen.copy()
    for start, stop, found in _runs(seen):
        if found == value and stop - start <= min(longest, len(seen) - 1):
            result[start:stop] = not value
    return result


def _runs(values: np.ndarray) -> list[tuple[int, int, bool]]:
    """Stretches of one value in bool [T]: (first, after the last, value)."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(first, after, bool(values[first])) for first, after in pairwise(edges)]


def activity(
    audio: np.ndarray | None, video: np.ndarray | None, usable: list[tuple[int, int, bool]]
) -> np.ndarray:
    """How likely somebody speaks in each frame, as far as loudness and motion tell: [T], 0 to 1.

    usable: see `spans`; where the picture cannot be used, loudness alone counts. Each on a scale
    from its quietest tenth of the frames to its loudest twentieth. Of both, the loudness counts for
    its range in dB as a part of CLEAN_DB, the motion for the rest: the mouth shows pauses that
    noise hides. In a photo nothing moves: there, too, loudness alone counts.
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
    if seen.any():
        motion = _motion(video)[:frames]
        motion = np.pad(motion, (0, frames - len(motion)))
        low, high = np.percentile(motion[seen], (10, 95))
        if high < PHOTO * np.median([frame.std() for frame in video[::FPS]]):
            return loudness
        high = max(high, STILL)
        motion = _scaled(motion, min(low, high / 2), high)
    return np.where(seen, weight * loudness + (1 - weight) * motion, loudness)


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
    cost = np.append(_smoothed(active)[start:stop], 0.0)
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
