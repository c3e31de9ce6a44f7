"""`scripts/table_1.sh --preset quick`: the recipe of Table 1, from a raw corpus to the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import run, run_well

from avhubert_ext.evaluation.hypotheses import read_decoded

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run for student 4, whose teacher is made as well."""
    folder = tmp_path_factory.mktemp("table_1")
    run_well("scripts/table_1.sh", "--preset", "quick", "4", WORK=str(folder), **ONE_THREAD)
    return folder


def test_from_the_corpus_to_the_page(work: Path) -> None:
    (found,) = json.loads((work / "evaluation/results.json").read_text())
    assert found["model"] == "4" and found["encoder"]["block"] == "transformer"
    assert {c: len(measured["passes"]) for c, measured in found["conditions"].items()} == {
        "clean": 1,
        **{f"{kind}_0dB": 2 for kind in ("babble", "talker")},
        **{f"{kind}_{snr}dB": 1 for kind in ("babble", "talker") for snr in (-10, -5, 5, 10)},
    }
    assert found["settings"]["trained_with"].startswith("800 frames x 1 batches")
    for name in ("table_1.md", "table_1.html", "wer_babble.png", "wer_talker.png", "results.csv"):
        assert (work / "evaluation" / name).stat().st_size > 0
    # The teacher of the student is the one that the recipe trained.
    assert f"teacher: {work}/teacher/checkpoint_last.pt" in (work / "model-4.yaml").read_text()


def test_a_second_talker_is_of_the_same_split_and_another_speaker(work: Path) -> None:
    for decoded in read_decoded(work / "evaluation/4/talker_0dB/pass-0.jsonl"):
        (talker,) = decoded.noise["files"]
        _, split, speaker, _ = talker.removeprefix(str(work)).removeprefix("/").split("/")
        assert split == "test" and speaker != decoded.id.split("/")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--preset tiny"),
        (["--preset", "huge"], "--preset tiny"),
        (["--preset", "lrs3"], "LRS3: name the folder of LRS3"),
    ],
)
def test_wrong_use_is_reported(arguments: list[str], said: str) -> None:
    result = run("scripts/table_1.sh", *arguments)
    assert result.returncode != 0 and said in result.stdout


def test_an_unknown_model_is_refused(work: Path) -> None:
    result = run("scripts/table_1.sh", "--preset", "quick", "8", WORK=str(work))
    assert result.returncode == 2 and "model '8': expected teacher or 1 ... 7" in result.stdout
