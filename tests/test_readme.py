"""The README keeps its word."""

from __future__ import annotations

import re

from conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_python_example_runs() -> None:
    example = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    names: dict = {}
    path = '"scripts/models'
    exec(example.replace(path, f'"{ROOT}/scripts/models'), names)
    assert names["output"].last_hidden_state.shape[:2] == (2, 50)


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README and "TODO" not in README
