"""The API between the page and the recognizer.

    GET    /api/settings                         the model, the limits and the noise levels
    POST   /api/clips?face=speaking              a form with a `file` -> a clip, JSON lines; face:
                                                 speaking, largest or N for the N-th largest
    DELETE /api/clips/ID                         delete it
    GET    /api/clips/ID/sheets/N                its mouth region, 16x16 frames per picture
    GET    /api/clips/ID/face                    a frame that shows where the mouth is
    GET    /api/clips/ID/audio?snr=0             its sound with noise at that level
    POST   /api/clips/ID/transcripts?modalities=both&snr=0    words with times, JSON lines
    GET    /api/clips/ID/transcripts/srt?modalities=both&snr=0    the same as a file

`desk.Desk.answer` documents the JSON lines. Errors are `{"error": "one line"}`.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

from avhubert_ext.data.audio import SAMPLE_RATE, SAMPLES_PER_FRAME, wav_bytes
from avhubert_ext.data.video import FPS
from avhubert_ext.errors import InputError
from avhubert_ext.progress import Report
from avhubert_ext.serve.clips import ClipStore, UploadedClip
from avhubert_ext.serve.desk import UNEXPECTED, BusyError, Desk
from avhubert_ext.serve.guard import Guard, TooLargeError
from avhubert_ext.serve.jobs import SHEET, Upload
from avhubert_ext.serve.limits import ServeLimits
from avhubert_ext.serve.noise import LEVELS, noisy
from avhubert_ext.serve.process import WorkerProcess
from avhubert_ext.transcription.subtitles import FORMATS

PAGE = Path(__file__).with_name("page")
UPLOAD_SECONDS = 300  # time limit of an upload
SWEEP_SECONDS = 30  # between deletions of old clips
LONGEST_NAME = 80  # characters of a file name that are shown


@dataclass(frozen=True)
class Parts:
    """What the application works with.

    Attributes:
        reader: Worker of `jobs.make_reader`.
        recognizer: Worker of `jobs.make_recognizer`.
        model: Name of the model, for display.
        modalities: The modalities that it takes.
        noise: int16 [M], or None for babble made from the clip's own speech.
        noise_name: Name of the noise, for display.
        folder: Where uploads are stored while they are read.
        limits: Limits of the server.
    """

    reader: WorkerProcess
    recognizer: WorkerProcess
    model: str
    modalities: tuple[str, ...]
    noise: np.ndarray | None
    noise_name: str
    folder: Path
    limits: ServeLimits


def create_app(parts: Parts, host: str) -> FastAPI:
    """Create the application for a server that is bound to `host`."""
    limits = parts.limits
    clips = ClipStore(limits.clip_memory, limits.keep_seconds)
    reading, recognizing = Desk(limits.waiting), Desk(limits.waiting)

    @asynccontextmanager
    async def sweeping(_: FastAPI) -> AsyncIterator[None]:
        sweep = asyncio.create_task(_sweep(clips))
        yield
        sweep.cancel()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=sweeping)
    app.add_middleware(Guard, host=host, max_bytes=limits.megabytes * 10**6)
    _answer_errors_in_a_line(app)

    def known(clip: str) -> UploadedClip:
        try:
            return clips.get(clip)
        except KeyError:
            raise HTTPException(
                404, "there is no such clip, or it was deleted; send it again"
            ) from None

    @app.get("/api/settings")
    def settings() -> dict[str, Any]:
        return {
            "model": parts.model,
            "modalities": parts.modalities,
            "levels": LEVELS,
            "noise": parts.noise_name,
            "megabytes": limits.megabytes,
            "seconds": limits.seconds,
            "fps": FPS,
            "sheet": SHEET,
            "forms": tuple(FORMATS),
        }

    @app.post("/api/clips")
    async def upload(
        request: Request, face: int | Literal["speaking", "largest"] = "speaking"
    ) -> Response:
        reading.check_places()
        file = await asyncio.wait_for(_uploaded(request), UPLOAD_SECONDS)

        def job(report: Report) -> dict[str, Any]:
            with file.file, tempfile.NamedTemporaryFile(dir=parts.folder) as copy:
                shutil.copyfileobj(file.file, copy)
                copy.flush()
                sent = Upload(Path(copy.name), _shown(file.filename), face)
                clip = parts.reader.run(sent, report)
            if not _usable(clip, parts.modalities):
                raise InputError(
                    f"{clip.name}: this model takes {' or '.join(parts.modalities)}, but the clip "
                    f"has only {' and '.join(clip.modalities)}; send another clip"
                )
            return _description(clips.add(clip), clip, parts.modalities)

        return await reading.answer(request, job)

    @app.delete("/api/clips/{clip}", status_code=204)
    def forget(clip: str) -> None:
        with suppress(KeyError):
            clips.forget(clip)

    @app.get("/api/clips/{clip}/sheets/{number}")
    def sheet(clip: str, number: int) -> Response:
        sheets = known(clip).sheets
        if not 0 <= number < len(sheets):
            raise HTTPException(404, f"no sheet {number}, the clip has {len(sheets)}")
        return Response(sheets[number], media_type="image/jpeg")

    @app.get("/api/clips/{clip}/face")
    def face(clip: str) -> Response:
        picture = known(clip).face
        if picture is None:
            raise HTTPException(404, "the clip is a ready-made mouth region, or has no video")
        return Response(picture, media_type="image/jpeg")

    @app.get("/api/clips/{clip}/audio")
    def audio(clip: str, snr: int | None = None) -> Response:
        found, level = known(clip), _level(snr)
        if found.audio is None:  # silence, since the audio is the clock of the page's player
            samples = np.zeros(len(found.video) * SAMPLES_PER_FRAME, np.int16)
        else:
            samples = noisy(found.audio, parts.noise, level)
        return Response(wav_bytes(samples), media_type="audio/wav")

    @app.post("/api/clips/{clip}/transcripts")
    async def transcript(
        request: Request, clip: str, modalities: str, snr: int | None = None
    ) -> Response:
        found, level = known(clip), _level(snr)
        usable = _usable(found, parts.modalities)
        if modalities not in usable:
            raise HTTPException(
                422, f"modalities={modalities}: this clip and model support {', '.join(usable)}"
            )
        key = _key(modalities, level)

        def job(report: Report) -> dict[str, Any]:
            if key not in found.transcripts:
                audio = None if modalities == "video" else noisy(found.audio, parts.noise, level)
                seen = modalities != "audio"
                picture = (found.video, found.seen) if seen else (None, None)
                found.transcripts[key] = parts.recognizer.run((audio, *picture), report)
            return asdict(found.transcripts[key])

        return await recognizing.answer(request, job)

    @app.get("/api/clips/{clip}/transcripts/{form}")
    def subtitles(clip: str, form: str, modalities: str, snr: int | None = None) -> Response:
        transcript = known(clip).transcripts.get(_key(modalities, _level(snr)))
        if transcript is None or form not in FORMATS:
            raise HTTPException(404, f"no such transcript, or not one of {' '.join(FORMATS)}")
        return Response(FORMATS[form](transcript), media_type="text/plain")

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


async def _sweep(clips: ClipStore) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        clips.forget_old()


async def _uploaded(request: Request) -> UploadFile:
    """Return the file in a form; its bytes are in memory or in an unnamed temporary file."""
    form = await request.form(max_files=1, max_fields=0)
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise HTTPException(422, "expected a form (multipart/form-data) with one field, `file`")
    return file


def _level(snr: int | None) -> int | None:
    if snr not in LEVELS:
        raise HTTPException(422, f"snr={snr}: expected none or one of {LEVELS[1:]}")
    return snr


def _key(modalities: str, level: int | None) -> tuple[str, int | None]:
    """Return the key of a transcript; acoustic noise does not matter for video alone."""
    return modalities, None if modalities == "video" else level


def _shown(name: str | None) -> str:
    """Return a file name for display: not a path, and without control characters."""
    last = PurePath((name or "").replace("\\", "/")).name
    printable = "".join(c for c in last if c.isprintable())
    return printable[-LONGEST_NAME:] if printable.strip(". ") else "upload"


def _usable(clip: UploadedClip, of_model: tuple[str, ...]) -> list[str]:
    return [m for m in clip.modalities if m in of_model]


def _description(name: str, clip: UploadedClip, of_model: tuple[str, ...]) -> dict[str, Any]:
    frames = 0 if clip.video is None else len(clip.video)
    samples = 0 if clip.audio is None else len(clip.audio)
    return {
        "id": name,
        "name": clip.name,
        "seconds": max(frames / FPS, samples / SAMPLE_RATE),
        "frames": frames,
        "sheets": len(clip.sheets),
        "face": clip.face is not None,
        "number": clip.number,
        "modalities": _usable(clip, of_model),
        "quality": clip.quality,
        "warnings": clip.warnings,
    }


def _answer_errors_in_a_line(app: FastAPI) -> None:
    """Answer errors as JSON with one line that states the problem and the remedy."""

    def answer(status: int, of: Callable[[Any], str]) -> Callable[[Request, Any], JSONResponse]:
        return lambda _, error: JSONResponse({"error": of(error)}, status)

    app.add_exception_handler(BusyError, answer(503, str))
    app.add_exception_handler(TooLargeError, answer(413, str))
    app.add_exception_handler(Exception, answer(500, lambda _: UNEXPECTED))
    app.add_exception_handler(ClientDisconnect, answer(400, lambda _: "the upload was interrupted"))
    app.add_exception_handler(
        asyncio.TimeoutError, answer(408, lambda _: "the upload took too long")
    )
    app.add_exception_handler(
        AnyHTTPException,
        lambda _, error: JSONResponse({"error": error.detail}, error.status_code),
    )
    app.add_exception_handler(
        RequestValidationError,
        answer(422, lambda error: "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())),
    )
