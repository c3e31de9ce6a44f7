"""Global magnitude pruning: exact counts, monotone masks, exact zeros through training."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from avhubert_ext import build_vsr
from avhubert_ext.checkpoints.fairseq_file import save_fairseq
from avhubert_ext.checkpoints.model_file import load_model, read_masks, save_model
from avhubert_ext.checkpoints.sparse_file import save_masks
from avhubert_ext.cli import main
from avhubert_ext.compression.pruning import (
    apply_masks,
    count_pruned,
    global_magnitude_mask,
    kept_parameters,
    mask_gradients,
    mask_sparsity,
    pack,
    prunable_weights,
    regrown,
    same,
    unpack,
)
from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import AVRecognizer, DecoderConfig
from avhubert_ext.models.encoder import EncoderConfig


class Mixed(nn.Module):
    """One layer of every kind that is pruned, and of kinds that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.linear = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.conv1 = nn.Conv1d(8, 4, 3)
        self.conv2 = nn.Conv2d(1, 3, 3)
        self.batch_norm = nn.BatchNorm2d(3)
        self.activation = nn.PReLU(3)
        self.conv3 = nn.Conv3d(1, 2, (1, 3, 3))


PRUNABLE = {"linear.weight": 48, "conv1.weight": 96, "conv2.weight": 27, "conv3.weight": 18}
TOTAL = sum(PRUNABLE.values())


@pytest.fixture
def model() -> Mixed:
    torch.manual_seed(0)
    return Mixed()


def pruned(masks: dict[str, torch.Tensor]) -> int:
    return sum(int((~m).sum()) for m in masks.values())


def test_linear_and_convolution_weights_are_prunable(model):
    assert {name: w.numel() for name, w in prunable_weights(model).items()} == PRUNABLE


def test_biases_norms_and_embeddings_stay(model):
    for parameter in model.parameters():
        parameter.data += torch.sign(parameter.data) * 1e-3  # no zero by chance
    before = copy.deepcopy(model.state_dict())
    masks = global_magnitude_mask(model, 0.99)
    apply_masks(model, masks)
    for name, tensor in model.state_dict().items():
        if name in PRUNABLE:
            assert torch.equal(tensor, before[name] * masks[name])
        else:
            assert torch.equal(tensor, before[name])
    assert pruned(masks) == round(0.99 * TOTAL)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.333, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("values", [1, 2, 5, None])
def test_counts_are_exact_also_with_ties(model, sparsity, values):
    """`values` distinct magnitudes; with 1 all weights are equal."""
    if values:
        for w in prunable_weights(model).values():
            w.data = torch.randint(1, values + 1, w.shape).float() * torch.randn_like(w).sign()
    masks = global_magnitude_mask(model, sparsity)
    assert pruned(masks) == round(sparsity * TOTAL)
    magnitudes = {n: w.detach().abs() for n, w in prunable_weights(model).items()}
    dropped = torch.cat([magnitudes[n][~m] for n, m in masks.items()])
    kept = torch.cat([magnitudes[n][m] for n, m in masks.items()])
    if len(dropped) and len(kept):
        assert dropped.max() <= kept.min()


def test_same_as_torch_without_ties(model):
    masks = global_magnitude_mask(model, 0.37)
    layers = [model.linear, model.conv1, model.conv2, model.conv3]
    prune.global_unstructured(
        [(layer, "weight") for layer in layers],
        pruning_method=prune.L1Unstructured,
        amount=round(0.37 * TOTAL),
    )
    for name, layer in zip(PRUNABLE, layers, strict=True):
        assert torch.equal(masks[name], layer.weight_mask.bool())


def test_ten_percent_of_the_original_each_round_and_never_back(model):
    """Rounds with new weights between them, as after training."""
    masks = None
    for step in range(1, 10):
        new = global_magnitude_mask(model, step / 10, masks)
        assert pruned(new) == round(step / 10 * TOTAL)
        assert mask_sparsity(new) == pytest.approx(step / 10, abs=1 / TOTAL)
        if masks is not None:
            for name in PRUNABLE:
                assert not (new[name] & ~masks[name]).any()
        masks = new
        for w in prunable_weights(model).values():
            w.data.normal_()  # pruned weights look large again; the mask must remember them


def test_the_same_sparsity_again_gives_the_same_mask(model):
    masks = global_magnitude_mask(model, 0.4)
    for w in prunable_weights(model).values():
        w.data.normal_()
    again = global_magnitude_mask(model, 0.4, masks)
    assert all(torch.equal(again[name], masks[name]) for name in PRUNABLE)


def test_sparsity_below_the_present_is_refused(model):
    masks = global_magnitude_mask(model, 0.5)
    with pytest.raises(InputError, match=r"0\.4 is below the present 0\.4974"):
        global_magnitude_mask(model, 0.4, masks)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 50])
