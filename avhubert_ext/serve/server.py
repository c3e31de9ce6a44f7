"""The server's life: a socket, two workers, and an end that leaves nothing behind."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import uvicorn

from avhubert_ext.data.media import read_audio
from avhubert_ext.errors import InputError
from avhubert_ext.recognizers.base import Recognizer
from avhubert_ext.serve.app import Parts, create_app
from avhubert_ext.serve.guard import is_loopback
from avhubert_ext.serve.jobs import make_reader, make_recognizer
from avhubert_ext.serve.limits import LIMITS, Limits
from avhubert_ext.serve.process import WorkerProcess

OWN_BABBLE = "babble of the clip's own speech"
EXPOSED = (
    "is not loopback: whoever reaches this machine can use the page, and browsers give it a "
    "camera only by way of localhost or HTTPS"
)
MOST_CONNECTIONS = 100  # a browser holds six; each may be an upload
LEAVE_SECONDS = 2  # for requests under way when the server ends


def serve(
    load: Callable[[], Recognizer],
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    noise: Path | None = None,
    longest: float = 15.0,
    landmark_model: Path | None = None,
    limits: Limits = LIMITS,
) -> None:
    """Serve the page until the process is interrupted (SIGINT, SIGTERM).

    load: makes the recognizer, in a process of its own, so it must pickle. model: its name, to
    show. port: 0 for any that is free. noise: a sound file, None for babble of the clip's own
    speech. longest: seconds that are recognized at once. landmark_model: see `open_landmarker`.
    Raises InputError for a taken port, and for a model or a noise that can't be read.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both signals end it the same way
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # the answer tells all there is
    with ExitStack() as stack:
        listener = stack.enter_context(closing(_listen(host, port)))
        samples = None if noise is None else read_audio(noise)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="avhubert-ext-")))
        seconds = limits.job_seconds
        read = partial(make_reader, limits, landmark_model)
        recognize = partial(make_recognizer, load, longest)
        reader = WorkerProcess(read, "reading the clip", folder, seconds, limits.memory)
        stack.callback(reader.close)
        recognizer = WorkerProcess(recognize, "recognizing the clip", folder, seconds)
        stack.callback(recognizer.close)
        modalities = recognizer.wait()
        reader.wait()
        parts = Parts(
            reader=reader,
            recognizer=recognizer,
            model=model,
            modalities=modalities,
            noise=samples,
            noise_name=OWN_BABBLE if noise is None else noise.name,
            folder=folder,
            limits=limits,
        )
        config = uvicorn.Config(
            create_app(parts, host),
            log_level="warning",
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=LEAVE_SECONDS,
        )
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{listener.getsockname()[1]}/  (Ctrl-C ends it)", flush=True)
        if not is_loopback(host):
            print(f"warning: {host} {EXPOSED}", file=sys.stderr)
        _Server(config, (reader, recognizer)).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends jobs first, so that their requests end and there is nothing to wait for."""

    def __init__(self, config: uvicorn.Config, workers: tuple[WorkerProcess, ...]) -> None:
        super().__init__(config)
        self._workers = workers

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for worker in self._workers:
            worker.close()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} is in use; choose another with --port"
        else:
            reason = f"{host}:{port}: cannot listen there ({error.strerror}); use another --host"
        raise InputError(reason) from None
    return listener
