"""Files of pruned and 8-bit models: exact to the bit, and small."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from fairseq.utils import import_user_module
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from avhubert_ext.checkpoints.conversion import convert, export_sparse, prune
from avhubert_ext.checkpoints.model_file import ModelFile, load_model, read_masks, save_model
from avhubert_ext.checkpoints.sparse_file import MASKS_KEY, to_dense, to_sparse
from avhubert_ext.cli import main
from avhubert_ext.compression.pruning import prunable_weights, same
from avhubert_ext.compression.quantization import quantizable_weights, quantize
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import ConformerConfig, CTCAttentionRecognizer
from avhubert_ext.models.decoder import DecoderConfig

import_user_module(Namespace(user_dir=str(ROOT / "fairseq_user_dir")))
from fairseq_user_dir.loading import load_any_checkpoint  # noqa: E402

NAME = "encoder.video.layers.0.ffn1.fc1.weight"  # one of the larger tensors


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dense model and the same at 80% sparsity, each in float32 and in 8 bits."""
    folder = tmp_path_factory.mktemp("files")
    paths = {name: folder / f"{name}.safetensors" for name in ("dense", "sparse", "dense8", "both")}
    torch.manual_seed(0)
    model = CTCAttentionRecognizer(
        ConformerConfig(layers=1, dim=64, ffn=256, heads=4, width=0.125),
        DecoderConfig(vocabulary=9, layers=1, dim=64, ffn=256, heads=4),
    )
    save_model(paths["dense"], model, origin={"trained_with": "nothing"})
    prune(paths["dense"], folder / "pruned.pt", 0.8)
    export_sparse(folder / "pruned.pt", paths["sparse"])
    export_sparse(paths["dense"], paths["dense8"], codebook=True)
    export_sparse(paths["sparse"], paths["both"], codebook=True)
    return paths | {"pruned": folder / "pruned.pt"}


def different(one: nn.Module, two: nn.Module) -> list[str]:
    state, other = one.state_dict(), two.state_dict()
    assert state.keys() == other.keys()
    return [name for name in state if not torch.equal(state[name], other[name])]


def test_a_pruned_model_comes_back_as_it_was(files: dict[str, Path]) -> None:
    assert different(load_model(files["sparse"]), load_model(files["pruned"])) == []
    assert same(read_masks(files["sparse"]), read_masks(files["pruned"]))


def test_on_codebooks_only_what_has_more_values_changes(files: dict[str, Path]) -> None:
    for exact, rounded in (("dense", "dense8"), ("pruned", "both")):
        expected, found = load_model(files[exact]), load_model(files[rounded])
        masks = read_masks(files[rounded])
        assert same(masks, read_masks(files[exact]))
        more = [
            name
            for name, weight in quantizable_weights(expected).items()
            if len(weight[masks[name]] if masks else weight.flatten()) > 256
        ]
        assert NAME in more and different(expected, found) == more
        quantize(expected, masks)
        assert different(expected, found) == []
    for name, weight in prunable_weights(found).items():
        assert not weight[~masks[name]].any()


