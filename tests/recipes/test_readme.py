"""The README keeps its word."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from conftest import ROOT, readme_examples, run

README = (ROOT / "README.md").read_text()


def test_python_examples_run_one_after_the_other() -> None:
    first, second, _, _, third = readme_examples()
    names: dict = {}
    path = '"scripts/models'
    exec(first.replace(path, f'"{ROOT}/scripts/models'), names)
    assert names["output"].last_hidden_state.shape[:2] == (2, 50)
    exec(second, names)
    assert {k: [*v.shape] for k, v in names["output"].predictions.items()} == {
        8: [2, 50, 768],
        12: [2, 50, 768],
    }
    exec(third, names)
    assert names["log_probs"].shape == (2, 50, 5049) and names["logits"].shape == (2, 1, 5049)


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_nothing_is_left_to_fill_in() -> None:
    assert not any(mark in README for mark in ("@@", "TODO", "<<"))


def test_set_up_never_empties_an_environment_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup.sh", tmp_path / "scripts")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/kept").write_text("")
    (tmp_path / ".venv").symlink_to("other")
    result = run(tmp_path / "scripts/setup.sh")
    assert result.returncode == 1
    assert result.stdout == (
        f"set-up: {tmp_path}/.venv is a link to another environment, which would be emptied: "
        "remove the link\n"
    )
    assert (tmp_path / "other/kept").exists()
