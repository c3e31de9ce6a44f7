"""`avhubert-ext data video` and its recipe on miniature corpora."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import run
from portrait import moved, movement, tone, write_clip

from avhubert_ext.cli import main
from avhubert_ext.data.audio import load_audio
from avhubert_ext.data.video import load_video
from avhubert_ext.errors import InputError
from avhubert_ext.mouth.clip import mouth_clips
from avhubert_ext.preparation.corpora import Source, corpus_sources, excerpts, plain_videos

SIZE = (200, 160)
FRAMES = 12


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Half a second of a face with sound."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_clip(path, moved(movement(FRAMES, SIZE, 0.8), SIZE), audio=tone(FRAMES / 25))


def put(source: Path, target: Path, text: str | None = None, suffix: str = ".txt") -> Path:
    """Copy a video, with a transcript beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    if text is not None:
        target.with_suffix(suffix).write_text(text)
    return target


def prepare_video(*words: str | Path) -> int:
    """Run the command in this process, which is faster; returns the exit code."""
    return main([str(w) for w in ("data", "video", *words, "--workers", "1")])


def report(out: Path, name: str = "report.jsonl") -> dict[str, dict]:
    lines = [json.loads(line) for line in (out / name).read_text().splitlines()]
    return {line["name"]: line for line in lines}


def files(out: Path) -> set[str]:
    return {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}


# ---- one video, a folder


def test_one_video(video, tmp_path):
    assert prepare_video(video, tmp_path / "out") == 0
    assert files(tmp_path / "out") == {"clip.mp4", "clip.wav", "sheets/clip.jpg", "report.jsonl"}
    (clip,) = mouth_clips(video)
    written = load_video(tmp_path / "out/clip.mp4")
    assert written.shape == (FRAMES, 96, 96)
    assert np.abs(written.astype(int) - clip.video).mean() < 1.5
    assert np.array_equal(load_audio(tmp_path / "out/clip.wav"), clip.audio)
    assert cv2.imread(str(tmp_path / "out/sheets/clip.jpg")).shape[1] == 8 * 160
    (quality,) = report(tmp_path / "out")["clip"]["quality"]
    assert quality["frames"] == FRAMES and quality["missing"] == 0


@pytest.mark.slow
def test_folder_with_broken_files(video, tmp_path, capfd):
    """Each is reported and counted, the others are written, and nothing outside the folder."""
    raw = tmp_path / "raw"
    put(video, raw / "a/good.mp4")
    put(video, raw / "b/http:x %d $(touch y).mp4")
    put(video, raw / f"{'long' * 61}.mp4")
    (raw / "zero.mp4").write_bytes(b"")
    (raw / "cut.mp4").write_bytes(video.read_bytes()[:2000])
    (raw / "text.avi").write_text("no video")
    (raw / "notes.txt").write_text("not looked at")
    write_clip(raw / "silent.mkv", moved(movement(3, SIZE, 0.8), SIZE))
    write_clip(raw / "empty.mp4", [np.full((160, 200, 3), 90, np.uint8)] * 3)
    before = files(tmp_path)
    assert prepare_video(raw, tmp_path / "out") == 1
    failed = {name for name, line in report(tmp_path / "out").items() if "error" in line}
    assert failed == {"zero", "cut", "text", "empty", "long" * 61}
    told = capfd.readouterr().err
    assert "5 of 8 videos failed" in told and "name is too long" in told
    assert "empty, 0 bytes" in told and "no face found" in told
    good = ("a/good", "b/http:x %d $(touch y)", "silent")
    expected = {f"out/{name}.mp4" for name in good} | {f"out/sheets/{name}.jpg" for name in good}
    expected |= {f"out/{name}.wav" for name in good[:2]} | {"out/report.jsonl"}
    assert files(tmp_path) - before == expected


