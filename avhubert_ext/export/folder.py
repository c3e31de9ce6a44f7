"""Export of a model file to a folder that `Recognizer.from_file` opens without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from avhubert_ext.checkpoints.description import RecognizerNetwork, describe
from avhubert_ext.checkpoints.model_file import ModelFile
from avhubert_ext.checkpoints.subwords import find_subwords
from avhubert_ext.compression.pruning import Masks, kept_parameters, strip_prefix
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
from avhubert_ext.runtime.folder import ExportedModel, file_sha256, write_model

FRONTENDS = ("audio", "video")  # the graphs before the encoder
Clips = Mapping[str, list[np.ndarray]]
NONE: Clips = MappingProxyType({})


@dataclass(frozen=True)
class ExportConfig:
    """Settings of an export.

    Attributes:
        format: onnx or openvino.
        int8: Store the linear layers in 8 bits.
        calibrate: Manifest folder with clips that calibrate the frontends, so that they are in 8
            bits too (onnx only); or None.
        split: Name of the manifest in `calibrate`.

    Raises:
        InputError: If the settings do not fit together.
    """

    format: str = "onnx"
    int8: bool = False
    calibrate: Path | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        if self.format not in BACKENDS:
            raise InputError(f"format '{self.format}': expected one of {', '.join(BACKENDS)}")
        if self.calibrate is not None and not (self.int8 and self.format == "onnx"):
            raise InputError("calibration needs int8 and the format onnx: leave it out")


def export(model: Path, folder: Path, config: ExportConfig, dictionary: Path | None = None) -> str:
    """Export the recognizer in a checkpoint.

    Args:
        model: Any checkpoint that `Recognizer.from_file` opens.
        folder: Folder to write.
        config: Settings of the export.
        dictionary: File or folder with the subwords, if the model file does not contain them.

    Returns:
        A line that describes the exported model.

    Raises:
        InputError: If the model cannot be read, its subwords are not found, a package is missing,
            or `folder` exists.
    """
    file = ModelFile(model)
    symbols, recognizer = find_subwords(file, dictionary), file.recognizer()
    clips = NONE
    if config.calibrate is not None:
        clips = calibration_clips(config.calibrate, config.split, recognizer)
    return export_recognizer(recognizer, symbols, folder, config, file.origin, clips, file.masks)


@torch.no_grad()
def export_recognizer(
    model: RecognizerNetwork,
    symbols: list[str],
    folder: Path,
    config: ExportConfig,
    origin: Mapping[str, str] = NONE,
    clips: Clips = NONE,
    masks: Masks = NONE,
) -> str:
    """Export a recognizer.

    Args:
        model: The network.
        symbols: What each output stands for, in id order.
        folder: Folder to write.
        config: Settings of the export.
        origin: What is known about its training, see `read_origin`.
        clips: Calibration clips, see `calibration_clips`.
        masks: Masks of a pruned model, see `read_masks`.

    Returns:
        A line that describes the exported model.
    """
    search = JointConfig() if isinstance(model, CTCAttentionRecognizer) else BeamConfig()
    with whole_folder(folder) as temporary:
        graphs = recognizer_graphs(model)
        with Progress(graphs.items(), unit="graph", desc="export") as bar:
            for name, graph in bar:
                write_graph(graph, temporary / name, config, clips.get(name))
        files = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
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
    """Write a graph to `path` plus the extensions of its format.

    Frontends are sensitive and a small part of a model: they are in 8 bits only if calibrated.
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
