"""The synthetic corpus: reproducible, resumable, with lips that match the sound."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

av = pytest.importorskip("av")
pytest.importorskip("espeakng_loader")

from conftest import ROOT, is_running  # noqa: E402

from avhubert_ext.data.files import whole_file  # noqa: E402
from avhubert_ext.errors import InputError  # noqa: E402
from avhubert_ext.synth import corpus, grammar, noise, speakers  # noqa: E402
from avhubert_ext.synth.corpus import synthesize  # noqa: E402
from avhubert_ext.synth.mouth import Face, render  # noqa: E402
from avhubert_ext.synth.speech import Voice, speak  # noqa: E402
from avhubert_ext.synth.visemes import (  # noqa: E402
    PARAMETERS,
    VISEMES,
    mouth_trajectory,
    visemes_of,
)

OPENING = PARAMETERS.index("opening")
STILL_FACE = Face(noise=0.0, motion=0.0)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
PLAN = {"speakers": 6, "utterances": 2, "seed": 3, "domain": "commands"}


@contextmanager
def patched_noise() -> Iterator[None]:
    """Make a noise corpus of few, short files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "SECONDS", (1.5, 2.0))
        for kind in noise.COUNTS:
            patch.setitem(noise.COUNTS, kind, 2)
        yield


@pytest.fixture
def short_noise():
    with patched_noise():
        yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A finished corpus by one worker with short noise; tests only read it."""
    out = tmp_path_factory.mktemp("reference")
    with patched_noise():
        synthesize(out, **PLAN, workers=1)
    return out


def read_video(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="gray") for f in container.decode(video=0)])


def files_of(out: Path) -> list[Path]:
    return sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())


def assert_same_corpus(left: Path, right: Path) -> None:
    assert files_of(left) == files_of(right)
    for name in files_of(left):
        if name.suffix == ".mp4":
            assert np.array_equal(read_video(left / name), read_video(right / name)), name
        else:
            assert (left / name).read_bytes() == (right / name).read_bytes(), name


def child_pids(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# Layout


@pytest.mark.slow
def test_layout_is_that_of_lrs3_with_unseen_test_speakers(reference):
    trained = {path.name for path in (reference / "trainval").iterdir()}
    tested = {path.name for path in (reference / "test").iterdir()}
    assert len(trained) == 5 and len(tested) == 1
    assert not trained & tested
    for folder in (*(reference / "trainval").iterdir(), *(reference / "test").iterdir()):
        expected = {f"{n:05d}.{kind}" for n in (1, 2) for kind in ("mp4", "txt", "wav")}
        assert {path.name for path in folder.iterdir()} == expected
    for kind in ("speech", "music", "noise"):
        assert len(list((reference / "musan" / kind).glob("*.wav"))) == 2
    assert json.loads((reference / "corpus.json").read_text()).items() >= PLAN.items()


@pytest.mark.parametrize("count, expected", [(2, {1}), (4, {3}), (5, {4}), (12, {4, 9})])
def test_every_fifth_speaker_is_held_out(count, expected):
    assert corpus.held_out_speakers(count) == expected


def test_video_and_sound_have_the_same_length_and_form(reference):
    for path in sorted(reference.glob("*/spk*/*.mp4")):
        frames = read_video(path)
        samples, rate = soundfile.read(path.with_suffix(".wav"), dtype="int16")
        assert rate == 16_000 and samples.ndim == 1
        assert frames.shape == (len(samples) // 640, 96, 96) and len(samples) % 640 == 0
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == 25
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert not samples[:1600].any() and not samples[-1200:].any()
        assert np.abs(samples).max() > 2000


def test_transcript_has_the_form_of_lrs3(reference):
    for path in sorted(reference.glob("*/spk*/*.txt")):
        lines = path.read_text().split("\n")
        words = re.fullmatch(r"Text:  ([A-Z ]+)", lines[0])[1].split()
        assert lines[1:4] == ["Conf:  4", "", "WORD START END ASDSCORE"]
        rows = [line.split() for line in lines[4:-1]]
        assert [row[0] for row in rows] == words and len(words) == 6
        times = np.array([[float(value) for value in row[1:3]] for row in rows])
        samples, rate = soundfile.read(path.with_suffix(".wav"))
        assert (times[:, 0] < times[:, 1]).all() and (times[1:, 0] >= times[:-1, 0]).all()
        assert times[0, 0] >= 0.1 and times[-1, 1] < len(samples) / rate
        for start, end in times:  # each word sounds while the transcript says so
            assert samples[int(start * rate) : int(end * rate)].std() > 0.01


# Same seed, same corpus


@pytest.mark.slow
def test_workers_do_not_change_the_corpus(reference, short_noise, tmp_path):
    synthesize(tmp_path, **PLAN, workers=2)
    assert_same_corpus(reference, tmp_path)


def test_another_seed_gives_other_utterances(reference, short_noise, tmp_path):
    synthesize(tmp_path, **{**PLAN, "speakers": 2, "seed": 4}, workers=1)
    name = "trainval/spk0000/00001.wav"
    assert (reference / name).read_bytes() != (tmp_path / name).read_bytes()


def test_speech_does_not_depend_on_what_was_said_before():
    """Nor on the clock, although espeak-ng itself is not reproducible (flutter, breath noise)."""
    voices = [Voice("en+f1"), Voice("en+f3")]
    first = [speak(("hello", "world"), voice).samples for voice in voices]
    second = int(time.time())
    while int(time.time()) == second:  # espeak-ng seeds breath noise with the clock's seconds
        time.sleep(0.01)
    for samples, voice in zip(first, voices, strict=True):
        assert np.array_equal(samples, speak(("hello", "world"), voice).samples)


# Interrupted runs


@pytest.mark.slow
def test_missing_and_empty_files_are_made_again(reference, short_noise, tmp_path):
    synthesize(tmp_path, **PLAN, workers=1)
    folder = tmp_path / "trainval" / "spk0001"
    (folder / "00001.wav").unlink()
    (folder / "00002.mp4").write_bytes(b"")
    (tmp_path / "musan" / "noise" / "noise-0001.wav").unlink()
    untouched = tmp_path / "test" / "spk0004" / "00001.mp4"
    before = untouched.stat().st_mtime_ns
    synthesize(tmp_path, **PLAN, workers=1)
    assert_same_corpus(reference, tmp_path)
    assert untouched.stat().st_mtime_ns == before


def test_a_finished_corpus_is_left_alone(reference, short_noise, monkeypatch):
    monkeypatch.setattr(corpus, "_run", lambda jobs, workers: jobs and pytest.fail(str(jobs)))
    before = {name: (reference / name).stat().st_mtime_ns for name in files_of(reference)}
    synthesize(reference, **PLAN)
    assert before == {name: (reference / name).stat().st_mtime_ns for name in files_of(reference)}


def test_a_file_that_fails_halfway_is_not_kept(short_noise, tmp_path, monkeypatch):
    def write_half(path, samples):
        with whole_file(path) as temporary:
            temporary.write_bytes(b"RIFF")
            raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "write_wav", write_half)
        with pytest.raises(InputError, match="No space left"):
            synthesize(tmp_path, **PLAN, workers=1)
    assert not list(tmp_path.rglob("*.wav")) and not list(tmp_path.rglob("*.txt"))


RUN = """
import sys
from pathlib import Path
from avhubert_ext.synth.corpus import synthesize
synthesize(Path(sys.argv[1]), **eval(sys.argv[2]), workers=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for workers in /proc")
def test_a_killed_run_is_resumed_to_the_same_corpus(reference, short_noise, tmp_path):
    command = [sys.executable, "-c", RUN, tmp_path, repr(PLAN)]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 600  # a guard against a hang
        while not list(tmp_path.glob("*/*/*.txt")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.005)
        workers = child_pids(process.pid)
        process.send_signal(signal.SIGKILL)
    assert workers
    deadline = time.monotonic() + 600
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive a killed run"
        time.sleep(0.02)
    finished = list(tmp_path.glob("*/*/*.txt"))
    assert 0 < len(finished) < 12, "the kill came too late to test anything"
    assert all((path.with_suffix(s)).exists() for path in finished for s in (".mp4", ".wav"))
    synthesize(tmp_path, **PLAN, workers=1)
    assert_same_corpus(reference, tmp_path)


# Errors


@pytest.mark.parametrize("change", [{"seed": 4}, {"domain": "open"}, {"utterances": 3}])
def test_other_parameters_are_rejected(reference, change):
    with pytest.raises(InputError, match="choose another --out") as caught:
        synthesize(reference, **{**PLAN, **change}, workers=1)
    assert str(reference) in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_corpus_is_rejected(tmp_path):
    (tmp_path / "trainval").mkdir()
    with pytest.raises(InputError, match=r"no corpus\.json"):
        synthesize(tmp_path, **PLAN, workers=1)


def test_a_broken_record_is_rejected(tmp_path):
    (tmp_path / "corpus.json").write_text("{")
    with pytest.raises(InputError, match=r"corpus\.json: is not JSON"):
        synthesize(tmp_path, **PLAN, workers=1)


@pytest.mark.parametrize("below", ["", "below"])
def test_unwritable_folder_is_one_line(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write") as caught:
        synthesize(tmp_path / "file" / below, **PLAN, workers=1)
    assert str(tmp_path / "file") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"speakers": 1}, {"utterances": 0}, {"seed": -1}, {"domain": "lrs3"}, {"workers": 0}],
)
def test_bad_arguments_are_reported(tmp_path, change):
    (name,) = change
    with pytest.raises(InputError, match=f"--{name} {change[name]}"):
        synthesize(tmp_path / "out", **{**PLAN, "workers": 1, **change})
    assert not (tmp_path / "out").exists()


