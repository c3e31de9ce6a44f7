"""Encoders made for inference: fused, compiled, exported, in half precision; their times."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import SMALL, VARIANTS, clip, parts, randomize, variants
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from avhubert_ext.benchmarks.encoder import Clip, plain_forward
from avhubert_ext.checkpoints.model_file import save_model
from avhubert_ext.cli import main
from avhubert_ext.errors import InputError
from avhubert_ext.export.onnx import export_encoder
from avhubert_ext.models.conformer import ConformerConfig, ConformerEncoder, CTCAttentionRecognizer
from avhubert_ext.models.decoder import DecoderConfig
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig, EncoderOutput
from avhubert_ext.models.frontends import ResNet18, ShuffleNetV2, silu
from avhubert_ext.models.fuse import FramesLastTrunk, can_be_packed, fused
from avhubert_ext.models.presets import TABLE_1, encoder_preset, full_name

PADDING = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
LIPS = ConformerConfig(layers=2, dim=32, ffn=48, heads=4, width=0.125, fusion=24)


def trained(config: EncoderConfig | ConformerConfig) -> AVHubertEncoder | ConformerEncoder:
    """Fresh weights, but batch norms and gains as after training."""
    torch.manual_seed(0)
    encoder = (
        AVHubertEncoder(config) if isinstance(config, EncoderConfig) else ConformerEncoder(config)
    )
    worn(encoder)
    return encoder.eval()


def worn(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        norm = ".bn" in name or ".batch_norm" in name
        if name.endswith("running_mean"):
            tensor.normal_(std=0.2)
        elif name.endswith(("running_var", "weight_g")) or (norm and "weight" in name):
            tensor.mul_(torch.empty_like(tensor).uniform_(0.5, 2.0))


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """The greatest difference relative to the greatest value."""
    return (found - expected).abs().max().item() <= tolerance * expected.abs().max().item()


def assert_close(found: EncoderOutput, expected: EncoderOutput, tolerance: float) -> None:
    """Every layer, the greatest difference relative to the greatest value."""
    states = zip(
        (*found.hidden_states, found.last_hidden_state),
        (*expected.hidden_states, expected.last_hidden_state),
        strict=True,
    )
    for ours, theirs in states:
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


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


@pytest.mark.parametrize("modality", ["video", "audio", "both"])
def test_fused_lip_reader_is_the_same_function(modality):
    """Of any batch and length, with padding and without."""
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


@pytest.mark.parametrize("activation", [nn.PReLU, silu], ids=["prelu", "silu"])
def test_frames_last_trunk(activation):
    """A few frames or many, in both forms, and what is given to it stays."""
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


@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 1.0])
def test_shuffle_free_trunk(width):
    """Every channel in its place at every width, though none is shuffled."""
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


@pytest.mark.parametrize("name", ["teacher", "7"])
def test_full_size_encoders_export_with_any_length(name):
    """torch.export at full size, of clips and of padded batches."""
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


def test_a_fused_encoder_compiles_to_code_that_gives_the_same():
    encoder = trained(replace(VARIANTS["conformer-shufflenet"], layers=1))
    inputs = clip(frames=7)
    with torch.no_grad():
        compiled = torch.compile(encoder.fuse(), options={"freezing": True})
        assert_close(compiled(*inputs), encoder(*inputs), 1e-5)


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


def test_the_plain_forward_is_the_teacher():
    encoder = trained(replace(SMALL, layers=3))
    audio, video = clip(frames=7)
    with torch.no_grad():
        expected = encoder(audio, video).last_hidden_state
        assert near(plain_forward(encoder, Clip(audio, video)), expected)


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_the_plain_forward_is_the_lip_reader(frames):
    encoder = trained(LIPS)
    video = clip(2, frames)[1]
    with torch.no_grad():
        assert near(plain_forward(encoder, Clip(torch.empty(0), video)), encoder(video))


def run(out: Path, *options: str) -> int:
    return main(["benchmark", "encoder", "--out", str(out), "--rounds", "3", *options])


def test_benchmark(tmp_path, capsys, monkeypatch):
    """Every cell is there, and the figures fit each other."""
    # The tiny teacher in place of the base one; "teacher-tiny" and "tiny-7" are full and short.
    monkeypatch.setattr("avhubert_ext.benchmarks.encoder.TEACHER", "teacher-tiny")
    threads = torch.get_num_threads()
    out = tmp_path / "folder" / "b.json"
    names, backends = ("teacher-tiny", "tiny-7"), ("eager", "fused")
    options = ["--preset", *names, "--backend", *backends, "--frames", "10"]
    try:
        assert run(out, *options) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads(out.read_text())
    assert (report["frames"], report["threads"], report["dtype"]) == (10, 1, "float32")
    cells = {(r["model"], r["backend"]): r for r in report["results"]}
    expected = {(model, backend) for model in names for backend in backends}
    assert cells.keys() == expected | {("teacher-tiny", "plain")}
    for (_, backend), cell in cells.items():
        median = cell["median_seconds"]
        assert 0 < cell["fastest_seconds"] <= median
        teacher = cells["teacher-tiny", backend]["median_seconds"]
        assert math.isclose(cell["ratio_to_teacher"], median / teacher)
        assert math.isclose(cell["real_time_factor"], median / 0.4)
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*names, *backends, str(out)))
    assert max(map(len, printed.splitlines())) <= 100 + len(str(out))


def test_benchmark_of_a_lip_reader(tmp_path, capsys):
    options = ("--preset", "vsr-tiny", "--backend", "eager", "fused", "--frames", "5")
    assert run(tmp_path / "b.json", *options) == 0
    results = json.loads((tmp_path / "b.json").read_text())["results"]
    assert [r["backend"] for r in results] == ["eager", "fused", "plain"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[7].startswith("Computed as their formulas read") and "vsr-tiny" in lines[8]


def test_benchmark_without_a_compiler(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(tmp_path / "b.json", "--preset", "tiny-7", "--backend", "compile") == 1
    assert "the backend compile needs a C++ compiler" in capsys.readouterr().err


def test_benchmark_of_half_precision(tmp_path):
    options = ("--preset", "tiny-7", "--dtype", "bfloat16", "--backend", "eager", "fused")
    assert run(tmp_path / "b.json", *options) == 0
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["dtype"] == "bfloat16" and len(report["results"]) == 2


def test_benchmark_without_the_teacher_has_no_ratios(tmp_path):
    assert run(tmp_path / "b.json", "--preset", "tiny-7", "--backend", "eager") == 0
    (cell,) = json.loads((tmp_path / "b.json").read_text())["results"]
    assert cell["ratio_to_teacher"] is None


def test_benchmark_of_other_runtimes(tmp_path):
    backends = ("compile", "onnx")
    assert run(tmp_path / "b.json", "--preset", "teacher-tiny", "--backend", *backends) == 0
    results = json.loads((tmp_path / "b.json").read_text())["results"]
    assert [r["backend"] for r in results] == list(backends)
    assert all(r["median_seconds"] > 0 for r in results)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "99"], "preset '99' is unknown: choose one of"),
        (["--preset", "tiny-7", "--dtype", "bfloat16", "--backend", "onnx"], "float32 only"),
    ],
)
def test_benchmark_errors_are_one_line(tmp_path, capsys, options, words):
    assert run(tmp_path / "b.json", *options) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("avhubert-ext: error: ") and words in last


def test_variants_are_all_kinds_of_encoders():
    kinds = {(c.block, c.visual) for c in VARIANTS.values()}
    presets = {encoder_preset(full_name(name)) for name in TABLE_1}
    assert {(c.block, c.visual) for c in presets} <= kinds
