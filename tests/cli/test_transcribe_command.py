"""`avhubert-ext transcribe` as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from portrait import tone, write_clip
from serving import face_video, utterance

from avhubert_ext.checkpoints.model_file import save_model
from avhubert_ext.cli import main
from avhubert_ext.data.audio import load_audio, write_wav
from avhubert_ext.models.presets import build_vsr

TEACHER = ROOT / "scripts/models/tiny-teacher"


@pytest.fixture
def videos(corpus: Path, tmp_path: Path) -> list[Path]:
    """Two clips with their sound beside them, as `prepare-video` leaves them."""
    for file in sorted((corpus / "test/spk0004").glob("0000[12].*")):
        shutil.copy(file, tmp_path)
    return sorted(tmp_path.glob("*.mp4"))


def words(video: Path) -> str:
    return video.with_suffix(".txt").read_text().splitlines()[0].removeprefix("Text:  ").lower()


def transcribe(*arguments: object) -> int:
    model = () if "--model" in arguments else ("--model", TEACHER / "model.safetensors")
    return main(["transcribe", *map(str, (*arguments, *model)), "--threads", "1"])


def test_text_of_videos(videos: list[Path], capsys: pytest.CaptureFixture) -> None:
    assert transcribe(videos[0]) == 0
    told = capsys.readouterr()
    assert told.out == words(videos[0]) + "\n"
    assert f"no audio track in it: audio of {videos[0].with_suffix('.wav')}" in told.err
    assert transcribe(*videos) == 0
    assert capsys.readouterr().out == "".join(f"{video}: {words(video)}\n" for video in videos)


@pytest.mark.slow
def test_what_is_used_of_a_file(videos: list[Path], capsys: pytest.CaptureFixture) -> None:
    """Each modality by itself, and what there is."""
    video, sound = videos[0], videos[0].with_suffix(".wav")
    lonely = Path(shutil.copy(video, video.with_name("lonely.mp4")))
    for arguments, modality, said in (
        ((video,), "both", "audio of"),
        ((sound,), "audio", "no video track in it: sound alone"),
        ((lonely,), "video", "no audio track in it: picture alone"),
        ((video, "--modalities", "video"), "video", ""),
        ((sound, "--modalities", "audio"), "audio", ""),
        ((video, "--modalities", "audio"), "audio", "audio of"),
    ):
        assert transcribe(*arguments, "--formats", "json") == 0
        told = capsys.readouterr()
        content = json.loads(told.out)
        assert content["modality"] == modality and content["file"] == str(arguments[0])
        assert said in told.err and (said or "alone" not in told.err)
    for arguments, said in (
        ((sound, "--modalities", "video"), "no video track; give a video file"),
        ((lonely, "--modalities", "audio"), "no audio track; give a file with sound"),
        ((lonely, "--modalities", "both"), "no audio track; give a file with sound"),
    ):
        assert transcribe(*arguments) == 1
        assert said in capsys.readouterr().err


def test_no_face_leaves_the_sound(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("mediapipe")
    path = tmp_path / "wall.mp4"
    wall = [np.full((128, 128, 3), 90, np.uint8)] * 10
    write_clip(path, wall, audio=tone(0.4))
    assert transcribe(path, "--modalities", "video") == 1
    assert "no face found in it; give a video with a visible face" in capsys.readouterr().err
    assert transcribe(path, "--formats", "json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["modality"] == "audio"
    assert f"{path}: no face found in it: sound alone" in told.err


# ---- sound and picture that do not cover one another, or of which one fails


def clip_of(path: Path, number: int, **options: object) -> Path:
    """An utterance of the corpus with its sound in one file."""
    said = utterance(number)
    frames = [cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) for frame in said.frames]
    return write_clip(path, frames, **{"audio": said.samples} | options)


def text_of(*numbers: int) -> str:
    return " ".join(word for n in numbers for word, _, _ in utterance(n).words).lower()


def told(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[dict, str]:
    """The JSON of a file that is transcribed, and its notes on the terminal."""
    assert transcribe(*arguments, "--formats", "json", "--longest", "3") == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert err == "".join(f"{arguments[0]}: {note}\n" for note in content["notes"])
    return content, err


def test_sound_longer_than_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Three of six seconds were dropped."""
    one, two = utterance(1), utterance(2)
    path = clip_of(tmp_path / "a.mp4", 1, audio=np.concatenate([one.samples, two.samples]))
    content, notes = told(capsys, path)
    assert content["text"] == text_of(1, 2) and content["modality"] == "both"
    shown, heard = len(one.frames) / 25, (len(one.frames) + len(two.frames)) / 25
    assert content["seconds"] == pytest.approx(heard, abs=0.1)
    starts = [s for _, s, _ in one.words] + [s + shown for _, s, _ in two.words]
    assert np.abs(np.subtract([w["start"] for w in content["words"]], starts)).mean() < 0.15
    assert f"no picture of the face from {shown:.1f} to " in notes and "sound alone there" in notes