@pytest.mark.slow
def test_a_rerun_does_only_the_remaining_work(video, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("a", "b", "c"):
        put(video, raw / f"{name}.mp4")
    (raw / "c.mp4").write_bytes(b"")
    assert prepare_video(raw, out) == 1
    stamps = {name: (out / f"{name}.mp4").stat().st_mtime_ns for name in "ab"}
    put(video, raw / "c.mp4")
    os.utime(raw / "b.mp4", (1, 1))  # another video
    with (out / "report.jsonl").open("a") as log:
        log.write('{"name": "a", "vid')  # truncated by a kill
    assert prepare_video(raw, out) == 0
    assert (out / "a.mp4").stat().st_mtime_ns == stamps["a"]
    assert (out / "b.mp4").stat().st_mtime_ns > stamps["b"]
    assert set(report(out)) == {"a", "b", "c"}
    assert prepare_video(raw, out, "--face", "1") == 0  # other settings
    assert (out / "a.mp4").stat().st_mtime_ns > stamps["a"]


def test_earlier_calls_are_remembered(video, tmp_path):
    """The report keeps the lines of other inputs, and finished videos are not processed again."""
    out = tmp_path / "out"
    stamps = {}
    for name in "abc":
        put(video, tmp_path / f"{name}.mp4")
        assert prepare_video(tmp_path / f"{name}.mp4", out) == 0
        stamps[name] = (out / f"{name}.mp4").stat().st_mtime_ns
    assert set(report(out)) == set("abc")
    assert prepare_video(*(tmp_path / f"{name}.mp4" for name in "abc"), out) == 0
    assert {n: (out / f"{n}.mp4").stat().st_mtime_ns for n in "abc"} == stamps
    assert prepare_video(tmp_path / "a.mp4", tmp_path / "b.mp4", out, "--shard", "1/2") == 0
    assert (out / "a.mp4").stat().st_mtime_ns == stamps["a"], "another report knows of it"
    assert set(report(out)) == set("abc")


def test_a_missing_file_is_made_again(video, tmp_path):
    raw, out = put(video, tmp_path / "raw.mp4"), tmp_path / "out"
    assert prepare_video(raw, out, "--no-sheets") == 0
    stamp = (out / "raw.mp4").stat().st_mtime_ns
    assert prepare_video(raw, out) == 0
    assert (out / "sheets/raw.jpg").is_file(), "sheets were not asked for before"
    for name in ("raw.wav", "sheets/raw.jpg", "raw.mp4"):
        (out / name).write_bytes(b"")
        assert prepare_video(raw, out) == 0
        assert (out / name).stat().st_size
    assert (out / "raw.mp4").stat().st_mtime_ns > stamp


def test_clips_of_other_settings_are_removed(video, tmp_path):
    """Otherwise `data prepare` would take them for clips of the corpus."""
    out = tmp_path / "out"
    assert prepare_video(video, out, "--face", "all", "--no-sheets") == 0
    assert files(out) == {"clip_face1.mp4", "clip_face1.wav", "report.jsonl"}
    assert prepare_video(video, out, "--no-sheets") == 0
    assert files(out) == {"clip.mp4", "clip.wav", "report.jsonl"}


@pytest.mark.slow
def test_videos_with_the_same_stem_get_unique_names(video, tmp_path, capfd):
    """In one run or several; nothing is overwritten."""
    out = tmp_path / "out"
    first = put(video, tmp_path / "x/a.mp4")
    assert prepare_video(first, out) == 0
    stamp = (out / "a.mp4").stat().st_mtime_ns
    for path in ("x/a.avi", "x/a.mkv", "y/a.mkv"):
        write_clip(tmp_path / path if path[0] == "x" else put(video, tmp_path / path),
                   moved(movement(3, SIZE, 0.8), SIZE))  # fmt: skip
    for inputs in ([tmp_path / "x", tmp_path / "y"], [tmp_path / "y/a.mkv"]):
        assert prepare_video(*inputs, out) == 0
        names = {name: Path(line["video"]) for name, line in report(out).items()}
        assert names == {
            "a": first,
            "a_avi": tmp_path / "x/a.avi",
            "a_mkv": tmp_path / "x/a.mkv",
            "a_2": tmp_path / "y/a.mkv",
        }
    assert (out / "a.mp4").stat().st_mtime_ns == stamp
    assert load_video(out / "a_2.mp4").shape[0] == 3
    assert f"y/a.mkv becomes a_2.mp4, as {first} has" in capfd.readouterr().err


@pytest.mark.slow
def test_names_that_are_not_utf8(video, tmp_path):
    """They are processed like others; the report and the terminal show them escaped."""
    raw, out = tmp_path / "raw", os.fsdecode(os.fsencode(tmp_path) + b"/out\xe9")
    put(video, raw / "good.mp4")
    shutil.copy(video, os.fsencode(raw) + b"/caf\xe9.mp4")
    Path(os.fsdecode(os.fsencode(raw) + b"/bad\xe9.mp4")).write_bytes(b"no video")
    result = run("avhubert-ext", "data", "video", raw, out, PYTHONIOENCODING="utf-8:strict")
    assert result.returncode == 1 and "Traceback" not in result.stdout
    assert "bad\\udce9.mp4: not a " in result.stdout and "out\\udce9/sheets" in result.stdout
    assert set(report(Path(out))) == {"good", "caf\udce9", "bad\udce9"}
    assert os.path.getsize(os.fsencode(out) + b"/caf\xe9.mp4")


def test_warnings_are_shown_and_reported(video, tmp_path, capfd):
    """A rerun that does not process the clip again shows them only in the report."""
    frames = moved(movement(FRAMES, SIZE, 0.8), SIZE)
    path = write_clip(tmp_path / "late.mp4", frames, audio=tone(2.0))
    for again in range(2):
        assert prepare_video(path, tmp_path / "out") == 0
        (warning,) = report(tmp_path / "out")["late"]["warnings"]
        assert re.match(r"0\.0 s of sound before the first frame and 1\.[56] s after", warning)
        told = capfd.readouterr()
        assert "1 of them with warnings" in told.out
        assert (f"warning: {path}: {warning}" in told.err) is not again
    assert prepare_video(video, tmp_path / "out") == 0
    assert report(tmp_path / "out")["clip"]["warnings"] == []


def test_mouth_regions_of_another_size_and_rate(tmp_path):
    frames = [np.full((128, 128, 3), 4 * n, np.uint8) for n in range(60)]
    path = write_clip(tmp_path / "mouth.mp4", frames, 30)
    assert prepare_video(path, tmp_path / "out", "--mouth") == 0
    found = load_video(tmp_path / "out/mouth.mp4")
    assert found.shape == (50, 96, 96)
    assert np.abs(found.mean(axis=(1, 2)) - 4.8 * np.arange(50)).max() < 6, "at their times"


def test_a_damaged_report_does_not_stop_a_run(video, tmp_path):
    out = tmp_path / "out"
    assert prepare_video(video, out) == 0
    (line,) = (out / "report.jsonl").read_text().splitlines()
    stray = tmp_path / "stray.mp4"
    stray.write_text("not in the folder")
    broken = [
        *(b"null", b"[]", b"5", b'{"name": 3}', b"\xff\xfe", b'{"name": "clip", "video": null}'),
        json.dumps({"name": "clip", "video": "/x", "clips": ["../stray"], "quality": []}).encode(),
        json.dumps(json.loads(line) | {"quality": [3]}).encode(),
    ]
    (out / "report.jsonl").write_bytes(b"\n".join(broken))
    assert prepare_video(video, out) == 0
    assert set(report(out)) == {"clip"} and stray.is_file()


def test_the_bar_counts_each_frame_once(video, tmp_path, capfd):
    assert prepare_video(video, tmp_path / "out") == 0
    told = capfd.readouterr().err
    assert f"{FRAMES} of {FRAMES}" in told and str(2 * FRAMES) not in told.replace("24-", "")


@pytest.mark.slow
def test_a_killed_run_can_be_resumed(video, tmp_path, capfd):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(6):
        put(video, raw / f"{number}.mp4")
    command = [sys.executable, "-m", "avhubert_ext.cli", "data", "video", raw, out]
    process = subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.DEVNULL)
    while not (out / "report.jsonl").is_file() or not (out / "report.jsonl").stat().st_size:
        assert process.poll() is None
        time.sleep(0.02)
    assert prepare_video(raw, out) == 1
    assert "report.jsonl: another run is writing" in capfd.readouterr().err
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(report(out))
    assert prepare_video(raw, out) == 0
    assert 0 < done < 6 and set(report(out)) == set("012345")
    assert not list(out.rglob("*.part*")) and not list(out.rglob("*.lock"))


