"""The bare server that ours stands on: granian's WSGI interface, one blocking thread, the standard library's JSON."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from peers import served

handler = served.new_handler()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    payload = environ["wsgi.input"].read()
    answer = handler.handle_post(payload if served.WORKLOAD == "body" else json.loads(payload))
    body = json.dumps(answer).encode()
    start_response("200 OK", [("content-type", "application/json"), ("content-length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    os.execv(
        sys.executable,
        [sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(served.PORT),
         "--blocking-threads", "1", "--no-ws", "--log-level", "error", "peers.granian_server:app"],
    )  # fmt: skip
