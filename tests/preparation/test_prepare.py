"""`avhubert-ext data prepare` and `data noise`: output, reruns, and errors."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import sentencepiece
import soundfile
from conftest import is_running, run
from portrait import tone, write_clip

from avhubert_ext.cli import main
from avhubert_ext.data.audio import load_audio
from avhubert_ext.data.manifest import read_manifest, write_manifest
from avhubert_ext.data.normalization import TextConfig, read_text_config
from avhubert_ext.data.text import Subwords
from avhubert_ext.data.video import check_in_step, load_video, write_video
from avhubert_ext.errors import InputError
from avhubert_ext.preparation.manifests import check_failures, extract_audio

OUTPUTS = {
    *(f"{split}.{kind}" for split in ("train", "valid", "test") for kind in ("tsv", "wrd")),
    "spm_bpe64.model",
    "dict.wrd.txt",
    "text.json",
    "utterances.jsonl",
}


def rows(folder: Path, split: str) -> list[list[str]]:
    root, *lines = (folder / f"{split}.tsv").read_text().splitlines()
    assert root == "/"
    return [line.split("\t") for line in lines]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def small(corpus, tmp_path) -> Path:
    """A corpus of one utterance for each of two training speakers and the test speaker."""
    for folder in ("trainval/spk0000", "trainval/spk0001", "test/spk0004"):
        (tmp_path / "small" / folder).mkdir(parents=True)
        for suffix in ("mp4", "wav", "txt"):
            name = f"{folder}/00001.{suffix}"
            shutil.copy(corpus / name, tmp_path / "small" / name)
    return tmp_path / "small"


def prepare(corpus: Path, out: Path, *options: str) -> int:
    """Run the command in this process, which is faster; returns the exit code."""
    words = ["data", "prepare", "--corpus", corpus, "--out", out, "--subwords", "bpe"]
    return main([str(w) for w in (*words, "--vocabulary", "64", "--workers", "1", *options)])


# ---- output


def test_files_written(manifests):
    assert {p.name for p in manifests.iterdir()} == OUTPUTS


def test_manifests_describe_the_files(corpus, manifests):
    found = set()
    for split in ("train", "valid", "test"):
        for fields in rows(manifests, split):
            assert len(fields) == 5
            name, video, audio, frames, samples = fields
            assert Path(video).is_absolute() and Path(audio).is_absolute()
            assert video == str(corpus / f"{name}.mp4") and audio == str(corpus / f"{name}.wav")
            with av.open(video) as container:
                assert int(frames) == sum(1 for _ in container.decode(video=0))
            assert int(samples) == soundfile.info(audio).frames
            found.add(name)
    everything = {str(p.relative_to(corpus).with_suffix("")) for p in corpus.glob("*/*/*.mp4")}
    assert found == everything and len(everything) == 20


def test_transcripts_are_lower_case_and_in_the_manifests_order(corpus, manifests):
    for split in ("train", "valid", "test"):
        lines = (manifests / f"{split}.wrd").read_text().splitlines()
        expected = []
        for name, *_ in rows(manifests, split):
            first = (corpus / f"{name}.txt").read_text().splitlines()[0]
            expected.append(first.removeprefix("Text:").strip().lower())
        assert lines == expected
        assert all(line == line.lower() and line for line in lines)


def test_no_speaker_is_in_two_splits(manifests):
    speakers = {
        split: {Path(name).parent.name for name, *_ in rows(manifests, split)}
        for split in ("train", "valid", "test")
    }
    assert all(speakers.values())
    assert sum(map(len, speakers.values())) == len(set().union(*speakers.values())) == 5
    assert {name.split("/")[0] for name, *_ in rows(manifests, "test")} == {"test"}


def test_the_dictionary_lists_the_subwords_without_the_special_symbols(manifests):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(manifests / "spm_bpe64.model"))
    assert [processor.id_to_piece(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [line.split(" ") for line in (manifests / "dict.wrd.txt").read_text().splitlines()]
    assert [count for _, count in pieces] == ["1"] * (processor.get_piece_size() - 4)
    assert [processor.piece_to_id(p) for p, _ in pieces] == list(range(4, len(pieces) + 4))


def test_training_transcripts_survive_the_subwords(manifests):
    subwords = Subwords(manifests / "spm_bpe64.model")
    for line in (manifests / "train.wrd").read_text().splitlines():
        pieces = subwords.encode(line.upper())
        assert "".join(pieces).replace("▁", " ").strip() == line
        assert all(subwords.processor.piece_to_id(p) > 3 for p in pieces)


# ---- reruns


def test_a_rerun_makes_what_is_missing_and_the_same_files(corpus, manifests, tmp_path):
    out = tmp_path / "m"
    shutil.copytree(manifests, out)
    before = contents(out)
    for name in ("train.tsv", "test.wrd", "spm_bpe64.model", "dict.wrd.txt"):
        (out / name).unlink()
        assert prepare(corpus, out) == 0
        assert contents(out) == before


def test_an_interrupted_run_is_resumed(corpus, manifests, tmp_path):
    """A truncated last line of the progress file, as after a kill, affects only its own clip."""
    out = tmp_path / "m"
    out.mkdir()
    progress = (manifests / "utterances.jsonl").read_text().splitlines(keepends=True)
    (out / "utterances.jsonl").write_text("".join(progress[:-2]) + progress[-2][:40])
    assert prepare(corpus, out) == 0
    found, expected = contents(out), contents(manifests)
    for name in OUTPUTS - {"utterances.jsonl"}:
        assert found[name] == expected[name]
    lines = found["utterances.jsonl"].decode().splitlines()
    known = [json.loads(line)["id"] for line in lines if _is_json(line)]
    assert sorted(known) == sorted(json.loads(line)["id"] for line in progress)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _children(pid: int) -> list[int]:
    """Return the living children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended meanwhile
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_killed_run_leaves_no_workers_and_is_resumed(corpus, tmp_path):
    for copy in "abc":
        for folder in corpus.glob("t*/*"):
            name = f"{folder.parent.name}/{copy}-{folder.name}"
            shutil.copytree(folder, tmp_path / "corpus" / name)
    corpus, out = tmp_path / "corpus", tmp_path / "m"
    words = ["data", "prepare", "--corpus", corpus, "--out", out, "--subwords", "bpe"]
    options = ["--vocabulary", "64", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "avhubert_ext.cli", *map(str, words), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    progress = out / "utterances.jsonl"
    while process.poll() is None and not (progress.is_file() and progress.stat().st_size):
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)  # it must not finish while we look around
    workers = _children(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 600  # a guard against a hang
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))
    assert workers and 0 < progress.read_text().count("\n") < 60
    assert not (out / "train.tsv").exists()
    assert prepare(corpus, out) == 0
    assert prepare(corpus, tmp_path / "whole") == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_clips_are_not_read_again(small, tmp_path):
    """A rerun does not open files with the same size and time, but those with another time."""
    assert prepare(small, tmp_path / "m") == 0
    before = contents(tmp_path / "m")
    video = small / "trainval/spk0000/00001.mp4"
    whole = video.read_bytes()
    status = video.stat()
    video.write_bytes(bytes(len(whole)))
    os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prepare(small, tmp_path / "m") == 0
    assert contents(tmp_path / "m") == before
    os.utime(video)
    assert prepare(small, tmp_path / "m") == 1
    video.write_bytes(whole)
    assert prepare(small, tmp_path / "m") == 0  # the failed run is resumed after the fix
    for name in OUTPUTS - {"utterances.jsonl"}:
        assert contents(tmp_path / "m")[name] == before[name]


