"""Speakers: voice and face, drawn from the seed of the corpus and the speaker number."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from avhubert_ext.synth.mouth import Face
from avhubert_ext.synth.speech import Voice

ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-us-nyc", "en-gb-scotland", "en-gb-x-gbclan")
MALE_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8")
FEMALE_VARIANTS = ("f1", "f2", "f3", "f4", "f5")
# Voices of the talkers in the noise corpus, none of which is used by a speaker.
NOISE_VARIANTS = (
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Gene", "Lee", "Michael", "adam", "belinda",
    "david", "edward", "linda", "steph",
)  # fmt: skip


@dataclass(frozen=True)
class Speaker:
    """A speaker. The name is that of the folder."""

    name: str
    voice: Voice
    face: Face


def seeded(seed: int, *labels: str | int) -> np.random.Generator:
    """Return an independent generator for each (seed, labels)."""
    return np.random.default_rng([seed, *(crc32(str(label).encode()) for label in labels)])


def make_speaker(seed: int, index: int) -> Speaker:
    """Make speaker number `index` of a corpus, independent of the number of speakers."""
    rng = seeded(seed, "speaker", index)
    variants = seeded(seed, "variants").permutation(MALE_VARIANTS + FEMALE_VARIANTS)
    variant = str(variants[index % len(variants)])
    voice = Voice(
        name=f"{rng.choice(ACCENTS)}+{variant}",
        pitch=int(rng.integers(35, 66)),
        pitch_range=int(rng.integers(30, 71)),
        rate=int(rng.integers(140, 186)),
        volume=int(rng.integers(55, 86)),
    )
    return Speaker(f"spk{index:04d}", voice, _make_face(rng, beard=variant in MALE_VARIANTS))


def make_talker(seed: int, index: int) -> Voice:
    """Make voice number `index` of the noise corpus; the first len(NOISE_VARIANTS) differ."""
    rng = seeded(seed, "talker", index)
    return Voice(
        name=f"{rng.choice(ACCENTS)}+{NOISE_VARIANTS[index % len(NOISE_VARIANTS)]}",
        pitch=int(rng.integers(30, 71)),
        pitch_range=int(rng.integers(30, 71)),
        rate=int(rng.integers(140, 186)),
        volume=int(rng.integers(55, 86)),
    )


def _make_face(rng: np.random.Generator, beard: bool) -> Face:
    """Draw geometry, color, and light of one face; `beard` allows stubble."""
    skin = rng.uniform(105, 190)
    return Face(
        half_width=rng.uniform(20.5, 25.5),
        upper_lip=rng.uniform(4.2, 6.6),
        lower_lip=rng.uniform(6.2, 9.2),
        cupid=rng.uniform(0.10, 0.40),
        corner_drop=rng.uniform(-0.8, 1.6),
        opening=rng.uniform(18.0, 23.0),
        articulation=rng.uniform(0.85, 1.12),
        nose_height=rng.uniform(22.0, 28.0),
        chin_height=rng.uniform(24.0, 30.0),
        skin=skin,
        lip_darkness=skin * rng.uniform(0.17, 0.36),
        gloss=rng.uniform(6, 26),
        teeth=min(235.0, skin * rng.uniform(1.2, 1.35)),
        teeth_height=rng.uniform(5.5, 8.0),
        cavity=rng.uniform(18, 40),
        folds=rng.uniform(3, 16),
        stubble=rng.uniform(4, 30) if beard else 0.0,
        light_x=rng.uniform(-28, 28),
        light_y=rng.uniform(-18, 10),
        motion=rng.uniform(0.6, 2.2),
        noise=rng.uniform(1.0, 2.6),
        texture_seed=int(rng.integers(2**31)),
    )
