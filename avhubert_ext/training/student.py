"""A student of paper A at the start of its training."""

from __future__ import annotations

from pathlib import Path

from avhubert_ext.checkpoints.imagenet import load_imagenet_shufflenet
from avhubert_ext.errors import InputError
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.frontends import ShuffleNetV2
from avhubert_ext.models.presets import StudentPreset, student_preset
from avhubert_ext.models.student import HeadsConfig, Student


def build_student(
    student: str | StudentPreset,
    teacher: AVHubertEncoder | None = None,
    imagenet: Path | str | None = None,
) -> Student:
    """A student of paper A, Table 1, or with another network, at the start of its training.

    Args:
        student: The name of a preset, such as `student-7` or `7`, or a StudentPreset.
        teacher: The teacher to learn from. The predictions get its width (768 without a teacher),
            and a student that starts from its teacher gets its weights.
        imagenet: File with torchvision's `shufflenetv2_x1_0` for the visual frontend.

    Returns:
        The student with fresh weights, except for those from the teacher or the file.

    Raises:
        InputError: If the name is unknown, or the teacher or the file does not fit the student.
    """
    chosen = student_preset(student) if isinstance(student, str) else student
    if not isinstance(chosen, StudentPreset):
        raise InputError(f"student {student!r}: expected a preset's name or a StudentPreset")
    heads = HeadsConfig(chosen.targets)
    if teacher is not None:
        heads = HeadsConfig(chosen.targets, teacher.config.dim)
        if max(chosen.targets) > teacher.config.layers:
            raise InputError(
                f"the student learns from teacher blocks {chosen.targets}, but its teacher has "
                f"{teacher.config.layers}: choose another teacher, or other targets"
            )
    built = Student(chosen.encoder, heads)
    if chosen.from_teacher and teacher is not None:
        built.start_from(teacher)
    if imagenet is not None:
        copies_teacher = chosen.from_teacher and teacher is not None
        trunk = getattr(built.encoder.feature_extractor_video, "shufflenet", None)
        full = chosen.encoder.visual_width == 1.0
        if copies_teacher or not full or not isinstance(trunk, ShuffleNetV2):
            raise InputError(
                f"{imagenet}: ImageNet weights are for a student with visual='shufflenet' at width "
                "1.0 that does not start from its teacher; choose such a student, or leave the "
                "file out"
            )
        load_imagenet_shufflenet(trunk, imagenet)
    return built
