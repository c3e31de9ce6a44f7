"""Faces in a picture as 68 landmarks in iBUG's order, found by mediapipe."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from avhubert_ext.errors import InputError

# Of mediapipe's 468 points of a face those nearest to iBUG's 68: jaw, brows, bridge and foot of the
# nose, eyes, outer and inner lips. Chosen by measurement beside dlib's landmarks, of which
# AV-HuBERT's crops are made, on six portraits: the crops' scale is 1.004 +- 0.030 of that of
# dlib's, their centers lie within 2.3 pixels. (Points 33 and 263 for the outer corners of the eyes
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
LEAST_SCORE = 0.2  # of the detector that is reported; less is 0
# Read when its libraries are loaded.
QUIET_LOG = {"GLOG_minloglevel": "3", "TF_CPP_MIN_LOG_LEVEL": "3", "ABSL_MIN_LOG_LEVEL": "3"}

_STDERR = threading.RLock()  # two threads that took it away would not both give it back

Detect = Callable[[np.ndarray], Sequence]
Score = Callable[[np.ndarray], float]


class DetectorError(InputError):
    """No face can be looked for, in this video or in another."""


class Landmarker:
    """Finds faces in a picture.

    detect: RGB uint8 [H, W, 3] -> for each face 468 or more points with x and y in [0, 1].
    score: RGB uint8 [H, W, 3] -> how sure the detector is that a face is there, 0 to 1.
    """

    def __init__(self, detect: Detect, score: Score | None = None) -> None:
        self._detect = detect
        self._score = score
        with _quiet():  # all parts have begun, and said so, after a face
            self._speaks = not detect(_drawn_face())
            if score is not None:
                score(_drawn_face())

    def faces(self, image: np.ndarray) -> list[np.ndarray]:
        """RGB uint8 [H, W, 3] -> the landmarks of each face, float64 [68, 2], x and y in pixels.

        Faces of at least a seventh of the picture are found.
        """
        with _quiet() if self._speaks else nullcontext():
            found = self._detect(image)
        self._speaks = self._speaks and not found  # the last message comes with the first face
        height, width = image.shape[:2]
        return [
            np.array([(face[i].x * width, face[i].y * height) for i in IBUG_68]) for face in found
        ]

    def score(self, image: np.ndarray) -> float | None:
        """How sure the detector is of the face in RGB uint8 [H, W, 3], 0 to 1.

        The face should fill a third to a half of it. None where this mediapipe does not say.
        """
        return None if self._score is None else self._score(image)


def _drawn_face() -> np.ndarray:
    """A drawing that the detector takes for a face: RGB uint8 [230, 230, 3]."""
    image = np.full((230, 230, 3), [183, 98, 194], np.uint8)
    cv2.rectangle(image, (45, 25), (185, 215), [230, 188, 54], -1)
    for x in (80, 150):
        cv2.circle(image, (x, 85), 14, [145, 46, 66], -1)
        cv2.circle(image, (x, 85), 7, [67, 127, 156], -1)
    cv2.rectangle(image, (75, 155), (155, 180), [22, 249, 209], -1)
    cv2.line(image, (115, 95), (115, 135), [111, 36, 44], 4)
    return image


@contextmanager
def open_landmarker(model: Path | None = None) -> Iterator[Landmarker]:
    """mediapipe's face mesh with the models in its wheel, or with `model`, a face_landmarker.task.

    Raises DetectorError without mediapipe, or if this version has no models and none is named.
    """
    for name, value in QUIET_LOG.items():
        os.environ.setdefault(name, value)
    try:
        with _quiet():
            import mediapipe
    except ImportError:
        raise DetectorError(
            "finding faces needs mediapipe: pip install 'avhubert-ext[prepare]'"
        ) from None
    if model is not None:
        opened = _face_landmarker(mediapipe, model)
    elif hasattr(mediapipe, "solutions"):
        opened = _face_mesh(mediapipe)
    else:
        raise DetectorError(
            f"mediapipe {mediapipe.__version__} has no models in it: pip install "
            "mediapipe==0.10.21, or name a face_landmarker.task with --landmark-model"
        )
    with ExitStack() as stack:
        with _quiet():  # from before its threads begin until they have said what they say
            landmarker = Landmarker(*stack.enter_context(opened))
        yield landmarker


@contextmanager
def _face_mesh(mediapipe: ModuleType) -> Iterator[tuple[Detect, Score]]:
    """The older interface of mediapipe."""
    with _quiet():
        mesh = mediapipe.solutions.face_mesh.FaceMesh(
            static_image_mode=True, max_num_faces=MOST_FACES
        )
        detection = mediapipe.solutions.face_detection.FaceDetection(
            model_selection=0, min_detection_confidence=LEAST_SCORE
        )

    def detect(image: np.ndarray) -> Sequence:
        return [face.landmark for face in mesh.process(image).multi_face_landmarks or ()]

    def score(image: np.ndarray) -> float:
        return max((d.score[0] for d in detection.process(image).detections or ()), default=0.0)

    with mesh, detection:
        yield detect, score


@contextmanager
def _face_landmarker(mediapipe: ModuleType, model: Path) -> Iterator[tuple[Detect]]:
    """The newer one, which does not give the detector's score."""
    from mediapipe.tasks import python as tasks

    if not model.is_file():
        raise DetectorError(f"{model} not found: name a face_landmarker.task of mediapipe")
    options = tasks.vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_buffer=model.read_bytes()),
        num_faces=MOST_FACES,
    )
    try:
        with _quiet():
            landmarker = tasks.vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise DetectorError(
            f"{model}: not a face_landmarker.task of mediapipe ({reason}); get it again"
        ) from None
    picture = partial(mediapipe.Image, image_format=mediapipe.ImageFormat.SRGB)
    with landmarker:
        yield (lambda image: landmarker.detect(picture(data=image)).face_landmarks,)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what mediapipe's C++ writes to stderr, which no setting of its own can stop."""
    with _STDERR:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
