"""Words and their times from clips of any length; subtitles."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from avhubert_ext.benchmarks.transcription import (
    Reference,
    benchmark_transcription,
    join,
    text_table,
    time_errors,
)
from avhubert_ext.checkpoints.conversion import prune
from avhubert_ext.checkpoints.fairseq_file import save_fairseq
from avhubert_ext.checkpoints.model_file import load_avhubert_asr, save_model
from avhubert_ext.data.audio import load_audio
from avhubert_ext.data.video import load_video
from avhubert_ext.decoding.beam import Hypothesis, SearchConfig
from avhubert_ext.decoding.recognition import Recognition
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.wer import word_error_rate
from avhubert_ext.models.attention import MultiheadAttention
from avhubert_ext.models.presets import build_vsr
from avhubert_ext.recognizers.base import Recognizer
from avhubert_ext.transcription import alignment, subtitles
from avhubert_ext.transcription.alignment import Word, best_path, words_of
from avhubert_ext.transcription.segments import Segment, segment
from avhubert_ext.transcription.transcribe import Transcript, joined

TEACHER = ROOT / "scripts/models/tiny-teacher"


# ---- the best path


def paths(units: int, frames: int) -> list[tuple[int, ...]]:
    """All ways through the states none, unit 0, none, unit 1, ..., none, a unit a frame or more."""
    found = []
    for path in itertools.product(range(2 * units + 1), repeat=frames):
        steps = np.diff((-1, *path, 2 * units + 1))
        jumps = [(state, step) for state, step in zip(path, steps[:-1], strict=True) if step]
        enters = all(step == 1 or (step == 2 and state % 2) for state, step in jumps)
        if enters and steps.min() >= 0 and set(range(1, 2 * units, 2)) <= set(path):
            found.append(path)
    return found


@pytest.mark.parametrize(("units", "frames"), [(1, 1), (1, 4), (2, 2), (2, 5), (3, 5)])
def test_best_of_all_paths(units: int, frames: int) -> None:
    rng = np.random.default_rng(units * 10 + frames)
    for trial in range(5):
        scores, none = rng.normal(size=(units, frames)), rng.normal(size=(units + 1, frames))
        pause = rng.random(units) < 0.3 * (trial % 2)
        states = np.empty((2 * units + 1, frames))
        states[0::2], states[1::2] = none, scores

        def allowed(path: tuple[int, ...], pause: np.ndarray = pause) -> bool:
            needed = {2 * u + 2 for u in np.flatnonzero(pause[:-1])}
            return needed <= set(path)

        sums = {
            path: states[list(path), range(frames)].sum()
            for path in paths(units, frames)
            if allowed(path)
        }
        if not sums:
            continue
        best = max(sums, key=sums.get)
        expected = [(best.index(s), frames - best[::-1].index(s)) for s in range(1, 2 * units, 2)]
        assert best_path(scores, none, pause).tolist() == [list(span) for span in expected]


def test_too_few_frames_are_shared() -> None:
    spans = best_path(np.zeros((5, 3)), np.zeros((6, 3)), np.zeros(5, dtype=bool))
    assert spans[0, 0] == 0 and spans[-1, 1] == 3 and (np.diff(spans, axis=1) >= 0).all()


# ---- words


def attention_of(spans: list[tuple[int, int]], frames: int) -> np.ndarray:
    """[U, T], each row looks at its frames alone."""
    rows = np.zeros((len(spans), frames), dtype=np.float32)
    for row, (first, after) in zip(rows, spans, strict=True):
        row[first:after] = 1 / (after - first)
    return rows


def test_words_by_attention() -> None:
    """A pause between words belongs to none, one within a word to the word."""
    found = words_of(
        Recognition(
            ("\u2581a", "b", "\u2581c", "\u2581"), (4, 5, 6, 7), 0.0,
            np.log([0.9, 0.4, 0.5, 0.1]).astype(np.float32),
            attention_of([(5, 10), (12, 15), (30, 40), (45, 46)], 50),
        )
    )  # fmt: skip
    assert [(w.text, w.start, w.end) for w in found] == [("ab", 0.2, 0.6), ("c", 1.2, 1.6)]
    assert [w.confidence for w in found] == pytest.approx([(0.9 * 0.4) ** 0.5, 0.5])


def test_words_by_ctc() -> None:
    """Peaks that a blank parts, the same unit twice; what lies between is shared."""
    units = np.zeros(30, dtype=int)
    units[[5, 8, 9, 20, 22]] = [2, 3, 3, 4, 4]
    ctc = np.log(np.full((30, 6), 0.02))
    ctc[range(30), units] = np.log(0.9)
    log_probs = np.zeros(4, dtype=np.float32)
    pieces = ("\u2581a", "b", "\u2581c", "\u2581c")
    found = words_of(Recognition(pieces, (2, 3, 4, 4), 0.0, log_probs, ctc=ctc))
    spread = alignment.SPREAD
    expected = [
        ("ab", 5 - spread, 10 + spread),
        ("c", 20 - spread, 21),
        ("c", 22 - 1, 23 + spread),
    ]
    assert [(w.text, round(w.start * 25), round(w.end * 25)) for w in found] == expected


@pytest.mark.parametrize("by", ["attention", "ctc"])
def test_no_words(by: str) -> None:
    timing = {"attention": np.zeros((0, 9)), "ctc": np.zeros((9, 4))}
    assert words_of(Recognition((), (), 0.0, np.zeros(0), **{by: timing[by]})) == []


# ---- recognizers


@pytest.fixture(scope="module")
def teacher() -> Recognizer:
    return Recognizer.from_file(TEACHER / "model.safetensors", threads=1)


def words_in(transcript: Path) -> list[Word]:
    rows = map(str.split, transcript.read_text().splitlines()[4:])
    return [Word(word.lower(), float(start), float(end), 1.0) for word, start, end, _ in rows]


class Clips:
    """All utterances of a speaker of the corpus."""

    def __init__(self, corpus: Path, speaker: str) -> None:
        files = sorted(corpus.glob(f"*/{speaker}/*.mp4"))
        self.audio = [load_audio(file.with_suffix(".wav")) for file in files]
        self.video = [load_video(file) for file in files]
        self.words = [words_in(file.with_suffix(".txt")) for file in files]

    def whole(self, modalities: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """All of them one after another."""
        audio, video = np.concatenate(self.audio), np.concatenate(self.video)
        return (None if modalities == "video" else audio), (
            None if modalities == "audio" else video
        )

    def all_words(self) -> list[Word]:
        starts = np.cumsum([0, *map(len, self.video)]) / 25
        return [
            Word(w.text, w.start + start, w.end + start, 1.0)
            for words, start in zip(self.words, starts[:-1], strict=True)
            for w in words
        ]


@pytest.fixture(scope="module")
def clips(corpus: Path) -> Clips:
    return Clips(corpus, "spk0004")


def mean_error(found: tuple[Word, ...], expected: list[Word]) -> float:
    """Of starts and ends, in seconds; the words must be the same."""
    assert [w.text for w in found] == [w.text for w in expected]
    pairs = zip(found, expected, strict=True)
    return np.mean([(abs(a.start - b.start), abs(a.end - b.end)) for a, b in pairs])


@pytest.mark.parametrize("modalities", ["both", "audio"])
def test_times_of_words(teacher: Recognizer, clips: Clips, modalities: str) -> None:
    for audio, video, words in zip(clips.audio, clips.video, clips.words, strict=True):
        found = teacher.transcribe(audio=audio, video=video if modalities == "both" else None)
        assert found.modality == modalities and found.seconds == pytest.approx(len(video) / 25)
        assert mean_error(found.words, words) < 0.06
        assert all(0 < word.confidence < 1 for word in found.words)


def test_attention_is_what_the_decoder_attends_with() -> None:
    torch.manual_seed(0)
    module = MultiheadAttention(16, 4)
    query, memory = torch.randn(2, 3, 16), torch.randn(2, 7, 16)
    keys, values = module.project_memory(memory)
    weights = module.weights(query, keys)
    attended = module.out_proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attended, module(query, (keys, values)))


def test_recognition_adds_up(teacher: Recognizer, clips: Clips) -> None:
    """The log probabilities are those that the search summed; attention is spread over frames."""
    found = teacher.recognize(clips.audio[0], clips.video[0])
    assert found.attention.shape == (len(found.tokens), len(clips.video[0]))
    assert found.attention.sum(axis=1) == pytest.approx(np.ones(len(found.tokens)), abs=1e-5)
    total = found.score * (len(found.tokens) + 1)  # with the end of the sentence
    assert total < found.log_probs.sum() < total + 1
    assert found.text == " ".join(word.text for word in words_of(found))


@pytest.mark.slow
def test_files_of_one_model_say_the_same(teacher: Recognizer, clips: Clips, tmp_path: Path) -> None:
    """As safetensors of halves, as a fairseq checkpoint, and pruned of nothing."""
    model = load_avhubert_asr(TEACHER / "model.safetensors")
    save_fairseq(tmp_path / "model.pt", model)
    prune(tmp_path / "model.pt", tmp_path / "pruned.safetensors", 0.0)
    expected = teacher.recognize(clips.audio[1], None)
    for name in ("model.pt", "pruned.safetensors"):
        found = Recognizer.from_file(tmp_path / name, dictionary=TEACHER).recognize(
            clips.audio[1], None
        )
        assert found.pieces == expected.pieces
        assert found.attention == pytest.approx(expected.attention, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["video", "audio", "both"])
def test_ctc_recognizers(clips: Clips, tmp_path: Path, modality: str) -> None:
    """Untrained: they say nonsense, in the clip's time."""
    torch.manual_seed(1)
    lines = (TEACHER / "dict.wrd.txt").read_text().splitlines()
    path = tmp_path / "model.safetensors"
    save_model(path, build_vsr("tiny", modality, vocabulary=len(lines) + 3))
    recognizer = Recognizer.from_file(
        path, dictionary=TEACHER, search=SearchConfig(beam=2, ctc_weight=0.5)
    )
    assert recognizer.modalities == (modality,)
    audio = None if modality == "video" else clips.audio[0]
    video = None if modality == "audio" else clips.video[0]
    found = recognizer.recognize(audio, video)
    assert found.ctc.shape == (len(clips.video[0]), len(lines) + 3) and found.attention is None
    words = recognizer.transcribe(audio=audio, video=video).words
    assert all(0 <= w.start <= w.end <= len(clips.video[0]) / 25 for w in words)
    for other in ("video", "audio", "both"):
        if other != modality:
            with pytest.raises(InputError, match=r"the clip has .* the model takes"):
                recognizer.recognize(*clips.whole(other))


