"""`ModelFile`: every input of a command is opened and read once."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file
from test_checkpoint import assert_same, make

from avhubert_ext.checkpoints.conversion import average, convert, export_sparse, prune
from avhubert_ext.checkpoints.fairseq_file import fairseq_state, save_fairseq
from avhubert_ext.checkpoints.model_file import ModelFile, load_model, save_model
from avhubert_ext.checkpoints.subwords import find_subwords
from avhubert_ext.compression.pruning import apply_masks, global_magnitude_mask, same
from avhubert_ext.data.text import SPECIAL_SYMBOLS, dictionary_digest, join_symbols
from avhubert_ext.errors import InputError

OPTIMIZER = 4_000_000  # values in the optimizer state, far more than in the model
SYMBOLS = [*SPECIAL_SYMBOLS, *"abcde"]
ORIGIN = {"dictionary": dictionary_digest(SYMBOLS), "subwords": join_symbols(SYMBOLS)}


def checkpoint(path: Path, sparse: bool = False) -> Path:
    """A checkpoint of fairseq with optimizer state."""
    model = make("recognizer")
    masks = global_magnitude_mask(model, 0.5) if sparse else {}
    if sparse:
        apply_masks(model, masks)
    state = fairseq_state(model, ORIGIN, masks)
    torch.save(state | {"last_optimizer_state": torch.zeros(OPTIMIZER)}, path)
    return path


def bytes_read() -> int:
    """What this process has read from files so far; Linux counts it."""
    counters = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in counters)["rchar"])


Task = Callable[[Path, Path], object]
TASKS: dict[str, Task] = {
    "load": lambda source, _: load_model(source),
    "load with subwords": lambda source, _: (
        (file := ModelFile(source)).recognizer(),
        find_subwords(file),
    ),
    "convert": lambda source, out: convert(source, out / "converted.safetensors"),
    "prune": lambda source, out: prune(source, out / "pruned.safetensors", 0.75),
    "export": lambda source, out: export_sparse(source, out / "small.safetensors", codebook=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_a_checkpoint_is_read_once(tmp_path: Path, name: str, sparse: bool) -> None:
    source = checkpoint(tmp_path / "checkpoint.pt", sparse)
    TASKS[name](source, tmp_path)  # imports what it needs
    before = bytes_read()
    TASKS[name](source, tmp_path)
    size = source.stat().st_size
    assert size > 4 * OPTIMIZER
    assert size <= bytes_read() - before < 1.1 * size


def test_rewinding_and_averages_read_each_of_their_files_once(tmp_path: Path) -> None:
    sources = [checkpoint(tmp_path / f"{number}.pt") for number in (1, 2)]
    prune(sources[0], tmp_path / "warm.safetensors", 0.5, weights=sources[1])
    before = bytes_read()
    prune(sources[0], tmp_path / "pruned.safetensors", 0.5, weights=sources[1])
    between = bytes_read()
    average(sources, tmp_path / "average.safetensors")
    both = sum(source.stat().st_size for source in sources)
    assert between - before < 1.1 * both
    assert bytes_read() - between < 1.1 * both


@pytest.mark.parametrize("name", TASKS)
def test_safetensors_are_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import safetensors

    source = tmp_path / "model.safetensors"
    model = make("recognizer")
    masks = global_magnitude_mask(model, 0.5)
    apply_masks(model, masks)
    save_model(source, model, origin=ORIGIN, masks=masks)
    opened: Counter[Path] = Counter()
    safe_open = safetensors.safe_open

    def counted(path: Path, *args: object, **options: object) -> object:
        opened[path] += 1
        return safe_open(path, *args, **options)

    monkeypatch.setattr(safetensors, "safe_open", counted)
    TASKS[name](source, tmp_path)
    assert opened == {source: 1}


def test_parts_of_a_file(tmp_path: Path) -> None:
    model = make("recognizer")
    masks = global_magnitude_mask(model, 0.5)
    save_model(tmp_path / "model.safetensors", model, origin=ORIGIN, masks=masks)
    save_fairseq(tmp_path / "model.pt", model, ORIGIN, masks)
    for path in (tmp_path / "model.safetensors", tmp_path / "model.pt"):
        file = ModelFile(path)
        assert file.description["kind"] == "recognizer"
        assert same(file.masks, masks) and file.codebooks == {}
        assert file.origin == ORIGIN and file.subwords == SYMBOLS
        assert file.training_data is None
        assert file.recognizer().state_dict().keys() == model.state_dict().keys()


def test_the_description_does_not_need_the_weights(tmp_path: Path) -> None:
    """A damaged weight is found when the weights are read, not before."""
    path = tmp_path / "model.safetensors"
    save_model(path, make("recognizer"), origin=ORIGIN)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    file = ModelFile(path)
    assert file.description["kind"] == "recognizer" and file.subwords == SYMBOLS
    with pytest.raises(InputError, match="its checksum does not match"):
        file.model()


def test_a_model_is_independent_of_its_file(tmp_path: Path) -> None:
    """Its weights are a copy: the file may be replaced, and two models share nothing."""
    save_fairseq(tmp_path / "model.pt", make("recognizer"))
    file = ModelFile(tmp_path / "model.pt")
    one, other = file.model(), file.model()
    torch.save({"model": {}}, tmp_path / "model.pt")
    with torch.no_grad():
        one.decoder.embed_tokens.weight.zero_()
    assert_same(other, make("recognizer"))


def test_a_compressed_checkpoint_loads(tmp_path: Path) -> None:
    """PyTorch cannot map it, so it is loaded."""
    save_fairseq(tmp_path / "model.pt", make("recognizer"))
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as plain,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as compressed,
    ):
        for name in plain.namelist():
            compressed.writestr(name, plain.read(name))
    assert_same(load_model(tmp_path / "small.pt"), make("recognizer"))


def test_a_file_of_something_else_has_no_description(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"x\.safetensors: no avhubert-ext configuration"):
        _ = ModelFile(tmp_path / "x.safetensors").description


def test_the_shipped_teacher_is_as_it_was() -> None:
    """The sum of the bytes of all weights, in the order of their names."""
    import hashlib

    state = load_model(ROOT / "scripts/models/tiny-teacher/model.safetensors").state_dict()
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        total.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().numpy().tobytes())
    assert total.hexdigest() == "9332f1a8310ebb2b7cba0a1e04fa028accfc4a467bc77f02c0b773f17a27dbf2"
