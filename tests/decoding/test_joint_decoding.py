"""Joint search: against ESPnet's algorithm written plainly and brute force; batches, errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_ctc import random_log_probs, transcripts
from torch import Tensor

from avhubert_ext.decoding.attention import Hypothesis
from avhubert_ext.decoding.joint import JointConfig, joint_search, settled
from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import DecoderConfig, TransformerDecoder

LOG_ZERO = -1e10
WEIGHTS = [0.0, 0.1, 0.5, 1.0]


class Shaped(TransformerDecoder):
    """Random weights; the surer the greater `scale`, and ends the sooner the greater `ends`."""

    def __init__(self, vocabulary: int, scale: float = 3.0, ends: float = 0.0) -> None:
        torch.manual_seed(vocabulary)
        super().__init__(DecoderConfig(vocabulary, layers=1, dim=16, ffn=32, heads=2))
        self.scale, self.ends = scale, ends
        self.eval()

    def forward(self, *inputs: object) -> Tensor:
        logits = self.scale * super().forward(*inputs)
        logits[..., -1] += self.ends
        return logits


def clips(lengths: list[int], vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """CTC's log probabilities, half of them blanks, memory and padding; the padding is spoiled."""
    padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    log_probs = random_log_probs(*padding.shape, vocabulary, scale=2.0, seed=vocabulary)
    log_probs[..., 0] += 5
    log_probs = log_probs.log_softmax(dim=-1).float()
    generator = torch.Generator().manual_seed(1)
    memory = 2 * torch.randn(*padding.shape, 16, generator=generator)
    return log_probs.masked_fill(padding[..., None], 7.0), memory, padding


def add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


State = tuple[list[float], list[float]]  # ending with a unit and with a blank, at each frame


def ctc_extend(y: list[list[float]], prefix: list[int], state: State, new: int) -> tuple:
    """Watanabe et al.'s algorithm 2: log psi of `prefix` and a `new` unit, and its state."""
    frames, length = len(y), len(prefix)
    unit, blank = [LOG_ZERO] * frames, [LOG_ZERO] * frames
    if not prefix:
        unit[0] = y[0][new]
    first = max(length, 1)
    psi = unit[first - 1]
    for t in range(first, frames):
        again = prefix and prefix[-1] == new
        phi = state[1][t - 1] if again else add(state[0][t - 1], state[1][t - 1])
        unit[t] = add(unit[t - 1], phi) + y[t][new]
        blank[t] = add(unit[t - 1], blank[t - 1]) + y[t][0]
        psi = add(psi, phi + y[t][new])
    return psi, (unit, blank)


def end_detected(ended: list[Hypothesis], step: int) -> bool:
    """As `len(yseq)` counts: the start, the tokens and the end."""
    if not ended:
        return False
    best = max(h.score for h in ended)
    worse = 0
    for m in range(3):
        same = [h.score for h in ended if 1 + len(h.tokens) == step - m]
        worse += bool(same) and max(same) - best < -10
    return worse == 3


@torch.no_grad()
def plain_search(
    decoder: TransformerDecoder, log_probs: Tensor, memory: Tensor, config: JointConfig
) -> tuple[list[Hypothesis], int]:
    """One utterance, a hypothesis at a time; also returns the steps it took."""
    y, frames, vocabulary = log_probs.tolist(), *log_probs.shape
    weight, end = config.ctc_weight, vocabulary - 1
    silence = list(itertools.accumulate(frame[0] for frame in y))
    running = [([], 0.0, 0.0, ([LOG_ZERO] * frames, silence))]  # tokens, score, log psi, state
    ended: list[Hypothesis] = []
    for step in range(frames):
        extended = []
        for tokens, score, psi, state in running:
            logits = decoder(torch.tensor([[end, *tokens]]), memory[None])[0, -1]
            by_decoder = logits.log_softmax(dim=-1).tolist()
            options = sorted(range(vocabulary), key=lambda i: -by_decoder[i])
            if weight < 1 and int(config.pre_beam * config.beam) < vocabulary:
                options = options[: int(config.pre_beam * config.beam)]
            for new in range(vocabulary):
                total, new_psi = score, LOG_ZERO
                if new == end:
                    new_psi = add(state[0][-1], state[1][-1])
                elif new != 0 and new in options:
                    new_psi, _ = ctc_extend(y, tokens, state, new)
                if weight < 1:
                    total += (1 - weight) * by_decoder[new]
                if weight > 0:
                    total += weight * (new_psi - psi)
                extended.append((total, new_psi, tokens, state, new))
        # ESPnet continues with these if there are too few others, and forgets what they are.
        extended = [e for e in extended if e[0] > LOG_ZERO / 1000]
        running = []
        extended.sort(key=lambda e: -e[0])
        for score, psi, tokens, state, new in extended[: config.beam]:
            if new == end or step == frames - 1:
                text = tokens if new == end else [*tokens, new]
                ended.append(Hypothesis((*text, end), score))
            else:
                running.append(([*tokens, new], score, psi, ctc_extend(y, tokens, state, new)[1]))
        if end_detected(ended, step) or not running:
            break
    ended.sort(key=lambda h: -h.score)
    return ended[: config.beam], step + 1


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=1e-4)


