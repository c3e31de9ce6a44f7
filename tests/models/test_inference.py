"""Encoders made for inference: fused, compiled, exported, in half precision."""

from dataclasses import replace

import pytest
import torch
from networks import SMALL, VARIANTS, clip, near, parts, randomize, trained, variants, worn
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from avhubert_ext.checkpoints.model_file import save_model
from avhubert_ext.errors import InputError
from avhubert_ext.export.onnx import export_encoder
from avhubert_ext.models.conformer import ConformerConfig, CTCAttentionRecognizer
from avhubert_ext.models.decoder import DecoderConfig
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderOutput
from avhubert_ext.models.frontends import ResNet18, ShuffleNetV2, silu
from avhubert_ext.models.fuse import FramesLastTrunk, can_be_packed, fused
from avhubert_ext.models.presets import TABLE_1, encoder_preset, full_name

PADDING = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
LIPS = ConformerConfig(layers=2, dim=32, ffn=48, heads=4, width=0.125, fusion=24)


def assert_close(found: EncoderOutput, expected: EncoderOutput, tolerance: float) -> None:
    """Every layer, the greatest difference relative to the greatest value."""
    states = zip(
        (*found.hidden_states, found.last_hidden_state),
        (*expected.hidden_states, expected.last_hidden_state),
        strict=True,
    )
    for ours, theirs in states:
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.slow
@variants
@pytest.mark.parametrize("streams", ["both", "audio", "video"])
def test_fused_is_the_same_function(config, streams):
    encoder = trained(config)
    audio, video = clip(batch=2, frames=7)
    inputs = (audio if streams != "video" else None, video if streams != "audio" else None, PADDING)
    with torch.no_grad():
        expected = encoder(*inputs)
        assert_close(encoder.fuse()(*inputs), expected, 1e-5)
        assert_close(encoder.fuse().fuse()(*inputs), expected, 1e-5)


@variants
def test_fusing_leaves_the_encoder_as_it_was(config):
    encoder = trained(config).train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    result = encoder.fuse()
    assert encoder.training and not result.training
    assert all(p.requires_grad for p in encoder.parameters())
    assert not any(p.requires_grad for p in result.parameters())
    assert encoder.state_dict().keys() == before.keys()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in result.modules())


