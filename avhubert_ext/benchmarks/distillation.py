"""How fast a distillation trains, against a plain loop, and where the time goes.

Both train the same student from the same teacher on the same batch. The plain loop is what research
code does: one utterance per forward pass, the teacher in float32 with an explicit softmax and an
autograd graph, gradients summed over the utterances.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from avhubert_ext.benchmarks.plain import plain_hidden_states
from avhubert_ext.benchmarks.timing import machine, medians, time_in_turn
from avhubert_ext.data.audio import FEATURES
from avhubert_ext.data.dataset import Batch
from avhubert_ext.data.video import CROP
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.presets import encoder_preset, full_name
from avhubert_ext.models.student import Student
from avhubert_ext.training.distillation import DistillationConfig, distill_batch

PARTS = ("teacher", "student and loss", "backward", "optimizer")
OPERATIONS = 12  # number of operations that are shown


def plain_loss(teacher: AVHubertEncoder, student: Student, audio: Tensor, video: Tensor) -> Tensor:
    """The loss of one utterance, equations (1) and (2) of paper A.

    Args:
        teacher: the network that gives the targets.
        student: the network to train.
        audio: [1, 104, T].
        video: [1, 1, T, 88, 88].

    Returns:
        A scalar.
    """
    states = plain_hidden_states(teacher, audio, video)
    loss = audio.new_zeros(())
    for block, predicted in student(audio, video).predictions.items():
        target = states[block].detach()
        cosine = F.cosine_similarity(predicted, target, dim=-1)
        loss = loss + F.l1_loss(predicted, target) - torch.log(torch.sigmoid(cosine)).mean()
    return loss


def benchmark_distillation(
    student: str = "student-7",
    teacher: str = "teacher-base",
    batch_size: int = 4,
    frames: int = 100,
    threads: int = 2,
    rounds: int = 5,
    precision: str = "auto",
) -> dict[str, Any]:
    """Time one update with random weights.

    Args:
        student: preset of the student, for example `student-7`.
        teacher: preset of the teacher, for example `teacher-base`.
        batch_size: number of utterances in an update.
        frames: length of each utterance in video frames.
        threads: number of CPU threads.
        rounds: number of updates that are timed.
        precision: data type of the teacher, see `DistillationConfig`.

    Returns:
        The conditions, the median seconds of both kinds of update, and the seconds of the parts and
        operations of one update under the profiler.

    Raises:
        InputError: if a preset is unknown.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    encoder = AVHubertEncoder(encoder_preset(full_name(teacher))).eval()
    name = student.removeprefix("student-")
    config = DistillationConfig("random", name, teacher_precision=precision)
    ours, frozen = config.new_student(encoder).train(), config.new_teacher(encoder)
    plain = copy.deepcopy(ours)
    batch = Batch(
        torch.randn(batch_size, FEATURES, frames),
        torch.randn(batch_size, 1, frames, CROP, CROP),
        torch.zeros(batch_size, frames, dtype=torch.bool),
    )
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-5) for model in (ours, plain)]

    def named_teacher(*inputs: Tensor | None) -> dict[int, Tensor]:
        with record_function("teacher"):
            return frozen(*inputs)

    def update() -> None:
        with record_function("student and loss"):  # the teacher's time is subtracted below
            loss, _ = distill_batch(config, named_teacher, ours, batch)
        with record_function("backward"):
            loss.backward()
        with record_function("optimizer"):
            optimizers[0].step()
            optimizers[0].zero_grad()

    def plain_update() -> None:
        for audio, video in zip(batch.audio, batch.video, strict=True):
            (plain_loss(encoder, plain, audio[None], video[None]) / batch_size).backward()
        optimizers[1].step()
        optimizers[1].zero_grad()

    seconds = medians(time_in_turn({"ours": update, "plain": plain_update}, rounds))
    with profile(activities=[ProfilerActivity.CPU]) as found:
        update()
    events = found.key_averages()
    parts = {e.key: e.cpu_time_total / 1e6 for e in events if e.key in PARTS}
    parts["student and loss"] -= parts["teacher"]
    operations = [e for e in events if e.key not in PARTS]
    operations.sort(key=lambda e: -e.self_cpu_time_total)
    return {
        "machine": machine(),
        "student": student,
        "teacher": teacher,
        "batch_size": batch_size,
        "frames": frames,
        "threads": threads,
        "rounds": rounds,
        "teacher_precision": precision,
        "seconds": seconds,
        "speed_up": seconds["plain"] / seconds["ours"],
        "parts": {name: parts[name] for name in PARTS},
        "operations": {e.key: e.self_cpu_time_total / 1e6 for e in operations[:OPERATIONS]},
    }


def text_table(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    seconds = report["seconds"]
    total = sum(report["parts"].values())
    lines = [
        f"student {report['student']}, {report['teacher']}, {report['batch_size']} utterances of "
        f"{report['frames']} frames, {report['threads']} thread(s), teacher in "
        f"{report['teacher_precision']}; {report['machine']['cpu']}",
        "",
        f"plain loop  {1 / seconds['plain']:.3f} updates/s ({seconds['plain']:.2f} s)",
        f"this one    {1 / seconds['ours']:.3f} updates/s ({seconds['ours']:.2f} s), "
        f"{report['speed_up']:.2f} times as fast",
        "",
        "one update under the profiler, which slows it down:",
        *(f"  {name:<32}{s:8.3f} s {s / total:6.1%}" for name, s in report["parts"].items()),
        "the operations that take longest:",
        *(f"  {name:<32}{s:8.3f} s {s / total:6.1%}" for name, s in report["operations"].items()),
    ]
    return "\n".join(lines)
