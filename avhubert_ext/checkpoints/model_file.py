"""Reading and writing model files of every kind: `ModelFile`, `load_model`, `save_model`, ...

The one place to import from. The formats themselves are in the other modules of this package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avhubert_ext.checkpoints import sparse_file
from avhubert_ext.checkpoints.contents import Contents, open_contents
from avhubert_ext.checkpoints.description import (
    DESCRIPTION_KEY,
    RecognizerNetwork,
    build,
    build_for,
    describe,
)
from avhubert_ext.checkpoints.fairseq_file import NOTHING
from avhubert_ext.checkpoints.safetensors_file import SEAL_KEY, seal, write_tensors
from avhubert_ext.compression.pruning import Masks
from avhubert_ext.compression.quantization import Codebooks
from avhubert_ext.device import choose_device
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.decoder import AVRecognizer
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.student import Student

ORIGIN = ("trained_with", "dictionary", "subwords")
MASKED = (".safetensors", ".pt")  # endings of files that can hold masks


class ModelFile:
    """A model file of any kind, opened and read once.

    It can be a `.safetensors` file of this project, a fairseq checkpoint `.pt` of this project or
    of the official AV-HuBERT, an s3prl state `.ckpt`, or a checkpoint `.pth` of Auto-AVSR. The file
    is opened when its first part is used. Nothing in it is executed. The tensors of a checkpoint
    stay in the file until they are used, so its optimizer state takes no memory; do not overwrite
    the file in place while the object is in use.

    Args:
        path: The file.

    Raises:
        InputError: If the file is missing; when a part is used, also if the file is truncated,
            damaged, or of another kind.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(
                f"{path} not found: correct the path, or train or convert a model first"
            )

    @cached_property
    def _contents(self) -> Contents:
        return open_contents(self.path)

    @cached_property
    def description(self) -> dict[str, Any]:
        """The network's configuration, see `describe`."""
        found = self._contents.description
        try:
            found = json.loads(found) if isinstance(found, str) else dict(found)
            return found | {}  # a TypeError for JSON that is not an object
        except (ValueError, TypeError):
            raise InputError(f"{self.path}: its configuration is damaged; copy it again") from None

    @cached_property
    def origin(self) -> dict[str, str]:
        """What the file stores about the training of its model, as far as it is known.

        `trained_with` is the `effective_batch`, `dictionary` the `dictionary_digest` of the
        symbols of the outputs, and `subwords` these symbols as `join_symbols` writes them.
        """
        found = self._contents.origin
        return {key: str(found[key]) for key in ORIGIN if found.get(key) not in (None, "unknown")}

    @cached_property
    def masks(self) -> Masks:
        """The pruning masks by the names of the model's weights; bool, True = kept.

        Empty for a dense model, and for a model whose pruned weights may still grow back (PARP
        before its end). A mask file has nothing else.
        """
        return self._contents.masks(False) if self.path.suffix in MASKED else {}

    @cached_property
    def student_masks(self) -> Masks:
        """As `masks`, with the names of the whole student: for a checkpoint of its training."""
        return self._contents.masks(True) if self.path.suffix in MASKED else {}

    @cached_property
    def codebooks(self) -> Codebooks:
        """The codebooks of an 8-bit model by the names of its weights; else empty."""
        return self._contents.codebooks

    @property
    def subwords(self) -> list[str] | None:
        """The symbols of the outputs in the order of their ids; None if they are not in the file.

        `find_subwords` also looks elsewhere.
        """
        return self.origin["subwords"].split("\n") if "subwords" in self.origin else None

    @property
    def training_data(self) -> Path | None:
        """The data folder that a fairseq model was trained on, if the file stores it."""
        return self._contents.training_data

    def model(self) -> AVHubertEncoder | RecognizerNetwork:
        """A new model with the file's weights: float32, on the CPU, in eval mode.

        A student's prediction heads are dropped.

        Raises:
            InputError: If the file does not hold exactly the tensors of its network, or if some
                are NaN or infinite.
        """
        stored = self._contents.network
        model = build_for(self.path, stored.description, len(stored.tensors))
        stored.load_into(model, self.path)
        return (model.encoder if isinstance(model, Student) else model).eval()

    def recognizer(self) -> RecognizerNetwork:
        """As `model`.

        Raises:
            InputError: Also if the file holds an encoder only.
        """
        model = self.model()
        if isinstance(model, AVHubertEncoder):
            raise InputError(
                f"{self.path} holds an encoder only: finetune it, or name a finetuned model"
            )
        return model


def load_model(path: Path | str) -> AVHubertEncoder | RecognizerNetwork:
    """The model in a file of any kind, see `ModelFile.model`."""
    return ModelFile(path).model()


