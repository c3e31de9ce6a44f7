"""A folder of an exported recogniser: `model.json` and the graphs that it names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avhubert_ext.beam import BeamConfig, JointConfig
from avhubert_ext.data.files import write_text
from avhubert_ext.errors import InputError
from avhubert_ext.runtime.backends import BACKENDS, Run

MODEL_FILE = "model.json"
VERSION = 1


@dataclass(frozen=True)
class ExportedModel:
    """What `model.json` holds.

    format: see `backends.BACKENDS`; precision: fp32 or int8. network: kind and sizes, as a model
    file describes them. symbols: of all outputs, by their ids. search: the fields of its BeamConfig
    or, for a kind with CTC, its JointConfig. origin: what else the model file told.
    graphs: name -> what it returns, in order; files: name -> SHA-256.
    """

    format: str
    precision: str
    network: dict[str, Any]
    symbols: list[str]
    search: dict[str, Any]
    origin: dict[str, str]
    graphs: dict[str, list[str]]
    files: dict[str, str]
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
        self.cache_shape()
        self.search_config()
        ending, _ = BACKENDS[self.format]
        return (
            self.version == VERSION
            and len(self.symbols) == self.network["decoder"]["vocabulary"]
            and {"encoder", "decoder"} <= self.graphs.keys()
            and {f"{name}.{ending}" for name in self.graphs} <= self.files.keys()
        )


def write_model(folder: Path, model: ExportedModel) -> None:
    """Write `model.json`, which makes a folder an exported model: the last thing to write."""
    write_text(folder / MODEL_FILE, json.dumps(asdict(model), indent=1, ensure_ascii=False) + "\n")


def read_model(folder: Path) -> ExportedModel:
    """Raises InputError if the folder is none of `export`, or of another version."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {MODEL_FILE} in it; make it with `avhubert-ext export`")
    try:
        model = ExportedModel(**json.loads(path.read_text(encoding="utf-8")))
        whole = model.is_whole()
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, InputError):
        whole = False
    if not whole:
        raise InputError(f"{path}: not whole, or of another version; export the model again")
    return model


def open_graph(folder: Path, model: ExportedModel, name: str, threads: int) -> Run:
    """Raises InputError if a file of the graph is missing or not as it was written."""
    ending, opened = BACKENDS[model.format]
    for file in (f for f in model.files if f.startswith(f"{name}.")):
        path = folder / file
        if not path.is_file() or digest(path) != model.files[file]:
            raise InputError(f"{path}: missing or damaged; copy the folder or export it again")
    return opened(folder / f"{name}.{ending}", model.graphs[name], threads)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
