"""The distillation losses: paper A's against its equations (1) and (2), written frame by frame, and
that of paper B's lip readers against divergences written output by output."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avhubert_ext.errors import InputError
from avhubert_ext.training.losses import (
    IGNORED,
    ctc_attention_distillation_loss,
    ctc_attention_loss,
    distillation_loss,
    soft_label_kl,
)


def by_hand(predictions, states, padding, weight) -> float:
    total = 0.0
    for block, predicted in predictions.items():
        frames = [
            (predicted[b, t].tolist(), states[block][b, t].tolist())
            for b in range(predicted.shape[0])
            for t in range(predicted.shape[1])
            if padding is None or not padding[b, t]
        ]
        for p, h in frames:
            l1 = sum(abs(x - y) for x, y in zip(p, h, strict=True)) / len(p)
            dot = sum(x * y for x, y in zip(p, h, strict=True))
            cosine = dot / math.sqrt(sum(x * x for x in p) * sum(y * y for y in h))
            total += (l1 - weight * math.log(1 / (1 + math.exp(-cosine)))) / len(frames)
    return total


@pytest.fixture
def case():
    torch.manual_seed(0)
    predictions = {block: torch.randn(2, 5, 7) for block in (2, 4)}
    states = {block: torch.randn(2, 5, 7) for block in range(5)}
    padding = torch.tensor([[False] * 5, [False] * 2 + [True] * 3])
    return predictions, states, padding


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("padded", [False, True])
def test_the_loss_is_the_sum_over_blocks_of_frame_means(case, weight, padded):
    predictions, states, padding = case
    padding = padding if padded else None
    loss, terms = distillation_loss(predictions, states, padding, weight)
    assert loss.item() == pytest.approx(by_hand(predictions, states, padding, weight), rel=1e-5)
    assert set(terms) == {f"{kind}_{b}" for kind in ("l1", "cosine_similarity") for b in (2, 4)}
    assert not any(term.requires_grad for term in terms.values())


def test_lambda_is_one_by_default(case):
    predictions, states, padding = case
    loss, _ = distillation_loss(predictions, states, padding)
    assert loss.item() == pytest.approx(by_hand(predictions, states, padding, 1.0), rel=1e-5)


def test_terms_are_those_of_the_log(case):
    predictions, states, padding = case
    loss, terms = distillation_loss(predictions, states, padding, 0.0)
    assert (terms["l1_2"] + terms["l1_4"]).item() == pytest.approx(loss.item(), rel=1e-5)
    same = {2: states[2].clone()}
    perfect, terms = distillation_loss(same, states, padding)
    assert {name: term.item() for name, term in terms.items()} == {
        "l1_2": 0.0,
        "cosine_similarity_2": pytest.approx(1.0),
    }
    assert perfect.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_padding_gives_no_loss_and_no_gradient(case):
    predictions, states, padding = case
    states = {b: s.masked_fill(padding[..., None], 1e6) for b, s in states.items()}
    predictions = {b: p.clone().requires_grad_() for b, p in predictions.items()}
    loss, _ = distillation_loss(predictions, states, padding)
    assert loss.item() < 100
    loss.backward()
    for predicted in predictions.values():
        assert predicted.grad[padding].abs().max() == 0
        assert predicted.grad[~padding].abs().sum(-1).min() > 0


def test_half_precision_is_summed_in_float32(case):
    """In float16 the squared norm of a vector as large as AV-HuBERT's overflows."""
    predictions, states, padding = case
    predictions = {b: (100 * p).half() for b, p in predictions.items()}
    states = {b: (100 * s).half() for b, s in states.items()}
    loss, terms = distillation_loss(predictions, states, padding)
    assert loss.dtype == torch.float32 and all(t.dtype == torch.float32 for t in terms.values())
    assert loss.item() == pytest.approx(by_hand(predictions, states, padding, 1.0), rel=1e-4)


@pytest.mark.parametrize("targets", [{2: torch.zeros(2, 5, 1)}, {4: torch.zeros(2, 5, 7)}])
def test_a_student_that_does_not_fit_its_teacher_is_refused(case, targets):
    predictions, _, padding = case
    with pytest.raises(InputError, match=r"predicts teacher block 2 as \[2, 5, 7\], its target is"):
        distillation_loss(predictions, targets, padding)


# ---- lip readers (paper B)

OUTPUTS = 6
FRAMES, TOKENS = (7, 5), (4, 2)


