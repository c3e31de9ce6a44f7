"""The symbols that a model's outputs stand for: in its file, or in a dictionary that fits it."""

from __future__ import annotations

from pathlib import Path

from avhubert_ext.checkpoints import auto_avsr
from avhubert_ext.checkpoints.model_file import ModelFile
from avhubert_ext.checkpoints.torch_file import section
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.data.text import (
    CTC_FIRST,
    Vocabulary,
    check_dictionary,
    ctc_symbols,
    dictionary_digest,
    join_symbols,
)
from avhubert_ext.errors import InputError

DICTIONARY = "dict.wrd.txt"
UNITS = "unigram5000_units.txt"  # Auto-AVSR's


def find_subwords(model: Path | ModelFile, given: Path | None = None) -> list[str]:
    """The symbols of all outputs of a recognizer.

    Without `given` they are looked up in the file itself, in the dictionary of the data folder that
    it was trained on, and in a dictionary beside the file, in this order. A dictionary fits if its
    digest is the one in the file, or its size if the file has no digest; one that does not fit is
    passed over.

    Args:
        model: A model file; pass a `ModelFile` to read it only once.
        given: Look nowhere but here: a dictionary file, Auto-AVSR's units, or a folder with one of
            them.

    Returns:
        The symbols in the order of their ids, special ones included.

    Raises:
        InputError: If the file has no decoder, or no dictionary fits.
    """
    file = model if isinstance(model, ModelFile) else ModelFile(model)
    if "decoder" not in file.description:
        raise InputError(
            f"{file.path} holds an encoder only: finetune it, or name a finetuned model"
        )
    outputs = section(file.description, "decoder").get("vocabulary")
    expected_digest = file.origin.get("dictionary")
    if not isinstance(outputs, int):
        raise InputError(f"{file.path}: its configuration is damaged; copy it again")
    ctc = file.description.get("kind") == "ctc_attention"
    if given is not None:
        dictionary = given if given.is_file() else _in_folder(given)
        if dictionary is None:
            raise InputError(f"{given}: no {DICTIONARY} or {UNITS} there; name the right folder")
        symbols = read_symbols(dictionary, ctc)
        check_dictionary(dictionary, symbols, outputs, expected_digest)
        return symbols
    if file.subwords is not None:
        check_dictionary(file.path, file.subwords, outputs, expected_digest)
        return file.subwords
    folders = [file.training_data, file.path.parent]
    for dictionary in filter(None, (_in_folder(folder) for folder in folders if folder)):
        symbols = read_symbols(dictionary, ctc)
        if len(symbols) == outputs and expected_digest in (None, dictionary_digest(symbols)):
            return symbols
    raise InputError(
        f"{file.path}: the subwords of its {outputs} outputs are neither in it nor in a "
        f"{DICTIONARY} beside it: name the folder of its subwords, with --dictionary on a command "
        "line"
    )


def whole_origin(file: ModelFile) -> dict[str, str]:
    """The origin of a model with its subwords, wherever these are.

    They are added only if the file stores their digest.
    """
    if "dictionary" not in file.origin or file.subwords is not None:
        return file.origin
    try:
        return file.origin | {"subwords": join_symbols(find_subwords(file))}
    except InputError:
        return file.origin


def read_symbols(file: Path, ctc: bool) -> list[str]:
    """The symbols of all outputs for the subwords in a dictionary file or in Auto-AVSR's units.

    Args:
        file: The dictionary or units file.
        ctc: Whether the outputs are those of a CTC/attention recognizer. Auto-AVSR's always are.

    Returns:
        The symbols in the order of their ids.

    Raises:
        InputError: If the file is missing or damaged.
    """
    if read_lines(file)[:1] == [f"{CTC_FIRST[1]} 1"]:
        return ctc_symbols(auto_avsr.read_units(file))
    return Vocabulary(file, ctc).symbols


def _in_folder(folder: Path) -> Path | None:
    """The dictionary or the units in a folder."""
    found = (folder / name for name in (DICTIONARY, UNITS))
    return next((path for path in found if path.is_file()), None)
