"""Run one step of a recipe, with a log file and a progress bar, unless it is finished.

    python scripts/step.py FOLDER NAME COMMAND...

The output of the command goes to FOLDER/log/NAME.log. After a success the next call returns at
once. A step that failed or was killed runs again, and the command itself resumes. A step whose
command line or input files have changed is refused, so that no old result passes for a new one.
The inputs are the files that the command line names and that exist when the step first runs, and
the file in the environment variable INPUTS.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from avhubert_ext.data.files import make_folder, write_text
from avhubert_ext.errors import InputError, one_line_errors

# How the logs of fairseq and s3prl report the number of updates, and s3prl's their total.
FAIRSEQ_UPDATE = re.compile(r"num_updates=(\d+)")
S3PRL_UPDATE = re.compile(r"overall:[^\r\n]*?\| (\d+)/(\d+) \[")
LINES_SHOWN = 5  # the last lines of the log are shown when a step fails
PR_SET_PDEATHSIG = 1  # an option of prctl in Linux


def main(folder: Path, name: str, command: list[str]) -> int:
    """Run a step, unless it is finished.

    Args:
        folder: The working folder of the recipe.
        name: The name of the step.
        command: The command line.

    Returns:
        The exit code of the command; 0 if the step was finished before.

    Raises:
        InputError: The step is running in another process, its command or inputs have changed
            since it began, or there is no such command.
    """
    for part in ("log", "key", "done"):
        make_folder(folder / part)
    key, done = folder / "key" / name, folder / "done" / name
    with (folder / "log" / f"{name}.log").open("ab") as log:
        refuse_if_running(log.fileno(), name)
        begun = key.read_text() if key.is_file() else None
        now = digest(command, inputs(command) if begun is None else recorded(begun))
        if begun not in (None, now):
            raise InputError(
                f"{name}: its settings or input files have changed since {folder} was begun; "
                "delete that folder, or set WORK to another"
            )
        if done.is_file():
            print(f"{name}: done before")
            return 0
        if shutil.which(command[0]) is None:
            raise InputError(f"{name}: {command[0]} not found; run scripts/setup.sh first")
        write_text(key, now)
        start = time.monotonic()
        begin = log.tell()
        code = run(command, log.fileno(), name)
    if code:
        lines = Path(log.name).read_bytes()[begin:].decode(errors="replace").strip().splitlines()
        print(f"{name}: failed, see {log.name}", *lines[-LINES_SHOWN:], sep="\n", file=sys.stderr)
        return code
    write_text(done, now)
    print(f"{name}: {time.monotonic() - start:.0f} s")
    return 0


def refuse_if_running(log: int, name: str) -> None:
    """Lock the log until this process and the command, which inherits the lock, have ended."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{name} is running already; wait for it, or stop it first") from None


def inputs(command: list[str]) -> list[str]:
    """The words of the command, and the value of INPUTS, that name a file."""
    words = [*command, os.environ.get("INPUTS", "")]
    return [word for word in words if Path(word).is_file()]


def recorded(digest: str) -> list[str]:
    """The inputs that a digest lists. Files that the command wrote later are not among them."""
    return [line.partition(" ")[2] for line in digest.splitlines()[1:]]


def digest(command: list[str], files: list[str]) -> str:
    """The hash of the command line, then one line with hash and name per file."""
    hashes = [hashlib.sha256("\n".join(command).encode()).hexdigest()]
    for name in files:
        content = Path(name).read_bytes() if Path(name).is_file() else b"gone"
        hashes.append(f"{hashlib.sha256(content).hexdigest()} {name}")
    return "\n".join(hashes)


def run(command: list[str], log: int, name: str) -> int:
    """Run the command. Its output goes to the log, the updates that it reports to a bar."""
    bar = tqdm(desc=name, total=updates_in(command), unit="update", mininterval=2, disable=None)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with (
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[log],
            preexec_fn=die_with_parent,
        ) as process,
        bar,
    ):
        while chunk := process.stdout.read1():
            os.write(log, chunk)
            show(chunk.decode(errors="replace"), bar)
        bar.leave = False
    return process.returncode


def die_with_parent() -> None:
    """Let the command's process end with step.py, so that none is left running."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def updates_in(command: list[str]) -> int | None:
    """The number of updates of a fairseq command: its last `--max-update` counts."""
    positions = [i for i, word in enumerate(command) if word == "--max-update"]
    return int(command[positions[-1] + 1]) if positions else None


def show(text: str, bar: tqdm) -> None:
    """Move the bar to the number of updates that the text reports."""
    for match in FAIRSEQ_UPDATE.finditer(text):
        bar.update(int(match[1]) - bar.n)
    for match in S3PRL_UPDATE.finditer(text):
        bar.total = int(match[2])
        bar.update(int(match[1]) - bar.n)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
