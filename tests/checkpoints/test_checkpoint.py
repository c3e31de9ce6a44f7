"""Model files: exact round trips, errors that name the file, and no code executed from pickles."""

import json
import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from avhubert_ext.checkpoints.conversion import convert
from avhubert_ext.checkpoints.description import DESCRIPTION_KEY, build, describe
from avhubert_ext.checkpoints.fairseq_file import (
    FAIRSEQ_STUDENT,
    from_fairseq_names,
    save_fairseq,
    to_fairseq_names,
)
from avhubert_ext.checkpoints.model_file import (
    load_avhubert,
    load_avhubert_asr,
    load_model,
    save_model,
)
from avhubert_ext.checkpoints.s3prl_file import newest_state, student_states
from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import AVRecognizer, DecoderConfig
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig
from avhubert_ext.models.student import HeadsConfig, Student

CONFIG = EncoderConfig(
    layers=1, dim=16, ffn=16, heads=2, visual_width=0.125, conv_pos=4, conv_pos_groups=2
)
DECODER = DecoderConfig(vocabulary=9, layers=1, dim=24, ffn=16, heads=2)


def make(kind: str) -> AVHubertEncoder | AVRecognizer:
    torch.manual_seed(0)
    model = AVHubertEncoder(CONFIG) if kind == "encoder" else AVRecognizer(CONFIG, DECODER)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(params=["encoder", "recognizer"])
def model(request) -> AVHubertEncoder | AVRecognizer:
    return make(request.param)


def output(model: AVHubertEncoder | AVRecognizer) -> torch.Tensor:
    torch.manual_seed(1)
    audio, video = torch.randn(1, 104, 3), torch.randn(1, 1, 3, 88, 88)
    with torch.no_grad():
        if isinstance(model, AVRecognizer):
            return model(audio, video, None, torch.tensor([[2, 5, 6]]))
        return model(audio, video).last_hidden_state


def assert_same(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    state = found.state_dict()
    assert type(found) is type(expected) and describe(found) == describe(expected)
    assert state.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_round_trip_is_exact(model, tmp_path):
    save_model(tmp_path / "new" / "model.safetensors", model)
    loaded = load_model(tmp_path / "new" / "model.safetensors")
    assert_same(loaded, model)
    assert not loaded.training
    assert torch.equal(output(loaded), output(model))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["model.safetensors"]


def test_half_is_smaller_close_and_comes_back_as_float32(model, tmp_path):
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_model(full, model)
    save_model(half, model, half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    stored = load_file(half)
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    loaded = load_model(half)
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32, torch.int64}
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(output(loaded), output(model), rtol=0.02, atol=0.02)


def test_exact_zeros_of_pruning_survive_half(tmp_path):
    model = make("encoder")
    model.post_extract_proj.weight.data[:, ::2] = 0
    save_model(tmp_path / "m.safetensors", model, half=True)
    loaded = load_model(tmp_path / "m.safetensors").post_extract_proj.weight
    assert torch.equal(loaded == 0, model.post_extract_proj.weight == 0)


def every_kind(folder: Path) -> dict[str, AVHubertEncoder | AVRecognizer]:
    """Writes a file of each kind; returns the models in them by name."""
    encoder, recognizer = make("encoder"), make("recognizer")
    student = Student(CONFIG, HeadsConfig((1,), 8)).eval()
    save_model(folder / "encoder.safetensors", encoder)
    save_model(folder / "recognizer.safetensors", recognizer)
    save_fairseq(folder / "recognizer.pt", recognizer)
    torch.save(student_states(student), folder / "states-1.ckpt")
    # Of fairseq's checkpoint what is read; test_fairseq_distillation.py has whole ones.
    config = {"_name": FAIRSEQ_STUDENT, "description": json.dumps(describe(student))}
    state = {f"student.{name}": tensor for name, tensor in student.state_dict().items()}
    torch.save({"cfg": {"model": config}, "model": state}, folder / "student.pt")
    return {
        "encoder.safetensors": encoder,
        "recognizer.safetensors": recognizer,
        "recognizer.pt": recognizer,
        "states-1.ckpt": student.encoder,
        "student.pt": student.encoder,
    }


def test_the_encoder_and_the_recognizer_of_every_kind_of_file(tmp_path):
    for name, model in every_kind(tmp_path).items():
        whole = isinstance(model, AVRecognizer)
        assert_same(load_avhubert(tmp_path / name), model.encoder if whole else model)
        assert not load_avhubert(str(tmp_path / name)).training
        if whole:
            assert_same(load_avhubert_asr(str(tmp_path / name)), model)
        else:
            with pytest.raises(InputError, match=f"{name} holds an encoder only: finetune it"):
                load_avhubert_asr(tmp_path / name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.ckpt"])
def test_missing_file(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name} not found"):
        load_model(tmp_path / name)


def refused(path: Path, *words: str) -> None:
    """Loading raises an InputError of one line that names the file and the words."""
    with pytest.raises(InputError) as error:
        load_model(path)
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(path))
    for word in words:
        assert word in message


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "ckpt"])
@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.5, 0.999])
def test_truncated_file(tmp_path, suffix, kept):
    model = make("recognizer")
    path = tmp_path / f"m.{suffix}"
    if suffix == "safetensors":
        save_model(path, model)
    elif suffix == "pt":
        save_fairseq(path, model)
    else:
        torch.save(student_states(Student(CONFIG, HeadsConfig((1,), 8))), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refused(path, "truncated")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_refused_in_one_line_or_loads(tmp_path, suffix, zipped):
    """Random bytes change near the start, where the structure is."""
    path = tmp_path / f"m.{suffix}"
    if suffix == "safetensors":
        save_model(path, make("encoder"))
    else:
        content = {"model": {"x": torch.zeros(3)}, "cfg": {"model": {"description": ""}}}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    rng = random.Random(0)
    refusals = 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 5, 30])):
            damaged[rng.randrange(min(len(damaged), 900))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load_model(path)
        except InputError as error:
            refusals += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refusals > 20


def stored(
    model: AVHubertEncoder | AVRecognizer, path: Path, **changes: torch.Tensor | None
) -> Path:
    """Save a model with some tensors replaced, added, or (None) left out."""
    tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, path, {DESCRIPTION_KEY: json.dumps(describe(model))})
    return path


