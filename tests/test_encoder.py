"""The encoders against written-out formulas, AV-HuBERT's names and counts, and padding."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.complexity import flops_per_frame
from avhubert_ext.losses import distillation_loss
from avhubert_ext.models.attention import MultiheadAttention
from avhubert_ext.models.blocks import (
    ConformerBlock,
    ConformerConvolution,
    PositionalConvolution,
    TransformerBlock,
)
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig
from avhubert_ext.models.frontends import BasicBlock, channel_shuffle
from avhubert_ext.models.presets import STUDENTS, encoder_preset
from avhubert_ext.models.student import HeadsConfig, PredictionHeads, Student

SMALL = EncoderConfig(
    layers=2, dim=32, ffn=48, heads=4, visual_width=0.125, conv_pos=16, conv_pos_groups=4
)
VARIANTS = {
    f"{block}-{visual}": replace(SMALL, block=block, visual=visual)
    for block in ("transformer", "conformer")
    for visual in ("resnet", "shufflenet")
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random values everywhere, so that no scale of one and no bias of zero hides a mistake."""
    torch.manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.3)
    return module.eval()


def clip(batch: int = 1, frames: int = 5, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random audio [B, 104, T] and video [B, 1, T, 88, 88]."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 104, frames, generator=generator),
        torch.randn(batch, 1, frames, 88, 88, generator=generator),
    )


def layer_norm(x: torch.Tensor, module: nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / spread * module.weight + module.bias


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


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("teacher-base", 102_620_288),
        ("student-1", 31_741_568),
        ("student-4", 31_226_240),
        ("student-6", 32_201_856),
        ("student-7", 22_035_412),
    ],
)
def test_parameter_counts(name, parameters):
    with torch.device("meta"):
        encoder = AVHubertEncoder(encoder_preset(name))
    assert sum(p.numel() for p in encoder.parameters()) == parameters


def official_names() -> dict[str, list[int]]:
    """AV-HuBERT base without its pretraining head, from its documented layout."""
    shapes: dict[str, list[int]] = {}

    def norm(name: str, width: int, batch: bool = False) -> None:
        shapes.update({f"{name}.weight": [width], f"{name}.bias": [width]})
        if batch:
            shapes.update({f"{name}.running_mean": [width], f"{name}.running_var": [width]})
            shapes[f"{name}.num_batches_tracked"] = []

    def affine(name: str, outputs: int, inputs: int) -> None:
        shapes.update({f"{name}.weight": [outputs, inputs], f"{name}.bias": [outputs]})

    video = "feature_extractor_video"
    affine("feature_extractor_audio.proj", 768, 104)
    shapes[f"{video}.resnet.frontend3D.0.weight"] = [64, 1, 5, 7, 7]
    norm(f"{video}.resnet.frontend3D.1", 64, batch=True)
    shapes[f"{video}.resnet.frontend3D.2.weight"] = [64]
    inputs = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            base = f"{video}.resnet.trunk.layer{layer}.{block}"
            shapes[f"{base}.conv1.weight"] = [width, inputs, 3, 3]
            shapes[f"{base}.conv2.weight"] = [width, width, 3, 3]
            for n in (1, 2):
                norm(f"{base}.bn{n}", width, batch=True)
                shapes[f"{base}.relu{n}.weight"] = [width]
            if block == 0 and layer > 1:
                shapes[f"{base}.downsample.0.weight"] = [width, inputs, 1, 1]
                norm(f"{base}.downsample.1", width, batch=True)
            inputs = width
    affine(f"{video}.proj", 768, 512)
    norm("layer_norm", 1536)
    affine("post_extract_proj", 768, 1536)
    shapes["encoder.pos_conv.0.bias"] = [768]
    shapes["encoder.pos_conv.0.weight_g"] = [1, 1, 128]
    shapes["encoder.pos_conv.0.weight_v"] = [768, 48, 128]
    for layer in range(12):
        base = f"encoder.layers.{layer}"
        for name in "kvq":
            affine(f"{base}.self_attn.{name}_proj", 768, 768)
        affine(f"{base}.self_attn.out_proj", 768, 768)
        norm(f"{base}.self_attn_layer_norm", 768)
        affine(f"{base}.fc1", 3072, 768)
        affine(f"{base}.fc2", 768, 3072)
        norm(f"{base}.final_layer_norm", 768)
    norm("encoder.layer_norm", 768)
    return shapes


def test_teacher_has_the_names_and_shapes_of_public_checkpoints():
    with torch.device("meta"):
        encoder = AVHubertEncoder(encoder_preset("teacher-base"))
    assert {k: list(v.shape) for k, v in encoder.state_dict().items()} == official_names()


