"""BentoML: one worker, access log off, metrics off; adaptive batching in the batching row."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

from peers import served

SETTINGS = {
    "workers": 1,
    "logging": {"access": {"enabled": False}},
    "metrics": {"enabled": False},
    "traffic": {"timeout": 60},
}

if served.BATCH_SIZE:

    @bentoml.service(**SETTINGS)
    class Service:
        def __init__(self) -> None:
            self.handler = served.new_handler()

        @bentoml.api(batchable=True, max_batch_size=served.BATCH_SIZE, max_latency_ms=1000)
        def predict(self, payloads: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return self.handler.handle_post(payloads)

elif served.WORKLOAD == "body":

    @bentoml.service(**SETTINGS)
    class Service:
        def __init__(self) -> None:
            self.handler = served.new_handler()

        @bentoml.api
        async def predict(
            self, body: Annotated[Path, ContentType("application/octet-stream")], /
        ) -> dict[str, Any]:
            return self.handler.handle_post(body.read_bytes())

else:

    @bentoml.service(**SETTINGS)
    class Service:
        def __init__(self) -> None:
            self.handler = served.new_handler()

        @bentoml.api
        async def predict(self, payload: dict[str, Any], /) -> dict[str, Any]:
            return self.handler.handle_post(payload)


if __name__ == "__main__":
    bento = str(Path(sys.executable).with_name("bentoml"))
    os.execv(
        bento,
        [
            bento,
            "serve",
            "peers.bentoml_server:Service",
            "--host",
            "127.0.0.1",
            "--port",
            str(served.PORT),
            "-q",
        ],
    )
