"""Decode any video and sound: frame rates, clocks, containers, damaged and broken files."""

import random
import re
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile
from portrait import tone, write_clip

from avhubert_ext.data.audio import load_audio, write_wav
from avhubert_ext.data.media import (
    Damage,
    MediaLimits,
    PictureError,
    beside,
    check_duration,
    probe,
    read_sound,
    video_frames,
)
from avhubert_ext.errors import InputError

BITS = 9
SOME = 40  # frames


def numbered(count: int) -> list[np.ndarray]:
    """Make frames of 72x48 pixels that show their number in binary, one bar per bit."""
    bits = (np.arange(count)[:, None] >> np.arange(BITS)) & 1
    bars = np.repeat(40 + 160 * bits, 8, axis=1).astype(np.uint8)
    return [np.repeat(np.tile(row, (48, 1))[:, :, None], 3, axis=2) for row in bars]


def numbers(path: Path, *args, **options) -> list[int]:
    """Read the numbers shown by the frames of a file."""
    shown = []
    for frame in video_frames(path, *args, **options):
        frame = cv2.resize(frame, (8 * BITS, 48))
        bars = frame[:, :, 0].reshape(48, BITS, 8).mean(axis=(0, 2))
        shown.append(int(((bars > 120) << np.arange(BITS)).sum()))
    return shown


def stamps(path: Path) -> np.ndarray:
    """Read the times of the video frames in a file, in seconds, in order."""
    with av.open(str(path)) as container:
        return np.array(
            sorted(float(p.pts * p.time_base) for p in container.demux(video=0) if p.size)
        )


def nearest(times: np.ndarray, count: int) -> list[int]:
    """Return the nearest frame for every 1/25 s, the earlier of two."""
    slots = np.arange(count) / 25
    return [int(np.argmin(np.abs(times - slot).round(6))) for slot in slots]


