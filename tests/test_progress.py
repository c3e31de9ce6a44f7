"""Progress as a bar on a terminal, and as a few plain lines in a log."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from avhubert_ext import progress
from avhubert_ext.progress import Progress

SYNTH = ["-m", "avhubert_ext.cli", "data", "synth", "--speakers", "5", "--utterances", "1"]


@pytest.mark.slow
def test_a_log_gets_few_lines_and_no_carriage_returns(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, *SYNTH, "--workers", "1", "--out", tmp_path / "corpus"]
        subprocess.run(command, check=True, stdout=log, stderr=log)
    text = (tmp_path / "log").read_text()
    assert "\r" not in text and "\x1b" not in text and "%" not in text
    assert len(text.splitlines()) <= 3 and text.startswith("synth: ")


def test_a_terminal_gets_a_bar():
    code = (
        "from avhubert_ext.progress import Progress\n"
        "for _ in Progress(range(3), desc='rounds', unit='round'): pass"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    subprocess.run([sys.executable, "-c", code], check=True, stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "\rrounds: 100%|" in shown and "3/3" in shown


def lines(capsys) -> list[str]:
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.splitlines()


def test_a_line_at_the_end(capsys):
    assert list(Progress([4, 5], desc="rounds", unit="round")) == [4, 5]
    (line,) = lines(capsys)
    assert line == "rounds: 2 of 2 rounds in 00:00"


def test_a_line_now_and_then(monkeypatch, capsys):
    times = iter([0.0, 10.0, 31.0, 50.0, 62.0, 65.0])
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(total=100, initial=40, desc="prepare", unit="clip") as bar:
        for now[0] in times:
            bar.update(10)
    shown = lines(capsys)
    assert shown == [
        "prepare: 70 of 100 clips in 00:31",
        "prepare: 90 of 100 clips in 01:02",
        "prepare: 100 of 100 clips in 01:05",
    ]


def test_what_is_under_way_is_named(monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with Progress(desc="evaluate", unit="pass", total=2) as bar:
        bar.set_postfix_str("clean 0")
        bar.update()
    assert lines(capsys) == ["evaluate: 1 of 2 passes in 00:00, clean 0"]


def test_unfinished_and_passing_work_leaves_nothing(capsys):
    with Progress(total=3, desc="prepare", unit="clip") as bar:
        bar.update()
    with Progress(total=1, desc="warming up", unit="model", leave=False) as bar:
        bar.update()
        bar.reset(total=5)
        bar.set_description_str("words")
    assert lines(capsys) == []
