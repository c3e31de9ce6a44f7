"""A folder with everything that the commands and examples in the documentation name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from serving import face_video, utterance, write_clip

from avhubert_ext import build_student
from avhubert_ext.checkpoints.files import save_model
from avhubert_ext.data.audio import write_wav

TEACHER = ROOT / "scripts/models/tiny-teacher"


@pytest.fixture(scope="session")
def stage(teacher_data: Path, noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, models and data under the names that the documentation gives them."""
    folder = tmp_path_factory.mktemp("stage")
    said = utterance(1)
    for name in ("talk.mp4", "clip.mp4"):
        write_clip(folder / name, said.frames, said.samples)
    write_wav(folder / "clip.wav", said.samples)
    (folder / "talks").mkdir()
    write_clip(folder / "talks/face.mp4", face_video(30), said.samples[: 30 * 640])
    shutil.copy(TEACHER / "model.safetensors", folder / "finetuned.safetensors")
    shutil.copy(TEACHER / "dict.wrd.txt", folder)
    save_model(folder / "student.safetensors", build_student("tiny-7").encoder)
    (folder / "data").symlink_to(teacher_data)
    (folder / "noise").symlink_to(noise)
    return folder
