"""Every network of the project by name: one table each for teachers, students and decoders.

`tiny` networks have the full architecture with small widths: they train on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import DecoderConfig
from avhubert_ext.models.encoder import EncoderConfig

TINY_WIDTH = 128

TEACHERS = {
    "base": EncoderConfig(),
    "tiny": EncoderConfig(dim=TINY_WIDTH, ffn=512, heads=4, visual_width=0.125),
}

# Paper A's authors: no dropout on the student's input, 0.1 elsewhere.
_SHALLOW = EncoderConfig(layers=2, dropout_input=0.0, activation_dropout=0.1)
_THIN = replace(_SHALLOW, layers=6, dim=384, ffn=3200)
_CONFORMER = replace(_THIN, ffn=1536, block="conformer")
_LIGHT = replace(_CONFORMER, visual="shufflenet")


@dataclass(frozen=True)
class StudentPreset:
    """A row of paper A, Table 1: network, predicted teacher blocks, weights it starts from."""

    encoder: EncoderConfig
    targets: tuple[int, ...] = (8, 12)
    from_teacher: bool = False


STUDENTS = {
    "1": StudentPreset(_SHALLOW, (4, 8, 12), from_teacher=True),
    "2": StudentPreset(_SHALLOW, (4, 8, 12), from_teacher=True),  # 1 with a finetuned teacher
    "3": StudentPreset(_SHALLOW, (4, 8, 12)),
    "4": StudentPreset(_THIN, (4, 8, 12)),
    "5": StudentPreset(_THIN),
    "6": StudentPreset(_CONFORMER),
    "7": StudentPreset(_LIGHT),
    "tiny-7": StudentPreset(replace(_LIGHT, dim=96, ffn=384, heads=4, visual_width=0.25)),
}

DECODERS = {
    "base": DecoderConfig(),
    "tiny": DecoderConfig(dim=TINY_WIDTH, ffn=512, heads=4),
}

T = TypeVar("T")


def preset(table: Mapping[str, T], name: str, kind: str) -> T:
    """`table[name]`; an InputError lists the names there are."""
    if name not in table:
        raise InputError(f"{kind} preset '{name}' is unknown: choose one of {', '.join(table)}")
    return table[name]


def encoder_preset(name: str) -> EncoderConfig:
    """`teacher-NAME` or `student-NAME` of the tables above."""
    role, _, short = name.partition("-")
    if role == "student":
        return preset(STUDENTS, short, "student").encoder
    if role == "teacher":
        return preset(TEACHERS, short, "teacher")
    raise InputError(f"encoder preset '{name}': expected teacher-NAME or student-NAME")
