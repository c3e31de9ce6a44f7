"""SparseVSR's recognizers: sizes, relative positions, padding, losses, Auto-AVSR's checkpoints."""

import math
import re
from dataclasses import replace

import pytest
import sentencepiece
import torch
import torch.nn.functional as F
from networks import randomize
from torch import Tensor

from avhubert_ext import build_vsr, load_auto_avsr
from avhubert_ext.checkpoints.auto_avsr import load_frontend
from avhubert_ext.checkpoints.conversion import export_sparse, prune
from avhubert_ext.checkpoints.description import describe
from avhubert_ext.checkpoints.fairseq_file import save_fairseq
from avhubert_ext.checkpoints.model_file import (
    load_avhubert_asr,
    load_model,
    read_masks,
    save_model,
)
from avhubert_ext.cli import main
from avhubert_ext.compression.pruning import global_magnitude_mask, prunable_weights, same
from avhubert_ext.data.text import Subwords, Vocabulary
from avhubert_ext.decoding.joint import JointConfig, joint_beam_search
from avhubert_ext.errors import InputError
from avhubert_ext.models.attention import MultiheadAttention, RelativeAttention
from avhubert_ext.models.blocks import interleaved_positions
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.decoder import DecoderCache
from avhubert_ext.models.presets import VSR
from avhubert_ext.training.losses import IGNORED, ctc_attention_loss, ctc_loss, label_smoothed_kl

VOCABULARY = 13


def small(modality: str = "video", layers: int = 2) -> CTCAttentionRecognizer:
    """Random weights and statistics, so that no part is an identity."""
    sizes = {"dim": 16, "ffn": 24, "heads": 2, "layers": layers}
    preset = VSR["tiny"]
    encoder = replace(preset.encoder, modality=modality, fusion=20, kernel=7, **sizes)
    decoder = replace(preset.decoder, vocabulary=VOCABULARY, **sizes)
    torch.manual_seed(1)
    return randomize(CTCAttentionRecognizer(encoder, decoder)).eval()