CASES: dict[str, tuple[Callable[[], Shaped], list[int], JointConfig]] = {
    "pre-beam": (lambda: Shaped(60, ends=5.0), [12, 5], JointConfig(8)),
    "end detection": (lambda: Shaped(23, 4.0, ends=9.0), [16, 12, 9], JointConfig(6)),
    "vocabulary without pre-beam": (lambda: Shaped(10, ends=4.0), [8, 7], JointConfig(7)),
    "beam of one": (lambda: Shaped(23, ends=2.0), [10, 3], JointConfig(1)),
    "wide pre-beam": (lambda: Shaped(60, ends=6.0), [6], JointConfig(5, pre_beam=4)),
    "more beam than hypotheses": (lambda: Shaped(5), [4, 3, 2, 1], JointConfig(40)),
}


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("case", CASES)
def test_it_finds_what_espnet_finds(case, weight):
    make, lengths, config = CASES[case]
    decoder = make()
    config = replace(config, ctc_weight=weight)
    log_probs, memory, padding = clips(lengths, decoder.config.vocabulary)
    together = joint_search(decoder, log_probs, memory, padding, config)
    for i, frames in enumerate(lengths):
        inputs = (log_probs[i, :frames], memory[i, :frames])
        expected, _ = plain_search(decoder, *inputs, config)
        assert_same(together[i], expected)
        (alone,) = joint_search(decoder, *(x[None] for x in inputs), None, config)
        assert_same(alone, expected)


def test_the_cases_show_what_they_should():
    make, lengths, config = CASES["end detection"]
    decoder = make()
    log_probs, memory, padding = clips(lengths, 23)
    found = joint_search(decoder, log_probs, memory, padding, config)
    assert all(len({len(h.tokens) for h in hypotheses}) > 3 for hypotheses in found)
    inputs = [(log_probs[i, :frames], memory[i, :frames]) for i, frames in enumerate(lengths)]
    steps = [plain_search(decoder, *clip, config)[1] for clip in inputs]
    assert steps == sorted(set(steps), reverse=True)  # utterances leave one after another
    assert all(step < frames for step, frames in zip(steps, lengths, strict=True))

    make, lengths, config = CASES["pre-beam"]
    narrow = replace(config, ctc_weight=0.5)
    inputs = make(), *clips(lengths, 60)
    by_all = joint_search(*inputs, replace(narrow, pre_beam=8))
    by_some = joint_search(*inputs, narrow)
    assert [h.tokens for h in by_some[0]] != [h.tokens for h in by_all[0]]


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
@torch.no_grad()
def test_with_a_beam_wide_enough_all_transcripts_are_found(weight):
    """Two units can be said, and CTC knows of each transcript how likely it is."""
    frames, end = 4, 3
    decoder = Shaped(4, scale=1.0)
    log_probs = random_log_probs(frames, end + 1).float()
    memory = torch.randn(1, frames, 16)
    alone = transcripts(log_probs.double())
    expected = {}
    for length in range(frames + 1):
        for tokens in itertools.product([1, 2], repeat=length):
            logits = decoder(torch.tensor([[end, *tokens]]), memory)[0]
            wanted = [*tokens, end] if length < frames else list(tokens)  # no end at the limit
            by_decoder = logits.log_softmax(dim=-1)[range(len(wanted)), wanted].sum().item()
            by_ctc = alone.get(tokens)
            if by_ctc is not None:
                expected[(*tokens, end)] = (1 - weight) * by_decoder + weight * math.log(by_ctc)
    (found,) = joint_search(decoder, log_probs[None], memory, None, JointConfig(200, weight))
    assert expected[found[0].tokens] == max(expected.values())
    ours = {h.tokens: h.score for h in found if not {0, end} & set(h.tokens[:-1])}
    assert ours == pytest.approx(expected, abs=1e-5)


def test_end_detection():
    """It looks at what ended 2, 3 and 4 steps ago, and compares with the best of all."""
    found = [
        Hypothesis((9,) * length, score)
        for length, score in [(3, -1.0), (6, -11.5), (7, -11.5), (7, -13.0), (8, -12.0)]
    ]
    assert [step for step in range(20) if settled(found, step)] == [9]
    assert not settled([*found, Hypothesis((9,) * 7, -10.9)], 9)
    assert not settled(found[1:], 9) and not settled([], 9)
    assert not settled([h for h in found if len(h.tokens) != 6], 9)


def test_a_clip_without_a_probability_is_an_error():
    log_probs, memory, _ = clips([6, 6], 23)
    spoiled = memory.clone()
    spoiled[1] = math.nan
    with pytest.raises(InputError, match=r"clips \[1\] of the batch: .*NaN"):
        joint_search(Shaped(23), log_probs, spoiled, None, JointConfig(3))
    log_probs[0, 2, 0] = math.nan
    with pytest.raises(InputError, match=r"clips \[0\] of the batch: .*NaN"):
        joint_search(Shaped(23), log_probs, memory, None, JointConfig(3, ctc_weight=1))


def test_shapes_that_do_not_fit():
    log_probs, memory, _ = clips([6, 6], 23)
    for wrong in (log_probs[:, :5], log_probs[..., 1:], log_probs[:1]):
        with pytest.raises(InputError, match=r"expected \(2, 6, 23\)"):
            joint_search(Shaped(23), wrong, memory, None, JointConfig())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beam": 0}, "beam 0: expected a whole number, 1 or more"),
        ({"beam": 2.5}, r"beam 2\.5: expected a whole number"),
        ({"beam": True}, "beam True: expected a whole number"),
        ({"ctc_weight": 1.1}, r"ctc_weight 1\.1: expected a number, 0 to 1"),
        ({"ctc_weight": -0.1}, r"ctc_weight -0\.1: expected a number, 0 to 1"),
        ({"ctc_weight": math.nan}, "ctc_weight nan: expected a number, 0 to 1"),
        ({"pre_beam": 0.9}, r"pre_beam 0\.9: expected a number, 1 or more"),
        ({"pre_beam": math.inf}, "pre_beam inf: expected a number, 1 or more"),
        ({"pre_beam": "2"}, "pre_beam '2': expected a number, 1 or more"),
    ],
)
def test_settings_that_make_no_sense(changes, words):
    with pytest.raises(InputError, match=words):
        JointConfig(**changes)