def test_an_unknown_voice_is_reported():
    with pytest.raises(InputError, match="'tlh\\+m1'"):
        speak(("hello",), Voice("tlh+m1"))


# Sentences and voices


def test_commands_follow_the_grammar_and_reach_every_word():
    sentences = [grammar.command_sentence(np.random.default_rng(n)) for n in range(400)]
    for slot, seen in zip(
        grammar.COMMAND_SLOTS, zip(*(s.words for s in sentences), strict=True), strict=True
    ):
        assert set(seen) == set(slot)
    assert [len(slot) for slot in grammar.COMMAND_SLOTS] == [4, 4, 4, 25, 10, 4]


def test_open_sentences_are_short_and_varied():
    sentences = [grammar.open_sentence(np.random.default_rng(n)) for n in range(500)]
    assert {len(s.words) for s in sentences} <= set(range(4, 11))
    assert len({s.words for s in sentences}) > 490
    assert len({word for s in sentences for word in s.words}) > 300
    assert all(re.fullmatch("[A-Z]+", word) for s in sentences for word in s.words)


@pytest.mark.parametrize("accent", speakers.ACCENTS)
@pytest.mark.parametrize(
    "letter, sound", [("A", "eI"), ("E", "i:"), ("O", "oU"), ("H", "eI tS"), ("Q", "k j u:")]
)
def test_letters_are_spoken_by_name(accent, letter, sound):
    sentence = next(
        sentence
        for sentence in (grammar.command_sentence(np.random.default_rng(n)) for n in range(999))
        if sentence.words[grammar.LETTER_SLOT] == letter
    )
    speech = speak(sentence.spoken, Voice(f"{accent}+m3"))
    _, start, end = speech.words[grammar.LETTER_SLOT]
    heard = [name.strip("',") for name, s, e in speech.phonemes if start <= (s + e) / 2 < end]
    assert " ".join(heard) == sound


