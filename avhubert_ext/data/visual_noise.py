"""Visual noise after SparseVSR (paper B): types in ten levels, and a reproducible choice of them.

The paper tells no parameters. It refers to LipForensics, which takes the five levels of
DeeperForensics-1.0, made for whole faces; ten levels lie evenly between their first and last here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from avhubert_ext.data.video import FPS
from avhubert_ext.errors import InputError

if TYPE_CHECKING:
    from av import Packet

LEVELS = 10
TRAINING_TYPES = ("block", "gaussian_blur", "motion_blur", "pixelation")
UNSEEN_TYPES = ("compression", "gaussian_noise", "contrast")
PAPER_TYPES = TRAINING_TYPES + UNSEEN_TYPES

BLOCK = 8  # pixels, both ways
GRAY = 128  # of a block
STEEPEST = 45.0  # degrees from the horizontal, of motion


def add_visual_noise(
    frames: np.ndarray, kind: str, level: int, rng: np.random.Generator
) -> np.ndarray:
    """A whole clip with visual noise: uint8 [T, H, W] -> uint8 [T, H, W].

    kind: of TYPES. level: 0 (the frames as they are) to LEVELS. rng: draws blocks and Gaussian
    noise for each frame, the direction of motion once. Raises InputError for anything else.
    """
    _check_frames(frames)
    _check_type(kind)
    _check_level(level, lowest=0)
    if level == 0:
        return frames
    noise = TYPES[kind]
    return noise.apply(frames, noise.parameters[level - 1], rng)


def _check_frames(frames: np.ndarray) -> None:
    found = np.asarray(frames)
    if not isinstance(frames, np.ndarray) or found.dtype != np.uint8 or found.ndim != 3:
        raise InputError(
            f"frames are {type(frames).__name__} of {found.dtype} {list(found.shape)}, expected an "
            "array of uint8 [T, H, W]: add visual noise before `normalize_pixels`"
        )
    if not found.size:
        raise InputError(f"frames of shape {list(found.shape)} have no pixels")


def _check_type(kind: str) -> None:
    if kind not in TYPES:
        raise InputError(f"visual noise '{kind}': expected one of {', '.join(TYPES)}")


def _check_level(level: int, lowest: int) -> None:
    if not isinstance(level, int) or not lowest <= level <= LEVELS:
        raise InputError(f"visual noise of level {level!r}: expected an int, {lowest} to {LEVELS}")


def _block(frames: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Gray blocks, wholly within the frame, that cover a share of it where they don't overlap."""
    n_frames, height, width = frames.shape
    number = max(1, round(share * height * width / BLOCK**2))
    tops = rng.integers(max(1, height - BLOCK + 1), size=(n_frames, number))
    lefts = rng.integers(max(1, width - BLOCK + 1), size=(n_frames, number))
    noised = frames.copy()
    for frame, rows, columns in zip(noised, tops, lefts, strict=True):
        for top, left in zip(rows, columns, strict=True):
            frame[top : top + BLOCK, left : left + BLOCK] = GRAY
    return noised


def _gaussian_blur(frames: np.ndarray, sigma: float, _: np.random.Generator) -> np.ndarray:
    import cv2

    side = 2 * round((6 * sigma - 1) / 2) + 1
    return np.stack([cv2.GaussianBlur(frame, (side, side), sigma) for frame in frames])


