"""The subwords that a model's outputs stand for: in its file, or in a dictionary that fits it."""

from __future__ import annotations

from pathlib import Path

from avhubert_ext.checkpoints import auto_avsr
from avhubert_ext.checkpoints.model_file import read_description, read_origin
from avhubert_ext.checkpoints.torch_file import read_checkpoint, section
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


def find_subwords(model: Path, given: Path | None = None) -> list[str]:
    """The symbols of all outputs of the recognizer in a file, special ones included, by their ids.

    From the file itself, else the dictionary of the data folder that it was trained on, else one
    beside the file; or nowhere but from `given`: a dictionary file, Auto-AVSR's units, or a folder
    with one of them. A dictionary that is not the model's (digest, or size where the file tells
    none) is passed over; InputError if it was given, or if none is left.
    """
    description, origin = read_description(model), read_origin(model)
    if "decoder" not in description:
        raise InputError(f"{model} holds an encoder only: finetune it, or name a finetuned model")
    outputs, digest = section(description, "decoder").get("vocabulary"), origin.get("dictionary")
    if not isinstance(outputs, int):
        raise InputError(f"{model}: its configuration is damaged; copy it again")
    ctc = description.get("kind") == "ctc_attention"
    if given is not None:
        file = given if given.is_file() else _in_folder(given)
        if file is None:
            raise InputError(f"{given}: no {DICTIONARY} or {UNITS} there; name the right folder")
        symbols = read_symbols(file, ctc)
        check_dictionary(file, symbols, outputs, digest)
        return symbols
    if "subwords" in origin:
        symbols = origin["subwords"].split("\n")
        check_dictionary(model, symbols, outputs, digest)
        return symbols
    looked = [_training_data(model), model.parent]
    for file in filter(None, (_in_folder(folder) for folder in looked if folder)):
        symbols = read_symbols(file, ctc)
        if len(symbols) == outputs and digest in (None, dictionary_digest(symbols)):
            return symbols
    raise InputError(
        f"{model}: what its {outputs} outputs stand for is neither in it nor in a {DICTIONARY} "
        "beside it: name the folder of its subwords, with --dictionary on a command line"
    )


def whole_origin(path: Path) -> dict[str, str]:
    """As `read_origin`, with the subwords wherever they are, if the file tells their digest."""
    origin = read_origin(path)
    if "dictionary" not in origin or "subwords" in origin:
        return origin
    try:
        return origin | {"subwords": join_symbols(find_subwords(path))}
    except InputError:
        return origin


def read_symbols(file: Path, ctc: bool) -> list[str]:
    """All outputs' symbols for the subwords in a dictionary file or in Auto-AVSR's units.

    ctc: of a CTC/attention recognizer, as Auto-AVSR's are.
    """
    if read_lines(file)[:1] == [f"{CTC_FIRST[1]} 1"]:
        return ctc_symbols(auto_avsr.read_units(file))
    return Vocabulary(file, ctc).pieces


def _in_folder(folder: Path) -> Path | None:
    found = (folder / name for name in (DICTIONARY, UNITS))
    return next((path for path in found if path.is_file()), None)


def _training_data(model: Path) -> Path | None:
    """The data folder in a fairseq checkpoint."""
    if model.suffix == ".safetensors":
        return None
    folder = section(read_checkpoint(model), "cfg", "task").get("data")
    return Path(folder) if isinstance(folder, str) else None
