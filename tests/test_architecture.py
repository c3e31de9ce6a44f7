"""The parts of the library import each other in one direction: from upper floors to lower ones."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

LIBRARY = ROOT / "avhubert_ext"

# The packages and single modules of the library from the bottom up. A part may import those of
# lower floors, not those of its own floor: so there are no cycles. To tighten the order, move parts
# up or onto one floor.
FLOORS = (
    {"errors"},
    {"device", "progress", "workers"},
    {"data"},
    {"compression", "models"},
    {"checkpoints", "decoding", "mouth", "synth"},
    {"preparation", "runtime", "training"},
    {"export", "transcription"},
    {"recognizers"},
    {"evaluation", "serve"},
    {"benchmarks", "reports"},
    {"__init__"},
    {"cli"},
)
# Imports that break the order, as (importing part, imported part) -> the reason.
EXCEPTIONS: dict[tuple[str, str], str] = {}

# All that `models` may take from `data`: constants that fix the shapes of its inputs.
DATA_CONSTANTS = {"CROP", "FEATURES", "SAMPLES_PER_FRAME"}
TOOLKITS = {"fairseq", "fairseq_user_dir", "s3prl", "s3prl_upstream"}

FILES = sorted(LIBRARY.rglob("*.py"))


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """(module, imported name or "") of every import in a file, those in functions included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: write relative imports as absolute ones"
            yield from ((node.module, alias.name) for alias in node.names)


def imported_parts(file: Path) -> Iterator[tuple[str, str]]:
    """(part of the library, imported name) of every import of the library in a file."""
    for module, name in imports(file):
        package, *path = module.split(".")
        if package != "avhubert_ext":
            continue
        if path:
            yield path[0], name
        else:
            yield name if any(name in floor for floor in FLOORS) else "__init__", name


def part_of(file: Path) -> str:
    return file.relative_to(LIBRARY).with_suffix("").parts[0]


def floor_of(part: str) -> int:
    for number, floor in enumerate(FLOORS):
        if part in floor:
            return number
    pytest.fail(f"{part} has no floor in {Path(__file__).name}: give it the lowest that works")


@pytest.mark.parametrize("part", sorted({part_of(file) for file in FILES}))
def test_imports_go_down(part: str) -> None:
    upward = {
        f"{file.relative_to(ROOT)} imports {other}"
        for file in FILES
        if part_of(file) == part
        for other, _ in imported_parts(file)
        if other != part and (part, other) not in EXCEPTIONS and floor_of(other) >= floor_of(part)
    }
    assert not upward


def test_exceptions_are_still_needed() -> None:
    used = {(part_of(file), other) for file in FILES for other, _ in imported_parts(file)}
    assert EXCEPTIONS.keys() <= used


def test_models_take_constants_from_data_and_nothing_else() -> None:
    taken = {
        name
        for file in FILES
        if part_of(file) == "models"
        for part, name in imported_parts(file)
        if part == "data"
    }
    assert taken <= DATA_CONSTANTS


def test_the_library_works_without_the_toolkits() -> None:
    for file in FILES:
        found = {module.partition(".")[0] for module, _ in imports(file)}
        assert not found & TOOLKITS, file
