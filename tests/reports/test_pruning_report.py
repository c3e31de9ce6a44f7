"""`avhubert-ext report pruning` and `frontier`, on made-up results of real, small models."""

from __future__ import annotations

import csv
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from avhubert_ext.checkpoints.model_file import save_model
from avhubert_ext.cli import main
from avhubert_ext.compression.pruning import global_magnitude_mask, kept_parameters
from avhubert_ext.data.text import Vocabulary
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.evaluate import EvaluationConfig, begin_model, load_for, pass_file
from avhubert_ext.evaluation.hypotheses import Decoded, write_decoded
from avhubert_ext.evaluation.results import read_results
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.presets import VSR
from avhubert_ext.reports import pruning as pruning_report
from avhubert_ext.reports.frontier import frontier, pareto_front
from avhubert_ext.reports.pruning import Pruned, mark_best, parse_name

Rates = dict[str, int]  # condition -> WER in %
WORDS = 10  # of each utterance


class Evaluation:
    """Makes folders as `evaluate` does, from word error rates that are given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        data = folder / "data"
        data.mkdir()
        (data / "dict.wrd.txt").write_text("a 1\nb 1\n")
        for name in ("test.tsv", "test.wrd", "spm_tiny.model"):
            (data / name).write_text(name)
        self.config = EvaluationConfig(data)
        encoder, decoder = VSR["tiny"].encoder, VSR["tiny"].decoder
        small = {"layers": 1, "dim": 16, "ffn": 16, "heads": 2}
        vocabulary = len(Vocabulary(data / "dict.wrd.txt", ctc=True))
        self.model = CTCAttentionRecognizer(
            replace(encoder, **small), replace(decoder, vocabulary=vocabulary, **small)
        )
        self.kept: dict[str, int] = {}

    def store(self, name: str, sparsity: int = 0) -> Path:
        """The model's file, pruned to so many percent."""
        c, file = self.config, self.folder / "models" / f"{name}.safetensors"
        masks = global_magnitude_mask(self.model, sparsity / 100) if sparsity else {}
        save_model(file, self.model, masks=masks)
        self.kept[name] = kept_parameters(self.model, masks)
        begin_model(self.folder / "records" / name, file, c, load_for(c, file))
        return file

    def write(self, out: Path, name: str, file: Path, rates: Rates, utterances: int = 10) -> None:
        """As if the model in the file had been decoded with these rates."""
        for condition, rate in rates.items():
            decoded = []
            for number in range(utterances):
                edits = (rate + number) // 10  # of 10 utterances: as many as percent
                found = ["b"] * edits + ["a"] * (WORDS - edits)
                decoded.append(Decoded(f"u{number}", "a " * WORDS, " ".join(found), -1.0))
            write_decoded(pass_file(out / name, condition, 0), decoded)
        shutil.copy(self.folder / "records" / file.stem / "model.json", out / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return Evaluation(tmp_path_factory.mktemp("made"))


SWEEP = {
    "dense": 39, "naive-50": 62, "naive-80": 111, "parp-80": 376, "lth-50": 43, "lth-80": 50,
    "lrr-10": 36, "lrr-50": 38, "lrr-iterative-50": 38, "rewind-5-50": 42, "rewind-20-50": 41,
    "rewind-20-80": 47,
}  # fmt: skip
NOISY = {"block_level1": 50, "block_level5": 70, "contrast_level1": 40}


@pytest.fixture(scope="module")
def sweep(made: Evaluation) -> Path:
    """Evaluations of one shared model; the sparsity comes from the names alone."""
    out, file = made.folder / "sweep", made.store("shared")
    for name, rate in SWEEP.items():
        noisy = {"dense": NOISY, "lrr-iterative-50": {c: r - 4 for c, r in NOISY.items()}}
        made.write(out, name, file, {"clean": rate} | noisy.get(name, {}))
    return out


@pytest.fixture(scope="module")
def reported(made: Evaluation, sweep: Path) -> Path:
    out = made.folder / "reported"
    pruning_report.report(sweep, out, last=75)
    return out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dense", Pruned("dense")),
        ("naive-50", Pruned("naive", 50)),
        ("lth-9", Pruned("lth", 9)),
        ("lrr-iterative-90", Pruned("lrr-iterative", 90)),
        ("rewind-0-50", Pruned("rewind", 50, 0)),
        ("rewind-12000-80", Pruned("rewind", 80, 12000)),
        *((name, None) for name in (
            "dense-50", "lrr", "lrr-0", "lrr-05", "lrr-100", "lrr-50.5", "LRR-50", "iterative-50",
            "lrr-iterative", "rewind-50", "rewind--1-50", "rewind-01-50", "rewind-last-50",
            "finetune-iterative-50", "student", "lrr-50-seed-2",
        )),
    ],
)  # fmt: skip
def test_names(name: str, expected: Pruned | None) -> None:
    assert parse_name(name) == expected