def test_what_does_not_fit_is_refused(teacher: Recognizer, clips: Clips, tmp_path: Path) -> None:
    audio, video = clips.audio[0], clips.video[0]
    for wrong, said in (
        ((None, None), "neither audio nor video"),
        ((audio / 32768, None), "expected an array of int16"),
        ((audio[:0], video), "no samples"),
        ((None, video[0]), r"expected the mouth region, uint8 \[T, 96, 96\]"),
        ((None, video[:, :80, :80]), "expected the mouth region"),
        ((None, video.astype(np.float32)), "video is float32"),
    ):
        with pytest.raises(InputError, match=said):
            teacher.recognize(*wrong)
        with pytest.raises(InputError, match=said):
            teacher.transcribe(audio=wrong[0], video=wrong[1])
    with pytest.raises(InputError, match="at least 2 s"):
        teacher.transcribe(audio=audio, video=video, longest=1)
    with pytest.raises(InputError, match=r"model\.safetensors: ctc_weight does not apply"):
        search = SearchConfig(ctc_weight=0.5)
        Recognizer.from_file(TEACHER / "model.safetensors", search=search)
    with pytest.raises(InputError, match="device 'cuda:9'"):
        Recognizer.from_file(TEACHER / "model.safetensors", device="cuda:9")
    with pytest.raises(InputError, match="runs on the CPU"):
        Recognizer.from_file(tmp_path, device="cuda")


