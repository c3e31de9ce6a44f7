"""Features, noise, video, cache, batches, and manifests."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from avhubert_ext.benchmarks.data import plain_sample
from avhubert_ext.cli import main
from avhubert_ext.data.audio import audio_features, audio_length, load_audio
from avhubert_ext.data.augment import mask_time, random_crop_and_flip
from avhubert_ext.data.batching import BucketBatchSampler
from avhubert_ext.data.cache import load_features_cached, load_video_cached
from avhubert_ext.data.corrupt import CorruptUtterances
from avhubert_ext.data.dataset import AVDataset, DataConfig, Sample, collate, read_transcripts
from avhubert_ext.data.files import whole_file
from avhubert_ext.data.manifest import Utterance, read_manifest, write_manifest
from avhubert_ext.data.noise import NoiseConfig, NoiseMixer, add_noise
from avhubert_ext.data.video import (
    center_crop,
    crop,
    load_video,
    normalize_pixels,
    write_video,
)
from avhubert_ext.data.visual_noise import VisualNoiseConfig
from avhubert_ext.errors import InputError

# ---- audio features


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Compute 26 log mel bands at 100 Hz from their definition: float64 [T, 26]."""
    x = samples.astype(float)
    emphasized = np.concatenate([x[:1], x[1:] - 0.97 * x[:-1]])
    n_frames = 1 + max(0, int(np.ceil((len(x) - 400) / 160)))
    padded = np.zeros((n_frames - 1) * 160 + 400)
    padded[: len(x)] = emphasized[: len(padded)]
    frames = [padded[i * 160 : i * 160 + 400] for i in range(n_frames)]
    power = np.stack([np.abs(np.fft.rfft(frame, 512)) ** 2 / 512 for frame in frames])
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    corners = np.floor(513 * 700 * (10 ** (mels / 2595) - 1) / 16000)
    bins = np.arange(257)
    bands = []
    for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
        rise, fall = (bins - low) / (middle - low), (high - bins) / (high - middle)
        triangle = np.where(bins < middle, rise, fall)
        bands.append(power @ np.where((bins >= low) & (bins < high), triangle, 0.0))
    energies = np.stack(bands, axis=1)
    return np.log(np.where(energies == 0, np.finfo(float).eps, energies))


