"""Every reader of model files: known wrappers, forged pickles, damaged bytes, NaN weights."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from safetensors import safe_open
from test_checkpoint import make
from test_vsr import peer_state, small

from avhubert_ext.checkpoints.auto_avsr import load_frontend
from avhubert_ext.checkpoints.description import describe
from avhubert_ext.checkpoints.fairseq_file import FAIRSEQ_STUDENT, save_fairseq
from avhubert_ext.checkpoints.imagenet import load_imagenet_shufflenet
from avhubert_ext.checkpoints.model_file import (
    ModelFile,
    load_model,
    read_masks,
    read_origin,
    save_model,
)
from avhubert_ext.checkpoints.s3prl_file import student_states
from avhubert_ext.checkpoints.sparse_file import save_masks
from avhubert_ext.checkpoints.subwords import find_subwords
from avhubert_ext.compression.pruning import global_magnitude_mask
from avhubert_ext.data.cache import load_features_cached
from avhubert_ext.data.text import Subwords
from avhubert_ext.errors import InputError
from avhubert_ext.models.frontends import ShuffleNetV2
from avhubert_ext.models.student import HeadsConfig, Student
from avhubert_ext.mouth.landmark_files import read_landmarks

SUBWORDS = ROOT / "scripts/models/tiny-teacher"


def fairseq_content(folder: Path) -> dict:
    save_fairseq(folder / "plain.pt", make("recognizer"))
    return torch.load(folder / "plain.pt", weights_only=True)


def peer_content(_: Path) -> dict:
    return peer_state()


def student_content(_: Path) -> dict:
    torch.manual_seed(0)
    return student_states(Student(make("encoder").config, HeadsConfig((1,), 24)))


def prefixed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


WRAPPED = {
    "fairseq, DDP": (fairseq_content, lambda c: c | {"model": prefixed(c["model"], "module.")}),
    "fairseq, nested": (fairseq_content, lambda c: {"checkpoint": c, "epoch": 3}),
    "s3prl, DDP": (student_content, lambda c: c | {"Student": prefixed(c["Student"], "module.")}),
    "s3prl, compiled": (
        student_content,
        lambda c: c | {"Student": prefixed(c["Student"], "_orig_mod.")},
    ),
    "Auto-AVSR, model": (peer_content, lambda c: {"model": c}),
    "Auto-AVSR, DDP": (peer_content, lambda c: {"state_dict": prefixed(c, "module.model.")}),
    "Auto-AVSR, Lightning": (peer_content, lambda c: {"state_dict": prefixed(c, "model.")}),
    "Auto-AVSR, trainer": (peer_content, lambda c: {"model_state_dict": prefixed(c, "module.")}),
    "Auto-AVSR, average": (
        peer_content,
        lambda c: {"ema": {"n_averaged": torch.tensor(5), **prefixed(c, "module.")}},
    ),
    "Auto-AVSR, deep": (peer_content, lambda c: {"checkpoint": {"ema": {"state_dict": c}}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRAPPED)
def test_known_wrappers_and_prefixes_do_not_matter(tmp_path, kind):
    content, wrapped = WRAPPED[kind]
    torch.save(content(tmp_path), tmp_path / "bare.pth")
    torch.save(wrapped(content(tmp_path)), tmp_path / "wrapped.pth")
    expected, found = load_model(tmp_path / "bare.pth"), load_model(tmp_path / "wrapped.pth")
    assert describe(found) == describe(expected)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    wrapped_file, bare_file = (ModelFile(tmp_path / f"{n}.pth") for n in ("wrapped", "bare"))
    assert wrapped_file.description == bare_file.description
    assert read_origin(tmp_path / "wrapped.pth") == read_origin(tmp_path / "bare.pth")


def test_weights_come_before_their_average(tmp_path):
    average = {name: torch.zeros_like(tensor) for name, tensor in peer_state().items()}
    torch.save({"ema": average, "state_dict": peer_state()}, tmp_path / "m.pth")
    assert load_model(tmp_path / "m.pth").decoder.embed_tokens.weight.any()


@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: {"model": prefixed(c, "module.")}])
def test_a_frontend_comes_out_of_its_wrappers(tmp_path, wrap):
    trunk = small().encoder.video.frontend.state_dict()
    trained = {name: torch.ones_like(tensor) for name, tensor in trunk.items()}
    torch.save(wrap(trained), tmp_path / "lrw.pth")
    model = small()
    load_frontend(model, tmp_path / "lrw.pth")
    assert all(bool((t == 1).all()) for t in model.encoder.video.frontend.state_dict().values())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"weight": torch.zeros(2, 3)}, r"weight \(tensor \[2, 3\]\)"),
        ({"epoch": 3, "model": {"a.b": torch.zeros(1)}}, r"epoch \(int\), model \(1 entries such"),
        ({f"k{i}": i for i in range(20)}, r"k5 \(int\) and 14 more"),
        ({}, "it holds nothing"),
        ({"state_dict": {1: torch.zeros(1)}}, "state_dict"),
    ],
)
def test_what_is_no_checkpoint_is_named_by_what_it_holds(tmp_path, content, told):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(InputError, match=told) as error:
        load_model(tmp_path / "m.pt")
    assert "\n" not in str(error.value)


# ---- nothing in a file is executed


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def bare_pickle(evil: Command) -> bytes:
    return pickle.dumps({"model": evil})


def torch_zip(evil: Command) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": evil}, buffer)
    return buffer.getvalue()


def torch_legacy(evil: Command) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": evil}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def zip_of_pickles(evil: Command) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("data.pkl", "archive/data.pkl", "constants.pkl", "arr_0.npy"):
            archive.writestr(name, pickle.dumps(evil))
    return buffer.getvalue()


def array_of_objects(evil: Command) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([evil], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def arrays_of_objects(evil: Command) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, np.array([evil], dtype=object))
    return buffer.getvalue()


PICKLES = (
    bare_pickle, torch_zip, torch_legacy, zip_of_pickles, array_of_objects, arrays_of_objects
)  # fmt: skip


def read_every_part(path: Path) -> None:
    """Call all readers one after another, because the first may refuse the file."""
    for reader in (load_model, read_origin, read_masks, find_subwords):
        attempt(reader, path)
    attempt(lambda: ModelFile(path).description)
    attempt(load_frontend, small(), path)
    attempt(load_imagenet_shufflenet, ShuffleNetV2(1.0), path)


def attempt(function: Callable, *args: object) -> None:
    try:
        function(*args)
    except InputError as error:
        assert "\n" not in str(error)


def read_landmark_file(path: Path) -> None:
    attempt(read_landmarks, path)


def read_subwords(path: Path) -> None:
    attempt(Subwords, path)


def read_cached(path: Path) -> None:
    """Put the file in place of an entry of the cache."""
    wave = path.with_name("wave.wav")
    soundfile.write(wave, np.zeros(6400, np.int16), 16000)
    cache = path.with_name("cache")
    whole = np.array(load_features_cached(wave, 10, cache))
    (entry,) = cache.iterdir()
    entry.write_bytes(path.read_bytes())
    assert np.array_equal(load_features_cached(wave, 10, cache), whole)


READERS = {
    "model.pt": read_every_part,
    "model.ckpt": read_every_part,
    "model.pth": read_every_part,
    "model.safetensors": read_every_part,
    "landmarks.pkl": read_landmark_file,
    "landmarks.npy": read_landmark_file,
    "landmarks.npz": read_landmark_file,
    "spm.model": read_subwords,
    "frames.npy": read_cached,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("forge", PICKLES)
def test_no_reader_runs_what_is_in_a_file(tmp_path, name, forge):
    marker = tmp_path / "executed"
    (tmp_path / name).write_bytes(forge(Command(marker)))
    READERS[name](tmp_path / name)
    assert not marker.exists()


def test_the_forged_pickles_would_run(tmp_path):
    marker = tmp_path / "executed"
    for forge in (torch_zip, torch_legacy):
        torch.load(io.BytesIO(forge(Command(marker))), weights_only=False)
        marker.unlink()
    for forge in (array_of_objects, arrays_of_objects):
        loaded = np.load(io.BytesIO(forge(Command(marker))), allow_pickle=True)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            _ = loaded["arr_0"]
        marker.unlink()
    pickle.loads(bare_pickle(Command(marker)))
    marker.unlink()


# ---- damage is found


def with_one_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("where", [0.5, 0.9, 0.9999])
def test_a_changed_bit_among_the_weights_is_found(tmp_path, where):
    save_model(tmp_path / "m.safetensors", make("recognizer"))
    save_fairseq(tmp_path / "m.pt", make("recognizer"))
    for path in tmp_path.glob("m.*"):
        load_model(path)
        # The end of a zip file is its table of contents.
        usable = path.stat().st_size - (20_000 if path.suffix == ".pt" else 0)
        with_one_bit(path, int(where * usable))
        with pytest.raises(InputError, match=r"checksum|truncated"):
            load_model(path)


def test_a_changed_description_is_found(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, make("recognizer"), origin={"trained_with": "800 frames"})
    path.write_bytes(path.read_bytes().replace(b"800 frames", b"900 frames"))
    with pytest.raises(InputError, match="its checksum does not match"):
        load_model(path)


def test_files_of_older_versions_have_no_checksum(tmp_path):
    assert load_model(SUBWORDS / "model.safetensors")
    with safe_open(SUBWORDS / "model.safetensors", "pt") as file:
        assert "avhubert_ext_sha256" not in file.metadata(), "or the test would test nothing"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("form", ["m.safetensors", "m.pt"])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, form):
    model = make("recognizer")
    with torch.no_grad():
        model.decoder.layers[0].fc1.bias[3] = value
    (save_model if form.endswith("safetensors") else save_fairseq)(tmp_path / form, model)
    with pytest.raises(InputError, match=r"layers.0.fc1.bias holds NaN or infinity"):
        load_model(tmp_path / form)


ODD = [
    {"cfg": {"model": {"_name": ["list"], "description": "{}"}}, "model": {}},
    {"cfg": {"model": {"_name": FAIRSEQ_STUDENT}}, "extra_state": {"SparseDistillationTask": 3}},
    {"cfg": {"model": 3, "optimization": 3, "dataset": "x"}, "model": {}},
    {"cfg": {"dataset": {"max_tokens": "many"}, "optimization": {"update_freq": 3}}},
    {"cfg": {"task": {"data": "\0"}}, "Student": {}, "Student_Description": 3},
    {"ctc.ctc_lo.weight": torch.zeros(2)},
    {"ctc.ctc_lo.weight": torch.zeros(2), 5: 6},
    {"state_dict": {"model.ctc.ctc_lo.weight": 5}},
    peer_state() | {"decoder.embed.0.weight": torch.tensor(3.0)},
    peer_state() | {"decoder.decoders.0.feed_forward.w_1.bias": torch.tensor(3.0)},
    {"trunk.x": 3},
]


@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
def test_odd_contents_are_one_line(tmp_path, content):
    for name in ("m.pt", "m.pth"):
        torch.save(content, tmp_path / name)
        with pytest.raises(InputError):
            load_model(tmp_path / name)
        read_every_part(tmp_path / name)


def test_a_damaged_sentencepiece_model_is_one_line(tmp_path):
    (source,) = SUBWORDS.glob("spm_*.model")
    for content in (b"", b"no model", source.read_bytes()[:-100]):
        (tmp_path / "spm.model").write_bytes(content)
        with pytest.raises(InputError, match=r"spm\.model: damaged, or not a sentencepiece model"):
            Subwords(tmp_path / "spm.model")


def test_a_damaged_mask_is_one_line(tmp_path):
    masks = global_magnitude_mask(make("recognizer"), 0.5)
    save_masks(tmp_path / "mask.safetensors", masks)
    read_masks(tmp_path / "mask.safetensors")
    with_one_bit(tmp_path / "mask.safetensors", -1)
    with pytest.raises(InputError, match="pruning masks are damaged"):
        read_masks(tmp_path / "mask.safetensors")
    content = (tmp_path / "mask.safetensors").read_bytes()
    for length in (0, 5, 60, len(content) - 1):
        (tmp_path / "mask.safetensors").write_bytes(content[:length])
        with pytest.raises(InputError, match="truncated or not safetensors"):
            read_masks(tmp_path / "mask.safetensors")


def test_json_in_the_metadata_may_be_anything(tmp_path):
    from safetensors.torch import save_file

    for text in ("", "[]", "3", '{"shapes": 3}', json.dumps({"shapes": {"a": "b"}}), "\ud800"):
        metadata = {"avhubert_ext": text.encode("utf-8", "replace").decode()}
        metadata["avhubert_ext_masks"] = metadata["avhubert_ext"]
        save_file({"a.mask": torch.zeros(2)}, tmp_path / "m.safetensors", metadata)
        with pytest.raises(InputError):
            load_model(tmp_path / "m.safetensors")
        read_every_part(tmp_path / "m.safetensors")