# ---- long clips


def bursts(spans: list[tuple[float, float]], seconds: float, floor: float = 3.0) -> np.ndarray:
    """Loud noise in the spans, faint noise elsewhere: int16."""
    rng = np.random.default_rng(0)
    samples = rng.normal(0, floor, round(seconds * 16000))
    for start, end in spans:
        part = samples[round(start * 16000) : round(end * 16000)]
        part += rng.normal(0, 3000, len(part))
    return samples.astype(np.int16)


def check(parts: list, longest: int) -> None:
    assert all(0 < part.stop - part.start <= longest for part in parts)
    assert all(part.start <= part.left < part.right <= part.stop for part in parts)
    for one, two in itertools.pairwise(parts):
        assert one.right <= two.left


def test_short_clips_are_not_cut() -> None:
    (part,) = segment(bursts([(1, 2), (5, 6)], 10), None, 250)
    assert (part.start, part.stop, part.left, part.right) == (0, 250, 0, 250)


def test_never_cut(teacher: Recognizer, clips: Clips) -> None:
    whole = teacher.transcribe(audio=clips.audio[0], longest=float("inf"))
    assert whole == teacher.transcribe(audio=clips.audio[0])


def test_nobody_speaks(teacher: Recognizer) -> None:
    """Silence and still pictures, short or long; a faint voice is none."""
    rng = np.random.default_rng(0)
    for seconds in (3, 40):
        hush = rng.normal(0, 8, seconds * 16000).astype(np.int16)
        still = np.full((seconds * 25, 96, 96), 80, np.uint8)
        for audio, video in ((hush, None), (0 * hush, None), (None, still), (hush, still)):
            found = teacher.transcribe(audio=audio, video=video)
            assert (found.text, found.words, found.seconds) == ("", (), seconds)
        photo = np.clip(rng.normal(90, 36, (1, 96, 96)), 0, 255).repeat(len(still), axis=0)
        noisy = np.clip(photo + rng.normal(0, 0.4, photo.shape), 0, 255).astype(np.uint8)
        assert segment(hush, noisy, 1000) == segment(None, noisy, 1000) == [], "a photo"
        assert segment(None, still[:1], 1000) == [], "a single frame"
        moving = rng.integers(0, 256, still.shape, dtype=np.uint8)
        assert segment(0 * hush, moving, 1000), "a sound that was switched off says nothing"
        hush[16000:32000] *= 15
        assert segment(hush, None, 1000)


