"""A folder of an exported recognizer: `model.json` and the graphs that it names."""

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
from avhubert_ext.runtime.backends import BACKENDS, Run

MODEL_FILE = "model.json"
VERSION = 1
CHECKSUM = "sha256"  # of all else in `model.json`; folders of older versions have none
# What the searches ask of these graphs.
OUTPUTS = {"encoder": {"memory"}, "decoder": {"log_probs", "present", "attention"}}


@dataclass(frozen=True)
class ExportedModel:
    """What `model.json` holds.

    format: see `backends.BACKENDS`; precision: fp32 or int8. network: kind and sizes, as a model
    file describes them. symbols: of all outputs, by their ids. search: the fields of its BeamConfig
    or, for a kind with CTC, its JointConfig. origin: what else is known of the model file.
    graphs: name -> what it returns, in order; files: name -> SHA-256. encoder_parameters: without
    pruned ones, None in folders of older versions.
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
        """Of keys and values of no tokens: layers, 2, hypotheses, heads, tokens, width."""
        decoder = self.network["decoder"]
        heads = decoder["heads"]
        return decoder["layers"], 2, 1, heads, 0, decoder["dim"] // heads

    def search_config(self) -> BeamConfig | JointConfig:
        """How it is searched."""
        kind = JointConfig if self.network["kind"] == "ctc_attention" else BeamConfig
        return kind(**self.search)

    def is_whole(self) -> bool:
        """Whether its parts fit each other. What is missing from them may raise any error."""
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
    """Write `model.json`, which makes a folder an exported model: the last thing to write."""
    fields = asdict(model)
    fields[CHECKSUM] = _checksum(fields)
    write_text(folder / MODEL_FILE, json.dumps(fields, indent=1, ensure_ascii=False) + "\n")


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_model(folder: Path) -> ExportedModel:
    """Raises InputError if the folder is none of `export`, damaged, or of another version."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {MODEL_FILE} in it; make it with `avhubert-ext export`")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        whole = fields.pop(CHECKSUM, None) in (None, _checksum(fields))
        old = fields.get("format") == "torch"
        model = None if old else ExportedModel(**fields)
        whole = whole and (old or model.is_whole())
    except Exception:  # what is damaged can be wrong in any way
        whole = False
    if not whole:
        raise InputError(f"{path}: damaged, or of another version; export the model again")
    if old:
        raise InputError(
            f"{path}: of the format torch, whose files could run code when they are opened; "
            "export the model again with --format onnx"
        )
    return model


def open_graph(folder: Path, model: ExportedModel, name: str, threads: int) -> Run:
    """Raises InputError if a file of the graph is missing, not as it was written, or no graph."""
    if name not in model.graphs:
        raise InputError(f"{folder}: no graph for {name} in it; export the model again")
    backend = BACKENDS[model.format]
    paths = [folder / f"{name}.{ending}" for ending in backend.endings]
    for path in paths:
        if not path.is_file() or digest(path) != model.files[path.name]:
            raise InputError(f"{path}: missing or damaged; copy the folder or export it again")
    run = _guarded(paths[0], backend.open)(paths[0], model.graphs[name], threads)
    return _guarded(paths[0], run)


def _guarded(path: Path, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a runtime, whose errors, which are of many types, become InputErrors."""

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


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
