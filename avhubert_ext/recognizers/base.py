"""The one interface to every model that recognizes speech."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avhubert_ext.data.text import join_pieces
from avhubert_ext.decoding.beam import BeamConfig, Hypothesis, JointConfig, SearchConfig
from avhubert_ext.decoding.recognition import Recognition, network_inputs
from avhubert_ext.errors import InputError
from avhubert_ext.transcription.transcribe import Transcript, transcribe_clip

if TYPE_CHECKING:
    from avhubert_ext.data.dataset import Batch

MODALITIES = ("both", "audio", "video")


class Recognizer(ABC):
    """A model that turns audio and video of speech into text.

    Open one with `Recognizer.from_file`. AV-HuBERT models take log filter banks and any of the
    three modalities; Auto-AVSR models have a CTC layer and take waveforms, and only the modality
    they were built for.

    Attributes:
        description: Kind and sizes of the network, as model files store them.
        symbols: What each of the V outputs stands for, special symbols included, in id order.
        settings: Settings of the beam search.
        modalities: The modalities it takes, of "both", "audio" and "video".
        ctc: Whether it has a CTC layer.
        waveform: Whether it takes audio as a waveform instead of features.
    """

    def __init__(
        self,
        description: dict[str, Any],
        symbols: list[str],
        settings: BeamConfig | JointConfig,
    ) -> None:
        self.description = description
        self.symbols = symbols
        self.settings = settings
        self.ctc = self.waveform = description["kind"] == "ctc_attention"
        self.modalities = (description["encoder"]["modality"],) if self.ctc else MODALITIES

    @staticmethod
    def from_file(
        path: Path | str,
        *,
        dictionary: Path | str | None = None,
        search: SearchConfig | None = None,
        device: str = "auto",
        threads: int | None = None,
    ) -> Recognizer:
        """Open any checkpoint or exported folder.

        Args:
            path: A checkpoint (`.safetensors` of this project, fairseq's `.pt` of this project or
                of the official AV-HuBERT, `.pth` of Auto-AVSR), or a folder written by
                `avhubert-ext export`.
            dictionary: File or folder with the model's subwords. Needed only if the model file
                does not contain them and they are not beside it.
            search: Settings of the beam search. Fields that are None, and None itself, keep the
                defaults; for an exported model those stored in its folder.
            device: "auto" (the first CUDA GPU, or the CPU if there is none), "cpu", "cuda",
                "cuda:N" or "mps". Exported models run on the CPU.
            threads: Number of CPU threads; None for the default of PyTorch or of the graph
                runtime. For checkpoints this sets PyTorch's threads for the whole process.

        Returns:
            A recognizer that is ready to use. Exported models need no PyTorch.

        Raises:
            InputError: If the file is missing, damaged or not a recognizer, its subwords are not
                found, a search setting does not apply, or the device does not exist.
        """
        path = Path(path)
        settings = search or SearchConfig()
        if path.is_dir():
            if dictionary is not None or device not in ("auto", "cpu"):
                raise InputError(
                    f"{path}: an exported model contains its subwords and runs on the CPU; leave "
                    "out dictionary and device"
                )
            from avhubert_ext.recognizers.exported import open_exported

            return open_exported(path, settings, threads)
        from avhubert_ext.recognizers.pytorch import open_checkpoint

        subwords = None if dictionary is None else Path(dictionary)
        return open_checkpoint(path, subwords, settings, device, threads)

    def transcribe(
        self,
        path: Path | str | None = None,
        *,
        audio: np.ndarray | None = None,
        video: np.ndarray | None = None,
        seen: np.ndarray | None = None,
        longest: float = 15.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Transcript:
        """Transcribe a file, or arrays, of any length.

        A file is read as `avhubert-ext transcribe` reads it: the mouth of the face that speaks is
        cropped, and where the picture cannot be used, the sound alone is. A clip longer than
        `longest` is cut at pauses. Where the video ends before the audio, and where the mouth is
        not visible for more than a second, the audio alone is recognized, or skipped if the model
        does not take audio alone. Audio that ends before the video is continued with silence. The
        notes of the transcript report all of this.

        Args:
            path: A video or sound file. Leave it out to pass arrays.
            audio: int16 [N] at 16 kHz, or None.
            video: The mouth region, uint8 [T, 96, 96] at 25 frames per second, or None. Audio and
                video start at the same time.
            seen: bool [T], whether each frame of `video` shows the mouth; None for all frames.
            longest: Seconds that are recognized at once, at least 2. Use no more than the length
                of the training clips.
            progress: Called with the number of frames done and the total; first for finding the
                mouth (total 0 if unknown), then for recognition.

        Returns:
            The text, its words with times and confidence, and notes on what was used.

        Raises:
            InputError: If the file cannot be read or holds no usable stream, or the arrays are
                not what the model takes.
        """
        if path is None:
            return transcribe_clip(
                self.recognize,
                self.modalities,
                audio,
                video,
                seen=seen,
                longest=longest,
                progress=progress,
            )
        if audio is not None or video is not None or seen is not None:
            raise InputError(f"{path}: give a file or arrays, not both")
        from avhubert_ext.transcription.streams import read_streams

        streams = read_streams(Path(path), self.modalities, progress=progress)
        transcript = self.transcribe(
            audio=streams.audio,
            video=streams.video,
            seen=streams.seen,
            longest=longest,
            progress=progress,
        )
        return replace(transcript, notes=streams.notes + transcript.notes)

    def recognize(self, audio: np.ndarray | None, video: np.ndarray | None) -> Recognition:
        """Recognize one short clip at once.

        Args:
            audio: int16 [N] at 16 kHz, or None.
            video: The mouth region, uint8 [T, 96, 96] at 25 frames per second, or None. Audio is
                cut or padded to the video's length, by at most 0.2 s.

        Returns:
            The best hypothesis, with what its words are aligned by.

        Raises:
            InputError: If the arrays are not of these types, or the model does not take this
                modality.
        """
        return self._recognize(*network_inputs(audio, video, self.modalities, self.waveform))

    @abstractmethod
    def _recognize(self, audio: np.ndarray | None, video: np.ndarray | None) -> Recognition:
        """`recognize` for inputs made by `network_inputs`."""

    @abstractmethod
    def search(self, batch: Batch) -> list[list[Hypothesis]]:
        """Search the hypotheses of a batch of utterances.

        Args:
            batch: What `collate` makes, with features or waveforms as `waveform` says.

        Returns:
            The hypotheses of each utterance, best first.

        Raises:
            InputError: If an utterance has no hypothesis with a finite score.
        """

    def text(self, hypothesis: Hypothesis) -> str:
        """Return the words of a hypothesis."""
        return join_pieces(self.symbols[token] for token in hypothesis.tokens[:-1])

    def _recognition(
        self,
        best: Hypothesis,
        log_probs: np.ndarray,
        attention: np.ndarray,
        ctc: np.ndarray | None,
    ) -> Recognition:
        """Drop the end of the sentence, the last of `log_probs` [U] and `attention` [U, T].

        Words of models with CTC are aligned by it, and the attention is left out.
        """
        tokens = best.tokens[:-1]
        pieces = tuple(self.symbols[token] for token in tokens)
        looks = attention[:-1] if ctc is None else None
        return Recognition(pieces, tokens, best.score, log_probs[:-1], looks, ctc)