def test_a_moved_corpus_is_read_again(small, tmp_path):
    assert prepare(small, tmp_path / "m") == 0
    moved = small.rename(tmp_path / "moved")
    assert prepare(moved, tmp_path / "m") == 0
    for split in ("train", "valid", "test"):
        for _, video, audio, *_ in rows(tmp_path / "m", split):
            assert Path(video).is_file() and Path(audio).is_file()


def test_subwords_of_another_folder_are_reused(small, manifests, tmp_path):
    assert prepare(small, tmp_path / "m", "--reuse-subwords", str(manifests)) == 0
    for name in ("spm_bpe64.model", "dict.wrd.txt"):
        assert (tmp_path / "m" / name).read_bytes() == (manifests / name).read_bytes()
    assert prepare(small, tmp_path / "n") == 0
    assert (tmp_path / "n/dict.wrd.txt").read_bytes() != (manifests / "dict.wrd.txt").read_bytes()


# ---- bad clips among good ones


@pytest.mark.slow
def test_bad_clips_are_reported_and_the_others_are_read(corpus, tmp_path, capfd):
    """More than 1% of them needs an option to write manifests. The exit code is never 0."""
    copy, out = tmp_path / "corpus", tmp_path / "m"
    for folder in ("trainval", "test"):
        shutil.copytree(corpus / folder, copy / folder)
    video = copy / "trainval/spk0001/00002.mp4"
    video.write_bytes(b"no video")
    text = copy / "test/spk0004/00001.txt"
    text.unlink()
    assert prepare(copy, out) == 1
    told = capfd.readouterr().err
    assert f"failed: {video}: not a video" in told and f"failed: {text} not found" in told
    assert "2 of 20 inputs failed, more than 1%" in told and "--allow-unreadable" in told
    assert {p.name for p in out.iterdir()} == {"utterances.jsonl"}
    assert len((out / "utterances.jsonl").read_text().splitlines()) == 18

    assert prepare(copy, out, "--allow-unreadable") == 1
    told = capfd.readouterr().err.splitlines()[-1]
    assert "2 of 20 clips failed" in told and "leave them out" in told
    names = [row[0] for split in ("train", "valid", "test") for row in rows(out, split)]
    assert len(names) == 18 and "trainval/spk0001/00002" not in names
    assert len((out / "test.wrd").read_text().splitlines()) == len(rows(out, "test")) == 3

    shutil.copy(corpus / "trainval/spk0001/00002.mp4", video)
    shutil.copy(corpus / "test/spk0004/00001.txt", text)
    assert prepare(copy, out) == 0
    assert sum(len(rows(out, split)) for split in ("train", "valid", "test")) == 20


