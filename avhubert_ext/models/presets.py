"""Every network of the project by name: one table each for teachers, students and decoders.

`tiny` networks have the full architecture with small widths: they train on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import DecoderConfig
from avhubert_ext.models.encoder import EncoderConfig
from avhubert_ext.models.student import HeadsConfig

TINY_WIDTH = 128

TEACHERS = {
    "base": EncoderConfig(),
    "tiny": EncoderConfig(dim=TINY_WIDTH, ffn=512, heads=4, visual_width=0.125),
}

_THIN = EncoderConfig(layers=6, dim=384, ffn=3200)
_CONFORMER = EncoderConfig(layers=6, dim=384, ffn=1536, block="conformer")

# Paper A, Table 1: encoder and predicted teacher blocks (student 1 and 2 start from the teacher).
STUDENTS: dict[str, tuple[EncoderConfig, HeadsConfig]] = {
    "1": (EncoderConfig(layers=2), HeadsConfig((4, 8, 12))),
    "2": (EncoderConfig(layers=2), HeadsConfig((4, 8, 12))),
    "3": (EncoderConfig(layers=2), HeadsConfig((4, 8, 12))),
    "4": (_THIN, HeadsConfig((4, 8, 12))),
    "5": (_THIN, HeadsConfig((8, 12))),
    "6": (_CONFORMER, HeadsConfig((8, 12))),
    "7": (replace(_CONFORMER, visual="shufflenet"), HeadsConfig((8, 12))),
    "tiny-7": (
        replace(_CONFORMER, visual="shufflenet", dim=96, ffn=384, heads=4, visual_width=0.25),
        HeadsConfig((8, 12), teacher_dim=TINY_WIDTH),
    ),
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
        return preset(STUDENTS, short, "student")[0]
    if role == "teacher":
        return preset(TEACHERS, short, "teacher")
    raise InputError(f"encoder preset '{name}': expected teacher-NAME or student-NAME")
