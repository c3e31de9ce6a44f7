"""Settings and results of the beam searches, shared by PyTorch and numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from avhubert_ext.errors import InputError

# The joint search ends when the best hypotheses of END_LENGTHS lengths in a row are worse than the
# best of all by END_MARGIN (Watanabe et al. 2017, equation 50).
END_LENGTHS = 3
END_MARGIN = 10.0
# Lower bound of CTC's log probabilities: exp(-700) does not underflow in float64.
LOWEST = -700.0


@dataclass(frozen=True)
class BeamConfig:
    """Settings of the attention search (models without CTC). Lengths exclude the end token.

    Attributes:
        beam: Hypotheses kept, and returned, per utterance; at most the vocabulary size minus 1.
        length_penalty: Exponent of the length that scores are divided by; 0 favors short ones.
        max_len_a: An utterance of T frames gets at most int(max_len_a * T + max_len_b) tokens.
        max_len_b: See `max_len_a`.
        min_len: Least number of tokens; 0 allows an empty hypothesis.

    Raises:
        InputError: For an invalid value.
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
        """Return the maximum number of tokens for an utterance of this many frames."""
        return max(self.min_len, int(self.max_len_a * frames + self.max_len_b))


@dataclass(frozen=True)
class JointConfig:
    """Settings of the joint search (models with CTC); the defaults are Auto-AVSR's.

    Attributes:
        beam: Hypotheses kept per utterance, and the most that are returned.
        ctc_weight: Weight of CTC's log probability; the decoder's weight is 1 minus this. With 0
            or 1 only one of the two contributes.
        pre_beam: CTC scores the decoder's best int(pre_beam * beam) next tokens.

    Raises:
        InputError: For an invalid value.
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
        """Return how many of the decoder's best tokens may extend a hypothesis."""
        if self.ctc_weight == 1:
            return vocabulary
        # Without CTC the order is the decoder's: `beam` tokens per hypothesis are enough.
        ratio = self.pre_beam if self.ctc_weight > 0 else 1
        return min(int(ratio * self.beam), vocabulary)


Settings = TypeVar("Settings", bound=BeamConfig | JointConfig)


@dataclass(frozen=True)
class SearchConfig:
    """Settings of the beam search to change; None keeps the model's default.

    Attributes:
        beam: Number of hypotheses. Default 5, or 40 with CTC.
        ctc_weight: Weight of CTC from 0 to 1; the decoder gets the rest. Default 0.1. Only for
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
    """A decoded sentence.

    Attributes:
        tokens: Ids of its units; the last one is the end of the sentence.
        score: What the search ranks by: without CTC the sum of the log probabilities divided by
            len(tokens) ** length_penalty, with CTC the weighted sum of both log probabilities.
    """

    tokens: tuple[int, ...]
    score: float


def sort_hypotheses(found: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
    """Sort the hypotheses of each utterance, best first.

    Raises:
        InputError: If an utterance has no hypothesis.
    """
    without = [place for place, hypotheses in enumerate(found) if not hypotheses]
    if without:
        raise InputError(
            f"clips {without} of the batch: no hypothesis has a finite score; check the model's "
            "weights and the input for NaN"
        )
    return [sorted(hypotheses, key=lambda h: -h.score) for hypotheses in found]


def settled(found: list[Hypothesis], step: int) -> bool:
    """Whether to end the search at this step (from 0), since longer hypotheses get worse.

    This is ESPnet's end detection: it checks the hypotheses that ended 2, 3 and 4 steps ago.
    """
    scores: dict[int, float] = {}
    for hypothesis in found:
        length = len(hypothesis.tokens)
        scores[length] = max(scores.get(length, -math.inf), hypothesis.score)
    margin = max(scores.values(), default=0.0) - END_MARGIN
    newest = step - 1
    lengths = range(newest, newest - END_LENGTHS, -1)
    return all(length in scores and scores[length] < margin for length in lengths)