@pytest.mark.parametrize(("failed", "total"), [(0, 3), (1, 100), (2, 200), (2, 399)])
def test_one_in_a_hundred_may_be_left_out(failed, total):
    check_failures(["why"] * failed, total)
    with pytest.raises(InputError, match=rf"{failed + 2} of {total} .* the first is why"):
        check_failures(["why"] * (failed + 2), total)


def test_a_name_that_is_not_utf8_is_one_failure(small, tmp_path, capfd):
    strange = os.fsencode(small / "trainval/spk0001") + b"/caf\xe9"
    for suffix in ("mp4", "wav", "txt"):
        shutil.copy(damaged(small, suffix), strange + f".{suffix}".encode())
    assert prepare(small, tmp_path / "m", "--allow-unreadable") == 1
    told = capfd.readouterr().err
    assert "name is not UTF-8" in told and "1 of 4 clips failed" in told
    assert len(rows(tmp_path / "m", "train") + rows(tmp_path / "m", "valid")) == 2


def test_missing_extracted_audio_is_made_again(small, tmp_path):
    """The manifest must not contain missing files."""
    video = damaged(small, "mp4")
    write_clip(video, [np.zeros((96, 96, 3), np.uint8)] * 25, audio=tone(1.0))
    damaged(small, "wav").unlink()
    assert prepare(small, tmp_path / "m") == 0
    extracted = tmp_path / "m/audio/trainval/spk0001/00001.wav"
    before = extracted.read_bytes()
    extracted.unlink()
    assert prepare(small, tmp_path / "m") == 0
    assert extracted.read_bytes() == before