@pytest.mark.slow
def test_shards_make_up_the_whole(video, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("a", "b", "c"):
        put(video, raw / f"{name}.mp4")
    for number in (1, 2):
        assert prepare_video(raw, out, "--shard", f"{number}/2") == 0
    assert set(report(out, "report-1-of-2.jsonl")) == {"a", "c"}
    assert set(report(out, "report-2-of-2.jsonl")) == {"b"}
    assert {f"{name}.mp4" for name in "abc"} <= files(out)


def test_all_faces(video, tmp_path):
    pair = [np.hstack([f, f]) for f in moved(movement(FRAMES, SIZE, 0.8), SIZE)]
    path = write_clip(tmp_path / "pair.mp4", pair)
    assert prepare_video(path, tmp_path / "out", "--face", "all", "--no-sheets") == 0
    assert report(tmp_path / "out")["pair"]["clips"] == ["pair_face1", "pair_face2"]
    assert files(tmp_path / "out") == {"pair_face1.mp4", "pair_face2.mp4", "report.jsonl"}


def test_landmarks_of_a_folder(video, tmp_path, capfd):
    raw, marks = tmp_path / "raw", tmp_path / "marks"
    put(video, raw / "s/a.mp4")
    put(video, raw / "s/b.mp4")
    (marks / "s").mkdir(parents=True)
    eyes_nose_mouth = np.array([[[80, 60], [120, 60], [100, 80], [100, 100]]] * FRAMES)
    np.save(marks / "s/a.npy", eyes_nose_mouth)
    assert prepare_video(raw, tmp_path / "out", "--landmarks", marks) == 1
    assert "b.pkl not found: every clip needs its landmarks" in capfd.readouterr().err
    assert "s/a.mp4" in files(tmp_path / "out")


def test_the_reason_of_a_failed_video_is_reported(tmp_path, capfd):
    (tmp_path / "zero.mp4").write_bytes(b"")
    assert prepare_video(tmp_path / "zero.mp4", tmp_path / "out") == 1
    assert "zero.mp4: empty, 0 bytes" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (("raw", "raw"), "in the output folder"),
        (("raw", "nothing", "out"), "nothing: not found"),
        (("none", "out"), "no video found"),
        (("raw", "out", "--layout", "lrs2"), "train.txt not found"),
        (("raw", "out", "--layout", "lrs3"), "not in the layout of lrs3"),
        (("raw", "none", "out", "--layout", "grid"), "expects one folder, got 2"),
        (("raw", "out", "--layout", "folder", "--face", "all"), "belongs to one speaker"),
        (("raw", "out", "--layout", "folder"), "speakers: 1; train, valid, test need"),
        (("raw", "out", "--landmark-model", "no.task"), "no.task not found"),
    ],
)
def test_wrong_use(video, tmp_path, monkeypatch, capfd, words, about):
    monkeypatch.chdir(tmp_path)
    put(video, Path("raw/a.mp4"))
    Path("none").mkdir()
    assert prepare_video(*words) == 1
    assert about in capfd.readouterr().err.splitlines()[-1]


