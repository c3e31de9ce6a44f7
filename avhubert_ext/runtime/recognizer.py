"""Recognizers of both families from exported graphs, for one clip at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from avhubert_ext.decoding.beam import BeamConfig, Hypothesis, JointConfig
from avhubert_ext.decoding.recognition import Recognition, network_inputs
from avhubert_ext.errors import InputError
from avhubert_ext.runtime.backends import Arrays, Run
from avhubert_ext.runtime.folder import ExportedModel, open_graph, read_model
from avhubert_ext.runtime.joint_search import joint_search
from avhubert_ext.runtime.search import beam_search


@dataclass(frozen=True)
class Encoded:
    """A clip of T frames: the decoder's memory [N, 2, 1, H, T, d], and CTC's [T, V] or None."""

    memory: np.ndarray
    ctc: np.ndarray | None = None

    @property
    def frames(self) -> int:
        return self.memory.shape[4]


class DecoderRows:
    """The decoder and its keys and values of K hypotheses of a clip; see `search.Rows`."""

    def __init__(self, run: Run, model: ExportedModel, memory: np.ndarray) -> None:
        self.run = run
        self.vocabulary = len(model.symbols)
        self.memory = memory
        self.past = np.zeros(model.cache_shape(), np.float32)
        self.newest = self.past

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        found = self.step(tokens[:, None])
        self.newest = found["present"]
        return found["log_probs"][:, 0]

    def step(self, tokens: np.ndarray) -> Arrays:
        """[K, L] -> what the graph returns: log_probs [K, L, V], present, attention [K, L, T]."""
        return self.run({"tokens": tokens, "past": self.past, "memory": self.memory})

    def extend(self, parents: np.ndarray) -> None:
        kept = (self.past[:, :, parents], self.newest[:, :, parents])
        self.past = np.concatenate(kept, axis=4)


class ExportedRecognizer(ABC):
    """An exported recognizer; its graphs are opened when they are first needed.

    waveform: whether it takes audio as a waveform, or as features.
    """

    modalities: tuple[str, ...]
    waveform: bool

    def __init__(self, folder: Path, model: ExportedModel, threads: int) -> None:
        self.model = model
        self.graph = cache(lambda name: open_graph(folder, model, name, threads))

    @abstractmethod
    def encode(self, audio: np.ndarray | None, video: np.ndarray | None) -> Encoded:
        """What the decoder looks at, from what `network_inputs` gives."""

    @abstractmethod
    def search(self, encoded: Encoded) -> list[Hypothesis]:
        """The hypotheses, best first."""

    def recognize(self, audio: np.ndarray | None, video: np.ndarray | None) -> Recognition:
        """See `avhubert_ext.decoding.recognition.Recognizer`."""
        encoded = self.encode(*network_inputs(audio, video, self.modalities, self.waveform))
        best = self.search(encoded)[0]
        tokens = np.array([best.tokens])
        # The end of the sentence, the last token, also begins one.
        found = self.rows(encoded).step(np.roll(tokens, 1))
        log_probs = np.take_along_axis(found["log_probs"][0], tokens.T, axis=1)[:-1, 0]
        attention = found["attention"][0, :-1] if encoded.ctc is None else None
        pieces = tuple(self.model.symbols[token] for token in best.tokens[:-1])
        return Recognition(pieces, best.tokens[:-1], best.score, log_probs, attention, encoded.ctc)

    def rows(self, encoded: Encoded) -> DecoderRows:
        return DecoderRows(self.graph("decoder"), self.model, encoded.memory)

    def project(self, audio: np.ndarray | None, video: np.ndarray | None) -> Arrays:
        """What the frontends make of the streams that there are: [1, T, C] by name."""
        given = {"audio": audio, "video": None if video is None else video[None]}
        return {
            name: self.graph(name)({"input": stream[None]})["projected"]
            for name, stream in given.items()
            if stream is not None
        }


class AVHubert(ExportedRecognizer):
    """A recognizer of AV-HuBERT's family; a stream that is missing costs nothing."""

    modalities = ("both", "audio", "video")
    waveform = False

    def __init__(self, folder: Path, model: ExportedModel, threads: int, beam: BeamConfig) -> None:
        super().__init__(folder, model, threads)
        self.beam = beam

    def encode(self, audio: np.ndarray | None, video: np.ndarray | None) -> Encoded:
        streams = self.project(audio, video)
        missing = np.zeros_like(next(iter(streams.values())))
        both = {"audio": missing, "video": missing} | streams
        return Encoded(self.graph("encoder")(both)["memory"])

    def search(self, encoded: Encoded) -> list[Hypothesis]:
        return beam_search(self.rows(encoded), encoded.frames, self.beam)


class CTCAttention(ExportedRecognizer):
    """A recognizer of Auto-AVSR's family; it takes what it was built for and no other."""

    waveform = True

    def __init__(self, folder: Path, model: ExportedModel, threads: int, beam: JointConfig) -> None:
        super().__init__(folder, model, threads)
        self.modalities = (model.network["encoder"]["modality"],)
        self.beam = beam

    def encode(self, audio: np.ndarray | None, video: np.ndarray | None) -> Encoded:
        found = self.graph("encoder")(self.project(audio, video))
        return Encoded(found["memory"], found["ctc"][0])

    def search(self, encoded: Encoded) -> list[Hypothesis]:
        return joint_search(self.rows(encoded), encoded.ctc, self.beam)


def load_exported(
    folder: Path | str,
    *,
    threads: int | None = None,
    beam: int | None = None,
    ctc_weight: float | None = None,
) -> ExportedRecognizer:
    """The recognizer in a folder of `avhubert-ext export`.

    threads: of the CPU, None for all; beam, ctc_weight (with CTC): of the search, None for what
    `model.json` says. Raises InputError if the folder is none, or of another version; what is
    damaged is found out when it is first needed.
    """
    folder = Path(folder)
    model = read_model(folder)
    config = model.search_config()
    given = {"beam": beam, "ctc_weight": ctc_weight}
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(config, JointConfig):
        return CTCAttention(folder, model, threads or 0, replace(config, **given))
    if ctc_weight is not None:
        raise InputError(f"{folder}: has no CTC layer to give a weight to; leave --ctc-weight out")
    return AVHubert(folder, model, threads or 0, replace(config, **given))
