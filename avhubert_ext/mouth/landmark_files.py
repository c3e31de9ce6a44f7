"""Landmark files as AV-HuBERT and Auto-AVSR keep them, one a clip."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np

from avhubert_ext.errors import InputError
from avhubert_ext.mouth.align import SCHEMES

# What a pickle of numpy arrays names, by numpy 1 and 2. Anything else is refused: a name in a
# pickle is something to be run.
ALLOWED = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


def read_landmarks(path: Path, frames: int) -> dict[int, np.ndarray]:
    """Landmarks [K, 2] by frame number, K 68 or 4, for a clip of so many frames at 25 a second.

    path: `.pkl`, a list with an array or None a frame; `.npy` or `.npz` with an array [T, K, 2],
    NaN for a frame without a face. Nothing in a pickle is run. Raises InputError for another form.
    """
    values = _load(path)
    if len(values) != frames:
        raise InputError(
            f"{path}: landmarks of {len(values)} frames for a video of {frames} at 25 a second; "
            "they belong to another file, or to another frame rate"
        )
    found = {t: _checked(path, t, value) for t, value in enumerate(values) if value is not None}
    found = {t: points for t, points in found.items() if np.isfinite(points).all()}
    if not found:
        raise InputError(f"{path}: no frame with a face in it; leave this clip out")
    if len({len(points) for points in found.values()}) > 1:
        raise InputError(f"{path}: frames with 68 and with 4 landmarks; make it again")
    return found


def _load(path: Path) -> list:
    if not path.is_file():
        raise InputError(f"{path} not found: every clip needs its landmarks, .pkl, .npy or .npz")
    try:
        if path.suffix == ".pkl":
            values = _ArraysOnly(io.BytesIO(path.read_bytes())).load()
        else:
            values = np.load(path, allow_pickle=False)
            if isinstance(values, np.lib.npyio.NpzFile):
                values = values[values.files[0]]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise InputError(
            f"{path}: not a landmark file that can be read ({type(error).__name__}); copy it again"
        ) from None
    if (isinstance(values, np.ndarray) and values.ndim) or isinstance(values, (list, tuple)):
        return list(values)
    raise InputError(f"{path}: holds a {type(values).__name__}, expected landmarks by frame")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise InputError(
                f"refused, for it names {module}.{name}, which might be run; save the landmarks "
                "as .npy"
            )
        return super().find_class(module, name)


def _checked(path: Path, frame: int, value: object) -> np.ndarray:
    try:
        points = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) not in SCHEMES:
        raise InputError(
            f"{path}: frame {frame} holds {list(points.shape)}, expected 68 or 4 landmarks: [K, 2]"
        )
    return points