def test_flops_against_a_count_by_hand():
    """teacher-tiny: channels 8, 16, 32, 64; width 128, ffn 512, 12 blocks; per frame."""
    macs = 44 * 44 * 8 * 5 * 7 * 7  # stem
    macs += 22 * 22 * 4 * 8 * 8 * 9
    for side, inputs, width in ((11, 8, 16), (6, 16, 32), (3, 32, 64)):
        macs += side * side * (width * inputs * 9 + 3 * width * width * 9 + width * inputs)
    macs += 64 * 128 + 104 * 128 + 256 * 128
    macs += 12 * (4 * 128 * 128 + 2 * 128 * 512)
    macs += 128 * (128 // 16) * 128 * 101 / 100  # an even kernel computes one frame too many
    counted = flops_per_frame(AVHubertEncoder(encoder_preset("teacher-tiny")))
    assert counted == pytest.approx(2 * macs, rel=1e-9)


def test_attention_is_the_softmax_formula():
    module = randomise(MultiheadAttention(12, 3))
    x, memory = torch.randn(2, 4, 12), torch.randn(2, 6, 12)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    found = module(x, module.project_memory(memory), padding)
    torch.testing.assert_close(found[0], attention(module, x[0], memory[0]))
    torch.testing.assert_close(found[1], attention(module, x[1], memory[1, :4]))


def test_positional_convolution_is_torchs_weight_norm():
    width, kernel, groups = 12, 8, 3
    ours = randomise(PositionalConvolution(width, kernel, groups))
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
    block = randomise(TransformerBlock(12, 20, 3))
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
    module = randomise(ConformerConvolution(6, 5, 0.1))
    x = torch.randn(2, 9, 6)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 6:] = True
    found = module(x, padding)
    torch.testing.assert_close(found[0], conformer_convolution(module, x[0]))
    torch.testing.assert_close(found[1, :6], conformer_convolution(module, x[1, :6]))


def test_conformer_block_is_the_macaron_formula():
    block = randomise(ConformerBlock(12, 20, 3, kernel=5))
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
    block = randomise(BasicBlock(4, 6, stride=2))
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


def test_channel_shuffle_interleaves_the_halves():
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert channel_shuffle(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_fusion_audio_first_then_norm_then_projection():
    encoder = randomise(AVHubertEncoder(SMALL))
    audio, video = clip()
    a = linear(audio.transpose(1, 2), encoder.feature_extractor_audio.proj)
    v = encoder.feature_extractor_video(video)
    expected = linear(
        layer_norm(torch.cat([a, v], -1), encoder.layer_norm), encoder.post_extract_proj
    )
    torch.testing.assert_close(encoder.fuse(audio, video), expected)


@pytest.mark.parametrize("missing", ["audio", "video"])
def test_missing_stream_is_zeros_after_its_projection(missing):
    encoder = randomise(AVHubertEncoder(SMALL))
    audio, video = clip()
    a = linear(audio.transpose(1, 2), encoder.feature_extractor_audio.proj)
    v = encoder.feature_extractor_video(video)
    if missing == "audio":
        found, zero_input = encoder.fuse(None, video), encoder.fuse(0 * audio, video)
        joined = torch.cat([torch.zeros(1, 5, 32), v], -1)
    else:
        found, zero_input = encoder.fuse(audio, None), encoder.fuse(audio, 0 * video)
        joined = torch.cat([a, torch.zeros(1, 5, 32)], -1)
    expected = linear(layer_norm(joined, encoder.layer_norm), encoder.post_extract_proj)
    torch.testing.assert_close(found, expected)
    assert (found - zero_input).abs().max() > 0.01  # a zero input would be something else


@variants
def test_hidden_states_and_last_hidden_state(config):
    encoder = randomise(AVHubertEncoder(config))
    audio, video = clip()
    out = encoder(audio, video)
    assert len(out.hidden_states) == config.layers + 1
    torch.testing.assert_close(out.hidden_states[0], encoder.fuse(audio, video))
    for before, after, block in zip(
        out.hidden_states[1:], out.hidden_states[2:], encoder.encoder.layers[1:], strict=False
    ):
        torch.testing.assert_close(after, block(before, None))
    expected = layer_norm(out.hidden_states[-1], encoder.encoder.layer_norm)
    torch.testing.assert_close(out.last_hidden_state, expected)


def test_first_block_gets_the_fused_input_plus_positions():
    encoder = randomise(AVHubertEncoder(SMALL))
    out = encoder(*clip())
    fused = out.hidden_states[0]
    x = fused + encoder.encoder.pos_conv[0](fused)
    torch.testing.assert_close(out.hidden_states[1], encoder.encoder.layers[0](x, None))


@variants
@pytest.mark.parametrize("streams", ["both", "audio", "video"])
def test_a_clip_gives_the_same_alone_and_in_a_padded_batch(config, streams):
    encoder = randomise(AVHubertEncoder(config))
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


def test_prediction_heads_formula():
    heads = randomise(PredictionHeads(6, HeadsConfig((8, 12), teacher_dim=5)))
    x = torch.randn(2, 3, 6)
    hidden = linear(x, heads.shared)
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    found = heads(x)
    assert list(found) == [8, 12]
    torch.testing.assert_close(found[8], linear(hidden[..., :6], heads.heads[0]))
    torch.testing.assert_close(found[12], linear(hidden[..., 6:], heads.heads[1]))


@variants
def test_gradient_reaches_every_parameter(config):
    torch.manual_seed(0)
    student = Student(config, HeadsConfig((1, 2), teacher_dim=10)).train()
    audio, video = clip(batch=2)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    states = tuple(torch.randn(2, 5, 10) for _ in range(3))
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


@pytest.mark.parametrize(("audio_dropout", "kinds"), [(0.5, 2), (1.0, 1), (0.0, 1)])
def test_modality_dropout_never_leaves_both_streams(audio_dropout, kinds):
    config = replace(SMALL, modality_dropout=1.0, audio_dropout=audio_dropout, dropout_input=0.0)
    encoder = randomise(AVHubertEncoder(config)).train()
    audio, video = clip(frames=2)
    only_audio, only_video = encoder.fuse(audio, None), encoder.fuse(None, video)
    seen = set()
    for _ in range(20):
        fused = encoder.fuse(audio, video)
        is_audio, is_video = torch.equal(fused, only_audio), torch.equal(fused, only_video)
        assert is_audio != is_video
        seen.add("audio" if is_audio else "video")
    assert len(seen) == kinds
    if audio_dropout == 1.0:
        assert seen == {"video"}
    if audio_dropout == 0.0:
        assert seen == {"audio"}


def test_modality_dropout_and_layerdrop_do_nothing_in_eval():
    plain = randomise(AVHubertEncoder(SMALL))
    dropping = AVHubertEncoder(replace(SMALL, modality_dropout=1.0, layerdrop=1.0)).eval()
    dropping.load_state_dict(plain.state_dict())
    audio, video = clip()
    expected = plain(audio, video).last_hidden_state
    for _ in range(5):
        assert torch.equal(dropping(audio, video).last_hidden_state, expected)


def test_layerdrop_skips_blocks_in_training():
    encoder = randomise(AVHubertEncoder(replace(SMALL, layerdrop=1.0))).train()
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
    ],
)
def test_wrong_shapes_are_named(audio, video, padding, message):
    encoder = AVHubertEncoder(SMALL).eval()
    tensors = [None if shape is None else torch.zeros(shape) for shape in (audio, video)]
    mask = None if padding is None else torch.zeros(padding, dtype=torch.bool)
    with pytest.raises(InputError) as error:
        encoder(*tensors, mask)
    assert message in str(error.value)