def inputs(modality: str, clips: int, frames: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(frames)
    streams = {}
    if modality != "audio":
        streams["video"] = torch.randn(clips, 1, frames, 88, 88, generator=generator)
    if modality != "video":
        streams["audio"] = torch.randn(clips, 1, 640 * frames, generator=generator)
    return {"video": None} | streams


# ---- sizes


@pytest.mark.parametrize(
    ("name", "parameters", "prunable", "parts"),
    [
        ("base-s", 56_350_770, 54_879_040, (11_182_784, 31_675_904, 12_063_161, 1_297_593)),
        ("base-l", 250_383_410, 246_099_776, (11_182_784, 170_451_456, 64_472_505, 3_882_681)),
    ],
)
def test_paper_sizes(name, parameters, prunable, parts):
    with torch.device("meta"):
        model = build_vsr(name)

    def count(*modules: torch.nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    assert count(model) == parameters
    weights = prunable_weights(model)
    assert sum(w.numel() for w in weights.values()) == prunable and len(weights) == 227
    assert len(model.state_dict()) == 767 and len(list(model.parameters())) == 671
    video = model.encoder.video
    blocks = count(video.layers, video.layer_norm)
    assert (count(video.frontend), blocks, count(model.decoder), count(model.ctc)) == parts


@pytest.mark.slow
def test_variants_differ_in_the_frontend():
    with torch.device("meta"):
        video, audio, both = (
            build_vsr("base-s", modality) for modality in ("video", "audio", "both")
        )
    shapes = [
        {name.replace(stream, "*"): tensor.shape for name, tensor in model.state_dict().items()}
        for model, stream in ((video, ".video."), (audio, ".audio."))
    ]
    assert {n for n in shapes[0].keys() ^ shapes[1].keys() if "frontend" not in n} == set()
    names = {*both.state_dict()}
    assert {*video.state_dict()} | {*audio.state_dict()} < names
    assert {n.split(".")[1] for n in names - {*video.state_dict()} - {*audio.state_dict()}} == {
        "fusion"
    }


def test_unknown_names_are_refused():
    with pytest.raises(
        InputError, match="vsr preset 'base-m' is unknown: choose one of vsr-base-s"
    ):
        build_vsr("base-m")
    with pytest.raises(InputError, match="modality 'lips': expected one of video, audio, both"):
        build_vsr("tiny", "lips")
    for vocabulary in (0, True, "many"):
        with pytest.raises(InputError, match="expected a number of outputs"):
            build_vsr("tiny", vocabulary=vocabulary)


# ---- the network


def test_relative_attention_is_its_formula():
    torch.manual_seed(0)
    attention = randomize(RelativeAttention(8, 2)).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    table = interleaved_positions(torch.arange(4, -5, -1), 8).double()
    found = attention(x, padding, table)

    for clip in range(2):
        q, k, v = (getattr(attention, f"{n}_proj")(x[clip]) for n in "qkv")
        heads = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            u, w = attention.pos_bias_u[head], attention.pos_bias_v[head]
            rows = []
            for i in range(5):
                scores = []
                for j in range(5):
                    angle = [(i - j) / 10000 ** (2 * (c // 2) / 8) for c in range(8)]
                    sinusoid = [math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angle)]
                    p = attention.pos_proj.weight @ torch.tensor(sinusoid, dtype=torch.float64)
                    score = (q[i, part] + u) @ k[j, part] + (q[i, part] + w) @ p[part]
                    scores.append(-math.inf if padding[clip, j] else float(score.detach()) / 2)
                rows.append(torch.tensor(scores, dtype=torch.float64).softmax(0) @ v[:, part])
            heads.append(torch.stack(rows))
        expected = attention.out_proj(torch.cat(heads, dim=1))
        torch.testing.assert_close(found[clip], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["video", "audio", "both"])
@torch.no_grad()
def test_a_clip_is_the_same_alone_and_in_a_padded_batch(modality):
    model = small(modality)
    batch = inputs(modality, 2, 9)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[1, 6:] = True
    alone = {}
    for name, stream in batch.items():
        if stream is not None:
            rate = stream.shape[2] // 9
            stream[1, :, 6 * rate :] = 0
            alone[name] = stream[1:, :, : 6 * rate]
    alone = {"video": None} | alone
    encoded, same_mask = model.encode(batch.pop("video"), mask, **batch)
    expected, none = model.encode(alone.pop("video"), None, **alone)
    assert same_mask is mask and none is None and encoded.shape == (2, 9, 16)
    torch.testing.assert_close(encoded[1:, :6], expected, rtol=1e-4, atol=1e-5)
    # Auto-AVSR's own code lets padding leak in.
    leaking, _ = model.set_mask_padding(False).encode(
        **inputs(modality, 2, 9) | {"padding_mask": mask}
    )
    assert (leaking[1, :6] - expected[0]).abs().max() > 1e-3


@torch.no_grad()
def test_a_single_frame_is_encoded():
    encoded, _ = small().encode(torch.randn(1, 1, 1, 88, 88))
    assert encoded.shape == (1, 1, 16) and encoded.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["video", "audio", "both"])
def test_every_parameter_learns(modality):
    model = small(modality).train()
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[1, 4:] = True
    tokens = torch.tensor([[12, 3, 4], [12, 5, 12]])
    streams = inputs(modality, 2, 6)
    ctc, logits = model(streams.pop("video"), mask, tokens, **streams)
    assert ctc.shape == (2, 6, VOCABULARY) and logits.shape == (2, 3, VOCABULARY)
    targets = torch.tensor([[3, 4, 12], [5, 12, IGNORED]])
    loss, _ = ctc_attention_loss(ctc, logits, mask, targets)
    loss.backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert still == [n for n in still if n.endswith("k_proj.bias")]  # softmax does not see them


@torch.no_grad()
def test_decoder_with_a_cache_is_the_same():
    decoder = small().decoder
    memory, tokens = torch.randn(2, 5, 16), torch.randint(VOCABULARY, (2, 6))
    cache = DecoderCache()
    steps = [decoder(tokens[:, i : i + 1], memory, None, cache) for i in range(6)]
    torch.testing.assert_close(torch.cat(steps, dim=1), decoder(tokens, memory), atol=1e-5, rtol=0)


def test_wrong_inputs_are_refused():
    model = small()
    video = torch.randn(1, 1, 4, 88, 88)
    with pytest.raises(InputError, match="the model takes video: pass exactly that"):
        model.encode(video, None, torch.randn(1, 1, 2560))
    with pytest.raises(InputError, match=r"video has shape \[1, 4, 1, 88, 88\]: expected \[B, 1"):
        model.encode(video.transpose(1, 2))
    with pytest.raises(
        InputError, match=r"audio has shape \[1, 1, 100\]: expected \[B, 1, 640 T\]"
    ):
        small("audio").encode(None, None, torch.randn(1, 1, 100))
    with pytest.raises(InputError, match="padding_mask"):
        model.encode(video, torch.zeros(1, 5, dtype=torch.bool))


# ---- losses


def test_label_smoothing_is_the_divergence_from_the_smoothed_target():
    logits = torch.randn(2, 3, 7, dtype=torch.float64)
    targets = torch.tensor([[1, 4, 6], [2, 6, IGNORED]])
    smooth = torch.full((2, 3, 7), 0.1 / 6, dtype=torch.float64)
    smooth.scatter_(2, targets.clamp(min=0)[..., None], 0.9)
    pieces = F.kl_div(logits.log_softmax(-1), smooth, reduction="none").sum(-1)
    expected = pieces[targets != IGNORED].sum()
    found = label_smoothed_kl(logits, targets, 0.1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(label_smoothed_kl(logits, targets, 0.0).double(), 5 * plain)


def test_ctc_is_the_sum_over_all_alignments():
    from itertools import groupby, product

    log_probs = torch.randn(1, 5, 3).log_softmax(-1)
    targets = torch.tensor([[1, 1, 2]])  # the last ends the sentence
    paths = [
        sum(float(log_probs[0, t, token]) for t, token in enumerate(path))
        for path in product(range(3), repeat=4)
        if [token for token, _ in groupby(path) if token] == [1, 1]
    ]
    mask = torch.tensor([[False] * 4 + [True]])
    found = ctc_loss(log_probs, mask, targets)
    assert float(found) == pytest.approx(-math.log(sum(map(math.exp, paths))), rel=1e-5)
    impossible = ctc_loss(log_probs, torch.tensor([[False] * 2 + [True] * 3]), targets)
    assert float(impossible) == 0


def test_the_loss_is_a_sum_over_utterances():
    log_probs = torch.randn(2, 8, 7).log_softmax(-1)
    logits = torch.randn(2, 4, 7)
    mask = torch.tensor([[False] * 8, [False] * 5 + [True] * 3])
    targets = torch.tensor([[2, 3, 4, 6], [5, 6, IGNORED, IGNORED]])
    both, terms = ctc_attention_loss(log_probs, logits, mask, targets)
    parts = [
        ctc_attention_loss(
            log_probs[i : i + 1, :t], logits[i : i + 1, :n], None, targets[i : i + 1, :n]
        )
        for i, t, n in ((0, 8, 4), (1, 5, 2))
    ]
    torch.testing.assert_close(both, parts[0][0] + parts[1][0])
    expected = 0.1 * terms["loss_ctc"] + 0.9 * terms["loss_attention"]
    torch.testing.assert_close(both, expected)
    right = [(logits[i, :n].argmax(-1) == targets[i, :n]).sum() for i, n in ((0, 4), (1, 2))]
    assert terms["accuracy"] == sum(right)


# ---- Auto-AVSR's checkpoints


def peer_state(dim=16, ffn=24, heads=2, layers=2, kernel=7, channels=(8, 16, 32, 64)) -> dict:
    """The tensors of a lip reader by Auto-AVSR's names, from its definition."""
    shapes: dict[str, tuple] = {"frontend.frontend3D.0.weight": (channels[0], 1, 5, 7, 7)}

    def norm(name: str, width: int, statistics: bool = False) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})
        if statistics:
            shapes.update({f"{name}.running_mean": (width,), f"{name}.running_var": (width,)})
            shapes[f"{name}.num_batches_tracked"] = ()

    def linear(name: str, out: int, width: int, kernel: tuple = ()) -> None:
        shapes.update({f"{name}.weight": (out, width, *kernel), f"{name}.bias": (out,)})

    def attention(name: str) -> None:
        for part in ("q", "k", "v", "out"):
            linear(f"{name}.linear_{part}", dim, dim)

    def feed_forward(name: str) -> None:
        linear(f"{name}.w_1", ffn, dim)
        linear(f"{name}.w_2", dim, ffn)

    norm("frontend.frontend3D.1", channels[0], True)
    before = channels[0]
    for i, width in enumerate(channels, start=1):
        for j in range(2):
            block = f"frontend.trunk.layer{i}.{j}"
            shapes[f"{block}.conv1.weight"] = (width, before if j == 0 else width, 3, 3)
            shapes[f"{block}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{block}.bn1", width, True)
            norm(f"{block}.bn2", width, True)
            if j == 0 and i > 1:
                shapes[f"{block}.downsample.0.weight"] = (width, before, 1, 1)
                norm(f"{block}.downsample.1", width, True)
        before = width
    linear("proj_encoder", dim, channels[-1])
    for i in range(layers):
        block = f"encoder.encoders.{i}"
        attention(f"{block}.self_attn")
        shapes[f"{block}.self_attn.linear_pos.weight"] = (dim, dim)
        for bias in "uv":
            shapes[f"{block}.self_attn.pos_bias_{bias}"] = (heads, dim // heads)
        feed_forward(f"{block}.feed_forward")
        feed_forward(f"{block}.feed_forward_macaron")
        linear(f"{block}.conv_module.pointwise_cov1", 2 * dim, dim, (1,))
        linear(f"{block}.conv_module.depthwise_conv", dim, 1, (kernel,))
        norm(f"{block}.conv_module.norm", dim, True)
        linear(f"{block}.conv_module.pointwise_cov2", dim, dim, (1,))
        for part in ("ff", "mha", "ff_macaron", "conv", "final"):
            norm(f"{block}.norm_{part}", dim)
    norm("encoder.after_norm", dim)
    shapes["decoder.embed.0.weight"] = (VOCABULARY, dim)
    for i in range(layers):
        block = f"decoder.decoders.{i}"
        attention(f"{block}.self_attn")
        attention(f"{block}.src_attn")
        feed_forward(f"{block}.feed_forward")
        for part in (1, 2, 3):
            norm(f"{block}.norm{part}", dim)
    norm("decoder.after_norm", dim)
    linear("decoder.output_layer", VOCABULARY, dim)
    linear("ctc.ctc_lo", VOCABULARY, dim)
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(5)
            continue
        state[name] = torch.randn(shape, generator=generator) / math.sqrt(
            max(1, math.prod(shape[1:]))
        )
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
    return state


class Peer:
    """Auto-AVSR's functions on its tensors, from its definition, for one clip in eval mode."""

    def __init__(self, state: dict[str, Tensor], heads: int = 2, layers: int = 2) -> None:
        self.state, self.heads, self.layers = state, heads, layers

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-12)

    def _batch_norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            self.state[f"{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-5)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def _feed_forward(self, name: str, x: Tensor) -> Tensor:
        return self._linear(f"{name}.w_2", self._linear(f"{name}.w_1", x).relu())

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(len(x), self.heads, -1).transpose(0, 1)

    def _attend(self, name: str, scores: Tensor, values: Tensor) -> Tensor:
        merged = (scores.softmax(-1) @ self._heads(values)).transpose(0, 1).flatten(1)
        return self._linear(f"{name}.linear_out", merged)

    def frontend(self, video: Tensor) -> Tensor:
        x = F.conv3d(
            video[None], self.state["frontend.frontend3D.0.weight"], None, (1, 2, 2), (2, 3, 3)
        )
        x = F.silu(self._batch_norm("frontend.frontend3D.1", x))
        x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))[0].transpose(0, 1)
        for i in range(1, 5):
            for j in range(2):
                block = f"frontend.trunk.layer{i}.{j}"
                stride = 2 if j == 0 and i > 1 else 1
                y = F.conv2d(x, self.state[f"{block}.conv1.weight"], None, stride, 1)
                y = F.silu(self._batch_norm(f"{block}.bn1", y))
                y = F.conv2d(y, self.state[f"{block}.conv2.weight"], None, 1, 1)
                y = self._batch_norm(f"{block}.bn2", y)
                if f"{block}.downsample.0.weight" in self.state:
                    x = F.conv2d(x, self.state[f"{block}.downsample.0.weight"], None, stride)
                    x = self._batch_norm(f"{block}.downsample.1", x)
                x = F.silu(y + x)
        return x.mean((2, 3))

    def encode(self, video: Tensor) -> Tensor:
        x = self._linear("proj_encoder", self.frontend(video))
        time, dim = x.shape
        x = x * math.sqrt(dim)
        distance = torch.arange(time - 1, -time, -1.0)[:, None]
        rates = torch.exp(torch.arange(0, dim, 2) * -(math.log(10000.0) / dim))
        table = torch.zeros(2 * time - 1, dim)
        table[:, 0::2], table[:, 1::2] = (distance * rates).sin(), (distance * rates).cos()
        for i in range(self.layers):
            x = self._block(f"encoder.encoders.{i}", x, table)
        return self._norm("encoder.after_norm", x)

    def _block(self, name: str, x: Tensor, table: Tensor) -> Tensor:
        time = len(x)
        macaron = self._norm(f"{name}.norm_ff_macaron", x)
        x = x + 0.5 * self._feed_forward(f"{name}.feed_forward_macaron", macaron)
        y, attention = self._norm(f"{name}.norm_mha", x), f"{name}.self_attn"
        q, k, p = (
            self._heads(self._linear(f"{attention}.linear_{part}", z))
            for part, z in (("q", y), ("k", y), ("pos", table))
        )
        u, v = (self.state[f"{attention}.pos_bias_{bias}"][:, None] for bias in "uv")
        by_distance = (q + v) @ p.transpose(1, 2)
        columns = time - 1 - torch.arange(time)[:, None] + torch.arange(time)
        shifted = by_distance.gather(2, columns.expand(self.heads, -1, -1))
        scores = ((q + u) @ k.transpose(1, 2) + shifted) / math.sqrt(q.shape[-1])
        x = x + self._attend(attention, scores, self._linear(f"{attention}.linear_v", y))
        module = f"{name}.conv_module"
        y = self._norm(f"{name}.norm_conv", x).T[None]
        s = self.state
        y = F.conv1d(y, s[f"{module}.pointwise_cov1.weight"], s[f"{module}.pointwise_cov1.bias"])
        weight = s[f"{module}.depthwise_conv.weight"]
        y = F.conv1d(
            F.glu(y, 1), weight, s[f"{module}.depthwise_conv.bias"],
            padding=weight.shape[2] // 2, groups=len(weight),
        )  # fmt: skip
        y = F.silu(self._batch_norm(f"{module}.norm", y))
        y = F.conv1d(y, s[f"{module}.pointwise_cov2.weight"], s[f"{module}.pointwise_cov2.bias"])
        x = x + y[0].T
        x = x + 0.5 * self._feed_forward(f"{name}.feed_forward", self._norm(f"{name}.norm_ff", x))
        return self._norm(f"{name}.norm_final", x)

    def decode(self, tokens: Tensor, memory: Tensor) -> Tensor:
        length, dim = len(tokens), memory.shape[1]
        x = self.state["decoder.embed.0.weight"][tokens] * math.sqrt(dim)
        angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)
        x = x + torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
        for i in range(self.layers):
            name = f"decoder.decoders.{i}"
            for part, norm in (("self_attn", "norm1"), ("src_attn", "norm2")):
                y = self._norm(f"{name}.{norm}", x)
                z = y if part == "self_attn" else memory
                q, k = (
                    self._heads(self._linear(f"{name}.{part}.linear_{n}", w))
                    for n, w in (("q", y), ("k", z))
                )
                scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
                if part == "self_attn":
                    scores += torch.full((length, length), -math.inf).triu(1)
                values = self._linear(f"{name}.{part}.linear_v", z)
                x = x + self._attend(f"{name}.{part}", scores, values)
            y = self._norm(f"{name}.norm3", x)
            x = x + self._feed_forward(f"{name}.feed_forward", y)
        return self._linear("decoder.output_layer", self._norm("decoder.after_norm", x))


