"""Files and locks shared by several processes."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from avhubert_ext.data.files import one_at_a_time
from avhubert_ext.errors import InputError

HOLD = """
import sys
from pathlib import Path
from avhubert_ext.data.files import one_at_a_time
from avhubert_ext.errors import InputError
try:
    with one_at_a_time(Path(sys.argv[1])):
        print("entered", flush=True)
        sys.stdin.read()  # until the test closes it
except InputError as error:
    print(error, flush=True)
"""
# In each of its turns, creates a file that must not exist, and deletes it.
TURNS = """
import os, sys
from pathlib import Path
from avhubert_ext.data.files import one_at_a_time
from avhubert_ext.errors import InputError
path, turns = Path(sys.argv[1]), 0
inside = path.with_name("inside")
for _ in range(2000):
    try:
        with one_at_a_time(path):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            inside.unlink()
            turns += 1
    except InputError:
        pass
print(turns)
"""


def start(code: str, path: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def told(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def test_a_second_process_is_rejected_until_the_first_ends(tmp_path: Path) -> None:
    path = tmp_path / "report"
    first = start(HOLD, path)
    assert told(first) == "entered"
    with pytest.raises(InputError, match="another run is writing"), one_at_a_time(path):
        pass
    first.kill()  # without a chance to delete the lock
    first.communicate()
    with one_at_a_time(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_deleted_by_its_owner_does_not_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process ends after the second one has opened the file, before it locks it."""
    path = tmp_path / "report"
    first = start(HOLD, path)
    assert told(first) == "entered"
    flock = fcntl.flock

    def first_ends(*args: object) -> None:
        if first.poll() is None:
            first.communicate()
        flock(*args)

    monkeypatch.setattr(fcntl, "flock", first_ends)
    with one_at_a_time(path):
        third = start(HOLD, path)
        assert "another run is writing" in told(third)
        third.communicate()
    assert list(tmp_path.iterdir()) == []


def test_processes_take_turns(tmp_path: Path) -> None:
    processes = [start(TURNS, tmp_path / "report") for _ in range(3)]
    turns = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(map(int, turns)) > 0
    assert list(tmp_path.iterdir()) == []
