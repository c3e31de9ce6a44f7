"""The encoders compared with explicit formulas, and padding."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from networks import SMALL, clip, randomize, variants
from torch import nn

from avhubert_ext.errors import InputError
from avhubert_ext.models.attention import MultiheadAttention
from avhubert_ext.models.blocks import (
    ConformerBlock,
    ConformerConvolution,
    PositionalConvolution,
    TransformerBlock,
)
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.frontends import BasicBlock, ShuffleUnit, Stem3d
from avhubert_ext.models.presets import encoder_preset
from avhubert_ext.models.student import HeadsConfig, Student
from avhubert_ext.training.losses import distillation_loss


def layer_norm(x: torch.Tensor, module: nn.LayerNorm) -> torch.Tensor:
    centered = x - x.mean(-1, keepdim=True)
    spread = (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centered / spread * module.weight + module.bias


def linear(x: torch.Tensor, module: nn.Linear) -> torch.Tensor:
    return x @ module.weight.T + module.bias


def attention(module: MultiheadAttention, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """Softmax(q k' / sqrt(d)) v of one clip, [T, D] and [S, D], head by head."""
    width = x.shape[-1] // module.heads
    heads = []
    for h in range(module.heads):
        part = slice(h * width, (h + 1) * width)
        q, k, v = (
            (linear(y, m)[:, part])
            for y, m in ((x, module.q_proj), (memory, module.k_proj), (memory, module.v_proj))
        )
        scores = q @ k.T / math.sqrt(width)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        heads.append(weights @ v)
    return linear(torch.cat(heads, dim=-1), module.out_proj)


def test_attention_is_the_softmax_formula():
    module = randomize(MultiheadAttention(12, 3))
    x, memory = torch.randn(2, 4, 12), torch.randn(2, 6, 12)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    found = module(x, module.project_memory(memory), padding)
    torch.testing.assert_close(found[0], attention(module, x[0], memory[0]))
    torch.testing.assert_close(found[1], attention(module, x[1], memory[1, :4]))


def test_positional_convolution_is_torchs_weight_norm():
    width, kernel, groups = 12, 8, 3
    ours = randomize(PositionalConvolution(width, kernel, groups))
    plain = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)
    theirs = nn.utils.weight_norm(plain, name="weight", dim=2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 10, width)
    y = theirs(x.transpose(1, 2))[..., :-1].transpose(1, 2)
    torch.testing.assert_close(ours(x), 0.5 * y * (1 + torch.erf(y / math.sqrt(2))))


def test_fresh_positional_convolution_has_the_norm_of_its_weights():
    module = PositionalConvolution(64, 16, 4)
    expected = [module.weight_v[:, :, k].square().sum().sqrt() for k in range(16)]
    torch.testing.assert_close(module.weight_g.flatten(), torch.stack(expected))
    assert module.weight_v.std().item() == pytest.approx(math.sqrt(4 / (16 * 64)), rel=0.1)


def test_transformer_block_is_the_pre_norm_formula():
    block = randomize(TransformerBlock(12, 20, 3))
    x = torch.randn(1, 5, 12)
    y = layer_norm(x[0], block.self_attn_layer_norm)
    y = x[0] + attention(block.self_attn, y, y)
    hidden = linear(layer_norm(y, block.final_layer_norm), block.fc1)
    gelu = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(block(x, None)[0], y + linear(gelu, block.fc2))