def layout_of_2023(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """There the frontend and its projection are part of the encoder."""
    return {
        name.replace("frontend.", "encoder.frontend.", 1).replace("proj_encoder", "encoder.embed.0")
        if name.startswith(("frontend.", "proj_encoder"))
        else name: tensor
        for name, tensor in state.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["2025", "2023", "lightning"])
@torch.no_grad()
def test_auto_avsr_loads_and_computes_the_same(tmp_path, layout):
    state = peer_state()
    stored = {
        "2025": state,
        "2023": layout_of_2023(state),
        "lightning": {"state_dict": {f"model.{n}": t for n, t in state.items()}, "epoch": 3},
    }[layout]
    torch.save(stored, tmp_path / "peer.pth")
    model = load_auto_avsr(tmp_path / "peer.pth")
    assert not model.training and len(model.state_dict()) == len(state)
    assert model.encoder.config.kernel == 7 and model.encoder.config.width == 0.125
    assert model.eos == VOCABULARY - 1

    peer, video = Peer(state), torch.randn(1, 1, 9, 88, 88)
    tokens = torch.tensor([[12, 4, 1, 7, 7]])
    encoded, mask = model.encode(video, None)
    expected = peer.encode(video[0])
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(encoded[0], expected, **close)
    ctc = F.log_softmax(peer._linear("ctc.ctc_lo", expected), -1)
    torch.testing.assert_close(model.ctc_log_probs(encoded)[0], ctc, **close)
    logits = model.decode_logits(tokens, encoded, mask)
    torch.testing.assert_close(logits[0], peer.decode(tokens[0], expected), **close)


def peer_names(name: str) -> str:
    """A tensor of an encoder that reads audio, or of both, under Auto-AVSR's name of 2023."""
    return name.replace("encoder.", "aux_encoder.", 1) if name.startswith("encoder.") else name


def test_audio_and_audiovisual_checkpoints_load(tmp_path):
    video = layout_of_2023(peer_state())
    trunk = {n: t for n, t in small("audio").state_dict().items() if ".frontend." in n}
    audio = {n.replace("encoder.audio", "encoder"): t for n, t in trunk.items()}
    audio |= {n: t for n, t in video.items() if ".frontend." not in n}
    torch.save(audio, tmp_path / "audio.pth")
    model = load_auto_avsr(tmp_path / "audio.pth")
    assert model.encoder.config.modality == "audio"
    assert torch.equal(
        model.encoder.audio.frontend.trunk.conv1.weight,
        audio["encoder.frontend.trunk.conv1.weight"],
    )

    both = video | {peer_names(n): t for n, t in audio.items() if n.startswith("encoder.")}
    fusion = small("both").encoder.fusion.state_dict()
    both |= {f"fusion.{name}": tensor for name, tensor in fusion.items()}
    torch.save(both, tmp_path / "both.pth")
    model = load_auto_avsr(tmp_path / "both.pth")
    assert model.encoder.config.modality == "both" and model.encoder.config.fusion == 20
    assert len(model.state_dict()) == len(both)
    assert torch.equal(model.encoder.audio.layer_norm.weight, both["aux_encoder.after_norm.weight"])


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    state = peer_state()
    path = tmp_path / "peer.pth"
    torch.save({n: t for n, t in state.items() if n != "encoder.encoders.1.norm_mha.weight"}, path)
    with pytest.raises(InputError, match=r"missing tensors .*layers.1.self_attn_layer_norm.weight"):
        load_auto_avsr(path)
    torch.save(state | {"lm.weight": torch.ones(2)}, path)
    with pytest.raises(InputError, match=r"unknown tensors \['lm.weight'\]"):
        load_auto_avsr(path)
    torch.save({n: t for n, t in state.items() if not n.startswith("decoder.embed")}, path)
    with pytest.raises(InputError, match="not a complete checkpoint of Auto-AVSR"):
        load_auto_avsr(path)
    save_model(tmp_path / "m.safetensors", small())
    with pytest.raises(
        InputError, match="holds a CTC/attention recognizer: load it with load_auto"
    ):
        load_avhubert_asr(tmp_path / "m.safetensors")


@pytest.mark.slow
def test_how_padding_is_seen_is_kept_and_can_be_switched(tmp_path):
    save_model(tmp_path / "m.safetensors", small().set_mask_padding(False))
    for given, expected in ((None, False), (True, True), (False, False)):
        model = load_auto_avsr(tmp_path / "m.safetensors", mask_padding=given)
        blocks = [block.mask_padding for block in model.encoder.video.layers]
        assert {model.encoder.config.mask_padding, *blocks} == {expected}
    torch.save(peer_state(), tmp_path / "peer.pth")
    assert load_auto_avsr(tmp_path / "peer.pth").encoder.config.mask_padding


@pytest.mark.slow
def test_a_fresh_model_starts_as_auto_avsrs():
    """Dropout rates and initial weights are those of its code."""
    torch.manual_seed(0)
    model = build_vsr("tiny")
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    attention = {m.dropout for m in model.modules() if isinstance(m, MultiheadAttention)}
    assert (rates, attention, model.ctc_dropout.p) == ({0.1}, {0.1}, 0.1)
    assert float(model.decoder.embed_tokens.weight.std()) == pytest.approx(1, rel=0.01)
    for block in model.encoder.video.layers:
        first, second = block.ffn1.state_dict(), block.ffn2.state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(*(model.encoder.video.layers[i].ffn1.fc1.weight for i in (0, 1)))
    norms = {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)}
    assert norms == {1e-12}

    # Dropout also on the table of positions, and before the CTC layer.
    model.train()
    conformer = model.encoder.video
    seen: list[Tensor] = []
    conformer.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    features = torch.randn(1, 5, 64)
    conformer(features, None)
    assert 0 < float((seen[0] == 0).float().mean()) < 0.3
    assert not torch.equal(model.ctc_log_probs(features), model.ctc_log_probs(features))