def test_cuts_are_in_pauses_and_long_pauses_left_out() -> None:
    spoken = [(0.5, 4), (4.5, 9), (9.4, 14), (30, 33), (33.3, 38)]
    parts = segment(bursts(spoken, 40), None, 250)
    check(parts, 250)
    for part in parts[1:]:
        assert not any(start < part.left / 25 < end for start, end in spoken)
    heard = np.zeros(1000, dtype=bool)
    for part in parts:
        heard[part.left : part.right] = True
    assert all(heard[round(start * 25) : round(end * 25)].all() for start, end in spoken)
    assert not heard[16 * 25 : 28 * 25].any()


def test_speech_without_a_pause_is_cut_with_overlap() -> None:
    parts = segment(bursts([(0, 0.2), (2, 60)], 60), None, 250)
    check(parts, 250)
    _, *speech = parts
    assert len(speech) > 5
    for one, two in itertools.pairwise(speech):
        assert one.right == two.left
        assert one.stop - one.right >= 10 and two.left - two.start >= 10


def test_mouth_tells_pauses_that_noise_hides() -> None:
    rng = np.random.default_rng(0)
    frames = 600
    video = np.full((frames, 96, 96), 100) + rng.integers(-2, 3, (frames, 96, 96))
    talks = np.ones(frames, dtype=bool)
    for pause in (150, 290, 450):
        talks[pause : pause + 15] = False
    video[talks] += rng.integers(-40, 41, (talks.sum(), 96, 96))
    audio = rng.normal(0, 3000, frames * 640).astype(np.int16)
    for sound in (audio, None):
        parts = segment(sound, video.clip(0, 255).astype(np.uint8), 250)
        check(parts, 250)
        assert not talks[[part.left for part in parts[1:]]].any()


class Recorded(Recognizer):
    """A recognizer whose answers a test makes up."""

    def search(self, batch: object) -> list[list[Hypothesis]]:
        raise NotImplementedError

    def _recognize(self, audio: np.ndarray | None, video: np.ndarray | None) -> Recognition:
        raise NotImplementedError


