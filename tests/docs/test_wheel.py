"""The wheel, installed where the repository cannot be seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import ROOT
from doc_blocks import BLOCKS

import avhubert_ext

pytestmark = pytest.mark.slow
PACKAGES = ("avhubert_ext", "fairseq_user_dir", "s3prl_upstream")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the wheel, and the packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    quietly = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source], **quietly
    )
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env/bin/python"
    (wheel,) = folder.glob("avhubert_ext-*.whl")
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", wheel], **quietly)
    (site,) = (folder / "env/lib").glob("python*/site-packages")
    # Behind the wheel's files. A path file in there does not count, so an editable install of this
    # repository stays out of sight.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.rmtree(source)
    return python.parent


def run_there(installed: Path, folder: Path, *command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = subprocess.run(
        [installed / command[0], *command[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_wheel_is_what_is_imported_and_it_is_complete(installed: Path, tmp_path: Path) -> None:
    code = "import avhubert_ext as a; print(a.__file__, a.__version__)"
    file, version = run_there(installed, tmp_path, "python", "-c", code).split()
    package = Path(file).parent
    assert package.is_relative_to(installed.parent) and version == avhubert_ext.__version__
    assert (package / "py.typed").is_file()
    for name in PACKAGES:
        found = {p.relative_to(package.parent) for p in (package.parent / name).rglob("*")}
        files = [
            p for p in (ROOT / name).rglob("*") if p.is_file() and "__pycache__" not in p.parts
        ]
        missing = [p for p in files if p.relative_to(ROOT) not in found]
        assert missing == []


def test_the_command_runs(installed: Path, tmp_path: Path) -> None:
    printed = run_there(installed, tmp_path, "avhubert-ext", "--help")
    assert "transcribe" in printed and "evaluate" in printed


@pytest.mark.slow
def test_the_python_example_runs(installed: Path, stage: Path) -> None:
    printed = run_there(installed, stage, "python", "-c", BLOCKS["python"].text)
    assert len(printed.splitlines()) == 6