@pytest.mark.parametrize("name", ["dense8", "both"])
def test_a_model_on_codebooks_comes_back_bit_for_bit(
    files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """Through a file without codebooks."""
    plain, again = tmp_path / "plain.pt", tmp_path / "again.safetensors"
    assert main(["model", "convert", str(files[name]), str(plain)]) == 0
    export_sparse(plain, again, codebook=True)
    assert f"{NAME}.codebook" in load_file(again)
    assert different(load_model(again), load_model(files[name])) == []


def test_converted_a_model_stays_on_its_codebooks(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("dense8", "both"):
        convert(files[name], tmp_path / f"{name}.safetensors")
        found, given = (load_file(path) for path in (tmp_path / f"{name}.safetensors", files[name]))
        assert found.keys() == given.keys()
        assert all(torch.equal(found[part], given[part]) for part in given)
    convert(files["both"], tmp_path / "half.safetensors", half=True)
    assert ModelFile(tmp_path / "half.safetensors").codebooks == {}
    assert same(read_masks(tmp_path / "half.safetensors"), read_masks(files["both"]))


def test_weights_that_are_pruned_elsewhere_are_no_start(
    files: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "rewound.safetensors"
    with pytest.raises(InputError, match=r"sparse\.safetensors: pruned in other places itself"):
        prune(files["dense"], target, 0.3, weights=files["sparse"])
    assert not target.exists()
    prune(files["dense"], target, 0.9, weights=files["sparse"])  # what is left of it is enough
    assert same(read_masks(target), read_masks(files["sparse"])) is False


def test_the_layout_is_that_of_the_docstring(files: dict[str, Path]) -> None:
    dense, both, dense8 = (load_file(files[name]) for name in ("dense", "both", "dense8"))
    count = int(read_masks(files["both"])[NAME].sum())
    bits = -(-dense[NAME].numel() // 8)
    assert {
        part: (tuple(both[f"{NAME}.{part}"].shape), both[f"{NAME}.{part}"].dtype)
        for part in ("mask", "indices", "codebook")
    } == {
        "mask": ((bits,), torch.uint8),
        "indices": ((count,), torch.uint8),
        "codebook": ((256,), torch.float32),
    }
    assert not {NAME, f"{NAME}.values"} & both.keys()
    assert dense8[f"{NAME}.indices"].shape == dense[NAME].shape
    assert not {NAME, f"{NAME}.mask", f"{NAME}.values"} & dense8.keys()
    small = [n for n, w in prunable_weights(load_model(files["dense"])).items() if w.numel() <= 256]
    assert small and all(n in dense8 and f"{n}.values" in both for n in small)
    with safe_open(files["both"], framework="pt") as file:
        assert file.metadata()["trained_with"] == "nothing"


def test_the_same_model_is_the_same_bytes(files: dict[str, Path], tmp_path: Path) -> None:
    """Recipes compare files by their content."""
    model = load_model(next(iter(files.values())))
    for number in range(12):
        save_model(tmp_path / f"{number}.safetensors", model, origin={"b": "2", "a": "\u2581"})
    assert len({path.read_bytes() for path in tmp_path.glob("*.safetensors")}) == 1
    with safe_open(tmp_path / "0.safetensors", framework="pt") as file:
        assert {"a": "\u2581", "b": "2"}.items() <= file.metadata().items()
    assert different(load_model(tmp_path / "0.safetensors"), model) == []


def test_sizes(files: dict[str, Path]) -> None:
    """Bytes per weight: 4 dense, 1 in 8 bits; when pruned, a fifth of that and one bit more."""
    model = load_model(files["dense"])
    weights = sum(w.numel() for w in quantizable_weights(model).values())
    tensors = len(quantizable_weights(model))
    dense = files["dense"].stat().st_size
    for name, each, codebook in (
        ("sparse", 0.2 * 4 + 1 / 8, 0),
        ("dense8", 1, 1024),
        ("both", 0.2 + 1 / 8, 1024),
    ):
        expected = dense - (4 - each) * weights + codebook * tensors
        assert files[name].stat().st_size == pytest.approx(expected, rel=0.1), name


@pytest.mark.parametrize("name", ["sparse", "dense8", "both"])
def test_fairseq_reads_them(files: dict[str, Path], name: str) -> None:
    state = load_any_checkpoint(str(files[name]))["model"]
    model = load_model(files[name])
    for parameter, tensor in model.state_dict().items():
        assert torch.equal(state[f"recognizer.{parameter}"], tensor)


def test_the_command_tells_size_and_ratio(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "small.safetensors"
    assert main(["model", "compress", str(files["pruned"]), str(target), "--codebook"]) == 0
    printed = capsys.readouterr().out
    assert f"{target}: {target.stat().st_size / 1e6:.1f} MB" in printed
    ratio = target.stat().st_size / files["dense"].stat().st_size
    assert f" {ratio:.2f}" in printed and "sparsity 0.8000, 8-bit" in printed


def test_what_cannot_be_exported_is_refused(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for source, target, said in (
        ("dense", "small.safetensors", "a dense model, without zeros to leave out; prune it first"),
        ("sparse", "small.pt", "small.pt: expected .safetensors"),
    ):
        assert main(["model", "compress", str(files[source]), str(tmp_path / target)]) == 1
        printed = capsys.readouterr().err
        assert said in printed and printed.count("\n") == 1
        assert not (tmp_path / target).exists()


def test_a_tensor_that_is_pruned_whole() -> None:
    state = {"a": torch.zeros(20, 20)}
    masks = {"a": torch.zeros(20, 20, dtype=torch.bool)}
    tensors, metadata = to_sparse(state, masks, {"a": torch.empty(0)})
    assert torch.equal(to_dense(tensors, metadata, "here")["a"], state["a"])


def without(part: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(f"{NAME}.{part}")


def replaced(part: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    def damage(tensors: dict[str, Tensor]) -> None:
        tensors[f"{NAME}.{part}"] = change(tensors[f"{NAME}.{part}"]).contiguous()

    return damage


@pytest.mark.parametrize("name", ["both", "dense8"])
@pytest.mark.parametrize(
    "damage",
    [
        without("indices"),
        without("codebook"),
        replaced("indices", lambda t: t[:-1]),
        replaced("indices", lambda t: t.int()),
        replaced("codebook", lambda t: t[:100]),
        replaced("codebook", lambda t: t.half()),
        replaced("codebook", lambda t: t[None]),
        replaced("codebook", lambda t: t[:0]),
    ],
    ids=["no indices", "no codebook", "too few", "wide", "short", "half", "2-D", "empty"],
)
def test_damaged_codebooks_are_refused(
    files: dict[str, Path], tmp_path: Path, name: str, damage: Callable
) -> None:
    refused(files[name], tmp_path, damage)


@pytest.mark.parametrize(
    "damage",
    [
        without("mask"),
        without("values"),
        replaced("values", lambda t: t[:-1]),
        replaced("values", lambda t: t[None]),
        replaced("mask", lambda t: t ^ 1),
        replaced("mask", lambda t: t[:-1]),
        replaced("mask", lambda t: t.int()),
    ],
    ids=["no mask", "no values", "too few", "2-D", "flipped", "short", "wide"],
)
def test_damaged_masks_are_refused(
    files: dict[str, Path], tmp_path: Path, damage: Callable
) -> None:
    refused(files["sparse"], tmp_path, damage)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "1", '{"shapes": 1, "sha256": ""}'])
def test_damaged_metadata_is_refused(files: dict[str, Path], tmp_path: Path, text: str) -> None:
    refused(files["both"], tmp_path, lambda tensors: None, {MASKS_KEY: text})


def refused(
    source: Path, folder: Path, damage: Callable, metadata: dict[str, str] | None = None
) -> None:
    """A damaged file gives one line with its name."""
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata() | (metadata or {})
    tensors = load_file(source)
    damage(tensors)
    target = folder / "damaged.safetensors"
    save_file(tensors, target, metadata)
    with pytest.raises(InputError) as caught:
        load_model(target)
    assert str(caught.value).startswith(f"{target}: ") and "\n" not in str(caught.value)
