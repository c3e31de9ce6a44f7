"""The recognizers that `evaluate` knows: what each family takes, and how it is searched.

A checkpoint is decoded in its fused form, as `transcribe` does: what is scored is what is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from avhubert_ext.checkpoints.description import build_for
from avhubert_ext.checkpoints.model_file import load_recognizer, read_origin
from avhubert_ext.data.audio import SAMPLES_PER_FRAME
from avhubert_ext.data.dataset import Batch
from avhubert_ext.data.text import Vocabulary, check_dictionary, dictionary_digest
from avhubert_ext.decoding.attention import BeamConfig, Hypothesis, beam_search
from avhubert_ext.decoding.joint import JointConfig, joint_beam_search
from avhubert_ext.device import choose_device
from avhubert_ext.models.conformer import ConformerEncoder, CTCAttentionRecognizer
from avhubert_ext.models.decoder import AVRecognizer
from avhubert_ext.runtime import load_exported
from avhubert_ext.runtime.folder import MODEL_FILE, read_model

M = TypeVar("M", AVRecognizer, CTCAttentionRecognizer)
MOST_LAYERS = 1000  # of an exported network: building more, if damage asks for it, would not end


def fused(model: M) -> tuple[M, nn.Module]:
    """The form that is decoded, and the encoder as it was, without its weights: for its sizes."""
    return model.fuse(), model.encoder.to("meta")


class AVHubertFamily:
    """A model of AV-HuBERT's family: audio as features; the decoder alone scores hypotheses."""

    waveform = False

    def __init__(
        self, model: AVRecognizer, dictionary: Path, modalities: str, beam: BeamConfig
    ) -> None:
        self.model, self.encoder = fused(model)
        self.vocabulary = Vocabulary(dictionary)
        self.modalities = modalities
        self.beam = beam

    def search(self, inputs: Batch) -> list[list[Hypothesis]]:
        """The hypotheses of each utterance, best first."""
        return beam_search(self.model, inputs.audio, inputs.video, inputs.padding_mask, self.beam)


class CTCAttentionFamily:
    """A model of SparseVSR's family: audio as waveforms; CTC has a say too.

    It takes the modality that it was built for and no other.
    """

    waveform = True

    def __init__(self, model: CTCAttentionRecognizer, dictionary: Path, beam: JointConfig) -> None:
        self.model, self.encoder = fused(model)
        self.vocabulary = Vocabulary(dictionary, ctc=True)
        self.modalities = self.encoder.config.modality
        self.beam = beam

    def search(self, inputs: Batch) -> list[list[Hypothesis]]:
        """The hypotheses of each utterance, best first."""
        return joint_beam_search(
            self.model, inputs.audio, inputs.video, inputs.padding_mask, self.beam
        )


class ExportedFamily:
    """An exported model of either family, on the CPU; the clips of a batch one after another."""

    def __init__(
        self, folder: Path, dictionary: Path, modalities: str, beam: BeamConfig, joint: JointConfig
    ) -> None:
        self.recognizer = load_exported(folder, threads=torch.get_num_threads())
        self.model = self.recognizer.model
        self.encoder = build_for(folder / MODEL_FILE, self.model.network, MOST_LAYERS).encoder
        if isinstance(self.encoder, ConformerEncoder):
            self.modalities, self.beam = self.encoder.config.modality, joint
        else:
            self.modalities, self.beam = modalities, beam
        self.waveform = self.recognizer.waveform
        self.vocabulary = Vocabulary(dictionary, ctc=self.waveform)
        self.recognizer.beam = self.beam

    def search(self, inputs: Batch) -> list[list[Hypothesis]]:
        """The hypotheses of each utterance, best first."""
        lengths = (~inputs.padding_mask).sum(dim=1).tolist()
        return [self._search(inputs, row, length) for row, length in enumerate(lengths)]

    def _search(self, inputs: Batch, row: int, frames: int) -> list[Hypothesis]:
        audio = video = None
        if inputs.audio is not None:
            # Of the audio the frames come first, of a batch they come last.
            audio = inputs.audio[row]
            audio = audio.view(-1, SAMPLES_PER_FRAME) if self.waveform else audio.T
            audio = audio[:frames].cpu().numpy()
        if inputs.video is not None:
            video = inputs.video[row, 0, :frames].cpu().numpy()
        return self.recognizer.search(self.recognizer.encode(audio, video))


Family = AVHubertFamily | CTCAttentionFamily | ExportedFamily


def load_family(
    path: Path, dictionary: Path, modalities: str, beam: BeamConfig, joint: JointConfig, device: str
) -> Family:
    """The recognizer in a file that `load_model` reads, or whose `model.json` it is.

    modalities, beam: for AV-HuBERT's family; joint: how SparseVSR's is searched; device: see
    `choose_device`. Raises InputError if its vocabulary is not that of the `dictionary`.
    """
    if path.name == MODEL_FILE:
        family = ExportedFamily(path.parent, dictionary, modalities, beam, joint)
        symbols = family.recognizer.model.symbols
        outputs, trained_with = len(symbols), dictionary_digest(symbols)
    else:
        model = load_recognizer(path, choose_device(device))
        outputs = model.decoder.config.vocabulary
        trained_with = origin_of(path).get("dictionary")
        if isinstance(model, CTCAttentionRecognizer):
            family = CTCAttentionFamily(model, dictionary, joint)
        else:
            family = AVHubertFamily(model, dictionary, modalities, beam)
    check_dictionary(dictionary, family.vocabulary.pieces, outputs, trained_with)
    return family


def origin_of(path: Path) -> dict[str, str]:
    """As `read_origin`, of an exported model's `model.json` too."""
    return read_model(path.parent).origin if path.name == MODEL_FILE else read_origin(path)


def model_file(path: Path) -> Path:
    """What stands for a model: its file, or the `model.json` of an exported model's folder."""
    return path / MODEL_FILE if path.is_dir() else path
