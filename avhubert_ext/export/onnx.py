"""Export of graphs to ONNX."""

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

LONGEST = 10_000  # upper bound of every axis, which the exporter needs


class _LastState(nn.Module):
    """An encoder of audio and video that returns the last hidden state only."""

    def __init__(self, encoder: AVHubertEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return self.encoder(audio, video).last_hidden_state


def export_encoder(encoder: AVHubertEncoder | ConformerEncoder, path: Path) -> None:
    """Export the fused encoder alone, in float32, for any B and T, without padding.

    The graph maps `audio` [B, 104, T] and `video` [B, 1, T, 88, 88] to `last_hidden_state`
    [B, T, D]; a lip reader of paper B takes `video` alone.

    Args:
        encoder: The encoder; it is not changed.
        path: File to write.

    Raises:
        InputError: If a package of the extra `export` is missing, or the encoder takes waveforms.
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
        raise InputError(
            f"encoders of {encoder.config.modality} are not exported alone; export the whole "
            "recognizer"
        )
    axes = {name: {0: "batch", 2: "frames"} for name in inputs}
    write_onnx(Graph(fused, inputs, axes, ("last_hidden_state",)), path)


def write_onnx(graph: Graph, path: Path) -> None:
    """Write a graph in float32.

    Raises:
        InputError: If a package is missing.
    """
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
            node.metadata_props.clear()  # megabytes of stack traces
        program.save(temporary, external_data=False)


def dynamic_shapes(graph: Graph) -> dict[str, dict[int, torch.export.Dim]]:
    """Return the axes of a graph in the exporter's form.

    The exporter treats lengths 0 and 1 specially, hence the minimum of 2; the graphs are right for
    these lengths too.
    """
    names = {name for axes in graph.axes.values() for name in axes.values()}
    sizes = {name: torch.export.Dim(name, min=2, max=LONGEST) for name in names}
    return {
        name: {axis: sizes[size] for axis, size in axes.items()}
        for name, axes in graph.axes.items()
    }


@contextlib.contextmanager
def quiet(name: str | None = None) -> Iterator[None]:
    """Silence the exporters' warnings, which do not matter here.

    name: of the exporter's logger; None for the root logger.
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
