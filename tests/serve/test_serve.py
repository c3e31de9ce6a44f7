"""`avhubert-ext serve`: the API as clients see it, foreign requests, bad uploads, limits."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from conftest import ROOT, is_running, run
from fastapi import Request
from fragile import make_worker
from serving import MODEL, Server, face_video, form, serving, utterance, write_clip

from avhubert_ext.cli import main
from avhubert_ext.errors import InputError
from avhubert_ext.serve.clips import ClipStore, UploadedClip
from avhubert_ext.serve.desk import BusyError, Desk
from avhubert_ext.serve.guard import Guard
from avhubert_ext.serve.jobs import make_recognizer
from avhubert_ext.serve.noise import noisy, own_babble
from avhubert_ext.serve.process import WorkerProcess

SPOKEN = utterance(1)
TEXT = " ".join(word for word, _, _ in SPOKEN.words).lower()
LONGEST = 5  # seconds
LARGEST = 2  # megabytes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    limits = ("--max-mb", str(LARGEST), "--max-seconds", str(LONGEST), "--timeout", "60")
    with serving(folder, *limits) as server:
        yield server


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A clip of the embedded corpus with its sound."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, SPOKEN.frames, SPOKEN.samples).read_bytes()


@pytest.fixture(scope="module")
def clip(server: Server, content: bytes) -> dict:
    status, found = server.upload(content)
    assert status == 200, found
    return found


def test_page_is_whole_and_asks_nobody_else(server: Server):
    status, page, headers = server.request("GET", "/")
    assert status == 200
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    folder = ROOT / "avhubert_ext/serve/page"
    for file in folder.iterdir():
        status, body, headers = server.request("GET", f"/{file.name}")
        assert status == 200 and body == file.read_bytes()
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert b"https://" not in body and b"<script>" not in body and b"style=" not in body
    assert b'src="app.js"' in page and b'href="style.css"' in page


def test_settings(server: Server):
    _, settings = server.ask("GET", "/api/settings")
    assert settings["model"] == "tiny-teacher/model.safetensors"
    assert set(settings["modalities"]) == {"both", "audio", "video"}
    assert (settings["megabytes"], settings["seconds"]) == (LARGEST, LONGEST)


def test_clip(server: Server, clip: dict):
    assert clip["name"] == "clip.mp4"
    assert clip["frames"] == len(SPOKEN.frames)
    assert clip["seconds"] == pytest.approx(len(SPOKEN.frames) / 25)
    assert clip["modalities"] == ["both", "audio", "video"]
    assert clip["warnings"] == []
    _, jpeg, headers = server.request("GET", f"/api/clips/{clip['id']}/sheets/0")
    assert headers["Content-Type"] == "image/jpeg"
    sheet = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    frame = sheet[2 * 96 : 3 * 96, 5 * 96 : 6 * 96].astype(float)
    assert np.abs(frame - SPOKEN.frames[2 * 16 + 5]).mean() < 4
    assert server.request("GET", f"/api/clips/{clip['id']}/sheets/1")[0] == 404


def test_words_have_times_and_confidences(server: Server, clip: dict):
    found = server.transcript(clip["id"], "both")
    assert found["text"] == TEXT
    starts = [word["start"] for word in found["words"]]
    assert starts == sorted(starts)
    spoken = [start for _, start, _ in SPOKEN.words]
    assert np.abs(np.subtract(starts, spoken)).mean() < 0.15
    assert all(0 < word["confidence"] <= 1 for word in found["words"])
    assert all(0 <= w["start"] < w["end"] <= clip["seconds"] for w in found["words"])


def test_noise_parts_audio_only_and_audio_visual(server: Server, clip: dict):
    assert server.transcript(clip["id"], "audio")["text"] == TEXT
    assert server.transcript(clip["id"], "audio", -10)["text"] != TEXT
    assert server.transcript(clip["id"], "both", -10)["text"] == TEXT
    assert server.transcript(clip["id"], "video", -10) == server.transcript(clip["id"], "video")


def test_transcripts_are_to_be_saved(server: Server, clip: dict):
    path = f"/api/clips/{clip['id']}/transcripts"
    assert server.request("GET", f"{path}/srt?modalities=audio&snr=20")[0] == 404
    server.transcript(clip["id"], "audio", 20)
    status, srt, headers = server.request("GET", f"{path}/srt?modalities=audio&snr=20")
    assert status == 200 and headers["Content-Type"] == "text/plain; charset=utf-8"
    assert srt.startswith(b"1\n00:00:00,") and TEXT.split()[0].encode() in srt
    server.transcript(clip["id"], "video", 20)
    _, text, _ = server.request("GET", f"{path}/txt?modalities=video")
    assert text.decode() == server.transcript(clip["id"], "video")["text"] + "\n"
    assert server.request("GET", f"{path}/exe?modalities=video")[0] == 404


def test_noisy_sound_is_what_the_slider_says(server: Server, clip: dict):
    def heard(query: str) -> np.ndarray:
        _, wav, headers = server.request("GET", f"/api/clips/{clip['id']}/audio{query}")
        assert headers["Content-Type"] == "audio/wav"
        return soundfile.read(io.BytesIO(wav), dtype="int16")[0].astype(float)

    clean = heard("")
    assert len(clean) == len(SPOKEN.samples)
    added = heard("?snr=5") - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(added**2)) == pytest.approx(5, abs=0.1)
    for level in ("?snr=3", "?snr=loud", "?snr=1e9"):
        assert server.request("GET", f"/api/clips/{clip['id']}/audio{level}")[0] == 422


def test_forgotten_clips_are_gone(server: Server, content: bytes):
    _, found = server.upload(content)
    assert server.request("DELETE", f"/api/clips/{found['id']}")[0] == 204
    status, error = server.ask("POST", f"/api/clips/{found['id']}/transcripts?modalities=both")
    assert status == 404 and "send it again" in error["error"]


def test_face_is_found(server: Server, tmp_path: Path):
    path = write_clip(tmp_path / "face.mkv", face_video(20), SPOKEN.samples[: 20 * 640])
    status, found = server.upload(path.read_bytes(), "face.mkv")
    assert status == 200, found
    assert found["quality"]["faces"] == 1 and found["quality"]["missing"] == 0
    assert found["modalities"] == ["both", "audio", "video"]
    assert found["warnings"] == [] and found["face"]
    _, jpeg, _ = server.request("GET", f"/api/clips/{found['id']}/face")
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(int)
    green = picture[..., 1] - picture[..., [0, 2]].max(-1) > 60
    left, right = np.flatnonzero(green.any(0))[[0, -1]] / picture.shape[1]
    assert 0.3 < left < 0.5 < right < 0.7  # the outline, around the mouth


def test_a_late_face_is_told_as_by_the_command(server: Server, tmp_path: Path):
    gray = np.full((40, 240, 320, 3), 90, np.uint8)
    frames = np.concatenate([gray, face_video(30)])
    samples = np.resize(SPOKEN.samples, len(frames) * 640)
    path = write_clip(tmp_path / "gray.mp4", frames, samples)
    status, found = server.upload(path.read_bytes())
    assert status == 200 and found["frames"] == 70
    assert found["warnings"] == ["no face in 40 of 70 frames, first seen at 1.6 s"]
    notes = server.transcript(found["id"], "both")["notes"]
    assert notes == ["no picture of the face from 0.0 to 1.6 s: sound alone there"]
    assert server.transcript(found["id"], "audio")["notes"] == []
    _, jpeg, _ = server.request("GET", f"/api/clips/{found['id']}/face")
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.std() > 40, "a frame with the face"


def test_another_face_is_chosen(server: Server, tmp_path: Path):
    large = face_video(5)
    small = np.zeros_like(large)
    small[:, :160, :213] = [cv2.resize(frame, (213, 160)) for frame in large]
    both = np.concatenate([small, large], axis=2)
    content = write_clip(tmp_path / "two.mp4", both, None).read_bytes()
    scales = []
    for face in (1, 2):
        status, found = server.ask("POST", f"/api/clips?face={face}", *form(content, "two.mp4"))
        assert status == 200 and found["quality"]["faces"] == 2
        scales.append(found["quality"]["scale"])
    assert scales[1] == pytest.approx(1.5 * scales[0], rel=0.1)
    _, error = server.ask("POST", "/api/clips?face=3", *form(content, "two.mp4"))
    assert error["error"].startswith("two.mp4: no face 3: found 2")


def test_without_a_face_there_is_the_sound(server: Server, tmp_path: Path):
    walls = np.full((len(SPOKEN.frames), 120, 160), 128, np.uint8)
    path = write_clip(tmp_path / "wall.mp4", walls, SPOKEN.samples)
    _, found = server.upload(path.read_bytes())
    assert (
        found["modalities"] == ["audio"]
        and "no face found in it: sound alone" in found["warnings"][0]
    )
    assert server.transcript(found["id"], "audio")["text"] == TEXT


def test_sound_alone_and_picture_alone(server: Server, tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", SPOKEN.samples, 16000)
    _, heard = server.upload((tmp_path / "a.wav").read_bytes(), "misnamed.mp4")
    assert heard["modalities"] == ["audio"] and heard["frames"] == 0
    assert server.transcript(heard["id"], "audio")["text"] == TEXT
    silent = write_clip(tmp_path / "v.mp4", SPOKEN.frames, None)
    _, seen = server.upload(silent.read_bytes())
    assert seen["modalities"] == ["video"] and "no audio track" in seen["warnings"][0]
    path = f"/api/clips/{seen['id']}/transcripts?modalities=both"
    status, error = server.ask("POST", path)
    assert status == 422 and "video" in error["error"]


def bad_uploads(content: bytes, folder: Path) -> Iterator[tuple[str, bytes]]:
    yield "empty.mp4", b""
    yield "text.mp4", b"#EXTM3U\nfile:///etc/passwd\n"
    yield "noise.mp4", np.random.default_rng(1).bytes(50_000)
    yield "cut.mp4", content[: len(content) // 2]
    yield "head.mp4", content[:64]
    huge = cv2.imencode(".png", np.zeros((9000, 9000), np.uint8))[1].tobytes()
    yield "huge.png", huge
    faceless = np.full((10, 240, 320), 128, np.uint8)
    yield "wall.mp4", write_clip(folder / "wall.mp4", faceless, None).read_bytes()


def test_bad_uploads_are_told_in_a_line(server: Server, content: bytes, tmp_path: Path):
    for name, bad in bad_uploads(content, tmp_path):
        status, error = server.upload(bad, name)
        assert status in (422, 200) and set(error) == {"error"}, (name, status, error)
        assert error["error"].startswith(f"{name}: ") and "\n" not in error["error"]
        assert str(server.folder) not in error["error"]
    assert server.upload(content)[0] == 200
    assert not left_behind(server)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../etc/cron.d/evil.mp4", "evil.mp4"),
        ("..\\\\..\\\\evil.mp4", "evil.mp4"),
        ("/etc/passwd", "passwd"),
        ("..", "upload"),
        ("a\x1b[31mb\x00.mp4", "a[31mb.mp4"),
        ("ü" * 500, "ü" * 80),
        ("<img src=x onerror=alert(1)>.mp4", "<img src=x onerror=alert(1)>.mp4"),
    ],
)
def test_names_are_no_paths(server: Server, name: str, shown: str):
    _, error = server.upload(b"nothing", name)
    assert error["error"].startswith(f"{shown}: ")
    assert not left_behind(server)


def left_behind(server: Server) -> list[Path]:
    """Files anywhere the server may write, but for the one that PyTorch makes for itself."""
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    return [path for path in files if path.name != "_remote_module_non_scriptable.py"]


def test_what_is_no_upload(server: Server, content: bytes):
    for body, headers in [
        (content, {"Content-Type": "video/mp4"}),
        (b"file=x", {"Content-Type": "application/x-www-form-urlencoded"}),
        (b"--x", {"Content-Type": "multipart/form-data"}),
        (b"no boundary", {"Content-Type": "multipart/form-data; boundary=y"}),
        form(content, "clip.mp4", field="other"),
        form(content, "long name" * 2000),
        (None, {}),
    ]:
        status, error = server.ask("POST", "/api/clips", body, headers)
        assert status in (400, 422) and set(error) == {"error"}, (headers, status, error)
    assert server.ask("GET", "/api/clips/none/audio")[0] == 404
    assert server.ask("GET", "/api/nothing")[0] == 404
    assert server.ask("PUT", "/api/clips", content)[0] == 405


def test_limits(server: Server, tmp_path: Path):
    large = bytes(LARGEST * 10**6 + 100_000)
    body, headers = form(large, "large.mp4")
    told = headers | {"Content-Length": str(len(body))}
    status, error = server.ask("POST", "/api/clips", body[:1000], told)
    assert status == 413 and "larger than 2 MB" in error["error"]
    pieces = (body[i : i + 50_000] for i in range(0, len(body), 50_000))  # sent in chunks
    try:
        status, error = server.ask("POST", "/api/clips", pieces, headers)
        assert status == 413 and "larger than 2 MB" in error["error"]
    except (BrokenPipeError, ConnectionResetError):
        pass  # it answered, and closed, while we were still sending
    long = write_clip(tmp_path / "long.mp4", np.zeros(((LONGEST + 1) * 25, 96, 96), np.uint8), None)
    status, error = server.upload(long.read_bytes(), "long.mp4")
    assert "longer than the limit of 5 s" in error["error"]
    assert server.ask("GET", "/api/settings")[0] == 200


def test_foreign_pages_are_refused(server: Server, content: bytes):
    def posted(headers: dict[str, str]) -> int:
        body, kind = form(content, "clip.mp4")
        return server.ask("POST", "/api/clips", body, kind | headers)[0]

    host = f"127.0.0.1:{server.port}"
    assert posted({"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}) == 200
    for origin in ("http://evil.example", "null", f"http://{host}.evil.example"):
        assert posted({"Origin": origin}) == 403
    assert posted({"Sec-Fetch-Site": "cross-site"}) == 403
    for name in ("evil.example", "127.0.0.1.evil.example", "192.168.1.2", "[::2]", "", "a@b:c:d"):
        assert server.request("GET", "/api/settings", None, {"Host": name})[0] == 421
    for name in ("localhost", f"localhost:{server.port}", "[::1]:80", "127.0.0.2"):
        assert server.request("GET", "/api/settings", None, {"Host": name})[0] == 200


@pytest.mark.parametrize(
    "path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "/%2Fetc/passwd", "//etc/passwd"]
)
def test_nothing_but_the_page_is_served(server: Server, path: str):
    status, body, _ = server.request("GET", path)
    assert status in (404, 405) and b"import" not in body and b"root:" not in body


def test_dead_workers_are_replaced(server: Server, content: bytes):
    reader = server.workers()[0]
    os.kill(reader, signal.SIGKILL)
    while is_running(reader):
        time.sleep(0.01)
    status, found = server.upload(content)
    assert status == 200, found
    assert reader not in server.workers() and len(server.workers()) == 2


def test_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("avhubert-ext", "serve", "--model", MODEL, "--port", str(port))
    assert result.returncode == 1
    assert result.stdout == (
        f"avhubert-ext: error: port {port} is in use; choose another with --port\n"
    )


def test_longest_that_is_too_short_is_one_line():
    with pytest.raises(InputError, match="longest 1: expected at least 2 seconds"):
        make_recognizer(lambda: None, 1)


def test_missing_packages_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--model", str(MODEL)]) == 1
    expected = "avhubert-ext: error: uvicorn is missing: pip install 'avhubert-ext[serve]'\n"
    assert capsys.readouterr().err == expected


def answered(guard: Guard, host: str) -> bool:
    """Whether a request by that name reaches what is guarded."""
    sent: list[dict] = []
    scope = {"type": "http", "method": "GET", "headers": [(b"host", host.encode())]}

    async def receive() -> dict:
        return {"type": "http.request", "body": b""}

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return not sent


def test_hosts_that_are_not_loopback():
    async def reached(scope, receive, send) -> None:
        pass

    guard = Guard(reached, "0.0.0.0", 1000)
    for host in ("192.168.1.2:8000", "localhost", socket.gethostname(), "[fe80::1]:8000"):
        assert answered(guard, host)
    assert not answered(guard, "evil.example")


# ---- worker processes


def test_worker_outlives_its_jobs(tmp_path: Path):
    told = []
    worker = WorkerProcess(make_worker, "testing", tmp_path, 1.0, memory=2**28)
    try:
        assert worker.wait() == "ready"
        for job, message in [
            ("crash", "testing failed: its process died"),
            ("hang", "testing took longer than 1 s"),
            ("eat", "too much memory"),
            ("refuse", "no such job"),
            ("err", "unexpected error"),
        ]:
            with pytest.raises(InputError, match=message):
                worker.run(job, lambda *_: None)
            assert worker.run(3, lambda *p: told.append(p)) == 6
        assert told == [(1, 2)] * 5
    finally:
        worker.close()


def test_worker_is_closed_while_it_works(tmp_path: Path):
    worker = WorkerProcess(make_worker, "testing", tmp_path, 60.0)
    worker.wait()
    threading.Timer(0.3, worker.close).start()
    with pytest.raises(InputError, match="shutting down"):
        worker.run("hang", lambda *_: None)


def test_worker_that_cannot_begin(tmp_path: Path):
    worker = WorkerProcess(partial(make_worker, "ill"), "testing", tmp_path, 1.0)
    try:
        with pytest.raises(InputError, match=r"model\.pt: no model"):
            worker.wait()
    finally:
        worker.close()


# ---- queue, clips, noise


def visitor(leaves: asyncio.Event) -> Request:
    async def receive() -> dict:
        await leaves.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


async def lines_of(response) -> list[dict]:
    return [json.loads(line) async for line in response.body_iterator]


async def until_full(desk: Desk) -> None:
    with pytest.raises(BusyError):
        while True:
            desk.check_places()
            await asyncio.sleep(0)


def test_desk_does_one_job_at_a_time_and_tells_when_it_is_busy():
    async def scenario() -> None:
        desk, done, finish = Desk(1), [], threading.Event()
        stays, leaves = asyncio.Event(), asyncio.Event()

        def job(name: str, report) -> dict:
            report(1, 2)
            finish.wait(10)
            done.append(name)
            return {"name": name}

        first = await desk.answer(visitor(stays), partial(job, "first"))
        second = asyncio.create_task(desk.answer(visitor(leaves), partial(job, "second")))
        await until_full(desk)
        with pytest.raises(BusyError):
            await desk.answer(visitor(stays), partial(job, "third"))
        leaves.set()  # the second visitor goes while waiting
        assert await lines_of(await second) == []
        fourth = asyncio.create_task(desk.answer(visitor(stays), partial(job, "fourth")))
        await until_full(desk)
        finish.set()
        assert await lines_of(first) == [{"done": 1, "of": 2}, {"name": "first"}]
        assert (await lines_of(await fourth))[-1] == {"name": "fourth"}
        assert done == ["first", "fourth"]

    asyncio.run(scenario())


def test_desk_tells_errors():
    async def scenario() -> None:
        def refused(report) -> dict:
            raise InputError("clip.mp4: no video")

        def broken(report) -> dict:
            raise ValueError("secret")

        response = await Desk(1).answer(visitor(asyncio.Event()), refused)
        assert response.status_code == 422
        assert await lines_of(response) == [{"error": "clip.mp4: no video"}]
        response = await Desk(1).answer(visitor(asyncio.Event()), broken)
        assert response.status_code == 500
        assert "secret" not in (await lines_of(response))[0]["error"]

    asyncio.run(scenario())


def test_clips_are_forgotten():
    now = [0.0]
    made = [UploadedClip(name, None, np.zeros(50, np.int16)) for name in "abc"]
    clips = ClipStore(most_bytes=250, keep_seconds=10, now=lambda: now[0])
    first, second = clips.add(made[0]), clips.add(made[1])
    now[0] = 6
    assert clips.get(first) is made[0]
    third = clips.add(made[2])  # the second was used longest ago
    with pytest.raises(KeyError):
        clips.get(second)
    now[0] = 15
    assert clips.get(third) is made[2]
    now[0] = 17
    clips.forget_old()
    with pytest.raises(KeyError):
        clips.get(first)


@pytest.mark.slow
def test_babble_of_its_own_speech():
    babble = own_babble(SPOKEN.samples)
    assert babble.dtype == np.int16 and len(babble) == len(SPOKEN.samples)
    assert np.array_equal(babble, own_babble(SPOKEN.samples))
    likeness = np.corrcoef(babble, SPOKEN.samples)[0, 1]
    assert abs(likeness) < 0.5
    given = np.full(100, 1000, np.int16)
    assert np.array_equal(noisy(SPOKEN.samples, given, None), SPOKEN.samples)
    assert not np.array_equal(noisy(SPOKEN.samples, given, 0), noisy(SPOKEN.samples, None, 0))
