"""Graphs as ONNX."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from avhubert_ext.data.audio import FEATURES
from avhubert_ext.data.files import whole_file
from avhubert_ext.data.video import CROP
from avhubert_ext.errors import InputError
from avhubert_ext.export.graphs import EXAMPLE_FRAMES, Graph
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.models.encoder import AVHubertEncoder

LONGEST = 10_000  # of any axis; the exporter wants a bound


class _LastState(nn.Module):
    """Audio and video of one length in, the last hidden state out."""

    def __init__(self, encoder: AVHubertEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return self.encoder(audio, video).last_hidden_state


def export_encoder(encoder: AVHubertEncoder | ConformerEncoder, path: Path) -> None:
    """Write the fused encoder alone, float32: `audio` [B, 104, T] and `video` [B, 1, T, 88, 88]
    -> `last_hidden_state` [B, T, D], for any B and T, without padding.

    A lip reader of paper B takes `video` alone. Raises InputError if the packages of the extra
    `export` are missing, or for an encoder of waveforms.
    """
    fused = encoder.fuse().float()
    inputs = {
        "audio": torch.zeros(2, FEATURES, EXAMPLE_FRAMES),
        "video": torch.zeros(2, 1, EXAMPLE_FRAMES, CROP, CROP),
    }
    if isinstance(encoder, AVHubertEncoder):
        fused = _LastState(fused)
    elif encoder.config.modality == "video":
        del inputs["audio"]
    else:
        raise InputError(f"encoders of {encoder.config.modality} are not exported, of video alone")
    axes = {name: {0: "batch", 2: "frames"} for name in inputs}
    write_onnx(Graph(fused, inputs, axes, ("last_hidden_state",)), path)


def write_onnx(graph: Graph, path: Path) -> None:
    """Write a graph, float32. Raises InputError if a package is missing."""
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError("onnx is missing: pip install 'avhubert-ext[export]'") from None
    with quiet("torch.onnx"), whole_file(path) as temporary:
        program = torch.onnx.export(
            graph.module.eval(),
            kwargs=dict(graph.inputs),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=dynamic_shapes(graph),
            dynamo=True,
            verbose=False,
        )
        for node in program.model.graph:
            node.metadata_props.clear()  # the trace of every operation, megabytes of it
        program.save(temporary, external_data=False)


def dynamic_shapes(graph: Graph) -> dict[str, dict[int, torch.export.Dim]]:
    """The axes of a graph as the exporter wants them.

    A length of 0 or 1 is a case of its own to it, but what it makes is right for them too.
    """
    names = {name for axes in graph.axes.values() for name in axes.values()}
    sizes = {name: torch.export.Dim(name, min=2, max=LONGEST) for name in names}
    return {
        name: {axis: sizes[size] for axis, size in axes.items()}
        for name, axes in graph.axes.items()
    }


@contextlib.contextmanager
def quiet(name: str | None = None) -> Iterator[None]:
    """Without warnings of exporters, about what has been done or does not matter here.

    name: of the logger that they use, None for the root of all.
    """
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
