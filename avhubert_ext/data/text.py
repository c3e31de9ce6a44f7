"""Subwords: sentencepiece models, and fairseq's dictionary files for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from avhubert_ext.data.files import whole_file, write_text
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.errors import InputError

SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")  # the first ids, as in fairseq
SPECIALS = len(SPECIAL_SYMBOLS)
PAD, EOS = 1, 2
# The special symbols of a CTC/attention recognizer, as in Auto-AVSR: the first ids, and the last.
CTC_FIRST, CTC_LAST = ("<blank>", "<unk>"), "<eos>"
BLANK = 0


def write_subwords(pieces: list[str], model: bytes, folder: Path) -> None:
    """Write an existing sentencepiece model and its dictionary.

    Args:
        pieces: The subwords, in the order of the dictionary.
        model: The content of the sentencepiece model.
        folder: The folder to write to.
    """
    with whole_file(folder / f"spm_unigram{SPECIALS + len(pieces)}.model") as temporary:
        temporary.write_bytes(model)
    write_dictionary(pieces, folder)


def write_dictionary(pieces: list[str], folder: Path) -> None:
    """Write subwords as fairseq's `dict.wrd.txt` into a folder."""
    write_text(folder / "dict.wrd.txt", "".join(f"{piece} 1\n" for piece in pieces))


class Subwords:
    """Splits text into subwords, in the case of the model's subwords.

    AV-HuBERT's are in lower case, Auto-AVSR's in upper case.

    Args:
        model: The sentencepiece model file.

    Raises:
        InputError: If the file is missing or damaged.
    """

    def __init__(self, model: Path) -> None:
        import sentencepiece

        if not model.is_file():
            raise InputError(f"{model} not found: make it with `avhubert-ext data prepare`")
        # From memory: file names may be any bytes, and the constructor accepts an empty model.
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.LoadFromSerializedProto(model.read_bytes())
        except RuntimeError:
            raise InputError(
                f"{model}: damaged, or not a sentencepiece model; copy it again"
            ) from None
        pieces = [
            self.processor.id_to_piece(i)
            for i in range(self.processor.get_piece_size())
            if not (self.processor.is_control(i) or self.processor.is_unknown(i))
        ]
        self.case = str.upper if "".join(pieces).isupper() else str.lower

    def encode(self, text: str) -> list[str]:
        """Split a text into subwords."""
        return self.processor.encode(self.case(text), out_type=str)


class Vocabulary:
    """The ids of the subwords in fairseq's dictionary file (one subword and its count per line).

    Args:
        path: The dictionary file.
        ctc: Whether the ids are those of a CTC/attention recognizer.

    Attributes:
        symbols: All symbols by id. For a transformer decoder: fairseq's special symbols, then the
            subwords. With `ctc`: blank, unknown, the subwords, and the end of the sentence.
        eos: The id of the end of the sentence.
        known: The subwords as a set.

    Raises:
        InputError: If the file is missing or malformed.
    """

    def __init__(self, path: Path, ctc: bool = False) -> None:
        subwords = read_dictionary(path)
        self.symbols = ctc_symbols(subwords) if ctc else [*SPECIAL_SYMBOLS, *subwords]
        self.eos = len(self.symbols) - 1 if ctc else EOS
        self.known = set(subwords)

    def __len__(self) -> int:
        return len(self.symbols)

    def text(self, tokens: Iterable[int]) -> str:
        """Return the words of a sequence of ids, up to the end of the sentence."""
        pieces = []
        for token in tokens:
            if token == self.eos:
                break
            pieces.append(self.symbols[token])
        return join_pieces(pieces)

    def reference(self, pieces: list[str]) -> str:
        """Return a transcript for scoring: missing subwords become `<<unk>>`, as in fairseq."""
        return join_pieces([p if p in self.known else "<<unk>>" for p in pieces])


def read_dictionary(path: Path) -> list[str]:
    """Read the subwords of a `dict.wrd.txt`, in order.

    Raises:
        InputError: If a line is not a subword, a blank, and a count; if a subword occurs twice or
            is a special symbol; or if there are no subwords.
    """
    subwords: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        subword, _, count = line.rpartition(" ")
        if not (subword.strip() and count.isascii() and count.isdigit()):
            raise InputError(
                f"{path} line {number}: expected a subword and its count, found {line[:80]!r}; "
                "copy the dictionary again"
            )
        if subword in subwords or subword in SPECIAL_SYMBOLS:
            raise InputError(
                f"{path} line {number}: {subword!r} occurs twice, or is a special symbol, which "
                "is not allowed; copy the dictionary again"
            )
        subwords[subword] = count
    if not subwords:
        raise InputError(f"{path}: empty; copy the dictionary again")
    return list(subwords)


def ctc_symbols(subwords: list[str]) -> list[str]:
    """Return all outputs of a CTC/attention recognizer in the order of their ids."""
    return [*CTC_FIRST, *subwords, CTC_LAST]


def dictionary_digest(symbols: list[str]) -> str:
    """Return a hash of all symbols in order, the special ones first."""
    return hashlib.sha256(join_symbols(symbols).encode()).hexdigest()


def join_symbols(symbols: list[str]) -> str:
    """Join all symbols as stored in model files, one symbol per line."""
    return "\n".join(symbols)


def check_dictionary(
    path: Path, symbols: list[str], expected: int, expected_digest: str | None
) -> None:
    """Raise an InputError if a dictionary is not the one that a model was trained with.

    Args:
        path: The dictionary file, for the error message.
        symbols: All symbols in order, the special ones first.
        expected: The model's number of symbols.
        expected_digest: The model's `dictionary_digest`, None if unknown.
    """
    known = expected_digest in (None, dictionary_digest(symbols))
    if len(symbols) == expected and known:
        return
    found = f"{len(symbols)} subwords including special symbols, the model has {expected}"
    if len(symbols) == expected:
        found = "not the subwords that the model was trained with, or in another order"
    raise InputError(
        f"{path}: {found}; use the data folder with the dictionary of the training, or prepare "
        "the data with --reuse-subwords"
    )


def join_pieces(pieces: Iterable[str]) -> str:
    """Join sentencepiece's subwords to words."""
    return "".join(pieces).replace("\u2581", " ").strip()


def find_subword_model(folder: Path) -> Path:
    """Return the only `spm_*.model` of a folder; InputError if there is none or more than one."""
    found = sorted(folder.glob("spm_*.model"))
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise InputError(
            f"{folder}: expected one spm_*.model, found {names}; choose one with --subword-model"
        )
    return found[0]
