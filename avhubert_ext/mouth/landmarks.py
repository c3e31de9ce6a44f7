"""Faces in a picture as 68 landmarks in iBUG's order, found by mediapipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np

from avhubert_ext.errors import InputError

# Of mediapipe's 468 points of a face those nearest to iBUG's 68: jaw, brows, bridge and foot of the
# nose, eyes, outer and inner lips. Chosen by measurement beside dlib's landmarks, of which
# AV-HuBERT's crops are made, on six portraits: the crops' scale is 1.004 +- 0.030 of that of
# dlib's, their centres lie within 2.3 pixels. (Points 33 and 263 for the outer corners of the eyes
# lie further out than dlib's: faces come out 3% too small.)
IBUG_68 = np.array([
    127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    7, 160, 158, 133, 153, 144, 362, 385, 387, 249, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
])  # fmt: skip
MOST_FACES = 8  # in one picture


class Landmarker(Protocol):
    """Finds faces in a picture."""

    def faces(self, image: np.ndarray) -> list[np.ndarray]:
        """RGB uint8 [H, W, 3] -> the landmarks of each face, float64 [68, 2], x and y in pixels.

        Faces of at least a seventh of the picture are found.
        """
        ...


@contextmanager
def open_landmarker(model: Path | None = None) -> Iterator[Landmarker]:
    """mediapipe's face mesh with the models in its wheel, or with `model`, a face_landmarker.task.

    Raises InputError without mediapipe, or if this version has no models and none is named.
    """
    try:
        import mediapipe
    except ImportError:
        raise InputError(
            "finding faces needs mediapipe: pip install 'avhubert-ext[prepare]'"
        ) from None
    if model is not None:
        with _task(mediapipe, model) as landmarker:
            yield landmarker
    elif hasattr(mediapipe, "solutions"):
        with _quiet():
            mesh = mediapipe.solutions.face_mesh.FaceMesh(
                static_image_mode=True, max_num_faces=MOST_FACES
            )
            mesh.process(np.zeros((192, 192, 3), np.uint8))  # its threads have started after this
        with mesh:
            yield _FaceMesh(mesh)
    else:
        raise InputError(
            f"mediapipe {mediapipe.__version__} has no models in it: pip install "
            "mediapipe==0.10.21, or name a face_landmarker.task with --landmark-model"
        )


class _FaceMesh:
    """The older interface."""

    def __init__(self, mesh: object) -> None:
        self._mesh = mesh
        self._first = True

    def faces(self, image: np.ndarray) -> list[np.ndarray]:
        with _quiet() if self._first else nullcontext():
            found = self._mesh.process(image).multi_face_landmarks or []
        self._first = self._first and not found
        return [_in_pixels(face.landmark, image) for face in found]


class _FaceLandmarker:
    """The Tasks interface."""

    def __init__(self, mediapipe: object, task: object) -> None:
        self._mediapipe = mediapipe
        self._task = task

    def faces(self, image: np.ndarray) -> list[np.ndarray]:
        picture = self._mediapipe.Image(
            image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image)
        )
        return [_in_pixels(face, image) for face in self._task.detect(picture).face_landmarks]


@contextmanager
def _task(mediapipe: object, model: Path) -> Iterator[Landmarker]:
    from mediapipe.tasks import python as tasks

    if not model.is_file():
        raise InputError(f"{model} not found: name a face_landmarker.task of mediapipe")
    options = tasks.vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_buffer=model.read_bytes()),
        num_faces=MOST_FACES,
    )
    try:
        task = tasks.vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{model}: not a face_landmarker.task of mediapipe ({reason}); get it again"
        ) from None
    with task:
        yield _FaceLandmarker(mediapipe, task)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what mediapipe's C++ writes to stderr, which no setting of its own can stop."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _in_pixels(face: list, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.array([(face[i].x * width, face[i].y * height) for i in IBUG_68])
