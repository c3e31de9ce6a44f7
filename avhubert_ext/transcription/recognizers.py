"""Ready recognizers from files: every checkpoint that the library reads, and exported folders."""

from __future__ import annotations

from pathlib import Path

from avhubert_ext.decoding.beam import BeamConfig, JointConfig
from avhubert_ext.decoding.recognition import Recognizer
from avhubert_ext.errors import InputError


def load(
    model: Path | str,
    *,
    dictionary: Path | None = None,
    beam: int | None = None,
    ctc_weight: float | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Recognizer:
    """The recognizer in a checkpoint of any kind, or in a folder of `avhubert-ext export`.

    dictionary: where its subwords are, see `find_subwords`; an exported model has them with it.
    beam, ctc_weight: of the search; None for the defaults, of an exported model for those that it
    was exported with. ctc_weight is for models with CTC. threads: of the CPU, None for what the
    library takes. Raises InputError for a file that is none, or whose subwords are not known.
    """
    model = Path(model)
    if model.is_dir():
        if dictionary is not None or device not in ("auto", "cpu"):
            raise InputError(
                f"{model}: an exported model has its subwords and runs on the CPU; leave "
                "--dictionary and --device out"
            )
        from avhubert_ext.runtime import load_exported

        return load_exported(model, threads=threads, beam=beam, ctc_weight=ctc_weight)
    import torch

    from avhubert_ext.checkpoints.model_file import load_recognizer
    from avhubert_ext.checkpoints.subwords import find_subwords
    from avhubert_ext.device import choose_device
    from avhubert_ext.models.conformer import CTCAttentionRecognizer
    from avhubert_ext.transcription.networks import AVHubert, CTCAttention

    if threads is not None:
        torch.set_num_threads(threads)
    network = load_recognizer(model, choose_device(device)).eval()
    pieces = find_subwords(model, dictionary)
    if isinstance(network, CTCAttentionRecognizer):
        return CTCAttention(
            network, pieces, JointConfig(**_given(beam=beam, ctc_weight=ctc_weight))
        )
    if ctc_weight is not None:
        raise InputError(f"{model}: has no CTC layer to give a weight to; leave --ctc-weight out")
    return AVHubert(network, pieces, BeamConfig(**_given(beam=beam)))


def _given(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