def test_speakers_differ_and_are_reproducible():
    drawn = [speakers.make_speaker(1, index) for index in range(20)]
    assert drawn[7] == speakers.make_speaker(1, 7)
    assert drawn[7] != speakers.make_speaker(2, 7)
    assert len({s.voice for s in drawn}) == len({s.face for s in drawn}) == 20


def test_every_voice_exists_and_talkers_are_not_speakers():
    variants = (*speakers.MALE_VARIANTS, *speakers.FEMALE_VARIANTS)
    for index, variant in enumerate((*variants, *speakers.NOISE_VARIANTS)):
        accent = speakers.ACCENTS[index % len(speakers.ACCENTS)]
        assert speak(("one",), Voice(f"{accent}+{variant}")).samples.std() > 100
    talkers = {speakers.make_talker(1, n).name.split("+")[1] for n in range(12)}
    assert len(talkers) == 12 and not talkers & set(variants)


@pytest.mark.slow
def test_noises_are_bounded_and_differ():
    counts = {kind: noise.COUNTS[kind] for kind in ("music", "noise")}
    waves = [noise.make_noise(kind, 1, n) for kind, count in counts.items() for n in range(count)]
    assert all(wave.dtype == np.int16 and 10_000 < np.abs(wave).max() < 20_000 for wave in waves)
    assert all(10 * 16_000 <= len(wave) <= 20 * 16_000 for wave in waves)
    assert len({wave[8000:8100].tobytes() for wave in waves}) == len(waves)


# Lips


def trajectory_of(*names: str) -> np.ndarray:
    """Draw the frames of phonemes of 0.12 s each, after 0.12 s of rest."""
    spans = [(name, 0.12 * i, 0.12 * (i + 1)) for i, name in enumerate(names, start=1)]
    return mouth_trajectory(spans, 3 * len(names) + 6, 25)


