"""Serves a handler project alone: no supervisor, no agent. A program for the tests of the HTTP contract.

    python serve_project.py FOLDER CARRIER DESCRIPTOR THREADS MAX_BODY_BYTES MAX_IN_FLIGHT HANDLER
                            [MODELS CELLS CONTROL CACHE_SIZE]

HANDLER holds more keys of the API file's section, as JSON with durations in nanoseconds.
CARRIER is `wsgi` or `asgi` on the runtime's own server, or `uvicorn`. Log records are JSON lines on stderr.
With MODELS, a folder for a snapshot, there is an agent on the other end of CONTROL; a CACHE_SIZE of 0 is none.
"""

from __future__ import annotations

import gc
import json
import logging
import socket
import sys
import threading
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cortex_core.models.tree import shown
from cortex_core.release import Release, make_release
from cortex_core.spec.types import (
    Autoscaling,
    Compute,
    Handler,
    Models,
    Networking,
    RealtimeAPI,
    UpdateStrategy,
)
from cortex_serve import control, server, snapshot
from cortex_serve.application import Application, HandlerFailed, create_application, load_handler
from cortex_serve.cells import Cells
from cortex_serve.models.table import ModelTable, Waits


class JsonLog:
    """What `cortex_serve.log.Log` is, written to stderr at once."""

    def __init__(self) -> None:
        self.logger = logging.getLogger("cortex")
        self.request_id: ContextVar[str] = ContextVar("request_id", default="")
        self._writing = threading.Lock()
        handler = logging.Handler()
        handler.emit = self._emit  # type: ignore[method-assign]  # a handler of one method
        self.logger.addHandler(handler)
        self.logger.setLevel("DEBUG")

    def access(self, method: str, path: str, status: int, seconds: float, request_id: str) -> None:
        self._write({"access": [method, path, status], "request_id": request_id, "seconds": seconds})

    def _emit(self, record: logging.LogRecord) -> None:
        text = logging.Formatter("%(message)s").format(record)
        self._write({"level": record.levelname, "text": text, "request_id": self.request_id.get()})

    def _write(self, line: dict[str, Any]) -> None:
        with self._writing:
            sys.stderr.write(json.dumps(line) + "\n")
            sys.stderr.flush()


class Carried:
    """The application, to be served by the carrier a test names."""

    def __init__(self, application: Application, carrier: str) -> None:
        self.is_async = carrier != "wsgi"
        self.asgi = application.asgi
        self.wsgi = application.wsgi if carrier == "wsgi" else None
        self.batching = application.batching


def release_of(
    folder: Path,
    *,
    threads: int = 2,
    path: str = "handler.py",
    max_in_flight: int = 1024,
    models: Models | None = None,
    **handler: Any,
) -> Release:
    given = {"type": "python", "path": path, "threads_per_process": threads, "config": {"greeting": "hello"}}
    spec = RealtimeAPI(
        name="tested",
        handler=msgspec.structs.replace(
            msgspec.convert(given | handler, Handler), multi_model_reloading=models
        ),
        networking=Networking(endpoint="/tested"),
        compute=Compute(),
        autoscaling=Autoscaling(target_replica_concurrency=1.0, max_replica_concurrency=max_in_flight),
        update_strategy=UpdateStrategy(),
    )
    return make_release(spec, project_digest="0" * 64, project_url=folder.as_uri(), runtime_version="0")


def follow(log: JsonLog, models: str, cells: str, descriptor: str, cache_size: str) -> ModelTable:
    """A table of models that an agent outside of this process tells what to do."""
    connection = socket.socket(fileno=int(descriptor))
    table = ModelTable(
        Cells(int(cells)),
        read_snapshot=partial(snapshot.read, Path(models)),
        send=lambda message: connection.sendall(control.encode(message)),
        cache_size=int(cache_size) or None,
        load_timeout=20,
        names=partial(shown, api="tested"),
        logger=log.logger,
        waits=Waits(fetch=10, room=1, replaced=1, fallback=0.1),
    )

    def listen() -> None:
        while data := connection.recv(control.MAX_MESSAGE):
            order = control.decode_order(data)
            if isinstance(order, control.Here):
                table.answer(order)
            else:
                table.follow()

    table.follow()
    threading.Thread(target=listen, daemon=True).start()
    return table


def main() -> int:
    folder, carrier, descriptor, threads, max_body_bytes, max_in_flight, handler, *agent = sys.argv[1:]
    log = JsonLog()
    release = release_of(
        Path(folder),
        threads=int(threads),
        max_in_flight=int(max_in_flight),
        models=Models(dir="/models") if agent else None,
        **json.loads(handler),
    )
    table = follow(log, *agent) if agent else None
    try:
        cls = load_handler(release, Path(folder), log=log)
        application = create_application(
            release, cls, log=log, models=table, max_body_bytes=int(max_body_bytes)
        )
    except HandlerFailed as failure:
        sys.stderr.write(failure.message)
        return 1
    gc.freeze()
    if table is not None:
        table.start()
        table.wait_until_held()
    if carrier == "uvicorn":
        import uvicorn

        uvicorn.run(application.asgi, fd=int(descriptor), log_level="error", timeout_graceful_shutdown=2)
        application.close()
    else:
        server.run(
            Carried(application, carrier),  # type: ignore[arg-type]  # wsgi is None where it is not used
            listener=int(descriptor),
            threads=int(threads),
            in_flight=lambda: application.stats.snapshot().in_flight,
            started=lambda: None,
            leaves=lambda: None,
            left=application.close,
        )
    sys.stderr.write(json.dumps({"stats": str(application.stats.snapshot())}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
