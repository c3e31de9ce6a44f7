"""Recognizers of both families from exported graphs, on the CPU, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avhubert_ext.data.audio import SAMPLES_PER_FRAME
from avhubert_ext.decoding.beam import BeamConfig, Hypothesis, SearchConfig
from avhubert_ext.decoding.recognition import Recognition
from avhubert_ext.recognizers.base import Recognizer
from avhubert_ext.runtime.backends import Arrays, RunGraph
from avhubert_ext.runtime.folder import ExportedModel, open_graph, read_model
from avhubert_ext.runtime.joint_search import joint_search
from avhubert_ext.runtime.search import beam_search

if TYPE_CHECKING:
    from avhubert_ext.data.dataset import Batch


@dataclass(frozen=True)
class Encoded:
    """An encoded clip of T frames.

    memory: Keys and values that the decoder attends to, [N, 2, 1, H, T, d].
    ctc: CTC's log probabilities [T, V], or None.
    """

    memory: np.ndarray
    ctc: np.ndarray | None = None

    @property
    def frames(self) -> int:
        return self.memory.shape[4]


class DecoderRows:
    """The decoder with cached keys and values of K hypotheses of a clip; see `search.Rows`."""

    def __init__(self, run: RunGraph, model: ExportedModel, memory: np.ndarray) -> None:
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
        """Run the graph on [K, L]: log_probs [K, L, V], present, attention [K, L, T]."""
        return self.run({"tokens": tokens, "past": self.past, "memory": self.memory})

    def extend(self, parents: np.ndarray) -> None:
        kept = (self.past[:, :, parents], self.newest[:, :, parents])
        self.past = np.concatenate(kept, axis=4)


class ExportedRecognizer(Recognizer):
    """An exported recognizer; each graph is opened when it is first needed."""

    def __init__(
        self, folder: Path, model: ExportedModel, search: SearchConfig, threads: int
    ) -> None:
        settings = search.applied_to(model.search_config(), folder)
        super().__init__(model.network, model.symbols, settings)
        self.model = model
        self.graph = cache(lambda name: open_graph(folder, model, name, threads))

    def search(self, batch: Batch) -> list[list[Hypothesis]]:
        lengths = (~batch.padding_mask).sum(dim=1).tolist()
        return [
            self.hypotheses(self.encode(*self._row(batch, row, length)))
            for row, length in enumerate(lengths)
        ]

    def _row(
        self, batch: Batch, row: int, frames: int
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Audio and video of one utterance, as `encode` takes them, without padding."""
        audio = video = None
        if batch.audio is not None:
            # A batch has the frames last, a clip has them first.
            stream = batch.audio[row]
            stream = stream.view(-1, SAMPLES_PER_FRAME) if self.waveform else stream.T
            audio = stream[:frames].cpu().numpy()
        if batch.video is not None:
            video = batch.video[row, 0, :frames].cpu().numpy()
        return audio, video

    def _recognize(self, audio: np.ndarray | None, video: np.ndarray | None) -> Recognition:
        encoded = self.encode(audio, video)
        best = self.hypotheses(encoded)[0]
        tokens = np.array([best.tokens])
        # The end of the sentence, the last token, also begins one.
        found = self._rows(encoded).step(np.roll(tokens, 1))
        log_probs = np.take_along_axis(found["log_probs"][0], tokens.T, axis=1)[:, 0]
        return self._recognition(best, log_probs, found["attention"][0], encoded.ctc)

    def encode(self, audio: np.ndarray | None, video: np.ndarray | None) -> Encoded:
        """Run frontends and encoder on what `network_inputs` returns."""
        streams = self._project(audio, video)
        if self.ctc:
            found = self.graph("encoder")(streams)
            return Encoded(found["memory"], found["ctc"][0])
        # The encoder takes both streams: one that is missing is zeros, and its frontend not run.
        missing = np.zeros_like(next(iter(streams.values())))
        both = {"audio": missing, "video": missing} | streams
        return Encoded(self.graph("encoder")(both)["memory"])

    def _project(self, audio: np.ndarray | None, video: np.ndarray | None) -> Arrays:
        """The frontends' outputs [1, T, C] by name, for the streams that are given."""
        given = {"audio": audio, "video": None if video is None else video[None]}
        return {
            name: self.graph(name)({"input": stream[None]})["projected"]
            for name, stream in given.items()
            if stream is not None
        }

    def hypotheses(self, encoded: Encoded) -> list[Hypothesis]:
        """Search an encoded clip; best first."""
        if isinstance(self.settings, BeamConfig):
            return beam_search(self._rows(encoded), encoded.frames, self.settings)
        assert encoded.ctc is not None, "models with these settings have a CTC layer"
        return joint_search(self._rows(encoded), encoded.ctc, self.settings)

    def _rows(self, encoded: Encoded) -> DecoderRows:
        return DecoderRows(self.graph("decoder"), self.model, encoded.memory)


def open_exported(folder: Path, search: SearchConfig, threads: int | None) -> ExportedRecognizer:
    """See `Recognizer.from_file`; damaged graphs are found when they are first needed."""
    return ExportedRecognizer(folder, read_model(folder), search, threads or 0)
