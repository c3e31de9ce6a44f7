"""Subwords: training a sentencepiece model, and fairseq's dictionary file for it."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from avhubert_ext.data.files import whole_file, write_text
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.errors import InputError

SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")  # the first ids, as in fairseq
SPECIALS = len(SPECIAL_SYMBOLS)
PAD, EOS = 1, 2
# Around the subwords of a CTC/attention recognizer, as in Auto-AVSR: the first ids, and the last.
CTC_FIRST, CTC_LAST = ("<blank>", "<unk>"), "<eos>"
BLANK = 0


@dataclass(frozen=True)
class SubwordConfig:
    """How text is cut.

    kind: unigram (the papers') or bpe; unigram finds no whole words in a corpus of few word types.
    vocabulary: counts the four special symbols; a small corpus may give fewer subwords.
    reuse: folder whose `spm_*.model` and `dict.wrd.txt` are taken instead of training new ones.
    """

    kind: str = "unigram"
    vocabulary: int = 1000
    reuse: Path | None = None


def make_subwords(transcripts: list[str], config: SubwordConfig, folder: Path) -> None:
    """Write `spm_KINDN.model` and `dict.wrd.txt` into `folder`."""
    if config.reuse is None:
        model = train_subwords(transcripts, config.kind, config.vocabulary, folder)
    else:
        model = find_subword_model(config.reuse).name
        for name in (model, "dict.wrd.txt"):
            if not (config.reuse / name).is_file():
                raise InputError(f"{config.reuse / name} not found: it belongs to {model}")
            with whole_file(folder / name) as temporary:
                shutil.copyfile(config.reuse / name, temporary)
    for stale in folder.glob("spm_*.model"):
        if stale.name != model:
            stale.unlink()


def train_subwords(transcripts: list[str], kind: str, vocabulary: int, folder: Path) -> str:
    """Train a sentencepiece model, see `SubwordConfig`; returns its file name."""
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([t.lower() for t in transcripts]),
            model_writer=model,
            vocab_size=vocabulary,
            model_type=kind,
            character_coverage=1.0,
            hard_vocab_limit=False,
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--vocabulary {vocabulary}: no subwords for it ({reason})") from None
    name = f"spm_{kind}{vocabulary}.model"
    with whole_file(folder / name) as temporary:
        temporary.write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(SPECIALS, processor.get_piece_size())]
    write_text(folder / "dict.wrd.txt", "".join(f"{piece} 1\n" for piece in pieces))
    return name


def write_subwords(pieces: list[str], model: bytes, folder: Path) -> None:
    """Write a sentencepiece model that was made elsewhere, and the dictionary in its own order."""
    with whole_file(folder / f"spm_unigram{SPECIALS + len(pieces)}.model") as temporary:
        temporary.write_bytes(model)
    write_text(folder / "dict.wrd.txt", "".join(f"{piece} 1\n" for piece in pieces))


class Subwords:
    """Text to subwords, in the case that the model's subwords are in.

    That is lower case as AV-HuBERT's labels, or upper case as Auto-AVSR's.
    """

    def __init__(self, model: Path) -> None:
        import sentencepiece

        if not model.is_file():
            raise InputError(f"{model} not found: make it with `avhubert-ext prepare`")
        # From memory: names of files may be any bytes, and the constructor ignores an empty model.
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
        return self.processor.encode(self.case(text), out_type=str)


class Vocabulary:
    """The subwords of fairseq's dictionary file, one a line with its count, as ids.

    `symbols` of a transformer decoder: fairseq's special symbols, then the subwords. Of a
    CTC/attention recognizer (`ctc`): blank, unknown, the subwords, and the end of a sentence.
    """

    def __init__(self, path: Path, ctc: bool = False) -> None:
        subwords = read_dictionary(path)
        self.symbols = ctc_symbols(subwords) if ctc else [*SPECIAL_SYMBOLS, *subwords]
        self.eos = len(self.symbols) - 1 if ctc else EOS
        self.known = set(subwords)

    def __len__(self) -> int:
        return len(self.symbols)

    def text(self, tokens: Iterable[int]) -> str:
        """The words that ids stand for, up to the end of the sentence."""
        pieces = []
        for token in tokens:
            if token == self.eos:
                break
            pieces.append(self.symbols[token])
        return join_pieces(pieces)

    def reference(self, pieces: list[str]) -> str:
        """A transcript as it is scored: what the dictionary lacks is `<<unk>>`, as in fairseq."""
        return join_pieces([p if p in self.known else "<<unk>>" for p in pieces])


def read_dictionary(path: Path) -> list[str]:
    """The subwords of a `dict.wrd.txt`, in its order.

    Raises InputError for a line that is not a subword, a blank and a count, for a subword that is
    there twice or is a special symbol, and for a file without any.
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
                f"{path} line {number}: {subword!r} is there twice, or is a special symbol, which "
                "the file must not have; copy the dictionary again"
            )
        subwords[subword] = count
    if not subwords:
        raise InputError(f"{path}: empty; copy the dictionary again")
    return list(subwords)


def ctc_symbols(subwords: list[str]) -> list[str]:
    """All outputs of a CTC/attention recognizer in the order of their ids."""
    return [*CTC_FIRST, *subwords, CTC_LAST]


def dictionary_digest(symbols: list[str]) -> str:
    """Of all symbols, the special ones first: another for other ones or another order."""
    return hashlib.sha256(join_symbols(symbols).encode()).hexdigest()


def join_symbols(symbols: list[str]) -> str:
    """All symbols as files of models keep them, one a line."""
    return "\n".join(symbols)


def check_dictionary(
    path: Path, symbols: list[str], expected: int, expected_digest: str | None
) -> None:
    """Raise an InputError if a dictionary file is not the one a model was trained with.

    expected: the model's number of symbols; expected_digest: None where it is not known.
    """
    known = expected_digest in (None, dictionary_digest(symbols))
    if len(symbols) == expected and known:
        return
    found = f"{len(symbols)} subwords with the special ones, the model has {expected}"
    if len(symbols) == expected:
        found = "not the subwords that the model was trained with, or in another order"
    raise InputError(
        f"{path}: {found}: name the data folder whose dictionary it was trained with, or prepare "
        "the data with --reuse-subwords"
    )


def join_pieces(pieces: Iterable[str]) -> str:
    """sentencepiece's subwords -> words."""
    return "".join(pieces).replace("\u2581", " ").strip()


def find_subword_model(folder: Path) -> Path:
    """The only `spm_*.model` of a folder; an InputError if there is none or more than one."""
    found = sorted(folder.glob("spm_*.model"))
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise InputError(
            f"{folder}: expected one spm_*.model, found {names}; name one: --subword-model"
        )
    return found[0]
