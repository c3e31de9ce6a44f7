"""`avhubert-ext evaluate`: passes, resuming, and the pages made of them."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from conftest import ROOT

from avhubert_ext.checkpoints.model_file import load_avhubert_asr, save_model
from avhubert_ext.cli import main
from avhubert_ext.data.audio import load_audio
from avhubert_ext.data.corrupt import scored_note
from avhubert_ext.data.manifest import read_manifest
from avhubert_ext.data.normalization import TextConfig, write_text_config
from avhubert_ext.data.text import SPECIAL_SYMBOLS, dictionary_digest
from avhubert_ext.decoding.beam import SearchConfig
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.evaluate import EvaluationConfig, Evaluator, evaluate
from avhubert_ext.evaluation.hypotheses import Decoded, read_decoded, write_decoded
from avhubert_ext.recognizers.base import Recognizer
from avhubert_ext.reports import noise as noise_report
from avhubert_ext.reports.decoded import read_hypotheses

TEACHER = ROOT / "scripts/models/tiny-teacher/model.safetensors"


@pytest.fixture(scope="module")
def config(teacher_data: Path, noise: Path) -> EvaluationConfig:
    return EvaluationConfig(
        teacher_data, noise=(noise / "babble",), snr_db=(-10, 0), passes=2, modalities="audio"
    )


@pytest.fixture(scope="module")
def evaluated(config: EvaluationConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated")
    evaluate([("teacher", TEACHER)], config, out)
    return out


PASSES = (
    "clean/pass-0", "babble_-10dB/pass-0", "babble_-10dB/pass-1", "babble_0dB/pass-0",
    "babble_0dB/pass-1",
)  # fmt: skip


def test_a_file_a_pass_and_other_snippets_in_each(evaluated: Path) -> None:
    files = {p.relative_to(evaluated / "teacher") for p in evaluated.glob("teacher/*/*.jsonl")}
    assert files == {Path(f"{name}.jsonl") for name in PASSES}
    snippets = set()
    for name in PASSES:
        decoded = read_decoded(evaluated / "teacher" / f"{name}.jsonl")
        assert len(decoded) == 4
        if name.startswith("clean"):
            assert all(d.noise is None for d in decoded)
            continue
        assert all(name.startswith(f"babble_{d.noise['snr_db']:g}dB") for d in decoded)
        snippets |= {(*d.noise["files"], *d.noise["starts"], d.id) for d in decoded}
    assert len(snippets) == 16, "4 utterances x 2 levels x 2 passes"


@pytest.mark.slow
def test_punctuation_in_labels_made_elsewhere_costs_nothing(
    config: EvaluationConfig, evaluated: Path, tmp_path: Path
) -> None:
    """The reference and the score are those of the bare words, and another setting another page."""
    data = tmp_path / "data"
    shutil.copytree(config.data, data)
    labels = (data / "test.wrd").read_text().splitlines()
    text = "".join(f"\u201c{label.capitalize()},\u201d [laughter] \u2026\r\n" for label in labels)
    (data / "test.wrd").write_bytes(text.encode("utf-8-sig"))
    (data / "text.json").unlink()  # the defaults
    plain = replace(config, data=data, noise=())
    evaluate([("teacher", TEACHER)], plain, tmp_path / "out")
    found, expected = (
        read_decoded(out / "teacher/clean/pass-0.jsonl") for out in (tmp_path / "out", evaluated)
    )
    assert found == expected and {d.reference for d in found} == set(labels)
    write_text_config(data, TextConfig("lower", "keep", ""))
    with pytest.raises(InputError, match="holds results with another text"):
        evaluate([("teacher", TEACHER)], plain, tmp_path / "out")
    evaluate([("teacher", TEACHER)], plain, tmp_path / "kept")
    kept = read_decoded(tmp_path / "kept/teacher/clean/pass-0.jsonl")
    assert sum(d.edits for d in kept) > sum(d.edits for d in found)


def test_results_of_before_the_setting_are_those_of_the_defaults(
    config: EvaluationConfig, evaluated: Path, tmp_path: Path
) -> None:
    shutil.copytree(evaluated, tmp_path / "out")
    record = tmp_path / "out/teacher/model.json"
    settings = json.loads(record.read_text())
    assert settings.pop("text") == {"case": "lower", "punctuation": "remove", "tags": "[]<>"}
    record.write_text(json.dumps(settings))
    evaluate([("teacher", TEACHER)], config, tmp_path / "out")
    assert "text" in json.loads(record.read_text())


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(
    config: EvaluationConfig, evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = evaluated / "teacher/babble_0dB/pass-1.jsonl"
    kept = {p: p.stat().st_mtime_ns for p in evaluated.glob("teacher/*/*.jsonl") if p != lost}
    before = lost.read_text()
    lost.unlink()
    evaluate([("teacher", TEACHER)], replace(config, max_frames=60), evaluated)
    after = {d.id: d for d in read_decoded(lost)}
    for line in before.splitlines():
        found = after[json.loads(line)["id"]]
        assert (found.hypothesis, found.noise) == (
            json.loads(line)["hypothesis"], json.loads(line)["noise"]
        )  # fmt: skip
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    # All is there now: nothing is decoded.
    monkeypatch.setattr("avhubert_ext.evaluation.evaluate.Evaluator.decode", None)
    evaluate([("teacher", TEACHER)], config, evaluated)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"modalities": "both"}, "modalities"), ({"seed": 2}, "noise_seed")],
)
def test_other_settings_do_not_mix_with_old_results(
    config: EvaluationConfig, evaluated: Path, change: dict, named: str
) -> None:
    with pytest.raises(InputError, match=f"another {named}; delete it"):
        evaluate([("teacher", TEACHER)], replace(config, **change), evaluated)


@pytest.mark.slow
def test_other_data_or_noise_under_the_same_name_does_not_mix(
    config: EvaluationConfig, evaluated: Path, noise: Path, tmp_path: Path
) -> None:
    other = tmp_path / "babble"
    shutil.copytree(noise / "music", other)
    with pytest.raises(InputError, match="another noise babble; delete it"):
        evaluate([("teacher", TEACHER)], replace(config, noise=(other,)), evaluated)
    data = tmp_path / "data"
    shutil.copytree(config.data, data)
    lines = (data / "test.wrd").read_text().splitlines()
    (data / "test.wrd").write_text("\n".join(["red", *lines[1:]]) + "\n")
    with pytest.raises(InputError, match="another data, data_sha256; delete it"):
        evaluate([("teacher", TEACHER)], replace(config, data=data), evaluated)
    evaluate([("teacher", TEACHER)], replace(config, noise=()), evaluated)  # less is no other


def test_a_moved_model_is_the_same_and_stays_on_the_page(
    config: EvaluationConfig, evaluated: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(TEACHER.read_bytes())
    evaluate([("teacher", moved)], config, evaluated)
    assert json.loads((evaluated / "teacher/model.json").read_text())["file"] == str(moved)
    moved.unlink()
    assert "2.74M" in noise_report.report(evaluated)


def test_a_failing_noise_is_no_unreadable_clip(config: EvaluationConfig, tmp_path: Path) -> None:
    """Nor does a pass with it count as done."""
    folder = tmp_path / "hum"
    folder.mkdir()
    soundfile.write(folder / "hum.wav", np.ones(44100, np.int16), 44100)
    (folder / "test.tsv").write_text(f"{folder}/hum.wav\n")
    with pytest.raises(InputError, match=r"hum\.wav: sample rate is 44100"):
        evaluate([("t", TEACHER)], replace(config, noise=(folder,)), tmp_path / "out")
    assert not list(tmp_path.glob("out/t/hum*/*"))


@pytest.mark.parametrize("name", ["a/b", "..", ""])
def test_names_that_are_no_folders(config: EvaluationConfig, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="it becomes a folder"):
        evaluate([(name, TEACHER)], config, tmp_path)


@pytest.mark.slow
def test_the_same_subwords_in_another_order_are_refused(
    config: EvaluationConfig, tmp_path: Path
) -> None:
    """Of a model that knows its dictionary, as one that was trained here does."""
    data = tmp_path / "data"
    shutil.copytree(config.data, data)
    pieces = (data / "dict.wrd.txt").read_text().splitlines()
    model = tmp_path / "model.safetensors"
    origin = {"dictionary": dictionary_digest([*SPECIAL_SYMBOLS, *(p[:-2] for p in pieces)])}
    save_model(model, load_avhubert_asr(TEACHER), origin=origin)
    evaluate([("t", model)], replace(config, noise=()), tmp_path / "out")
    (data / "dict.wrd.txt").write_text("\n".join(reversed(pieces)) + "\n")
    with pytest.raises(InputError, match="or in another order"):
        evaluate([("t", model)], replace(config, data=data), tmp_path / "other")


def test_another_file_under_the_same_name_is_refused(
    config: EvaluationConfig, evaluated: Path, tmp_path: Path
) -> None:
    other = tmp_path / "model.safetensors"
    save_model(other, load_avhubert_asr(TEACHER), origin={"trained_with": "more"})
    with pytest.raises(InputError, match="another sha256"):
        evaluate([("teacher", other)], config, evaluated)


def word_error_rate(path: Path) -> float:
    decoded = read_decoded(path)
    return 100 * jiwer.wer([d.reference for d in decoded], [d.hypothesis for d in decoded])


def test_report(evaluated: Path) -> None:
    text = noise_report.report(evaluated)
    loud = [word_error_rate(evaluated / f"teacher/babble_-10dB/pass-{n}.jsonl") for n in (0, 1)]
    even = [word_error_rate(evaluated / f"teacher/babble_0dB/pass-{n}.jsonl") for n in (0, 1)]
    clean = word_error_rate(evaluated / "teacher/clean/pass-0.jsonl")
    assert statistics.mean(loud) > clean, "the test would not see a mistake otherwise"

    (found,) = json.loads((evaluated / "results.json").read_text())
    measured = found["conditions"]["babble_-10dB"]
    assert measured["mean_wer"] == pytest.approx(statistics.mean(loud), abs=1e-3)
    assert measured["standard_deviation"] == pytest.approx(statistics.stdev(loud), abs=1e-3)
    with (evaluated / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [
        float(r["wer"]) for r in rows if (r["noise"], r["snr_db"]) == ("babble", "-10")
    ] == pytest.approx(loud, abs=1e-3)
    assert len(rows) == 5

    row = next(line for line in text.splitlines() if line.startswith("teacher "))
    cell = f"{statistics.mean(even):.2f} ± {statistics.stdev(even):.2f}"
    assert row.split() == [
        "teacher", "-", "-", "-", "resnet", "transformer", "12", "128", "512", "2.74M", "21.6",
        *cell.split(), f"{clean:.2f}", f"{statistics.mean([*loud, *even]):.2f}",
    ]  # fmt: skip
    for name in ("table_1.md", "table_1.html"):
        page = (evaluated / name).read_text()
        assert cell in page and f"{clean:.2f}" in page and "wer_babble.png" in page
        for told in (
            "beam 5",
            "length penalty 1",
            "noise seed 1",
            "babble_-10dB 2",
            "modalities audio",
        ):
            assert told in page, told
    assert (evaluated / "wer_babble.png").read_bytes().startswith(b"\x89PNG")


def test_report_of_several_models_by_hand(evaluated: Path, tmp_path: Path) -> None:
    """The teacher comes first, a missing condition is a dash, unreadable clips are reported."""
    for name, hypothesis in (("7", "a x c d"), ("teacher", "a b c d")):
        folder = tmp_path / name
        folder.mkdir()
        settings = json.loads((evaluated / "teacher/model.json").read_text())
        settings["allow_unreadable"] = True
        if name == "7":  # exported by an older version, which did not record it
            settings["encoder"]["parameters"] = None
        (folder / "model.json").write_text(json.dumps(settings))
        clip = Decoded("u", "a b c d", hypothesis, -0.1)
        lost = Decoded("v", "a b c d", "", -0.1, unreadable="v.mp4: gone")
        write_decoded(folder / "clean/pass-0.jsonl", [clip, lost])
    noisy = [replace(clip, hypothesis="", noise={"snr_db": 0})]
    write_decoded(tmp_path / "7/talker_0dB/pass-0.jsonl", noisy)
    rows = [line.split() for line in noise_report.report(tmp_path).splitlines()[3:5]]
    assert [row[9] for row in rows] == ["2.74M", "unknown"]
    assert [(row[:4], row[11:]) for row in rows] == [
        (["teacher", "-", "-", "-"], ["-", "50.00", "-"]),
        (["7", "task-specific", "scratch", "8,12"], ["100.00", "62.50", "100.00"]),
    ]
    told = "1 of 2 utterances unreadable and counted as deleted (--allow-unreadable) in all passes"
    assert told in (tmp_path / "table_1.md").read_text()
    assert told in (tmp_path / "table_1.html").read_text()


@pytest.fixture
def unplugged(teacher_data: Path, corpus: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A manifest folder, and where its corpus has to be: it is not there yet."""
    data, disk = tmp_path / "data", tmp_path / "disk"
    shutil.copytree(teacher_data, data)
    manifest = data / "test.tsv"
    text = manifest.read_text()
    assert str(corpus) in text
    manifest.write_text(text.replace(str(corpus), str(disk)))
    return data, disk