def _motion_blur(frames: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    import cv2

    kernel = line_kernel(length, rng.uniform(-STEEPEST, STEEPEST))
    return np.stack([cv2.filter2D(frame, -1, kernel) for frame in frames])


def line_kernel(length: int, degrees: float) -> np.ndarray:
    """A line through the middle of a float32 [length, length] that sums to 1.

    It is `length` (odd) points a pixel apart, each shared out among its four neighbors.
    """
    places = np.arange(length) - length // 2
    radians = np.deg2rad(degrees)
    rows, columns = (
        np.clip(1 - np.abs(places[:, None] - slope * places), 0, None)
        for slope in (-np.sin(radians), np.cos(radians))
    )
    return (rows @ columns.T / length).astype(np.float32)


def _pixelation(frames: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    """Fewer pixels and back, bilinear both ways as the reference: smooth, no squares."""
    import cv2

    height, width = frames.shape[1:]
    small = max(1, int(width / factor)), max(1, int(height / factor))
    return np.stack([cv2.resize(cv2.resize(frame, small), (width, height)) for frame in frames])


def _compression(frames: np.ndarray, crf: float, _: np.random.Generator) -> np.ndarray:
    import av

    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_type = "NONE"
    decoded = [frame for packet in h264(frames, crf) for frame in decoder.decode(packet)]
    decoded += decoder.decode(None)
    return np.stack([_luma(frame.planes[0]) for frame in decoded])


def h264(frames: np.ndarray, crf: float) -> list[Packet]:
    """A clip uint8 [T, H, W] as H.264 of a quality (`crf`), otherwise x264's defaults."""
    import av

    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = frames.shape[1:]
    encoder.pix_fmt = "gray"  # no chroma: gray values stay in 0..255, and sides may be odd
    encoder.framerate = FPS
    encoder.time_base = Fraction(1, FPS)
    # Without mbtree, as in `write_video`, and with one thread every run gives the same bits.
    encoder.options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
    packets = []
    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="gray")
        frame.pts = number
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


def _luma(plane: Any) -> np.ndarray:
    """uint8 [H, W] of a decoded plane, whose rows are padded."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _gaussian_noise(frames: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(frames.shape, dtype=np.float32)
    return np.clip(np.rint(frames + 255 * np.float32(sigma) * noise), 0, 255).astype(np.uint8)


def _contrast(frames: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    """Darker, as the reference: the mean is not kept."""
    return np.rint(np.arange(256) * factor).astype(np.uint8)[frames]


def _jpeg(frames: np.ndarray, quality: int, _: np.random.Generator) -> np.ndarray:
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    coded = (cv2.imencode(".jpg", frame, options)[1] for frame in frames)
    return np.stack([cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) for data in coded])


def _between(*five: float) -> tuple[float, ...]:
    """Ten levels evenly between the first and the last of five."""
    return tuple(np.interp(np.linspace(1, 5, LEVELS), range(1, 6), five).tolist())


@dataclass(frozen=True)
class NoiseType:
    """A type of visual noise: what it does, how strongly at each level, and who says so.

    apply: (uint8 [T, H, W], parameter, generator) -> uint8 [T, H, W], another array.
    parameters: of levels 1 to LEVELS. meaning: of the parameter, with its unit. source: of both.
    random: whether the generator is asked, so that another pass sees another clip.
    """

    apply: Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]
    parameters: tuple[float, ...]
    meaning: str
    source: str
    random: bool = False


TYPES = {
    "block": NoiseType(
        _block,
        tuple(level / 64 for level in _between(1, 2, 3, 4, 5)),
        "share of the frame that gray blocks of 8x8 pixels cover",
        "DeeperForensics: 16 blocks a level on 256x256; as coded a frame below 256 gets none",
        random=True,
    ),
    "gaussian_blur": NoiseType(
        _gaussian_blur,
        tuple(side / 6 for side in _between(7, 9, 13, 17, 21)),
        "standard deviation in pixels",
        "DeeperForensics: a sixth of the kernel's side of 7 to 21 pixels",
    ),
    "motion_blur": NoiseType(
        _motion_blur,
        tuple(range(3, 22, 2)),
        "length of the line in pixels, its direction within 45 degrees of the horizontal",
        "ours: nothing is published; the longest line is as long as the widest Gaussian kernel",
        random=True,
    ),
    "pixelation": NoiseType(
        _pixelation,
        _between(2, 3, 4, 5, 6),
        "factor by which both sides shrink",
        "DeeperForensics, which calls it JPEG",
    ),
    "compression": NoiseType(
        _compression,
        _between(30, 32, 35, 38, 40),
        "constant rate factor of H.264 (crf)",
        "DeeperForensics",
    ),
    "gaussian_noise": NoiseType(
        _gaussian_noise,
        # Added to luma, which has 219 of 255 steps: in gray values it is that much more.
        tuple(255 / 219 * p**0.5 for p in _between(0.001, 0.002, 0.005, 0.01, 0.05)),
        "standard deviation, of gray values in 0 to 1",
        "DeeperForensics: variance of 0.001 to 0.05 in YCbCr",
        random=True,
    ),
    "contrast": NoiseType(
        _contrast,
        _between(0.85, 0.725, 0.6, 0.475, 0.35),
        "factor of gray values",
        "DeeperForensics",
    ),
    "jpeg": NoiseType(
        _jpeg,
        tuple(map(round, _between(25, 18, 15, 10, 7))),
        "JPEG quality of each frame",
        "ImageNet-C; paper B speaks of JPEG, but its reference compresses with H.264",
    ),
}


@dataclass(frozen=True)
class VisualNoiseConfig:
    """Which visual noise, how strong.

    types: of TYPES, equally likely. level: 1 to LEVELS; None draws one, all equally likely.
    clean: whether no noise is one more choice, as likely as each type (paper B's training).
    """

    types: tuple[str, ...] = TRAINING_TYPES
    level: int | None = None
    clean: bool = True

    def __post_init__(self) -> None:
        if not self.types:
            raise InputError(f"visual noise without a type: name some of {', '.join(TYPES)}")
        for kind in self.types:
            _check_type(kind)
        if len(set(self.types)) < len(self.types):
            raise InputError(f"visual noise {', '.join(self.types)}: name each type once")
        if self.level is not None:
            _check_level(self.level, lowest=1)

    @property
    def condition(self) -> str:
        """The condition in words, as `block level 3`; draws follow from it."""
        clean = "clean or " if self.clean else ""
        level = f"1 to {LEVELS}" if self.level is None else self.level
        return f"{clean}{', '.join(self.types)} level {level}"


@dataclass(frozen=True)
class VisualNoiseDraw:
    """The visual noise of one clip."""

    kind: str
    level: int

    def record(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


def draw_visual_noise(
    config: VisualNoiseConfig, rng: np.random.Generator
) -> VisualNoiseDraw | None:
    """The visual noise of a clip, None if it stays clean.

    With `hashed_generator("visual", seed, config.condition, utterance_id, pass_index)` as `rng`,
    here and then in `add_visual_noise`, a clip's noise depends on that key alone.
    """
    choice = rng.integers(len(config.types) + config.clean)
    if choice == len(config.types):
        return None
    level = int(rng.integers(1, LEVELS + 1)) if config.level is None else config.level
    return VisualNoiseDraw(config.types[choice], level)