def outputs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """CTC log probabilities and decoder logits of two utterances, padded."""
    generator = torch.Generator().manual_seed(seed)
    ctc, logits = (
        torch.randn(2, max(lengths), OUTPUTS, generator=generator) for lengths in (FRAMES, TOKENS)
    )
    return ctc.log_softmax(-1), logits


@pytest.fixture
def lips():
    """Outputs of student and teacher, padding mask, targets."""
    padding = torch.tensor([[t >= n for t in range(max(FRAMES))] for n in FRAMES])
    targets = torch.tensor([[1, 3, 2, 5], [4, 5, IGNORED, IGNORED]])
    return outputs(1), outputs(2), padding, targets


def divergence(logits, teacher_logits, lengths, temperature) -> float:
    """KL(teacher || student), output by output."""
    total = 0.0
    for b, length in enumerate(lengths):
        for n in range(length):
            q, p = (
                [math.exp(x / temperature) for x in rows[b, n].tolist()]
                for rows in (logits, teacher_logits)
            )
            q, p = ([x / sum(values) for x in values] for values in (q, p))
            total += sum(t * math.log(t / s) for t, s in zip(p, q, strict=True))
    return total


@pytest.mark.parametrize(
    ("weight", "temperature", "ctc_weight"), [(0.5, 1.0, 0.1), (0.3, 2.5, 0.4), (1.0, 0.5, 0.0)]
)
def test_soft_and_hard_labels_are_weighted(lips, weight, temperature, ctc_weight):
    student, teacher, padding, targets = lips
    found, terms = ctc_attention_distillation_loss(*lips, ctc_weight, 0.2, weight, temperature)
    hard, hard_terms = ctc_attention_loss(*student, padding, targets, ctc_weight, 0.2)
    ctc, attention = (
        divergence(one, other, lengths, temperature)
        for one, other, lengths in zip(student, teacher, (FRAMES, TOKENS), strict=True)
    )
    soft = ctc_weight * ctc + (1 - ctc_weight) * attention
    expected = (1 - weight) * hard.item() + weight * temperature**2 * soft
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert terms["kl_ctc"].item() == pytest.approx(ctc, rel=1e-5)
    assert terms["kl_attention"].item() == pytest.approx(attention, rel=1e-5)
    assert hard_terms.items() <= terms.items()
    assert not any(term.requires_grad for term in terms.values())


def test_without_weight_only_the_labels_count(lips):
    student, _, padding, targets = lips
    found, _ = ctc_attention_distillation_loss(*lips, distillation_weight=0.0, temperature=3.0)
    assert found == ctc_attention_loss(*student, padding, targets)[0]


def test_a_student_like_its_teacher_has_nothing_to_learn_from_it(lips):
    student, _, padding, targets = lips
    found, terms = ctc_attention_distillation_loss(
        student, student, padding, targets, distillation_weight=1.0, temperature=2.0
    )
    assert found == terms["kl_ctc"] == terms["kl_attention"] == 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_labels_pull_towards_the_teacher(lips, temperature):
    """The gradient is the difference of the softened posteriors, none at padding."""
    (_, logits), (_, teacher_logits), _, targets = lips
    logits, teacher_logits = logits.requires_grad_(), teacher_logits.requires_grad_()
    valid = targets != IGNORED
    (temperature**2 * soft_label_kl(logits, teacher_logits, valid, temperature)).backward()
    student, teacher = ((x / temperature).softmax(-1) for x in (logits, teacher_logits))
    expected = temperature * (student - teacher).detach() * valid[..., None]
    torch.testing.assert_close(logits.grad, expected)
    assert teacher_logits.grad is None


def test_the_soft_loss_is_a_sum_over_utterances_without_their_padding(lips):
    student, teacher, padding, targets = lips
    student, teacher = (
        (ctc.masked_fill(padding[..., None], x), logits.masked_fill((targets < 0)[..., None], x))
        for (ctc, logits), x in ((student, -1e4), (teacher, 1e4))
    )
    together, _ = ctc_attention_distillation_loss(student, teacher, padding, targets)
    apart = [
        ctc_attention_distillation_loss(
            *((ctc[b : b + 1, :t], logits[b : b + 1, :n]) for ctc, logits in (student, teacher)),
            None,
            targets[b : b + 1, :n],
        )[0]
        for b, (t, n) in enumerate(zip(FRAMES, TOKENS, strict=True))
    ]
    torch.testing.assert_close(together, sum(apart))