def loud(samples: np.ndarray) -> np.ndarray:
    """Return whether there is sound for every 1/25 s."""
    return (
        np.abs(samples[: len(samples) // 640 * 640].astype(float).reshape(-1, 640)).mean(1) > 1000
    )


def repacked(source: Path, target: Path, change) -> Path:
    """Copy a media file; change(n, bytes) returns the bytes of the n-th video packet, or None."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        number = 0
        for packet in old.demux():
            if packet.dts is None:
                continue
            content = bytes(packet)
            if packet.stream.type == "video":
                content = change(number, content)
                number += 1
            if content is None:
                continue
            copy = av.Packet(content)
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.stream = packet.time_base, streams[packet.stream_index]
            copy.is_keyframe = packet.is_keyframe
            new.mux(copy)
    return target


def sound_block(samples: np.ndarray, rate: int = 16000, layout: str = "mono", start: float = 0.0):
    """Wrap int16 [N * channels] as a frame to encode."""
    block = av.AudioFrame.from_ndarray(samples.astype(np.int16)[None], format="s16", layout=layout)
    block.sample_rate, block.pts, block.time_base = rate, round(rate * start), Fraction(1, rate)
    return block


def motion_jpeg(path: Path, count: int, **options) -> Path:
    return write_clip(path, numbered(count), codecs=("mjpeg", "aac"), **options)


# ---- frame rates


RATES = [24, 25, Fraction(30000, 1001), 30, 48, 50, Fraction(60000, 1001), 60, 100]
RATES += [Fraction(120000, 1001), 15, 12, Fraction(24000, 1001)]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("rate", RATES)
def test_each_slot_shows_the_frame_nearest_in_time(tmp_path, rate, ending):
    """Two seconds at any rate become 50 evenly spaced frames, neither early nor late."""
    count = round(2 * rate)
    path = write_clip(tmp_path / f"a.{ending}", numbered(count), rate=rate)
    shown, times = numbers(path), stamps(path)
    assert times == pytest.approx(np.arange(count) / float(rate), abs=0.001)
    assert len(shown) == 50 and shown == nearest(times, 50)
    off = times[shown] - np.arange(50) / 25
    steps = np.diff(times[shown])
    assert np.abs(off)[:-1].max() <= 0.5 / float(rate) + 0.001 and abs(off.mean()) < 0.002
    assert np.abs(steps - 0.04).max() < 1 / float(rate)
    if rate in (25, 50, 100):
        assert steps == pytest.approx(np.full(49, 0.04))


@pytest.mark.parametrize("rate", [12, 25, 30, 60, 100, 200])
def test_a_second_is_25_frames(tmp_path, rate):
    shown = numbers(write_clip(tmp_path / "a.mp4", numbered(rate), rate=rate))
    assert len(shown) == 25


def test_25_fps_passes_unchanged(tmp_path):
    for ending in ("mp4", "mkv", "ts", "mov"):
        assert numbers(write_clip(tmp_path / f"a.{ending}", numbered(SOME))) == list(range(SOME))
    assert numbers(motion_jpeg(tmp_path / "a.avi", SOME)) == list(range(SOME))


def test_variable_frame_rate(tmp_path):
    stamps = np.cumsum(np.random.default_rng(1).integers(5, 90, 60))
    stamps -= stamps[0]
    path = write_clip(tmp_path / "a.mkv", numbered(60), stamps=stamps.tolist())
    shown = numbers(path)
    assert len(shown) == pytest.approx(25 * stamps[-1] / 1000 + 1, abs=1)
    assert shown == nearest(stamps / 1000, len(shown))


def test_a_freeze_ends_a_quarter_second_before_the_next_frame(tmp_path):
    """A face that moves again after a freeze must not be ahead of its sound."""
    path = write_clip(tmp_path / "a.mkv", numbered(4), stamps=[0, 40, 2040, 2080])
    shown = numbers(path)
    assert shown[2040 // 40 :] == [2, 3] and len(shown) == 53
    assert shown[1] == 1 and shown.index(2) == np.ceil((2.04 - 0.25) * 25)


def test_a_first_time_stamp_that_is_not_zero(tmp_path):
    """Time is counted from the first frame, whose time is reported to place the sound."""
    stamps = [round(730 + 1000 * t / 30) for t in range(60)]
    path = write_clip(tmp_path / "a.mkv", numbered(60), stamps=stamps, audio=tone(3.0))
    damage = Damage()
    assert numbers(path, damage=damage) == nearest(np.arange(60) / 30, 50)
    assert damage.start == pytest.approx(0.73, abs=0.002) == probe(path).video.start


def test_the_clock_begins_with_the_first_track(tmp_path):
    """Program and transport streams begin at half a second, or hours later; players show 0."""
    path = write_clip(
        tmp_path / "a.mpg", numbered(25), audio=tone(1.0), codecs=("mpeg2video", "mp2")
    )
    with av.open(str(path)) as container:
        assert container.start_time > 400_000
    info = probe(path)
    assert min(info.video.start, info.audio.start) == pytest.approx(0, abs=1e-5)
    assert max(info.video.start, info.audio.start) < 0.1
    assert read_sound(path).start == pytest.approx(info.audio.start)


# ---- what is in a file


def test_probe(tmp_path):
    path = write_clip(tmp_path / "a.mp4", numbered(50), audio=tone(3.0), rotation=-90)
    info = probe(path)
    assert "mp4" in info.container and info.seconds == pytest.approx(3.0, abs=0.1)
    video, audio = info.video, info.audio
    assert (video.codec, video.width, video.height) == ("h264", 48, 72)
    assert (video.rotation, video.rate, video.seconds) == (90, 25, 2)
    assert (audio.codec, audio.channels, audio.rate) == ("aac", 1, 16000)
    assert audio.seconds == pytest.approx(3.0, abs=0.1)
    assert next(video_frames(path)).shape == (72, 48, 3)
    write_wav(tmp_path / "a.wav", tone(0.5))
    assert probe(tmp_path / "a.wav").video is None
    assert probe(write_clip(tmp_path / "b.mp4", numbered(5))).audio is None


def test_cover_art_is_not_a_video(tmp_path):
    path = tmp_path / "song.mp4"
    cover = cv2.imencode(".jpg", np.zeros((100, 100, 3), np.uint8))[1].tobytes()
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 100, 100, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        packets = [*sound.encode(sound_block(tone(1.0))), *sound.encode()]
        packet = av.Packet(cover)
        packet.stream, packet.pts, packet.dts = picture, 0, 0
        packet.time_base, packet.is_keyframe = Fraction(1, 1), True
        container.mux([packet, *packets])
    info = probe(path)
    assert info.video is None and info.audio is not None
    with pytest.raises(PictureError, match=r"song\.mp4: no video track"):
        next(video_frames(path))


def test_duration_is_checked_by_the_header(tmp_path):
    """The check works although nothing in the file can be decoded."""
    path = write_clip(tmp_path / "a.mkv", numbered(50), audio=tone(2.0))
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\x1f\x43\xb6\x75") + 2000])  # the first cluster begins
    with pytest.raises(InputError, match=r"a\.mkv: longer than the limit of 1 s"):
        check_duration(path, MediaLimits(seconds=1))
    with pytest.raises(InputError, match="longer than the limit of 1 s"):
        check_duration(path, MediaLimits(seconds=1), probe(path))
    check_duration(path, MediaLimits(seconds=3))


class Pipe:
    """A file without seeking, like the target of a live recording."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.write, self.close = self._file.write, self._file.close


def test_a_live_recording_has_no_length_in_its_header(tmp_path):
    """FFmpeg guesses one from the bit rate of the sound, which is not used."""
    path = tmp_path / "a.mkv"
    pipe = Pipe(path)
    noise = np.random.default_rng(1).integers(0, 255, (100, 96, 128, 3)).astype(np.uint8)
    with av.open(pipe, "w", format="matroska") as container:
        picture = container.add_stream("mjpeg", rate=25)
        picture.width, picture.height, picture.pix_fmt = 128, 96, "yuvj420p"
        sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for image in noise:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(picture.encode())
        container.mux(sound.encode(sound_block(tone(4.0))))
    pipe.close()
    with av.open(str(path)) as container:
        assert container.duration > 8_000_000
    assert probe(path).seconds is None
    check_duration(path, MediaLimits(seconds=5))
    assert sum(1 for _ in video_frames(path)) == 100 and len(read_sound(path).samples) == 64000


# ---- pixels


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_turned_and_mirrored_video_comes_out_upright(tmp_path, degrees, flip):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:16, :32] = 255  # upper left
    image[16:32, :8] = 120
    stored = np.rot90(image[:, ::-1] if flip else image, -degrees // 90)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = stored.shape[:2]
        stream.pix_fmt = "yuv420p"
        if hasattr(stream, "set_display_matrix"):
            stream.set_display_rotation(degrees, hflip=flip)
        elif flip:
            pytest.skip("this PyAV writes no mirrored video")
        else:
            stream.set_display_rotation(degrees)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    (shown,) = video_frames(path)
    assert shown.shape == (48, 64, 3)
    assert np.abs(shown.astype(int) - image).mean() < 8
    video = probe(path).video
    assert (video.width, video.height) == (64, 48)


def test_pixels_that_are_not_square(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        frame = av.VideoFrame.from_ndarray(np.zeros((96, 64, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    assert next(video_frames(path)).shape == (96, 128, 3)
    assert (probe(path).video.width, probe(path).video.height) == (128, 96)


# ---- sound beside the picture


def test_audio_begins_with_the_first_frame(tmp_path):
    """Whichever track begins later: there is silence, or audio that is counted as unused."""
    late = write_clip(tmp_path / "late.mkv", numbered(50), audio=tone(1.0), audio_start=0.5)
    track = beside(read_sound(late), probe(late).video.start, 50)
    heard = loud(track.samples)
    assert not heard[:11].any() and heard[14:36].all() and not heard[40:].any()
    assert (track.before, track.after) == (0, 0)
    stamps = [500 + 40 * t for t in range(20)]
    early = write_clip(tmp_path / "early.mkv", numbered(20), audio=tone(2.0), stamps=stamps)
    track = beside(read_sound(early), probe(early).video.start, 20)
    assert loud(track.samples).all()
    assert track.before == pytest.approx(0.5, abs=0.07)  # AAC's blocks
    assert track.after == pytest.approx(0.7, abs=0.07)


def test_sound_that_does_not_overlap_the_video(tmp_path):
    write_wav(tmp_path / "a.wav", tone(1.0))
    sound = read_sound(tmp_path / "a.wav")
    for start, before, after in ((-5.0, 0.0, 1.0), (5.0, 1.0, 0.0)):
        track = beside(sound, start, 25)
        assert not track.samples.any() and len(track.samples) == 16000
        assert (track.before, track.after) == (before, after)


def test_every_sample_is_in_the_soundtrack_or_counted(tmp_path):
    rng = np.random.default_rng(1)
    write_wav(tmp_path / "a.wav", tone(2.0))
    sound = read_sound(tmp_path / "a.wav")
    for _ in range(50):
        start, frames = rng.uniform(-2, 3), int(rng.integers(1, 80))
        track = beside(sound, start, frames)
        inside = len(sound.samples) / 16000 - track.before - track.after
        assert np.count_nonzero(track.samples) == pytest.approx(inside * 16000, abs=200)


def test_a_gap_in_the_sound_is_silence(tmp_path):
    """The sound after it keeps its place. Without time stamps, it would be 0.5 s early."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for start in (0.0, 1.5):
            container.mux(stream.encode(sound_block(tone(1.0), start=start)))
    heard = loud(read_sound(path).samples)
    assert len(heard) == 62 and heard[:25].all() and not heard[25:37].any() and heard[38:].all()


# ---- sound of any file


def write_sound(path: Path, codec: str, rate: int = 16000, layout: str = "mono") -> Path:
    """Make a tone of 2 s per channel."""
    channels = len(av.AudioLayout(layout).channels)
    tones = np.repeat((8000 * np.sin(440 * 2 * np.pi * np.arange(2 * rate) / rate)), channels)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000
        container.mux([*stream.encode(sound_block(tones, rate, layout)), *stream.encode()])
    return path


SOUNDS = [
    ("a.caf", "pcm_s16be", 16000),
    ("a.au", "pcm_s16be", 16000),
    ("a.ac3", "ac3", 48000),
    ("a.wv", "wavpack", 16000),
    ("a.tta", "tta", 16000),
    ("a.wma", "wmav2", 44100),
    ("a.opus", "libopus", 48000),
    ("a.mp3", "mp3", 44100),
    ("a.flac", "flac", 44100),
    ("a.aiff", "pcm_s16be", 44100),
    ("a.mka", "aac", 16000),
    ("a.aac", "aac", 16000),
    ("a.w64", "pcm_s16le", 16000),
    ("a.voc", "pcm_s16le", 16000),
]


@pytest.mark.parametrize(("name", "codec", "rate"), SOUNDS)
def test_sound_of_any_container(tmp_path, name, codec, rate):
    sound = read_sound(write_sound(tmp_path / name, codec, rate))
    assert len(sound.samples) == pytest.approx(32000, abs=2500) and sound.samples.dtype == np.int16
    assert sound.notes == () and 0 <= sound.start < 0.1
    middle = sound.samples[4000:28000].astype(float)
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.argmax(spectrum) * 16000 / len(middle) == pytest.approx(440, abs=1)
    assert middle.std() == pytest.approx(8000 / 2**0.5, rel=0.1)


def test_sphere_file(tmp_path):
    """It has the header of NIST's speech corpora."""
    fields = ["sample_count -i 16000", "sample_n_bytes -i 2", "channel_count -i 1"]
    fields += ["sample_byte_format -s2 01", "sample_rate -i 16000", "sample_coding -s3 pcm"]
    header = "\n".join(["NIST_1A", "   1024", *fields, "end_head", ""]).encode().ljust(1024)
    (tmp_path / "a.sph").write_bytes(header + tone(1.0).tobytes())
    assert np.array_equal(read_sound(tmp_path / "a.sph").samples, tone(1.0))


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("a.wmv", ("wmv2", "wmav2")),
        ("a.asf", ("wmv1", "wmav2")),
        ("a.mxf", ("mpeg2video", "pcm_s16le")),
        ("a.webm", ("libvpx", "libopus")),
        ("a.flv", ("flv", "mp3")),
        ("a.3gp", ("mpeg4", "aac")),
        ("a.mov", ("mjpeg", "pcm_s16le")),
        ("a.nut", ("ffv1", "flac")),
    ],
)
def test_picture_and_sound_of_any_container(tmp_path, name, codecs):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        picture = container.add_stream(codecs[0], rate=25)
        picture.width, picture.height, picture.pix_fmt = 72, 48, "yuv420p"
        if codecs[0] == "mjpeg":
            picture.pix_fmt = "yuvj420p"
        picture.bit_rate = 4_000_000
        rate = 44100 if codecs[1] in ("wmav2", "mp3") else 48000
        sound = container.add_stream(codecs[1], rate=rate, layout="mono")
        sound.bit_rate = 64_000
        for image in numbered(SOME):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(picture.encode())
        samples = 8000 * np.sin(440 * 2 * np.pi * np.arange(round(1.6 * rate)) / rate)
        container.mux([*sound.encode(sound_block(samples, rate)), *sound.encode()])
    damage = Damage()
    assert numbers(path, damage=damage) == list(range(SOME))
    assert damage.damaged == 0 and damage.frames == SOME
    sound = read_sound(path)
    assert len(sound.samples) == pytest.approx(25600, abs=2500) and sound.notes == ()


def test_audio_is_that_of_the_library(tmp_path):
    path = write_clip(tmp_path / "a.mp4", numbered(25), audio=tone(1.0))
    heard = read_sound(path).samples.astype(float)
    assert len(heard) == pytest.approx(16000, abs=1100)  # AAC's blocks
    assert np.corrcoef(heard[2000:14000], tone(1.0)[2000:14000])[0, 1] > 0.99
    write_wav(tmp_path / "a.wav", tone(0.5))
    assert np.array_equal(read_sound(tmp_path / "a.wav").samples, load_audio(tmp_path / "a.wav"))
    silent = write_clip(tmp_path / "silent.mp4", numbered(5))
    with pytest.raises(InputError, match=r"silent\.mp4: no audio track"):
        read_sound(silent)
    with pytest.raises(PictureError, match=r"a\.wav: no video track"):
        next(video_frames(tmp_path / "a.wav"))


def stereo(path: Path, left: np.ndarray, right: np.ndarray) -> Path:
    soundfile.write(path, np.stack([left, right], axis=1).astype(np.int16), 16000)
    return path


def test_channels_that_cancel_out(tmp_path):
    """A microphone with one channel inverted: its mix is silent, each channel is not."""
    speech = np.random.default_rng(1).normal(0, 2000, 16000)
    sound = read_sound(stereo(tmp_path / "a.wav", 0.8 * speech, -speech))
    assert sound.samples.astype(float).std() == pytest.approx(2000, rel=0.05)
    assert np.corrcoef(sound.samples, -speech)[0, 1] > 0.99
    (note,) = sound.notes
    assert "channels cancel" in note and "louder" in note


def test_channels_that_do_not_cancel_out_are_mixed(tmp_path):
    rng = np.random.default_rng(1)
    one, other = rng.normal(0, 2000, (2, 16000)).astype(np.int16)
    for left, right in ((one, one), (one, other), (one, 0 * one), (0 * one, 0 * one)):
        sound = read_sound(stereo(tmp_path / "a.wav", left, right))
        mix = (left.astype(float) + right) / 2
        assert np.abs(sound.samples - mix).max() <= 1 and sound.notes == ()


@pytest.mark.parametrize("channels", [3, 4, 6, 8])
def test_many_channels(tmp_path, channels):
    """The speech is in the center, or wherever the layout has its third channel."""
    quiet = np.zeros((16000, channels))
    quiet[:, : 2 if channels == 3 else 3] = tone(1.0)[:, None]
    soundfile.write(tmp_path / "a.wav", quiet.astype(np.int16), 16000)
    heard = read_sound(tmp_path / "a.wav").samples
    assert len(heard) == 16000 and abs(np.corrcoef(heard, tone(1.0))[0, 1]) > 0.99
    assert heard.astype(float).std() > 1500


def test_sound_that_changes_its_format(tmp_path):
    """A broadcast changes from mono to stereo within one transport stream."""
    parts = [
        write_sound(tmp_path / f"{layout}.ts", "mp2", 48000, layout).read_bytes()
        for layout in ("mono", "stereo")
    ]
    (tmp_path / "a.ts").write_bytes(parts[0] + parts[1])
    sound = read_sound(tmp_path / "a.ts")
    assert len(sound.samples) == pytest.approx(64000, abs=3000) and loud(sound.samples)[2:-2].all()
    assert sound.notes == (
        "the time stamps of the sound jump; the audio blocks are joined without a gap",
    )


# ---- damage


def test_one_damaged_frame_is_replaced_by_the_one_before(tmp_path):
    whole = motion_jpeg(tmp_path / "a.mkv", SOME)
    path = repacked(whole, tmp_path / "b.mkv", lambda n, c: b"damaged" * 9 if n == 7 else c)
    damage = Damage()
    expected = list(range(SOME))
    expected[7] = 6
    assert numbers(path, damage=damage) == expected
    assert damage == Damage(frames=SOME, damaged=1, affected=0, start=0.0)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (38, 39)])
def test_damage_at_either_end(tmp_path, first, last):
    """The length and the position of the sound do not change."""
    whole = motion_jpeg(tmp_path / "a.mkv", SOME, audio=tone(1.6))
    path = repacked(whole, tmp_path / "b.mkv", lambda n, c: b"?" if first <= n <= last else c)
    damage = Damage()
    shown = numbers(path, damage=damage)
    assert shown == (list(range(2, SOME)) if first == 0 else [*range(38), 37, 37])
    assert damage.damaged == 2 and damage.start == pytest.approx(0.08 if first == 0 else 0.0)


def test_too_much_damage_is_rejected(tmp_path):
    whole = motion_jpeg(tmp_path / "a.mkv", SOME)
    path = repacked(whole, tmp_path / "b.mkv", lambda n, c: b"?" if n % 4 == 1 else c)
    with pytest.raises(
        PictureError, match=r"b\.mkv: 10 of 40 frames are damaged, 25%, over the limit of 10%"
    ):
        list(video_frames(path))
    path = repacked(whole, tmp_path / "c.mkv", lambda n, c: b"?" if n % 10 == 1 else c)
    damage = Damage()
    list(video_frames(path, damage=damage))
    assert damage.damaged == 4


@pytest.mark.parametrize("codec", ["libx264", "mpeg1video", "mpeg2video", "mpeg4"])
def test_damage_inside_a_frame_is_found(tmp_path, codec):
    """The decoder conceals it, but the frame is replaced and counted, as are dependent ones."""
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 255, (96, 128, 3)).astype(np.uint8) for _ in range(SOME)]
    whole = write_clip(tmp_path / "a.mkv", frames, codecs=(codec, "aac"))

    def change(number: int, content: bytes) -> bytes:
        if number != 20:
            return content
        half = len(content) // 2
        return content[:half] + bytes(len(content) - half)

    damage = Damage()
    shown = list(video_frames(repacked(whole, tmp_path / "b.mkv", change), damage=damage))
    intact = list(video_frames(whole))
    assert len(shown) == len(intact) == SOME
    assert 1 <= damage.damaged <= 2 and damage.frames == SOME
    replaced = [t for t in range(SOME) if shown[t] is shown[t - 1]]
    assert len(replaced) == damage.damaged and 18 <= replaced[0] <= 22
    assert np.array_equal(shown[:18], intact[:18])


