"""Landmark files as AV-HuBERT and Auto-AVSR keep them, one a clip.

Nothing in a pickle is run, not even numpy, which a forged state of an array can crash: stand-ins
take what is said of arrays and types, and arrays are made of that.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np

from avhubert_ext.errors import InputError
from avhubert_ext.mouth.align import SCHEMES


def read_landmarks(path: Path, frames: int) -> dict[int, np.ndarray]:
    """Landmarks [K, 2] by frame number, K 68 or 4, for a clip of so many frames at 25 a second.

    path: `.pkl`, a list with an array or None a frame; `.npy` or `.npz` with an array [T, K, 2],
    NaN for a frame without a face. Raises InputError for another form.
    """
    count, found = read_any_landmarks(path)
    check_count(path, count, frames)
    return found


def check_count(path: Path, count: int, frames: int) -> None:
    """Raise InputError for landmarks of another number of frames than their video has."""
    if count != frames:
        raise InputError(
            f"{path}: landmarks of {count} frames for a video of {frames} at 25 a second; "
            "they belong to another file, or to another frame rate"
        )


def read_any_landmarks(path: Path) -> tuple[int, dict[int, np.ndarray]]:
    """The number of frames in a file, and landmarks as `read_landmarks`."""
    values = _load(path)
    found = {t: _checked(path, t, value) for t, value in enumerate(values) if value is not None}
    found = {t: points for t, points in found.items() if np.isfinite(points).all()}
    if not found:
        raise InputError(f"{path}: no frame with a face in it; leave this clip out")
    if len({len(points) for points in found.values()}) > 1:
        raise InputError(f"{path}: frames with 68 and with 4 landmarks; make it again")
    return len(values), found


def _load(path: Path) -> list:
    if not path.is_file():
        raise InputError(f"{path} not found: every clip needs its landmarks, .pkl, .npy or .npz")
    try:
        if path.suffix == ".pkl":
            values = _plain(_Unpickler(io.BytesIO(path.read_bytes())).load())
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
    if isinstance(values, list) or (isinstance(values, np.ndarray) and values.ndim):
        return list(values)
    raise InputError(f"{path}: holds a {type(values).__name__}, expected landmarks by frame")


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


class _Type:
    """What a pickle says of a numpy.dtype."""

    def __init__(self, code: str, *_: object) -> None:
        self._code, self._order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self._order = state[1]

    def numpy(self) -> np.dtype:
        if self._code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
            raise InputError(f"its values are {self._code!r}, expected numbers")
        return np.dtype(self._code).newbyteorder(self._order)


class _Array:
    """What a pickle says of a numpy.ndarray."""

    def __init__(self, *_: object) -> None:
        self._state = None

    def __setstate__(self, state: tuple) -> None:
        self._state = state

    def numpy(self) -> np.ndarray:
        _, shape, kind, by_columns, values = self._state
        flat = np.frombuffer(values, kind.numpy())
        return flat.reshape(shape, order="F" if by_columns else "C")


def _from_buffer(values: bytes, kind: _Type, shape: tuple, order: str) -> _Array:
    """As numpy's function for pickles of protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", values))
    return array


def _encoded(text: str, _encoding: str) -> bytes:
    """The bytes that pickles of protocol 2 hold as text."""
    return text.encode("latin1")


_STAND_INS = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "_codecs.encode": _encoded,
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}


# Python's own, in Python: a forged file can end the process in the one that is written in C.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> object:
        full = f"{module}.{name}"
        if full not in _STAND_INS:
            raise InputError(
                f"refused, for it names {full!r}, which might be run; save the landmarks as .npy"
            )
        return _STAND_INS[full]


def _plain(value: object) -> object:
    """With arrays for their stand-ins, and lists for tuples."""
    if isinstance(value, _Array):
        return value.numpy()
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
