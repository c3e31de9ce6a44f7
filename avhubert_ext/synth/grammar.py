"""Sentences to synthesize: a GRID-like command grammar, and templates with common words."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from avhubert_ext.synth.words import TEMPLATES, WORDS

COMMAND_SLOTS: tuple[tuple[str, ...], ...] = (
    ("BIN", "LAY", "PLACE", "SET"),
    ("BLUE", "GREEN", "RED", "WHITE"),
    ("AT", "BY", "IN", "WITH"),
    tuple("ABCDEFGHIJKLMNOPQRSTUVXYZ"),  # no W: three syllables, as in GRID
    ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"),
    ("AGAIN", "NOW", "PLEASE", "SOON"),
)
LETTER_SLOT = 3

# espeak-ng reads a single A as the article; the brackets contain the phoneme to say instead.
LETTER_A = "[['eI]]"


@dataclass(frozen=True)
class Sentence:
    """The words of the transcript, and the spelling of each for espeak-ng."""

    words: tuple[str, ...]
    spoken: tuple[str, ...]


def command_sentence(rng: np.random.Generator) -> Sentence:
    """Draw one of the 64,000 commands, for example PLACE BLUE AT F TWO NOW."""
    words = tuple(str(rng.choice(slot)) for slot in COMMAND_SLOTS)
    spoken = [word.lower() for word in words]
    letter = words[LETTER_SLOT]
    spoken[LETTER_SLOT] = LETTER_A if letter == "A" else letter
    return Sentence(words, tuple(spoken))


def open_sentence(rng: np.random.Generator) -> Sentence:
    """Draw a sentence of 4 to 10 common words: roughly English, not always meaningful."""
    template = str(rng.choice(TEMPLATES))
    text = re.sub(r"<(\w+)>", lambda slot: str(rng.choice(WORDS[slot[1]])), template)
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    spoken = tuple(text.split())
    return Sentence(tuple(word.upper() for word in spoken), spoken)


DOMAINS = {"commands": command_sentence, "open": open_sentence}