def score(data: Path, out: Path, *options: str) -> int:
    command = ["evaluate", "--data", str(data), "--out", str(out), "--beam", "1"]
    return main([*command, "--device", "cpu", "--model", "t", str(TEACHER), *options])


@pytest.mark.slow
def test_a_missing_corpus_is_no_score(
    unplugged: tuple[Path, Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, disk = unplugged
    out = tmp_path / "out"
    assert score(data, out) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "of 4 utterances cannot be read, more than 1%" in error and str(disk) in error
    assert "--allow-unreadable" in error
    assert not list(out.rglob("pass-*")) and not (out / "results.json").exists()

    assert score(data, out, "--allow-unreadable") == 0
    assert "4 of 4 utterances unreadable and counted as deleted" in capsys.readouterr().out
    (found,) = json.loads((out / "results.json").read_text())
    assert found["conditions"]["clean"]["mean_wer"] == 100
    # A pass like this is not kept: neither as it is, nor for the report.
    assert score(data, out) == 1
    with pytest.raises(InputError, match="4 of 4 utterances cannot be read"):
        noise_report.report(out)

    disk.symlink_to(corpus)
    assert score(data, out) == 0
    (found,) = json.loads((out / "results.json").read_text())
    assert found["conditions"]["clean"]["mean_wer"] < 50
    assert found["conditions"]["clean"]["passes"][0]["unreadable"] == 0


@pytest.mark.slow
def test_passes_of_older_versions_with_a_missing_corpus_are_decoded_again(
    config: EvaluationConfig, evaluated: Path, tmp_path: Path
) -> None:
    """Also their copies for noise that the model does not hear."""
    shutil.copytree(evaluated, tmp_path / "out")
    right = (evaluated / "teacher/clean/pass-0.jsonl").read_text()
    settings = tmp_path / "out/teacher/model.json"
    old = json.loads(settings.read_text())
    del old["allow_unreadable"]
    settings.write_text(json.dumps(old))
    clean = tmp_path / "out/teacher/clean/pass-0.jsonl"
    blank = [replace(d, hypothesis="", unreadable="gone") for d in read_decoded(clean)]
    write_decoded(clean, blank)
    with pytest.raises(InputError, match="cannot be read"):
        noise_report.report(tmp_path / "out")
    evaluate([("teacher", TEACHER)], config, tmp_path / "out")
    assert clean.read_text() == right
    noise_report.report(tmp_path / "out")


@pytest.mark.parametrize(
    ("note", "refused"),
    [
        ("2 utterances unreadable and counted as deleted", True),  # of older versions
        (scored_note(2, 2), True),
        (scored_note(2, 2, allow=True), False),
        (scored_note(0, 2), False),
    ],
)
def test_generated_texts_with_unreadable_utterances(
    tmp_path: Path, note: str, refused: bool
) -> None:
    path = tmp_path / "generate-test.txt"
    lines = ["T-0\ta b", "H-0\t-1\t", "D-0\t-1\t", "T-1\tc", "H-1\t-1\tc", "D-1\t-1\tc"]
    closing = f"Generate test with beam=5: WER: 66.67 (2 edits in 3 words, {note}, beam 5)"
    path.write_text("\n".join([*lines, closing]) + "\n")
    if refused:
        with pytest.raises(InputError, match=r"2 of 2 utterances cannot be read.*generate-test"):
            read_hypotheses(path)
    else:
        assert read_hypotheses(path) == [("a b", ""), ("c", "c")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"noise": (Path("a/babble"), Path("b/babble"))}, "must differ"),
        ({"passes": 0}, "at least 1"),
        ({"device": "gpu"}, "device 'gpu': PyTorch does not have it"),
        ({"device": "cuda:99"}, "device 'cuda:99': PyTorch does not have it"),
        ({"modalities": "smell"}, "expected both, audio or video"),
        ({"split": "tset"}, r"tset\.tsv not found"),
        ({"noise": (Path("nowhere"),)}, r"nowhere/test\.tsv not found"),
    ],
)
def test_settings_that_make_no_sense(
    config: EvaluationConfig, tmp_path: Path, change: dict, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        evaluate([("t", TEACHER)], replace(config, **change), tmp_path)


def test_errors_of_the_command_line(
    teacher_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["evaluate", "--data", str(teacher_data), "--out", str(tmp_path)]
    assert main([*command]) == 1
    assert "no results in it" in capsys.readouterr().err
    assert main([*command, "--model", "t", "gone.pt"]) == 1
    assert "gone.pt not found" in capsys.readouterr().err


def test_lines_that_are_no_decoded_utterances(tmp_path: Path) -> None:
    path = tmp_path / "pass-0.jsonl"
    write_decoded(path, [Decoded("u", "a b", "a", -1.0)])
    path.write_text(path.read_text() + '{"id": "v"')
    with pytest.raises(InputError, match=r"pass-0\.jsonl line 2: not a decoded utterance"):
        read_decoded(path)


def test_texts_that_are_not_utf_8_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "generate-test.txt").write_bytes(b"T-0\ta\xff\n")
    with pytest.raises(InputError, match=r"generate-test\.txt: not UTF-8 text"):
        read_hypotheses(tmp_path / "generate-test.txt")


def test_an_utterance_whose_counts_do_not_fit_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "pass-0.jsonl"
    write_decoded(path, [Decoded("u", "a b", "a", -1.0)])
    path.write_text(path.read_text().replace('"hypothesis": "a"', '"hypothesis": "a b"'))
    with pytest.raises(InputError, match=r"pass-0\.jsonl line 1: not a decoded utterance"):
        read_decoded(path)


@pytest.mark.slow
def test_what_is_decoded_is_what_transcribe_uses(config: EvaluationConfig, evaluated: Path) -> None:
    """The fused network; what is reported of it is still that of the file."""
    kinds = {type(module).__name__ for module in Evaluator(config).load(TEACHER).network.modules()}
    given = {type(module).__name__ for module in load_avhubert_asr(TEACHER).modules()}
    assert "BatchNorm2d" in given and not any("BatchNorm" in kind for kind in kinds)

    utterance = read_manifest(config.data / "test.tsv")[0]
    recognizer = Recognizer.from_file(TEACHER, search=SearchConfig(beam=config.beam.beam))
    found = recognizer.recognize(load_audio(utterance.audio), None)
    decoded = read_decoded(evaluated / "teacher/clean/pass-0.jsonl")[0]
    assert decoded.id == utterance.id and found.text == decoded.hypothesis
    assert found.score == pytest.approx(decoded.score, abs=1e-4)