# ---- normalization of the transcripts


def test_what_normalization_changed_is_reported_and_recorded(small, tmp_path, capfd):
    """Byte order marks and Windows line ends do not count as changes; punctuation does."""
    plain = "Text:  BIN BLUE AT F TWO NOW\r\nConf:  4\r\n"
    damaged(small, "txt").write_bytes(plain.encode("utf-8-sig"))
    (small / "test/spk0004/00001.txt").write_text(
        "Text:  [laughter] \u201cIt\u2019s blue,\u201d now.\n"
    )
    out = tmp_path / "m"
    assert prepare(small, out) == 0
    labels = [(out / f"{s}.wrd").read_text() for s in ("train", "valid", "test")]
    assert "bin blue at f two now\n" in labels and labels[2] == "it's blue now\n"
    told = capfd.readouterr().out
    assert "text normalization changed 1 of 3 utterances" in told
    assert '-> "it\'s blue now"' in told
    assert json.loads((out / "text.json").read_text()) == {
        "case": "lower", "punctuation": "remove", "tags": "[]<>"
    }  # fmt: skip
    assert prepare(small, out, "--case", "keep", "--punctuation", "keep", "--tags", "") == 0
    assert (out / "test.wrd").read_text() == "[laughter] \u201cIt's blue,\u201d now.\n"
    assert "BIN BLUE AT F TWO NOW\n" in {(out / f"{s}.wrd").read_text() for s in ("train", "valid")}
    assert read_text_config(out) == TextConfig("keep", "keep", "")


# ---- the corpus' own validation set


def test_the_validation_set_of_a_corpus_is_kept(small, tmp_path, capfd):
    shutil.copytree(small / "trainval/spk0000", small / "valid/spk0000")
    assert prepare(small, tmp_path / "m") == 0
    names = {s: [row[0] for row in rows(tmp_path / "m", s)] for s in ("train", "valid", "test")}
    assert names == {
        "train": ["trainval/spk0000/00001", "trainval/spk0001/00001"],
        "valid": ["valid/spk0000/00001"],
        "test": ["test/spk0004/00001"],
    }
    assert "valid is the corpus' own validation set" in capfd.readouterr().out


# ---- frame rates


@pytest.mark.parametrize(
    ("rate", "suffix"),
    [(24, "mp4"), (30, "mp4"), (50, "mp4"), (Fraction(30000, 1001), "avi"), (30, "h264")],
)
def test_a_clip_of_another_rate_is_rejected(tmp_path, rate, suffix):
    """Also if its sound is as long as its frames at 25 frames/s."""
    path = write_clip(tmp_path / f"clip.{suffix}", [np.zeros((96, 96, 3), np.uint8)] * 60, rate)
    with pytest.raises(InputError) as error:
        load_video(path)
    assert f"{float(rate):.4g} frames/s, expected 25" in str(error.value)
    assert "data video" in str(error.value)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mpg", "h264"])
def test_25_frames_per_second_are_accepted_in_any_container(tmp_path, suffix):
    codec = "mpeg1video" if suffix == "mpg" else "libx264"
    frames = [np.zeros((96, 96, 3), np.uint8)] * 30
    path = write_clip(tmp_path / f"clip.{suffix}", frames, codecs=(codec, "aac"))
    assert load_video(path).shape == (30, 96, 96)


def test_a_variable_rate_is_judged_by_its_mean(tmp_path):
    frames = [np.zeros((96, 96, 3), np.uint8)] * 60
    uneven = [40 * n + 15 * (n % 2) for n in range(60)]
    assert len(load_video(write_clip(tmp_path / "even.mp4", frames, 1000, stamps=uneven))) == 60
    slow_end = [33 * n for n in range(50)] + [1650 + 40 * n for n in range(10)]
    with pytest.raises(InputError, match=r"29\.\d+ frames/s"):
        load_video(write_clip(tmp_path / "mixed.mp4", frames, 1000, stamps=slow_end))


