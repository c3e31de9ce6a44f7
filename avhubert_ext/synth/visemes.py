"""Compute the motion of the mouth from phonemes.

Each phoneme belongs to a viseme: a target for the parameters of the mouth, and its firmness. The
motion blends the targets around each moment, weighted by their firmness and proximity: dominance
functions after Cohen and Massaro, "Modeling coarticulation in synthetic visual speech" (1993), here
with a Gaussian fall-off outside the phoneme.

Phonemes of one viseme look the same (/p b m/, /f v/, /t d s z n l/), and those formed behind the
teeth (/k g h/) take the shape of their neighbors, so the lips are ambiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PARAMETERS = ("opening", "width", "rounding", "teeth", "tongue", "jaw", "tuck", "press")
"""The columns of a trajectory, each 0 to 1: opening between the lips; width, from narrow to spread;
rounding and protrusion; visibility of the upper teeth; height of the tongue; how far the chin is
lowered; lower lip under the upper teeth; lips pressed together."""


@dataclass(frozen=True)
class Viseme:
    """A target of the mouth, and the firmness of its three groups of parameters."""

    opening: float
    width: float
    rounding: float
    teeth: float
    tongue: float
    jaw: float
    tuck: float = 0.0
    press: float = 0.0
    firm_lips: float = 1.0  # opening, jaw, tuck, press
    firm_shape: float = 1.0  # width, rounding
    firm_inside: float = 1.0  # teeth, tongue
    reach: float = 0.045  # seconds over which the influence decreases on either side

    @property
    def targets(self) -> tuple[float, ...]:
        return tuple(getattr(self, name) for name in PARAMETERS)

    @property
    def firmness(self) -> tuple[float, ...]:
        groups = {"width": self.firm_shape, "rounding": self.firm_shape}
        groups |= {"teeth": self.firm_inside, "tongue": self.firm_inside}
        return tuple(groups.get(name, self.firm_lips) for name in PARAMETERS)


VISEMES = {
    #                        opening width round teeth tongue jaw  tuck press
    "rest": Viseme(0.00, 0.50, 0.00, 0.00, 0.00, 0.00, 0.0, 0.1, 0.8, 0.5, 0.5, 0.06),
    "bilabial": Viseme(0.00, 0.50, 0.05, 0.00, 0.10, 0.08, 0.0, 1.0, 12.0, 0.25, 0.5, 0.022),
    "labiodental": Viseme(0.12, 0.55, 0.00, 0.90, 0.00, 0.08, 1.0, 0.0, 9.0, 0.30, 4.0, 0.024),
    "dental": Viseme(0.28, 0.55, 0.00, 0.70, 1.00, 0.20, 0.0, 0.0, 2.0, 0.40, 6.0, 0.030),
    "alveolar": Viseme(0.20, 0.60, 0.00, 0.90, 0.55, 0.12, 0.0, 0.0, 1.2, 0.35, 2.0, 0.035),
    "velar": Viseme(0.32, 0.50, 0.00, 0.40, 0.10, 0.30, 0.0, 0.0, 0.06, 0.04, 0.1, 0.035),
    "postalveolar": Viseme(0.30, 0.20, 0.70, 0.90, 0.20, 0.15, 0.0, 0.0, 2.0, 2.5, 3.0, 0.040),
    "r": Viseme(0.26, 0.30, 0.55, 0.35, 0.20, 0.18, 0.0, 0.0, 0.9, 1.4, 0.8, 0.045),
    "w": Viseme(0.12, 0.05, 1.00, 0.00, 0.00, 0.12, 0.0, 0.0, 3.0, 4.0, 1.0, 0.040),
    "palatal": Viseme(0.22, 0.85, 0.00, 0.70, 0.35, 0.15, 0.0, 0.0, 0.7, 0.9, 0.8, 0.040),
    "i": Viseme(0.26, 1.00, 0.00, 0.75, 0.35, 0.15, 0.0, 0.0, 1.0, 1.4, 0.8),
    "ih": Viseme(0.34, 0.75, 0.00, 0.60, 0.30, 0.28, 0.0, 0.0, 0.8, 0.8, 0.6),
    "eh": Viseme(0.52, 0.75, 0.00, 0.55, 0.25, 0.50, 0.0, 0.0, 1.0, 1.0, 0.8),
    "ae": Viseme(0.74, 0.82, 0.00, 0.55, 0.20, 0.75, 0.0, 0.0, 1.2, 1.1, 0.8),
    "ah": Viseme(1.00, 0.52, 0.00, 0.30, 0.10, 1.00, 0.0, 0.0, 1.4, 1.0, 0.8),
    "uh": Viseme(0.60, 0.52, 0.00, 0.40, 0.15, 0.60, 0.0, 0.0, 0.9, 0.7, 0.6),
    "o": Viseme(0.70, 0.28, 0.55, 0.15, 0.05, 0.70, 0.0, 0.0, 1.1, 1.3, 0.8),
    "aw": Viseme(0.62, 0.18, 0.80, 0.05, 0.05, 0.60, 0.0, 0.0, 1.2, 1.8, 0.8),
    "oo": Viseme(0.28, 0.18, 0.75, 0.10, 0.10, 0.22, 0.0, 0.0, 1.0, 1.5, 0.7),
    "u": Viseme(0.18, 0.03, 1.00, 0.00, 0.05, 0.14, 0.0, 0.0, 1.4, 2.4, 0.8),
    "schwa": Viseme(0.36, 0.50, 0.10, 0.40, 0.20, 0.32, 0.0, 0.0, 0.5, 0.3, 0.5),
    "er": Viseme(0.38, 0.38, 0.40, 0.35, 0.20, 0.32, 0.0, 0.0, 0.9, 1.0, 0.7),
}

# espeak-ng's names of the phonemes of its English voices, without marks of stress and variants. A
# diphthong passes through several visemes in equal parts.
PHONEMES: dict[str, tuple[str, ...]] = {
    "_": ("rest",),
    **dict.fromkeys(("p", "b", "m"), ("bilabial",)),
    **dict.fromkeys(("f", "v"), ("labiodental",)),
    **dict.fromkeys(("T", "D"), ("dental",)),
    **dict.fromkeys(("t", "d", "s", "z", "n", "l", "*"), ("alveolar",)),
    **dict.fromkeys(("k", "g", "N", "h", "x", "?", ";"), ("velar",)),
    **dict.fromkeys(("S", "Z", "tS", "dZ"), ("postalveolar",)),
    **dict.fromkeys(("j", "C"), ("palatal",)),
    "r": ("r",),
    "w": ("w",),
    **dict.fromkeys(("i", "i:"), ("i",)),
    "I": ("ih",),
    **dict.fromkeys(("E", "e"), ("eh",)),
    "a": ("ae",),
    **dict.fromkeys(("a#", "@", "@2", "@5"), ("schwa",)),
    **dict.fromkeys(("A", "A:", "A@", "aa"), ("ah",)),
    **dict.fromkeys(("V", "VR"), ("uh",)),
    **dict.fromkeys(("0", "O2"), ("o",)),
    **dict.fromkeys(("O", "O:", "O@", "o@", "o"), ("aw",)),
    "U": ("oo",),
    **dict.fromkeys(("u", "u:"), ("u",)),
    **dict.fromkeys(("3", "3:", "IR"), ("er",)),
    "@L": ("schwa", "alveolar"),
    "eI": ("eh", "ih"),
    "aI": ("ah", "ih"),
    "aI@": ("ah", "ih", "schwa"),
    "aI3": ("ah", "ih", "er"),
    "OI": ("aw", "ih"),
    "aU": ("ae", "oo"),
    "aU@": ("ae", "oo", "schwa"),
    "oU": ("o", "u"),
    "i@": ("i", "schwa"),
    "i@3": ("i", "er"),
    "e@": ("eh", "er"),
    "U@": ("oo", "er"),
}


def visemes_of(phoneme: str) -> tuple[str, ...]:
    """Return the visemes of an espeak-ng phoneme, for example "p", "'aI3" or "t#".

    Marks of stress are removed first, then marks of variants from the end until the name is known.
    An unknown phoneme looks like a schwa.
    """
    name = phoneme.lstrip("',%=")
    while name and name not in PHONEMES:
        name = name[:-1]
    return PHONEMES[name or "@"]


def mouth_trajectory(
    phonemes: Sequence[tuple[str, float, float]], n_frames: int, fps: float
) -> np.ndarray:
    """Compute the parameters of the mouth in the middle of each frame.

    Args:
        phonemes: (name, start, end) in seconds. The mouth rests before the first and after the
            last one.
        n_frames: The number of frames.
        fps: Frames per second.

    Returns:
        float32 [n_frames, len(PARAMETERS)].
    """
    first, last = phonemes[0][1], phonemes[-1][2]
    segments = [(VISEMES["rest"], first - 1.0, first)]
    for name, start, end in phonemes:
        parts = visemes_of(name)
        edges = np.linspace(start, end, len(parts) + 1)
        segments += [
            (VISEMES[part], s, e) for part, s, e in zip(parts, edges[:-1], edges[1:], strict=True)
        ]
    segments.append((VISEMES["rest"], last, last + n_frames / fps + 1.0))

    targets = np.array([viseme.targets for viseme, _, _ in segments])  # [N, P]
    firmness = np.array([viseme.firmness for viseme, _, _ in segments])  # [N, P]
    reach = np.array([viseme.reach for viseme, _, _ in segments])  # [N] s
    starts, ends = np.array([(start, end) for _, start, end in segments]).T
    # The influence decreases slightly inside the phoneme, so that long ones glide, too.
    margin = np.minimum(0.25 * (ends - starts), reach)
    times = (np.arange(n_frames)[:, None] + 0.5) / fps
    away = np.maximum(starts + margin - times, times - (ends - margin)).clip(0)  # [T, N] s
    nearness = np.exp(-((away / reach) ** 2)) + 1e-9
    return ((nearness @ (firmness * targets)) / (nearness @ firmness)).astype(np.float32)
