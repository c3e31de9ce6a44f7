"""Read the landmark files of AV-HuBERT and Auto-AVSR, one file per clip.

No code in a pickle is executed, not even numpy's, which a forged array state can crash: stand-ins
collect the state of arrays and types, and the arrays are built from that.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np

from avhubert_ext.errors import InputError
from avhubert_ext.mouth.align import SCHEMES


def check_count(path: Path, count: int, frames: int) -> None:
    """Raise InputError if landmarks and video differ in their number of frames."""
    if count != frames:
        raise InputError(
            f"{path}: landmarks of {count} frames, but the video has {frames} at 25 frames/s; "
            "use the landmarks of this video at this frame rate"
        )


def read_landmarks(path: Path) -> tuple[int, dict[int, np.ndarray]]:
    """Read the landmarks of a clip.

    Args:
        path: A `.pkl` file with a list of an array or None per frame, or a `.npy` or `.npz` file
            with an array [T, K, 2], NaN for a frame without a face.

    Returns:
        T, the number of frames at 25 frames/s, and the landmarks [K, 2] by frame number, K = 68
        or 4.

    Raises:
        InputError: If the file is missing or malformed.
    """
    values = _load(path)
    found = {t: _checked(path, t, value) for t, value in enumerate(values) if value is not None}
    found = {t: points for t, points in found.items() if np.isfinite(points).all()}
    if not found:
        raise InputError(f"{path}: no frame with a face; leave this clip out")
    if len({len(points) for points in found.values()}) > 1:
        raise InputError(f"{path}: some frames have 68 landmarks, others 4; make the file again")
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
            f"{path}: not a readable landmark file ({type(error).__name__}); copy it again"
        ) from None
    if isinstance(values, list) or (isinstance(values, np.ndarray) and values.ndim):
        return list(values)
    raise InputError(f"{path}: contains a {type(values).__name__}, expected landmarks by frame")


def _checked(path: Path, frame: int, value: object) -> np.ndarray:
    try:
        points = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) not in SCHEMES:
        raise InputError(
            f"{path}: frame {frame} has shape {list(points.shape)}, expected [68, 2] or [4, 2]"
        )
    return points


class _Type:
    """Collects the state of a pickled numpy.dtype."""

    def __init__(self, code: str, *_: object) -> None:
        self._code, self._order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self._order = state[1]

    def numpy(self) -> np.dtype:
        """Build the type."""
        if self._code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
            raise InputError(f"the values are of type {self._code!r}, expected numbers")
        return np.dtype(self._code).newbyteorder(self._order)


class _Array:
    """Collects the state of a pickled numpy.ndarray."""

    def __init__(self, *_: object) -> None:
        self._state = None

    def __setstate__(self, state: tuple) -> None:
        self._state = state

    def numpy(self) -> np.ndarray:
        """Build the array."""
        _, shape, kind, by_columns, values = self._state
        flat = np.frombuffer(values, kind.numpy())
        return flat.reshape(shape, order="F" if by_columns else "C")


def _from_buffer(values: bytes, kind: _Type, shape: tuple, order: str) -> _Array:
    """Stand in for numpy's function in pickles of protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", values))
    return array


def _encoded(text: str, _encoding: str) -> bytes:
    """Return the bytes that pickles of protocol 2 store as text."""
    return text.encode("latin1")


_STAND_INS = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "_codecs.encode": _encoded,
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}


# The unpickler written in Python: a forged file can crash the one written in C.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> object:
        full = f"{module}.{name}"
        if full not in _STAND_INS:
            raise InputError(f"rejected: {full!r} in it could run code; save the landmarks as .npy")
        return _STAND_INS[full]


def _plain(value: object) -> object:
    """Replace stand-ins by arrays, and tuples by lists."""
    if isinstance(value, _Array):
        return value.numpy()
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