@pytest.mark.parametrize(
    ("frames", "seconds", "passes"),
    [
        (60, 2.0, False),  # 30 frames a second
        (60, 2.4, True),
        (60, 2.59, True),  # up to 0.2 s: AAC fills up its last block
        (60, 2.61, False),
        (1000, 40.7, True),  # up to 2%
        (1000, 40.9, False),
        (240, 10.0, False),  # 24 frames a second
    ],
)
def test_picture_and_sound_may_differ_by_two_percent(frames, seconds, passes):
    if passes:
        check_in_step("clip.mp4", frames, round(16000 * seconds))
        return
    with pytest.raises(InputError, match=rf"clip\.mp4: {frames} frames are .* {seconds:.2f} s"):
        check_in_step("clip.mp4", frames, round(16000 * seconds))


def test_a_difference_of_more_than_a_fifth_of_a_second_is_reported(caplog):
    for _ in range(2):
        check_in_step("long.mp4", 1000, 640 * 1005)
        check_in_step("long.mp4", 1000, 640 * 1010)
    (record,) = caplog.records
    assert record.message == "long.mp4: the video is 40.00 s long, the audio 40.40 s"


# ---- audio inside the video


def test_audio_is_extracted_if_there_is_no_wav(small, tmp_path):
    """The wav of the second utterance is moved into its mp4, at another rate and in stereo."""
    wav, video = (small / f"trainval/spk0001/00001.{s}" for s in ("wav", "mp4"))
    samples, frames = load_audio(wav), load_video(video)
    with av.open(str(video), "w") as container:
        pictures = container.add_stream("libx264", rate=25)
        pictures.height, pictures.width, pictures.pix_fmt = 96, 96, "yuv420p"
        sound = container.add_stream("aac", rate=48000, layout="stereo")
        for frame in frames:
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(pictures.encode())
        thrice = np.repeat(samples, 6)[None]  # 48 kHz, both channels interleaved
        block = av.AudioFrame.from_ndarray(thrice, format="s16", layout="stereo")
        block.sample_rate = 48000
        container.mux(sound.encode(block))
        container.mux(sound.encode())
    wav.unlink()
    assert prepare(small, tmp_path / "m") == 0
    lines = rows(tmp_path / "m", "train") + rows(tmp_path / "m", "valid")
    (audio,) = [fields[2] for fields in lines if fields[0] == "trainval/spk0001/00001"]
    assert audio == str(tmp_path / "m/audio/trainval/spk0001/00001.wav")
    extracted = load_audio(audio).astype(float)
    assert len(extracted) == pytest.approx(len(samples), abs=2500)  # AAC pads its blocks
    spectra = [np.abs(np.fft.rfft(x, 1 << 16))[:16000] for x in (extracted, samples.astype(float))]
    assert np.corrcoef(*spectra)[0, 1] > 0.9


def test_no_audio_at_all_is_reported(small):
    video = small / "trainval/spk0001/00001.mp4"
    with pytest.raises(Exception, match=r"00001\.mp4: no audio track"):
        extract_audio(video, small / "x.wav")


# ---- noise


def test_noise_manifests(corpus, noise):
    for kind in ("babble", "music", "noise"):
        files = {
            split: (noise / kind / f"{split}.tsv").read_text().splitlines()
            for split in ("train", "valid", "test")
        }
        everything = [path for split in files.values() for path in split]
        assert all(files.values()) and len(everything) == len(set(everything))
        for path in everything:
            assert Path(path).is_absolute() and len(load_audio(path)) > 0
        if kind != "babble":
            assert set(everything) == {str(p) for p in (corpus / "musan" / kind).glob("*.wav")}