def test_frames_before_the_first_key_frame_are_damaged(tmp_path):
    """They can be decoded, but are predicted from gray and not shown."""
    frames = numbered(SOME)
    whole = write_clip(tmp_path / "a.mkv", frames, codecs=("mpeg4", "aac"))
    with av.open(str(whole)) as container:
        keys = [p.is_keyframe for p in container.demux(video=0) if p.size]
    second = keys.index(True, 1)
    path = repacked(whole, tmp_path / "b.mkv", lambda n, c: None if n < second - 1 else c)
    damage = Damage()
    assert numbers(path, damage=damage) == list(range(second, SOME))
    assert damage.damaged == 1


def test_a_lost_key_frame_takes_those_it_predicts_with_it(tmp_path):
    whole = write_clip(tmp_path / "a.mkv", numbered(SOME), codecs=("msmpeg4", "aac"))
    path = repacked(whole, tmp_path / "b.mkv", lambda n, c: b"?" if n == 12 else c)
    with av.open(str(whole)) as container:
        keys = [p.is_keyframe for p in container.demux(video=0) if p.size]
    assert keys[12] and not any(keys[13:24])
    with pytest.raises(PictureError, match="12 of 40 frames are damaged, 30%"):
        list(video_frames(path))


def test_empty_packets_repeat_the_previous_frame(tmp_path):
    """Theora uses them for still images. A decoder would take them for the end."""
    whole = motion_jpeg(tmp_path / "a.mkv", SOME)
    repeated = {5, 6, 7, 20, 38, 39}
    path = repacked(whole, tmp_path / "b.nut", lambda n, c: b"" if n in repeated else c)
    with av.open(str(path)) as container:
        assert sum(p.size == 0 and p.pts is not None for p in container.demux(video=0)) == 6
    damage = Damage()
    shown = numbers(path, damage=damage)
    assert len(shown) == SOME and damage.damaged == 0
    assert shown[:6] == [0, 1, 2, 3, 4, 4] and shown[8] == 8 and shown[20] == 19
    assert shown[37:] == [37, 37, 37]