def stacked(samples: np.ndarray, n_frames: int | None) -> np.ndarray:
    """Stack four frames of `log_mel`, cut or pad them, and normalize each frame."""
    bands = log_mel(samples)
    rows = []
    for t in range(-(-len(bands) // 4) if n_frames is None else n_frames):
        row = np.zeros(104)
        four = bands[4 * t : 4 * t + 4].ravel()
        row[: len(four)] = four
        rows.append((row - row.mean()) / np.sqrt(row.var() + 1e-5))
    return np.stack(rows)


def tone(samples: int, level: float = 3000.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16000
    wave = np.sin(2 * np.pi * 300 * time) * (1 + np.sin(2 * np.pi * 3 * time))
    return (level * (wave + 0.2 * rng.standard_normal(samples))).astype(np.int16)


@pytest.mark.parametrize("samples", [100, 400, 401, 6400, 7777, 16000])
@pytest.mark.parametrize("n_frames", [None, 3, 30])
def test_audio_features(samples, n_frames):
    wave = tone(samples)
    found = audio_features(wave, n_frames=n_frames)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, stacked(wave, n_frames), atol=2e-3)


def test_padded_frames_are_zero_and_the_others_normalized():
    found = audio_features(tone(6400), n_frames=20)  # 38 bands: 9.5 stacks
    assert np.abs(found[10:]).max() == 0
    np.testing.assert_allclose(found[:10].mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(found[:9].std(axis=1), 1, atol=1e-3)


def test_silence_has_finite_features():
    assert np.isfinite(audio_features(np.zeros(16000, np.int16))).all()


def test_another_sample_rate_is_rejected():
    with pytest.raises(InputError, match="8000 Hz, expected 16000 Hz"):
        audio_features(tone(8000), sample_rate=8000)
    for wrong in (tone(8000) / 32768, tone(8000)[:, None]):
        with pytest.raises(InputError, match=r"expected an array of int16"):
            audio_features(wrong)
        with pytest.raises(InputError, match=r"noise is .* expected an"):
            add_noise(tone(8000), wrong, 0)


# ---- audio files


@pytest.fixture
def wav(tmp_path) -> Path:
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(4000), 16000, subtype="PCM_16")
    return path


def test_load_audio_gives_the_samples_written(wav):
    samples = load_audio(wav)
    assert samples.dtype == np.int16
    assert np.array_equal(samples, tone(4000))


def test_bad_audio_files_are_reported(tmp_path):
    path = tmp_path / "bad.wav"

    def complaint() -> str:
        with pytest.raises(InputError) as error:
            load_audio(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
        return str(error.value)

    assert "not found" in complaint()
    soundfile.write(path, tone(800), 44100)
    assert "44100 Hz, expected 16000 Hz" in complaint()
    soundfile.write(path, np.stack([tone(800), tone(800)], axis=1), 16000)
    assert "2 channels, expected mono" in complaint()
    soundfile.write(path, np.zeros(0, np.int16), 16000)
    assert "no samples" in complaint()
    path.write_bytes(b"RIFF, or not")
    assert "not a readable audio file" in complaint()


# ---- noise


def snr(clean: np.ndarray, mixed: np.ndarray) -> float:
    speech = clean.astype(float)
    added = mixed.astype(float) - speech
    return 10 * np.log10(np.mean(speech**2) / np.mean(added**2))


@pytest.mark.parametrize("level", [-10, -5, 0, 7.5, 20])
def test_noise_has_the_requested_snr(level):
    noise = (500 * np.random.default_rng(1).standard_normal(9000)).astype(np.int16)
    clean = tone(8000, level=1000)
    mixed = add_noise(clean, noise, level)
    assert mixed.dtype == np.int16 and mixed.shape == clean.shape
    assert np.abs(mixed).max() < 32767  # nothing was clipped, which would change the ratio
    assert snr(clean, mixed) == pytest.approx(level, abs=0.1)


def test_silent_noise_or_speech_does_not_change_the_clip():
    clean = tone(1000)
    assert np.array_equal(add_noise(clean, np.zeros(500, np.int16), 0), clean)
    assert np.array_equal(add_noise(np.zeros(1000, np.int16), clean, 0), np.zeros(1000))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_that_is_too_loud_is_scaled_to_fit(sign):
    clean = tone(8000, level=9000)
    clean[100] = sign * 32000
    noise = clean[::-1].copy()
    mixed = add_noise(clean, noise, -10)
    ratio = np.sqrt(np.mean(clean.astype(float) ** 2) / np.mean(noise.astype(float) ** 2))
    ideal = clean + noise * ratio * 10 ** (10 / 20)
    ideal *= min(32767 / ideal.max(), -32768 / ideal.min())
    assert mixed.max() == 32767 or mixed.min() == -32768
    assert np.abs(mixed - ideal).max() <= 2


def test_short_noise_is_repeated_and_long_noise_cut():
    clean, noise = tone(1000), tone(300, seed=5)
    repeated = np.concatenate([noise] * 4)
    assert np.array_equal(add_noise(clean, noise, 3), add_noise(clean, repeated[:1000], 3))
    assert np.array_equal(add_noise(clean, repeated, 3), add_noise(clean, repeated[:1000], 3))
    added = add_noise(clean, noise, 3).astype(float) - clean
    assert np.abs(added[:300] - added[300:600]).max() <= 2


@pytest.fixture
def noise_folders(tmp_path) -> tuple[Path, Path]:
    """A folder with one noise file, and one with three."""
    folders = []
    for kind, count in (("one", 1), ("three", 3)):
        folder = tmp_path / kind
        folder.mkdir()
        paths = [folder / f"{i}.wav" for i in range(count)]
        for i, path in enumerate(paths):
            soundfile.write(path, tone(20000 + 1000 * i, 400, seed=10 * count + i), 16000)
        (folder / "train.tsv").write_text("".join(f"{p}\n" for p in paths))
        folders.append(folder)
    return tuple(folders)


def test_noise_depends_on_seed_utterance_and_pass_only(noise_folders):
    config = NoiseConfig(noise_folders, 1.0, (-5.0, 5.0))
    clean = tone(4000)
    keys = [(name, number) for name in ("a", "b", "c") for number in range(3)]
    mixer = NoiseMixer(config, "train", seed=1)
    first = {key: noisy(mixer, clean, *key) for key in keys}
    fresh = NoiseMixer(config, "train", seed=1)
    for key in reversed(keys):
        assert np.array_equal(noisy(fresh, clean, *key), first[key])
    assert len({wave.tobytes() for wave in first.values()}) == len(keys)
    other = NoiseMixer(config, "train", seed=2)
    assert not np.array_equal(noisy(other, clean, "a"), first["a", 0])
    louder = NoiseMixer(replace(config, snr_db=(-6.0, 5.0)), "train", seed=1)
    assert louder.draw("a", 0) != mixer.draw("a", 0), "another condition, another snippet"


def noisy(mixer: NoiseMixer, clean: np.ndarray, utterance: str, number: int = 0) -> np.ndarray:
    return mixer.add(clean, mixer.draw(utterance, number))


@pytest.mark.parametrize("mixed", [1, 3])
@pytest.mark.parametrize("start", ["random", "first"])
def test_the_recorded_draw_describes_the_noise(noise_folders, mixed, start):
    """The noise can be rebuilt from the record: rolled, cut to the shortest, averaged, floored."""
    mixer = NoiseMixer(
        NoiseConfig(noise_folders, 1.0, (-5, 5), mixed=mixed, start=start), "train", seed=1
    )
    lengths = set()
    for number in range(20):
        clean = tone(2000 * (1 + number), level=1000, seed=number)
        draw = json.loads(json.dumps(mixer.draw("u", number).record()))
        assert len(draw["files"]) == len(draw["starts"]) == mixed
        assert draw["snr_db"] in range(-5, 6), "whole numbers of dB, as AV-HuBERT's randint"
        assert start == "random" or draw["starts"] == [0] * mixed
        pairs = zip(draw["files"], draw["starts"], strict=True)
        waves = [np.roll(load_audio(f), -s) for f, s in pairs]
        shortest = min(map(len, waves))
        noise = np.floor(np.mean([w[:shortest] for w in waves], axis=0)).astype(np.int16)
        heard = noisy(mixer, clean, "u", number)
        assert np.array_equal(heard, add_noise(clean, noise, draw["snr_db"]))
        lengths.add(shortest < len(clean))
        assert snr(clean, heard) == pytest.approx(draw["snr_db"], abs=0.1)
    assert lengths == {True, False}, "both longer and shorter noise must have occurred"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"mixed": 0}, "noise of 0 files"),
        ({"start": "last"}, "noise start 'last'"),
        ({"snr_db": (0.5, 2)}, "whole numbers of dB"),
    ],
)
def test_wrong_noise_settings(setting, said):
    with pytest.raises(InputError, match=said):
        NoiseConfig((Path("babble"),), **setting)


def test_noise_probability(noise_folders):
    clean = tone(400)

    def share(probability: float, count: int) -> float:
        mixer = NoiseMixer(NoiseConfig(noise_folders, probability), "train", 1)
        mixed = [noisy(mixer, clean, f"u{i}") for i in range(count)]
        return np.mean([not np.array_equal(wave, clean) for wave in mixed])

    assert share(0.0, 50) == 0
    assert share(1.0, 50) == 1
    assert share(0.25, 600) == pytest.approx(0.25, abs=0.06)


def test_noise_levels_fill_the_range(noise_folders):
    mixer = NoiseMixer(NoiseConfig(noise_folders, 1.0, (-5.0, 10.0)), "train", 1)
    clean = tone(4000, level=1000)
    levels = np.array([snr(clean, noisy(mixer, clean, f"u{i}")) for i in range(60)])
    assert levels.min() > -5.2 and levels.max() < 10.2
    assert levels.min() < -2 and levels.max() > 7


def test_the_second_talker_is_another_speaker(tmp_path):
    """Folders are speakers, as in LRS3. A kind of noise without other speakers is an error."""
    paths = []
    for speaker, clips in (("ann", 8), ("bob", 1)):
        for number in range(clips):
            path = tmp_path / "trainval" / speaker / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, tone(4000, 400, seed=len(paths)), 16000)
            paths.append(path)
    (tmp_path / "train.tsv").write_text("".join(f"{p}\n" for p in paths))
    mixer = NoiseMixer(NoiseConfig((tmp_path,), 1.0), "train", 1)
    clean, bob = tone(4000, level=50), load_audio(paths[-1])
    for number in range(10):
        added = noisy(mixer, clean, "trainval/ann/0", number).astype(float) - clean
        assert spectrum_match(added, bob) > 0.9, "only bob is not ann"
    (tmp_path / "train.tsv").write_text(f"{paths[-1]}\n")
    mixer = NoiseMixer(NoiseConfig((tmp_path,), 1.0), "train", 1)
    with pytest.raises(InputError, match=r"are of bob, .* needs several speakers"):
        mixer.draw("trainval/bob/0", 0)