def test_each_talker_is_in_the_babble_of_one_split_only(tmp_path):
    """Talkers are different tones, so the spectrum of a babble shows who is in it."""
    tones = {f"{i:02d}.wav": 300 + 100 * i for i in range(9)}  # Hz
    time = np.arange(16000 * 3) / 16000
    for kind in ("speech", "music", "noise"):
        (tmp_path / "musan" / kind / "set").mkdir(parents=True)
        for name, hertz in tones.items():
            wave = (1000 * (1 + hertz / 300) * np.sin(2 * np.pi * hertz * time)).astype(np.int16)
            soundfile.write(tmp_path / "musan" / kind / "set" / name, wave, 16000)
    out = tmp_path / "noise"
    assert main(["data", "noise", "--musan", str(tmp_path / "musan"), "--out", str(out)]) == 0
    talkers = {}
    for split in ("train", "valid", "test"):
        path, *others = (out / "babble" / f"{split}.tsv").read_text().splitlines()
        assert len({Path(p).read_bytes() for p in (path, *others)}) == 10
        babble = load_audio(path).astype(float)
        assert len(babble) == 20 * 16000
        power = np.abs(np.fft.rfft(babble * np.hanning(len(babble)))) ** 2
        levels = {h: power[20 * h - 40 : 20 * h + 40].sum() for h in tones.values()}
        loud = {h for h, level in levels.items() if level > 0.01 * max(levels.values())}
        present = [levels[h] for h in loud]
        assert max(present) < 2 * min(present)  # at equal level, whatever the files' levels
        talkers[split] = loud
    assert sum(map(len, talkers.values())) == 9
    assert set.union(*talkers.values()) == set(tones.values())
    again = tmp_path / "again"
    assert main(["data", "noise", "--musan", str(tmp_path / "musan"), "--out", str(again)]) == 0
    for split in ("train", "valid", "test"):
        for number in range(10):
            name = f"babble/{split}/{number:02d}.wav"
            assert (again / name).read_bytes() == (out / name).read_bytes()


def test_babble_has_thirty_talkers_and_none_in_two_splits(corpus, noise):
    speakers = {}
    for split in ("train", "valid", "test"):
        listed = (noise / "babble" / f"{split}.tsv").read_text().splitlines()
        rows = [
            line.split("\t")
            for line in (noise / "babble" / split / "talkers.tsv").read_text().splitlines()
        ]
        assert [row[0] for row in rows] == listed
        assert all(len(row) == 31 and len(set(row)) == 31 for row in rows)
        speakers[split] = {talker for row in rows for talker in row[1:]}
    assert set.union(*speakers.values()) == {
        str(path) for path in (corpus / "musan/speech").glob("*.wav")
    }
    assert sum(map(len, speakers.values())) == 90


def musan(folder: Path, files: int) -> Path:
    """Tones in place of talkers, music and noise, two seconds each."""
    for kind in ("speech", "music", "noise"):
        (folder / kind).mkdir(parents=True)
        for number in range(files):
            soundfile.write(folder / kind / f"{number}.wav", tone(2 + number / 50), 16000)
    return folder


def test_bad_noise_is_named_and_left_out(tmp_path, capfd):
    root, out = musan(tmp_path / "musan", 6), tmp_path / "noise"
    soundfile.write(root / "music/1.wav", tone(1), 8000)
    (root / "noise/2.wav").write_bytes(b"no sound")
    whole = (root / "speech/3.wav").read_bytes()
    (root / "speech/3.wav").write_bytes(b"")
    command = ["data", "noise", "--musan", str(root), "--out", str(out)]
    assert main(command) == 1
    told = capfd.readouterr().err
    for name, about in (("music/1", "8000 Hz"), ("noise/2", "not a"), ("speech/3", "not a")):
        assert f"failed: {root}/{name}.wav" in told and about in told
    assert "3 of 18 inputs failed, more than 1%" in told and not list(out.glob("*/*.tsv"))
    assert main([*command, "--allow-unreadable"]) == 1
    assert "3 of 18 files failed" in capfd.readouterr().err
    listed = [line for path in out.glob("[mn]*/*.tsv") for line in path.read_text().splitlines()]
    assert len(listed) == 10 and all(len(load_audio(path)) for path in listed)
    assert "speech/3.wav" not in "".join(p.read_text() for p in out.rglob("talkers.tsv"))
    for name in ("music/1", "noise/2"):
        shutil.copy(root / "music/0.wav", root / f"{name}.wav")
    (root / "speech/3.wav").write_bytes(whole)
    assert main(command) == 0
    assert "speech/3.wav" in "".join(p.read_text() for p in out.rglob("talkers.tsv"))