@pytest.mark.slow
def test_convert_keeps_every_weight(tmp_path):
    torch.save(peer_state(), tmp_path / "peer.pth")
    for source, target in (("peer.pth", "m.safetensors"), ("m.safetensors", "m.pt")):
        assert main(["model", "convert", str(tmp_path / source), str(tmp_path / target)]) == 0
    first, last = (load_model(tmp_path / name) for name in ("peer.pth", "m.pt"))
    assert describe(first) == describe(last)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, last.state_dict()[name])


@pytest.mark.parametrize("kind", ["LRW", "2025", "2023", "ours.pt", "ours.safetensors"])
def test_the_frontend_starts_from_a_word_recognizer_or_auto_avsr(tmp_path, kind):
    state = peer_state()
    frontend = {
        n.removeprefix("frontend."): t for n, t in state.items() if n.startswith("frontend.")
    }
    stored = {
        "LRW": {"model_state_dict": frontend | {"tcn.weight": torch.ones(2)}, "epoch_idx": 1},
        "2025": state,
        "2023": layout_of_2023(state),
    }
    start = tmp_path / ("start.pth" if kind in stored else kind)
    torch.save(stored.get(kind, state), tmp_path / "start.pth")
    if kind not in stored:
        assert main(["model", "convert", str(tmp_path / "start.pth"), str(start)]) == 0
    model = small()
    others = {n: t.clone() for n, t in model.state_dict().items() if ".frontend." not in n}
    load_frontend(model, start)
    found = model.encoder.video.frontend.state_dict()
    assert found.keys() == frontend.keys()
    assert all(torch.equal(found[name], frontend[name]) for name in frontend)
    assert all(torch.equal(model.state_dict()[name], others[name]) for name in others)


