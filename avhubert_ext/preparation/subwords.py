"""Train subwords, or copy those of another folder, into a manifest folder."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path

from avhubert_ext.data.files import whole_file
from avhubert_ext.data.text import SPECIALS, find_subword_model, write_dictionary
from avhubert_ext.errors import InputError


@dataclass(frozen=True)
class SubwordConfig:
    """How text is split into subwords.

    Attributes:
        kind: `unigram` (both papers) or `bpe`. Unigram finds no whole words in a corpus of few
            word types.
        vocabulary: The number of subwords, including the four special symbols. A small corpus may
            yield fewer.
        reuse: A folder whose `spm_*.model` and `dict.wrd.txt` are copied instead of training.
    """

    kind: str = "unigram"
    vocabulary: int = 1000
    reuse: Path | None = None


def make_subwords(transcripts: list[str], config: SubwordConfig, folder: Path) -> None:
    """Write `spm_KINDN.model` and `dict.wrd.txt` into a folder.

    Args:
        transcripts: The text to train on.
        config: How to split it.
        folder: The manifest folder. Other subword models in it are deleted.

    Raises:
        InputError: If the vocabulary size is impossible, or the files to reuse are missing.
    """
    if config.reuse is None:
        model = _train(transcripts, config.kind, config.vocabulary, folder)
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


def _train(transcripts: list[str], kind: str, vocabulary: int, folder: Path) -> str:
    """Train a sentencepiece model, and return its file name."""
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
        raise InputError(f"--vocabulary {vocabulary}: cannot train subwords ({reason})") from None
    name = f"spm_{kind}{vocabulary}.model"
    with whole_file(folder / name) as temporary:
        temporary.write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(SPECIALS, processor.get_piece_size())]
    write_dictionary(pieces, folder)
    return name
