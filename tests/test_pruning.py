"""Global magnitude pruning: exact counts, monotone masks, exact zeros through training."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import AVRecognizer, DecoderConfig
from avhubert_ext.models.encoder import EncoderConfig
from avhubert_ext.pruning import (
    apply_masks,
    global_magnitude_mask,
    kept_parameters,
    mask_gradients,
    mask_sparsity,
    prunable_weights,
)


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
    """`values` distinct magnitudes: 1 means that all weights tie."""
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
    """Rounds with new weights in between, as after training."""
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
    with pytest.raises(InputError, match=r"1 tensors differ, e\.g\. conv1"):
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


def test_recogniser_embeddings_and_positional_convolution_are_not_prunable():
    recognizer = AVRecognizer(
        EncoderConfig(
            layers=1, dim=16, ffn=16, heads=2, visual_width=0.125, conv_pos=4, conv_pos_groups=2
        ),
        DecoderConfig(vocabulary=9, layers=1, dim=16, ffn=16, heads=2),
    )
    names = set(prunable_weights(recognizer))
    assert "encoder.encoder.layers.0.self_attn.q_proj.weight" in names
    assert "encoder.feature_extractor_video.resnet.frontend3D.0.weight" in names
    assert "decoder.layers.0.fc1.weight" in names
    assert not [n for n in names if "embed" in n or "norm" in n or "pos_conv" in n or ".bn" in n]
    masks = global_magnitude_mask(recognizer, 0.5)
    everything = sum(p.numel() for p in recognizer.parameters())
    assert kept_parameters(recognizer, masks) == everything - pruned(masks)
    assert kept_parameters(recognizer) == everything