def test_a_frontend_that_does_not_fit_is_refused(tmp_path):
    torch.save({"model_state_dict": {"trunk.conv.weight": torch.ones(2)}}, tmp_path / "start.pth")
    with pytest.raises(InputError, match=r"start.pth: not a ResNet-18 with SiLU of"):
        load_frontend(small(), tmp_path / "start.pth")
    with pytest.raises(InputError, match="the model has no visual frontend"):
        load_frontend(small("audio"), tmp_path / "start.pth")


def test_masks_of_a_pruned_lip_reader_have_its_own_names(tmp_path):
    model = small()
    masks = global_magnitude_mask(model, 0.3)
    save_fairseq(tmp_path / "sparse.pt", model, masks=masks)
    stored = torch.load(tmp_path / "sparse.pt", weights_only=True)
    names = stored["extra_state"]["SparseVSRTask"]["masks"]["shapes"]
    assert all(name.startswith("recognizer.") for name in names)
    assert same(read_masks(tmp_path / "sparse.pt"), masks)


def test_invalid_configurations_are_refused():
    for changes, said in (
        ({"layers": 0}, "layers 0: expected at least 1"),
        ({"dim": 64.0}, "dim 64.0: expected a whole number"),
        ({"width": 0}, "width 0: expected more than 0"),
        ({"dropout": 2}, "dropout 2: expected a probability"),
        ({"mask_padding": 1}, "mask_padding 1: expected true or false"),
        ({"kernel": 30}, "kernel 30: expected an odd number"),
        ({"heads": 3}, "dim 64: expected a multiple of heads"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            replace(VSR["tiny"].encoder, **changes)


def test_joint_decoding_is_not_for_a_model_in_training():
    video = inputs("video", 1, 5)["video"]
    with pytest.raises(InputError, match=r"in training mode.* call model\.eval"):
        joint_beam_search(small().train(), None, video, None, JointConfig(2))


# ---- its subwords


def upper_case_model(folder) -> tuple:
    """A sentencepiece model of upper-case text, and units as Auto-AVSR lists them."""
    text = ["THE CAT SAT ON THE MAT", "A DOG IN THE FOG", "IT'S THE HAT OF A CAT"] * 3
    model = folder / "unigram.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=str(model.with_suffix("")), vocab_size=40,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = sorted(processor.id_to_piece(i) for i in range(3, processor.get_piece_size()))
    units = folder / "units.txt"
    listed = ["<unk>", *pieces, "1984"]
    units.write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(listed, start=1)))
    return units, model, listed


