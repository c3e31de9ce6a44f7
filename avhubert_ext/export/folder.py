"""A model file to a folder that `avhubert_ext.runtime` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from avhubert_ext.checkpoints.files import (
    Recognizer,
    describe,
    load_recognizer,
    read_masks,
    read_origin,
    strip_prefix,
)
from avhubert_ext.checkpoints.subwords import find_subwords
from avhubert_ext.compression.pruning import Masks, kept_parameters
from avhubert_ext.data.files import whole_folder
from avhubert_ext.decoding.beam import BeamConfig, JointConfig
from avhubert_ext.errors import InputError
from avhubert_ext.export.calibration import calibration_clips
from avhubert_ext.export.graphs import Graph, recognizer_graphs
from avhubert_ext.export.onnx import write_onnx
from avhubert_ext.export.onnx_int8 import quantize_frontend, quantize_linear
from avhubert_ext.export.openvino import write_openvino
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.progress import Progress
from avhubert_ext.runtime.backends import BACKENDS
from avhubert_ext.runtime.folder import ExportedModel, digest, write_model

FRONTENDS = ("audio", "video")  # the graphs before the encoder
Clips = Mapping[str, list[np.ndarray]]
NONE: Clips = MappingProxyType({})


@dataclass(frozen=True)
class ExportConfig:
    """What a recognizer is written as.

    format: onnx or openvino. int8: the linear layers in 8 bits. calibrate: manifest folder
    from whose `split` clips are taken, for frontends in 8 bits too (onnx).
    Raises InputError where values do not go together.
    """

    format: str = "onnx"
    int8: bool = False
    calibrate: Path | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        if self.format not in BACKENDS:
            raise InputError(f"format '{self.format}': expected one of {', '.join(BACKENDS)}")
        if self.calibrate is not None and not (self.int8 and self.format == "onnx"):
            raise InputError("calibration is for 8 bits in the format onnx: leave it out")


def export(model: Path, folder: Path, config: ExportConfig, dictionary: Path | None = None) -> str:
    """Write the recognizer in a file of any kind; returns a line about it.

    dictionary: where its subwords are, see `find_subwords`. Raises InputError if `folder` is there.
    """
    symbols, recognizer = find_subwords(model, dictionary), load_recognizer(model)
    clips = NONE
    if config.calibrate is not None:
        clips = calibration_clips(config.calibrate, config.split, recognizer)
    origin, masks = read_origin(model), read_masks(model)
    return export_recognizer(recognizer, symbols, folder, config, origin, clips, masks)


@torch.no_grad()
def export_recognizer(
    model: Recognizer,
    symbols: list[str],
    folder: Path,
    config: ExportConfig,
    origin: Mapping[str, str] = NONE,
    clips: Clips = NONE,
    masks: Masks = NONE,
) -> str:
    """Write a recognizer; symbols: of its outputs; origin: as `read_origin`; clips: for 8 bits;
    masks: of a pruned model, as `read_masks`."""
    search = JointConfig() if isinstance(model, CTCAttentionRecognizer) else BeamConfig()
    with whole_folder(folder) as temporary:
        graphs = recognizer_graphs(model)
        with Progress(graphs.items(), unit="graph", desc="export") as bar:
            for name, graph in bar:
                write_graph(graph, temporary / name, config, clips.get(name))
        files = {path.name: digest(path) for path in sorted(temporary.iterdir())}
        exported = ExportedModel(
            config.format,
            "int8" if config.int8 else "fp32",
            describe(model),
            symbols,
            asdict(search),
            dict(origin),
            {name: list(graph.outputs) for name, graph in graphs.items()},
            files,
            kept_parameters(model.encoder, strip_prefix(masks, "encoder.")),
        )
        write_model(temporary, exported)
    size = sum((folder / name).stat().st_size for name in files)
    return f"{folder}: {exported.format} {exported.precision}, {size / 1e6:.1f} MB"


def write_graph(
    graph: Graph, path: Path, config: ExportConfig, clips: list[np.ndarray] | None
) -> None:
    """Write a graph to PATH with the endings of its format.

    A frontend is sensitive, and little of a model: its 8 bits are those of clips, or none.
    """
    int8 = config.int8 and path.name not in FRONTENDS
    if config.format == "openvino":
        write_openvino(graph, path, int8)
    else:
        file = path.with_name(f"{path.name}.onnx")
        write_onnx(graph, file)
        if clips:
            quantize_frontend(file, file, clips)
        elif int8:
            quantize_linear(file, file)
