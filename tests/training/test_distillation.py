"""Distillation as both toolkits use it: settings, frozen teacher, and the loss of a batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from networks import SMALL, clip, randomize
from torch import nn

from avhubert_ext.data.dataset import Batch
from avhubert_ext.errors import InputError
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.presets import STUDENTS
from avhubert_ext.models.student import HeadsConfig, Student
from avhubert_ext.training.distillation import (
    DistillationConfig,
    Teacher,
    autocast_dtype,
    distill_batch,
    mean_terms,
)

DEEP = replace(SMALL, layers=4)
BASIC = DistillationConfig("teacher.pt", teacher_precision="float32")


@pytest.fixture(scope="module")
def encoder() -> AVHubertEncoder:
    return randomize(AVHubertEncoder(DEEP))


def batch(clean: bool = False) -> Batch:
    """Two clips, the second shorter; the clean audio is an unrelated signal."""
    audio, video = clip(batch=2, frames=6)
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    return Batch(audio, video, padding, clip(batch=2, frames=6, seed=9)[0] if clean else None)


# ---- the teacher


def test_targets_are_the_residual_stream_after_the_named_blocks(encoder):
    b = batch()
    expected = encoder(b.audio, b.video, b.padding_mask).hidden_states
    targets = Teacher(encoder, (1, 3), precision="float32")(b.audio, b.video, b.padding_mask)
    assert list(targets) == [1, 3]
    for block, target in targets.items():
        valid = ~b.padding_mask
        torch.testing.assert_close(target[valid], expected[block][valid], rtol=1e-4, atol=1e-4)


def test_the_final_norm_is_on_the_last_block_and_only_if_asked_for(encoder):
    b = batch()
    plain, normed = (
        Teacher(encoder, (2, 4), final_norm, "float32")(b.audio, b.video)
        for final_norm in (False, True)
    )
    assert torch.equal(plain[2], normed[2])
    norm = encoder.encoder.layer_norm
    expected = F.layer_norm(plain[4], (SMALL.dim,), norm.weight, norm.bias)
    torch.testing.assert_close(normed[4], expected, rtol=1e-4, atol=1e-4)
    assert (plain[4] - normed[4]).abs().max() > 0.1
    assert torch.equal(Teacher(encoder, (2,), True, "float32")(b.audio, b.video)[2], plain[2])


def test_the_teacher_is_frozen_and_only_as_deep_as_needed(encoder):
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    teacher = Teacher(encoder, (1, 2))
    assert len(teacher.encoder.encoder.layers) == 2 and len(encoder.encoder.layers) == 4
    assert not any(p.requires_grad for p in teacher.parameters())
    nn.Sequential(teacher).train()
    assert not any(module.training for module in teacher.modules())
    targets = teacher(*clip(batch=2))
    assert not any(t.requires_grad for t in targets.values())
    assert encoder.state_dict().keys() == before.keys(), "the encoder itself stays as it was"
    assert all(torch.equal(t, before[name]) for name, t in encoder.state_dict().items())


def test_precision_of_the_teacher(encoder):
    b = batch()
    exact, low = (
        Teacher(encoder, (4,), precision=p)(b.audio, b.video, b.padding_mask)[4].float()
        for p in ("float32", "bfloat16")
    )
    valid = ~b.padding_mask
    difference = ((exact - low)[valid].norm() / exact[valid].norm()).item()
    assert 1e-4 < difference < 0.05, "another precision, the same numbers"
    with torch.autocast("cpu", torch.bfloat16):
        again = Teacher(encoder, (4,), precision="float32")(b.audio, b.video, b.padding_mask)[4]
    assert torch.equal(again, exact), "autocast around the training step does not reach it"
    assert autocast_dtype("float32", "cpu") is None
    assert autocast_dtype("auto", "cpu") in (None, torch.bfloat16)


def test_a_teacher_without_the_block_is_refused(encoder):
    with pytest.raises(InputError, match=r"teacher blocks \(2, 5\), but its teacher has 4"):
        Teacher(encoder, (2, 5))


# ---- a batch


class Recorder(nn.Module):
    """Records the inputs of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[tuple] = []

    def forward(self, *inputs: torch.Tensor | None) -> object:
        self.seen.append(inputs)
        return self.network(*inputs)


@pytest.fixture
def networks(encoder) -> tuple[Recorder, Recorder]:
    torch.manual_seed(1)
    student = Student(SMALL, HeadsConfig((2, 4), DEEP.dim)).eval()
    return Recorder(Teacher(encoder, (2, 4), precision="float32")), Recorder(student)


def test_teacher_and_student_see_the_same_input(networks):
    teacher, student = networks
    b = batch()
    distill_batch(BASIC, teacher, student, b)
    for seen in (teacher.seen[0], student.seen[0]):
        assert seen[0] is b.audio and seen[1] is b.video and seen[2] is b.padding_mask


def test_noise_can_be_kept_from_the_teacher(networks):
    teacher, student = networks
    b = batch(clean=True)
    distill_batch(BASIC, teacher, student, b)
    assert teacher.seen[0][0] is b.clean_audio and student.seen[0][0] is b.audio


