"""Helpers for tests of `avhubert-ext serve`: a server, clips, raw requests."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from avhubert_ext.data.audio import SAMPLE_RATE
from avhubert_ext.synth.corpus import SpokenUtterance, make_utterance
from avhubert_ext.synth.grammar import DOMAINS
from avhubert_ext.synth.speakers import make_speaker, seeded

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "scripts/models/tiny-teacher/model.safetensors"
BOUNDARY = "a-line-that-is-in-no-clip"


@dataclass(frozen=True)
class Server:
    """A running server. `folder` is its only place for files, `process` ends it."""

    port: int
    folder: Path
    process: subprocess.Popen

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        """Send a request as it is; returns status, body, and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def ask(self, method: str, path: str, *args: Any) -> tuple[int, dict[str, Any]]:
        """Return the status and the last line of the response."""
        status, body, _ = self.request(method, path, *args)
        return status, json.loads(body.splitlines()[-1])

    def upload(self, content: bytes, name: str = "clip.mp4") -> tuple[int, dict[str, Any]]:
        return self.ask("POST", "/api/clips", *form(content, name))

    def transcript(self, clip: str, modalities: str, snr: int | None = None) -> dict[str, Any]:
        level = "" if snr is None else f"&snr={snr}"
        path = f"/api/clips/{clip}/transcripts?modalities={modalities}{level}"
        status, found = self.ask("POST", path)
        assert status == 200, found
        return found

    def workers(self) -> list[int]:
        """Return its worker processes, the one that reads first."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = sorted(int(pid) for file in threads for pid in file.read_text().split())
        command = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
        return [pid for pid in children if b"spawn_main" in command[pid]]


def form(content: bytes, name: str, field: str = "file") -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a file upload by a browser, with `name` as it is."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """Run a server with the shipped teacher. After Ctrl-C, it must leave nothing behind."""
    temporary = folder / "temporary"
    temporary.mkdir()
    command = [str(Path(sys.executable).with_name("avhubert-ext")), "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--model", str(MODEL), *options],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line
        server = Server(int(line.split("/")[2].split(":")[1]), folder, process)
        yield server
        workers = server.workers()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        assert not list(temporary.iterdir())
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def utterance(number: int) -> SpokenUtterance:
    """Synthesize an utterance of the first test speaker."""
    speaker = make_speaker(1, 4)
    sentence = DOMAINS["commands"](seeded(1, "sentence", speaker.name, number))
    return make_utterance(speaker, sentence, seeded(1, "utterance", speaker.name, number))


def write_clip(path: Path, frames: np.ndarray, samples: np.ndarray | None, rate: int = 25) -> Path:
    """Encode a video uint8 [T, H, W] or [T, H, W, 3] with sound, int16 [N] at 16 kHz."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        if samples is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        kind = "gray" if frames.ndim == 3 else "rgb24"
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format=kind)))
        container.mux(video.encode())
        if samples is not None:
            whole = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            whole.sample_rate = SAMPLE_RATE
            pieces = av.AudioFifo()
            pieces.write(whole)
            for piece in pieces.read_many(1024, partial=True):
                container.mux(audio.encode(piece))
            container.mux(audio.encode())
    return path


def face_video(frames: int, height: int = 240, width: int = 320) -> np.ndarray:
    """Draw a portrait that moves slightly: uint8 [frames, height, width, 3]."""
    import cv2
    from skimage.data import astronaut

    portrait = np.ascontiguousarray(astronaut()[:260, 90:350])
    scale = height / len(portrait)
    moved = []
    for t in range(frames):
        shift = np.array([width / 2 - 130 * scale + 6 * np.sin(t / 5), 3 * np.cos(t / 7)])
        place = np.column_stack([np.eye(2) * scale, shift])
        moved.append(cv2.warpAffine(portrait, place, (width, height), flags=cv2.INTER_AREA))
    return np.stack(moved)
