"""The commands and Python examples in README.md and docs/, by name, and two ways to run them.

A line `<!-- test: NAME -->` before a fenced block names it. Blocks run in any folder on miniatures:
the repository's files are reached by absolute paths, everything else is relative to the folder, and
`SHORTER` adds documented options that make networks tiny, trainings short and measurements quick.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, run_well

from avhubert_ext.cli import main

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(
    r"(?:^<!-- test: (?P<name>[\w-]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    flags=re.DOTALL | re.MULTILINE,
)
OWN = re.compile(r"(\$PWD/|(?<![\w/.]))(fairseq_user_dir|s3prl_upstream|scripts)\b(?!\.)")

TRAIN = " --cpu --num-workers 0 --max-update 1 --update-freq 1 --max-tokens 200"
# An epoch of one update.
VSR = " --cpu --num-workers 0 --max-tokens 800 --network tiny --warmup-epochs 0.5 --max-epoch 1"
# Part of a command -> options that are added to it.
SHORTER = {
    "data prepare ": " --valid-fraction 0.5 --workers 1",
    "data synth ": " --workers 1",
    "--seed 77": " --utterances 4 --seed 1",  # the corpus that other tests have made
    "data video ": " --workers 1",
    "--encoder teacher-base": TRAIN + " --encoder teacher-tiny --decoder tiny",
    "--task av_distillation": TRAIN + " --student tiny-7",
    "--encoder-checkpoint student.safetensors": TRAIN + " --decoder tiny",
    "fairseq-generate": " --cpu --num-workers 0 --beam 2",
    "fairseq-hydra-train": (
        " common.user_dir=fairseq_user_dir common.cpu=true common.fp16=false model.decoder=tiny"
        " dataset.num_workers=0 optimization.max_update=1 optimization.update_freq=[1]"
        " dataset.max_tokens=200"
    ),
    "-n distill ": " --device cpu",
    "transcribe ": " --longest 4",
    "evaluate --data": " --passes 1 --beam 2 --threads 1",
    "evaluate --data data --noise": " --snr 0",
    "evaluate --data data_vsr": " --levels 5",
    "--save-dir vsr": VSR,
    "--save-dir qat": VSR,
    "model complexity": " --preset student-tiny-7 vsr-tiny",
    "benchmark encoder": " --preset student-tiny-7 --backend eager --rounds 1 --frames 5",
    "benchmark sparsity": " --preset student-tiny-7 --sparsity 0.5 --rounds 1 --frames 5",
    "benchmark distillation": (
        " --student tiny-7 --teacher teacher-tiny --batch-size 2 --frames 5 --rounds 1 --threads 1"
        " --teacher-precision float32"
    ),
    "benchmark data": " --rounds 1",
    "benchmark runtime": (
        " --model student-tiny-7 --form pytorch --threads 1 --rounds 1 --seconds 0.4 --tokens 2"
    ),
}


# Part of a command -> what stands there instead: of 75 epochs there is one.
REPLACED = {"checkpoint{66..75}.pt": "checkpoint{1,_last}.pt"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `name` is None where it has none."""

    page: str
    name: str | None
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands of a bash block, one per line, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (re.sub(r"(^|\s\s)\s*#.*", "", one) for one in lines) if line]


def read_blocks() -> list[Block]:
    return [
        Block(page.name, found["name"], found["language"], found["text"])
        for page in PAGES
        for found in FENCED.finditer(page.read_text())
    ]


BLOCKS = {block.name: block for block in read_blocks()}


def shortened(name: str) -> list[str]:
    """The commands of a block, changed by `SHORTER` and `REPLACED`, with absolute paths.

    Lines of pip are left out: `test_setup.py` checks them.
    """
    lines = BLOCKS[name].commands
    for part, other in REPLACED.items():
        lines = [line.replace(part, other) for line in lines]
    for part, options in SHORTER.items():
        lines = [line + options if part in line else line for line in lines]
    return [OWN.sub(rf"{ROOT}/\2", line) for line in lines if not line.startswith("pip ")]


def play(folder: Path, *names: str, **environment: str) -> str:
    """Run blocks in `folder` as one bash script; returns what they print."""
    # A CPU has no half precision.
    script = [
        "set -euxo pipefail",
        "fairseq-train() {",
        "  command fairseq-train $(printf '%s\\n' \"$@\" | grep -vE '^--(fp|bf)16$')",
        "}",
        *(line for name in names for line in shortened(name)),
    ]
    return run_well("bash", "-c", "\n".join(script), cwd=folder, **environment)


def call(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Run blocks of plain `avhubert-ext` commands in `folder`, in this process, which is faster."""
    monkeypatch.chdir(folder)
    for line in (line for name in names for line in shortened(name)):
        words = shlex.split(re.sub(r"^(export )?(\w+=\S* ?)+", "", line))
        if words:
            assert words[0] == "avhubert-ext", line
            arguments = [found for word in words[1:] for found in _expanded(word)]
            assert not main(arguments), line


def _expanded(word: str) -> list[str]:
    return sorted(glob.glob(word)) if "*" in word else [word]


def run_python(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, **given: object
) -> dict[str, object]:
    """Run a Python example in `folder` with some names given; returns all names it has then."""
    monkeypatch.chdir(folder)
    text = re.sub(r'"scripts/', f'"{ROOT}{os.sep}scripts/', BLOCKS[name].text)
    exec(compile(text, f"{BLOCKS[name].page}: {name}", "exec"), given)
    return given
