"""The documentation is whole: every block runs in a test, links lead somewhere, versions agree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from doc_blocks import BLOCKS, PAGES, read_blocks

import avhubert_ext

# Blocks that a test of the recipe itself runs, with documented options that make it short.
ELSEWHERE = {
    "demo": "tests/recipes/test_demo.py::test_demo_survives_kills_and_writes_its_results",
    "demo-alone": "tests/recipes/test_demo.py::test_demo_survives_kills_and_writes_its_results",
    "prune-frontier": "tests/recipes/test_demo.py::test_demo_survives_kills_and_writes_its_results",
    "evaluate-table-1": "tests/recipes/test_table_1.py::test_from_the_corpus_to_the_page",
    "evaluate-table-1-alone": "tests/recipes/test_table_1.py::test_from_the_corpus_to_the_page",
    "lip-reading-recipe": "tests/recipes/test_vsr_recipe.py::test_from_the_corpus_to_the_figure",
    "prune-sweep": "tests/recipes/test_prune_recipe.py::test_finished_cells_are_skipped",
    "prune-methods": "tests/recipes/test_prune_recipe.py::test_finished_cells_are_skipped",
    "data-corpus": "tests/preparation/test_prepare_video.py::test_corpus_to_manifests",
    "s3prl-downstream": (
        "tests/s3prl_plugin/test_upstream.py::test_downstream_finetunes_resumes_and_evaluates"
    ),
    "install-setup": (
        "tests/docs/test_setup.py::test_set_up_never_erases_an_environment_behind_a_link"
    ),
}
RUNNERS = {"play", "call", "run_python", "shortened", "documented"}
SCRIPT = re.compile(r"\b(?:scripts|s3prl_upstream)/\w+\.(?:sh|py)\b")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")


def names_in_tests() -> set[str]:
    """The block names that tests hand to something that runs blocks."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in RUNNERS:
                words = [a.value for a in node.args if isinstance(a, ast.Constant)]
                found |= {word for word in words if isinstance(word, str)}
    return found


def test_every_block_has_a_name_and_a_known_language() -> None:
    for block in read_blocks():
        assert block.language in ("bash", "python", "text", "yaml", "bibtex"), block
        runs = block.language in ("bash", "python")
        assert runs == (block.name is not None), f"{block.page}: name this block\n{block.text}"


def test_a_name_stands_for_one_text() -> None:
    for block in read_blocks():
        if block.name is not None:
            assert block.text == BLOCKS[block.name].text, block


def test_no_block_is_overlooked() -> None:
    """Fences that are indented, or written in another way, would run nowhere."""
    fences = sum(page.read_text().count("```") for page in PAGES)
    assert fences == 2 * len(read_blocks())


def test_every_block_has_a_test_and_every_test_a_block() -> None:
    blocks = {name for name in BLOCKS if name is not None}
    tested = names_in_tests()
    assert tested & ELSEWHERE.keys() == set(), "these need no entry in ELSEWHERE"
    assert blocks == tested | ELSEWHERE.keys()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_test_elsewhere_runs_the_scripts_of_the_block(name: str) -> None:
    file, _, function = ELSEWHERE[name].partition("::")
    source = (ROOT / file).read_text()
    functions = [n.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
    assert function in functions
    scripts = {script for line in BLOCKS[name].commands for script in SCRIPT.findall(line)}
    # This very test runs in it.
    scripts.discard("scripts/test.sh")
    assert scripts and all(script in source for script in scripts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = LINK.findall(page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_site_has_every_page_and_every_picture_is_shown() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    entries = [value for entry in config["nav"] for value in entry.values()]
    pages = [page for entry in entries for page in _pages(entry)]
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    texts = "".join(page.read_text() for page in PAGES)
    pictures = [p.name for p in (ROOT / "docs").iterdir() if p.suffix in (".png", ".jpg", ".svg")]
    assert [name for name in pictures if name not in texts] == []


def _pages(entry: str | list[dict[str, str]]) -> list[str]:
    return [entry] if isinstance(entry, str) else [page for one in entry for page in one.values()]


def test_every_public_name_is_documented() -> None:
    page = (ROOT / "docs/python-api.md").read_text()
    documented = re.findall(r"^::: avhubert_ext\.(?:\w+\.)*(\w+)$", page, flags=re.MULTILINE)
    public = {name for name in avhubert_ext.__all__ if name != "__version__"}
    assert public <= set(documented)


def test_every_package_is_in_the_architecture() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    table = re.findall(r"^\| `(\w+)(?:\.py)?` \|", page, flags=re.MULTILINE)
    packages = [p.parent.name for p in (ROOT / "avhubert_ext").glob("*/__init__.py")]
    assert [name for name in packages if name not in table] == []


def test_the_readme_is_short_and_nothing_is_left_to_fill_in() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    for page in PAGES:
        assert not any(mark in page.read_text() for mark in ("@@", "TODO", "FIXME", "<<<"))


def test_versions_agree() -> None:
    version = avhubert_ext.__version__
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