def test_babble_is_mixed_again_only_for_other_talkers(tmp_path):
    root, out = musan(tmp_path / "musan", 6), tmp_path / "noise"
    command = ["data", "noise", "--musan", str(root), "--out", str(out)]
    assert main(command) == 0
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("0*.wav")}
    assert len(before) == 30
    assert main(command) == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    first = min(before)
    first.write_bytes(b"")
    assert main(command) == 0
    assert first.read_bytes() == before[first][1]
    assert main([*command, "--seed", "2"]) == 0
    assert not any(path.read_bytes() == content for path, (_, content) in before.items())


@pytest.mark.slow
def test_a_split_of_one_speaker_has_no_second_talker(corpus, manifests, tmp_path, capsys):
    command = ["data", "noise", "--musan", str(corpus / "musan"), "--out", str(tmp_path / "noise")]
    assert main([*command, "--manifests", str(manifests)]) == 1
    said = capsys.readouterr().err
    assert "all utterances are by spk" in said and "--valid-fraction" in said
    more = {}
    for split in ("train", "valid", "test"):
        utterances = read_manifest(manifests / f"{split}.tsv")
        another = replace(utterances[0], id=f"{split}/another/00001")
        write_manifest(tmp_path / f"{split}.tsv", [*utterances, another])
        more[split] = [str(u.audio) for u in [*utterances, another]]
    assert main([*command, "--manifests", str(tmp_path)]) == 0
    for split, expected in more.items():
        assert (tmp_path / f"noise/talker/{split}.tsv").read_text().splitlines() == expected


# ---- bad input


def fails(named: Path | str, *command: str | Path, about: str = "") -> None:
    """Check that the command fails with one line that contains file and reason.

    It runs in this process, which is faster: an unexpected exception fails the test.
    """
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = main([str(word) for word in command])
    check_error(output.getvalue(), code, named, about)


def check_error(output: str, code: int, named: Path | str, about: str) -> None:
    lines = output.replace("\r", "\n").splitlines()
    errors = [line for line in lines if "error" in line.lower() and line[:8] != "failed: "]
    assert code == 1 and "Traceback" not in output, output
    assert len(errors) == 1 and errors[0].startswith("avhubert-ext: error: "), output
    assert str(named) in errors[0] and about in errors[0], errors[0]


def damaged(small: Path, suffix: str) -> Path:
    return small / f"trainval/spk0001/00001.{suffix}"


def prepare_fails(small: Path, named: Path | str, about: str, *options: str | Path) -> None:
    out = () if "--out" in options else ("--out", small.parent / "m")
    fails(
        named, "data", "prepare", "--corpus", small, *out, "--workers", "1", *options, about=about
    )


def test_missing_corpus_on_the_real_command_line(tmp_path):
    nowhere = tmp_path / "nowhere"
    result = run("avhubert-ext", "data", "prepare", "--corpus", nowhere, "--out", tmp_path / "m")
    check_error(result.stdout, result.returncode, nowhere, "LRS3-layout")


def test_corrupt_video(small):
    damaged(small, "mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"x" * 500)
    prepare_fails(small, damaged(small, "mp4"), "not a video")


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", "the transcript is empty"),
        ("Text:  \n", "the transcript is empty"),
        ("hello\n", "the first line must be `Text:  WORDS`, found 'hello'"),
        ("Text:  [laughter] ...\n", "no words in '[laughter] ...'"),
    ],
)
def test_empty_transcript(small, text, about):
    damaged(small, "txt").write_text(text)
    prepare_fails(small, damaged(small, "txt"), about)