@pytest.mark.parametrize("options", [{"block": "lstm"}, {"visual": "vgg"}])
def test_unknown_parts_are_refused_with_the_choices(options):
    with pytest.raises(InputError, match="expected"):
        replace(SMALL, **options)


@pytest.mark.parametrize("name", ["student-99", "teacher-huge", "base"])
def test_unknown_presets_are_refused(name):
    with pytest.raises(InputError, match=r"choose one of|expected teacher-NAME"):
        encoder_preset(name)


def test_a_student_starts_from_the_teachers_first_blocks():
    teacher = randomise(AVHubertEncoder(replace(SMALL, layers=4)))
    student = Student(replace(SMALL, layers=2, dropout_input=0.0), HeadsConfig((3, 4), 32)).eval()
    student.start_from(teacher)
    audio, video = clip()
    expected, found = teacher(audio, video), student(audio, video)
    for theirs, ours in zip(expected.hidden_states, found.hidden_states, strict=False):
        assert torch.equal(theirs, ours)
    wider = Student(replace(SMALL, dim=64), HeadsConfig((3, 4), 32))
    with pytest.raises(InputError, match="cannot start from this teacher"):
        wider.start_from(teacher)


def test_students_of_table_1():
    """Paper A, Table 1, and its authors' later word on dropout."""
    table = {
        "1": (2, 768, 3072, "transformer", "resnet", (4, 8, 12), True),
        "2": (2, 768, 3072, "transformer", "resnet", (4, 8, 12), True),
        "3": (2, 768, 3072, "transformer", "resnet", (4, 8, 12), False),
        "4": (6, 384, 3200, "transformer", "resnet", (4, 8, 12), False),
        "5": (6, 384, 3200, "transformer", "resnet", (8, 12), False),
        "6": (6, 384, 1536, "conformer", "resnet", (8, 12), False),
        "7": (6, 384, 1536, "conformer", "shufflenet", (8, 12), False),
    }
    for name, row in table.items():
        s, e = STUDENTS[name], STUDENTS[name].encoder
        assert row == (e.layers, e.dim, e.ffn, e.block, e.visual, s.targets, s.from_teacher)
        assert (e.heads, e.dropout_input, e.dropout, e.activation_dropout) == (12, 0.0, 0.1, 0.1)
