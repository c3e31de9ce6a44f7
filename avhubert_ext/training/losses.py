"""Training criteria in plain PyTorch.

What is padded is computed and then left out of the sums. To select the valid rows (`x[valid]`,
`row[:length]`) a GPU has to count them first, and the program waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from avhubert_ext.data.text import BLANK
from avhubert_ext.errors import InputError

IGNORED = -1  # in targets: padding


def label_smoothed_kl(logits: Tensor, targets: Tensor, smoothing: float = 0.1) -> Tensor:
    """Divergence of the outputs from smoothed targets, summed over all tokens (Auto-AVSR's).

    logits: [B, L, V]; targets: [B, L] int64, IGNORED where there is none. The target puts
    1 - smoothing on the label and smoothing / (V - 1) on each other output. float32 throughout.
    """
    valid = targets != IGNORED
    log_probs = logits.float().log_softmax(dim=-1)
    others = smoothing / (log_probs.shape[-1] - 1)
    at_label = log_probs.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    cross_entropy = -((1 - smoothing - others) * at_label + others * log_probs.sum(dim=-1))
    entropy = -(1 - smoothing) * _log(1 - smoothing) - smoothing * _log(others)
    return (cross_entropy - entropy).masked_fill(~valid, 0.0).sum()


def _log(probability: float) -> float:
    """Natural logarithm; 0 at 0, where the term of an entropy is 0 whatever it is."""
    return math.log(probability) if probability else 0.0


def ctc_loss(log_probs: Tensor, padding_mask: Tensor | None, targets: Tensor) -> Tensor:
    """Negative log probability of the labels over all alignments, summed over the batch.

    log_probs: [B, T, V] float32; padding_mask: [B, T] bool, True = padding, or None; targets: as in
    `ctc_attention_loss`. An utterance with too few frames for its labels counts as 0.
    """
    frames = torch.full((len(log_probs),), log_probs.shape[1], device=log_probs.device)
    if padding_mask is not None:
        frames = (~padding_mask).sum(dim=1)
    lengths = (targets != IGNORED).sum(dim=1) - 1  # without the end of the sentence
    labels = targets.clamp(min=BLANK)  # those behind the lengths are not read
    return F.ctc_loss(
        log_probs.transpose(0, 1), labels, frames, lengths, BLANK, "sum", zero_infinity=True
    )


def ctc_attention_loss(
    ctc_log_probs: Tensor,
    logits: Tensor,
    padding_mask: Tensor | None,
    targets: Tensor,
    ctc_weight: float = 0.1,
    smoothing: float = 0.1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Paper B's loss, summed over the utterances of the batch: what is minimized is its mean.

    ctc_log_probs: [B, T, V] float32; logits: [B, L, V]; targets: [B, L] int64, labels and the end
    of the sentence, then IGNORED. Returns ctc_weight * CTC + (1 - ctc_weight) * attention, and
    without gradient, for the log, `loss_ctc`, `loss_attention` and the decoder's `accuracy`, all
    sums (of tokens the last).
    """
    ctc = ctc_loss(ctc_log_probs, padding_mask, targets)
    attention = label_smoothed_kl(logits, targets, smoothing)
    right = (logits.argmax(dim=-1) == targets) & (targets != IGNORED)
    terms = {"loss_ctc": ctc, "loss_attention": attention, "accuracy": right.sum()}
    loss = ctc_weight * ctc + (1 - ctc_weight) * attention
    return loss, {name: value.detach() for name, value in terms.items()}


def soft_label_kl(
    logits: Tensor, teacher_logits: Tensor, valid: Tensor, temperature: float = 1.0
) -> Tensor:
    """KL(teacher || student) in nats, summed over the valid positions.

    logits, teacher_logits: [B, N, V], log probabilities will do; both are divided by `temperature`.
    valid: [B, N] bool. No gradient reaches the teacher. float32 throughout. Raises InputError where
    the shapes differ.
    """
    if logits.shape != teacher_logits.shape:
        raise InputError(
            f"the student's outputs have shape {list(logits.shape)}, its teacher's "
            f"{list(teacher_logits.shape)}: choose a teacher of the same outputs and frame rate"
        )
    student, teacher = (
        _softened(x, temperature).log_softmax(dim=-1) for x in (logits, teacher_logits.detach())
    )
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return divergence.masked_fill(~valid, 0.0).sum()


def _softened(logits: Tensor, temperature: float) -> Tensor:
    """In float32, divided by the temperature; without a copy where that changes nothing."""
    return logits.float() if temperature == 1 else logits.float() / temperature


def ctc_attention_distillation_loss(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    padding_mask: Tensor | None,
    targets: Tensor,
    ctc_weight: float = 0.1,
    smoothing: float = 0.1,
    distillation_weight: float = 0.5,
    temperature: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of paper B's distilled models, summed over the utterances of the batch.

    student, teacher: CTC log probabilities [B, T, V] and logits [B, L, V] of the same batch, as
    `CTCAttentionRecognizer.forward` gives them; the rest as in `ctc_attention_loss`. With w the
    distillation weight it is (1 - w) * hard + w * temperature**2 * soft, where hard is
    `ctc_attention_loss`, and soft the same sum of CTC and attention with the divergence from the
    teacher's posteriors, of each valid frame and of each target token, in place of the labels.
    Returns it and, without gradient, the terms of the hard loss and `kl_ctc` and `kl_attention`,
    sums over frames and tokens without the temperature's factor.

    Labels and the teacher's posteriors together are Ma et al. (Towards practical lipreading with
    distilled and efficient models, ICASSP 2021), whom paper B follows for words in sentences
    without a further detail. Ours are: frame by frame and, the labels before it given, token by
    token; weight and temperature; its factor, by which gradients keep their size (Hinton et al.).
    """
    hard, terms = ctc_attention_loss(*student, padding_mask, targets, ctc_weight, smoothing)
    ctc_log_probs, logits = student
    frames = torch.ones(ctc_log_probs.shape[:2], dtype=torch.bool, device=ctc_log_probs.device)
    if padding_mask is not None:
        frames = ~padding_mask
    ctc = soft_label_kl(ctc_log_probs, teacher[0], frames, temperature)
    attention = soft_label_kl(logits, teacher[1], targets != IGNORED, temperature)
    soft = ctc_weight * ctc + (1 - ctc_weight) * attention
    loss = (1 - distillation_weight) * hard + distillation_weight * temperature**2 * soft
    return loss, terms | {"kl_ctc": ctc.detach(), "kl_attention": attention.detach()}


def distillation_loss(
    predictions: Mapping[int, Tensor],
    targets: Mapping[int, Tensor],
    padding_mask: Tensor | None,
    cosine_weight: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Paper A, equations (1) and (2), averaged over the valid frames of the batch.

    predictions, targets: teacher block -> [B, T, F]; padding_mask: [B, T] bool, True = padding.
    Per block, L1 / F plus `cosine_weight` (lambda) times -log sigmoid(cosine); the blocks are
    summed. Computed in float32 whatever the inputs are, for half precision cannot hold the norms.
    Raises InputError where a target is missing or has another shape than its prediction.
    Returns the loss and, without gradient, its terms for the log: `l1_BLOCK` and
    `cosine_similarity_BLOCK`.
    """
    first = next(iter(predictions.values()))
    valid = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
    if padding_mask is not None:
        valid = ~padding_mask
    frames = valid.sum()

    def mean(values: Tensor) -> Tensor:
        return values.masked_fill(~valid, 0.0).sum() / frames

    total = first.new_zeros((), dtype=torch.float32)
    terms = {}
    for block, prediction in predictions.items():
        found = list(targets[block].shape) if block in targets else "missing"
        if found != list(prediction.shape):
            raise InputError(
                f"the student predicts teacher block {block} as {list(prediction.shape)}, its "
                f"target is {found}: build the student for its teacher"
            )
        predicted, target = prediction.float(), targets[block].float()
        l1 = mean((predicted - target).abs().mean(dim=-1))
        similarity = F.cosine_similarity(predicted, target, dim=-1)
        total = total + l1 - cosine_weight * mean(F.logsigmoid(similarity))
        terms[f"l1_{block}"] = l1.detach()
        terms[f"cosine_similarity_{block}"] = mean(similarity.detach())
    return total, terms