def section(page: str, title: str) -> list[list[str]]:
    """Header and rows of the table under the title that begins so, from a markdown page."""
    (text,) = [part for part in page.split("\n## ") if part.startswith(title)]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_table_1(reported: Path) -> None:
    page = (reported / "pruning.md").read_text()
    header, *rows = section(page, "Pruning techniques")
    assert header == [
        "Sp", "Naïve pruning", "One-shot: Finetune", "One-shot: PARP", "One-shot: LTH",
        "One-shot: LRR", "Iterative: LTH", "Iterative: LRR",
    ]  # fmt: skip
    assert [row[0] for row in rows] == ["0 (dense)", *(f"{s}%" for s in range(10, 100, 10))]
    cells = {row[0]: row[1:] for row in rows}
    assert cells["0 (dense)"] == ["39.00"] * 7
    assert cells["10%"] == ["-", "-", "-", "-", "36.00", "-", "-"]
    assert cells["20%"] == ["-"] * 7
    assert cells["50%"] == ["62.00", "-", "-", "43.00", "**38.00**", "-", "**38.00**"]
    assert cells["80%"] == ["111.00", "-", "376.00", "**50.00**", "-", "-", "-"]
    header, *rows = section(page, "For comparison, the paper's own numbers: LRS3 and BASE-S")
    assert len(rows) == 10 and all(len(row) == len(header) == 8 for row in rows)
    assert rows[5][1:] == ["62.10", "43.04", "45.30", "42.79", "39.39", "40.78", "**38.26**"]


def test_figure_1(sweep: Path, reported: Path, tmp_path: Path) -> None:
    pruning_report.report(sweep, tmp_path)
    for folder, last, told in ((reported, 75, [["75", "38.00", "-"]]), (tmp_path, None, [])):
        page = (folder / "pruning.md").read_text()
        assert section(page, "One-shot pruning with the weights rewound") == [
            ["T", "50%", "80%"],
            ["0", "43.00", "50.00"],
            ["5", "42.00", "-"],
            ["20", "41.00", "47.00"],
            *told,
        ]
        assert ("name its T with --last" in page) == (last is None)


def test_visual_noise(reported: Path) -> None:
    title = "Visual noise, mean over 2 types, levels 1, 5 of block; 1 of contrast"
    assert section((reported / "pruning.md").read_text(), title) == [
        ["model", "Sp", "clean", "minus dense", "visual noise", "minus dense"],
        ["dense", "0 (dense)", "39.00", "+0.00", "50.00", "+0.00"],
        ["lrr-iterative-50", "50%", "38.00", "-1.00", "46.00", "-4.00"],
    ]