def test_half_precision_posteriors_are_compared_in_float32(lips):
    (_, logits), (_, teacher_logits), _, targets = lips
    logits, teacher_logits = (x.bfloat16() for x in (logits, teacher_logits))
    found = soft_label_kl(logits, teacher_logits, targets != IGNORED)
    assert found.dtype == torch.float32
    exact = divergence(logits, teacher_logits, TOKENS, 1.0)
    assert found.item() == pytest.approx(exact, rel=1e-5)


def test_a_teacher_of_other_outputs_is_refused(lips):
    student, (ctc, logits), padding, targets = lips
    with pytest.raises(InputError, match=r"shape \[2, 4, 6\], its teacher's \[2, 4, 5\]: choose"):
        ctc_attention_distillation_loss(student, (ctc, logits[..., :5]), padding, targets)


# ---- a GPU is not waited for

# What needs a value, or a number of values, from the device before the program can continue.
WAITING = ("_local_scalar_dense", "nonzero", "index.Tensor", "masked_select", "item", "equal")


class Waits(TorchDispatchMode):
    """The operators of its block for which the program would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if any(name in str(operator) for name in WAITING):
            self.found.append(str(operator))
        return operator(*args, **kwargs or {})


def test_what_waits_is_seen():
    values = torch.arange(3.0)
    for wait in (
        lambda: values[values > 1],
        lambda: float(values[0]),
        lambda: values[: values.int()[1]],
    ):
        with Waits() as waits:
            wait()
        assert waits.found


def test_no_loss_waits_for_the_device(lips, case):
    student, _, padding, targets = lips
    predictions, states, frames = case
    for loss, inputs in (
        (lambda: ctc_attention_loss(*student, padding, targets), student),
        (lambda: ctc_attention_distillation_loss(*lips), student),
        (lambda: distillation_loss(predictions, states, frames), predictions.values()),
    ):
        for x in inputs:
            x.requires_grad_()
        with Waits() as waits:
            found, _ = loss()
            found.backward()
        assert waits.found == []
        assert all(x.grad.any() for x in inputs)


def path_sum(log_probs, labels) -> torch.Tensor:
    """Minus the log of the sum of all alignments of labels [L], one path of T frames at a time."""
    total = [
        sum(log_probs[t, unit] for t, unit in enumerate(path))
        for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs))
        if [unit for unit, _ in itertools.groupby(path) if unit] == labels
    ]
    return -torch.stack(total).logsumexp(0)


def smoothed(logits, labels, smoothing) -> torch.Tensor:
    total = 0.0
    for row, label in zip(logits.log_softmax(-1), labels, strict=True):
        for output, log_prob in enumerate(row):
            p = 1 - smoothing if output == label else smoothing / (len(row) - 1)
            total = total + p * (math.log(p) - log_prob)
    return total


def test_ctc_and_attention_are_their_formulas_with_gradients():
    """In float64, one utterance at a time without padding; one is too short for its labels."""
    torch.manual_seed(3)
    targets = torch.tensor([[1, 1, 2, 3], [2, 3, IGNORED, IGNORED], [1, 2, 3, IGNORED]])
    frames, tokens = [5, 3, 1], [4, 2, 3]
    padding = torch.arange(5)[None] >= torch.tensor(frames)[:, None]
    inputs = [torch.randn(3, 5, 4).requires_grad_(), torch.randn(3, 4, 4).requires_grad_()]
    ctc, logits = inputs[0].log_softmax(-1), inputs[1]
    found, terms = ctc_attention_loss(ctc, logits, padding, targets, 0.3, 0.2)

    exact = [x.detach().double().requires_grad_() for x in inputs]
    log_probs = exact[0].log_softmax(-1)
    fitting = [b for b, (t, n) in enumerate(zip(frames, tokens, strict=True)) if t >= n]
    assert fitting == [0, 1]
    ctc_sum = sum(
        path_sum(log_probs[b, : frames[b]], targets[b, : tokens[b] - 1].tolist()) for b in fitting
    )
    attention = sum(
        smoothed(exact[1][b, :n], targets[b, :n].tolist(), 0.2) for b, n in enumerate(tokens)
    )
    expected = 0.3 * ctc_sum + 0.7 * attention
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert terms["loss_ctc"].item() == pytest.approx(ctc_sum.item(), rel=1e-6)
    gradients = torch.autograd.grad(found, inputs), torch.autograd.grad(expected, exact)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-6, rtol=0)