# ---- corpora


def lrs2(video: Path, root: Path) -> None:
    for speaker in ("55", "56", "57"):
        put(video, root / f"main/{speaker}/00001.mp4", "Text:  HELLO THERE\nConf:  4\n")
    (root / "train.txt").write_text("55/00001\n../../../etc/passwd\n")
    (root / "val.txt").write_text("56/00001\n")
    (root / "test.txt").write_text("57/00001 NF\n")


def grid(video: Path, root: Path) -> None:
    words = "0 7250 sil\n7250 10250 lay\n10250 11000 blue\n11000 12000 sp\n12000 74500 now\n"
    for speaker in ("s1", "s3", "s4"):
        put(video, root / f"{speaker}/video/lbbn1a.mpg")
        path = root / f"align/{speaker}/lbbn1a.align"
        path.parent.mkdir(parents=True)
        path.write_text(words)


def folder(video: Path, root: Path) -> None:
    for speaker in ("ann", "bob", "eve"):
        put(video, root / f"{speaker}/1.mkv", "some plain words,\nin two lines\n")


def lrs3(video: Path, root: Path) -> None:
    for place in ("trainval/A", "trainval/B", "test/C"):
        put(video, root / f"{place}/50001.mp4", "Text:  HELLO THERE\nConf:  4\n")