def test_sparsity_out_of_range_is_refused(model, sparsity):
    with pytest.raises(InputError, match=rf"sparsity {sparsity}: expected at least 0"):
        global_magnitude_mask(model, sparsity)


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_a_mask_of_another_model_is_refused(model, damage):
    masks = global_magnitude_mask(model, 0.2)
    if damage == "missing":
        del masks["conv1.weight"]
    elif damage == "unknown":
        masks["conv1.other"] = masks["conv1.weight"]
    else:
        masks["conv1.weight"] = masks["conv1.weight"][:2]
    with pytest.raises(InputError, match=r"1 tensors differ, .* conv1"):
        global_magnitude_mask(model, 0.5, masks)


def test_pruned_weights_stay_zero_through_adamw_with_weight_decay():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    masks = global_magnitude_mask(network, 0.6)
    apply_masks(network, masks)
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05, weight_decay=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        network(torch.randn(8, 5)).square().sum().backward()
        mask_gradients(network, masks)
        optimizer.step()
    for name, weight in prunable_weights(network).items():
        assert (weight[~masks[name]] == 0).all()
        assert (weight[masks[name]] != before[name][masks[name]]).float().mean() > 0.9


def test_without_masked_gradients_pruned_weights_would_move():
    """The control of the test above."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    masks = global_magnitude_mask(network, 0.6)
    apply_masks(network, masks)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    network(torch.randn(8, 5)).square().sum().backward()
    optimizer.step()
    assert (network[0].weight[~masks["0.weight"]] != 0).any()


def small_recognizer(dim: int = 16) -> AVRecognizer:
    return AVRecognizer(
        EncoderConfig(
            layers=1, dim=dim, ffn=16, heads=2, visual_width=0.125, conv_pos=4, conv_pos_groups=2
        ),
        DecoderConfig(vocabulary=9, layers=1, dim=16, ffn=16, heads=2),
    )


def test_recognizer_embeddings_and_positional_convolution_are_not_prunable():
    recognizer = small_recognizer()
    names = set(prunable_weights(recognizer))
    assert "encoder.encoder.layers.0.self_attn.q_proj.weight" in names
    assert "encoder.feature_extractor_video.resnet.frontend3D.0.weight" in names
    assert "decoder.layers.0.fc1.weight" in names
    assert not [n for n in names if "embed" in n or "norm" in n or "pos_conv" in n or ".bn" in n]
    masks = global_magnitude_mask(recognizer, 0.5)
    everything = sum(p.numel() for p in recognizer.parameters())
    assert kept_parameters(recognizer, masks) == everything - pruned(masks)
    assert kept_parameters(recognizer) == everything


def test_a_weight_that_layers_share_counts_once():
    torch.manual_seed(0)
    shared = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4))
    shared[1].weight = shared[0].weight
    masks = global_magnitude_mask(shared, 0.5)
    assert {name: m.numel() for name, m in masks.items()} == {"0.weight": 36, "2.weight": 24}
    assert pruned(masks) == 30
    apply_masks(shared, masks)
    assert torch.equal(shared[1].weight == 0, ~masks["0.weight"])
    assert kept_parameters(shared, masks) == 60 + 16 - 30


@pytest.mark.parametrize("sparsity", [0.1, 0.9])
def test_weights_that_are_not_a_number_are_named(model, sparsity):
    model.conv2.weight.data[1, 0, 2, 2] = float("nan")
    with pytest.raises(InputError, match=r"conv2\.weight: NaN among the weights"):
        global_magnitude_mask(model, sparsity)


def test_pruned_nans_are_of_no_interest(model):
    masks = global_magnitude_mask(model, 0.5)
    model.linear.weight.data[~masks["linear.weight"]] = float("nan")
    assert pruned(global_magnitude_mask(model, 0.8, masks)) == round(0.8 * TOTAL)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30])
def test_any_scale_is_ranked_whole(model, scale):
    """With denormal numbers, zeros and infinity, and another scale in each layer."""
    for number, weight in enumerate(prunable_weights(model).values()):
        weight.data *= scale * 3.0**number
    model.linear.weight.data[0] = 0.0
    model.conv1.weight.data[0, 0, 0] = float("inf")
    masks = global_magnitude_mask(model, 0.5)
    magnitudes = torch.cat([w.detach().abs().flatten() for w in prunable_weights(model).values()])
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert int((~kept).sum()) == round(0.5 * TOTAL)
    assert magnitudes[~kept].max() <= magnitudes[kept].min()


def test_half_precision_weights_are_ranked(model):
    exact = global_magnitude_mask(model.half().float(), 0.5)
    assert same(exact, global_magnitude_mask(model.half(), 0.5))


def test_regrown_is_the_share_of_pruned_weights_that_are_not_zero(model):
    masks = global_magnitude_mask(model, 0.5)
    assert regrown(model, masks) == 1
    apply_masks(model, masks)
    assert regrown(model, masks) == 0
    places = (~masks["conv1.weight"]).nonzero()[:3]
    model.conv1.weight.data[tuple(places.T)] = -0.1
    assert regrown(model, masks) == 3 / pruned(masks)
    assert regrown(model, global_magnitude_mask(model, 0.0)) == 0


# ---- masks in checkpoints and files


@pytest.mark.parametrize("sparsity", [0.0, 0.333, 0.99])
def test_packed_masks_come_back(model, sparsity):
    """Numbers of weights that do not fill the last byte."""
    masks = global_magnitude_mask(model, sparsity)
    packed = pack(masks)
    assert sum(bits.numel() for bits in packed["bits"].values()) == sum(
        -(-count // 8) for count in PRUNABLE.values()
    )
    back = unpack(packed, "here")
    assert same(back, masks) and all(mask.dtype == torch.bool for mask in back.values())
    assert list(back) == list(masks)
    back["conv1.weight"][0, 0, 0] = False  # no view of what is packed
    assert same(unpack(packed, "here"), masks)


def flip(packed):
    packed["bits"]["conv1.weight"][3] ^= 16


def rename(packed):
    for part in ("bits", "shapes"):
        packed[part]["conv9.weight"] = packed[part].pop("conv1.weight")


def reshape(packed):
    packed["shapes"]["conv1.weight"] = [4, 3, 8]


DAMAGES = {
    "a bit": flip,
    "a name": rename,
    "a shape": reshape,
    "a tensor gone": lambda packed: packed["bits"].pop("conv1.weight"),
    "no checksum": lambda packed: packed.pop("sha256"),
    "no tensors": lambda packed: packed.update(bits={"conv1.weight": 3}),
    "nothing": lambda packed: packed.clear(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_masks_are_refused(model, damage):
    packed = pack(global_magnitude_mask(model, 0.5))
    damage(packed)
    with pytest.raises(
        InputError, match=r"model\.pt: its pruning masks are damaged \(.*copy it ag"
    ):
        unpack(packed, "model.pt")


def test_masks_alone_in_a_file(model, tmp_path):
    masks = global_magnitude_mask(model, 0.4)
    path = tmp_path / "mask.safetensors"
    save_masks(path, masks)
    assert same(read_masks(path), masks)
    assert path.stat().st_size < 2000  # one bit per weight, and the header
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"mask\.safetensors: truncated or not safetensors"):
        read_masks(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Dense recognizers, one of other widths; one at 50% sparsity; a truncated file."""
    folder = tmp_path_factory.mktemp("files")
    names = ("dense", "earlier", "other", "half", "torn", "gone")
    paths = {name: folder / f"{name}.safetensors" for name in names}
    torch.manual_seed(0)
    for name, dim in (("dense", 16), ("earlier", 16), ("other", 24)):
        recognizer = small_recognizer(dim)
        for buffer in recognizer.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
        save_model(paths[name], recognizer, origin={"trained_with": f"{name}'s"})
    assert (
        main(["model", "prune", str(paths["dense"]), str(paths["half"]), "--sparsity", "0.5"]) == 0
    )
    paths["torn"].write_bytes(paths["half"].read_bytes()[:-100])
    return paths


