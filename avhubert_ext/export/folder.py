"""A model file to a folder that `avhubert_ext.runtime` reads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from avhubert_ext.beam import BeamConfig, JointConfig
from avhubert_ext.data.files import whole_folder
from avhubert_ext.export.graphs import recognizer_graphs
from avhubert_ext.export.onnx import write_onnx
from avhubert_ext.models.checkpoint import Recognizer, describe, load_recognizer, read_origin
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.subwords import find_subwords
from avhubert_ext.runtime.folder import ExportedModel, digest, write_model


def export(model: Path, folder: Path, dictionary: Path | None = None) -> str:
    """Write the recogniser in a file of any kind; returns a line about it.

    dictionary: where its subwords are, see `find_subwords`.
    """
    symbols = find_subwords(model, dictionary)
    return export_recognizer(load_recognizer(model), symbols, folder, read_origin(model))


@torch.no_grad()
def export_recognizer(
    model: Recognizer, symbols: list[str], folder: Path, origin: dict[str, str]
) -> str:
    """Write a recogniser; symbols: of its outputs; origin: as `read_origin`."""
    config = JointConfig() if isinstance(model, CTCAttentionRecognizer) else BeamConfig()
    with whole_folder(folder) as temporary:
        graphs = recognizer_graphs(model)
        with tqdm(graphs.items(), unit="graph", desc="export") as bar:
            for name, graph in bar:
                write_onnx(graph, temporary / f"{name}.onnx")
        files = {path.name: digest(path) for path in sorted(temporary.iterdir())}
        outputs = {name: list(graph.outputs) for name, graph in graphs.items()}
        network, search = describe(model), asdict(config)
        write_model(
            temporary,
            ExportedModel("onnx", "fp32", network, symbols, search, dict(origin), outputs, files),
        )
    size = sum((folder / name).stat().st_size for name in files)
    return f"{folder}: {', '.join(graphs)}, {size / 1e6:.1f} MB"