def recipe(raw: Path, work: Path, layout: str, **environment: str) -> subprocess.CompletedProcess:
    """`prepare_corpus.sh` with the subwords of the shipped teacher."""
    given = {"CORPUS": str(raw), "WORK": str(work), "SUBWORDS": "scripts/models/tiny-teacher"}
    return run("scripts/prepare_corpus.sh", layout, "--workers", "1", **given, **environment)


def holds_a_clip_each(data: Path, text: str) -> None:
    for split in ("train", "valid", "test"):
        assert (data / f"{split}.wrd").read_text() == f"{text}\n"
        (row,) = (data / f"{split}.tsv").read_text().splitlines()[1:]
        assert row.split("\t")[3:] == [str(FRAMES), str(FRAMES * 640)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corpus", "text"),
    [
        (lrs2, "hello there"),
        (grid, "lay blue now"),
        (folder, "some plain words in two lines"),
    ],
)
def test_corpus_to_manifests(video, tmp_path, corpus, text):
    """The recipe, from a miniature of the raw corpus to the manifests."""
    corpus(video, tmp_path / "raw")
    result = recipe(tmp_path / "raw", tmp_path / "work", corpus.__name__)
    assert result.returncode == 0, result.stdout
    holds_a_clip_each(tmp_path / "work/data", text)
    assert len(list((tmp_path / "work/mouths/sheets").rglob("*.jpg"))) == 3


@pytest.mark.slow
def test_the_recipe_stops_at_failures_unless_they_are_allowed(video, tmp_path):
    lrs3(video, tmp_path / "raw")
    put(video, tmp_path / "raw/trainval/A/50002.mp4")  # without a transcript
    put(video, tmp_path / "raw/trainval/A/50003.mp4", "Text:  [laughter]\n")  # without words
    stopped = recipe(tmp_path / "raw", tmp_path / "work", "lrs3")
    assert stopped.returncode == 1 and "50002.mp4: no transcript" in stopped.stdout
    assert not (tmp_path / "work/data").exists()
    result = recipe(tmp_path / "raw", tmp_path / "work", "lrs3", SKIP_FAILED="1")
    assert result.returncode == 0, result.stdout
    holds_a_clip_each(tmp_path / "work/data", "hello there")


def test_grid_speakers_for_the_test(video, tmp_path):
    grid(video, tmp_path)
    names = {source.name for source in corpus_sources("grid", tmp_path)}
    assert names == {"test/s1/lbbn1a", "trainval/s3/lbbn1a", "trainval/s4/lbbn1a"}


def test_pretrain_clips_are_cut_between_words(video, tmp_path):
    """Excerpts have at most 24 s, with their words, frames, and samples."""
    words = [(f"W{n}", 0.4 * n, 0.4 * n + 0.3) for n in range(100)]
    lines = "".join(f"{w} {start:.2f} {end:.2f} 5.1\n" for w, start, end in words)
    put(
        video,
        tmp_path / "pretrain/A/00001.mp4",
        f"Text:  W0 ...\nConf: 3\n\nWORD START END ASDSCORE\n{lines}",
    )
    (source,) = corpus_sources("lrs3", tmp_path)
    assert source.name == "trainval/A/pretrain_00001"
    said = excerpts(source)
    assert " ".join(p.text for p in said) == " ".join(w for w, *_ in words)
    assert all(p.end - p.start <= 24 for p in said) and len(said) == 2
    assert [p.suffix for p in said] == ["_00", "_01"]


def test_excerpts_of_a_video(video, tmp_path):
    put(
        video,
        tmp_path / "raw/pretrain/A/00001.mp4",
        "WORD START END ASDSCORE\nA 0.08 0.2 1\nB 0.2 0.4 1\n",
    )
    assert prepare_video(tmp_path / "raw", tmp_path / "out", "--layout", "lrs3") == 0
    name = tmp_path / "out/trainval/A/pretrain_00001_00"
    (clip,) = mouth_clips(video)
    assert np.array_equal(load_audio(f"{name}.wav"), clip.audio[2 * 640 : 10 * 640])
    assert np.abs(load_video(f"{name}.mp4").astype(int) - clip.video[2:10]).mean() < 1.5
    assert Path(f"{name}.txt").read_text() == "Text:  A B\n"


