"""The recognisers that `evaluate` knows: what each family takes, and how it is searched."""

from __future__ import annotations

from pathlib import Path

from avhubert_ext.data.dataset import Batch
from avhubert_ext.data.text import Vocabulary, check_dictionary
from avhubert_ext.decoding import BeamConfig, Hypothesis, beam_search
from avhubert_ext.joint_decoding import JointConfig, joint_beam_search
from avhubert_ext.models.checkpoint import load_recognizer, read_origin
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.decoder import AVRecognizer


class AVHubertFamily:
    """A model of AV-HuBERT's family: audio as features; the decoder alone scores hypotheses."""

    waveform = False

    def __init__(
        self, model: AVRecognizer, dictionary: Path, modalities: str, beam: BeamConfig
    ) -> None:
        self.model = model
        self.vocabulary = Vocabulary(dictionary)
        self.modalities = modalities
        self.beam = beam
        self.visual = model.encoder.config.visual
        self.block = model.encoder.config.block

    def search(self, inputs: Batch) -> list[list[Hypothesis]]:
        """The hypotheses of each utterance, best first."""
        return beam_search(self.model, inputs.audio, inputs.video, inputs.padding_mask, self.beam)


class CTCAttentionFamily:
    """A model of SparseVSR's family: audio as waveforms; CTC has a say too.

    It takes the modality that it was built for and no other.
    """

    waveform = True

    def __init__(self, model: CTCAttentionRecognizer, dictionary: Path, beam: JointConfig) -> None:
        self.model = model
        self.vocabulary = Vocabulary(dictionary, ctc=True)
        self.modalities = model.encoder.config.modality
        self.beam = beam
        self.visual = "none" if self.modalities == "audio" else "resnet"
        self.block = "conformer"

    def search(self, inputs: Batch) -> list[list[Hypothesis]]:
        """The hypotheses of each utterance, best first."""
        return joint_beam_search(
            self.model, inputs.audio, inputs.video, inputs.padding_mask, self.beam
        )


Family = AVHubertFamily | CTCAttentionFamily


def load_family(
    path: Path, dictionary: Path, modalities: str, beam: BeamConfig, joint: JointConfig, device: str
) -> Family:
    """The recogniser in a file that `load_model` reads.

    modalities, beam: for AV-HuBERT's family; joint: how SparseVSR's is searched. Raises InputError
    if its vocabulary is not that of the `dictionary`.
    """
    model = load_recognizer(path, device)
    if isinstance(model, CTCAttentionRecognizer):
        family = CTCAttentionFamily(model, dictionary, joint)
    else:
        family = AVHubertFamily(model, dictionary, modalities, beam)
    symbols = family.vocabulary.pieces
    trained_with = read_origin(path).get("dictionary")
    check_dictionary(dictionary, symbols, model.decoder.config.vocabulary, trained_with)
    return family