class Operators(TorchDispatchMode):
    """Collects the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["video", "audio", "both"])
def test_fused_lip_reader_is_the_same_function(modality):
    """For any batch and length, with and without padding."""
    encoder = trained(replace(LIPS, modality=modality))
    fast = encoder.fuse().fuse()
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in fast.modules())
    for batch, frames in ((1, 2), (3, 1), (2, 7), (1, 4)):  # longer and shorter than before
        video = None if modality == "audio" else clip(batch, frames)[1]
        audio = None if modality == "video" else torch.randn(batch, 1, 640 * frames)
        for padding in (None, PADDING) if frames == 7 else (None,):
            with torch.no_grad():
                expected = encoder(video, padding, audio)
                assert near(fast(video, padding, audio), expected)


def test_fused_recognizer_keeps_its_decoder(tmp_path):
    model = CTCAttentionRecognizer(LIPS, DecoderConfig(9, layers=1, dim=32, ffn=48, heads=4))
    worn(model)
    fast, tokens = model.eval().fuse(), torch.tensor([[8, 2, 3]])
    with torch.no_grad():
        for found, expected in zip(
            fast(clip(frames=3)[1], None, tokens),
            model(clip(frames=3)[1], None, tokens),
            strict=True,
        ):
            assert near(found, expected)
    with pytest.raises(InputError, match="save the original"):
        save_model(tmp_path / "m.safetensors", fast)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.PReLU, silu], ids=["prelu", "silu"])
def test_frames_last_trunk(activation):
    """With few or many frames, in both forms; the input does not change."""
    resnet = ResNet18(0.125, activation)
    worn(resnet)
    resnet.eval()
    if not can_be_packed(resnet.trunk):
        pytest.skip("needs a CPU with AVX-512 and oneDNN")
    fast = fused(resnet)
    assert isinstance(fast.trunk, FramesLastTrunk)
    for frames in (1, 13, 40):
        x = torch.randn(frames, 8, 22, 22)
        before = x.clone()
        with torch.no_grad(), Operators() as packed:
            found = fast.trunk(x)
        with torch.no_grad():
            assert near(found, resnet.trunk(x))
        assert torch.equal(x, before)
    assert any("mkldnn._convolution_pointwise" in name for name in packed.names)
    x.requires_grad_()
    fast.trunk(x).sum().backward()  # the other form
    assert x.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 1.0])
def test_shuffle_free_trunk(width):
    """Without shuffling, every channel is where it belongs at every width."""
    trunk = randomize(ShuffleNetV2(width)).eval()
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    video = clip(frames=2)[1]
    with torch.no_grad():
        expected = trunk(video)
        with Operators() as plain:
            trunk(video)
        result = fused(trunk)
        with Operators() as folded:
            found = result(video)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert any("shuffle" in name for name in plain.names)
    assert not any("shuffle" in name or "batch_norm" in name for name in folded.names)


def test_a_fused_encoder_is_not_saved(tmp_path):
    with pytest.raises(InputError, match="save the original"):
        save_model(tmp_path / "m.safetensors", trained(SMALL).fuse())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@variants
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_close(config, dtype):
    encoder = trained(config)
    audio, video = clip(batch=2, frames=7)
    with torch.no_grad():
        expected = encoder(audio, video, PADDING)
        half = encoder.to(dtype)(audio.to(dtype), video.to(dtype), PADDING)
    assert half.last_hidden_state.dtype == dtype
    assert_close(half, expected, 0.01 if dtype == torch.float16 else 0.08)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["teacher", "7"])
def test_full_size_encoders_export_with_any_length(name):
    """torch.export at full size, for clips and padded batches."""
    with torch.device("meta"):
        encoder = AVHubertEncoder(encoder_preset(full_name(name))).eval()
        audio, video = torch.zeros(2, 104, 7), torch.zeros(2, 1, 7, 88, 88)
        padding = torch.zeros(2, 7, dtype=torch.bool)
    batch, frames = torch.export.Dim("batch", max=99), torch.export.Dim("frames", max=9999)
    shapes = ({0: batch, 2: frames}, {0: batch, 2: frames}, {0: batch, 1: frames})
    program = torch.export.export(encoder, (audio, video, padding), dynamic_shapes=shapes)
    longer = program.module()(
        torch.zeros(3, 104, 20, device="meta"),
        torch.zeros(3, 1, 20, 88, 88, device="meta"),
        torch.zeros(3, 20, dtype=torch.bool, device="meta"),
    )
    assert longer.last_hidden_state.shape == (3, 20, encoder.config.dim)


@pytest.mark.slow
@parts
def test_an_exported_encoder_gives_the_same(config):
    encoder = trained(config)
    frames = torch.export.Dim("frames", max=9999)
    shapes = ({2: frames}, {2: frames}, None)
    program = torch.export.export(encoder, (*clip(frames=7), None), dynamic_shapes=shapes)
    with torch.no_grad():
        for length in (1, 5, 12):
            inputs = (*clip(frames=length), None)
            assert_close(program.module()(*inputs), encoder(*inputs), 1e-5)


@pytest.mark.slow
@parts
def test_a_compiled_encoder_gives_the_same(config):
    """Of any length, without breaks of the graph. No code is made, which takes a minute: see the
    next test, and `avhubert-ext benchmark encoder` at full size."""
    encoder = trained(config)
    compiled = torch.compile(encoder, dynamic=True, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for frames in (7, 9):
            inputs = clip(batch=2, frames=frames)
            padding = torch.zeros(2, frames, dtype=torch.bool)
            padding[1, 4:] = True
            assert_close(compiled(*inputs, padding), encoder(*inputs, padding), 1e-5)


@pytest.mark.slow
def test_a_fused_encoder_compiles_to_code_that_gives_the_same():
    encoder = trained(replace(VARIANTS["conformer-shufflenet"], layers=1))
    inputs = clip(frames=7)
    with torch.no_grad():
        compiled = torch.compile(encoder.fuse(), options={"freezing": True})
        assert_close(compiled(*inputs), encoder(*inputs), 1e-5)


@pytest.mark.slow
@parts
def test_onnx_gives_the_same_for_any_batch_and_length(config, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder = trained(config)
    export_encoder(encoder, tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    for batch, frames in ((1, 1), (1, 2), (3, 11)):
        audio, video = clip(batch, frames)
        (found,) = session.run(None, {"audio": audio.numpy(), "video": video.numpy()})
        with torch.no_grad():
            expected = encoder(audio, video).last_hidden_state
        assert (torch.tensor(found) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.slow
def test_onnx_of_a_lip_reader(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder = trained(replace(LIPS, layers=1))
    export_encoder(encoder, tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    for batch, frames in ((1, 1), (1, 2), (3, 11)):
        video = clip(batch, frames)[1]
        (found,) = session.run(None, {"video": video.numpy()})
        with torch.no_grad():
            assert near(torch.tensor(found), encoder(video))
    with pytest.raises(InputError, match="encoders of both are not exported"):
        export_encoder(trained(replace(LIPS, modality="both")), tmp_path / "both.onnx")


def test_variants_are_all_kinds_of_encoders():
    kinds = {(c.block, c.visual) for c in VARIANTS.values()}
    presets = {encoder_preset(full_name(name)) for name in TABLE_1}
    assert {(c.block, c.visual) for c in presets} <= kinds
