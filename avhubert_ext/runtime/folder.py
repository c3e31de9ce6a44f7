"""The folder of an exported recognizer: `model.json` and the graphs that it lists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avhubert_ext.data.files import write_text
from avhubert_ext.decoding.beam import BeamConfig, JointConfig
from avhubert_ext.errors import InputError
from avhubert_ext.runtime.backends import BACKENDS, RunGraph

MODEL_FILE = "model.json"
VERSION = 1
CHECKSUM = "sha256"  # of the rest of `model.json`; folders of older versions have none
# The outputs of each graph that the searches need.
OUTPUTS = {"encoder": {"memory"}, "decoder": {"log_probs", "present", "attention"}}


@dataclass(frozen=True)
class ExportedModel:
    """The content of `model.json`.

    Attributes:
        format: One of `backends.BACKENDS`.
        precision: fp32 or int8.
        network: Kind and sizes of the network, as model files store them.
        symbols: What each output stands for, in id order.
        search: The fields of its BeamConfig or, for a kind with CTC, of its JointConfig.
        origin: What the model file stores about its training.
        graphs: Name of each graph -> its outputs, in order.
        files: Name of each file -> SHA-256.
        encoder_parameters: Number of parameters without pruned ones; None in folders of older
            versions.
    """

    format: str
    precision: str
    network: dict[str, Any]
    symbols: list[str]
    search: dict[str, Any]
    origin: dict[str, str]
    graphs: dict[str, list[str]]
    files: dict[str, str]
    encoder_parameters: int | None = None
    version: int = VERSION

    def cache_shape(self) -> tuple[int, int, int, int, int, int]:
        """Shape of an empty cache: layers, 2 (key, value), hypotheses, heads, tokens, width."""
        decoder = self.network["decoder"]
        heads = decoder["heads"]
        return decoder["layers"], 2, 1, heads, 0, decoder["dim"] // heads

    def search_config(self) -> BeamConfig | JointConfig:
        """Return the settings of its search."""
        kind = JointConfig if self.network["kind"] == "ctc_attention" else BeamConfig
        return kind(**self.search)

    def is_whole(self) -> bool:
        """Whether its parts are consistent. Missing parts may raise any error."""
        self.search_config()
        needed = OUTPUTS
        if self.network["kind"] == "ctc_attention":
            needed = OUTPUTS | {"encoder": {"memory", "ctc"}}
            _ = self.network["encoder"]["modality"]
        endings = BACKENDS[self.format].endings
        return (
            self.version == VERSION
            and all(type(size) is int for size in self.cache_shape())
            and all(type(symbol) is str for symbol in self.symbols)
            and len(self.symbols) == self.network["decoder"]["vocabulary"]
            and all(names <= set(self.graphs[graph]) for graph, names in needed.items())
            and {f"{name}.{e}" for name in self.graphs for e in endings} <= self.files.keys()
            and type(self.encoder_parameters) in (int, type(None))
        )


def write_model(folder: Path, model: ExportedModel) -> None:
    """Write `model.json`. Write it last: it marks the folder as an exported model."""
    fields = asdict(model)
    fields[CHECKSUM] = _checksum(fields)
    write_text(folder / MODEL_FILE, json.dumps(fields, indent=1, ensure_ascii=False) + "\n")


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_model(folder: Path) -> ExportedModel:
    """Read `model.json`.

    Raises:
        InputError: If the folder is not an exported model, is damaged, or has another version.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {MODEL_FILE} in it; make one with `avhubert-ext export`")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        whole = fields.pop(CHECKSUM, None) in (None, _checksum(fields))
        old = fields.get("format") == "torch"
        model = None if old else ExportedModel(**fields)
        whole = whole and (model is None or model.is_whole())
    except Exception:  # a damaged file can be wrong in any way
        whole = False
    if not whole:
        raise InputError(f"{path}: damaged, or of another version; export the model again")
    if model is None:
        raise InputError(
            f"{path}: its format, torch, is no longer read, since opening it could run code; "
            "export the model again with --format onnx"
        )
    return model


def open_graph(folder: Path, model: ExportedModel, name: str, threads: int) -> RunGraph:
    """Open a graph of an exported model.

    Args:
        folder: The model's folder.
        model: Its `model.json`.
        name: Name of the graph.
        threads: Number of CPU threads, 0 for the runtime's default.

    Raises:
        InputError: If a file of the graph is missing, damaged, or refused by the runtime.
    """
    if name not in model.graphs:
        raise InputError(f"{folder}: no graph for {name}; export the model again")
    backend = BACKENDS[model.format]
    paths = [folder / f"{name}.{ending}" for ending in backend.endings]
    for path in paths:
        if not path.is_file() or file_sha256(path) != model.files[path.name]:
            raise InputError(f"{path}: missing or damaged; copy the folder or export it again")
    run = _guarded(paths[0], backend.open)(paths[0], model.graphs[name], threads)
    return _guarded(paths[0], run)


def _guarded(path: Path, function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the errors of a runtime's function, which are of many types, into InputErrors."""

    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except InputError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{path}: the graph failed ({reason}); export the model again"
            ) from None

    return call


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
