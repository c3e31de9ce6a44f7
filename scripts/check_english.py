#!/usr/bin/env python3
"""Check the wording of documentation, help, messages, and comments against a short glossary.

Run it from the repository: `scripts/check_english.py [FILE ...]`, by default on all files of the
repository. It prints `FILE:LINE: found -> use` for each finding and exits with 1 if there are any.
Identifiers, code in backticks, and strings without a blank (keys, names) are not checked. A line
with the comment `english: ok` is skipped, for example where another project's wording is quoted.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

Block = tuple[int, str]  # the number of the first line, and consecutive lines of prose

SKIP = "english: ok"
SUFFIXES = {".args", ".cff", ".html", ".js", ".md", ".py", ".sh", ".toml", ".yaml", ".yml"}
SETTINGS = {".args", ".toml", ".yaml", ".yml"}  # their values belong to other programs
EXEMPT = {
    "avhubert_ext/synth/words.py",  # a word list: changing it would change the corpus
    "scripts/check_english.py",
    "tests/test_check_english.py",
}

# Pattern -> what to write instead. A blank also matches a line break.
GLOSSARY = {
    # what files, logs and messages do
    r"tells?(?! apart)": "report, store, record, show, distinguish",
    r"told(?! (?:apart|from)\b)": "warned, reported, given",
    r"mend(?:s|ed|ing)?": "fix, check",
    r"anew": "again",
    r"(?:go|goes|went) on(?! (?:the|a|an|top|to)\b)": "resume, continue",
    r"going on (?:from|where|with)": "resuming, continuing",
    r"mak(?:es?|ing) no sense": "is invalid",
    r"(?:breaks?|broke|broken) off": "is interrupted",
    r"torn(?!\\?\.\w)|cut short": "truncated",
    r"has a say|have a say": "contributes",
    # words
    r"as (?:cuda|mps)": "for example cuda",
    r"kin": "variants",
    r"thrice": "three times",
    r"whilst": "while",
    r"amongst": "among",
    r"what (?:it|they|the \w+|a \w+) lacks?": "missing X",
    r"(?:a|one) (?:line|bit|number|file|row|folder|value|point) an? \w+": "one X per Y",
    r"nobody reproduces": "say which repository counts what",
    r"its authors included": "say who",
    r"to listen at": "to bind to",
    # American spelling
    r"\w*(?:behavi|col|fav|harb|hon|lab|neighb|rum|vap)our\w*": "-or",
    r"grey\w*": "gray",
    r"(?:\w+-)?cent(?:re|res|red)": "center",
    r"(?:centi|kilo|milli)?metres?": "meter",
    r"licences?": "license",
    r"artefacts?": "artifact",
    r"analys(?:e|ed|ing)": "analyze",
    r"(?:synthes|emphas)is(?:e|ed|er|ers|es|ing)": "-ize",
    r"\w*(?:general|initial|maxim|memor|minim|normal|optim|organ|parameter|penal|quant|recogn|"
    r"regular|serial|special|standard|summar|util|visual)is(?:e|ed|er|ers|es|ing|ation|ations)": (
        "-ize, -ization"
    ),
    r"realis(?:e|ed|es|ing|ation)": "-ize, -ization",
    r"(?:cancel|label|level|model|signal|travel)l(?:ed|er|ers|ing)": "one l",
    r"programmes?": "program",
}
PATTERNS = [
    (re.compile(rf"\b(?:{words})\b".replace(" ", r"\s+"), re.IGNORECASE), use)
    for words, use in GLOSSARY.items()
]


def findings(name: str, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, found, use) for each place in a file that the glossary would write otherwise."""
    lines = text.splitlines()
    for first, block in prose(name, text):
        for pattern, use in PATTERNS:
            for match in pattern.finditer(block):
                number = first + block.count("\n", 0, match.start())
                if SKIP not in lines[number - 1]:
                    yield number, " ".join(match[0].split()), use


def prose(name: str, text: str) -> Iterator[Block]:
    """Yield the parts of a file that people read, without code in backticks."""
    readers = {".py": _python, ".js": _javascript} | dict.fromkeys(SETTINGS, _comments)
    blocks = readers.get(Path(name).suffix, _plain)(text)
    for line, block in blocks:
        yield line, re.sub(r"`[^`\n]*`", _blank, block)


def _plain(text: str) -> Iterator[Block]:
    """The whole file; the # of a comment that goes to the next line is no part of its text."""
    yield 1, re.sub(r"^\s*#+ ", "", text, flags=re.MULTILINE)


def _comments(text: str) -> Iterator[Block]:
    """The comments of a settings file, with all else blanked out."""
    yield 1, re.sub(r"^[^#\n]*#? ?", "", text, flags=re.MULTILINE)


def _python(text: str) -> Iterator[Block]:
    """Comments, those of consecutive lines together, and strings with a blank in them."""
    comment: list[str] = []
    before = 0  # the line of the last comment
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            if comment and line != before + 1:
                yield before - len(comment) + 1, "\n".join(comment)
                comment = []
            comment.append(token.string.lstrip("# "))
            before = line
        elif token.type == tokenize.STRING and " " in token.string:
            prefix = re.match(r"\w*", token.string)[0].lower()
            fields = r"\{[^{}]*\}" if "f" in prefix else r"(?!)"
            yield line, re.sub(fields, _blank, token.string)
        elif tokenize.tok_name[token.type] == "FSTRING_MIDDLE" and " " in token.string:
            yield line, token.string
    if comment:
        yield before - len(comment) + 1, "\n".join(comment)


def _javascript(text: str) -> Iterator[Block]:
    """Comments and strings with a blank in them, line by line."""
    for number, line in enumerate(text.splitlines(), start=1):
        for match in re.finditer(r"//(.*)|\"([^\"]*)\"|`([^`]*)`", line):
            found = next(group for group in match.groups() if group is not None)
            if " " in found:
                yield number, re.sub(r"\$\{[^{}]*\}", _blank, found)


def _blank(match: re.Match[str]) -> str:
    """Something of the same number of lines that no pattern matches."""
    return "_" + "\n" * match[0].count("\n")


def repository_files() -> list[str]:
    """The names of the text files in the repository, committed or not."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [n for n in listed.splitlines() if Path(n).suffix in SUFFIXES and Path(n).is_file()]


def main(names: list[str]) -> int:
    """Print what is found in the files; returns the exit code."""
    count = 0
    for name in names or repository_files():
        if name not in EXEMPT:
            text = Path(name).read_text(encoding="utf-8")
            for line, found, use in sorted(set(findings(name, text))):
                print(f"{name}:{line}: {found} -> {use}")
                count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