def test_picture_that_begins_late(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """What is said before it is heard; times are those of the file."""
    one, two = utterance(1), utterance(2)
    stamps = [round(1000 * len(one.frames) / 25) + 40 * t for t in range(len(two.frames))]
    sound = np.concatenate([one.samples, two.samples])
    path = clip_of(tmp_path / "late.mkv", 2, audio=sound, stamps=stamps)
    content, notes = told(capsys, path)
    assert content["text"] == text_of(1, 2)
    starts = [s for _, s, _ in one.words] + [s + len(one.frames) / 25 for _, s, _ in two.words]
    assert np.abs(np.subtract([w["start"] for w in content["words"]], starts)).mean() < 0.15
    assert f"the picture begins {len(one.frames) / 25:.1f} s after the sound" in notes


@pytest.mark.parametrize("seconds", [5000, 200_000])
def test_picture_that_begins_hours_late(
    seconds: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Filling in the time between would take all memory; the header gives no length."""
    count = len(utterance(1).frames)
    stamps = [1000 * seconds + 40 * t for t in range(count)]
    whole = clip_of(tmp_path / "whole.mkv", 1, stamps=stamps)
    path = tmp_path / "live.mkv"
    head = whole.read_bytes()
    at = head.index(b"\x44\x89\x88")  # Duration, a float of 8 bytes
    path.write_bytes(head[:at] + b"\xec\x89" + head[at + 2 :].replace(b"DURATION", b"DURATIOX"))
    assert transcribe(path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    reached = round(seconds + count / 25)
    assert f"{path}: longer than the limit of 3600 s by its time stamps: {reached} s" in line


@pytest.mark.slow
def test_gray_before_the_face(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The command says what the page says."""
    frames = [np.full((240, 320, 3), 90, np.uint8)] * 40 + list(face_video(30))
    path = write_clip(tmp_path / "gray.mp4", frames, audio=tone(70 / 25))
    content, _ = told(capsys, path)
    assert content["notes"][:2] == [
        "no face in 40 of 70 frames, first seen at 1.6 s",
        "no picture of the face from 0.0 to 1.6 s: sound alone there",
    ]


@pytest.mark.slow
def test_silent_landscape(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """With a face in one of its frames words were invented, and nothing was said of it."""
    rng = np.random.default_rng(0)
    hills = [
        cv2.resize(rng.integers(60, 200, (6, 8, 3), np.uint8), (160, 120), interpolation=2)
        for _ in range(29)
    ]
    face = cv2.resize(face_video(1)[0], (160, 120))
    hush = rng.normal(0, 3, 30 * 640).astype(np.int16)
    path = write_clip(tmp_path / "sound.mp4", [face, *hills], audio=hush)
    content, _ = told(capsys, path)
    assert content["text"] == "" and content["words"] == [] and content["modality"] == "audio"
    assert content["notes"][0] == "the sound is almost silent"
    assert content["notes"][1].startswith("no face in ")
    assert content["notes"][1].endswith(" of 30 frames: sound alone")
    path = write_clip(tmp_path / "mute.mp4", [face, *hills])
    assert transcribe(path) == 1
    err = capsys.readouterr().err
    assert "of 30 frames" in err and err.endswith("there is no sound in it either\n")


def test_sound_is_used_when_the_picture_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Here of an unknown codec."""
    path = clip_of(tmp_path / "a.mp4", 1)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    content, notes = told(capsys, path)
    assert content["text"] == text_of(1) and content["modality"] == "audio"
    assert ": sound alone" in notes
    assert transcribe(path, "--modalities", "video") == 1
    assert "sound alone" not in capsys.readouterr().err


def test_picture_is_used_when_the_sound_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Here of an unknown codec."""
    path = clip_of(tmp_path / "a.mkv", 1)
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_ZZZ"))
    content, notes = told(capsys, path)
    assert content["text"] and content["modality"] == "video"
    assert ": picture alone" in notes and "no audio track" not in notes
    assert transcribe(path, "--modalities", "audio") == 1
    assert "picture alone" not in capsys.readouterr().err


@pytest.mark.slow
def test_mouth_regions_of_another_size(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said = utterance(1)
    frames = [
        cv2.cvtColor(cv2.resize(f, (120, 120), interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2RGB)
        for f in said.frames
    ]
    path = write_clip(tmp_path / "a.mp4", frames, audio=said.samples)
    content, _ = told(capsys, path)
    assert content["text"] == text_of(1) and content["modality"] == "both"
    expected = ["treated as a mouth region of 120x120 pixels, scaled to 96x96"]
    assert content["notes"] == expected
    still = write_clip(tmp_path / "still.mp4", frames[:1] * 30, audio=said.samples[: 30 * 640])
    assert told(capsys, still)[0]["notes"] == ["no face found in it: sound alone"]
    assert told(capsys, still, "--mouth")[0]["notes"] == expected


def test_long_files_are_refused_before_they_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in (clip_of(tmp_path / "a.mp4", 1), tmp_path / "a.wav"):
        write_wav(tmp_path / "a.wav", tone(2.0))
        assert transcribe(path, "--max-seconds", 1) == 1
        assert f"{path}: longer than the limit of 1 s" in capsys.readouterr().err


def test_folder_of_every_form(videos: list[Path], capsys: pytest.CaptureFixture) -> None:
    """Written whole; what is there is not done again, what is damaged is named at the end."""
    out = videos[0].parent / "out"
    torn = videos[0].with_name("torn.mp4")
    torn.write_bytes(videos[0].read_bytes()[:900])
    assert transcribe(torn, *videos, "--out", out) == 1
    told = capsys.readouterr()
    assert f"error: {torn}: not a video" in told.err
    assert told.err.rstrip().endswith("1 of 3 files failed, as reported above")
    assert told.out == "".join(f"{video}: {words(video)}\n" for video in videos)
    names = {f"{video.stem}.{form}" for video in videos for form in ("txt", "json", "srt", "vtt")}
    assert {path.name for path in out.iterdir()} == names
    for video in videos:
        text = words(video)
        assert (out / f"{video.stem}.txt").read_text() == text + "\n"
        content = json.loads((out / f"{video.stem}.json").read_text())
        assert " ".join(w["text"] for w in content["words"]) == content["text"] == text
        assert text in (out / f"{video.stem}.srt").read_text()
        assert (out / f"{video.stem}.vtt").read_text().startswith("WEBVTT\n\n00:00:00.")

    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / f"{videos[1].stem}.srt").unlink()
    assert transcribe(*videos, "--out", out) == 0
    told = capsys.readouterr()
    names = " ".join(f"{videos[0].stem}.{form}" for form in ("txt", "json", "srt", "vtt"))
    assert f"{videos[0]}: {out} already has {names}" in told.err and str(videos[1]) in told.out
    after = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {path for path in after if after[path] != before[path]} == {
        out / f"{videos[1].stem}.srt"
    }


def test_files_of_one_name_and_odd_names(videos: list[Path], capsys: pytest.CaptureFixture) -> None:
    """Each has its own transcript; a name that is not UTF-8 does not end the run."""
    folder = videos[0].parent
    (folder / "other").mkdir()
    other = Path(shutil.copy(videos[0], folder / "other"))
    odd = Path(shutil.copy(videos[0], folder / os.fsdecode(b"n\xffme.mp4")))
    sound = videos[0].with_suffix(".wav")
    out = folder / "out"
    assert transcribe(videos[0], sound, other, odd, "--out", out, "--formats", "json") == 0
    capsys.readouterr()
    stem = videos[0].stem
    written = {path.name for path in out.iterdir()}
    assert written == {
        f"{folder.name}_{stem}.json", f"{stem}_wav.json", f"other_{stem}.json",
        os.fsdecode(b"n\xffme.json"),
    }  # fmt: skip
    files = {json.loads(path.read_text())["file"] for path in out.iterdir()}
    assert files == {str(path) for path in (videos[0], sound, other, odd)}


def test_what_lies_beside_the_videos_stays(
    videos: list[Path], capsys: pytest.CaptureFixture
) -> None:
    """A corpus has its own NAME.txt there."""
    reference = videos[0].with_suffix(".txt").read_text()
    assert transcribe(videos[0], "--out", videos[0].parent) == 0
    assert f"already has {videos[0].stem}.txt" in capsys.readouterr().err
    assert videos[0].with_suffix(".txt").read_text() == reference
    assert videos[0].with_suffix(".srt").is_file()


def test_no_bars_in_a_log(videos: list[Path], capsys: pytest.CaptureFixture) -> None:
    assert transcribe(*videos) == 0
    err = capsys.readouterr().err
    assert "\r" not in err and len(err.splitlines()) == 2, "a note for each file"


def test_long_sound(videos: list[Path], capsys: pytest.CaptureFixture) -> None:
    sound = videos[0].with_name("long.wav")
    write_wav(sound, np.concatenate([load_audio(v.with_suffix(".wav")) for v in videos * 2]))
    assert transcribe(sound, "--longest", 2.5) == 0
    assert capsys.readouterr().out == " ".join(map(words, videos * 2)) + "\n"


def test_what_makes_no_sense(videos: list[Path], capsys: pytest.CaptureFixture) -> None:
    lips = videos[0].with_name("lips.safetensors")
    save_model(lips, build_vsr("tiny", "video", vocabulary=127))
    for arguments, said in (
        ((*videos, "--formats", "srt"), "--out FOLDER"),
        ((videos[0], "--formats", "srt", "vtt"), "--out FOLDER"),
        ((*videos, "--landmarks", "x.npy"), "one video"),
        ((videos[0], videos[0], "--out", "x"), f"_{videos[0].stem}_mp4; write them"),
        ((videos[0].with_name("no.mp4"), "--longest", "0.5"), "expected at least 2 seconds"),
        ((videos[0], "--model", lips), f"{lips}: the subwords of its 127 outputs are neither"),
        (
            (videos[0], "--model", lips, "--dictionary", TEACHER, "--modalities", "both"),
            f"--modalities both: {lips} takes video",
        ),
        ((videos[0].with_name("no.mp4"),), "no.mp4 not found"),
    ):
        assert transcribe(*arguments) == 1
        told = capsys.readouterr()
        assert said in told.err and not told.out