def test_unknown_missing_and_misshapen_tensors_are_named(model, tmp_path):
    path = tmp_path / "m.safetensors"
    refused(stored(model, path, surprise=torch.zeros(2)), "unknown tensors ['surprise']")
    name = next(n for n in model.state_dict() if n.endswith("post_extract_proj.bias"))
    refused(stored(model, path, **{name: None}), f"missing tensors ['{name}']")
    refused(stored(model, path, **{name: torch.zeros(3)}), f"{name} has shape [3], expected [16]")


@pytest.mark.parametrize(
    ("name", "prefix"), [("recognizer.pt", "encoder.w2v_model."), ("states-1.ckpt", "encoder.")]
)
def test_every_tensor_of_a_training_checkpoint_is_accounted_for(tmp_path, name, prefix):
    """The library's name of a tensor is unknown in such a file, so no tensor can be in it twice."""
    every_kind(tmp_path)
    path = tmp_path / name
    content = torch.load(path, weights_only=True)
    state = content["Student" if "Student" in content else "model"]
    bias = state.pop(f"{prefix}layer_norm.bias")
    torch.save(content, path)
    refused(path, f"missing tensors ['{prefix}layer_norm.bias'], unknown tensors []")
    state[f"{prefix}layer_norm.bias"] = bias
    ours = "encoder.layer_norm.bias" if name.endswith(".pt") else "layer_norm.bias"
    for unknown in (ours, "surprise"):
        state[unknown] = bias
        torch.save(content, path)
        refused(path, f"missing tensors [], unknown tensors ['{unknown}']")
        del state[unknown]
    state[f"{prefix}layer_norm.bias"] = torch.zeros(5)
    torch.save(content, path)
    refused(path, f"{prefix}layer_norm.bias has shape [5], expected [32]")


@pytest.mark.parametrize("weights", [None, 3, {"x": "y"}, {2: torch.zeros(2)}])
def test_weights_that_are_no_tensors(tmp_path, weights):
    every_kind(tmp_path)
    for name in ("recognizer.pt", "states-1.ckpt"):
        content = torch.load(tmp_path / name, weights_only=True)
        content["Student" if "Student" in content else "model"] = weights
        torch.save(content, tmp_path / name)
        refused(tmp_path / name, "its weights are not a dict of plain tensors")


@pytest.mark.parametrize("description", ["{}", 3, [], "nonsense", {"kind": "encoder"}])
def test_descriptions_that_do_not_fit(tmp_path, description):
    every_kind(tmp_path)
    content = torch.load(tmp_path / "recognizer.pt", weights_only=True)
    content["cfg"]["model"]["description"] = description
    torch.save(content, tmp_path / "recognizer.pt")
    refused(tmp_path / "recognizer.pt")
    content = torch.load(tmp_path / "states-1.ckpt", weights_only=True)
    content["Student_Description"] = description
    torch.save(content, tmp_path / "states-1.ckpt")
    refused(tmp_path / "states-1.ckpt", "its configuration does not fit")


