"""What the two kinds of model files contain, in the parts that `ModelFile` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from avhubert_ext.checkpoints import auto_avsr, avhubert, fairseq_file, s3prl_file, sparse_file
from avhubert_ext.checkpoints.description import DESCRIPTION_KEY
from avhubert_ext.checkpoints.safetensors_file import SafetensorsFile
from avhubert_ext.checkpoints.stored_network import StoredNetwork
from avhubert_ext.checkpoints.torch_file import read_checkpoint, summary
from avhubert_ext.compression.pruning import Masks
from avhubert_ext.compression.quantization import Codebooks
from avhubert_ext.errors import InputError


class Contents(Protocol):
    """The content of an open file; see `ModelFile` for the meaning of each part."""

    @property
    def description(self) -> dict[str, Any] | str: ...

    @property
    def network(self) -> StoredNetwork: ...

    @property
    def codebooks(self) -> Codebooks: ...

    @property
    def origin(self) -> Mapping[str, Any]: ...

    @property
    def training_data(self) -> Path | None: ...

    def masks(self, whole_student: bool) -> Masks: ...


def open_contents(path: Path) -> Contents:
    """Open a file: `.safetensors`, or any other as a file of `torch.save`."""
    return SafetensorsContents(path) if path.suffix == ".safetensors" else TorchContents(path)


class SafetensorsContents:
    """A `.safetensors` file of this project."""

    training_data = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = SafetensorsFile(path)
        self.origin: Mapping[str, Any] = self._file.metadata

    @property
    def description(self) -> str:
        if DESCRIPTION_KEY not in self._file.metadata:
            raise InputError(
                f"{self._path}: no avhubert-ext configuration inside; convert the model first"
            )
        return self._file.metadata[DESCRIPTION_KEY]

    @property
    def network(self) -> StoredNetwork:
        description = self.description  # checked before all tensors are read
        dense = sparse_file.to_dense(self._file.tensors(), self._file.metadata, self._path)
        return StoredNetwork(description, dense, {})

    def masks(self, whole_student: bool) -> Masks:
        bits = self._file.tensors(sparse_file.MASK)
        return sparse_file.masks_in(bits, self._file.metadata, self._path)

    @property
    def codebooks(self) -> Codebooks:
        return sparse_file.codebooks_in(self._file.tensors(sparse_file.CODEBOOK))


class TorchContents:
    """A file of `torch.save`: a checkpoint of fairseq, s3prl, AV-HuBERT, or Auto-AVSR."""

    codebooks: Codebooks = sparse_file.DENSE

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored = read_checkpoint(path, mapped=True)

    @property
    def description(self) -> dict[str, Any] | str:
        return self.network.description

    @cached_property
    def network(self) -> StoredNetwork:
        for file_format in (s3prl_file, avhubert, auto_avsr, fairseq_file):
            found = file_format.network(self._path, self._stored)
            if found is not None:
                return found
        raise InputError(
            f"{self._path}: not a checkpoint of av_hubert, av_hubert_seq2seq, av_asr_seq2seq, "
            "av_student, vsr_ctc_attention, distiller_av or Auto-AVSR, with the configuration of "
            f"its network; it holds {summary(self._stored)}; name the file that training wrote"
        )

    def masks(self, whole_student: bool) -> Masks:
        return fairseq_file.masks(self._path, self._stored, whole_student)

    @property
    def origin(self) -> Mapping[str, Any]:
        return fairseq_file.origin(self._stored) | avhubert.origin(self._stored)

    @property
    def training_data(self) -> Path | None:
        return fairseq_file.training_data(self._stored)
