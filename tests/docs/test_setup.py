"""Set-up, and the lines of pip in the documentation."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from conftest import ROOT, run
from doc_blocks import BLOCKS

PINS = dict(
    line.partition(";")[0].strip().lower().replace("_", "-").split("==")
    for line in (ROOT / "scripts/constraints.txt").read_text().splitlines()
    if "==" in line
)
SETUP = (ROOT / "setup.py").read_text()


def documented(*names: str) -> list[str]:
    """The words of the lines of pip in these blocks, options left out."""
    lines = [line for name in names for line in BLOCKS[name].commands if line.startswith("pip ")]
    words = [word.strip("'") for line in lines for word in line.split()[2:]]
    return [word for word in words if not word.startswith("-")]


def test_set_up_never_erases_an_environment_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup.sh", tmp_path / "scripts")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/kept").write_text("")
    (tmp_path / ".venv").symlink_to("other")
    result = run(tmp_path / "scripts/setup.sh")
    assert result.returncode == 1
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"set-up: {tmp_path}/.venv is a link") and "remove the link" in line
    assert (tmp_path / "other/kept").exists()


def test_pip_lines_name_extras_and_versions_that_exist() -> None:
    words = documented("install-own", "install-opencv", "install-device")
    assert "." in words and len(words) > 8
    for block in BLOCKS.values():
        for line in block.commands if block.language == "bash" else []:
            for extra in re.findall(r"\.\[([\w,]+)\]", line):
                assert all(f'"{name}": [' in SETUP for name in extra.split(","))
    for word in words:
        package, _, version = word.lower().partition("==")
        if package != "." and version != "your_torch":
            assert package in PINS, word
            assert version in ("", PINS[package]), word


def test_what_the_project_needs_is_pinned() -> None:
    needed = (ROOT / "scripts/requirements.txt").read_text().splitlines()
    names = {re.split(r"[\s\[]", line)[0] for line in needed if not line.startswith("#")}
    assert {name.lower().replace("_", "-") for name in names} <= PINS.keys()
