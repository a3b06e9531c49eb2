"""LitServe: one worker, one API server, `fast_queue` as its documents advise above 100 requests a second."""

from typing import Annotated, Any

import litserve
from fastapi import Body

from peers import served


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.handler = served.new_handler()

    def predict(self, payload: Any) -> Any:
        return self.handler.handle_post(payload)


class BytesApi(Api):
    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        return request


class BatchingApi(Api):
    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output


def new_api() -> litserve.LitAPI:
    if served.BATCH_SIZE:
        return BatchingApi(max_batch_size=served.BATCH_SIZE, batch_timeout=0.005)
    return BytesApi() if served.WORKLOAD == "body" else Api()


if __name__ == "__main__":
    server = litserve.LitServer(
        new_api(), accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True
    )
    server.run(host="127.0.0.1", port=served.PORT, num_api_servers=1, log_level="warning", access_log=False,
               generate_client_file=False)  # fmt: skip
