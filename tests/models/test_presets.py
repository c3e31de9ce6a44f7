"""The names of the presets: one scheme, short names, and what a new student takes."""

from __future__ import annotations

import pytest
import torch

from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.complexity import preset_cost
from avhubert_ext.models.decoder import TransformerDecoder
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig
from avhubert_ext.models.presets import (
    STUDENTS,
    StudentPreset,
    build_vsr,
    decoder_preset,
    encoder_preset,
    full_name,
    list_presets,
    student_preset,
    vsr_preset,
)
from avhubert_ext.training.student import build_student

BUILDERS = {
    "teacher": lambda name: AVHubertEncoder(encoder_preset(name)),
    "student": build_student,
    "vsr": build_vsr,
    "decoder": lambda name: TransformerDecoder(decoder_preset(name)),
}


def test_all_presets_by_family() -> None:
    assert list_presets("teacher") == ["teacher-base", "teacher-tiny"]
    assert list_presets("vsr") == ["vsr-base-s", "vsr-base-l", "vsr-tiny", "vsr-tiny-s"]
    assert list_presets("decoder") == ["decoder-base", "decoder-tiny"]
    numbers = [str(number) for number in range(1, 8)]
    assert list_presets("student") == [
        *(f"student-{number}" for number in numbers),
        *(f"student-tiny-{number}" for number in numbers),
    ]
    everything = list_presets()
    assert everything == [name for family in BUILDERS for name in list_presets(family)]
    assert len(set(everything)) == len(everything)


def test_an_unknown_family_is_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match="family 'pupil': expected one of teacher, student, vsr"):
        list_presets("pupil")


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_is_a_network(name: str) -> None:
    family, _, short = name.partition("-")
    names = [name] if family == "teacher" else [name, short]
    with torch.device("meta"):
        networks = [BUILDERS[family](given) for given in names]
    shapes = [{n: t.shape for n, t in network.state_dict().items()} for network in networks]
    assert shapes[0] and shapes[0] == shapes[-1]


@pytest.mark.parametrize(
    ("short", "family", "full"),
    [
        ("teacher", None, "teacher-base"),
        ("7", None, "student-7"),
        ("tiny-7", None, "student-tiny-7"),
        ("base-s", None, "vsr-base-s"),
        ("tiny-s", None, "vsr-tiny-s"),
        ("tiny", "vsr", "vsr-tiny"),
        ("tiny", "decoder", "decoder-tiny"),
        ("vsr-tiny", None, "vsr-tiny"),
        ("student-tiny-7", "student", "student-tiny-7"),
    ],
)
def test_short_names(short: str, family: str | None, full: str) -> None:
    assert full_name(short, family) == full
    assert full in list_presets()


def test_a_preset_of_another_family_is_refused() -> None:
    for find, name in (
        (student_preset, "teacher-base"),
        (decoder_preset, "student-7"),
        (vsr_preset, "decoder-tiny"),
        (encoder_preset, "vsr-tiny"),
        (encoder_preset, "decoder-tiny"),
    ):
        with pytest.raises(InputError, match=f"'{name}': expected"):
            find(name)


def test_a_new_student_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    network = EncoderConfig(layers=1, dim=16, ffn=24, heads=2, visual_width=0.125)
    monkeypatch.setitem(STUDENTS, "mine", StudentPreset(network, targets=(2, 4)))
    assert list_presets("student")[-1] == "student-mine"
    for name in ("mine", "student-mine"):
        student = build_student(name)
        assert student.encoder.config == network and student.heads.config.targets == (2, 4)
        assert preset_cost(name).parameters == sum(p.numel() for p in student.encoder.parameters())
    changed = student_preset({"preset": "student-mine", "encoder": {"ffn": 32}})
    assert changed.encoder.ffn == 32 and changed.targets == (2, 4)