def drawn(trajectory: np.ndarray) -> np.ndarray:
    return render(trajectory, STILL_FACE, np.random.default_rng(0)).astype(float)


def test_bilabials_look_alike_and_labiodentals_do_not():
    p, b, m, f, v = (trajectory_of("A:", name, "A:") for name in "pbmfv")
    assert np.array_equal(p, b) and np.array_equal(p, m) and np.array_equal(f, v)
    difference = np.abs(drawn(p) - drawn(f)).mean(axis=(1, 2))
    assert difference.argmax() in (6, 7, 8)  # frames of the consonant
    mouth = np.abs(drawn(p) - drawn(f))[7, 40:64, 24:72]
    assert mouth.mean() > 6 and (mouth > 30).mean() > 0.05


def test_hidden_consonants_take_the_shape_of_their_neighbors():
    between_open = trajectory_of("A:", "k", "A:")[7, OPENING]
    between_close = trajectory_of("u:", "k", "u:")[7, OPENING]
    assert between_open > 2 * between_close


def test_rounding_begins_before_the_rounded_vowel():
    rounding = PARAMETERS.index("rounding")
    assert trajectory_of("s", "u:")[4, rounding] > trajectory_of("s", "i:")[4, rounding] + 0.1


def test_every_english_phoneme_has_a_viseme():
    for accent in speakers.ACCENTS:
        for n in range(6):
            sentence = grammar.open_sentence(np.random.default_rng(n))
            for name, _, _ in speak(sentence.spoken, Voice(accent)).phonemes:
                known = visemes_of(name)
                assert known != ("schwa",) or name.lstrip("',")[0] in "@a", name
    assert visemes_of("'aI3") == ("ah", "ih", "er") and visemes_of("t#") == visemes_of("t")


def test_opening_is_wide_for_ah_and_closed_for_m():
    trajectory = trajectory_of("m", "A:", "m")
    assert trajectory[7, OPENING] > 0.7 and trajectory[[4, 10], OPENING].max() < 0.1
    dark = (drawn(trajectory) < 60)[:, 40:70, 30:66].sum(axis=(1, 2))
    assert dark[7] > 250 and dark[4] < 40 and dark[10] < 40


def test_drawn_opening_follows_the_trajectory():
    trajectory = np.repeat([VISEMES["ah"].targets], 20, axis=0).astype(np.float32)
    trajectory[:, OPENING] = np.linspace(0, 1, 20)
    dark = (drawn(trajectory) < 60).sum(axis=(1, 2))
    assert (np.diff(dark) >= -2).all() and dark[-1] > dark[0] + 200


def test_lips_move_with_the_speech(tmp_path):
    """Even with sensor noise, head motion, and H.264."""
    speaker = speakers.make_speaker(1, 0)
    sentence = grammar.command_sentence(np.random.default_rng(3))
    utterance = corpus.make_utterance(speaker, sentence, np.random.default_rng(0))
    corpus.write_video(tmp_path / "lips.mp4", utterance.frames, 25)
    frames = read_video(tmp_path / "lips.mp4").astype(float)
    assert np.abs(frames - utterance.frames).mean() < 3
    start, end = utterance.words[0][1], utterance.words[-1][2]
    motion = np.abs(np.diff(frames[:, 40:75, 25:71], axis=0)).mean((1, 2))
    seconds = np.arange(1, len(frames)) / 25
    speaking = (seconds > start) & (seconds < end)
    silent = (seconds < start - 0.05) | (seconds > end + 0.15)
    assert silent.sum() >= 2
    assert motion[speaking].mean() > 1.5 * motion[silent].mean()


def test_faces_differ():
    trajectory = trajectory_of("A:")
    faces = [speakers.make_speaker(1, index).face for index in range(4)]
    frames = [
        render(trajectory, replace(face, noise=0.0), np.random.default_rng(0)) for face in faces
    ]
    for i, left in enumerate(frames):
        for right in frames[:i]:
            assert np.abs(left.astype(float) - right).mean() > 4


def test_missing_espeak_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match=r"pip install 'avhubert-ext\[synth\]'"):
        speak(("hello",), Voice("en-us"))


def test_errors_are_one_line_on_the_command_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "avhubert_ext.cli",
            "data",
            "synth",
            "--out",
            tmp_path / "file" / "out",
        ],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 1
    assert "cannot write" in done.stderr and len(done.stderr.splitlines()) == 1