def test_missing_transcript(small):
    damaged(small, "txt").unlink()
    prepare_fails(small, damaged(small, "txt"), "not found")


def test_transcript_that_is_not_utf8(small):
    damaged(small, "txt").write_bytes("Text:  CAFÉ\n".encode("latin-1"))
    prepare_fails(small, damaged(small, "txt"), "UTF-8")


def test_wrong_sample_rate(small):
    samples, _ = soundfile.read(damaged(small, "wav"))
    soundfile.write(damaged(small, "wav"), samples, 22050)
    prepare_fails(small, damaged(small, "wav"), "22050 Hz, expected 16000 Hz")


def test_no_audio(small):
    damaged(small, "wav").unlink()
    prepare_fails(small, damaged(small, "mp4"), "no audio track")


def test_output_below_a_file(small, tmp_path):
    (tmp_path / "file").write_text("")
    prepare_fails(small, tmp_path / "file" / "m", "cannot create", "--out", tmp_path / "file" / "m")


def test_only_one_training_speaker(small):
    shutil.rmtree(small / "trainval/spk0001")
    prepare_fails(small, small, "2 trainval speakers")


@pytest.mark.parametrize(
    ("options", "named", "about"),
    [
        (("--vocabulary", "5"), "--vocabulary 5", ""),
        (("--workers", "0"), "--workers 0", "at least 1"),
        (("--reuse-subwords", "/nowhere"), "/nowhere", "spm_*.model"),
    ],
)
def test_options_that_cannot_be(small, options, named, about):
    prepare_fails(small, named, about, *options)


def test_noise_without_musan_and_below_a_file(corpus, tmp_path):
    fails(
        tmp_path / "no/speech", "data", "noise", "--musan", tmp_path / "no", "--out", tmp_path / "n"
    )
    (tmp_path / "file").write_text("")
    below = tmp_path / "file/n"
    fails(
        below, "data", "noise", "--musan", corpus / "musan", "--out", below, about="cannot create"
    )


def test_convert_and_report_of_missing_files(tmp_path):
    fails(
        tmp_path / "x.pt",
        "model",
        "convert",
        tmp_path / "x.pt",
        tmp_path / "y.pt",
        about="not found",
    )
    row = ("--model", "one", tmp_path / "x.pt", tmp_path / "decoded")
    fails(tmp_path / "x.pt", "report", "--out", tmp_path / "r", *row, about="not found")


def test_damage_inside_a_video_is_noticed(small):
    """The index is intact, but the frames are not: FFmpeg alone would conceal that."""
    video = small / "trainval/spk0000/00001.mp4"
    content = bytearray(video.read_bytes())
    start = content.index(b"mdat") + 1000
    content[start : start + 1500] = np.random.default_rng(0).bytes(1500)
    video.write_bytes(content)
    prepare_fails(small, video, "cannot be decoded")


def test_a_clip_that_is_not_a_mouth_region(small):
    video = small / "trainval/spk0000/00001.mp4"
    write_video(video, np.zeros((40, 224, 224), np.uint8), 25)
    prepare_fails(small, video, "frames are 224x224")


def test_a_clip_out_of_step_with_its_audio(small):
    video = small / "trainval/spk0000/00001.mp4"
    write_video(video, np.zeros((100, 96, 96), np.uint8), 50)
    prepare_fails(small, video, "expected 25 frames/s")


def test_reusing_the_subwords_of_the_output_folder_itself(small, tmp_path):
    assert prepare(small, tmp_path / "m") == 0
    before = contents(tmp_path / "m")
    assert prepare(small, tmp_path / "m", "--reuse-subwords", str(tmp_path / "m")) == 0
    assert contents(tmp_path / "m") == before