def test_safetensors_of_something_else(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    refused(path, "no avhubert-ext configuration")


@pytest.mark.parametrize(
    "description",
    [
        '{"kind": "encoder", "encoder": {"color": "blue"}}',
        '{"kind": "encoder"}',
        '{"kind": "encoder", "enc',
        '{"kind": "toaster", "encoder": {}}',
        "[]",
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path, description):
    path = tmp_path / "m.safetensors"
    save_file({"x": torch.zeros(2)}, path, {DESCRIPTION_KEY: description})
    refused(path)


@pytest.mark.parametrize("content", [[], {}, {"model": {}}, torch.zeros(2), {"cfg": {"model": {}}}])
def test_torch_file_of_something_else(tmp_path, content):
    path = tmp_path / "m.pt"
    torch.save(content, path)
    refused(path)


class Bomb:
    """Makes a file when unpickled."""

    def __init__(self, call: Callable[[str], object], marker: Path) -> None:
        self.call = call
        self.marker = marker

    def __reduce__(self) -> tuple:
        return self.call, (f"touch {self.marker}",)


@pytest.mark.parametrize("suffix", ["pt", "ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("call", [os.system, subprocess.getoutput])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, suffix, zipped, call):
    marker = tmp_path / "marker"
    path = tmp_path / f"m.{suffix}"
    save_fairseq(tmp_path / "good.pt", make("recognizer"))
    content = torch.load(tmp_path / "good.pt", weights_only=True)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if zipped:
        load_model(path)  # as it is, the file is good; the old format is always refused
    content["extra_state"]["bomb"] = Bomb(call, marker)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refused(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the bomb is real


def test_fairseq_names_round_trip():
    state = make("recognizer").state_dict()
    theirs = to_fairseq_names(state)
    assert "encoder.w2v_model.encoder.layers.0.fc1.weight" in theirs
    assert "encoder.w2v_model.feature_extractor_video.proj.weight" in theirs
    assert "encoder.bridge.weight" in theirs
    assert "decoder.network.layers.0.fc1.weight" in theirs
    assert theirs.keys().isdisjoint(state.keys()) and len(theirs) == len(state)
    back = from_fairseq_names(theirs)
    assert list(back) == list(state)
    assert all(back[name] is tensor for name, tensor in state.items())


def test_safetensors_to_fairseq_and_back(tmp_path):
    model = make("recognizer")
    save_model(tmp_path / "a.safetensors", model)
    line = convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert "AVRecognizer" in line and f"{millions:.2f}M" in line
    convert(tmp_path / "b.pt", tmp_path / "c.safetensors")
    assert_same(load_model(tmp_path / "c.safetensors"), model)


def test_convert_refuses_an_encoder_as_fairseq_file_and_unknown_endings(tmp_path):
    source = tmp_path / "a.safetensors"
    save_model(source, make("encoder"))
    for name in ("b.pt", "b.onnx"):
        with pytest.raises(InputError, match=rf"{name}: expected \.safetensors, or \.pt for"):
            convert(source, tmp_path / name)
        assert not (tmp_path / name).exists()


def test_the_encoder_of_a_distilled_student(tmp_path):
    """`convert` takes the last state in an experiment folder."""
    torch.manual_seed(0)
    students = [Student(CONFIG, HeadsConfig((8, 12), 10)).eval() for _ in range(3)]
    steps = zip(("states-90", "states-100", "states-epoch-2"), students, (10, 20, 30), strict=True)
    for name, student, age in steps:
        torch.save(student_states(student), tmp_path / f"{name}.ckpt")
        os.utime(tmp_path / f"{name}.ckpt", (1e9 - age, 1e9 - age))
    assert newest_state(tmp_path).name == "states-epoch-2.ckpt"
    (tmp_path / "states-epoch-2.ckpt").unlink()
    assert newest_state(tmp_path).name == "states-100.ckpt"
    convert(tmp_path, tmp_path / "student.safetensors")
    assert_same(load_model(tmp_path / "student.safetensors"), students[1].encoder)
    again = build(json.loads(student_states(students[0])["Student_Description"]))
    assert again.heads.config == students[0].heads.config
    assert again.encoder.config == students[0].encoder.config


def test_folder_without_states(tmp_path):
    with pytest.raises(InputError, match=r"no states-\*\.ckpt"):
        convert(tmp_path, tmp_path / "x.safetensors")


def test_a_failed_save_leaves_the_old_file(tmp_path):
    """The temporary file is gone and the old model still loads."""
    path = tmp_path / "m.safetensors"
    old = make("encoder")
    save_model(path, old)
    new = AVHubertEncoder(replace(CONFIG, dim=8, heads=1)).eval()
    new.register_buffer("unwritable", torch.zeros(2, device="meta"))
    with pytest.raises(Exception):  # noqa: B017 - whatever safetensors says of a meta tensor
        save_model(path, new)
    assert_same(load_model(path), old)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