def test_csv(sweep: Path, reported: Path) -> None:
    with (reported / "pruning.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SWEEP) + 2 * len(NOISY)
    clean = [row for row in rows if row["condition"] == "clean"]
    found = {(r["method"], r["rewind"], r["sparsity"]): r["wer"] for r in clean}
    assert found["dense", "", "0"] == "39.000"
    assert found["parp", "", "80"] == "376.000"
    assert (found["lth", "0", "80"], found["lrr", "75", "50"]) == ("50.000", "38.000")
    assert found["rewind", "20", "80"] == "47.000"
    model = json.loads((sweep / "dense/model.json").read_text())
    assert {row["file"] for row in rows} == {model["file"]}
    assert {int(row["encoder_parameters"]) for row in rows} == {model["encoder"]["parameters"]}


def ink(path: Path) -> float:
    """Share of the pixels of a picture that are not white."""
    from matplotlib import image

    pixels = image.imread(path)[..., :3]
    assert pixels.shape[0] > 400 and pixels.shape[1] > 800
    return float((pixels < 0.9).any(axis=-1).mean())


def test_pictures(reported: Path) -> None:
    for name in ("pruning_methods.png", "pruning_rewinding.png"):
        assert 0.01 < ink(reported / name) < 0.5
        assert f"![{name}]({name})" in (reported / "pruning.md").read_text()


def test_the_plots_end_a_bit_above_the_dense_model(
    sweep: Path, tmp_path: Path, monkeypatch
) -> None:
    figures = []
    monkeypatch.setattr(pruning_report, "save_picture", lambda figure, path: figures.append(figure))
    pruning_report.report(sweep, tmp_path)
    dense = {r.model: r for r in read_results(sweep)}["dense"].mean("clean")
    assert len(figures) == 2
    for figure in figures:
        (axes,) = figure.axes
        bottom, top = axes.get_ylim()
        assert bottom <= dense < top <= dense + 20


def test_a_sweep_that_has_just_begun(made: Evaluation, tmp_path: Path) -> None:
    file = made.store("begun")
    out = tmp_path / "evaluation"
    made.write(out, "lrr-20", file, {"clean": 30, "block_level1": 40})
    made.write(out, "student-7", file, {"clean": 5})
    (out / "naive-20").mkdir()  # no pass yet
    text = pruning_report.report(out, tmp_path)
    assert "Left out because of their names: student-7." in text
    page = (tmp_path / "pruning.md").read_text()
    assert section(page, "Pruning techniques")[3] == ["20%", *"----", "30.00", "-", "-"]
    assert section(page, "Visual noise")[1][2:] == ["30.00", "-", "40.00", "-"]
    assert "Figure 1" not in page and not (tmp_path / "pruning_rewinding.png").exists()

    only = tmp_path / "only"
    made.write(only, "rewind-5-20", file, {"clean": 30})
    pruning_report.report(only, only / "report")
    assert {p.name for p in (only / "report").glob("*.png")} == {"pruning_rewinding.png"}


def test_what_cannot_be_a_sweep(made: Evaluation, sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results in it; run `avhubert-ext evaluate` first"):
        pruning_report.report(tmp_path, tmp_path)
    file = made.store("other")
    for name in ("teacher", "student-7"):
        made.write(tmp_path / "others", name, file, {"clean": 5})
    with pytest.raises(InputError, match="among teacher, student-7: expected names like dense"):
        pruning_report.report(tmp_path / "others", tmp_path)
    with pytest.raises(InputError, match="--last 10: expected at least 20"):
        pruning_report.report(sweep, tmp_path, last=10)
    made.write(tmp_path / "mixed", "dense", file, {"clean": 5})
    made.write(tmp_path / "mixed", "lth-50", file, {"clean": 5}, utterances=11)
    with pytest.raises(InputError, match="several test sets, in reference words: dense 100, lth"):
        pruning_report.report(tmp_path / "mixed", tmp_path)
    assert not list(tmp_path.glob("*.*")), "nothing is written"


def test_bold_needs_something_worse() -> None:
    assert mark_best(["-", "5.00", "-"]) == ["-", "5.00", "-"]
    assert mark_best(["5.00", "122.3", "5.00"]) == ["**5.00**", "122.3", "**5.00**"]


def test_pareto_front_against_brute_force() -> None:
    draw = random.Random(0)
    for _ in range(300):
        points = [(draw.randint(1, 6), draw.randint(0, 6)) for _ in range(draw.randint(0, 12))]
        expected = [
            not any(s <= size and r <= rate and (s, r) != (size, rate) for s, r in points)
            for size, rate in points
        ]
        assert pareto_front(points) == expected


@pytest.fixture(scope="module")
def sizes(made: Evaluation) -> Path:
    """Five models of falling size; `middle` is larger than `lrr-80`, and worse."""
    out = made.folder / "sizes"
    for name, sparsity, rate in (
        ("dense", 0, 20), ("lrr-20", 20, 20), ("middle", 50, 40), ("lrr-80", 80, 30),
        ("tiny", 95, 150),
    ):  # fmt: skip
        file = made.store(name, sparsity)
        made.write(out, name, file, {"clean": rate, "block_level1": 90 - sparsity})
    return out


def read_frontier(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "frontier.csv").open() as file:
        return {row["model"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_frontier(made: Evaluation, sizes: Path, tmp_path: Path) -> None:
    frontier([sizes], tmp_path)
    found = read_frontier(tmp_path)
    assert list(found) == ["tiny", "lrr-80", "middle", "lrr-20", "dense"], "the smallest first"
    assert [row["on_front"] for row in found.values()] == ["1", "1", "0", "1", "0"]
    for name, row in found.items():
        file = made.folder / "models" / f"{name}.safetensors"
        assert row["file"] == str(file) and int(row["bytes"]) == file.stat().st_size
        assert int(row["parameters"]) == made.kept[name]
    header, *rows = section((tmp_path / "frontier.md").read_text(), "Accuracy against size, clean")
    size = int(found["lrr-80"]["bytes"])
    assert header == ["model", "MB", "bytes", "parameters", "WER (%)", "front"]
    assert rows[1] == [
        "lrr-80", f"{size / 1e6:.2f}", f"{size:,}", f"{made.kept['lrr-80']:,}", "30.00", "yes"
    ]  # fmt: skip
    assert 0.005 < ink(tmp_path / "frontier.png") < 0.5


def test_frontier_of_another_condition(made: Evaluation, sizes: Path, tmp_path: Path) -> None:
    file = made.store("clean-only")
    made.write(tmp_path / "more", "clean-only", file, {"clean": 1})
    text = frontier([sizes, tmp_path / "more"], tmp_path, "block_level1")
    assert "clean-only is left out: not decoded under block_level1." in text
    found = read_frontier(tmp_path)
    assert found["lrr-20"]["wer"] == "70.000" and "clean-only" not in found
    assert [name for name, row in found.items() if row["on_front"] == "1"] == ["tiny"]
    with pytest.raises(InputError, match="'fog': expected one of block_level1, clean"):
        frontier([sizes], tmp_path, "fog")


@pytest.mark.slow
def test_only_safetensors_as_evaluated_have_a_size(made: Evaluation, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    files = {name: made.store(name) for name in ("good", "gone", "changed")}
    for name, file in files.items():
        made.write(out, name, file, {"clean": 20})
    made.write(out, "trained", files["good"], {"clean": 10})
    record = json.loads((out / "trained/model.json").read_text())
    record["file"] = str(files["good"].with_suffix(".pt"))
    (out / "trained/model.json").write_text(json.dumps(record))
    files["gone"].unlink()
    made.store("pruned", 50).replace(files["changed"])
    text = frontier([out], tmp_path)
    for told in (
        "good.pt also holds an optimizer's state; convert it",
        "gone.safetensors is missing; put it back",
        "changed.safetensors has changed since; evaluate it under another name",
    ):
        assert told in text
    found = read_frontier(tmp_path)
    assert next(iter(found)) == "good" and found["good"]["on_front"] == "1", "others have no part"
    for name in ("trained", "gone", "changed"):
        assert (found[name]["bytes"], found[name]["on_front"]) == ("", "0")
    rows = {row[0]: row for row in section((tmp_path / "frontier.md").read_text(), "Accuracy")}
    assert rows["trained"][1:] == ["-", "-", "-", "10.00", ""]
    files["good"].unlink()
    with pytest.raises(InputError, match=r"no model with a size: .*good\.safetensors is missing"):
        frontier([out], tmp_path)


def test_the_same_name_in_two_folders(made: Evaluation, sizes: Path, tmp_path: Path) -> None:
    other = made.folder / "other"
    made.write(other, "dense", made.folder / "models/dense.safetensors", {"clean": 10})
    text = frontier([sizes, other, other], tmp_path)
    found = read_frontier(tmp_path)
    assert found["other/dense"]["wer"] == "10.000" and found["sizes/dense"]["wer"] == "20.000"
    assert "lrr-20" in found and len(found) == 6
    assert "All models: split test of" in text


@pytest.mark.slow
def test_the_command_lines(
    sweep: Path, sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert (
        main(["report", "pruning", "--evaluation", str(sweep), "--out", out, "--last", "75"]) == 0
    )
    assert "Iterative: LRR" in capsys.readouterr().out
    assert main(["report", "frontier", "--evaluation", str(sizes), "--out", out]) == 0
    assert "lrr-80" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "pruning.md", "pruning.csv", "pruning_methods.png", "pruning_rewinding.png",
        "frontier.md", "frontier.csv", "frontier.png",
    }  # fmt: skip
    assert main(["report", "pruning", "--evaluation", str(tmp_path), "--out", out]) == 1
    assert "no results in it" in capsys.readouterr().err
