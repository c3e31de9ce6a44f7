"""Shared fixtures: one small corpus, made once a session by the project's own commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Whole recipes, minutes each: first, or one worker still has the last when the other is done.
LONGEST = (
    "test_demo",
    "test_prune_recipe",
    "test_doc_trainings",
    "test_s3prl",
    "test_export",
    "test_table_1",
    "test_vsr_recipe",
)


# Folder or file -> marker of all its tests.
MARKED = {
    "recipes": "recipe",
    "test_doc_trainings": "recipe",
    "fairseq_plugin": "fairseq",
    "s3prl_plugin": "s3prl",
    "test_serve_browser": "browser",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in {item.path.stem, item.path.parent.name} & MARKED.keys():
            item.add_marker(MARKED[name])
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run a command line as a user would; stdout and stderr together in `.stdout`."""
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | {"PATH": search} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )


def run_well(*command: str | Path, **options: str) -> str:
    """As `run`, and the exit code must be 0; returns what was printed."""
    result = run(*command, **options)
    assert result.returncode == 0, result.stdout[-4000:]
    return result.stdout


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended, with all its threads; looks into /proc."""
    process = Path(f"/proc/{pid}")
    try:
        # The main thread may have ended (Z) before the others.
        ended = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return not ended or len(list((process / "task").iterdir())) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LRS3-layout corpus: 5 speakers x 4 utterances, the last speaker for the test."""
    folder = tmp_path_factory.mktemp("corpus")
    run_well(
        "avhubert-ext", "data", "synth", "--out", folder, "--speakers", "5", "--utterances", "4"
    )
    return folder


@pytest.fixture(scope="session")
def manifests(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest folder of `corpus`."""
    folder = tmp_path_factory.mktemp("manifests")
    run_well(
        "avhubert-ext", "data", "prepare", "--corpus", corpus, "--out", folder,
        "--subwords", "bpe", "--vocabulary", "64",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def teacher_data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest folder of `corpus` with the subwords of the shipped teacher."""
    folder = tmp_path_factory.mktemp("teacher_data")
    subwords = ROOT / "scripts/models/tiny-teacher"
    run_well(
        "avhubert-ext",
        "data",
        "prepare",
        "--corpus",
        corpus,
        "--out",
        folder,
        "--reuse-subwords",
        subwords,
    )
    return folder


@pytest.fixture(scope="session")
def noise(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise manifests of `corpus`."""
    folder = tmp_path_factory.mktemp("noise")
    run_well("avhubert-ext", "data", "noise", "--musan", corpus / "musan", "--out", folder)
    return folder


@pytest.fixture(scope="session")
def stage(teacher_data: Path, noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, models and data under the names that the documentation gives them."""
    from serving import MODEL, face_video, utterance, write_clip

    from avhubert_ext import build_student
    from avhubert_ext.checkpoints.model_file import save_model
    from avhubert_ext.data.audio import write_wav

    folder = tmp_path_factory.mktemp("stage")
    said = utterance(1)
    for name in ("talk.mp4", "clip.mp4"):
        write_clip(folder / name, said.frames, said.samples)
    write_wav(folder / "clip.wav", said.samples)
    (folder / "talks").mkdir()
    write_clip(folder / "talks/face.mp4", face_video(30), said.samples[: 30 * 640])
    shutil.copy(MODEL, folder / "finetuned.safetensors")
    shutil.copy(MODEL.with_name("dict.wrd.txt"), folder)
    save_model(folder / "student.safetensors", build_student("tiny-7").encoder)
    (folder / "data").symlink_to(teacher_data)
    (folder / "noise").symlink_to(noise)
    return folder