@pytest.mark.parametrize("receiver", ["student", "both"])
def test_who_loses_a_modality(networks, receiver):
    teacher, student = networks
    config = replace(BASIC, modality_dropout=1.0, modality_dropout_for=receiver)
    b = batch(clean=True)
    for _ in range(8):
        distill_batch(config, teacher, student, b)
    lost = {tuple(x is None for x in seen[:2]) for seen in student.seen}
    assert lost == {(True, False), (False, True)}
    for taught, heard in zip(teacher.seen, student.seen, strict=True):
        if receiver == "student":
            assert taught[0] is b.clean_audio and taught[1] is b.video
        else:
            assert [x is None for x in taught[:2]] == [x is None for x in heard[:2]]
            assert taught[0] is None or taught[0] is b.clean_audio
    distill_batch(config, teacher, student, b, training=False)
    assert student.seen[-1][0] is b.audio and student.seen[-1][1] is b.video


def test_a_padded_batch_is_the_mean_over_the_frames_of_its_clips(networks):
    """Equations (1) and (2), written with loops over clips and blocks."""
    teacher, student = networks
    b = batch()
    loss, terms = distill_batch(replace(BASIC, cosine_weight=2.0), teacher, student, b)
    total = {"l1_2": 0.0, "l1_4": 0.0, "cosine_similarity_2": 0.0, "cosine_similarity_4": 0.0}
    expected, frames = 0.0, 0
    for index, length in enumerate((6, 4)):
        one = (b.audio[index : index + 1, :, :length], b.video[index : index + 1, :, :length])
        states = teacher.network(*one)
        predictions = student.network(*one).predictions
        for block in (2, 4):
            p, h = predictions[block][0], states[block][0]
            l1 = (p - h).abs().sum(dim=1) / DEEP.dim
            cosine = (p * h).sum(dim=1) / (p.norm(dim=1) * h.norm(dim=1))
            expected += (l1 - 2.0 * torch.log(torch.sigmoid(cosine))).sum().item()
            total[f"l1_{block}"] += l1.sum().item()
            total[f"cosine_similarity_{block}"] += cosine.sum().item()
        frames += length
    assert loss.item() == pytest.approx(expected / frames, rel=1e-4)
    for name, value in total.items():
        assert terms[name].item() == pytest.approx(value / frames, rel=1e-3, abs=1e-3)


def test_only_the_student_learns(networks):
    teacher, student = networks
    loss, _ = distill_batch(BASIC, teacher, student, batch())
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert student.network.heads.shared.weight.grad.abs().sum() > 0
    assert student.network.encoder.feature_extractor_video.proj.weight.grad.abs().sum() > 0


def test_means_over_batches_count_frames():
    results = [({"x": torch.tensor(1.0)}, 30), ({"x": torch.tensor(4.0)}, 10)]
    assert mean_terms(results) == {"x": pytest.approx(1.75)}


# ---- settings


def test_settings_from_a_file():
    config = DistillationConfig.from_mapping({"teacher": "t.pt", "targets": [4, 12]}, "m.yaml")
    assert config.targets == config.preset().targets == (4, 12)
    assert config.preset().encoder == STUDENTS["7"].encoder
    assert (config.cosine_weight, config.final_norm) == (1.0, False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"student": "7"}, "m.yaml: teacher missing"),
        ({"teacher": "t", "lambda": 1}, "m.yaml: lambda unknown; expected some of"),
        ("student: 7", "m.yaml: expected `name: value`"),
        ({"teacher": "t", "cosine_weight": "1"}, "m.yaml: cosine_weight '1': expected a number"),
        ({"teacher": "t", "cosine_weight": -1}, "m.yaml: cosine_weight -1: expected a number"),
        ({"teacher": "t", "modality_dropout": 2}, "modality_dropout 2: expected a probability"),
        ({"teacher": "t", "modality_dropout_for": "teacher"}, "expected one of both, student"),
        ({"teacher": "t", "teacher_precision": "int8"}, "teacher_precision 'int8': expected one"),
        ({"teacher": "t", "targets": "x"}, "m.yaml: targets 'x': expected blocks"),
        ({"teacher": "t", "targets": []}, "expected blocks, for example"),
        ({"teacher": "t", "targets": [12.7]}, "expected blocks, for example"),
        ({"teacher": 5}, "m.yaml: teacher 5: expected the path of a checkpoint"),
        ({"teacher": "t", "final_norm": "false"}, "final_norm 'false': expected true or false"),
        ({"teacher": "t", "cosine_weight": float("nan")}, "cosine_weight nan: expected a number"),
    ],
)
def test_invalid_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        DistillationConfig.from_mapping(values, "m.yaml")


def test_student_and_teacher_of_the_settings_fit(encoder):
    change = {"preset": "tiny-7", "targets": [2, 4]}
    config = DistillationConfig("t.pt", change, teacher_precision="float32")
    student, teacher = config.new_student(encoder).eval(), config.new_teacher(encoder)
    assert student.heads.config == HeadsConfig((2, 4), DEEP.dim)
    loss, _ = distill_batch(config, teacher, student, batch())
    assert torch.isfinite(loss)
    with pytest.raises(InputError, match="cannot start from this teacher"):
        config = replace(config, student={**change, "from_teacher": True})
        config.new_student(encoder)
