"""CTC prefix scores: against all alignments of a tiny clip, and against the plain recursion."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from avhubert_ext.data.text import BLANK
from avhubert_ext.decoding.ctc import CTCPrefixScorer

FRAMES, VOCABULARY = 5, 4
END = VOCABULARY - 1
UNITS = (1, 2)
PREFIXES = [p for length in range(4) for p in itertools.product(UNITS, repeat=length)]


def random_log_probs(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return logits.log_softmax(dim=-1)


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(unit for unit, _ in itertools.groupby(path) if unit != BLANK)


def transcripts(log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """Probability of each transcript of a clip [T, V]: the sum over all of its alignments."""
    sums: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        p = log_probs[range(len(path)), path].sum().exp().item()
        sums[collapse(path)] = sums.get(collapse(path), 0.0) + p
    return sums


def after(scorer: CTCPrefixScorer, prefix: tuple[int, ...]) -> CTCPrefixScorer:
    """The first hypothesis of each utterance, extended by the units of `prefix`."""
    utterances = torch.arange(len(scorer.lengths))
    for unit in prefix:
        first = torch.zeros(len(utterances), 1, dtype=torch.int64)
        scorer.extend(utterances, first, torch.full_like(first, unit))
    return scorer


def log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf


@pytest.mark.parametrize("prefix", PREFIXES, ids=str)
def test_scores_are_sums_over_all_alignments(prefix):
    log_probs = random_log_probs(FRAMES, VOCABULARY)
    all_of_them = transcripts(log_probs)
    assert sum(all_of_them.values()) == pytest.approx(1)
    scorer = after(CTCPrefixScorer(log_probs[None], None), prefix)
    expected = [-math.inf] * VOCABULARY
    for unit in UNITS:
        start = (*prefix, unit)
        expected[unit] = log(sum(p for t, p in all_of_them.items() if t[: len(start)] == start))
    expected[END] = log(all_of_them.get(prefix, 0.0))
    assert scorer.scores()[0, 0].tolist() == pytest.approx(expected, abs=1e-12)
    some = torch.tensor([[[END, 2, BLANK]]])
    assert scorer.scores(some)[0, 0].tolist() == pytest.approx(
        [expected[END], expected[2], -math.inf], abs=1e-12
    )


def test_what_the_frames_have_no_room_for_is_impossible():
    """A repeated unit needs a blank between: three of them take all five frames."""
    scorer = after(CTCPrefixScorer(random_log_probs(1, FRAMES, VOCABULARY), None), (1, 1, 1))
    assert scorer.scores()[0, 0].isfinite().tolist() == [False, False, False, True]
    scorer = after(scorer, (2,))
    assert scorer.scores().tolist() == [[[-math.inf] * VOCABULARY]]
    assert after(scorer, (1,)).scores().tolist() == [[[-math.inf] * VOCABULARY]]


def plain_recursion(log_probs: list[list[float]], prefix: list[int]) -> tuple[list[float], float]:
    """Frame by frame: scores of each unit after `prefix`, and of `prefix` alone."""

    def add(*terms: float) -> float:
        greatest = max(terms)
        if greatest == -math.inf:
            return greatest
        return greatest + math.log(math.fsum(math.exp(x - greatest) for x in terms))

    unit, blank, last = [-math.inf] * (len(log_probs) + 1), [0.0], None
    for y in log_probs:
        blank.append(blank[-1] + y[BLANK])
    for new in prefix:
        before = blank if new == last else list(map(add, unit, blank))
        unit, blank = [-math.inf], [-math.inf]
        for y, flow in zip(log_probs, before, strict=False):
            both = add(unit[-1], blank[-1])
            unit.append(add(unit[-1], flow) + y[new])
            blank.append(both + y[BLANK])
        last = new
    scores = []
    for new in range(len(log_probs[0])):
        before = blank if new == last else list(map(add, unit, blank))
        terms = [flow + y[new] for y, flow in zip(log_probs, before, strict=False)]
        scores.append(add(*terms))
    return scores, add(unit[-1], blank[-1])


def sure(frames: int, vocabulary: int, spoken: dict[int, int]) -> Tensor:
    """Blanks that are all but certain, but for the units `spoken` at some frames."""
    log_probs = torch.full((frames, vocabulary), -40.0, dtype=torch.float64)
    log_probs[:, BLANK] = -1e-7
    for frame, unit in spoken.items():
        log_probs[frame] = torch.tensor([-40.0 if i != unit else -1e-7 for i in range(vocabulary)])
    return log_probs


SEVERAL = torch.tensor([4, 5, 7])
LONG = {
    "random": (random_log_probs(600, 8), [1, 2, 2, 3, 4, 1]),
    "peaked": (random_log_probs(600, 8, scale=20.0), [5, 2, 2, 3, 4, 1]),
    "sure of what is said": (sure(600, 8, {100: 1, 300: 2, 302: 2, 599: 3}), [1, 2, 2]),
    "sure of something else": (sure(600, 8, {100: 1, 300: 2, 302: 2}), [3, 3, 1]),
    "probabilities of zero": (sure(600, 8, {9: 1}).index_fill(1, SEVERAL, -math.inf), [1]),
    "a unit that cannot be": (random_log_probs(600, 8).index_fill(1, SEVERAL, -math.inf), [1, 5]),
}


@pytest.mark.parametrize("name", LONG)
def test_long_clips_keep_their_digits(name):
    log_probs, prefix = LONG[name]
    scorer = after(CTCPrefixScorer(log_probs[None], None), prefix)
    scores, whole = plain_recursion(log_probs.clamp(min=-700.0).tolist(), prefix)
    expected = [-math.inf, *scores[1:-1], whole]
    assert scorer.scores()[0, 0].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-8)


def test_hypotheses_and_utterances_are_chosen_and_padding_is_not_heard():
    """Utterance 1 leaves; each hypothesis scores as it does alone in its own clip."""
    lengths = [9, 4, 6]
    log_probs = random_log_probs(3, 9, 7).float()
    padding = torch.arange(9) >= torch.tensor(lengths)[:, None]
    spoiled = log_probs.masked_fill(padding[..., None], math.nan)
    scorer = CTCPrefixScorer(spoiled, padding)
    scorer.extend(torch.arange(3), torch.tensor([[0, 0]] * 3), torch.tensor([[1, 2]] * 3))
    left, parents = torch.tensor([0, 2]), torch.tensor([[1, 1, 0]] * 2)
    scorer.extend(left, parents, torch.tensor([[2, 3, 4]] * 2))
    options = torch.tensor([[[4, 6, 2], [0, 3, 5], [1, 4, 6]]] * 2)
    for place, utterance in enumerate([0, 2]):
        clip = log_probs[utterance : utterance + 1, : lengths[utterance]]
        for k, prefix in enumerate([(2, 2), (2, 3), (1, 4)]):
            alone = after(CTCPrefixScorer(clip, None), prefix).scores()[0, 0]
            assert scorer.scores()[place, k].tolist() == pytest.approx(alone.tolist(), abs=1e-12)
            expected = alone[options[place, k]].tolist()
            assert scorer.scores(options)[place, k].tolist() == pytest.approx(expected, abs=1e-12)


def test_no_number_stays_in_its_utterance():
    log_probs = random_log_probs(2, 6, 5)
    log_probs[1, 2, 3] = math.nan
    scorer = after(CTCPrefixScorer(log_probs, None), (3,))
    assert scorer.scores()[0, 0, 1:].isfinite().all()
    assert scorer.scores()[1, 0, 1:].isnan().all()