def load_avhubert(path: Path | str, device: torch.device | str = "cpu") -> AVHubertEncoder:
    """The audio-visual encoder in a model file, without the decoder if it has one.

    Args:
        path: A file of any kind that `ModelFile` reads, except for Auto-AVSR's family, whose
            encoder takes other inputs.
        device: Where its weights, and your inputs, are: "cpu", "cuda", "cuda:N", "mps", or "auto"
            for the first CUDA GPU, or the CPU if there is none.

    Returns:
        The encoder in eval mode, float32.

    Raises:
        InputError: If the file cannot be read or holds a CTC/attention recognizer.
    """
    model = load_model(path)
    if isinstance(model, CTCAttentionRecognizer):
        raise _ctc_attention(path)
    encoder = model.encoder if isinstance(model, AVRecognizer) else model
    return encoder.to(choose_device(device))


def load_avhubert_asr(path: Path | str, device: torch.device | str = "cpu") -> AVRecognizer:
    """The recognizer of AV-HuBERT's family in a model file.

    Args:
        path: A file of any kind that `ModelFile` reads.
        device: Where its weights, and your inputs, are: "cpu", "cuda", "cuda:N", "mps", or "auto"
            for the first CUDA GPU, or the CPU if there is none.

    Returns:
        Encoder and decoder in eval mode, float32.

    Raises:
        InputError: If the file cannot be read, or holds an encoder only or a CTC/attention
            recognizer.
    """
    model = load_recognizer(path, device)
    if isinstance(model, CTCAttentionRecognizer):
        raise _ctc_attention(path)
    return model


def _ctc_attention(path: Path | str) -> InputError:
    return InputError(f"{path} holds a CTC/attention recognizer: load it with load_auto_avsr")


def load_auto_avsr(
    path: Path | str, device: torch.device | str = "cpu", mask_padding: bool | None = None
) -> CTCAttentionRecognizer:
    """The CTC/attention recognizer in a model file, for example one of Auto-AVSR's own.

    Args:
        path: A file of any kind that `ModelFile` reads.
        device: Where its weights, and your inputs, are: "cpu", "cuda", "cuda:N", "mps", or "auto"
            for the first CUDA GPU, or the CPU if there is none.
        mask_padding: False lets padding leak into the clips of a batch, as in Auto-AVSR's own code.
            None takes the value in the file, which is True for Auto-AVSR's own files.

    Returns:
        The recognizer in eval mode, float32.

    Raises:
        InputError: If the file cannot be read or holds another kind of model.
    """
    model = load_model(path)
    if not isinstance(model, CTCAttentionRecognizer):
        raise InputError(f"{path} holds no CTC/attention recognizer: name another file")
    if mask_padding is not None:
        model.set_mask_padding(mask_padding)
    return model.to(choose_device(device))


def load_recognizer(path: Path | str, device: torch.device | str = "cpu") -> RecognizerNetwork:
    """The recognizer of either family in a model file, see `ModelFile.recognizer`.

    Args:
        path: A file of any kind that `ModelFile` reads.
        device: Where its weights, and your inputs, are: "cpu", "cuda", "cuda:N", "mps", or "auto"
            for the first CUDA GPU, or the CPU if there is none.

    Returns:
        The recognizer in eval mode, float32.

    Raises:
        InputError: If the file cannot be read or holds an encoder only.
    """
    return ModelFile(path).recognizer().to(choose_device(device))


def read_masks(path: Path, whole_student: bool = False) -> Masks:
    """The masks in a mask file or model file, see `ModelFile.masks`.

    Args:
        path: The file.
        whole_student: See `ModelFile.student_masks`.

    Returns:
        The masks by name; empty for a dense model.

    Raises:
        InputError: If the file is missing or damaged.
    """
    file = ModelFile(path)
    return file.student_masks if whole_student else file.masks


def read_origin(path: Path) -> dict[str, str]:
    """What a file stores about the training of its model, see `ModelFile.origin`."""
    return ModelFile(path).origin


def save_model(
    path: Path,
    model: nn.Module,
    half: bool = False,
    origin: Mapping[str, str] = NOTHING,
    masks: Masks = NOTHING,
    codebooks: Codebooks = NOTHING,
) -> None:
    """Write an encoder or recognizer as `.safetensors`.

    Args:
        path: The file to write, in one step.
        model: An encoder or recognizer of this project.
        half: Whether to store the weights as float16.
        origin: See `ModelFile.origin`.
        masks: The masks of a pruned model; its zeros are not stored, see `sparse_file`.
        codebooks: The codebooks of a model that `quantize` changed; its weights are stored with one
            byte each.

    Raises:
        InputError: If the model is a student, or its tensors are not those of its configuration,
            for example after `fuse`.
    """
    if isinstance(model, Student):
        raise InputError(f"{path}: a student cannot be saved with its heads; save its encoder")
    tensors = {
        name: (t.half() if half and t.is_floating_point() else t).contiguous()
        for name, t in model.state_dict().items()
    }
    description = describe(model)
    with torch.device("meta"):
        expected = build(description).state_dict()
    if tensors.keys() != expected.keys():
        raise InputError(
            f"{path}: a changed model, fused or other, cannot be saved; save the original"
        )
    tensors, metadata = sparse_file.to_sparse(tensors, masks, codebooks)
    metadata |= {DESCRIPTION_KEY: json.dumps(description), **origin}
    metadata[SEAL_KEY] = seal(tensors, metadata)
    write_tensors(path, tensors, metadata)
