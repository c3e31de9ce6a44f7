"""The decoder: cache, causality, padding, positions, and the recognizer around it."""

import math

import pytest
import torch

from avhubert_ext.models.blocks import sinusoidal_positions
from avhubert_ext.models.decoder import (
    AVRecognizer,
    DecoderCache,
    DecoderConfig,
    TransformerDecoder,
)
from avhubert_ext.models.encoder import EncoderConfig

SMALL = DecoderConfig(vocabulary=11, layers=2, dim=16, ffn=24, heads=4)
ENCODER = EncoderConfig(
    layers=1, dim=16, ffn=16, heads=2, visual_width=0.125, conv_pos=4, conv_pos_groups=2
)


def decoder(config: DecoderConfig = SMALL) -> TransformerDecoder:
    torch.manual_seed(0)
    model = TransformerDecoder(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.4)
    return model


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens [3, 6], memory [3, 5, 16] and its padding."""
    torch.manual_seed(1)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    padding[2, 4:] = True
    return torch.randint(4, 11, (3, 6)), torch.randn(3, 5, 16), padding


def sinusoid(position: int, width: int) -> list[float]:
    half = width // 2
    rates = [10000 ** (-i / (half - 1)) for i in range(half)]
    return [math.sin(position * r) for r in rates] + [math.cos(position * r) for r in rates]


@torch.no_grad()
@pytest.mark.parametrize("prefix", [1, 3])
def test_decoding_with_a_cache_equals_teacher_forcing(batch, prefix):
    model = decoder()
    tokens, memory, padding = batch
    expected = model(tokens, memory, padding)
    cache = DecoderCache()
    pieces = [model(tokens[:, :prefix], memory, padding, cache)]
    for i in range(prefix, 6):
        pieces.append(model(tokens[:, i : i + 1], memory, padding, cache))
    assert cache.length == 6
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected)


@torch.no_grad()
def test_decoding_goes_on_after_reordering_the_cache(batch):
    model = decoder()
    tokens, memory, padding = batch
    order = torch.tensor([2, 0, 0, 1])
    cache = DecoderCache()
    model(tokens[:, :3], memory, padding, cache)
    cache.reorder(order)
    torch.manual_seed(2)
    later = torch.randint(4, 11, (4, 3))
    found = [model(later[:, i : i + 1], memory[order], padding[order], cache) for i in range(3)]
    whole = torch.cat([tokens[order, :3], later], dim=1)
    expected = model(whole, memory[order], padding[order])[:, 3:]
    torch.testing.assert_close(torch.cat(found, dim=1), expected)


@torch.no_grad()
def test_later_tokens_do_not_change_earlier_logits(batch):
    model = decoder()
    tokens, memory, padding = batch
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] - 3) % 7 + 4
    before, after = model(tokens, memory, padding), model(changed, memory, padding)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().amax(dim=(1, 2)).min() > 1e-3


@torch.no_grad()
def test_padded_memory_is_ignored(batch):
    model = decoder()
    tokens, memory, padding = batch
    changed = memory.clone()
    changed[padding] = 100.0
    expected = model(tokens, memory, padding)
    torch.testing.assert_close(model(tokens, changed, padding), expected)
    torch.testing.assert_close(model(tokens[1:2], memory[1:2, :3]), expected[1:2])
    assert (model(tokens, changed) - expected)[1].abs().max() > 1e-2


def test_sinusoids():
    found = sinusoidal_positions(3, 4, 10, torch.device("cpu"))
    expected = torch.tensor([sinusoid(p, 10) for p in range(3, 7)])
    torch.testing.assert_close(found, expected)
    odd = sinusoidal_positions(3, 4, 11, torch.device("cpu"))
    torch.testing.assert_close(odd, torch.cat([expected, torch.zeros(4, 1)], dim=1))


@torch.no_grad()
def test_embeddings_are_tied_unscaled_and_positions_start_at_two():
    """Without blocks the logits are layer_norm(embedding + position) times the embeddings."""
    model = decoder(DecoderConfig(vocabulary=7, layers=1, dim=8, ffn=8, heads=2))
    model.layers = torch.nn.ModuleList()
    tokens = torch.tensor([[5, 2, 6]])
    table = model.embed_tokens.weight
    rows = []
    for i, token in enumerate([5, 2, 6]):
        x = table[token] + torch.tensor(sinusoid(i + 2, 8))
        x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
        rows.append(table @ (x * model.layer_norm.weight + model.layer_norm.bias))
    torch.testing.assert_close(model(tokens, torch.zeros(1, 2, 8))[0], torch.stack(rows))


@torch.no_grad()
def test_feed_forward_uses_relu():
    """Without the output of both attentions a block is x + fc2(relu(fc1(norm(x))))."""
    block = decoder().layers[0]
    for attention in (block.self_attn, block.encoder_attn):
        attention.out_proj.weight.zero_()
        attention.out_proj.bias.zero_()
    x = torch.randn(1, 3, 16)
    memory = block.encoder_attn.project_memory(torch.randn(1, 4, 16))
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    normed = normed * block.final_layer_norm.weight + block.final_layer_norm.bias
    hidden = (normed @ block.fc1.weight.T + block.fc1.bias).clamp(min=0)
    expected = x + hidden @ block.fc2.weight.T + block.fc2.bias
    torch.testing.assert_close(block(x, None, memory, None)[0], expected)


def test_padding_embedding_is_zero_and_stays_so():
    model = TransformerDecoder(SMALL)
    assert model.embed_tokens.weight[SMALL.padding_idx].abs().max() == 0
    assert model.embed_tokens.padding_idx == SMALL.padding_idx


@torch.no_grad()
def test_bridge_only_where_widths_differ():
    same = AVRecognizer(ENCODER, SMALL).eval()
    assert not [name for name in same.state_dict() if name.startswith("bridge")]
    wide = DecoderConfig(vocabulary=11, layers=1, dim=24, ffn=24, heads=4)
    bridged = AVRecognizer(ENCODER, wide).eval()
    assert bridged.bridge.weight.shape == (24, 16)
    audio, tokens = torch.randn(2, 104, 4), torch.randint(4, 11, (2, 3))
    padding = torch.tensor([[False] * 4, [False] * 2 + [True] * 2])
    out = bridged.encode(audio, None, padding).last_hidden_state
    memory = out @ bridged.bridge.weight.T + bridged.bridge.bias
    expected = bridged.decoder(tokens, memory, padding)
    torch.testing.assert_close(bridged(audio, None, padding, tokens), expected)


def test_base_decoder_has_the_published_size():
    with torch.device("meta"):
        model = TransformerDecoder(DecoderConfig(vocabulary=1000))
    assert sum(p.numel() for p in model.parameters()) == 57_480_192