def test_subwords_of_auto_avsr_become_a_dictionary(tmp_path):
    units, model, listed = upper_case_model(tmp_path)
    out = tmp_path / "out"
    assert main(["data", "subwords", str(units), str(out), "--sentencepiece", str(model)]) == 0
    vocabulary = Vocabulary(out / "dict.wrd.txt", ctc=True)
    assert vocabulary.symbols == ["<blank>", *listed, "<eos>"]
    subwords = Subwords(next(out.glob("spm_*.model")))
    pieces = subwords.encode("the cat's hat")
    assert set("".join(pieces)) <= {*"THECATS'", "\u2581"}
    ids = [vocabulary.symbols.index(piece) for piece in pieces]
    assert vocabulary.text([*ids, vocabulary.eos, 3]) == "THE CAT'S HAT"


def test_units_that_are_none_are_refused(tmp_path, capsys):
    units, model, _ = upper_case_model(tmp_path)
    command = ["subwords", str(units), str(tmp_path / "out")]
    assert main(command) == 1 and "--sentencepiece MODEL" in capsys.readouterr().err
    assert main([*command, "--sentencepiece", str(tmp_path / "none.model")]) == 1
    assert "none.model not found" in capsys.readouterr().err
    assert main([*command, "--sentencepiece", str(units)]) == 1
    assert "units.txt: not a sentencepiece model" in capsys.readouterr().err
    units.write_text("<unk> 1\nA 3\n")
    assert main([*command, "--sentencepiece", str(model)]) == 1
    assert "expected `unit id` in each line with ids 1, 2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("codebook", [False, True])
def test_the_frontend_starts_from_a_pruned_or_8_bit_lip_reader(tmp_path, codebook):
    source = small()
    save_model(tmp_path / "dense.safetensors", source)
    prune(tmp_path / "dense.safetensors", tmp_path / "pruned.safetensors", 0.4)
    start = tmp_path / "start.safetensors"
    export_sparse(tmp_path / "pruned.safetensors", start, codebook)
    model = small()
    load_frontend(model, start)
    given = load_model(start).encoder.video.frontend.state_dict()
    found = model.encoder.video.frontend.state_dict()
    assert all(torch.equal(found[name], given[name]) for name in given)
    assert not given["frontend3D.0.weight"].all()
