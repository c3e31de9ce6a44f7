"""The server: a socket, two worker processes, and a clean shutdown."""

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
from avhubert_ext.serve.limits import LIMITS, ServeLimits
from avhubert_ext.serve.process import WorkerProcess

OWN_BABBLE = "babble of the clip's own speech"
EXPOSED = (
    "is not a loopback address: everyone who can reach this machine can use the page, and "
    "browsers allow the camera only on localhost or over HTTPS"
)
MOST_CONNECTIONS = 100  # a browser opens up to six, and each may be an upload
LEAVE_SECONDS = 2  # for running requests at shutdown


def serve(
    load: Callable[[], Recognizer],
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    noise: Path | None = None,
    longest: float = 15.0,
    landmark_model: Path | None = None,
    limits: ServeLimits = LIMITS,
) -> None:
    """Serve the page until the process is interrupted (SIGINT, SIGTERM).

    Args:
        load: Opens the recognizer; called in another process, so it must be picklable.
        model: Name of the model, for display.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        noise: A sound file, or None for babble made from the clip's own speech.
        longest: Seconds that are recognized at once.
        landmark_model: See `open_landmarker`.
        limits: Limits on uploads, time and memory.

    Raises:
        InputError: If the port is in use, or the model or the noise cannot be read.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both signals have the same effect
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # the answer has the error
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
        print(f"http://{shown}:{listener.getsockname()[1]}/  (Ctrl-C to stop)", flush=True)
        if not is_loopback(host):
            print(f"warning: {host} {EXPOSED}", file=sys.stderr)
        _Server(config, (reader, recognizer)).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends the workers first, so that running requests end at once."""

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
            reason = f"{host}:{port}: cannot listen here ({error.strerror}); use another --host"
        raise InputError(reason) from None
    return listener
