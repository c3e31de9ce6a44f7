"""The API between the page and the recognizer.

    GET    /api/settings                         the model, limits and levels of noise
    POST   /api/clips?face=speaking              a form with a `file` -> a clip, JSON lines; face:
                                                 speaking, largest or N for the N-th largest
    DELETE /api/clips/ID                         forget it
    GET    /api/clips/ID/sheets/N                its mouth region, 16x16 frames a picture
    GET    /api/clips/ID/face                    where in a frame of it that is
    GET    /api/clips/ID/audio?snr=0             its sound with that much noise
    POST   /api/clips/ID/transcripts?modalities=both&snr=0    words with times, JSON lines
    GET    /api/clips/ID/transcripts/srt?modalities=both&snr=0    the same, to save

How JSON lines end, and what they tell before, says `desk.Desk.answer`. Errors are
`{"error": "one line"}`.
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
from avhubert_ext.serve.clips import Clip, Clips
from avhubert_ext.serve.desk import UNFORESEEN, BusyError, Desk
from avhubert_ext.serve.guard import Guard, TooLargeError
from avhubert_ext.serve.jobs import SHEET, Upload
from avhubert_ext.serve.limits import Limits
from avhubert_ext.serve.noise import LEVELS, noisy
from avhubert_ext.serve.process import Tell, WorkerProcess
from avhubert_ext.transcription.subtitles import FORMATS

PAGE = Path(__file__).with_name("page")
UPLOAD_SECONDS = 300  # until a file has come
SWEEP_SECONDS = 30  # between looks for clips to forget
LONGEST_NAME = 80  # characters of a file's name that are shown


@dataclass(frozen=True)
class Parts:
    """What the app works with.

    reader, recognizer: workers made of `jobs.make_reader` and `jobs.make_recognizer`.
    model: its name, to show. modalities: that it takes. noise: int16 [M], None for babble of the
    clip's own speech. folder: where uploads lie while they are read.
    """

    reader: WorkerProcess
    recognizer: WorkerProcess
    model: str
    modalities: tuple[str, ...]
    noise: np.ndarray | None
    noise_name: str
    folder: Path
    limits: Limits


def create_app(parts: Parts, host: str) -> FastAPI:
    """The application for a server bound to `host`."""
    limits = parts.limits
    clips = Clips(limits.clip_memory, limits.keep_seconds)
    reading, recognizing = Desk(limits.waiting), Desk(limits.waiting)

    @asynccontextmanager
    async def sweeping(_: FastAPI) -> AsyncIterator[None]:
        sweep = asyncio.create_task(_sweep(clips))
        yield
        sweep.cancel()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=sweeping)
    app.add_middleware(Guard, host=host, max_bytes=limits.megabytes * 10**6)
    _tell_errors_in_a_line(app)

    def known(clip: str) -> Clip:
        try:
            return clips.get(clip)
        except KeyError:
            raise HTTPException(404, "no such clip, or forgotten by now; send it again") from None

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

        def job(tell: Tell) -> dict[str, Any]:
            with file.file, tempfile.NamedTemporaryFile(dir=parts.folder) as copy:
                shutil.copyfileobj(file.file, copy)
                copy.flush()
                sent = Upload(Path(copy.name), _shown(file.filename), face)
                clip = parts.reader.run(sent, tell)
            if not _usable(clip, parts.modalities):
                raise InputError(
                    f"{clip.name}: this model takes {' or '.join(parts.modalities)}, and there is "
                    f"only {' and '.join(clip.modalities)} in it; send another clip"
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
            raise HTTPException(404, "the clip is a mouth region already, or has no video")
        return Response(picture, media_type="image/jpeg")

    @app.get("/api/clips/{clip}/audio")
    def audio(clip: str, snr: int | None = None) -> Response:
        found, level = known(clip), _level(snr)
        if found.audio is None:  # silence: the page's clock while it plays
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
                422, f"modalities={modalities}: of this clip and model {', '.join(usable)} work"
            )
        key = _key(modalities, level)

        def job(tell: Tell) -> dict[str, Any]:
            if key not in found.transcripts:
                audio = None if modalities == "video" else noisy(found.audio, parts.noise, level)
                seen = modalities != "audio"
                picture = (found.video, found.seen) if seen else (None, None)
                found.transcripts[key] = parts.recognizer.run((audio, *picture), tell)
            return asdict(found.transcripts[key])

        return await recognizing.answer(request, job)

    @app.get("/api/clips/{clip}/transcripts/{form}")
    def subtitles(clip: str, form: str, modalities: str, snr: int | None = None) -> Response:
        transcript = known(clip).transcripts.get(_key(modalities, _level(snr)))
        if transcript is None or form not in FORMATS:
            raise HTTPException(404, f"nothing recognized so, or no form of {' '.join(FORMATS)}")
        return Response(FORMATS[form](transcript), media_type="text/plain")

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


async def _sweep(clips: Clips) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        clips.forget_old()


async def _uploaded(request: Request) -> UploadFile:
    """The file in a form; until it is closed its bytes lie in memory or in a nameless file."""
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
    """Of a transcript; noise does not matter to lips."""
    return modalities, None if modalities == "video" else level


def _shown(name: str | None) -> str:
    """A file's name to show: never a path, nor anything a terminal would act on."""
    last = PurePath((name or "").replace("\\", "/")).name
    printable = "".join(c for c in last if c.isprintable())
    return printable[-LONGEST_NAME:] if printable.strip(". ") else "upload"


def _usable(clip: Clip, of_model: tuple[str, ...]) -> list[str]:
    return [m for m in clip.modalities if m in of_model]


def _description(name: str, clip: Clip, of_model: tuple[str, ...]) -> dict[str, Any]:
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


def _tell_errors_in_a_line(app: FastAPI) -> None:
    """All errors are JSON with one line that tells what is wrong and what to do."""

    def told(status: int, of: Callable[[Any], str]) -> Callable[[Request, Any], JSONResponse]:
        return lambda _, error: JSONResponse({"error": of(error)}, status)

    app.add_exception_handler(BusyError, told(503, str))
    app.add_exception_handler(TooLargeError, told(413, str))
    app.add_exception_handler(Exception, told(500, lambda _: UNFORESEEN))
    app.add_exception_handler(ClientDisconnect, told(400, lambda _: "the file broke off"))
    app.add_exception_handler(asyncio.TimeoutError, told(408, lambda _: "the file came too slowly"))
    app.add_exception_handler(
        AnyHTTPException,
        lambda _, error: JSONResponse({"error": error.detail}, error.status_code),
    )
    app.add_exception_handler(
        RequestValidationError,
        told(422, lambda error: "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())),
    )