@pytest.mark.parametrize("target", ["out.pt", "out.safetensors"])
def test_prune_goes_on_from_a_pruned_file(files, tmp_path, capsys, target):
    path = tmp_path / target
    assert main(["model", "prune", str(files["half"]), str(path), "--sparsity", "0.7"]) == 0
    masks, before, model = read_masks(path), read_masks(files["half"]), load_model(path)
    dense = load_model(files["dense"])
    assert same(before, global_magnitude_mask(dense, 0.5))
    assert same(masks, global_magnitude_mask(dense, 0.7))
    for name, tensor in dense.state_dict().items():
        expected = tensor * masks[name] if name in masks else tensor
        assert torch.equal(model.state_dict()[name], expected), name
    kept = kept_parameters(model, masks) / 1e6
    assert f"{kept:.2f}M parameters, sparsity 0.7000" in capsys.readouterr().out


def test_rewound_weights_are_those_of_the_other_file(files, tmp_path):
    """The mask comes from one file; kept weights, biases and statistics from the other."""
    path, weights = tmp_path / "out.pt", ["--weights", str(files["earlier"])]
    assert (
        main(["model", "prune", str(files["half"]), str(path), "--sparsity", "0.6", *weights]) == 0
    )
    masks = read_masks(path)
    assert same(masks, global_magnitude_mask(load_model(files["dense"]), 0.6))
    found = load_model(path).state_dict()
    for name, tensor in load_model(files["earlier"]).state_dict().items():
        expected = tensor * masks[name] if name in masks else tensor
        assert torch.equal(found[name], expected), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("half", "--sparsity", "1"), "sparsity 1.0: expected at least 0 and less than 1"),
        (("half", "--sparsity", "-0.1"), "sparsity -0.1: expected at least 0"),
        (("half", "--sparsity", "0.4"), "sparsity 0.4 is below the present 0.5000"),
        (("gone", "--sparsity", "0.5"), "gone.safetensors not found"),
        (("torn", "--sparsity", "0.5"), "torn.safetensors: truncated"),
        (("half", "--sparsity", "0.6", "--weights", "gone"), "gone.safetensors not found"),
        (("half", "--sparsity", "0.6", "--weights", "other"), "not the same network as in"),
    ],
)
def test_files_that_cannot_be_pruned(files, tmp_path, capsys, words, said):
    source, *options = (str(files.get(word, word)) for word in words)
    assert main(["model", "prune", source, str(tmp_path / "out.pt"), *options]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_convert_keeps_the_mask_in_every_form(files, tmp_path):
    source, masks = files["half"], read_masks(files["half"])
    expected = load_model(files["half"]).state_dict()
    for name, options in (("a.pt", []), ("b.safetensors", []), ("c.safetensors", ["--half"])):
        target = tmp_path / name
        assert main(["model", "convert", str(source), str(target), *options]) == 0
        assert same(read_masks(target), masks)
        if options:
            expected = {name: t.half().to(t.dtype) for name, t in expected.items()}
        for tensor, weight in load_model(target).state_dict().items():
            assert torch.equal(weight, expected[tensor]), tensor
        source = target


def test_an_average_is_of_models_with_one_mask(files, tmp_path, capsys):
    masks, model = read_masks(files["half"]), load_model(files["half"])
    for parameter in model.parameters():
        parameter.data *= 3
    three, mean = tmp_path / "three.pt", tmp_path / "mean.safetensors"
    save_fairseq(three, model, masks=masks)
    assert main(["model", "average", str(files["half"]), str(three), str(mean)]) == 0
    assert same(read_masks(mean), masks)
    once = load_model(files["half"]).state_dict()
    for name, weight in prunable_weights(load_model(mean)).items():
        torch.testing.assert_close(weight.detach(), 2 * once[name])
        assert not weight[~masks[name]].any()
    for other in ("dense", "earlier"):
        words = ["average", str(files[other]), str(files["half"]), str(tmp_path / "mixed.pt")]
        assert main(words) == 1
        assert f"{other}.safetensors: pruned in other places than" in capsys.readouterr().err


def test_a_previous_mask_of_another_memory_layout(model):
    """Masks with channels last, as `{name: w != 0}` of such a model."""
    for w in prunable_weights(model).values():
        w.data.fill_(1.0)  # all tie
    previous = global_magnitude_mask(model, 0.2)
    previous["conv2.weight"] = previous["conv2.weight"].to(memory_format=torch.channels_last)
    assert pruned(global_magnitude_mask(model, 0.6, previous)) == round(0.6 * TOTAL)


# ---- paper B's sizes


def test_parameters_of_base_l_are_those_of_table_2():
    """The paper has these numbers truncated, from 225.7 M at 10% to 28.8 M at 90%."""
    with torch.device("meta"):
        model = build_vsr("base-l")
    total = sum(p.numel() for p in model.parameters())
    prunable = sum(w.numel() for w in prunable_weights(model).values())
    assert (total, prunable) == (250_383_410, 246_099_776)
    millions = [(total - round(tenths / 10 * prunable)) / 1e6 for tenths in range(1, 10)]
    expected = [225.773, 201.163, 176.554, 151.944, 127.333, 102.724, 78.114, 53.504, 28.894]
    assert millions == pytest.approx(expected, abs=6e-4)


@pytest.mark.slow
def test_the_mask_of_base_s_is_that_of_table_2():
    """28.9 M parameters at 50%, for equal weights that take no memory."""
    with torch.device("meta"):
        model = build_vsr("base-s")
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            tied = torch.tensor(0.25).expand(parameter.shape)
            setattr(module, name, nn.Parameter(tied, requires_grad=False))
    masks = global_magnitude_mask(model, 0.5)
    assert count_pruned(masks) == 27_439_520
    assert kept_parameters(model, masks) == 28_911_250
    first, *_, last = masks.values()
    assert not first.any() and last.all(), "of what ties the first are pruned"
