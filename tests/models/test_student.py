"""Students: Table 1 by name, others by preset, and the weights that they start from."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import SMALL, clip, randomize
from safetensors.torch import save_file

from avhubert_ext.checkpoints.model_file import save_model
from avhubert_ext.errors import InputError
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.frontends import ShuffleNetV2
from avhubert_ext.models.presets import STUDENTS, TEACHERS, StudentPreset, student_preset
from avhubert_ext.models.student import HeadsConfig, PredictionHeads
from avhubert_ext.training.student import build_student

THREE, TWO = (4, 8, 12), (8, 12)
TABLE_1 = {  # N, D, C, type, visual frontend, targets, initialized by teacher
    "1": (2, 768, 3072, "transformer", "resnet", THREE, True),
    "2": (2, 768, 3072, "transformer", "resnet", THREE, True),
    "3": (2, 768, 3072, "transformer", "resnet", THREE, False),
    "4": (6, 384, 3200, "transformer", "resnet", THREE, False),
    "5": (6, 384, 3200, "transformer", "resnet", TWO, False),
    "6": (6, 384, 1536, "conformer", "resnet", TWO, False),
    "7": (6, 384, 1536, "conformer", "shufflenet", TWO, False),
}
LIGHT = StudentPreset(replace(SMALL, block="conformer", visual="shufflenet", visual_width=1.0))


@pytest.mark.parametrize("student", [7, None, SMALL])
def test_what_is_no_student_is_refused(student):
    with pytest.raises(InputError, match="expected a preset's name or a StudentPreset"):
        build_student(student)


def test_a_student_is_stored_without_its_heads(tmp_path):
    student = build_student(LIGHT)
    with pytest.raises(InputError, match="save its encoder"):
        save_model(tmp_path / "s.safetensors", student)
    save_model(tmp_path / "s.safetensors", student.encoder)


@pytest.mark.parametrize("name", TABLE_1)
def test_students_of_table_1(name):
    """The network, its output, and the dropout that its authors stated later."""
    layers, dim, ffn, block, visual, targets, from_teacher = TABLE_1[name]
    with torch.device("meta"):
        student = build_student(name).eval()
        out = student(torch.zeros(2, 104, 5), torch.zeros(2, 1, 5, 88, 88))
    blocks = student.encoder.encoder.layers
    feed_forward = blocks[0].ffn1.fc1 if block == "conformer" else blocks[0].fc1
    assert [type(b).__name__.lower() for b in blocks] == [f"{block}block"] * layers
    assert feed_forward.weight.shape == (ffn, dim) and blocks[0].self_attn.heads == 12
    assert hasattr(student.encoder.feature_extractor_video, visual)
    assert STUDENTS[name].from_teacher == from_teacher
    assert [list(s.shape) for s in out.hidden_states] == [[2, 5, dim]] * (layers + 1)
    assert {k: list(p.shape) for k, p in out.predictions.items()} == {
        target: [2, 5, 768] for target in targets
    }
    c = student.encoder.config
    assert (c.dropout_input, c.dropout, c.attention_dropout, c.activation_dropout) == (
        0.0, 0.1, 0.1, 0.1,
    )  # fmt: skip


def test_shufflenet_of_student_7():
    with torch.device("meta"):
        trunk = build_student("7").encoder.feature_extractor_video.shufflenet
    state = trunk.state_dict()
    assert list(state["frontend3D.0.weight"].shape) == [24, 1, 5, 7, 7]
    assert list(state["conv5.0.weight"].shape) == [512, 464, 1, 1]
    assert [len(getattr(trunk, f"stage{n}")) for n in (2, 3, 4)] == [4, 8, 4]


@pytest.mark.slow
def test_any_other_combination():
    """Four heads, a shallow conformer on ResNet, a teacher of another width."""
    teacher = AVHubertEncoder(replace(SMALL, layers=5, dim=48))
    chosen = StudentPreset(replace(SMALL, layers=1, ffn=20, block="conformer"), (1, 5, 2, 3))
    student = build_student(chosen, teacher).eval()
    out = student(*clip(batch=2))
    assert out.last_hidden_state.shape == (2, 5, 32) and len(out.hidden_states) == 2
    assert {k: tuple(p.shape) for k, p in out.predictions.items()} == {
        block: (2, 5, 48) for block in (1, 5, 2, 3)
    }
    assert student.encoder.config == chosen.encoder


@pytest.fixture(scope="module")
def base_teacher() -> AVHubertEncoder:
    torch.manual_seed(0)
    teacher = AVHubertEncoder(TEACHERS["base"])
    for name, buffer in teacher.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return teacher.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1", "2"])
@torch.no_grad()
def test_students_1_and_2_start_as_the_teachers_first_two_blocks(base_teacher, name):
    student = build_student(name, base_teacher).eval()
    audio, video = clip(frames=3)
    expected, found = base_teacher(audio, video), student(audio, video)
    assert len(found.hidden_states) == 3
    for theirs, ours in zip(expected.hidden_states, found.hidden_states, strict=False):
        assert torch.equal(theirs, ours)


@pytest.mark.parametrize("from_teacher", [True, False])
def test_copies_are_the_students_own_and_only_made_where_the_preset_says(from_teacher):
    teacher = randomize(AVHubertEncoder(replace(SMALL, layers=4)))
    student = build_student(StudentPreset(SMALL, (4,), from_teacher), teacher)
    theirs, ours = teacher.layer_norm.weight, student.encoder.layer_norm.weight
    assert torch.equal(theirs, ours) == from_teacher
    with torch.no_grad():
        ours.zero_()
    assert theirs.abs().sum() > 0


@pytest.mark.parametrize("changes", [{"dim": 64}, {"heads": 2}, {"layers": 9}, {"ffn": 40}])
def test_a_teacher_of_another_network_cannot_be_copied(changes):
    teacher = AVHubertEncoder(replace(SMALL, layers=4))
    chosen = StudentPreset(replace(SMALL, **changes), (4,), from_teacher=True)
    with pytest.raises(InputError, match="cannot start from this teacher"):
        build_student(chosen, teacher)


def test_a_teacher_without_the_target_block_is_refused():
    with pytest.raises(InputError, match=r"blocks \(4, 8, 12\), but its teacher has 2: choose"):
        build_student("3", AVHubertEncoder(SMALL))


@pytest.mark.parametrize("targets", [(), (0, 4), (4, 4)])
def test_invalid_targets_are_refused(targets):
    with pytest.raises(InputError, match="expected different blocks of the teacher"):
        build_student(StudentPreset(SMALL, targets))


def test_an_unknown_name_is_refused_with_the_choices():
    with pytest.raises(
        InputError,
        match="student preset '8' is unknown: choose one of student-1, student-2, student-3",
    ):
        build_student("8")


def test_prediction_heads_formula():
    heads = randomize(PredictionHeads(6, HeadsConfig((8, 12), teacher_dim=5)))
    x = torch.randn(2, 3, 6)
    hidden = x @ heads.shared.weight.T + heads.shared.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    found = heads(x)
    assert list(found) == [8, 12]
    for target, part, head in zip((8, 12), hidden.split(6, dim=-1), heads.heads, strict=True):
        torch.testing.assert_close(found[target], part @ head.weight.T + head.bias)


def torchvision_state(seed: int = 5) -> dict[str, torch.Tensor]:
    """Names and shapes of torchvision's `shufflenetv2_x1_0`, random values."""
    trunk = randomize(ShuffleNetV2(), seed)
    state = {name: t for name, t in trunk.state_dict().items() if name.startswith("stage")}
    for name, shape in {"conv1": (24, 3, 3, 3), "conv5": (1024, 464, 1, 1)}.items():
        state[f"{name}.0.weight"] = torch.randn(shape)
        for kind in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.1.{kind}"] = torch.rand(shape[0])
        state[f"{name}.1.num_batches_tracked"] = torch.tensor(7)
    return state | {"fc.weight": torch.randn(1000, 1024), "fc.bias": torch.randn(1000)}


