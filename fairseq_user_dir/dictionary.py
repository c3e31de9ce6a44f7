"""fairseq's dictionary in the order of a CTC/attention recognizer's outputs."""

from __future__ import annotations

from pathlib import Path

from fairseq.data import Dictionary

from avhubert_ext.data.manifest import read_lines
from avhubert_ext.data.text import CTC_FIRST, CTC_LAST, Vocabulary


class CTCDictionary(Dictionary):
    """Blank, unknown, the subwords of a dictionary file, the end of a sentence: `outputs`.

    The end of a sentence also begins one. Padding is a symbol behind them, no output.
    """

    def __init__(self, path: Path) -> None:
        read_lines(path)  # a missing file ends in one clear line
        self.outputs = Vocabulary(path, ctc=True).symbols
        self.symbols, self.count, self.indices = [], [], {}
        for symbol in (*self.outputs, "<pad>"):
            self.add_symbol(symbol)
        self.unk_word, self.eos_word, self.bos_word = CTC_FIRST[1], CTC_LAST, CTC_LAST
        self.pad_word = "<pad>"
        self.unk_index = self.indices[self.unk_word]
        self.eos_index = self.bos_index = self.indices[CTC_LAST]
        self.pad_index = len(self.outputs)
        self.nspecial = len(CTC_FIRST)