def test_the_validation_set_of_lrs2_is_kept(video, tmp_path, caplog):
    lrs2(video, tmp_path)
    put(video, tmp_path / "main/58/00001.mp4", "Text:  IN NO LIST\n")
    names = {source.name for source in corpus_sources("lrs2", tmp_path)}
    assert names == {"trainval/55/00001", "valid/56/00001", "test/57/00001"}
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "1 clips in the lists are missing: '../../../etc/passwd'" in told
    assert "1 clips skipped, not in a list: '58/00001'" in told
    (tmp_path / "test.txt").write_text("55/00001\n")
    with pytest.raises(InputError, match=r"test\.txt: 55/00001 is also in another list"):
        corpus_sources("lrs2", tmp_path)


@pytest.mark.parametrize(
    ("form", "text", "about"),
    [
        ("grid", "0 7250 sil\n7250 now\n", "line 2: expected `START END WORD`"),
        ("grid", "0 \u00b2 bin\n", "line 1: expected `START END WORD`"),
        ("grid", "0 1 sil\n\n1 2 sp\n", ": no words"),
        ("timed", "WORD START END ASDSCORE\nA 0 \u00b2 1\n", "line 2: expected `WORD"),
        ("timed", "WORD START END ASDSCORE\nA 0.1 0.2 1\nB 0.2\n", "line 3: expected `WORD"),
        ("timed", "WORD START END ASDSCORE\nA 0.5 0.6 1\nB 0.1 0.2 1\n", "the times go backwards"),
        ("timed", "WORD START END ASDSCORE\nA 0.5 0.4 1\n", "the times go backwards"),
        ("timed", "Text:  A\n", "no lines `WORD START END SCORE`"),
        ("plain", "\ufeff \r\n", ": no words"),
    ],
)
def test_a_damaged_transcript_is_reported(tmp_path, form, text, about):
    path = tmp_path / "clip.txt"
    path.write_bytes(text.encode())
    with pytest.raises(InputError, match=re.escape(about)) as error:
        excerpts(Source(tmp_path / "clip.mp4", "clip", "clip", path, form))
    assert str(path) in str(error.value)


def test_a_video_outside_of_speakers_folders_is_skipped(video, tmp_path, caplog):
    grid(video, tmp_path)
    put(video, tmp_path / "intro.mp4")
    assert len(corpus_sources("grid", tmp_path)) == 3
    assert "intro.mp4: skipped, not below the folder of a speaker" in caplog.text


def test_every_clip_directly_in_a_folder_is_a_speaker(video, tmp_path):
    for name in "abcde":
        put(video, tmp_path / f"{name}.mp4", "words")
    names = sorted(source.name for source in corpus_sources("folder", tmp_path))
    assert sum(name.startswith("test/") for name in names) == 1
    assert sorted(name.split("/", 1)[1] for name in names) == [f"{c}/{c}" for c in "abcde"]


def test_folders_are_searched_for_videos_only(video, tmp_path, caplog):
    put(video, tmp_path / "x/A.MP4")
    put(video, tmp_path / "x/y.z/b.c.mp4", "not a video")
    for name in ("w.wmv", "m.mxf", "photo.jpg", "page.HTML", "more.html", "LICENSE"):
        (tmp_path / name).write_text("")
    found = [s.name for s in plain_videos([tmp_path])]
    assert found == ["m", "w", "x/A", "x/y.z/b.c"]
    counts = "2 .html, 1 .jpg, 1 no suffix, 1 .txt"
    told = caplog.records[-1].getMessage()
    assert f"{tmp_path}: 5 files skipped, not videos: " in told
    assert sorted(told.split("videos: ")[1].split(", ")) == sorted(counts.split(", "))
    with pytest.raises(InputError, match="known suffixes are"):
        plain_videos([])
