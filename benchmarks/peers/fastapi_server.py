"""FastAPI on uvicorn with uvloop and httptools; the endpoint is `async def`, or `def` when BENCH_STYLE says so."""

import os
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, Request

from peers import served

app = FastAPI()
handler = served.new_handler()


def answer(payload: Any) -> Any:
    return handler.handle_post([payload])[0] if served.WORKLOAD == "batched" else handler.handle_post(payload)


if os.environ["BENCH_STYLE"] == "def" and served.WORKLOAD == "body":

    @app.post("/")
    def post_bytes(body: Annotated[bytes, Body(media_type="application/octet-stream")]) -> dict[str, Any]:
        return answer(body)

elif os.environ["BENCH_STYLE"] == "def":

    @app.post("/")
    def post(payload: dict[str, Any]) -> dict[str, Any]:
        return answer(payload)

elif served.WORKLOAD == "body":

    @app.post("/")
    async def post_bytes_async(request: Request) -> dict[str, Any]:
        return answer(await request.body())

else:

    @app.post("/")
    async def post_async(payload: dict[str, Any]) -> dict[str, Any]:
        return answer(payload)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=served.PORT, loop="uvloop", http="httptools", access_log=False,
                log_level="warning")  # fmt: skip
