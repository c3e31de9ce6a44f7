"""The commands in the documentation that need neither toolkit run as they stand there."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from doc_blocks import call, shortened
from official import write_official

OFFICIAL = "base_noise_pt_noise_ft_433h.pt"


def test_transcribe_the_embedded_corpus(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "corpus").symlink_to(corpus)  # `data synth` finds that nothing is left to do
    call(tmp_path, monkeypatch, "try-transcribe")
    videos = sorted(tmp_path.glob("corpus/test/*/*.mp4"))
    lines = [line for line in capsys.readouterr().out.splitlines() if ".mp4: " in line]
    assert len(videos) == len(lines) == 4
    for video, line in zip(videos, lines, strict=True):
        text = video.with_suffix(".txt").read_text().splitlines()[0].removeprefix("Text:").lower()
        assert line.split(": ")[1].split() == text.split()


@pytest.mark.slow
def test_transcribe_your_own(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mediapipe")
    write_official(stage / OFFICIAL, stage / "data")
    call(stage, monkeypatch, "transcribe-own", "transcribe-mouths")
    written = {path.suffix for path in (stage / "transcripts").iterdir()}
    assert written == {".txt", ".json", ".srt", ".vtt"}
    (line,) = (stage / "mouths/report.jsonl").read_text().splitlines()
    assert json.loads(line)["quality"][0]["missing"] == 0


@pytest.mark.slow
def test_serve(stage: Path) -> None:
    pytest.importorskip("fastapi")
    (command,) = shortened("serve")
    process = subprocess.Popen(
        [Path(sys.executable).with_name("avhubert-ext"), *shlex.split(command)[1:], "--port", "0"],
        cwd=stage,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = next(word for word in process.stdout.readline().split() if word.startswith("http"))
        with urllib.request.urlopen(url, timeout=60) as page:
            assert page.status == 200 and b"<html" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stdout.close()


@pytest.mark.slow
def test_data_of_the_embedded_corpus(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").symlink_to(corpus)
    call(tmp_path, monkeypatch, "data-synth")
    assert (tmp_path / "data/train.tsv").is_file() and (tmp_path / "noise/babble").is_dir()


@pytest.mark.slow
def test_word_times(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "corpus_words").symlink_to(corpus)
    call(tmp_path, monkeypatch, "benchmark-transcription")
    assert "modality" in capsys.readouterr().out


@pytest.mark.slow
def test_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    call(tmp_path, monkeypatch, "complexity")
    assert "student-tiny-7" in capsys.readouterr().out
    call(tmp_path, monkeypatch, "deploy-cost")
    assert (tmp_path / "benchmark.json").is_file()


@pytest.mark.slow
def test_benchmarks(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(
        stage,
        monkeypatch,
        "benchmark-sparsity",
        "benchmark-runtime",
        "benchmark-data",
        "benchmark-distillation",
        "benchmark-encoder",
        "benchmark-encoder-vsr",
    )
    assert (stage / "benchmark.json").is_file()