def test_sound_of_a_video_that_cannot_be_decoded(tmp_path):
    whole = write_clip(tmp_path / "a.mp4", numbered(25), audio=tone(1.0)).read_bytes()
    path = tmp_path / "b.mp4"
    path.write_bytes(whole.replace(b"avc1", b"zzzz"))
    assert probe(path).video.codec == "unknown"
    with pytest.raises(PictureError, match=r"b\.mp4: no decoder for unknown video in mov; convert"):
        list(video_frames(path))
    assert loud(read_sound(path).samples)[2:24].all()


def test_damaged_sound(tmp_path):
    """Silence in place of a block: what follows keeps its place.

    FFmpeg itself drops the block, without an error.
    """
    whole = write_sound(tmp_path / "a.flac", "flac")
    with av.open(str(whole)) as container:
        places = [(p.pos, p.size) for p in container.demux() if p.size]
    content = bytearray(whole.read_bytes())
    pos, size = places[10]
    content[pos + size // 2] ^= 0xFF
    (tmp_path / "b.flac").write_bytes(content)
    sound, intact = read_sound(tmp_path / "b.flac"), read_sound(whole)
    assert len(sound.samples) == len(intact.samples)
    assert sound.notes == ("0.07 s of sound are missing inside the file and left silent",)
    same = sound.samples == intact.samples
    assert same[: 9 * 1152].all() and same[12 * 1152 :].all() and not same.all()
    for pos, size in places[10:20]:
        content[pos + size // 2] ^= 0xFF
    (tmp_path / "c.flac").write_bytes(content)
    with pytest.raises(InputError, match=r"c\.flac: .* audio blocks are damaged"):
        read_sound(tmp_path / "c.flac")


# ---- truncated files


@pytest.mark.parametrize(
    "name", ["a.wav", "a.w64", "a.caf", "a.aiff", "a.au", "a.mka", "a.flac", "a.mp3"]
)
def test_truncated_sound_is_reported(tmp_path, name):
    """Also if FFmpeg takes the end of the file for the end of the sound."""
    codec = {"a.mka": "aac", "a.flac": "flac", "a.mp3": "mp3"}.get(name)
    codec = codec or ("pcm_s16be" if name in ("a.caf", "a.aiff", "a.au") else "pcm_s16le")
    whole = write_sound(tmp_path / name, codec).read_bytes()
    path = tmp_path / f"b.{name}"
    path.write_bytes(whole[: len(whole) // 2])
    sound = read_sound(path)
    assert re.fullmatch(
        r"the file is truncated, [01]\.\d s of the 2\.[01] s in its header", sound.notes[0]
    )
    assert 0.3 < len(sound.samples) / 16000 < 1.2


def test_wav_that_was_written_into_a_pipe(tmp_path):
    """Its header says 4 GB, as its length was unknown."""
    write_wav(tmp_path / "a.wav", tone(1.0))
    content = bytearray((tmp_path / "a.wav").read_bytes())
    data = content.index(b"data")
    for size in (0xFFFFFFFF, 0x7FFFFFFF + 1, 0):
        content[4:8] = content[data + 4 : data + 8] = struct.pack("<I", size)
        (tmp_path / "b.wav").write_bytes(content)
        sound = read_sound(tmp_path / "b.wav")
        assert len(sound.samples) == 16000 and sound.notes == ()


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.flv", "a.nut", "a.mxf", "a.webm"])
def test_truncated_video_is_rejected(tmp_path, name):
    codecs = {"a.flv": ("flv", "aac"), "a.mxf": ("mpeg2video", "aac"), "a.webm": ("libvpx", "aac")}
    noise = np.random.default_rng(1).integers(0, 255, (75, 48, 72, 3)).astype(np.uint8)
    whole = write_clip(
        tmp_path / name, list(noise), codecs=codecs.get(name, ("mpeg4", "aac"))
    ).read_bytes()
    path = tmp_path / f"b.{name}"
    path.write_bytes(whole[: len(whole) // 2])
    if name == "a.nut":  # no length in the header: half of the frames are not missed
        assert 30 < sum(1 for _ in video_frames(path)) < 45
        return
    with pytest.raises(PictureError, match=r"truncated, 1\.\d s of the 3\.\d s in its header"):
        list(video_frames(path))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_mp4(tmp_path, share):
    """The index of its frames is at the end: nothing can be read."""
    whole = write_clip(tmp_path / "a.mp4", numbered(SOME)).read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: int(len(whole) * share)])
    assert "copy it again" in refused(tmp_path / "b.mp4")


# ---- files that are broken


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(video_frames(path))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}")
    return line


def test_two_recordings_in_one_file(tmp_path):
    """Time starts again in the second one: nothing is dropped without an error."""
    whole = write_clip(tmp_path / "a.ts", numbered(50), codecs=("mpeg2video", "mp2")).read_bytes()
    (tmp_path / "b.ts").write_bytes(whole + whole)
    assert "time stamps jump from 2.0 to 0.0 s" in refused(tmp_path / "b.ts")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a text\n" * 50,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nclip.mp4\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile clip.mp4\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
        cv2.imencode(".jpg", np.zeros((100, 100, 3), np.uint8))[1].tobytes(),
    ],
    ids=["empty", "text", "playlist", "concat", "session", "picture"],
)
def test_other_things_named_mp4(tmp_path, content):
    """A playlist beside a real clip: none of its entries is opened."""
    write_clip(tmp_path / "clip.mp4", numbered(5))
    (tmp_path / "a.mp4").write_bytes(content)
    refused(tmp_path / "a.mp4")
    with pytest.raises(InputError):
        probe(tmp_path / "a.mp4")


def test_missing_file_and_folder(tmp_path):
    assert "not found" in refused(tmp_path / "a.mp4")
    assert "not found" in refused(tmp_path)


def test_limits(tmp_path):
    path = write_clip(tmp_path / "a.mp4", numbered(50))
    with pytest.raises(PictureError, match="72x48, over the limit of 100 pixels"):
        next(video_frames(path, MediaLimits(pixels=100)))
    with pytest.raises(InputError, match="longer than the limit of 1 s"):
        list(video_frames(path, MediaLimits(seconds=1)))
    with pytest.raises(InputError, match="longer than the limit of 1 s"):
        sound = write_clip(tmp_path / "b.mp4", numbered(5), audio=tone(2.0))
        read_sound(sound, MediaLimits(seconds=1))


@pytest.mark.parametrize(
    "name",
    [
        *("http:x.mp4", "a:b.mp4", "-i.mp4", "$(x) '\".mp4", "%03d.mp4", "new\nline.mp4"),
        *("ü.mp4", "日本語.mp4", "caf\udce9.mp4"),  # the last: Latin-1, not UTF-8
    ],
)
def test_odd_names(tmp_path, name):
    path = write_clip(tmp_path / "a.mp4", numbered(4), audio=tone(0.2)).rename(tmp_path / name)
    assert numbers(path) == [0, 1, 2, 3]
    assert len(read_sound(path).samples) > 2000


@pytest.mark.parametrize(
    ("ending", "codecs"),
    [
        *(("mp4", ("libx264", "aac")), ("mkv", ("libx264", "aac"))),
        *(("mpg", ("mpeg1video", "mp2")), ("flv", ("flv", "aac")), ("avi", ("mpeg4", "mp2"))),
    ],
)
def test_random_damage_gives_a_video_or_one_error(tmp_path, ending, codecs):
    whole = write_clip(
        tmp_path / f"a.{ending}", numbered(10), audio=tone(0.4), codecs=codecs
    ).read_bytes()
    rng = random.Random(1)
    path, outcomes = tmp_path / f"b.{ending}", set()
    for attempt in range(60):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if attempt % 3 == 0 else whole)
        for _ in range(rng.choice((1, 5, 50)) if damaged and attempt % 3 else 0):
            start = 400 if attempt % 3 == 1 else 0
            damaged[rng.randrange(start, len(damaged)) if start else rng.randrange(400)] = (
                rng.randrange(256)
            )
        path.write_bytes(damaged)
        for read in (lambda: len(numbers(path, MediaLimits(seconds=60))), lambda: read_sound(path)):
            try:
                read()
                outcomes.add("decoded")
            except InputError as error:
                assert str(path) in str(error) and len(str(error).splitlines()) == 1
                outcomes.add("refused")
    assert outcomes == {"decoded", "refused"}