def test_names_and_shapes_are_torchvisions():
    state = torchvision_state()
    assert {name: list(state[name].shape) for name in state if ".0.branch" in name
            and name.startswith("stage2") and state[name].dim() == 4} == {
        "stage2.0.branch1.0.weight": [24, 1, 3, 3],
        "stage2.0.branch1.2.weight": [58, 24, 1, 1],
        "stage2.0.branch2.0.weight": [58, 24, 1, 1],
        "stage2.0.branch2.3.weight": [58, 1, 3, 3],
        "stage2.0.branch2.5.weight": [58, 58, 1, 1],
    }  # fmt: skip
    assert list(state["stage3.7.branch2.6.running_var"].shape) == [116]
    assert list(state["stage4.3.branch2.5.weight"].shape) == [232, 232, 1, 1]
    assert not any(name.startswith("stage2.1.branch1") for name in state)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("counters", [True, False])  # older files have no num_batches_tracked
def test_imagenet_weights_fill_the_stages_and_nothing_else(tmp_path, suffix, counters):
    state = torchvision_state()
    if not counters:
        state = {name: t for name, t in state.items() if "num_batches" not in name}
    path = tmp_path / f"shufflenet{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:  # the format of torchvision's file
        torch.save(state, path, _use_new_zipfile_serialization=False)
    torch.manual_seed(0)
    student = build_student(LIGHT, imagenet=path)
    torch.manual_seed(0)
    fresh = build_student(LIGHT).state_dict()
    for name, tensor in student.state_dict().items():
        stage = name.removeprefix("encoder.feature_extractor_video.shufflenet.")
        copied = stage.startswith("stage") and "num_batches" not in name
        assert torch.equal(tensor, state[stage] if copied else fresh[name]), name


