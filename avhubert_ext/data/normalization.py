"""Text normalization: from a written transcript to the words of a label.

One function, `normalize`, serves training labels and both sides of a score. `data prepare` writes
its settings beside the manifests (`text.json`), where all readers of the labels find them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from avhubert_ext.data.files import write_text
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.errors import InputError

SETTINGS = "text.json"
CASES = ("lower", "upper", "keep")
PUNCTUATION = ("remove", "keep")
BRACKETS = ("[]", "<>", "{}", "()")
APOSTROPHES = "\u2019\u02bc\uff07\u201b\u00b4`\u2032"  # variants of the apostrophe in it's
SPOKEN = "%&@#\u2030\u00a7\u00b0+="  # signs that are read as words, like those of currencies
INSIDE = "\u00b7\u05f3\u05f4"  # part of a word in other languages, if between letters
JOINERS = "\u200c\u200d"  # in Persian and Indic words
# Words that begin with an apostrophe. Before other words, it opens a quotation.
ELISIONS = {
    *("bout", "cause", "cos", "coz", "cross", "cuz", "d", "em", "er", "ere", "fore", "gainst"),
    *("im", "kay", "ll", "m", "n", "nam", "ne", "neath", "nem", "nen", "ner", "nother", "nuff"),
    *("re", "round", "s", "scuse", "t", "til", "till", "tis", "tude", "twas", "twere", "twill"),
    *("twould", "ve", "zat"),
}
# From \u2018 or \u201a before a word to \u2019 or \u2018 after one; \u2019 may occur inside words.
QUOTED = re.compile(
    r"(?<!\w)[\u2018\u201a](?=\w)((?:[^\u2018\u2019]|(?<=\w)\u2019(?=\w))*)[\u2018\u2019](?!\w)"
)
UNKNOWN = "<unk>"  # a subword that is not in the dictionary; in references <<unk>>


@dataclass(frozen=True)
class TextConfig:
    """How transcripts become labels. The defaults do not change the words of LRS3.

    Numbers and apostrophes within words are kept.

    Attributes:
        case: `lower`, `upper`, or `keep`.
        punctuation: `remove` or `keep`.
        tags: Pairs of brackets, for example `[]<>`. What they enclose, as in `[laughter]`, was
            not said and is removed. Any other single word in [], <> or {} is kept, brackets
            included.

    Raises:
        InputError: If a value is invalid.
    """

    case: str = "lower"
    punctuation: str = "remove"
    tags: str = "[]<>"

    def __post_init__(self) -> None:
        if self.case not in CASES:
            raise InputError(f"case {self.case!r}: expected one of {', '.join(CASES)}")
        if self.punctuation not in PUNCTUATION:
            raise InputError(f"punctuation {self.punctuation!r}: expected remove or keep")
        pairs = [self.tags[i : i + 2] for i in range(0, len(self.tags), 2)]
        if not isinstance(self.tags, str) or any(pair not in BRACKETS for pair in pairs):
            raise InputError(f"tags {self.tags!r}: expected pairs of brackets, such as '[]<>'")

    def __str__(self) -> str:
        return f"text case {self.case}, punctuation {self.punctuation}, tags {self.tags or 'none'}"

    @classmethod
    def find(cls, text: str) -> TextConfig:
        """Parse the settings in a text that contains `str(config)`; else return the defaults."""
        found = re.search(r"text case (\w+), punctuation (\w+), tags ([][<>{}()]+|none)", text)
        return cls(found[1], found[2], found[3].replace("none", "")) if found else cls()


DEFAULT = TextConfig()


def normalize(text: str, config: TextConfig = DEFAULT) -> str:
    """Normalize a transcript to a label.

    In this order: change the case and apply Unicode NFC; remove invisible characters, such as a
    byte order mark; replace typographic apostrophes by '; remove tags; remove punctuation (a hyphen
    becomes a blank). Punctuation between digits (3.5, 10:30) and spoken signs (%, &, $) are kept.

    Args:
        text: The transcript.
        config: The settings.

    Returns:
        Words separated by single blanks; empty if none are left.
    """
    cased = {"lower": str.lower, "upper": str.upper, "keep": str}[config.case](text)
    text = unicodedata.normalize("NFC", "".join(map(_visible, cased)))
    text = _with_apostrophes(text)
    for opening, closing in (config.tags[i : i + 2] for i in range(0, len(config.tags), 2)):
        while (shorter := _enclosed(opening, closing).sub(" ", text)) != text:
            text = shorter
    if config.punctuation == "remove":
        words = " ".join(map(_without_punctuation, text.split())).split()
        text = " ".join(_unquoted(words))
    return " ".join(text.split())


def comparable(text: str, config: TextConfig) -> str:
    """Normalize a decoded reference or hypothesis for scoring.

    The case is that of the recognizer's subwords, on both sides. Symbols for unknown subwords are
    kept, so that they count as errors.

    Args:
        text: The reference or hypothesis.
        config: The settings of the labels.
    """
    keep = TextConfig("keep", config.punctuation, config.tags)
    if UNKNOWN not in text:
        return normalize(text, keep)
    words = (w if UNKNOWN in w else normalize(w, keep) for w in text.split())
    return " ".join(filter(None, words))


@dataclass(frozen=True)
class TextChanges:
    """What normalization changed in a data set, other than case and blanks.

    Attributes:
        changed: The number of changed utterances.
        total: The number of utterances.
        examples: Pairs of texts before and after.
    """

    changed: int
    total: int
    examples: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        summary = f"text normalization changed {self.changed} of {self.total} utterances"
        if not self.changed:
            return summary
        return summary + ", for example " + "; ".join(f"{a!r} -> {b!r}" for a, b in self.examples)


def changes(texts: Sequence[str], config: TextConfig, examples: int = 3) -> TextChanges:
    """Compare texts before and after normalization, ignoring case and blanks.

    Args:
        texts: The transcripts.
        config: The settings of the normalization.
        examples: The largest number of examples to return.
    """
    case = {"lower": str.lower, "upper": str.upper, "keep": str}[config.case]
    pairs = [(" ".join(text.split()), normalize(text, config)) for text in texts]
    changed = [(before, after) for before, after in pairs if case(before) != after]
    return TextChanges(len(changed), len(pairs), tuple(changed[:examples]))


def write_text_config(folder: Path, config: TextConfig) -> None:
    """Write the settings to `text.json` beside the manifests in `folder`."""
    write_text(folder / SETTINGS, json.dumps(asdict(config)) + "\n")


def read_text_config(folder: Path) -> TextConfig:
    """Read the settings beside the manifests in `folder`; the defaults if there are none.

    Raises:
        InputError: If the file is malformed.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return TextConfig()
    try:
        return TextConfig(**json.loads("\n".join(read_lines(path))))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, TypeError, RecursionError):
        raise InputError(
            f"{path}: not settings of text normalization; run `avhubert-ext data prepare` again"
        ) from None


