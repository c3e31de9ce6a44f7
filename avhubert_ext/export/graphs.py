"""The graphs of a recognizer, each a module that maps tensors of one clip to tensors.

There is a graph for the frontend of each stream (so that a missing stream costs nothing), one for
the encoder, and one for a step of the decoder. A clip has T frames and no padding. Its memory is
what the decoder attends to: keys and values of the cross-attention in all N layers,
[N, 2, 1, H, T, d] for H heads of width d.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avhubert_ext.data.audio import FEATURES, SAMPLES_PER_FRAME
from avhubert_ext.data.video import CROP
from avhubert_ext.models.conformer import ConformerEncoder, CTCAttentionRecognizer
from avhubert_ext.models.decoder import AVRecognizer, TransformerDecoder
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.frontends import WaveformResNet18

EXAMPLE_FRAMES, EXAMPLE_ROWS, EXAMPLE_PAST, EXAMPLE_NEW = 25, 3, 7, 2


@dataclass(frozen=True)
class Graph:
    """A module to export.

    Attributes:
        module: The module.
        inputs: Name -> example.
        axes: Name -> axes of variable length: number -> name. Equal names are equal lengths.
        outputs: Names of what it returns.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]


def recognizer_graphs(model: AVRecognizer | CTCAttentionRecognizer) -> dict[str, Graph]:
    """Return the graphs of a recognizer's fused form by name; the recognizer is not changed."""
    if isinstance(model, CTCAttentionRecognizer):
        return ctc_attention_graphs(model)
    return avhubert_graphs(model)


def avhubert_graphs(model: AVRecognizer) -> dict[str, Graph]:
    """Return the graphs of a model without CTC.

    `audio` [1, T, 104] and `video` [1, 1, T, 88, 88] each give `projected` [1, T, D]; both
    projections (zeros for a missing stream) give `memory`.
    """
    encoder, dim = model.encoder.fuse(), model.encoder.config.dim
    frontends = {
        "audio": encoder.feature_extractor_audio.proj,
        "video": VideoTrunk(encoder.feature_extractor_video),
    }
    encoder.feature_extractor_audio = encoder.feature_extractor_video = None
    joined = JoinedEncoder(encoder, model.bridge, MemoryProjection(model.decoder))
    widths = dict.fromkeys(frontends, dim)
    return {
        **_frontend_graphs(frontends, FEATURES),
        "encoder": _encoder_graph(joined, widths, ("memory",)),
        "decoder": decoder_graph(model.decoder),
    }


def ctc_attention_graphs(model: CTCAttentionRecognizer) -> dict[str, Graph]:
    """Return the graphs of a model with CTC.

    `video` [1, 1, T, 88, 88] and waveforms `audio` [1, T, 640], whichever the model takes, each
    give `projected` of the frontend's width; the projections give `memory` and the log
    probabilities `ctc` [1, T, V].
    """
    encoder = model.encoder.fuse()
    frontends, widths = {}, {}
    if encoder.audio is not None:
        frontends["audio"] = WaveformTrunk(encoder.audio.frontend)
        widths["audio"] = encoder.audio.frontend.out_channels
        encoder.audio.frontend = None
    if encoder.video is not None:
        frontends["video"] = VideoTrunk(encoder.video.frontend)
        widths["video"] = encoder.video.frontend.out_channels
        encoder.video.frontend = None
    whole = CTCEncoder(encoder, model.ctc, MemoryProjection(model.decoder))
    return {
        **_frontend_graphs(frontends, SAMPLES_PER_FRAME),
        "encoder": _encoder_graph(whole, widths, ("memory", "ctc")),
        "decoder": decoder_graph(model.decoder),
    }


def _frontend_graphs(frontends: dict[str, nn.Module], audio_width: int) -> dict[str, Graph]:
    examples = {
        "audio": (torch.zeros(1, EXAMPLE_FRAMES, audio_width), 1),
        "video": (torch.zeros(1, 1, EXAMPLE_FRAMES, CROP, CROP), 2),
    }
    graphs = {}
    for name, module in frontends.items():
        example, axis = examples[name]
        inputs, axes = {"input": example}, {"input": {axis: "frames"}}
        graphs[name] = Graph(module, inputs, axes, ("projected",))
    return graphs


def _encoder_graph(module: nn.Module, widths: dict[str, int], outputs: tuple[str, ...]) -> Graph:
    # A separate tensor each, or the exporter merges them into one input.
    inputs = {name: torch.zeros(1, EXAMPLE_FRAMES, width) for name, width in widths.items()}
    return Graph(module, inputs, {name: {1: "frames"} for name in inputs}, outputs)


def decoder_graph(decoder: TransformerDecoder) -> Graph:
    """Return the graph for a step of the search, or for a whole hypothesis: see `DecoderStep`."""
    c = decoder.config
    width = c.dim // c.heads
    return Graph(
        DecoderStep(decoder),
        {
            "tokens": torch.zeros(EXAMPLE_ROWS, EXAMPLE_NEW, dtype=torch.int64),
            "past": torch.zeros(c.layers, 2, EXAMPLE_ROWS, c.heads, EXAMPLE_PAST, width),
            "memory": torch.zeros(c.layers, 2, 1, c.heads, EXAMPLE_FRAMES, width),
        },
        {
            "tokens": {0: "rows", 1: "new"},
            "past": {2: "rows", 4: "past"},
            "memory": {4: "frames"},
        },
        ("log_probs", "present", "attention"),
    )