def spectrum_match(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two magnitude spectra: 1 for a signal and a rolled copy."""
    x, y = (np.abs(np.fft.rfft(z.astype(float)))[1:] for z in (a, b))
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def test_noise_manifest_missing_or_empty(noise_folders):
    config = NoiseConfig((noise_folders[0],))
    with pytest.raises(InputError, match=r"valid\.tsv not found"):
        NoiseMixer(config, "valid", 1)
    (noise_folders[0] / "valid.tsv").write_text("\n")
    with pytest.raises(InputError, match=r"valid\.tsv lists no noise file"):
        NoiseMixer(config, "valid", 1)


# ---- video


def film(frames: int = 12, seed: int = 0) -> np.ndarray:
    """Soft moving stripes, uint8 [T, 96, 96]."""
    y, x = np.mgrid[:96, :96] / 96
    phases = np.arange(frames)[:, None, None] / 8 + seed
    return (120 + 90 * np.sin(2 * np.pi * (2 * x + y + phases))).astype(np.uint8)


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "clip.mp4"
    write_video(path, film(), 25)
    return path


def test_load_video_gives_the_frames_written(video):
    found = load_video(video)
    assert found.dtype == np.uint8 and found.shape == (12, 96, 96)
    difference = found.astype(int) - film()
    assert np.abs(difference).mean(axis=(1, 2)).max() < 1


def test_frames_are_those_that_opencv_decodes(manifests):
    cv2 = pytest.importorskip("cv2")
    for utterance in read_manifest(manifests / "train.tsv"):
        capture = cv2.VideoCapture(str(utterance.video))
        decoded = iter(capture.read, (False, None))
        frames = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for _, frame in decoded]
        assert np.array_equal(load_video(utterance.video), frames)


def test_bad_videos_are_reported(video):
    content = video.read_bytes()
    for bad in (b"", b"not a video at all" * 50, content[: len(content) // 2], content[:-200]):
        video.write_bytes(bad)
        with pytest.raises(InputError) as error:
            load_video(video)
        assert str(error.value).startswith(str(video)) and "\n" not in str(error.value)
    video.unlink()
    with pytest.raises(InputError, match=r"clip\.mp4 not found"):
        load_video(video)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "caf\udce9"])
@pytest.mark.parametrize("load", [load_video, load_audio, audio_length])
def test_names_that_no_file_can_have_are_not_found(tmp_path, name, load):
    with pytest.raises(InputError, match="not found"):
        load(tmp_path / name)


def test_a_file_without_video_is_rejected(wav):
    with pytest.raises(InputError, match=r"clip\.wav"):
        load_video(wav)


def test_crops():
    frames = np.random.default_rng(0).integers(0, 256, (3, 96, 96), dtype=np.uint8)
    assert np.array_equal(center_crop(frames), frames[:, 4:92, 4:92])
    assert np.array_equal(crop(frames, 1, 7), frames[:, 1:89, 7:95])
    mirrored = crop(frames, 1, 7, flip=True)
    assert all(np.array_equal(mirrored[:, :, i], frames[:, 1:89, 94 - i]) for i in range(88))
    exact = frames[:, :88, :88]
    assert np.array_equal(center_crop(exact), exact)


def test_random_crop_is_one_window_for_the_clip_over_the_whole_range():
    y, x = np.mgrid[:96, :96]
    frames = np.stack([y + x // 100, x]).astype(np.uint8)  # frame 0 encodes rows, frame 1 columns
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(400):
        window = random_crop_and_flip(frames, rng)
        assert window.shape == (2, 88, 88)
        top, columns = int(window[0, 0, 0]), window[1, 0].astype(int)
        flip = columns[0] > columns[-1]
        left = columns[-1] if flip else columns[0]
        assert np.array_equal(window, crop(frames, top, left, flip))
        seen |= {("top", top), ("left", int(left)), ("flip", bool(flip))}
    expected = {("flip", False), ("flip", True)}
    assert seen == expected | {(side, i) for side in ("top", "left") for i in range(9)}


def test_normalize():
    frames = np.array([[[0, 255, 128]]], np.uint8)
    expected = [(v / 255 - 0.421) / 0.165 for v in (0, 255, 128)]
    assert normalize_pixels(frames).dtype == np.float32
    np.testing.assert_allclose(normalize_pixels(frames)[0, 0], expected, rtol=1e-5)


# ---- cache


def test_cached_frames_are_those_of_the_video(video, tmp_path):
    cache = tmp_path / "cache"
    plain = load_video(video)
    assert np.array_equal(load_video_cached(video, None), plain)
    assert not cache.exists()
    for _ in range(2):
        assert np.array_equal(load_video_cached(video, cache), plain)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("kept", [0, 50, 500])
def test_damaged_frames_in_the_cache_are_decoded_again(video, tmp_path, kept):
    plain = load_video_cached(video, tmp_path / "cache")
    (stored,) = (tmp_path / "cache").iterdir()
    stored.write_bytes(stored.read_bytes()[:kept])
    assert np.array_equal(load_video_cached(video, tmp_path / "cache"), load_video(video))
    assert len(plain) and np.array_equal(np.load(stored), load_video(video))


@pytest.mark.parametrize("kept", [0, 50, 500])
def test_damaged_features_in_the_cache_are_computed_again(wav, tmp_path, kept):
    expected = np.array(load_features_cached(wav, 7, tmp_path / "cache"))
    (stored,) = (tmp_path / "cache").iterdir()
    stored.write_bytes(stored.read_bytes()[:kept])
    assert np.array_equal(load_features_cached(wav, 7, tmp_path / "cache"), expected)
    assert np.array_equal(np.load(stored), expected)


def test_an_interrupted_write_leaves_no_entry(wav, tmp_path, monkeypatch):
    def interrupted(file, array, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    cache = tmp_path / "cache"
    with monkeypatch.context() as patched:
        patched.setattr("avhubert_ext.data.cache.np.save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_features_cached(wav, 7, cache)
    assert list(cache.iterdir()) == []
    expected = audio_features(load_audio(wav), n_frames=7)
    assert np.array_equal(load_features_cached(wav, 7, cache), expected)


def refuse(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make calls of these functions by the cache and the data set fail from here on."""

    def refused(*_, **__):
        raise AssertionError("decoded, or computed, though it is in the cache")

    for module in ("cache", "dataset"):
        for name in names:
            monkeypatch.setattr(f"avhubert_ext.data.{module}.{name}", refused, raising=False)


def test_cached_files_are_not_decoded_again(video, wav, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    frames = np.array(load_video_cached(video, cache))
    features = np.array(load_features_cached(wav, 7, cache))
    refuse(monkeypatch, "load_video", "load_audio", "audio_features")
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (video, wav):
        shutil.copy(path, moved)
    for folder in (tmp_path, moved):
        assert np.array_equal(load_video_cached(folder / "clip.mp4", cache), frames)
        assert np.array_equal(load_features_cached(folder / "clip.wav", 7, cache), features)


def test_other_content_is_decoded_even_if_size_and_time_are_the_same(video, wav, tmp_path):
    cache = tmp_path / "cache"
    first = np.array(load_features_cached(wav, 7, cache))
    load_video_cached(video, cache)
    status = wav.stat()
    soundfile.write(wav, tone(4000, seed=9), 16000, subtype="PCM_16")
    os.utime(wav, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (wav.stat().st_size, wav.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    found = load_features_cached(wav, 7, cache)
    assert np.array_equal(found, audio_features(tone(4000, seed=9), n_frames=7))
    assert not np.array_equal(found, first)

    entries = sorted(cache.iterdir())
    status = video.stat()
    video.write_bytes(b"x" * status.st_size)
    os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(InputError, match=r"clip\.mp4"):
        load_video_cached(video, cache)
    assert sorted(cache.iterdir()) == entries, "the failure left nothing"


def test_cached_features_are_those_of_the_audio_bit_for_bit(wav, tmp_path):
    cache = tmp_path / "cache"
    for n_frames in (3, 7, 30, 3, 7, 30):
        expected = audio_features(load_audio(wav), n_frames=n_frames)
        for folder in (None, cache):
            found = load_features_cached(wav, n_frames, folder)
            assert found.dtype == np.float32 and found.tobytes() == expected.tobytes()
    assert len(list(cache.iterdir())) == 3


def test_missing_and_broken_files_have_the_same_errors_with_a_cache(video, wav, tmp_path):
    def complaints(cache: Path | None) -> list[str]:
        found = []
        for load in (load_video_cached, lambda path, cache: load_features_cached(path, 7, cache)):
            for path in (tmp_path / "none", tmp_path, broken):
                with pytest.raises(InputError) as error:
                    load(path, cache)
                found.append(str(error.value))
        return found

    broken = tmp_path / "broken"
    broken.write_bytes(video.read_bytes()[:300])
    assert complaints(tmp_path / "cache") == complaints(None)


def test_another_format_leaves_older_entries_alone(wav, tmp_path, monkeypatch):
    load_features_cached(wav, 7, tmp_path / "cache")
    monkeypatch.setattr("avhubert_ext.data.cache.FORMAT", 10**6)
    load_features_cached(wav, 7, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_truncated_temporary_file_is_never_used(video, tmp_path):
    cache = tmp_path / "cache"
    expected = np.array(load_video_cached(video, cache))
    (stored,) = cache.iterdir()
    whole = stored.read_bytes()
    stored.unlink()
    torn = [cache / f"{stored.name}.{pid}.part" for pid in (1, os.getpid())]
    for path in torn:
        path.write_bytes(whole[: len(whole) // 2])
    assert np.array_equal(load_video_cached(video, cache), expected)
    assert stored.read_bytes() == whole


def test_cached_files_of_different_videos_do_not_mix(tmp_path):
    for seed in (1, 2):
        write_video(tmp_path / f"{seed}.mp4", film(8, seed / 3), 25)
    for seed in (1, 2, 1, 2):
        path = tmp_path / f"{seed}.mp4"
        assert np.array_equal(load_video_cached(path, tmp_path / "c"), load_video(path))


# ---- manifests


def utterances(count: int = 3) -> list[Utterance]:
    return [Utterance(f"u/{i}", Path(f"/v/{i}.mp4"), Path(f"/a/{i}.wav"), 10 + i, 6400) for i in
            range(count)]  # fmt: skip


def test_manifest_round_trip(tmp_path):
    write_manifest(tmp_path / "train.tsv", utterances())
    assert read_manifest(tmp_path / "train.tsv") == utterances()
    lines = (tmp_path / "train.tsv").read_text().splitlines()
    assert lines[:2] == ["/", "u/0\t/v/0.mp4\t/a/0.wav\t10\t6400"]


def test_manifest_root_is_joined_to_the_video_only(tmp_path):
    (tmp_path / "t.tsv").write_text("/root\nid\tv/1.mp4\ta/1.wav\t7\t4480\n")
    (found,) = read_manifest(tmp_path / "t.tsv")
    assert found == Utterance("id", Path("/root/v/1.mp4"), Path("a/1.wav"), 7, 4480)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "id\t/v.mp4\t/a.wav\t12",
        "id\t/v.mp4\t/a.wav\tx\t12",
        "id v.mp4 a.wav 1 2",
        "id\t/v.mp4\t/a.wav\t0\t640",
        "id\t/v.mp4\t/a.wav\t\u00b2\t640",
        "id\t/v.mp4\t/a.wav\t1\t9999999999999999999999",
        "id\t\t/a.wav\t1\t640",
    ],
)
def test_a_malformed_manifest_line_is_reported(tmp_path, line):
    path = tmp_path / "t.tsv"
    path.write_text(f"/\nid\t/v.mp4\t/a.wav\t1\t640\n{line}\n")
    with pytest.raises(InputError, match=r"t\.tsv line 3: expected"):
        read_manifest(path)


def test_a_manifest_as_editors_on_windows_save_it(tmp_path):
    lines = "/root\r\nid\tv\u2028\x85.mp4\t/a.wav\t7\t4480\r\n"
    (tmp_path / "t.tsv").write_bytes(lines.encode("utf-8-sig"))
    (found,) = read_manifest(tmp_path / "t.tsv")
    assert found == Utterance("id", Path("/root/v\u2028\x85.mp4"), Path("/a.wav"), 7, 4480)


def test_a_manifest_without_a_root_is_rejected(tmp_path):
    (tmp_path / "t.tsv").write_text("id\t/v.mp4\t/a.wav\t1\t640\n" * 2)
    with pytest.raises(InputError, match=r"t\.tsv line 1: expected the root folder alone"):
        read_manifest(tmp_path / "t.tsv")


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "caf\udce9"])
def test_a_name_that_a_manifest_cannot_store(tmp_path, name):
    strange = replace(utterances(1)[0], video=Path(f"/v/{name}.mp4"))
    with pytest.raises(InputError, match="rename it"):
        write_manifest(tmp_path / "t.tsv", [strange])
    assert not (tmp_path / "t.tsv").exists()


def test_missing_and_empty_manifests(tmp_path):
    with pytest.raises(InputError, match=r"t\.tsv not found"):
        read_manifest(tmp_path / "t.tsv")
    (tmp_path / "t.tsv").write_text("/\n")
    with pytest.raises(InputError, match=r"t\.tsv has no utterances"):
        read_manifest(tmp_path / "t.tsv")


def test_transcripts_are_checked_against_the_manifest(tmp_path):
    path = tmp_path / "test.wrd"
    path.write_text("one\ntwo words\nthree\n")
    assert read_transcripts(tmp_path, "test", utterances()) == ["one", "two words", "three"]
    with pytest.raises(InputError, match=r"test\.wrd has 3 transcripts.*test\.tsv 4 utterances"):
        read_transcripts(tmp_path, "test", utterances(4))
    path.write_text("one\n \nthree\n")
    with pytest.raises(InputError, match=r"test\.wrd line 2: the transcript is empty"):
        read_transcripts(tmp_path, "test", utterances())


# ---- batches


def sample(frames: int, audio: bool = True, video: bool = True) -> Sample:
    torch.manual_seed(frames)
    return Sample(
        torch.randn(104, frames) if audio else None,
        torch.randn(1, frames, 88, 88) if video else None,
        frames,
    )


def test_collate_pads_with_zeros_and_marks_it():
    samples = [sample(3), sample(5), sample(1)]
    batch = collate(samples)
    assert batch.audio.shape == (3, 104, 5) and batch.video.shape == (3, 1, 5, 88, 88)
    expected = [[t >= n for t in range(5)] for n in (3, 5, 1)]
    assert batch.padding_mask.tolist() == expected
    for i, s in enumerate(samples):
        assert torch.equal(batch.audio[i, :, : s.frames], s.audio)
        assert torch.equal(batch.video[i, :, : s.frames], s.video)
        assert not batch.audio[i, :, s.frames :].any() and not batch.video[i, :, s.frames :].any()


def test_collate_of_one_stream():
    audio = collate([sample(2, video=False), sample(4, video=False)])
    assert audio.video is None and audio.audio.shape == (2, 104, 4)
    video = collate([sample(2, audio=False)])
    assert video.audio is None and not video.padding_mask.any()


def test_batches_hold_every_utterance_once_and_similar_lengths():
    frames = np.random.default_rng(0).integers(50, 500, 203)
    sampler = BucketBatchSampler(frames, 4, seed=1)
    batches = sampler.batches(0)
    assert len(batches) == len(sampler) == 51
    assert sorted(len(b) for b in batches) == [3] + [4] * 50
    assert sorted(i for b in batches for i in b) == list(range(203))
    real = sum(frames[b].sum() for b in batches)
    padded = sum(frames[b].max() * len(b) for b in batches)
    assert real / padded > 0.85, "hardly any padding"
    assert len({frozenset(b) for b in batches} & {frozenset(b) for b in sampler.batches(1)}) < 10


def test_without_shuffling_every_pass_is_the_same_shortest_first():
    frames = np.random.default_rng(0).integers(1, 100, 23)
    sampler = BucketBatchSampler(frames, 4, seed=1, shuffle=False)
    first, second = list(sampler), list(sampler)
    assert first == second and {e for batch in first for e, _ in batch} == {0}
    flat = [i for batch in first for _, i in batch]
    assert sorted(flat) == list(range(23)) and np.all(np.diff(frames[flat]) >= 0)


@pytest.mark.parametrize("consumed", [0, 1, 5, 6, 7, 13])
def test_the_sampler_resumes_exactly_where_it_stopped(consumed):
    def stream(start: int, epochs: int) -> list:
        sampler = BucketBatchSampler(np.arange(23), 4, seed=3, consumed=start)  # 6 batches
        return [batch for _ in range(epochs) for batch in sampler]

    whole = stream(0, 4)
    resumed = stream(consumed, 4)
    assert resumed[: 24 - consumed] == whole[consumed:]


def test_the_order_depends_on_epoch_and_seed():
    sampler = BucketBatchSampler(np.arange(80), 4, seed=3)
    epochs = [list(sampler) for _ in range(3)]
    for number, epoch in enumerate(epochs):
        assert {e for batch in epoch for e, _ in batch} == {number}
        assert sorted(i for batch in epoch for _, i in batch) == list(range(80))
    orders = [[[i for _, i in batch] for batch in epoch] for epoch in epochs]
    assert orders[0] != orders[1] != orders[2]
    other = [[i for _, i in batch] for batch in BucketBatchSampler(np.arange(80), 4, seed=4)]
    assert other != orders[0]


# ---- the data set


def test_samples_are_aligned_and_as_long_as_the_manifest_says(manifests):
    dataset = AVDataset(manifests, "train", DataConfig())
    assert len(dataset) == len(dataset.frames()) > 0
    for index in (0, len(dataset) - 1):
        utterance, found = dataset.utterances[index], dataset[index]
        assert found.frames == utterance.frames == dataset.frames()[index]
        assert found.audio.shape == (104, found.frames)
        assert found.video.shape == (1, found.frames, 88, 88)
        frames = load_video(utterance.video)[:, 4:92, 4:92]
        video = (torch.from_numpy(frames.copy()).float() / 255 - 0.421) / 0.165
        torch.testing.assert_close(found.video[0], video, rtol=1e-5, atol=1e-5)
        audio = stacked(load_audio(utterance.audio), found.frames)
        np.testing.assert_allclose(found.audio.T, audio, atol=2e-3)


def test_modalities(manifests):
    both = AVDataset(manifests, "test", DataConfig())[0]
    audio = AVDataset(manifests, "test", DataConfig(modalities="audio"))[0]
    video = AVDataset(manifests, "test", DataConfig(modalities="video"))[0]
    assert audio.video is None and video.audio is None
    assert torch.equal(audio.audio, both.audio) and torch.equal(video.video, both.video)
    with pytest.raises(InputError, match="expected both, audio or video"):
        DataConfig(modalities="smell")


@pytest.mark.parametrize("modalities", ["both", "audio", "video"])
def test_a_clip_at_another_rate_than_in_its_manifest_is_rejected(tmp_path, modalities):
    """The manifest was made elsewhere, with the frames and samples of the files."""
    write_video(tmp_path / "fast.mp4", film(60), 30)
    write_video(tmp_path / "cut.mp4", film(60), 25)
    soundfile.write(tmp_path / "a.wav", tone(32000), 16000)
    rows = [
        Utterance(name, tmp_path / f"{name}.mp4", tmp_path / "a.wav", 60, 32000)
        for name in ("fast", "cut")
    ]
    write_manifest(tmp_path / "test.tsv", rows)
    dataset = AVDataset(tmp_path, "test", DataConfig(modalities, cache=tmp_path / "cache"))
    drift = r": 60 frames are 2\.40 s at 25 .* audio is 2\.00 s"
    for index, about in enumerate((r"fast\.mp4: 30 frames/s, expected 25", drift)):
        if modalities == "video" and index == 1:
            assert dataset[index].frames == 60
            continue
        with pytest.raises(InputError, match=drift if modalities == "audio" else about):
            dataset[index]


def same(a: Sample, b: Sample) -> bool:
    return torch.equal(a.audio, b.audio) and torch.equal(a.video, b.video)


def test_draws_depend_on_pass_and_utterance_not_on_order(manifests, noise):
    config = DataConfig(
        augment=True, noise=NoiseConfig((noise / "babble",), 1.0), max_frames=20, seed=5
    )
    dataset = AVDataset(manifests, "train", config)
    first = {(p, i): dataset[p, i] for p in (0, 1) for i in (0, 1)}
    fresh = AVDataset(manifests, "train", config)
    for key in reversed(first):
        assert same(fresh[key], first[key])
    assert not same(first[0, 0], first[1, 0])
    fresh.set_pass(1)
    assert same(fresh[0], first[1, 0])
    assert not same(AVDataset(manifests, "train", replace(config, seed=6))[0, 0], first[0, 0])


def test_a_window_is_cut_at_the_same_place_from_both_streams(manifests, tmp_path):
    whole = AVDataset(manifests, "train", DataConfig(cache=tmp_path))[0]
    dataset = AVDataset(manifests, "train", DataConfig(cache=tmp_path, max_frames=10))
    assert dataset.frames()[0] == 10
    starts = set()
    for number in range(8):
        part = dataset[number, 0]
        assert part.frames == 10
        fits = [
            t
            for t in range(whole.frames - 9)
            if torch.equal(part.audio, whole.audio[:, t : t + 10])
            and torch.equal(part.video, whole.video[:, t : t + 10])
        ]
        assert len(fits) == 1
        starts.add(fits[0])
    assert len(starts) > 2


def test_workers_give_the_same_batches(manifests, tmp_path):
    dataset = AVDataset(manifests, "train", DataConfig(augment=True, cache=tmp_path, max_frames=8))

    def epoch(workers: int) -> list:
        sampler = BucketBatchSampler(dataset.frames(), 3, seed=1)
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        return list(loader)

    for one, two in zip(epoch(0), epoch(2), strict=True):
        assert torch.equal(one.audio, two.audio) and torch.equal(one.video, two.video)


@pytest.mark.slow
@pytest.mark.parametrize("modalities", ["both", "audio", "video"])
@pytest.mark.parametrize("keep_clean", [False, True])
def test_samples_are_the_same_with_and_without_a_cache(
    manifests, noise, tmp_path, modalities, keep_clean
):
    some = NoiseConfig((noise / "babble",), 0.5)
    config = DataConfig(modalities, True, some, max_frames=30, keep_clean=keep_clean)
    plain = AVDataset(manifests, "train", config)
    cached = AVDataset(manifests, "train", replace(config, cache=tmp_path))
    clean = AVDataset(manifests, "train", replace(config, noise=None))
    noised = []
    for key in [(number, index) for number in (0, 1, 1) for index in range(len(plain))]:
        one, two = plain[key], cached[key]
        for name in ("audio", "video", "clean_audio"):
            a, b = getattr(one, name), getattr(two, name)
            assert (a is None) == (b is None)
            assert a is None or (a.stride() == b.stride() and torch.equal(a, b))
        if one.audio is not None:
            noised.append(not torch.equal(one.audio, clean[key].audio))
    assert modalities == "video" or {*noised} == {False, True}


def test_clean_utterances_are_not_decoded_after_the_first_pass(
    manifests, noise, tmp_path, monkeypatch
):
    some = NoiseConfig((noise / "babble",), 0.5)
    dataset = AVDataset(manifests, "train", DataConfig(augment=True, noise=some, cache=tmp_path))
    keys = [(number, index) for number in range(4) for index in range(len(dataset))]
    for key in keys:
        dataset[key]
    refuse(monkeypatch, "load_video", "load_audio", "audio_features")
    decoded = []
    for number, index in keys:
        try:
            dataset[number, index]
        except AssertionError:
            decoded.append((number, index))
    noisy = [(p, i) for p, i in keys if dataset.mixer.draw(dataset.utterances[i].id, p)]
    assert decoded == noisy and 0 < len(noisy) < len(keys)


def test_reading_without_optimizations_gives_the_same_samples(manifests, noise):
    """This is the baseline of `avhubert-ext benchmark data`."""
    pytest.importorskip("cv2")
    some = NoiseConfig((noise / "babble",), 0.5)
    dataset = AVDataset(manifests, "train", DataConfig(augment=True, noise=some))
    for key in [(number, index) for number in (0, 1) for index in range(6)]:
        audio, video = plain_sample(dataset, key)
        # In digital silence all bands are equal, and only rounding errors are normalized.
        torch.testing.assert_close(audio, dataset[key].audio, rtol=0, atol=2e-3)
        torch.testing.assert_close(video, dataset[key].video, rtol=1e-5, atol=1e-5)


def test_benchmark_of_reading_data(manifests, noise, tmp_path, capsys, monkeypatch):
    pytest.importorskip("cv2")
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    out = tmp_path / "benchmark.json"
    command = ["benchmark-data", "--data", str(manifests), "--rounds", "1", "--out", str(out)]
    assert main([*command, "--noise-manifests", f"{noise}/babble,{noise}/music"]) == 0
    printed, report = capsys.readouterr().out, json.loads(out.read_text())
    assert report["utterances"] == len(read_manifest(manifests / "train.tsv"))
    assert len(report["noise"]) == 2 and report["noise_probability"] == 0.25
    speed = report["utterances_per_second"]
    assert report["speed_up"] == pytest.approx(speed["ours"] / speed["plain"])
    assert f"{report['speed_up']:.2f} times as fast" in printed
    assert main([*command, "--split", "dev"]) == 1
    assert "dev.tsv not found" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert main(command) == 1
    assert "pip install opencv-python-headless" in capsys.readouterr().err


def test_the_clean_audio_beside_the_noisy(manifests, noise):
    config = DataConfig(noise=NoiseConfig((noise / "babble",), 1.0), max_frames=20, seed=5)
    noisy = AVDataset(manifests, "train", config)
    clean = AVDataset(manifests, "train", replace(config, noise=None))
    both = AVDataset(manifests, "train", replace(config, keep_clean=True))
    for index in ((0, 0), (0, 1), (3, 0)):
        assert torch.equal(both[index].audio, noisy[index].audio)
        assert torch.equal(both[index].clean_audio, clean[index].audio)
        assert torch.equal(both[index].video, noisy[index].video)
        assert not torch.equal(both[index].audio, both[index].clean_audio)
        assert noisy[index].clean_audio is None
    batch = collate([both[0, 0], both[0, 1]])
    assert torch.equal(batch.clean_audio[0], both[0, 0].clean_audio)


def damaged(manifests: Path, folder: Path, broken: list[int], copies: int = 1) -> AVDataset:
    """Return `copies` of the training split, with unreadable videos for the utterances `broken`."""
    rows = read_manifest(manifests / "train.tsv")
    rows = [replace(row, id=f"{row.id}-{n}") for n in range(copies) for row in rows]
    for index in broken:
        video = folder / f"broken{index}.mp4"
        video.write_bytes(rows[index].video.read_bytes()[:300])
        rows[index] = replace(rows[index], video=video)
    write_manifest(folder / "train.tsv", rows)
    return AVDataset(folder, "train", DataConfig(corrupt="replace", max_frames=8, cache=folder))


def test_a_corrupt_utterance_is_replaced_by_another_of_its_length(manifests, tmp_path, caplog):
    dataset = damaged(manifests, tmp_path, [5], copies=10)
    order = np.argsort([u.frames for u in dataset.utterances], kind="stable")
    neighbor = order[list(order).index(5) - 1]  # no longer than the corrupt one
    found = dataset[2, 5]
    assert same(found, dataset[2, int(neighbor)]) and found.frames == 8
    assert len(found.corrupt) == 1 and "broken5.mp4" in found.corrupt[0]
    assert dataset[2, 6].corrupt == ()
    counter = CorruptUtterances(len(dataset))
    sampler = BucketBatchSampler(dataset.frames(), 4, seed=1)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=1)
    sizes = []
    for _ in range(2):
        for batch in loader:
            counter.add(batch.corrupt)
            sizes.append(len(batch.padding_mask))
    assert sum(sizes) == 2 * len(dataset), "every batch is as large as it should be"
    reports = [r.message for r in caplog.records if "broken5.mp4" in r.message]
    assert len(reports) == 1, "reported once, whatever the number of epochs"


def test_audio_that_becomes_unreadable_is_found_despite_the_cache(manifests, tmp_path):
    wav = tmp_path / "clip.wav"
    rows = read_manifest(manifests / "train.tsv")
    rows = [replace(row, id=f"{row.id}-{n}") for n in range(10) for row in rows]
    shutil.copy(rows[5].audio, wav)
    rows[5] = replace(rows[5], audio=wav)
    write_manifest(tmp_path / "train.tsv", rows)
    for cache in (tmp_path / "cache", None):
        config = DataConfig(corrupt="replace", cache=cache)
        dataset = AVDataset(tmp_path, "train", config)
        whole = wav.read_bytes()
        assert dataset[0, 5].corrupt == ()
        wav.write_bytes(whole[:20])
        (reason,) = dataset[0, 5].corrupt
        assert reason.startswith(f"{wav}: not a readable audio file")
        wav.unlink()
        (reason,) = dataset[0, 5].corrupt
        assert reason.startswith(f"{wav} not found")
        wav.write_bytes(whole)


def test_more_than_one_percent_corrupt_stops_the_run(manifests, tmp_path):
    dataset = damaged(manifests, tmp_path, [0, 1], copies=10)
    assert 100 <= len(dataset) < 200, "one corrupt utterance is no more than 1%, two are"
    counter = CorruptUtterances(len(dataset))
    counter.add(dataset[0, 0].corrupt)
    with pytest.raises(InputError, match=r"more than 1% of \d+ utterances cannot be read.*broken"):
        counter.add([*dataset[0, 0].corrupt, *dataset[0, 1].corrupt])


def test_a_manifest_whose_files_are_gone(manifests, tmp_path):
    rows = read_manifest(manifests / "train.tsv")
    gone = [replace(row, video=tmp_path / "gone" / row.video.name) for row in rows]
    write_manifest(tmp_path / "train.tsv", gone)
    dataset = AVDataset(tmp_path, "train", DataConfig(corrupt="replace"))
    with pytest.raises(InputError, match=r"cannot be read.*gone/.*mp4 not found; run"):
        dataset[0]


def test_missing_noise_does_not_count_as_a_corrupt_utterance(manifests, noise, tmp_path):
    folder = tmp_path / "babble"
    folder.mkdir()
    (folder / "train.tsv").write_text("/nowhere/n.wav\n")
    config = DataConfig(noise=NoiseConfig((folder,), 1.0), corrupt="replace")
    with pytest.raises(InputError, match=r"/nowhere/n\.wav not found"):
        AVDataset(manifests, "train", config)[0]


def test_frames_smaller_than_the_crop_are_rejected(tmp_path):
    write_video(tmp_path / "v.mp4", film()[:, :64, :64], 25)
    row = Utterance("u", tmp_path / "v.mp4", tmp_path / "v.wav", 12, 7680)
    write_manifest(tmp_path / "test.tsv", [row])
    dataset = AVDataset(tmp_path, "test", DataConfig(modalities="video"))
    with pytest.raises(InputError, match=r"v\.mp4: frames are 64x64, expected at least 88x88"):
        dataset[0]


def test_an_unfinished_file_is_not_used(tmp_path):
    with whole_file(tmp_path / "clip.mp4") as temporary:
        temporary.write_bytes(b"half")
        assert list(tmp_path.glob("*.mp4")) == []
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_unreadable_utterances_can_be_blank(manifests, tmp_path):
    """They have the length in the manifest and a reason. The others do not change."""
    utterances = read_manifest(manifests / "test.tsv")
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"not a video")
    spoilt = [replace(utterances[0], video=torn), *utterances[1:]]
    write_manifest(tmp_path / "test.tsv", spoilt)
    dataset = AVDataset(tmp_path, "test", DataConfig(corrupt="blank"))
    blank, other = dataset[0], dataset[1]
    frames = utterances[0].frames
    assert blank.frames == frames and blank.utterance == 0
    assert blank.audio.shape == (104, frames) and blank.video.shape == (1, frames, 88, 88)
    assert not blank.audio.any() and not blank.video.any()
    assert len(blank.corrupt) == 1 and str(torn) in blank.corrupt[0]
    untouched = AVDataset(manifests, "test", DataConfig())[1]
    assert torch.equal(other.audio, untouched.audio) and not other.corrupt
    assert AVDataset(tmp_path, "test", DataConfig("audio", corrupt="blank"))[0].video is None
    with pytest.raises(InputError, match=r"torn\.mp4"):
        AVDataset(tmp_path, "test", DataConfig())[0]
    with pytest.raises(InputError, match="corrupt 'skip'"):
        DataConfig(corrupt="skip")


# ---- adaptive time masks, visual noise and waveforms


def test_time_masks_follow_auto_avsrs_statistics():
    """Masks have 0 to 9 frames and begin in [0, T - margin); none if the margin is 0."""
    frames = np.ones((50, 1, 1), np.uint8)
    lengths, starts = [], []
    for seed in range(4000):
        masked = mask_time(frames[:25], np.random.default_rng(seed), rate=25)[:, 0, 0]
        assert frames.all()
        lengths.append(int((masked == 0).sum()))
        if lengths[-1]:
            starts.append(int(np.argmin(masked)))
    # A margin of 0 makes no mask (1/10), nor does a width of 0 (1/10): 1 - 0.81 are empty.
    assert np.mean(np.array(lengths) == 0) == pytest.approx(0.19, abs=0.025)
    assert max(lengths) == 9 and max(starts) == 23
    assert np.mean(starts) == pytest.approx((25 - 5 - 1) / 2, abs=0.5)
    # E[masked frames] of one mask: width 4.5 on average, cut off at the end of the clip.
    widths, margins = np.meshgrid(np.arange(10), np.arange(1, 10))
    expected = [
        np.mean([min(width, 25 - start) for start in range(25 - margin)])
        for width, margin in zip(widths.flat, margins.flat, strict=True)
    ]
    assert np.mean(lengths) == pytest.approx(0.9 * np.mean(expected), abs=0.12)


@pytest.mark.parametrize(("length", "masks"), [(1, 0), (24, 1), (25, 1), (26, 2), (250, 10)])
def test_one_mask_per_second_or_fraction(length, masks):
    drawn = []

    class Counting:
        def integers(self, high, size=None):
            drawn.append(size)
            return np.array([1, 9]) if size else 0

    masked = mask_time(np.ones(length, np.uint8), Counting(), rate=25)
    assert drawn.count(2) == -(-length // 25) and drawn.count(None) == masks
    assert (masked == 0).sum() == (min(9, length) if masks else 0)


@pytest.mark.slow
def test_visual_noise_depends_on_pass_and_utterance(manifests):
    noise = VisualNoiseConfig()
    dataset = AVDataset(manifests, "train", DataConfig("video", visual_noise=noise))
    keys = [(epoch, index) for epoch in (0, 1) for index in range(len(dataset))]
    first = [dataset[key] for key in keys]
    again = [dataset[key] for key in reversed(keys)][::-1]
    for one, two in zip(first, again, strict=True):
        assert one.visual_noise == two.visual_noise and torch.equal(one.video, two.video)
    draws = [sample.visual_noise for sample in first]
    assert None in draws and len({*draws}) > 3
    half = len(dataset)
    assert draws[:half] != draws[half:]
    clean = AVDataset(manifests, "train", DataConfig("video"))
    for key, sample in zip(keys, first, strict=True):
        assert torch.equal(sample.video, clean[key].video) == (sample.visual_noise is None)


def test_visual_noise_is_added_before_the_crop(manifests):
    config = DataConfig("video", visual_noise=VisualNoiseConfig(("contrast",), 10, clean=False))
    sample = AVDataset(manifests, "test", config)[0]
    frames = load_video(read_manifest(manifests / "test.tsv")[0].video)
    darker = np.rint(center_crop(frames) * 0.35).astype(np.uint8)
    np.testing.assert_allclose(sample.video[0].numpy(), normalize_pixels(darker), atol=1e-6)
    assert sample.visual_noise.record() == {"kind": "contrast", "level": 10}


def test_time_masks_need_augmentation(manifests):
    black = float(normalize_pixels(np.zeros((1, 1, 1), np.uint8)).item())
    for augment in (True, False):
        config = DataConfig("video", augment, time_mask=True)
        dataset = AVDataset(manifests, "train", config)
        videos = [dataset[index].video[0] for index in range(len(dataset))]
        masked = [bool((video == black).flatten(1).all(1).any()) for video in videos]
        assert any(masked) == augment


def test_waveforms_are_as_long_as_the_video(manifests, noise):
    config = DataConfig("both", waveform=True)
    dataset = AVDataset(manifests, "test", config)
    samples = [dataset[index] for index in range(3)]
    for sample, utterance in zip(samples, dataset.utterances, strict=False):
        assert sample.audio.shape == (1, 640 * sample.frames)
        values = load_audio(utterance.audio).astype(np.float64) / 32768
        expected = (values - values.mean()) / np.sqrt(values.var() + 1e-8)
        length = min(len(values), 640 * sample.frames)
        np.testing.assert_allclose(sample.audio[0, :length], expected[:length], atol=2e-4)
        assert not sample.audio[0, length:].any()
    batch = collate(samples)
    longest = max(sample.frames for sample in samples)
    assert batch.audio.shape == (3, 1, 640 * longest) and batch.video.shape[2] == longest
    for row, sample in zip(batch.audio, samples, strict=True):
        assert torch.equal(row[:, : 640 * sample.frames], sample.audio)
        assert not row[:, 640 * sample.frames :].any()
    some = NoiseConfig((noise / "babble",), 1.0)
    noisy = AVDataset(manifests, "test", replace(config, noise=some))[0]
    assert not torch.equal(noisy.audio, samples[0].audio)
    with pytest.raises(InputError, match="keep_clean is for features"):
        replace(config, keep_clean=True)


def test_a_waveform_is_masked_before_noise_is_added(manifests, noise):
    """As in Auto-AVSR, masked speech gets noise, too, at the level of the remaining speech."""
    some = NoiseConfig((noise / "music",), 1.0, (3.0, 3.0))
    config = DataConfig("audio", augment=True, time_mask=True, waveform=True)
    clean, noisy = (AVDataset(manifests, "test", c) for c in (config, replace(config, noise=some)))
    masked = []
    for index, utterance in enumerate(clean.utterances):
        values = clean[index].audio[0].numpy()
        speech = load_audio(utterance.audio)[: len(values)]
        found, counts = np.unique(values, return_counts=True)
        silent = values[: len(speech)] == found[counts.argmax()]  # what a sample of 0 becomes
        left = np.where(silent, 0, speech).astype(np.int16)
        masked.append(int((silent & (speech != 0)).sum()))
        np.testing.assert_allclose(values[: len(left)], normalized(left), atol=2e-4)

        draw = noisy[index].noise
        (snippet,) = (np.resize(load_audio(file), 2**20) for file in draw.files)
        added = snippet[draw.starts[0] :][: len(left)].astype(np.float64)
        gain = np.sqrt((left.astype(float) ** 2).mean() / (added**2).mean()) / 10 ** (3 / 20)
        expected = normalized(left + gain * added)
        np.testing.assert_allclose(noisy[index].audio[0, : len(left)], expected, atol=0.02)
    assert max(masked) > 600  # a mask is up to 6399 samples


def normalized(samples):
    values = samples.astype(np.float64) / 32768
    return (values - values.mean()) / np.sqrt(values.var() + 1e-8)
