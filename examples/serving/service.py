"""An HTTP service over a compiled model; docs/serving.md explains it.

python service.py model.strz --port 8000 --workers 2
curl --data-binary @cat.jpg http://127.0.0.1:8000/predict
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import uvicorn
from batching import Batcher
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from model import open_model
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from strzoo.errors import StrzooError

DRAIN = 2.0  # seconds in which a connection that is idle at the stop may still bring a request
DISCARDED = 1 << 20  # bytes of a request that is too large, which are read before it is answered


@dataclass(frozen=True)
class Settings:
    """Of one worker process.

    Args:
        model: a `.strz` or ONNX file.
        threads: that one run of the model uses.
        callers: batches that run side by side.
        batch: images in one.
        wait: seconds that an image waits for others to share its batch.
        queue: requests that may be in the process; more are refused with 503.
        deadline: seconds from a request's headers to its answer; later it is 504.
        max_bytes: of a request; larger ones are refused with 413.
        max_pixels: of an image, before it is resized.
        top: classes in an answer.
    """

    model: str
    threads: int = 1
    callers: int = 1
    batch: int = 8
    wait: float = 0.002
    queue: int = 64
    deadline: float = 10.0
    max_bytes: int = 10 << 20
    max_pixels: int = 25_000_000
    top: int = 5

    def __post_init__(self) -> None:
        least_of = {"wait": 0, "deadline": 0.001}
        for field in fields(self)[1:]:
            value, least = getattr(self, field.name), least_of.get(field.name, 1)
            if not least <= value < float("inf"):
                name = field.name.replace("_", "-")
                raise ValueError(f"--{name} is {value}; it must be at least {least}")


class Service:
    """The model of one process, and what waits for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model = open_model(settings.model, settings.threads)
        most = min(settings.batch, self.model.most or settings.batch)
        self.batcher = Batcher(self.model.run, most, settings.wait, settings.callers)
        self.decoders = ThreadPoolExecutor(settings.callers * settings.threads, "decode")
        self.pending, self.draining = 0, False

    def close(self) -> None:
        """Finish what was begun, and stop."""
        self.decoders.shutdown()
        self.batcher.close()

    async def predict(self, request: Request) -> list[dict[str, Any]]:
        """The answer to one request, or an HTTPException."""
        if self.pending >= self.settings.queue:
            raise HTTPException(503, "too many requests wait; try again", {"Retry-After": "1"})
        self.pending += 1
        try:
            return await asyncio.wait_for(self._predict(request), self.settings.deadline)
        except asyncio.TimeoutError:
            raise HTTPException(
                504, f"no answer within {self.settings.deadline:g} seconds"
            ) from None
        finally:
            self.pending -= 1

    async def _predict(self, request: Request) -> list[dict[str, Any]]:
        settings = self.settings
        try:
            content = await _read_body(request, settings.max_bytes)
        except ClientDisconnect:
            raise HTTPException(
                400, "the connection was closed before the image was whole"
            ) from None
        if not content:
            raise HTTPException(400, "the body is empty; send the bytes of an image")
        loop = asyncio.get_running_loop()
        try:
            image = await loop.run_in_executor(
                self.decoders, self.model.read_image, content, settings.max_pixels
            )
        except StrzooError as error:
            raise HTTPException(400, f"the image cannot be read: {error}") from None
        scores = await asyncio.wrap_future(self.batcher.submit(image))
        return self.model.read_scores(scores, settings.top)


async def _read_body(request: Request, most: int) -> bytes:
    """The body, of which no more than `most` bytes are ever held.

    Of one that is too large `DISCARDED` bytes more are read: a client that is still sending when
    its connection is closed does not see why.
    """
    stated = request.headers.get("content-length", "")
    too_large = stated.isdecimal() and int(stated) > most
    content, discarded = bytearray(), 0
    async for part in request.stream():
        too_large = too_large or len(content) + len(part) > most
        if too_large:
            discarded += len(part)
            if discarded > DISCARDED:
                break
        else:
            content += part
    if too_large:
        raise HTTPException(413, f"the request is larger than {most:,} bytes")
    return bytes(content)


def create_app(settings: Settings) -> FastAPI:
    """The application of one worker process; the model is opened before it takes requests."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Service]]:
        service = Service(settings)
        yield {"service": service}
        service.close()

    app = FastAPI(title="strzoo", lifespan=lifespan)

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        return JSONResponse({"guesses": await request.state.service.predict(request)})

    @app.get("/health")
    async def health(request: Request) -> JSONResponse:
        """Whether the process works; if not, it should be replaced."""
        alive = request.state.service.batcher.alive
        return JSONResponse({"alive": alive}, 200 if alive else 503)

    @app.get("/ready")
    async def ready(request: Request) -> JSONResponse:
        """Whether new requests should come here."""
        service: Service = request.state.service
        is_ready = service.batcher.alive and not service.draining
        found = {
            "ready": is_ready,
            "model": service.model.name,
            "engine": service.model.engine,
            "process": os.getpid(),
            "pending": service.pending,
        }
        return JSONResponse(found, 200 if is_ready else 503)

    return app


class DrainingProtocol(HttpToolsProtocol):
    """A connection that is not cut at the stop: each answer says that it is the last one, and a
    connection without a request is kept for `DRAIN` seconds, as one may be on its way."""

    draining = False

    def shutdown(self) -> None:
        """Called by the server when it stops, after it has closed the listening socket."""
        self.draining = self.app_state["service"].draining = True
        if self.cycle is not None:
            self.cycle.keep_alive = False
        self.loop.call_later(DRAIN, super().shutdown)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.draining:
            self.cycle.keep_alive = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a .strz or ONNX file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    for name, default in list(vars(Settings("")).items())[1:]:
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    options = vars(parser.parse_args())
    host, port, workers = (options.pop(name) for name in ("host", "port", "workers"))
    try:
        settings = Settings(**options)
    except ValueError as error:
        parser.error(str(error))
    if workers < 1:
        parser.error(f"--workers is {workers}; it must be at least 1")
    config = uvicorn.Config(
        partial(create_app, settings),
        factory=True,
        host=host,
        port=port,
        workers=workers,
        http=DrainingProtocol,
        access_log=False,
        timeout_keep_alive=65,  # longer than the proxies in front keep theirs
        timeout_graceful_shutdown=int(options["deadline"] + DRAIN) + 1,
        timeout_worker_healthcheck=60,  # which a model may take to open
    )
    # SIGHUP replaces the processes one by one, each when its successor is ready; SIGTERM ends all.
    Multiprocess(config, sockets=[config.bind_socket()]).run()


if __name__ == "__main__":
    main()