class MemoryProjection(nn.Module):
    """Keys and values of all layers' cross-attention in one product: [1, T, D] -> memory."""

    def __init__(self, decoder: TransformerDecoder) -> None:
        super().__init__()
        attentions = [layer.encoder_attn for layer in decoder.layers]
        parts = [part for a in attentions for part in (a.k_proj, a.v_proj)]
        self.shape = (len(attentions), 2, attentions[0].heads, -1)
        self.linear = nn.Linear(1, 1)
        self.linear.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        self.linear.bias = nn.Parameter(torch.cat([part.bias for part in parts]))

    def forward(self, encoded: Tensor) -> Tensor:
        return self.linear(encoded).unflatten(-1, self.shape).permute(2, 3, 0, 4, 1, 5)


class JoinedEncoder(nn.Module):
    """AV-HuBERT's encoder after the streams' projections, the bridge, and the memory."""

    def __init__(self, encoder: AVHubertEncoder, bridge: nn.Module, memory: nn.Module) -> None:
        super().__init__()
        self.encoder, self.bridge, self.memory = encoder, bridge, memory

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        """[1, T, D] each -> memory."""
        blocks = self.encoder.encoder
        states = blocks(self.encoder.fuse_streams(audio, video), None)
        return self.memory(self.bridge(blocks.layer_norm(states[-1])))


class VideoTrunk(nn.Module):
    """[1, 1, T, 88, 88] -> [1, T, C]."""

    def __init__(self, frontend: nn.Module) -> None:
        super().__init__()
        self.frontend = frontend

    def forward(self, input: Tensor) -> Tensor:  # nn.Linear uses this name too
        return self.frontend(input)


class WaveformTrunk(nn.Module):
    """[1, T, 640] -> [1, T, C]."""

    def __init__(self, frontend: WaveformResNet18) -> None:
        super().__init__()
        self.frontend = frontend

    def forward(self, input: Tensor) -> Tensor:
        return self.frontend(input.flatten(1)[:, None])


class CTCEncoder(nn.Module):
    """The encoder of a CTC/attention model after the frontends, the CTC layer, and the memory."""

    def __init__(self, encoder: ConformerEncoder, ctc: nn.Module, memory: nn.Module) -> None:
        super().__init__()
        self.encoder, self.ctc, self.memory = encoder, ctc, memory

    def forward(
        self, audio: Tensor | None = None, video: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[1, T, C] each -> memory, and the CTC layer's log probabilities [1, T, V]."""
        encoded = self.encoder.encode_streams(video, audio, None)
        return self.memory(encoded), self.ctc(encoded).log_softmax(dim=-1)


class DecoderStep(nn.Module):
    """The decoder over the newest L tokens of K hypotheses of one clip."""

    def __init__(self, decoder: TransformerDecoder) -> None:
        super().__init__()
        self.decoder = copy.deepcopy(decoder)
        for layer in self.decoder.layers:  # done by `MemoryProjection`
            layer.encoder_attn.k_proj = layer.encoder_attn.v_proj = None

    def forward(self, tokens: Tensor, past: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        """Run the decoder.

        Args:
            tokens: The newest tokens, int64 [K, L].
            past: Self-attention keys and values of the P earlier tokens, [N, 2, K, H, P, d].
            memory: See the module.

        Returns:
            Log probabilities of the token after each, [K, L, V]; keys and values of the new
            tokens, [N, 2, K, H, L, d]; attention of each token to each frame, [K, L, T], the mean
            over layers and heads.
        """
        rows, length = tokens.shape
        before = past.shape[4]
        x = self.decoder.embed(tokens, before)
        places = torch.arange(before + length)
        unseen = places > places[before:, None]
        present, looks = [], []
        for i, layer in enumerate(self.decoder.layers):
            y = layer.self_attn_layer_norm(x)
            keys, values = layer.self_attn.project_memory(y)
            present.append(torch.stack([keys, values]))
            keys = torch.cat([past[i, 0], keys], dim=2)
            values = torch.cat([past[i, 1], values], dim=2)
            weights = layer.self_attn.weights(y, keys, unseen)
            x = x + layer.self_attn.mix(weights, values)
            # All hypotheses attend to one memory: as queries of one row they share its products.
            y = layer.encoder_attn_layer_norm(x).flatten(0, 1)[None]
            weights = layer.encoder_attn.weights(y, memory[i, 0])
            looks.append(weights.mean(dim=1)[0])
            x = x + layer.encoder_attn.mix(weights, memory[i, 1]).view_as(x)
            x = x + layer.fc2(layer.fc1(layer.final_layer_norm(x)).relu())
        log_probs = self.decoder.predict(self.decoder.layer_norm(x)).log_softmax(dim=-1)
        attention = torch.stack(looks).mean(dim=0).view(rows, length, -1)
        return log_probs, torch.stack(present), attention