def _visible(char: str) -> str:
    """Return the character; nothing if it is invisible, a blank if it is a control character."""
    match unicodedata.category(char):
        case "Cf" if char not in JOINERS:
            return ""
        case "Cc" | "Cs" | "Zl" | "Zp" | "Zs":
            return " "
    return "" if "\ufe00" <= char <= "\ufe0f" else char  # variation selectors of emoji


def _with_apostrophes(text: str) -> str:
    """Replace typographic apostrophes by ', and pairs of typographic single quotes by blanks."""
    text = QUOTED.sub(r" \1 ", text)
    return re.sub(rf"[\u2018{APOSTROPHES}](?=\w)|(?<=\w)[{APOSTROPHES}]", "'", text)


@cache
def _enclosed(opening: str, closing: str) -> re.Pattern[str]:
    a, b = re.escape(opening), re.escape(closing)
    # Not if a blank follows: 2 < 3.
    return re.compile(rf"{a}(?! )[^{a}{b}]*{b}" if opening == "<" else f"{a}[^{a}{b}]*{b}")


def _is_tag(word: str) -> bool:
    """Return whether a word is enclosed in [], <> or {} and contains no other brackets."""
    return re.fullmatch(r"\[[^][<>{}]+\]|<[^][<>{}]+>|\{[^][<>{}]+\}", word) is not None


def _without_punctuation(word: str) -> str:
    """Replace the punctuation of a word by blanks, except '."""
    if word.isalnum() or _is_tag(word):
        return word
    neighbors = zip(f" {word}", word, f"{word[1:]} ", strict=False)
    return "".join(char if _stays(a, char, b) else " " for a, char, b in neighbors)


def _stays(before: str, char: str, after: str) -> bool:
    """Return whether a character between two others belongs to a word or number."""
    if char in JOINERS:
        return all(unicodedata.category(c)[0] in "LMN" for c in (before, after))
    kind = unicodedata.category(char)
    if kind[0] not in "PS" or kind == "Sc" or char in SPOKEN or char == "'":
        return True
    if before.isdecimal() and after.isdecimal():
        return True
    if char in "-\u2212" and after.isdecimal():
        return not (before.isalnum() or before in "-\u2212")  # a minus
    return char in INSIDE and before.isalpha() and after.isalpha()


def _unquoted(words: list[str]) -> list[str]:
    """Remove the ' around quotations, but not those of 'cause and dogs'."""
    words, opened = words.copy(), []
    for index, word in enumerate(words):
        bare = word.strip("'")
        if word[0] == "'" and bare and not (bare.lower() in ELISIONS or bare[0].isdecimal()):
            opened.append(index)
        if opened and word[-1] == "'":
            words[index] = words[index].rstrip("'")
            first = opened.pop()
            words[first] = words[first].lstrip("'")
    return [word for word in words if word.strip("'")]
