"""Visual noise as in SparseVSR (paper B): types with ten levels, drawn reproducibly.

The paper gives no parameters. It refers to LipForensics, which uses the five levels of
DeeperForensics-1.0, made for whole faces. Here, ten levels are spaced evenly from the first to the
last of those.
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
GRAY = 128  # gray value of a block
STEEPEST = 45.0  # largest angle of motion from the horizontal, in degrees


def add_visual_noise(
    frames: np.ndarray, kind: str, level: int, rng: np.random.Generator
) -> np.ndarray:
    """Add visual noise to a whole clip.

    Args:
        frames: uint8 [T, H, W].
        kind: A key of TYPES.
        level: From 0 (unchanged) to LEVELS.
        rng: Draws blocks and Gaussian noise for each frame, and the direction of motion once.

    Returns:
        uint8 [T, H, W].

    Raises:
        InputError: If an argument is invalid.
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
        raise InputError(
            f"visual noise of level {level!r}: expected an integer from {lowest} to {LEVELS}"
        )


def _block(frames: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Draw gray blocks within the frame; without overlap they would cover `share` of it."""
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
    """Make a blur kernel, float32 [length, length]: a centered line that sums to 1.

    The line has `length` points, one pixel apart. Each point is distributed among its four
    neighboring pixels.

    Args:
        length: Length of the line in pixels, odd.
        degrees: Its angle from the horizontal.
    """
    places = np.arange(length) - length // 2
    radians = np.deg2rad(degrees)
    rows, columns = (
        np.clip(1 - np.abs(places[:, None] - slope * places), 0, None)
        for slope in (-np.sin(radians), np.cos(radians))
    )
    return (rows @ columns.T / length).astype(np.float32)


def _pixelation(frames: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    """Shrink and enlarge, both bilinear as in the reference: smooth, without visible squares."""
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
    """Encode a clip as H.264 with x264's defaults.

    Args:
        frames: uint8 [T, H, W].
        crf: Constant rate factor; higher values compress more.
    """
    import av

    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = frames.shape[1:]
    encoder.pix_fmt = "gray"  # no chroma: gray values keep the range 0..255, and sides may be odd
    encoder.framerate = FPS
    encoder.time_base = Fraction(1, FPS)
    # Without mbtree, as in `write_video`, and with one thread, every run gives the same bits.
    encoder.options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
    packets = []
    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="gray")
        frame.pts = number
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


def _luma(plane: Any) -> np.ndarray:
    """Return a decoded plane as uint8 [H, W], without the padding of its rows."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _gaussian_noise(frames: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(frames.shape, dtype=np.float32)
    return np.clip(np.rint(frames + 255 * np.float32(sigma) * noise), 0, 255).astype(np.uint8)


def _contrast(frames: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    """Scale gray values, which darkens the frames: as in the reference, the mean is not kept."""
    return np.rint(np.arange(256) * factor).astype(np.uint8)[frames]


def _jpeg(frames: np.ndarray, quality: int, _: np.random.Generator) -> np.ndarray:
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    coded = (cv2.imencode(".jpg", frame, options)[1] for frame in frames)
    return np.stack([cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) for data in coded])


def _between(*five: float) -> tuple[float, ...]:
    """Interpolate five levels to ten, from the first to the last."""
    return tuple(np.interp(np.linspace(1, 5, LEVELS), range(1, 6), five).tolist())


@dataclass(frozen=True)
class NoiseType:
    """A type of visual noise.

    Attributes:
        apply: (uint8 [T, H, W], parameter, generator) -> uint8 [T, H, W], a new array.
        parameters: The parameter at levels 1 to LEVELS.
        meaning: The meaning of the parameter, with its unit.
        source: Where type and parameters come from.
        random: Whether it uses the generator, so that the noise differs between passes.
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
        "share of the frame covered by gray blocks of 8x8 pixels",
        "DeeperForensics: 16 blocks per level on 256x256; its code adds none to smaller frames",
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
        "ours, as nothing is published: the longest line is as long as the widest Gaussian kernel",
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
        # Added to luma, which has 219 of 255 steps: scaled to gray values.
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
        "ImageNet-C; paper B names JPEG, but its reference compresses with H.264",
    ),
}


@dataclass(frozen=True)
class VisualNoiseConfig:
    """Which visual noise to add, and how strong.

    Attributes:
        types: Keys of TYPES, equally likely.
        level: From 1 to LEVELS; None draws one, all equally likely.
        clean: Whether "no noise" is one more choice, as likely as each type (training in paper B).

    Raises:
        InputError: If a value is invalid.
    """

    types: tuple[str, ...] = TRAINING_TYPES
    level: int | None = None
    clean: bool = True

    def __post_init__(self) -> None:
        if not self.types:
            raise InputError(f"visual noise without a type: choose from {', '.join(TYPES)}")
        for kind in self.types:
            _check_type(kind)
        if len(set(self.types)) < len(self.types):
            raise InputError(f"visual noise {', '.join(self.types)}: name each type once")
        if self.level is not None:
            _check_level(self.level, lowest=1)

    @property
    def condition(self) -> str:
        """The condition in words, for example `block level 3`. It seeds the draws."""
        clean = "clean or " if self.clean else ""
        level = f"1 to {LEVELS}" if self.level is None else self.level
        return f"{clean}{', '.join(self.types)} level {level}"


@dataclass(frozen=True)
class VisualNoiseDraw:
    """The visual noise of one clip."""

    kind: str
    level: int

    def record(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def draw_visual_noise(
    config: VisualNoiseConfig, rng: np.random.Generator
) -> VisualNoiseDraw | None:
    """Draw the visual noise of a clip, None if it stays clean.

    Args:
        config: Which visual noise to draw from.
        rng: With `hashed_generator("visual", seed, config.condition, utterance_id, pass_index)`,
            used first here and then in `add_visual_noise`, the noise depends on that key only.
    """
    choice = rng.integers(len(config.types) + config.clean)
    if choice == len(config.types):
        return None
    level = int(rng.integers(1, LEVELS + 1)) if config.level is None else config.level
    return VisualNoiseDraw(config.types[choice], level)
