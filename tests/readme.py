"""Runs the README's blocks of commands on miniatures of what they name, in any folder.

The repository's own files are reached by absolute paths, everything else is relative to the folder.
`SHORTER` adds documented options that make networks tiny and trainings short.
"""

from __future__ import annotations

import re
from pathlib import Path

from conftest import ROOT, run_well

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)

TRAIN = " --cpu --num-workers 0 --max-update 1 --update-freq 1 --max-tokens 200"
# An epoch of one update.
VSR = " --cpu --num-workers 0 --max-tokens 800 --network tiny --warmup-epochs 0.5 --max-epoch 1"
GENERATE = " --cpu --num-workers 0 --beam 2"
# Text of a command -> options that it gets in addition.
SHORTER = {
    "avhubert-ext prepare ": " --valid-fraction 0.5 --workers 1",
    "--encoder teacher-base": TRAIN + " --encoder teacher-tiny --decoder tiny",
    "--task av_distillation": TRAIN + " --student tiny-7",
    "--encoder-checkpoint student.safetensors": TRAIN + " --decoder tiny",
    "fairseq-generate": GENERATE,
    "-n distill ": " --device cpu",
    "evaluate --data data ": " --snr 0 --passes 1 --beam 2 --threads 1",
    "evaluate --data data_vsr": " --levels 5 --passes 1 --beam 2 --threads 1",
    "--save-dir vsr ": VSR,
    "--save-dir vsr_half": VSR,
}


def block(*texts: str) -> str:
    """The one block of the README with all these texts in it."""
    (found,) = [block for block in BLOCKS if all(text in block for text in texts)]
    return found


def commands(text: str) -> list[str]:
    """The commands in a block, a line each, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := re.sub(r"(^|\s\s)\s*#.*", "", line))]


def script(*blocks: str) -> str:
    """A bash script of shortened blocks that finds the repository's files where they are."""
    lines = [command for text in blocks for command in commands(text)]
    for text, options in SHORTER.items():
        lines = [line + options if text in line else line for line in lines]
    own = r"(\$PWD/|(?<![\w/]))(fairseq_user_dir|s3prl_upstream|scripts)\b"
    found = re.sub(own, rf"{ROOT}/\2", "\n".join(lines))
    # A CPU has no half precision.
    return (
        "set -euxo pipefail\n"
        "fairseq-train() {\n"
        "  command fairseq-train $(printf '%s\\n' \"$@\" | grep -vE '^--(fp|bf)16$')\n"
        "}\n" + found
    )


def play(folder: Path, *blocks: str, **environment: str) -> str:
    """Run blocks in `folder` as one script; returns what they print."""
    return run_well("bash", "-c", script(*blocks), cwd=folder, **environment)
