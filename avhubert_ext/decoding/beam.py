"""How hypotheses are searched, and what is found; for every search, with PyTorch or without."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from avhubert_ext.errors import InputError

# The search ends when the best hypotheses of this many lengths in a row are so much worse than the
# best of all (Watanabe et al. 2017, equation 50).
END_LENGTHS = 3
END_MARGIN = 10.0
# Of CTC's log probabilities anything less likely counts as this: its exponential is a normal number
# in float64, and even the least likely unit at the likeliest frame is one.
LOWEST = -700.0


@dataclass(frozen=True)
class BeamConfig:
    """How hypotheses are searched; the lengths do not count the end of the sentence.

    beam: hypotheses kept, and found, for each utterance; at most the vocabulary without padding.
    length_penalty: exponent of the length that scores are divided by; 0 prefers short ones.
    max_len_a, max_len_b: an utterance of T frames gets at most int(max_len_a * T + max_len_b)
        tokens, but never fewer than min_len.
    min_len: tokens before the end of the sentence may come; 0 allows an empty hypothesis.
    Raises InputError where a value makes no sense.
    """

    beam: int = 5
    length_penalty: float = 1.0
    max_len_a: float = 1.0
    max_len_b: int = 0
    min_len: int = 1

    def __post_init__(self) -> None:
        for name, least in (("beam", 1), ("max_len_b", 0), ("min_len", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} {value!r}: expected a whole number, {least} or more")
        for name in ("length_penalty", "max_len_a"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                raise InputError(f"{name} {value!r}: expected a number, 0 or more")

    def limit(self, frames: int) -> int:
        """The most tokens an utterance of so many frames gets."""
        return max(self.min_len, int(self.max_len_a * frames + self.max_len_b))


@dataclass(frozen=True)
class JointConfig:
    """How hypotheses are searched and scored; the defaults are Auto-AVSR's.

    beam: hypotheses kept, and found at most, for each utterance.
    ctc_weight: of CTC's log probability, the decoder's has the rest to 1; with 0 or 1 the other
        has no say at all.
    pre_beam: CTC scores int(pre_beam * beam) of the tokens that may come next: the decoder's best.
    Raises InputError where a value makes no sense.
    """

    beam: int = 40
    ctc_weight: float = 0.1
    pre_beam: float = 1.5

    def __post_init__(self) -> None:
        if isinstance(self.beam, bool) or not isinstance(self.beam, int) or self.beam < 1:
            raise InputError(f"beam {self.beam!r}: expected a whole number, 1 or more")
        for name, least, most in (("ctc_weight", 0, 1), ("pre_beam", 1, math.inf)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not least <= value <= most or value == math.inf:
                upper = "or more" if most == math.inf else f"to {most}"
                raise InputError(f"{name} {value!r}: expected a number, {least} {upper}")

    def options(self, vocabulary: int) -> int:
        """How many of the decoder's best tokens are looked at to extend a hypothesis."""
        if self.ctc_weight == 1:
            return vocabulary
        # Without CTC nothing is reordered: more than `beam` of one hypothesis are never needed.
        ratio = self.pre_beam if self.ctc_weight > 0 else 1
        return min(int(ratio * self.beam), vocabulary)


Settings = TypeVar("Settings", BeamConfig, JointConfig)


@dataclass(frozen=True)
class SearchConfig:
    """Settings of the beam search to change; None keeps the model's default.

    Attributes:
        beam: Number of hypotheses. Default 5, or 40 with CTC.
        ctc_weight: Weight of CTC from 0 to 1; the decoder has the rest. Default 0.1. Only for
            models with CTC.
        pre_beam: CTC scores this many times `beam` tokens. Default 1.5. Only for models with CTC.
        length_penalty: Exponent of the length that scores are divided by. Default 1. Only for
            models without CTC, as are the following.
        max_len_a: Limit of the length, in tokens per video frame. Default 1.
        max_len_b: Number of tokens added to that limit. Default 0.
        min_len: Least number of tokens. Default 1.
    """

    beam: int | None = None
    ctc_weight: float | None = None
    pre_beam: float | None = None
    length_penalty: float | None = None
    max_len_a: float | None = None
    max_len_b: int | None = None
    min_len: int | None = None

    def applied_to(self, defaults: Settings, model: Path | str) -> Settings:
        """Return the defaults of a model with these changes.

        Args:
            defaults: Settings of the model's search.
            model: Where the model comes from, for errors.

        Raises:
            InputError: For a setting that the model's search does not have, or an invalid value.
        """
        changes = {name: value for name, value in vars(self).items() if value is not None}
        known = [field.name for field in fields(defaults)]
        for name in changes:
            if name not in known:
                kind = "no CTC layer" if isinstance(defaults, BeamConfig) else "a CTC layer"
                raise InputError(
                    f"{model}: {name} does not apply, the model has {kind}; its search takes "
                    f"{', '.join(known)}"
                )
        return replace(defaults, **changes)


@dataclass(frozen=True)
class Hypothesis:
    """tokens: subword ids, the last is EOS; score: sum of log p / len(tokens)**length_penalty."""

    tokens: tuple[int, ...]
    score: float


def sort_hypotheses(found: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
    """Those of each utterance, best first. Raises InputError if an utterance has none."""
    without = [place for place, hypotheses in enumerate(found) if not hypotheses]
    if without:
        raise InputError(
            f"clips {without} of the batch: no hypothesis has a finite score; look for NaN in the "
            "model's weights and in the input"
        )
    return [sorted(hypotheses, key=lambda h: -h.score) for hypotheses in found]


def settled(found: list[Hypothesis], step: int) -> bool:
    """Whether longer hypotheses than those `found` up to this step (from 0) are not worth it.

    As ESPnet's end detection, which looks at those that ended 2, 3 and 4 steps ago.
    """
    scores: dict[int, float] = {}
    for hypothesis in found:
        length = len(hypothesis.tokens)
        scores[length] = max(scores.get(length, -math.inf), hypothesis.score)
    margin = max(scores.values(), default=0.0) - END_MARGIN
    newest = step - 1
    lengths = range(newest, newest - END_LENGTHS, -1)
    return all(length in scores and scores[length] < margin for length in lengths)