class Clock(Recorded):
    """A recognizer of clips whose first pixel is the number of the word: 1, 2, ... or 0 for none.

    Nothing is ever mistaken, but for words of which it sees less than half.
    """

    modalities = ("video",)

    def __init__(self, length: int) -> None:
        self.length = length

    def recognize(self, audio: None, video: np.ndarray) -> Recognition:
        shown = video[:, 0, 0].astype(int)
        numbers = [n for n in np.unique(shown) if n]
        spans = [(f[0], f[-1] + 1) for f in (np.flatnonzero(shown == n) for n in numbers)]
        pieces = [
            f"\u2581{number}" if 2 * (after - first) >= self.length else "\u2581?"
            for number, (first, after) in zip(numbers, spans, strict=True)
        ]
        zeros = np.zeros(len(pieces), dtype=np.float32)
        return Recognition(
            tuple(pieces), tuple(numbers), 0.0, zeros, attention_of(spans, len(video))
        )


@pytest.mark.parametrize("length", [6, 11, 19])
@pytest.mark.parametrize("longest", [2.0, 3.3, 8.0])
def test_no_word_is_lost_or_doubled(length: int, longest: float) -> None:
    """Wherever the cuts are: here there is no pause, and nothing marks the end of a word."""
    shown = np.repeat(np.arange(1, 41), length).astype(np.uint8)
    video = np.random.default_rng(0).integers(0, 256, (len(shown), 96, 96), dtype=np.uint8)
    video[:, 0, 0] = shown
    calls: list[tuple[int, int]] = []
    found = Clock(length).transcribe(
        video=video, longest=longest, progress=lambda *done: calls.append(done)
    )
    assert [word.text for word in found.words] == [str(n) for n in range(1, 41)]
    starts = [word.start for word in found.words]
    assert starts == pytest.approx([n * length / 25 for n in range(40)])
    assert calls[-1] == (len(shown), len(shown)) and sorted(calls) == calls


def spoken(text: str, start: float, end: float) -> Word:
    return Word(text, start, end, 1.0)


def test_segments_that_disagree_are_joined_at_the_cut() -> None:
    """A word belongs to the one that its middle lies in; where they agree, once to both."""
    part = Segment(start=200, stop=500, left=250, right=500)  # from 8 s, the cut at 10 s
    before = [spoken("one", 8.0, 9.0), spoken("too", 9.2, 9.6), spoken("thr", 10.1, 10.6)]
    after = [spoken("to", 9.1, 9.5), spoken("three", 9.9, 10.5), spoken("four", 11.0, 11.5)]
    assert [w.text for w in joined(before, after, part)] == ["one", "too", "three", "four"]
    after[0] = spoken("too", 9.3, 9.7)
    assert [w.text for w in joined(before, after, part)] == ["one", "too", "three", "four"]
    again = [spoken("one", 10.5, 11.0), *after[1:]]  # the same word said again is no agreement
    assert [w.text for w in joined(before, again, part)][:3] == ["one", "too", "one"]


@pytest.mark.parametrize("vocabulary", [1, 10, 1000])
def test_words_said_again_and_uncertain_times(vocabulary: int) -> None:
    """At random cuts: none is lost or doubled, and none begins before the one before it ends."""
    rng = np.random.default_rng(0)

    def heard(truth: list[Word], start: float, end: float) -> list[Word]:
        """Those within a segment, each boundary a bit off."""
        inside = [w for w in truth if start <= w.start and w.end <= end]
        edges = np.array([(w.start, w.end) for w in inside])
        edges = (edges + rng.normal(0, 0.03, edges.shape)).clip(start, end)
        return [spoken(w.text, *edge) for w, edge in zip(inside, edges.tolist(), strict=True)]

    for _ in range(30):
        times = np.cumsum([0, *rng.uniform(0.2, 0.6, 40)]).tolist()
        names = rng.integers(vocabulary, size=40)
        spans = itertools.pairwise(times)
        truth = [spoken(str(n), *span) for n, span in zip(names, spans, strict=True)]
        cut, frames = int(rng.integers(100, 250)), round(times[-1] * 25)
        part = Segment(start=cut - 25, stop=frames, left=cut, right=frames)
        before = heard(truth, 0, cut / 25 + 1)
        found = joined(before, heard(truth, cut / 25 - 1, times[-1]), part)
        assert [w.text for w in found] == [w.text for w in truth]
        seam = [w for w in found if abs(w.start - cut / 25) < 2]
        assert all(w.start < w.end for w in seam)


