"""Find faces in an image with mediapipe, as 68 landmarks in iBUG's order."""

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

# The points among mediapipe's 468 nearest to iBUG's 68: jaw, brows, bridge and base of the nose,
# eyes, outer and inner lips. They were chosen by comparing crops with those of dlib's landmarks,
# which AV-HuBERT uses, on six portraits: the scale is 1.004 +- 0.030 of dlib's, and the centers lie
# within 2.3 pixels. (Points 33 and 263, the outer corners of the eyes, lie further out than dlib's:
# faces would be 3% too small.)
IBUG_68 = np.array([
    127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    7, 160, 158, 133, 153, 144, 362, 385, 387, 249, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
])  # fmt: skip
MOST_FACES = 8  # in one image
LEAST_SCORE = 0.2  # lower scores of the detector are reported as 0
# Mediapipe reads these when its libraries are loaded.
QUIET_LOG = {"GLOG_minloglevel": "3", "TF_CPP_MIN_LOG_LEVEL": "3", "ABSL_MIN_LOG_LEVEL": "3"}

_STDERR = threading.RLock()  # two threads must not redirect stderr at once

Detect = Callable[[np.ndarray], Sequence]
Score = Callable[[np.ndarray], float]


class DetectorError(InputError):
    """The face detector is not available, for this video or any other."""


class Landmarker:
    """Finds faces in an image.

    Args:
        detect: RGB uint8 [H, W, 3] -> per face, 468 or more points with x and y in [0, 1].
        score: RGB uint8 [H, W, 3] -> confidence of the detector that there is a face, 0 to 1.
    """

    def __init__(self, detect: Detect, score: Score | None = None) -> None:
        self._detect = detect
        self._score = score
        with _quiet():  # every part of it logs at its first face
            self._logs = not detect(_drawn_face())
            if score is not None:
                score(_drawn_face())

    def faces(self, image: np.ndarray) -> list[np.ndarray]:
        """Find all faces of at least a seventh of the image.

        Args:
            image: RGB uint8 [H, W, 3].

        Returns:
            The landmarks of each face, float64 [68, 2], x and y in pixels.
        """
        with _quiet() if self._logs else nullcontext():
            found = self._detect(image)
        self._logs = self._logs and not found  # its last message comes with the first face
        height, width = image.shape[:2]
        return [
            np.array([(face[i].x * width, face[i].y * height) for i in IBUG_68]) for face in found
        ]

    def score(self, image: np.ndarray) -> float | None:
        """Return the confidence of the detector, 0 to 1; None if this mediapipe has no score.

        Args:
            image: RGB uint8 [H, W, 3]. The face should fill a third to a half of it.
        """
        return None if self._score is None else self._score(image)


def _drawn_face() -> np.ndarray:
    """Draw an image in which the detector finds a face: RGB uint8 [230, 230, 3]."""
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
    """Open mediapipe's face landmark detector.

    Args:
        model: A face_landmarker.task file; None uses the models in mediapipe's wheel.

    Raises:
        DetectorError: If mediapipe is missing, or if its version includes no models and `model` is
            None.
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
            f"mediapipe {mediapipe.__version__} includes no models: pip install "
            "mediapipe==0.10.21, or give a face_landmarker.task with --landmark-model"
        )
    with ExitStack() as stack:
        with _quiet():  # until all of its threads have logged their start
            landmarker = Landmarker(*stack.enter_context(opened))
        yield landmarker


@contextmanager
def _face_mesh(mediapipe: ModuleType) -> Iterator[tuple[Detect, Score]]:
    """Open the older interface of mediapipe."""
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
    """Open the newer interface, which does not return the score of the detector."""
    from mediapipe.tasks import python as tasks

    if not model.is_file():
        raise DetectorError(f"{model} not found: give a face_landmarker.task file of mediapipe")
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
            f"{model}: not a face_landmarker.task of mediapipe ({reason}); download it again"
        ) from None
    picture = partial(mediapipe.Image, image_format=mediapipe.ImageFormat.SRGB)
    with landmarker:
        yield (lambda image: landmarker.detect(picture(data=image)).face_landmarks,)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what mediapipe's C++ code writes to stderr, as none of its settings does."""
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
