"""Every network of the project by name: one table each for teachers, students and decoders.

`tiny` networks have the full architecture with small widths: they train on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import ConformerConfig, CTCAttentionRecognizer
from avhubert_ext.models.decoder import DecoderConfig
from avhubert_ext.models.encoder import EncoderConfig

TINY_WIDTH = 128

TEACHERS = {
    "base": EncoderConfig(),
    "tiny": EncoderConfig(dim=TINY_WIDTH, ffn=512, heads=4, visual_width=0.125),
}


@dataclass(frozen=True)
class StudentPreset:
    """A row of paper A, Table 1: network, predicted teacher blocks, weights it starts from."""

    encoder: EncoderConfig
    targets: tuple[int, ...] = (8, 12)
    from_teacher: bool = False


def _student(
    layers: int,
    dim: int,
    ffn: int,
    block: str,
    visual: str,
    targets: tuple[int, ...],
    from_teacher: bool = False,
) -> StudentPreset:
    """Paper A's authors: 12 heads, no dropout on the student's input, 0.1 elsewhere."""
    encoder = EncoderConfig(
        layers, dim, ffn, 12, block, visual, dropout_input=0.0, activation_dropout=0.1
    )
    return StudentPreset(encoder, targets, from_teacher)


# Table 1's columns: N, D, C, type, visual frontend, learning targets (M of them), init by teacher.
# 1 and 2 are one network: 1 learns from the pretrained teacher, 2 and all others from a finetuned.
STUDENTS = {
    "1": _student(2, 768, 3072, "transformer", "resnet", (4, 8, 12), from_teacher=True),
    "2": _student(2, 768, 3072, "transformer", "resnet", (4, 8, 12), from_teacher=True),
    "3": _student(2, 768, 3072, "transformer", "resnet", (4, 8, 12)),
    "4": _student(6, 384, 3200, "transformer", "resnet", (4, 8, 12)),
    "5": _student(6, 384, 3200, "transformer", "resnet", (8, 12)),
    "6": _student(6, 384, 1536, "conformer", "resnet", (8, 12)),
    "7": _student(6, 384, 1536, "conformer", "shufflenet", (8, 12)),
}


def _tiny(student: StudentPreset, dim: int, ffn: int, visual_width: float) -> StudentPreset:
    encoder = replace(student.encoder, dim=dim, ffn=ffn, heads=4, visual_width=visual_width)
    return replace(student, encoder=encoder)


# The same ladder for the tiny teacher: two of its blocks, then six of half the width at about as
# many parameters; as in Table 1 the transformer's C makes up for the conformer's convolution.
STUDENTS |= {
    "tiny-1": _tiny(STUDENTS["1"], TINY_WIDTH, 512, 0.125),
    "tiny-2": _tiny(STUDENTS["2"], TINY_WIDTH, 512, 0.125),
    "tiny-3": _tiny(STUDENTS["3"], TINY_WIDTH, 512, 0.125),
    "tiny-4": _tiny(STUDENTS["4"], TINY_WIDTH // 2, 532, 0.125),
    "tiny-5": _tiny(STUDENTS["5"], TINY_WIDTH // 2, 532, 0.125),
    "tiny-6": _tiny(STUDENTS["6"], TINY_WIDTH // 2, 256, 0.125),
    "tiny-7": _tiny(STUDENTS["7"], TINY_WIDTH // 2, 256, 0.25),
}

DECODERS = {
    "base": DecoderConfig(),
    "tiny": DecoderConfig(dim=TINY_WIDTH, ffn=512, heads=4),
}

AUTO_AVSR_OUTPUTS = 5049


@dataclass(frozen=True)
class VSRPreset:
    """A recognizer of paper B, section 3.3: conformer encoder and decoder of the same widths."""

    encoder: ConformerConfig
    decoder: DecoderConfig


def _vsr(dim: int, ffn: int, heads: int, width: float = 1.0, fusion: int = 8192) -> VSRPreset:
    return VSRPreset(
        ConformerConfig(dim=dim, ffn=ffn, heads=heads, width=width, fusion=fusion),
        DecoderConfig(
            AUTO_AVSR_OUTPUTS,
            dim=dim,
            ffn=ffn,
            heads=heads,
            attention_dropout=0.1,
            padding_idx=None,
        ),
    )


VSR = {
    "base-s": _vsr(256, 2048, 4),
    "base-l": _vsr(768, 3072, 12),
    "tiny": _vsr(64, 256, 4, width=0.125, fusion=256),
    # To tiny as BASE-S to BASE-L: thinner, as deep, the same visual frontend.
    "tiny-s": _vsr(32, 128, 2, width=0.125, fusion=256),
}


def build_vsr(
    name: str,
    modality: str = "video",
    vocabulary: int = AUTO_AVSR_OUTPUTS,
    mask_padding: bool = True,
) -> CTCAttentionRecognizer:
    """A recognizer of paper B with fresh weights: "base-s" or "base-l".

    For two CPU cores there are "tiny" and, to learn from it, "tiny-s" with a third of its size.
    modality: video, audio (a ResNet-18 over the waveform), or both (a conformer each).
    vocabulary: outputs, blank and the end of a sentence included.
    mask_padding: without it padding leaks into the clips of a batch, as in Auto-AVSR's own code.
    Raises InputError if a name is unknown.
    """
    chosen = preset(VSR, name, "VSR")
    if isinstance(vocabulary, bool) or not isinstance(vocabulary, int) or vocabulary < 4:
        raise InputError(
            f"vocabulary {vocabulary!r}: expected a number of outputs; blank, unknown and end count"
        )
    return CTCAttentionRecognizer(
        replace(chosen.encoder, modality=modality, mask_padding=mask_padding),
        replace(chosen.decoder, vocabulary=vocabulary),
    )


# The rows of paper A's Table 1, by the short names that `full_name` knows.
TABLE_1 = ("teacher", "1", "2", "3", "4", "5", "6", "7")

T = TypeVar("T")


def preset(table: Mapping[str, T], name: str, kind: str) -> T:
    """`table[name]`; an InputError lists the names there are."""
    if name not in table:
        raise InputError(f"{kind} preset '{name}' is unknown: choose one of {', '.join(table)}")
    return table[name]


def student_preset(student: str | int | Mapping[str, Any]) -> StudentPreset:
    """A student by name, or as a change to one, as configuration files hold it.

    `{preset: "4", targets: [12], encoder: {ffn: 1024}}`: student 4 with other targets and another
    width; without `preset` it is student 7 that is changed. Raises InputError where a name or field
    is unknown.
    """
    if not isinstance(student, Mapping):
        return preset(STUDENTS, str(student), "student")
    changes = dict(student)
    base = preset(STUDENTS, str(changes.pop("preset", "7")), "student")
    check_fields(StudentPreset, changes, "student")
    if "targets" in changes:
        changes["targets"] = parse_targets(changes["targets"])
    if "encoder" in changes:
        check_fields(EncoderConfig, changes["encoder"], "student: encoder")
        changes["encoder"] = replace(base.encoder, **changes["encoder"])
    return replace(base, **changes)


def parse_targets(blocks: object) -> tuple[int, ...]:
    """Teacher blocks from a list of numbers or `"4,8,12"`."""
    try:
        numbers = blocks.split(",") if isinstance(blocks, str) else blocks
        targets = tuple(int(number) for number in numbers)
    except (TypeError, ValueError):
        targets = ()
    if not targets or any(isinstance(n, float) for n in numbers):
        raise InputError(f"targets {blocks!r}: expected blocks, as in [4, 8, 12]")
    return targets


def check_fields(config: type, values: object, where: object) -> None:
    """Raise an InputError that names the keys of `values` that are no fields of a dataclass."""
    known = [field.name for field in fields(config)]
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected `name: value` with names of {known}")
    unknown = [str(name) for name in values if name not in known]
    if unknown:
        raise InputError(f"{where}: {', '.join(unknown)} unknown; expected some of {known}")


def full_name(name: str) -> str:
    """`teacher` -> teacher-base, `7` -> student-7, `base-s` -> vsr-base-s; full names stay."""
    if name == "teacher":
        return "teacher-base"
    if name in VSR and name != "tiny":
        return f"vsr-{name}"
    return name if name.startswith(("teacher-", "student-", "vsr-")) else f"student-{name}"


def encoder_preset(name: str) -> EncoderConfig:
    """`teacher-NAME` or `student-NAME` of the tables above."""
    role, _, short = name.partition("-")
    if role == "student":
        return preset(STUDENTS, short, "student").encoder
    if role == "teacher":
        return preset(TEACHERS, short, "teacher")
    raise InputError(f"encoder preset '{name}': expected teacher-NAME or student-NAME")
