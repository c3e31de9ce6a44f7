"""Training losses in plain PyTorch.

Padding is computed and then left out of the sums. Selecting the valid rows instead (`x[valid]`,
`row[:length]`) would make the program wait until the GPU has counted them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from avhubert_ext.data.text import BLANK
from avhubert_ext.errors import InputError

IGNORED = -1  # padding in targets


def label_smoothed_kl(logits: Tensor, targets: Tensor, smoothing: float = 0.1) -> Tensor:
    """Divergence of the outputs from smoothed targets, as in Auto-AVSR; computed in float32.

    The target distribution has 1 - smoothing at the label and smoothing / (V - 1) at each other
    output.

    Args:
        logits: [B, L, V].
        targets: [B, L] int64, IGNORED at padding.
        smoothing: Probability of all other outputs together.

    Returns:
        The divergence in nats, summed over all tokens.
    """
    valid = targets != IGNORED
    log_probs = logits.float().log_softmax(dim=-1)
    others = smoothing / (log_probs.shape[-1] - 1)
    at_label = log_probs.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    cross_entropy = -((1 - smoothing - others) * at_label + others * log_probs.sum(dim=-1))
    entropy = -(1 - smoothing) * _log(1 - smoothing) - smoothing * _log(others)
    return (cross_entropy - entropy).masked_fill(~valid, 0.0).sum()


def _log(probability: float) -> float:
    """The natural logarithm; 0 for 0, because that term of an entropy is 0."""
    return math.log(probability) if probability else 0.0


def ctc_loss(log_probs: Tensor, padding_mask: Tensor | None, targets: Tensor) -> Tensor:
    """Negative log probability of the labels over all alignments.

    Args:
        log_probs: [B, T, V] float32.
        padding_mask: [B, T] bool, True = padding, or None.
        targets: See `ctc_attention_loss`.

    Returns:
        The sum over the batch; an utterance with too few frames for its labels counts as 0.
    """
    frames = torch.full((len(log_probs),), log_probs.shape[1], device=log_probs.device)
    if padding_mask is not None:
        frames = (~padding_mask).sum(dim=1)
    lengths = (targets != IGNORED).sum(dim=1) - 1  # without the end of the sentence
    labels = targets.clamp(min=BLANK)  # labels after the lengths are not read
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
    """Paper B's loss, summed over the utterances of the batch (training minimizes the mean).

    Args:
        ctc_log_probs: [B, T, V] float32.
        logits: [B, L, V].
        padding_mask: [B, T] bool, True = padding, or None.
        targets: [B, L] int64: the labels, the end of the sentence, then IGNORED.
        ctc_weight: Weight of the CTC loss; the attention loss has the rest of 1.
        smoothing: Label smoothing of the attention loss.

    Returns:
        ctc_weight * CTC + (1 - ctc_weight) * attention, and without gradient for the log:
        `loss_ctc` and `loss_attention`, summed over utterances, and `accuracy`, the decoder's
        number of correct tokens.
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
    """KL(teacher || student), computed in float32; no gradient reaches the teacher.

    Args:
        logits: The student's, [B, N, V]; log probabilities work as well.
        teacher_logits: The teacher's, [B, N, V].
        valid: [B, N] bool, False = padding.
        temperature: Both logits are divided by it.

    Returns:
        The divergence in nats, summed over the valid positions.

    Raises:
        InputError: If the shapes differ.
    """
    if logits.shape != teacher_logits.shape:
        raise InputError(
            f"the student's outputs have shape {list(logits.shape)}, its teacher's "
            f"{list(teacher_logits.shape)}: choose a teacher with the same outputs and frame rate"
        )
    student, teacher = (
        _softened(x, temperature).log_softmax(dim=-1) for x in (logits, teacher_logits.detach())
    )
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return divergence.masked_fill(~valid, 0.0).sum()


def _softened(logits: Tensor, temperature: float) -> Tensor:
    """Logits in float32, divided by the temperature; no copy if nothing changes."""
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

    With the distillation weight w it is (1 - w) * hard + w * temperature**2 * soft. The hard loss
    is `ctc_attention_loss`. The soft loss is the same sum of CTC and attention, with the divergence
    from the teacher's posteriors instead of the labels, for each valid frame and each target token.

    The combination of labels and the teacher's posteriors is that of Ma et al. (Towards practical
    lipreading with distilled and efficient models, ICASSP 2021). Paper B uses it for sentences
    without giving details. These are choices of this project: the divergence per frame and, given
    the labels before it, per token; weight and temperature; and the factor temperature**2, which
    keeps the size of the gradients (Hinton et al.).

    Args:
        student: CTC log probabilities [B, T, V] and logits [B, L, V], as
            `CTCAttentionRecognizer.forward` returns them.
        teacher: The same of the teacher for the same batch.
        padding_mask: [B, T] bool, True = padding, or None.
        targets: See `ctc_attention_loss`.
        ctc_weight: See `ctc_attention_loss`.
        smoothing: See `ctc_attention_loss`.
        distillation_weight: w, from 0 to 1.
        temperature: Divides the logits of both networks.

    Returns:
        The loss and, without gradient, the terms of the hard loss and `kl_ctc` and `kl_attention`,
        sums over frames and tokens without the factor temperature**2.

    Raises:
        InputError: If the outputs of student and teacher have different shapes.
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

    The loss of a block is L1 / F + cosine_weight * -log sigmoid(cosine); the blocks are summed. It
    is computed in float32, because the norms overflow in half precision.

    Args:
        predictions: Teacher block -> [B, T, F].
        targets: Teacher block -> [B, T, F].
        padding_mask: [B, T] bool, True = padding, or None.
        cosine_weight: lambda of equation (2).

    Returns:
        The loss and, without gradient, its terms for the log: `l1_BLOCK` and
        `cosine_similarity_BLOCK`.

    Raises:
        InputError: If a target is missing or has another shape than its prediction.
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