def test_a_track_that_appears_late_in_a_damaged_file(tmp_path):
    """PyAV ends such a file with an IndexError."""
    whole = write_clip(
        tmp_path / "a.flv", numbered(50), codecs=("flv", "aac"), audio=tone(2.0)
    ).read_bytes()
    vp6 = bytes([0x14, *range(20)])  # a key frame of another codec
    tag = bytes([9, 0, 0, len(vp6), 0, 7, 0xD0, 0, 0, 0, 0]) + vp6  # at 2 s
    (tmp_path / "b.flv").write_bytes(whole + tag + bytes([0, 0, 0, 11 + len(vp6)]))
    with av.open(str(tmp_path / "b.flv")) as container, pytest.raises(IndexError):
        list(container.demux())
    assert numbers(tmp_path / "b.flv") == list(range(50))
    assert loud(read_sound(tmp_path / "b.flv").samples)[2:48].all()


def test_a_time_stamp_of_a_year(tmp_path):
    """Neither a year of silence nor a year of repeated frames is made."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25)
        picture.width, picture.height, picture.pix_fmt = 72, 48, "yuv420p"
        picture.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for number, image in enumerate(numbered(20)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = 40 * number if number < 10 else 31_536_000_000 + 40 * number
            frame.time_base = Fraction(1, 1000)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        for start in (0.0, 31_536_000.0):
            container.mux(sound.encode(sound_block(tone(0.4), start=start)))
    with pytest.raises(InputError, match="longer than the limit of 60 s"):
        list(video_frames(path, MediaLimits(seconds=60)))
    found = read_sound(path, MediaLimits(seconds=60))
    assert len(found.samples) == 12800
    assert (
        "the time stamps of the sound jump; the audio blocks are joined without a gap"
        in found.notes
    )