def test_joined_words_are_one_after_another() -> None:
    """Also where each segment has its own view of who spoke when."""
    part = Segment(start=200, stop=500, left=250, right=500)
    for before, after in (
        (spoken("one", 9.5, 10.3), spoken("two", 9.8, 10.9)),
        (spoken("one", 9.9, 10.0), spoken("two", 9.5, 10.7)),
    ):
        one, two = joined([before], [after], part)
        assert one.text == "one" and two.text == "two"
        assert before.start == one.start < one.end == two.start < two.end == after.end


@pytest.mark.parametrize("modalities", ["both", "audio"])
def test_long_clip_is_its_utterances(teacher: Recognizer, corpus: Path, modalities: str) -> None:
    """Cut again, it has the words that its utterances have alone, at their times."""
    clips = Clips(corpus, "spk0001")
    audio, video = clips.whole(modalities)
    found = teacher.transcribe(audio=audio, video=video, longest=3)
    single = []
    for sound, mouth in zip(clips.audio, clips.video, strict=True):
        single.append(
            teacher.transcribe(audio=sound, video=mouth if modalities == "both" else None).text
        )
    assert found.text == " ".join(single)
    expected = clips.all_words()
    assert word_error_rate([(" ".join(w.text for w in expected), found.text)]) < 10
    if found.text == " ".join(w.text for w in expected):
        assert mean_error(found.words, expected) < 0.06


@pytest.mark.slow
def test_measure_of_times_and_cuts(teacher: Recognizer, corpus: Path) -> None:
    told: list[str] = []
    report = benchmark_transcription(teacher, corpus, 3.0, told.append)
    results = {(r["modality"], r["clips"]): r for r in report["results"]}
    assert len(results) == len(told) == 6
    for (modality, _), result in results.items():
        assert result["words"] == 24 and result["timed"] <= 24
        if modality != "video":
            assert result["wer"] < 10 and result["start_error"] < 0.06 > result["end_error"]
    first = text_table(report).splitlines()[4].split()
    assert first[:4] == ["both", "utterances", f"{report['results'][0]['wer']:.2f}", "24"]


def test_errors_of_words_that_are_right() -> None:
    said = (("ONE", 0.0, 1.0), ("TWO", 1.0, 2.0), ("FOUR", 3.0, 4.0))
    found = (spoken("one", 0.1, 0.8), spoken("too", 1.0, 2.0), spoken("four", 3.0, 4.5))
    assert time_errors(said, found) == [pytest.approx((0.1, 0.2)), pytest.approx((0.0, 0.5))]
    clip = Reference(np.zeros(640 * 50, np.int16), np.zeros((50, 96, 96), np.uint8), said)
    joined_twice = join([clip, clip])
    assert joined_twice.words[3:] == (("ONE", 2.0, 3.0), ("TWO", 3.0, 4.0), ("FOUR", 5.0, 6.0))


# ---- sound and picture that do not cover one another


def test_sound_beyond_the_picture_is_recognized(teacher: Recognizer, clips: Clips) -> None:
    """60 s of sound with a second of picture do not become a second."""
    audio, video = clips.whole("both")
    (first, *_), words = clips.video, clips.all_words()
    found = teacher.transcribe(audio=audio, video=first, longest=4)
    assert found.seconds == pytest.approx(len(video) / 25)
    assert mean_error(found.words, words) < 0.1
    shown, heard = f"{len(first) / 25:.1f}", f"{len(video) / 25:.1f}"
    assert found.notes == (
        f"the sound ends at {heard} s, the picture at {shown} s: there is no picture for the rest",
        f"no picture of the face from {shown} to {heard} s: sound alone there",
    )
    assert json.loads(subtitles.to_json(found))["notes"] == list(found.notes)


