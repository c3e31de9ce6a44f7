"""A fairseq dictionary in the order of the outputs of a CTC/attention recognizer."""

from __future__ import annotations

from pathlib import Path

from fairseq.data import Dictionary

from avhubert_ext.data.manifest import read_lines
from avhubert_ext.data.text import CTC_FIRST, CTC_LAST, Vocabulary


class CTCDictionary(Dictionary):
    """Blank, unknown, the subwords of a dictionary file, and the end of a sentence: `outputs`.

    The symbol for the end of a sentence also stands at its beginning. Padding is an additional
    symbol after the outputs.
    """

    def __init__(self, path: Path) -> None:
        """Read the subwords.

        Args:
            path: A dictionary, one subword per line: dict.wrd.txt.

        Raises:
            InputError: The file is missing or no dictionary.
        """
        read_lines(path)  # raises the InputError for a missing file
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
