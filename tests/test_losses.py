"""The distillation loss against equations (1) and (2) of paper A, written frame by frame."""

import math

import pytest
import torch

from avhubert_ext.errors import InputError
from avhubert_ext.losses import distillation_loss


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