def test_picture_beyond_the_sound(teacher: Recognizer, clips: Clips) -> None:
    audio, video, words = clips.audio[0], clips.whole("both")[1], clips.words[0]
    found = teacher.transcribe(audio=audio, video=video, longest=4)
    assert found.seconds == pytest.approx(len(video) / 25)
    assert [w.text for w in found.words[: len(words)]] == [w.text for w in words]
    (note,) = found.notes
    assert note.startswith(f"the sound ends at {len(audio) / 16000:.1f} s, the picture at ")
    assert note.endswith("silence is filled in")


def test_lengths_that_differ_a_little_are_fitted(teacher: Recognizer, clips: Clips) -> None:
    """By up to 0.2 s: the clip is as long as its picture; beyond, `recognize` refuses."""
    audio, video = clips.audio[0], clips.video[0]
    for change in (-5 * 640, 5 * 640):
        fitted = np.resize(audio, len(video) * 640 + change)
        found = teacher.transcribe(audio=fitted, video=video)
        assert found.seconds == pytest.approx(len(video) / 25) and found.notes == ()
        teacher.recognize(fitted, video)
    for frames in (-6, 6, 1500):
        other = np.zeros(len(video) * 640 + frames * 640, np.int16)
        with pytest.raises(InputError, match=r"audio is .* s long, its video .* 0\.2 s"):
            teacher.recognize(other, video)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_face_that_is_lost_for_an_utterance(teacher: Recognizer, clips: Clips, gone: int) -> None:
    """The sound alone is used there, whatever the picture shows; times are those of the clip."""
    audio, video = clips.whole("both")
    words = clips.all_words()
    starts = np.cumsum([0, *map(len, clips.video)])
    span = slice(starts[gone], starts[gone + 1])
    seen = np.ones(len(video), bool)
    seen[span] = False
    video[span] = np.random.default_rng(0).integers(0, 256, video[span].shape)
    found = teacher.transcribe(audio=audio, video=video, seen=seen, longest=4)
    assert mean_error(found.words, words) < 0.1
    assert found.modality == "both" and found.notes == (
        f"no picture of the face from {span.start / 25:.1f} to {span.stop / 25:.1f} s: "
        "sound alone there",
    )


class Heard(Recorded):
    """A recognizer that hears nothing, and keeps what it was given."""

    def __init__(self, *modalities: str) -> None:
        self.modalities = modalities
        self.given: list[tuple[bool, bool, int]] = []

    def recognize(self, audio: np.ndarray | None, video: np.ndarray | None) -> Recognition:
        frames = len(video) if video is not None else len(audio) // 640
        self.given.append((audio is not None, video is not None, frames))
        return Recognition((), (), 0.0, np.zeros(0), np.zeros((0, frames)))


def test_without_a_face_only_what_the_model_takes(clips: Clips) -> None:
    """No face at all: the sound, or nothing; a second without one is no reason."""
    audio, video = clips.whole("both")
    nowhere = np.zeros(len(video), bool)
    heard = Heard("both", "audio")
    found = heard.transcribe(audio=audio, video=video, seen=nowhere, longest=4)
    assert found.modality == "audio" and heard.given
    assert all(given[:2] == (True, False) for given in heard.given)
    for modalities, sound in ((("both",), audio), (("video",), None)):
        heard = Heard(*modalities)
        found = heard.transcribe(audio=sound, video=video, seen=nowhere, longest=4)
        assert not heard.given and found.text == "" and "left out there" in found.notes[0]
    blink = np.ones(len(video), bool)
    blink[30:55] = False
    heard = Heard("both", "audio")
    assert heard.transcribe(audio=audio, video=video, seen=blink, longest=4).notes == ()
    assert all(given[:2] == (True, True) for given in heard.given)
    with pytest.raises(InputError, match=rf"seen is \[3\].*{len(video)} frames"):
        heard.transcribe(audio=audio, video=video, seen=blink[:3])


def test_no_face_and_silence_give_no_words(clips: Clips) -> None:
    """Whatever moves in the picture."""
    moving = np.random.default_rng(0).integers(0, 256, (150, 96, 96), np.uint8)
    heard = Heard("both", "audio", "video")
    for audio in (np.zeros(150 * 640, np.int16), None):
        found = heard.transcribe(audio=audio, video=moving, seen=np.zeros(150, bool))
        assert found.text == "" and not heard.given and found.notes