def refused(path: Path, *words: str, chosen: StudentPreset = LIGHT) -> None:
    """An InputError of one line that names the file and the words."""
    with pytest.raises(InputError) as error:
        build_student(chosen, imagenet=path)
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(path)) and len(message) < 600
    for word in words:
        assert word in message


def test_imagenet_files_that_do_not_fit(tmp_path):
    path = tmp_path / "w.pth"
    refused(path, "not found")
    state = torchvision_state()
    lost = "stage2.0.branch1.0.weight"
    torch.save({name: t for name, t in state.items() if name != lost}, path)
    refused(path, f"{lost} is missing", "torchvision's shufflenetv2_x1_0")
    torch.save(state | {"stage5.0.weight": torch.zeros(1)}, path)
    refused(path, "stage5.0.weight is unknown")
    torch.save(state | {lost: torch.zeros(24, 1, 5, 5)}, path)
    refused(path, f"{lost} has shape [24, 1, 5, 5], expected [24, 1, 3, 3]")
    torch.save({f"module.{name}": t for name, t in state.items()}, path)
    refused(path, "module.", "is unknown", "and 547 more")
    torch.save({"state_dict": state}, path)
    refused(path, "not a state dict of tensors")
    torch.save([1, 2], path)
    refused(path, "not a state dict of tensors")


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("zipped", [True, False])
def test_imagenet_files_run_nothing(tmp_path, zipped):
    path = tmp_path / "w.pth"
    content = {"fc.bias": Malicious(tmp_path / "victim")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refused(path, "not only tensors")
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("name", ["zipped.pth", "old.pth", "w.safetensors"])
def test_truncated_imagenet_files(tmp_path, name, kept):
    path = tmp_path / name
    if name.endswith(".pth"):
        torch.save(
            torchvision_state(), path, _use_new_zipfile_serialization=name.startswith("zipped")
        )
    else:
        save_file(torchvision_state(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refused(path, "truncated")


def test_imagenet_weights_for_another_student_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(torchvision_state(), path)
    narrow = replace(LIGHT.encoder, visual_width=0.5)
    for config in (SMALL, replace(SMALL, visual_width=1.0), narrow):
        refused(path, "visual='shufflenet' at width 1.0", chosen=StudentPreset(config))
    copying = replace(LIGHT, from_teacher=True, targets=(1,))
    with pytest.raises(InputError, match="does not start from its teacher"):
        build_student(copying, AVHubertEncoder(LIGHT.encoder), path)


def test_a_change_to_a_preset():
    assert student_preset(7) is student_preset("7") is STUDENTS["7"]
    changed = student_preset({"preset": "4", "targets": [12], "encoder": {"ffn": 1024}})
    assert changed == replace(
        STUDENTS["4"], targets=(12,), encoder=replace(STUDENTS["4"].encoder, ffn=1024)
    )
    assert student_preset({"from_teacher": True}) == replace(STUDENTS["7"], from_teacher=True)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("8", "student preset '8' is unknown: choose one of student-1, student-2"),
        ({"preset": "8"}, "student preset '8' is unknown"),
        ({"target": [8]}, "student: target unknown; expected some of"),
        ({"encoder": {"width": 3}}, "student: encoder: width unknown; expected some of"),
        ({"encoder": {"layers": "2"}}, "layers '2': expected a whole number"),
        ({"encoder": {"dim": 96.0}}, "dim 96.0: expected a whole number"),
        ({"encoder": {"dropout": "a"}}, "dropout 'a': expected a number"),
        ({"encoder": 3}, "student: encoder: expected `name: value`"),
        ({"targets": 8}, "targets 8: expected blocks, for example"),
        ({"targets": "8,x"}, "targets '8,x': expected blocks"),
        ({"encoder": {"dim": 13}}, "dim 13: expected a multiple of heads"),
    ],
)
def test_invalid_changes_are_refused(student, message):
    with pytest.raises(InputError, match=message):
        student_preset(student)
