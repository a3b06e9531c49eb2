"""MLServer: in one process (`parallel_workers: 0`), without its debug mode, gzip and metrics; adaptive batching in its row.

The model answers its inference protocol; the same is there as a custom endpoint, which passes by that protocol and
everything that MLServer does around it (names, types, parameters, batches).
"""

import base64
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput
from starlette.requests import Request
from starlette.responses import Response

from peers import served


class Model(MLModel):
    async def load(self) -> bool:
        self.handler = served.new_handler()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        output = PREDICT[served.WORKLOAD](self.handler, payload.inputs[0])
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])

    @custom_handler(rest_path="/predict")
    async def predict_custom(self, request: Request) -> Response:
        body = await request.body()
        answer = self.handler.handle_post(body if served.WORKLOAD == "body" else orjson.loads(body))
        return Response(orjson.dumps(answer), media_type="application/json")


def predict_json(handler: Any, given: RequestInput) -> ResponseOutput:
    """JSON in a string, as in its documents' example of JSON of one's own."""
    (text,) = StringCodec.decode_input(given)
    return StringCodec.encode_output(
        "answer", [orjson.dumps(handler.handle_post(orjson.loads(text))).decode()]
    )


def predict_iris(handler: Any, given: RequestInput) -> ResponseOutput:
    return StringCodec.encode_output("species", [handler.handle_post({"row": given.data.root})["species"]])


def predict_floats(handler: Any, given: RequestInput) -> ResponseOutput:
    total = handler.handle_post({"values": given.data.root})["sum"]
    return ResponseOutput(name="sum", shape=[1], datatype="FP64", data=[total])


def predict_body(handler: Any, given: RequestInput) -> ResponseOutput:
    (text,) = given.data.root
    answer = handler.handle_post(base64.b64decode(text))
    return ResponseOutput(name="bytes", shape=[2], datatype="INT64", data=[answer["bytes"], answer["last"]])


def predict_batch(handler: Any, given: RequestInput) -> ResponseOutput:
    answers = handler.handle_post([{"n": number} for number in given.data.root])
    doubles = [answer["double"] for answer in answers]
    return ResponseOutput(name="double", shape=[len(doubles), 1], datatype="INT64", data=doubles)


PREDICT = {
    "echo": predict_json,
    "iris": predict_iris,
    "floats": predict_floats,
    "body": predict_body,
    "batched": predict_batch,
}


def write_settings(folder: Path) -> None:
    grpc_port, metrics_port = map(int, os.environ["BENCH_MORE_PORTS"].split())
    server = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": served.PORT,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "gzip_enabled": False,
    }
    model: dict[str, Any] = {"name": "model", "implementation": "peers.mlserver_server.Model"}
    if served.BATCH_SIZE:
        model |= {"max_batch_size": served.BATCH_SIZE, "max_batch_time": 0.005}
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))


if __name__ == "__main__":
    folder = tempfile.mkdtemp(dir=os.environ["BENCH_FOLDER"])
    write_settings(Path(folder))
    mlserver = str(Path(sys.executable).with_name("mlserver"))
    os.execv(mlserver, [mlserver, "start", folder])