def test_segments_are_cut_where_the_face_comes_and_goes() -> None:
    """In a pause nearby if there is one, else the sound alone overlaps."""
    audio = bursts([(0, 5), (5.3, 20)], 20)
    video = np.random.default_rng(0).integers(0, 256, (400, 96, 96), np.uint8)
    seen = np.zeros(500, bool)
    seen[127:400] = True
    parts = segment(audio, video, 100, seen)
    check(parts, 100)
    (came,) = [p for p in parts if p.seen and 120 < p.left < 140]
    assert 5 <= came.left / 25 <= 5.3 and came.start == came.left
    went, *_ = [p for p in parts if not p.seen and p.left > 350]
    assert abs(went.left - 400) <= 8 and went.left - went.start >= 10
    for one, two in itertools.pairwise(parts):
        assert one.right == two.left and one.seen == (came.left <= one.left < went.left)


# ---- subtitles

SPOKEN = Transcript(
    "one <two> three",
    (
        Word("one", 0.04, 0.4, 0.5),
        Word("<two>", 0.4, 0.6, 0.25),
        Word("three", 3661.0, 3661.52, 0.999999),
    ),
    "both",
    3700.0,
)


def test_forms_of_a_transcript() -> None:
    assert subtitles.to_txt(SPOKEN) == "one <two> three\n"
    assert subtitles.to_srt(SPOKEN) == (
        "1\n00:00:00,040 --> 00:00:01,040\none <two>\n\n2\n01:01:01,000 --> 01:01:02,000\nthree\n"
    )
    assert subtitles.to_vtt(SPOKEN) == (
        "WEBVTT\n\n00:00:00.040 --> 00:00:01.040\none &lt;two&gt;\n\n"
        "01:01:01.000 --> 01:01:02.000\nthree\n"
    )
    content = json.loads(subtitles.to_json(SPOKEN, file="a.mp4"))
    assert content["file"] == "a.mp4" and content["text"] == SPOKEN.text
    assert content["words"][2] == {
        "text": "three", "start": 3661.0, "end": 3661.52, "confidence": 1.0
    }  # fmt: skip


def test_nothing_said() -> None:
    silence = Transcript("", (), "audio", 3.0)
    forms = {form: write(silence) for form, write in subtitles.FORMATS.items() if form != "json"}
    assert forms == {"txt": "\n", "srt": "", "vtt": "WEBVTT\n"}
    assert json.loads(subtitles.to_json(silence))["words"] == []


def test_subtitles_can_be_read() -> None:
    """Of random words: none lost, lines and cues not too long, none over another."""
    rng = np.random.default_rng(0)
    words, time = [], 0.0
    for _ in range(400):
        start = time + rng.choice([0.0, 0.08, 1.5], p=[0.8, 0.15, 0.05])
        time = start + rng.uniform(0.1, 0.7)
        words.append(Word("x" * rng.integers(1, 12), start, time, 1.0))
    words.append(Word("y" * 60, time, time + 1, 1.0))
    cues = subtitles.cues_of(words)
    assert " ".join(line for c in cues for line in c.lines).split() == [w.text for w in words]
    assert all(len(c.lines) <= 2 and max(map(len, c.lines)) <= 42 for c in cues[:-1])
    assert cues[-1].lines[-1] == "y" * 60
    (slow,) = subtitles.cues_of([spoken("a", 1, 20)])
    assert (slow.start, slow.end) == (1, 8)
    assert all(0 < c.end - c.start <= 7 for c in cues)
    assert all(one.end <= two.start for one, two in itertools.pairwise(cues))
    two = [c.lines for c in cues if len(c.lines) == 2]
    assert np.mean([abs(len(a) - len(b)) for a, b in two]) < 8, "lines are about equal"
    assert max(len(" ".join(c.lines)) for c in cues[:-1]) > 60


def test_needs_no_torch() -> None:
    """What exported models are transcribed with."""
    modules = "transcription.transcribe", "transcription.subtitles", "recognizers.exported"
    code = "import sys\n" + "".join(f"import avhubert_ext.{m}\n" for m in modules)
    code += "assert not {'torch', 'av', 'cv2'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