def conformer_convolution(module: ConformerConvolution, x: torch.Tensor) -> torch.Tensor:
    """The module's formula for one clip [T, D], convolution written as a sum."""
    width, kernel = x.shape[1], module.depthwise.weight.shape[-1]
    y = layer_norm(x, module.layer_norm) @ module.pointwise1.weight[:, :, 0].T
    y = y[:, :width] * torch.sigmoid(y[:, width:])
    padded = F.pad(y, (0, 0, kernel // 2, kernel // 2))
    taps = module.depthwise.weight[:, 0].T  # [K, D]
    y = torch.stack([(padded[t : t + kernel] * taps).sum(0) for t in range(len(x))])
    norm = module.batch_norm
    y = (y - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return (y * torch.sigmoid(y)) @ module.pointwise2.weight[:, :, 0].T


def test_conformer_convolution_formula():
    module = randomize(ConformerConvolution(6, 5, 0.1))
    x = torch.randn(2, 9, 6)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 6:] = True
    found = module(x, padding)
    torch.testing.assert_close(found[0], conformer_convolution(module, x[0]))
    torch.testing.assert_close(found[1, :6], conformer_convolution(module, x[1, :6]))


def test_conformer_block_is_the_macaron_formula():
    block = randomize(ConformerBlock(12, 20, 3, kernel=5))
    x = torch.randn(1, 7, 12)

    def half(y: torch.Tensor, feed_forward: nn.Module) -> torch.Tensor:
        hidden = linear(layer_norm(y, feed_forward.layer_norm), feed_forward.fc1)
        return y + linear(hidden * torch.sigmoid(hidden), feed_forward.fc2) / 2

    y = half(x[0], block.ffn1)
    normed = layer_norm(y, block.self_attn_layer_norm)
    y = y + attention(block.self_attn, normed, normed)
    y = half(y + conformer_convolution(block.conv, y), block.ffn2)
    torch.testing.assert_close(block(x, None)[0], layer_norm(y, block.final_layer_norm))


def test_resnet_block_formula():
    block = randomize(BasicBlock(4, 6, stride=2, activation=nn.PReLU))
    x = torch.randn(2, 4, 8, 8)

    def norm(y: torch.Tensor, bn: nn.BatchNorm2d) -> torch.Tensor:
        mean, var, weight, bias = (
            t[:, None, None] for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
        )
        return (y - mean) / (var + bn.eps).sqrt() * weight + bias

    def prelu(y: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        return torch.where(y > 0, y, y * slope[:, None, None])

    y = F.conv2d(x, block.conv1.weight, stride=2, padding=1)
    y = prelu(norm(y, block.bn1), block.relu1.weight)
    y = norm(F.conv2d(y, block.conv2.weight, padding=1), block.bn2)
    y = y + norm(F.conv2d(x, block.downsample[0].weight, stride=2), block.downsample[1])
    torch.testing.assert_close(block(x), prelu(y, block.relu2.weight))


def stem(module: Stem3d, video: torch.Tensor) -> torch.Tensor:
    """The stem as three-dimensional operations."""
    convolution, norm, activation, _ = module
    x = F.conv3d(video, convolution.weight, stride=(1, 2, 2), padding=(2, 3, 3))
    mean, var = norm.running_mean, norm.running_var
    if module.training:
        mean, var = x.mean(dim=(0, 2, 3, 4)), x.var(dim=(0, 2, 3, 4), unbiased=False)
    mean, var, weight, bias = (t[:, None, None, None] for t in (mean, var, norm.weight, norm.bias))
    x = activation((x - mean) / (var + norm.eps).sqrt() * weight + bias)
    x = F.max_pool3d(x, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    return x.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.PReLU(6)], ids=["relu", "prelu"])
def test_stem_is_the_3d_formula(training, activation):
    module = randomize(Stem3d(6, activation)).train(training)
    _, video = clip(batch=2, frames=4)
    expected = stem(module, video)
    torch.testing.assert_close(module(video), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_statistics_of_the_stem_are_exact_enough_on_a_cpu():
    """PyTorch's batch norm has errors of 1e-4 if channels are the last dimension in memory."""
    module = Stem3d(8, nn.ReLU()).train()
    module[1].momentum = 1.0
    video = torch.randn(1, 1, 200, 88, 88) + 2
    with torch.no_grad():
        module(video)
        exact = F.conv3d(
            video.double(), module[0].weight.double(), stride=(1, 2, 2), padding=(2, 3, 3)
        )
    spread = exact.var(dim=(0, 2, 3, 4))
    torch.testing.assert_close(module[1].running_var.double(), spread, rtol=1e-5, atol=0)


@pytest.mark.parametrize("stride", [1, 2])
def test_shuffle_unit_formula(stride):
    """Ma et al. 2018, Fig. 3: one half is kept or reduced, channels of both halves alternate."""
    unit = randomize(ShuffleUnit(8, 8 if stride == 1 else 12, stride))
    x = torch.randn(2, 8, 6, 6)
    if stride == 1:
        left, right = x[:, :4], unit.branch2(x[:, 4:])
    else:
        left, right = unit.branch1(x), unit.branch2(x)
    found = unit(x)
    torch.testing.assert_close(found[:, 0::2], left)
    torch.testing.assert_close(found[:, 1::2], right)


@pytest.mark.slow
def test_fusion_audio_first_then_norm_then_projection():
    encoder = randomize(AVHubertEncoder(SMALL))
    audio, video = clip()
    a = linear(audio.transpose(1, 2), encoder.feature_extractor_audio.proj)
    v = encoder.feature_extractor_video(video)
    expected = linear(
        layer_norm(torch.cat([a, v], -1), encoder.layer_norm), encoder.post_extract_proj
    )
    torch.testing.assert_close(encoder.join(audio, video), expected)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["audio", "video"])
def test_missing_stream_is_zeros_after_its_projection(missing):
    encoder = randomize(AVHubertEncoder(SMALL))
    audio, video = clip()
    a = linear(audio.transpose(1, 2), encoder.feature_extractor_audio.proj)
    v = encoder.feature_extractor_video(video)
    if missing == "audio":
        found, zero_input = (
            encoder.join(None, video),
            encoder.join(0 * audio, video),
        )
        joined = torch.cat([torch.zeros(1, 5, 32), v], -1)
    else:
        found, zero_input = (
            encoder.join(audio, None),
            encoder.join(audio, 0 * video),
        )
        joined = torch.cat([a, torch.zeros(1, 5, 32)], -1)
    expected = linear(layer_norm(joined, encoder.layer_norm), encoder.post_extract_proj)
    torch.testing.assert_close(found, expected)
    assert (found - zero_input).abs().max() > 0.01  # a zero input would be something else


@pytest.mark.slow
@variants
def test_hidden_states_and_last_hidden_state(config):
    encoder = randomize(AVHubertEncoder(config))
    audio, video = clip()
    out = encoder(audio, video)
    assert len(out.hidden_states) == config.layers + 1
    torch.testing.assert_close(out.hidden_states[0], encoder.join(audio, video))
    for before, after, block in zip(
        out.hidden_states[1:], out.hidden_states[2:], encoder.encoder.layers[1:], strict=False
    ):
        torch.testing.assert_close(after, block(before, None))
    expected = layer_norm(out.hidden_states[-1], encoder.encoder.layer_norm)
    torch.testing.assert_close(out.last_hidden_state, expected)


def test_first_block_gets_the_fused_input_plus_positions():
    encoder = randomize(AVHubertEncoder(SMALL))
    out = encoder(*clip())
    fused = out.hidden_states[0]
    x = fused + encoder.encoder.pos_conv[0](fused)
    torch.testing.assert_close(out.hidden_states[1], encoder.encoder.layers[0](x, None))


@pytest.mark.slow
@variants
@pytest.mark.parametrize("streams", ["both", "audio", "video"])
def test_a_clip_gives_the_same_alone_and_in_a_padded_batch(config, streams):
    encoder = randomize(AVHubertEncoder(config))
    audio, video = clip(batch=2, frames=9)
    short = 4
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[0, short:] = True
    audio[0, :, short:] = 0
    video[0, :, short:] = 0
    use_a, use_v = streams != "video", streams != "audio"
    batch = encoder(audio if use_a else None, video if use_v else None, padding)
    alone = encoder(
        audio[:1, :, :short] if use_a else None, video[:1, :, :short] if use_v else None
    )
    for padded, plain in zip(batch.hidden_states, alone.hidden_states, strict=True):
        torch.testing.assert_close(padded[:1, :short], plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        batch.last_hidden_state[:1, :short], alone.last_hidden_state, rtol=1e-4, atol=1e-4
    )
    # The mask does matter: without it the frames of padding are attended to.
    unmasked = encoder(audio if use_a else None, video if use_v else None)
    difference = unmasked.last_hidden_state[:1, :short] - alone.last_hidden_state
    assert difference.abs().max() > 1e-3


@pytest.mark.slow
@variants
def test_gradient_reaches_every_parameter(config):
    torch.manual_seed(0)
    student = Student(config, HeadsConfig((1, 2), teacher_dim=10)).train()
    audio, video = clip(batch=2)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    states = {block: torch.randn(2, 5, 10) for block in (1, 2)}
    loss, _ = distillation_loss(student(audio, video, padding).predictions, states, padding)
    loss.backward()
    without = [name for name, p in student.named_parameters() if p.grad is None]
    # A bias of all keys shifts all scores of a query alike: softmax takes its gradient away.
    zero = [
        name
        for name, p in student.named_parameters()
        if "k_proj.bias" not in name and not p.grad.abs().sum() > 0
    ]
    assert without == [] and zero == []


@pytest.mark.slow
@pytest.mark.parametrize(("audio_dropout", "kinds"), [(0.5, 2), (1.0, 1), (0.0, 1)])
def test_modality_dropout_never_leaves_both_streams(audio_dropout, kinds):
    config = replace(SMALL, modality_dropout=1.0, audio_dropout=audio_dropout, dropout_input=0.0)
    encoder = randomize(AVHubertEncoder(config)).train()
    audio, video = clip(frames=2)
    only_audio, only_video = encoder.join(audio, None), encoder.join(None, video)
    seen = set()
    for _ in range(20):
        fused = encoder.join(audio, video)
        is_audio, is_video = torch.equal(fused, only_audio), torch.equal(fused, only_video)
        assert is_audio != is_video
        seen.add("audio" if is_audio else "video")
    assert len(seen) == kinds
    if audio_dropout == 1.0:
        assert seen == {"video"}
    if audio_dropout == 0.0:
        assert seen == {"audio"}


@pytest.mark.slow
def test_modality_dropout_and_layerdrop_do_nothing_in_eval():
    plain = randomize(AVHubertEncoder(SMALL))
    dropping = AVHubertEncoder(replace(SMALL, modality_dropout=1.0, layerdrop=1.0)).eval()
    dropping.load_state_dict(plain.state_dict())
    audio, video = clip()
    expected = plain(audio, video).last_hidden_state
    for _ in range(5):
        assert torch.equal(dropping(audio, video).last_hidden_state, expected)


def test_layerdrop_skips_blocks_in_training():
    encoder = randomize(AVHubertEncoder(replace(SMALL, layerdrop=1.0))).train()
    states = encoder(*clip()).hidden_states
    assert torch.equal(states[1], states[2])


@pytest.mark.parametrize(
    ("audio", "video", "padding", "message"),
    [
        (None, None, None, "at least one"),
        ([1, 5, 104], None, None, "[1, 5, 104]: expected [B, 104, T]"),
        ([104, 5], None, None, "expected [B, 104, T]"),
        (None, [1, 5, 88, 88], None, "expected [B, 1, T, 88, 88]"),
        (None, [1, 3, 5, 88, 88], None, "expected [B, 1, T, 88, 88]"),
        (None, [1, 1, 5, 96, 96], None, "expected [B, 1, T, 88, 88]"),
        ([1, 104, 5], [1, 1, 4, 88, 88], None, "(1, 5) and video (1, 4)"),
        ([1, 104, 5], [1, 1, 5, 88, 88], [1, 6], "[1, 6]: expected torch.bool [1, 5]"),
        ([1, 104, 5], None, [5, 1], "[5, 1]: expected torch.bool [1, 5]"),
        ([2, 104, 5], [3, 1, 5, 88, 88], None, "(2, 5) and video (3, 5)"),
        ([1, 104, 0], None, None, "(1, 0) (clips, frames): there is nothing to encode"),
        (None, [0, 1, 5, 88, 88], None, "(0, 5) (clips, frames): there is nothing to encode"),
    ],
)
def test_wrong_shapes_are_named(audio, video, padding, message):
    encoder = AVHubertEncoder(SMALL).eval()
    tensors = [None if shape is None else torch.zeros(shape) for shape in (audio, video)]
    mask = None if padding is None else torch.zeros(padding, dtype=torch.bool)
    with pytest.raises(InputError) as error:
        encoder(*tensors, mask)
    assert message in str(error.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_whole_numbers_are_refused(dtype):
    encoder = AVHubertEncoder(SMALL).eval()
    audio, video = (x.to(dtype) for x in clip())
    for inputs in ((audio, None), (None, video)):
        with pytest.raises(InputError, match="floating-point"):
            encoder(*inputs)


@variants
def test_a_clip_of_nothing_but_padding_is_named(config):
    encoder = AVHubertEncoder(config).eval()
    padding = torch.tensor([[False] * 3, [True] * 3, [False, True, True], [True] * 3])
    with pytest.raises(InputError, match=r"clips \[1, 3\] of the batch contain only padding"):
        encoder(*clip(batch=4, frames=3), padding)


def test_padding_is_zero_in_the_first_hidden_state():
    """AV-HuBERT sets padding to zero before the positional convolution."""
    encoder = randomize(AVHubertEncoder(SMALL))
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    first = encoder(*clip(batch=2), padding).hidden_states[0]
    assert not first[padding].any() and first[~padding].any(dim=-1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "dim 32: expected a multiple of heads"),
        ({"conv_pos_groups": 3}, "groups of the positional convolution"),
        ({"layers": 0}, "layers 0: expected at least 1"),
        ({"dim": -32}, "dim -32: expected at least 1"),
        ({"conv_pos": 0}, "conv_pos 0: expected at least 1"),
        ({"visual_width": 0.0}, "visual_width 0.0: expected more than 0"),
        ({"layerdrop": 1.1}, "layerdrop 1.1: expected a probability"),
        ({"dropout_input": math.nan}, "dropout_input nan: expected a probability"),
        ({"modality_dropout": -0.1}, "modality_dropout -0.1: expected a probability"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "lstm"}, "block 'lstm': expected one of .*conformer"),
        ({"visual": "vgg"}, "visual 'vgg': expected one of .*shufflenet"),
    ],
)
def test_unknown_parts_are_refused_with_the_choices(options, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL, **options)


@pytest.mark.parametrize("name", ["student-99", "teacher-huge", "base"])
def test_unknown_presets_are_refused(name):
    with pytest.raises(InputError, match=r"choose one of|expected teacher-NAME"):
        encoder_preset(name)


@pytest.mark.parametrize(("dim", "groups", "kernel"), [(128, 16, 128), (32, 4, 16)])
def test_positional_convolution_in_bfloat16(dim, groups, kernel):
    """The same as in float32 up to rounding, even where PyTorch's own kernel is wrong."""
    module = PositionalConvolution(dim, kernel, groups)
    x = torch.randn(2, 30, dim, generator=torch.Generator().manual_seed(0))
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(x)
    low = module.bfloat16()(x.bfloat16())
    for found in (mixed, low):
        assert ((found.float() - expected).norm() / expected.norm()).item() < 0.02
