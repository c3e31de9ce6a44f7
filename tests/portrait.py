"""Videos of a real face: scikit-image's portrait of the astronaut Eileen Collins in motion."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from skimage import data

# In the portrait, measured with dlib's 68 landmarks (means over 100 perturbed face boxes): corners
# of the eyes and base of the nose, which AV-HuBERT aligns, and the mean of the mouth's points.
STABLE = np.array([[224.0, 134.2], [195.0, 101.0], [212.2, 104.0], [237.6, 105.0], [255.1, 104.1]])
MOUTH = np.array([223.0, 145.4])
GRAY = (90, 90, 90)


def movement(frames: int, size: tuple[int, int], scale: float = 1.0) -> np.ndarray:
    """Make transforms [T, 2, 3] from the portrait to frames of (width, height), with motion."""
    width, height = size
    result = []
    for t in range(frames):
        turn = np.deg2rad(12 * np.sin(2 * np.pi * t / 60))
        factor = scale * (1 + 0.15 * np.sin(2 * np.pi * t / 45))
        place = np.array(
            [
                width * (0.5 + 0.12 * np.sin(2 * np.pi * t / 50)),
                height * (0.5 + 0.1 * np.cos(2 * np.pi * t / 35)),
            ]
        )
        linear = factor * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        result.append(np.column_stack([linear, place - linear @ MOUTH]))
    return np.array(result)


def moved(transforms: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """Draw the portrait under each transform, RGB."""
    image = data.astronaut()
    return [
        cv2.warpAffine(image, m, size, flags=cv2.INTER_AREA, borderValue=GRAY) for m in transforms
    ]


def tone(seconds: float) -> np.ndarray:
    """Make a sound with a clear start: int16 at 16 kHz."""
    return (8000 * np.sin(2 * np.pi * 440 * np.arange(round(16000 * seconds)) / 16000)).astype(
        "int16"
    )


def write_clip(
    path: Path,
    frames: list[np.ndarray],
    rate: Fraction | int = 25,
    audio: np.ndarray | None = None,
    stamps: list[int] | None = None,
    rotation: int | None = None,
    codecs: tuple[str, str] = ("libx264", "aac"),
    audio_start: float = 0.0,
) -> Path:
    """Write RGB frames and int16 audio at 16 kHz; `stamps` are the times of the frames in ms."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(codecs[0], rate=rate)
        pictures.height, pictures.width = frames[0].shape[:2]
        pictures.pix_fmt = "yuvj420p" if codecs[0] == "mjpeg" else "yuv420p"
        if codecs[0] == "libx264":
            pictures.options = {"preset": "ultrafast", "crf": "12"}
        else:
            pictures.bit_rate = 4_000_000
        if stamps is not None:
            pictures.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            pictures.set_display_rotation(rotation)
        if audio is not None:
            sound = container.add_stream(codecs[1], rate=16000, layout="mono")
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 1000)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if audio is not None:
            block = av.AudioFrame.from_ndarray(audio[None], format="s16", layout="mono")
            block.sample_rate = 16000
            block.pts, block.time_base = round(16000 * audio_start), Fraction(1, 16000)
            container.mux(sound.encode(block))
            container.mux(sound.encode())
    return path
