"""Run one step of a recipe: log to a file, one progress bar on the terminal, skip it once done.

    python scripts/step.py FOLDER NAME COMMAND...

Everything the command prints goes to FOLDER/log/NAME.log. When it succeeds, FOLDER/done/NAME is
written and the next call returns at once; a step that failed or was killed runs again, and the
command itself resumes. A changed command line runs again too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

# How fairseq and s3prl tell on their logs how many updates are done, and out of how many.
FAIRSEQ_UPDATE = re.compile(r"num_updates=(\d+)")
S3PRL_UPDATE = re.compile(r"overall:[^\r\n]*?\| (\d+)/(\d+) \[")
LINES_SHOWN = 5  # of the log, when a step fails


def main(folder: Path, name: str, command: list[str]) -> int:
    log = folder / "log" / f"{name}.log"
    done = folder / "done" / name
    if done.is_file() and done.read_text(encoding="utf-8") == "\n".join(command):
        print(f"{name}: done before")
        return 0
    for path in (log, done):
        path.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    code = run(command, log, name)
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        print(f"{name}: failed, see {log}", *lines[-LINES_SHOWN:], sep="\n", file=sys.stderr)
        return code
    done.write_text("\n".join(command), encoding="utf-8")
    print(f"{name}: {time.monotonic() - start:.0f} s")
    return 0


def run(command: list[str], log: Path, name: str) -> int:
    """Run the command with its output in the log, the updates it reports on a bar."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        ) as process,
        tqdm(total=updates_in(command), desc=name, unit="update", mininterval=2) as bar,
    ):
        while chunk := process.stdout.read1():
            file.write(chunk)
            file.flush()
            show(chunk.decode(errors="replace"), bar)
        bar.leave = False
    return process.returncode


def updates_in(command: list[str]) -> int | None:
    """The last `--max-update` of a fairseq command: the last one counts."""
    positions = [i for i, word in enumerate(command) if word == "--max-update"]
    return int(command[positions[-1] + 1]) if positions else None


def show(text: str, bar: tqdm) -> None:
    for match in FAIRSEQ_UPDATE.finditer(text):
        bar.update(int(match[1]) - bar.n)
    for match in S3PRL_UPDATE.finditer(text):
        bar.total = int(match[2])
        bar.update(int(match[1]) - bar.n)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
