"""Every network of the project by name.

A full name is a family and a name in the family's table, for example `student-tiny-7`:

    teacher   AV-HuBERT encoders, paper A's teachers
    student   the encoders of paper A, Table 1, by their number there
    vsr       the recognizers of paper B, section 3.3
    decoder   decoders for the encoders of paper A

`tiny` networks have the full architecture with small widths: they train on two CPU cores. A new
network is one entry in a table; `list_presets` lists it, and every command accepts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

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
    """A student of paper A, Table 1.

    Attributes:
        encoder: Its network.
        targets: The teacher blocks that it predicts, from 1.
        from_teacher: Whether it starts from the weights of its teacher.
    """

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
    """12 heads, no dropout of the input and 0.1 elsewhere, as stated by the authors of paper A."""
    encoder = EncoderConfig(
        layers, dim, ffn, 12, block, visual, dropout_input=0.0, activation_dropout=0.1
    )
    return StudentPreset(encoder, targets, from_teacher)


# The columns of Table 1: N, D, C, type, visual frontend, learning targets, initialized by teacher.
# 1 and 2 are the same network: 1 learns from the pretrained teacher, all others from a finetuned.
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
    """A student with other widths and 4 heads."""
    encoder = replace(student.encoder, dim=dim, ffn=ffn, heads=4, visual_width=visual_width)
    return replace(student, encoder=encoder)


# The same for the tiny teacher: two of its blocks, or six blocks of half the width with about as
# many parameters. As in Table 1, the C of a transformer makes up for the conformer's convolution.
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

AUTO_AVSR_OUTPUTS = 5049  # 5000 subwords and special symbols


@dataclass(frozen=True)
class VSRPreset:
    """A recognizer of paper B, section 3.3: its encoder and its decoder."""

    encoder: ConformerConfig
    decoder: DecoderConfig


def _vsr(dim: int, ffn: int, heads: int, width: float = 1.0, fusion: int = 8192) -> VSRPreset:
    """A recognizer whose encoder and decoder have the same widths."""
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
    # As BASE-S to BASE-L: thinner than tiny, with the same depth and visual frontend.
    "tiny-s": _vsr(32, 128, 2, width=0.125, fusion=256),
}


FAMILIES: dict[str, Mapping[str, Any]] = {
    "teacher": TEACHERS,
    "student": STUDENTS,
    "vsr": VSR,
    "decoder": DECODERS,
}

# Paper A's Table 1, under the short names that its rows have in reports.
TABLE_1 = ("teacher", "1", "2", "3", "4", "5", "6", "7")


def list_presets(family: str | None = None) -> list[str]:
    """The full names of all presets.

    Args:
        family: teacher, student, vsr, or decoder; None for all of them.

    Raises:
        InputError: If the family is unknown.
    """
    if family is not None and family not in FAMILIES:
        raise InputError(f"family '{family}': expected one of {', '.join(FAMILIES)}")
    families = FAMILIES if family is None else (family,)
    return [f"{name}-{short}" for name in families for short in FAMILIES[name]]


def full_name(name: str, family: str | None = None) -> str:
    """The full name of a preset.

    Args:
        name: A full name, or the name in a family's table, such as `7` or `base-s`. `teacher` is
            short for `teacher-base`.
        family: The family of a short name. Without it, it is the only family that has the name,
            or else student.

    Returns:
        `FAMILY-NAME`; the name need not exist.
    """
    if name == "teacher":
        return "teacher-base"
    if name.partition("-")[0] in FAMILIES:
        return name
    if family is None:
        having = [other for other, table in FAMILIES.items() if name in table]
        family = having[0] if len(having) == 1 else "student"
    return f"{family}-{name}"


def _preset(name: str, family: str | None = None) -> Any:
    full = full_name(name, family)
    found_family, _, short = full.partition("-")
    if family not in (None, found_family):
        raise InputError(f"preset '{name}': expected one of {', '.join(list_presets(family))}")
    if short not in FAMILIES[found_family]:
        raise InputError(
            f"{found_family} preset '{short}' is unknown: choose one of "
            f"{', '.join(list_presets(found_family))}"
        )
    return FAMILIES[found_family][short]


def encoder_preset(name: str) -> EncoderConfig:
    """The network of a teacher or student by name, see `full_name`.

    Raises:
        InputError: If there is no such teacher or student.
    """
    found = _preset(name)
    if isinstance(found, StudentPreset):
        return found.encoder
    if not isinstance(found, EncoderConfig):
        raise InputError(f"encoder preset '{name}': expected teacher-NAME or student-NAME")
    return found


def decoder_preset(name: str) -> DecoderConfig:
    """A decoder by name, such as `decoder-base` or `base`.

    Raises:
        InputError: If there is no such decoder.
    """
    return _preset(name, "decoder")


def vsr_preset(name: str) -> VSRPreset:
    """A recognizer of paper B by name, such as `vsr-base-s` or `base-s`.

    Raises:
        InputError: If there is no such recognizer.
    """
    return _preset(name, "vsr")


def build_vsr(
    name: str,
    modality: str = "video",
    vocabulary: int = AUTO_AVSR_OUTPUTS,
    mask_padding: bool = True,
) -> CTCAttentionRecognizer:
    """A recognizer of paper B, section 3.3, with fresh weights.

    Args:
        name: A preset of the family vsr: `vsr-base-s`, `vsr-base-l`, or for two CPU cores
            `vsr-tiny` and, to learn from it, `vsr-tiny-s` with a third of its size.
        modality: video, audio (a ResNet-18 over the waveform), or both (one conformer each).
        vocabulary: Number of outputs, including blank and the end of a sentence.
        mask_padding: False lets padding leak into the clips of a batch, as in Auto-AVSR's own code.

    Returns:
        The recognizer, in training mode.

    Raises:
        InputError: If the name is unknown or another value is invalid.
    """
    chosen = vsr_preset(name)
    if isinstance(vocabulary, bool) or not isinstance(vocabulary, int) or vocabulary < 4:
        raise InputError(
            f"vocabulary {vocabulary!r}: expected a number of outputs, at least 4 (blank, unknown, "
            "end, and a subword)"
        )
    return CTCAttentionRecognizer(
        replace(chosen.encoder, modality=modality, mask_padding=mask_padding),
        replace(chosen.decoder, vocabulary=vocabulary),
    )


def student_preset(student: str | int | Mapping[str, Any]) -> StudentPreset:
    """A student by name, or as a change to one, as configuration files have it.

    Args:
        student: A name or number, such as `student-7`, `7`, or 7; or a mapping such as
            `{preset: "4", targets: [12], encoder: {ffn: 1024}}`, which is student 4 with other
            targets and another width. Without `preset` the mapping changes student 7.

    Raises:
        InputError: If a name or field is unknown, or a value is invalid.
    """
    if not isinstance(student, Mapping):
        return _preset(str(student), "student")
    changes = dict(student)
    base: StudentPreset = _preset(str(changes.pop("preset", "7")), "student")
    check_fields(StudentPreset, changes, "student")
    if "targets" in changes:
        changes["targets"] = parse_targets(changes["targets"])
    if "encoder" in changes:
        check_fields(EncoderConfig, changes["encoder"], "student: encoder")
        changes["encoder"] = replace(base.encoder, **changes["encoder"])
    return replace(base, **changes)


def parse_targets(blocks: Any) -> tuple[int, ...]:
    """Teacher blocks from a list of numbers or from text such as `"4,8,12"`.

    Raises:
        InputError: If it is neither.
    """
    try:
        numbers = blocks.split(",") if isinstance(blocks, str) else blocks
        targets = tuple(int(number) for number in numbers)
    except (TypeError, ValueError):
        targets = ()
    if not targets or any(isinstance(n, float) for n in numbers):
        raise InputError(f"targets {blocks!r}: expected blocks, for example [4, 8, 12]")
    return targets


def check_fields(config: type, values: object, where: object) -> None:
    """Check the keys of a mapping against the fields of a dataclass.

    Args:
        config: The dataclass.
        values: The mapping.
        where: What is checked, for error messages.

    Raises:
        InputError: If it is not a mapping, or a key is not a field.
    """
    known = [field.name for field in fields(config)]
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected `name: value` with names of {known}")
    unknown = [str(name) for name in values if name not in known]
    if unknown:
        raise InputError(f"{where}: {', '.join(unknown)} unknown; expected some of {known}")
