"""C-71 to C-73, C7: requests in batches, through the sockets of real replicas."""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.replicas import RunningReplica, start_replica, until

from cortex_core.runtime import NOT_BEGUN
from cortex_core.spec.types import Models, ServerSideBatching

MILLISECOND = 1_000_000
WITHIN = 20.0

SOURCE = """
    import asyncio, logging, os, threading, time
    from starlette.exceptions import HTTPException
    from starlette.responses import PlainTextResponse, StreamingResponse

    logger = logging.getLogger("tested")
    held = "../held"


    def pieces(text):
        for letter in text:
            yield letter


    class Handler:
        def __init__(self, config):
            self.thread = threading.get_ident()

        def handle_post(self, payload, query_params, headers):
            while "hold" in payload and os.path.exists(held):
                time.sleep(0.005)
            logger.info("a batch of %d, same thread: %s", len(payload), threading.get_ident() == self.thread)
            for each in payload:
                if isinstance(each, dict) and "whole" in each:
                    return self.wrong(each["whole"], payload)
            return [self.one(*each) for each in zip(payload, query_params, headers)]

        def wrong(self, what, payload):
            if what == "raise":
                raise ValueError(f"bad: {payload}")
            if what == "http":
                raise HTTPException(418, detail=str(payload))
            if what == "exit":
                raise SystemExit(3)
            return {
                "longer": [*payload, "secret"],
                "shorter": payload[1:],
                "grown": self.grow(payload),
                "tuple": tuple(payload),
                "none": None,
                "dict": {"secret": payload},
                "pair": (list(payload), print),
                "generator": (each for each in payload),
            }[what]

        def grow(self, payload):
            grown = list(payload)
            grown.append("secret")
            return grown

        def one(self, payload, query, headers):
            what = payload.get("what") if isinstance(payload, dict) else None
            if what == "text":
                return "text"
            if what == "bytes":
                return b"bytes"
            if what == "response":
                return PlainTextResponse("teapot", status_code=418, headers={"x-own": "1"})
            if what == "bad header":
                return PlainTextResponse("text", headers={"x-own": "1\\r\\nx-other: 2"})
            if what == "stream":
                return pieces(payload["text"])
            if what == "streaming response":
                return StreamingResponse(pieces("abc"), status_code=201)
            if what == "broken stream":
                return pieces([1, 2])
            if what == "breaks off":
                return pieces(["first", 2])
            if what == "callback":
                return {"called": payload["name"]}, lambda: logger.info("called back for %s", payload["name"])
            if what == "unserializable":
                return object()
            return {"payload": payload, "query": dict(query), "header": headers.get("x-thing")}

        def handle_get(self):
            return threading.get_ident() == self.thread
"""


class Batched:
    """A replica, and batches put together while it is held."""

    def __init__(
        self, replica: RunningReplica, folder: Path, threads: ThreadPoolExecutor, client: httpx.Client
    ) -> None:
        self.replica = replica
        self.url = f"http://127.0.0.1:{replica.port}/"
        self._client = client
        self._held = folder / "held"
        self._threads = threads

    def post(self, value: Any, **options: Any) -> httpx.Response:
        return self._client.post(self.url, json=value, **options)

    def soon(self, value: Any, **options: Any) -> Future[httpx.Response]:
        return self._threads.submit(self.post, value, **options)

    def in_flight(self, count: int) -> None:
        """Wait until so many requests are."""
        until(lambda: self.replica.metric("cortex_in_flight_requests") == count, within=WITHIN)

    def waiting(self, count: int) -> None:
        """Wait until so many requests wait for their batch."""
        until(lambda: self.replica.metric("cortex_batch_waiting_requests") == count, within=WITHIN)

    def hold(self) -> Future[httpx.Response]:
        """Keep the handler busy until `let_go`."""
        self._held.touch()
        before = self.replica.metric("cortex_batch_size_count")
        first = self.soon("hold")
        until(lambda: self.replica.metric("cortex_batch_size_count") == before + 1, within=WITHIN)
        return first

    def let_go(self) -> None:
        self._held.unlink(missing_ok=True)

    def together(self, *values: Any, **options: Any) -> list[httpx.Response]:
        """The answers to the requests of one batch, which come in this order."""
        first = self.hold()
        answers = []
        for number, value in enumerate(values):
            answers.append(self.soon(value, **options))
            self.waiting(1 + number)
        self.let_go()
        assert first.result(WITHIN).status_code == 200
        return [answer.result(WITHIN) for answer in answers]

    def log_of(self, request_id: str) -> list[dict[str, Any]]:
        return [line for line in self.replica.log() if request_id in line.get("request_id", "").split(",")]


Start = Callable[..., Batched]


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(72) as threads:
        yield threads


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(timeout=WITHIN, trust_env=False, limits=limits) as client:
        yield client


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, threads: ThreadPoolExecutor, client: httpx.Client
) -> Iterator[Batched]:
    folder = tmp_path_factory.mktemp("batched")
    with start_replica(folder, SOURCE, server_side_batching=ServerSideBatching(max_batch_size=16)) as replica:
        batched = Batched(replica, folder, threads, client)
        yield batched
        batched.let_go()


@pytest.fixture
def serve(tmp_path: Path, threads: ThreadPoolExecutor, client: httpx.Client) -> Iterator[Start]:
    """Serve a handler with batches; the replica is gone after the test."""
    running: list[Any] = []

    def start(source: str = SOURCE, *, max_batch_size: int = 16, **options: Any) -> Batched:
        batching = {key: options.pop(key) for key in ("batch_interval", "target_latency") if key in options}
        spec = ServerSideBatching(max_batch_size=max_batch_size, **batching)
        manager = start_replica(tmp_path, source, server_side_batching=spec, **options)
        running.append(manager)
        return Batched(manager.__enter__(), tmp_path, threads, client)

    yield start
    (tmp_path / "held").unlink(missing_ok=True)
    for manager in running:
        manager.__exit__(None, None, None)


def test_lists_of_what_is_declared(api: Batched) -> None:
    first = api.hold()
    answers = []
    for number in range(5):
        given = {"params": {"q": str(number)}, "headers": {"x-thing": f"thing {number}"}}
        answers.append(api.soon({"n": number}, **given))
        api.waiting(1 + number)
    api.let_go()
    first.result(WITHIN)

    for number, answer in enumerate(answers):
        assert answer.result(WITHIN).json() == {
            "payload": {"n": number},
            "query": {"q": str(number)},
            "header": f"thing {number}",
        }
    until(lambda: "a batch of 5, same thread: True" in api.replica.messages())


def test_the_other_verbs_share_the_thread(api: Batched) -> None:
    assert httpx.get(api.url, trust_env=False).json() is True


def test_each_element_is_an_answer_of_its_own(api: Batched) -> None:
    text, data, response, bad, plain = api.together(
        {"what": "text"}, {"what": "bytes"}, {"what": "response"}, {"what": "unserializable"}, 5
    )

    assert (text.text, text.headers["content-type"]) == ("text", "text/plain; charset=utf-8")
    assert (data.content, data.headers["content-type"]) == (b"bytes", "application/octet-stream")
    assert (response.status_code, response.text, response.headers["x-own"]) == (418, "teapot", "1")
    assert (bad.status_code, bad.text) == (500, "internal server error")
    assert plain.json()["payload"] == 5
    assert len({each.headers["x-request-id"] for each in (text, data, response, bad, plain)}) == 5
    for each in (text, data, bad, plain):
        assert each.headers["access-control-allow-origin"] == "*"


def test_streams_and_callbacks(api: Batched) -> None:
    stream, response, callback, plain = api.together(
        {"what": "stream", "text": "letters"},
        {"what": "streaming response"},
        {"what": "callback", "name": "me"},
        7,
        headers={"x-request-id": "streams"},
    )

    assert (stream.status_code, stream.text) == (200, "letters")
    assert stream.headers["transfer-encoding"] == "chunked"
    assert (response.status_code, response.text) == (201, "abc")
    assert callback.json() == {"called": "me"}
    assert plain.json()["payload"] == 7
    [line] = until(lambda: [line for line in api.replica.log() if line["message"] == "called back for me"])
    assert line["request_id"] == "streams"
    api.in_flight(0)


def test_a_stream_that_breaks(api: Batched) -> None:
    broken, plain = api.together({"what": "broken stream"}, 3)

    assert (broken.status_code, broken.text) == (500, "internal server error")
    assert plain.json()["payload"] == 3


def test_a_stream_that_breaks_off_is_cut(api: Batched) -> None:
    """Not left open, and not ended as if it were whole."""
    with pytest.raises(httpx.RemoteProtocolError):
        api.together({"what": "breaks off"})

    api.in_flight(0)


def test_a_header_that_cannot_be_sent(api: Batched) -> None:
    bad, plain = api.together({"what": "bad header"}, 3)

    assert (bad.status_code, bad.text) == (500, "internal server error")
    assert "x-other" not in bad.headers
    assert plain.json()["payload"] == 3


MUST = "with server_side_batching it must return a list with one element for each request, in their order"


@pytest.mark.parametrize(
    ("whole", "text"),
    [
        ("longer", f"handle_post returned 4 results for 3 requests; {MUST}"),
        ("grown", f"handle_post returned 4 results for 3 requests; {MUST}"),
        ("shorter", f"handle_post returned 2 results for 3 requests; {MUST}"),
        ("tuple", f"handle_post returned a value of type 'tuple' for 3 requests; {MUST}"),
        ("none", f"handle_post returned a value of type 'NoneType' for 3 requests; {MUST}"),
        ("dict", f"handle_post returned a value of type 'dict' for 3 requests; {MUST}"),
        ("pair", f"handle_post returned a value of type 'tuple' for 3 requests; {MUST}"),
        ("generator", f"handle_post returned a value of type 'generator' for 3 requests; {MUST}"),
        ("raise", "internal server error"),
        ("http", "internal server error"),
        ("exit", "internal server error"),
    ],
)
def test_what_goes_wrong_for_all_is_said_to_all_in_our_words(api: Batched, whole: str, text: str) -> None:
    answers = api.together("mine", {"whole": whole}, "theirs", headers={"x-request-id": f"wrong-{whole}"})

    assert [(answer.status_code, answer.text) for answer in answers] == [(500, text)] * 3
    logged = until(lambda: [line for line in api.log_of(f"wrong-{whole}") if line["levelname"] == "ERROR"])
    assert text == logged[0]["message"] or "handler.py" in logged[0]["exc_info"]
    assert api.post("still there").status_code == 200


def test_what_is_not_for_a_batch(api: Batched) -> None:
    client = httpx.Client(base_url=api.url, trust_env=False, timeout=WITHIN)
    malformed = client.post("/", content=b"{", headers={"content-type": "application/json"})
    assert (malformed.status_code, malformed.json()["code"]) == (400, "invalid_json")
    assert client.get("/info").json() == {}
    assert client.options("/").status_code == 204
    refused = client.put("/")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST, GET, OPTIONS")
    assert client.post("/elsewhere").status_code == 404
    assert client.post("/", content=b"x" * (64 * 2**20 + 1)).status_code == 413


def test_bodies_in_pieces(api: Batched) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"a":'
        yield b" 1}"

    headers = {"content-type": "application/json"}
    answer = httpx.post(api.url, content=body(), headers=headers, trust_env=False)
    assert answer.json()["payload"] == {"a": 1}
    large = "x" * 3_000_000
    assert api.post(large).json()["payload"] == large
    empty = httpx.post(api.url, headers={"content-type": "text/plain"}, trust_env=False)
    assert empty.json()["payload"] == ""


def test_a_slow_body_stops_nobody(api: Batched) -> None:
    with socket.create_connection(("127.0.0.1", api.replica.port)) as slow:
        slow.sendall(
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\ncontent-type: text/plain\r\n\r\n12345"
        )
        api.in_flight(1)
        assert api.post(1).status_code == 200
        slow.sendall(b"67890")
        assert slow.recv(100).startswith(b"HTTP/1.1 200 OK")
    api.in_flight(0)


def test_clients_that_leave_leave_the_batch(api: Batched) -> None:
    before = api.replica.metric("cortex_client_closed_total")
    first = api.hold()
    stays = api.soon("stays", headers={"x-request-id": "stays"})
    api.waiting(1)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", api.replica.port)) as gone:
            gone.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\ngone")
            api.waiting(2)
        api.waiting(1)
    api.let_go()
    first.result(WITHIN)

    assert stays.result(WITHIN).json()["payload"] == "stays"
    assert api.replica.metric("cortex_client_closed_total") == before + 3
    until(lambda: "a batch of 1, same thread: True" in [line["message"] for line in api.log_of("stays")])


def test_who_leaves_while_the_batch_runs(api: Batched) -> None:
    before = api.replica.metric("cortex_client_closed_total")
    first = api.hold()
    with socket.create_connection(("127.0.0.1", api.replica.port)) as gone:
        gone.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        api.waiting(1)
    api.waiting(0)
    api.let_go()
    first.result(WITHIN)
    until(lambda: api.replica.metric("cortex_client_closed_total") == before + 1)


def test_log_lines_carry_the_ids_of_the_batch(api: Batched) -> None:
    first = api.hold()
    answers = []
    for number in range(2):
        answers.append(api.soon(number, headers={"x-request-id": f"id-{number}"}))
        api.waiting(1 + number)
    api.let_go()
    first.result(WITHIN)
    assert [answer.result(WITHIN).headers["x-request-id"] for answer in answers] == ["id-0", "id-1"]

    [line] = until(lambda: [line for line in api.log_of("id-1") if "a batch of 2" in line["message"]])
    assert line["request_id"] == "id-0,id-1"
    access = until(lambda: [line for line in api.log_of("id-0") if line["message"] == "POST / 200"])
    assert access[0]["request_id"] == "id-0"


def test_metrics(serve: Start) -> None:
    api = serve()
    api.together(1, 2, 3)

    assert api.replica.metric("cortex_batch_size_count") == 2
    assert api.replica.metric("cortex_batch_size_sum") == 4
    assert api.replica.metric("cortex_batch_wait_seconds_count") == 4
    assert api.replica.metric("cortex_batch_wait_seconds_sum") > 0
    assert 'cortex_batch_size_bucket{api_name="trial",le="4"} 2.0' in api.replica.admin("/metrics")[1]


def test_a_batch_waits_for_company_and_no_longer(serve: Start) -> None:
    api = serve(max_batch_size=4, batch_interval=800 * MILLISECOND)
    started = time.monotonic()
    assert api.post("alone").status_code == 200
    assert time.monotonic() - started >= 0.8

    started = time.monotonic()
    answers = [api.soon(number) for number in range(4)]
    assert all(answer.result(WITHIN).status_code == 200 for answer in answers)
    assert time.monotonic() - started < 0.8, "a full batch waited"
    until(lambda: "a batch of 4, same thread: True" in api.replica.messages())


def test_too_many_are_refused_at_once(serve: Start, threads: ThreadPoolExecutor) -> None:
    api = serve(max_replica_concurrency=4)
    first = api.hold()
    waiting = [api.soon(number) for number in range(3)]
    api.waiting(3)
    refused = api.post("too many")
    api.let_go()

    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"] in ("1", "2")
    assert [answer.result(WITHIN).status_code for answer in (first, *waiting)] == [200] * 4


def test_a_batch_past_its_time_and_those_that_wait_behind_it(serve: Start) -> None:
    """It is answered, they are sent elsewhere, and the worker is replaced by the supervisor."""
    api = serve(request_timeout=1000 * MILLISECOND)
    started = time.monotonic()
    first = api.hold()
    waits = api.soon("waits")

    away = waits.result(WITHIN)
    assert (away.status_code, away.json()["code"], away.headers[NOT_BEGUN]) == (503, "not_begun", "1")
    late = first.result(WITHIN)
    assert (late.status_code, late.json()["code"]) == (504, "timeout")
    assert time.monotonic() - started < 6
    until(lambda: [line for line in api.replica.log() if "it is started again" in line["message"]])
    api.let_go()


def test_a_target_refuses_what_could_not_be_answered_in_time(serve: Start) -> None:
    """Batches of 21 take 72 ms, so that two of them fit into the target; 64 callers would fill larger ones."""
    api = serve(
        """
        import time

        class Handler:
            def __init__(self, config): pass
            def handle_post(self, payload):
                time.sleep(0.03 + 0.002 * len(payload))
                return payload
        """,
        max_batch_size=64,
        target_latency=160 * MILLISECOND,
    )
    for number in range(8):
        assert api.post(number).status_code == 200
    ends = time.monotonic() + 3.0
    codes: list[str] = []

    def call() -> None:
        while time.monotonic() < ends:
            answer = api.post(1)
            codes.append("" if answer.status_code == 200 else answer.json()["code"])
            if codes[-1]:
                time.sleep(0.02)

    callers = [threading.Thread(target=call) for _ in range(64)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(WITHIN)

    assert set(codes) == {"", "overloaded"}
    assert codes.count("") > 0.4 * 3.0 / 0.072 * 21, "capacity was given away"
    metrics = api.replica.admin("/metrics")[1]
    waits = dict(re.findall(r'^cortex_batch_wait_seconds_bucket{.*le="(.*)"} (.*)$', metrics, re.MULTILINE))
    assert float(waits["0.1"]) > 0.9 * float(waits["+Inf"]), "they waited for batches that were too large"


def test_an_async_method(serve: Start) -> None:
    api = serve(
        """
        import asyncio

        class Handler:
            def __init__(self, config): pass
            async def handle_post(self, payload):
                await asyncio.sleep(0.01)
                if "bad" in payload:
                    raise ValueError("bad")
                if "exit" in payload:
                    raise SystemExit(3)
                return [[each, len(payload)] for each in payload]
            async def handle_get(self):
                return "get"
        """
    )
    answers = [api.soon(number) for number in range(20)]

    assert sorted(answer.result(WITHIN).json()[0] for answer in answers) == list(range(20))
    assert api.post("bad").status_code == 500
    [line] = until(lambda: [line for line in api.replica.log() if line["levelname"] == "ERROR"])
    assert line["exc_info"].splitlines()[1].strip().startswith('File "handler.py"')
    assert api.post("exit").status_code == 500
    assert httpx.get(api.url, trust_env=False).text == "get"
    assert api.replica.metric("cortex_worker_restarts_total") == 0


def test_an_async_method_that_takes_too_long(serve: Start) -> None:
    """It is cancelled, and its worker stays."""
    api = serve(
        """
        import asyncio

        class Handler:
            def __init__(self, config): pass
            async def handle_post(self, payload):
                await asyncio.sleep(60 if "long" in payload else 0)
                return payload
        """,
        request_timeout=1000 * MILLISECOND,
    )

    late = api.post("long")
    assert (late.status_code, late.json()["code"]) == (504, "timeout")
    ended = "a call of handle_post was ended: it did not finish within 1 s"
    until(lambda: ended in api.replica.messages())
    assert api.post("short").text == "short"
    assert not [line for line in api.replica.log() if line["levelname"] == "ERROR"]


def test_whoever_waits_is_answered_before_the_end(serve: Start) -> None:
    api = serve()
    first = api.hold()
    waiting = [api.soon(number) for number in range(5)]
    api.waiting(5)
    api.replica.signal(signal.SIGTERM)
    until(lambda: api.replica.health()["leaving"])
    api.let_go()

    assert [answer.result(WITHIN).status_code for answer in (first, *waiting)] == [200] * 6
    assert api.replica.wait(within=15) == 0


def test_without_handle_post(serve: Start) -> None:
    api = serve(
        "class Handler:\n    def __init__(self, config): pass\n    def handle_get(self): pass\n", wait=False
    )

    assert api.replica.wait() != 0
    assert "'handle_post' is missing, which 'server_side_batching' needs" in json.dumps(api.replica.log())


def test_nobody_gets_what_is_not_theirs(serve: Start) -> None:
    """Each request carries a nonce; batches fail, answers differ in kind and length, clients leave."""
    api = serve(
        """
        import random
        chance = random.Random(5)

        class Handler:
            def __init__(self, config): pass
            def handle_post(self, payload, query_params, headers):
                kind = chance.random()
                if kind < 0.01:
                    raise ValueError(str(payload))
                if kind < 0.02:
                    return payload[:-1]
                if kind < 0.03:
                    return tuple(payload)
                return [
                    nonce if i % 3 else {"nonce": nonce}
                    for i, (nonce, query, header) in enumerate(zip(payload, query_params, headers))
                    if nonce == query["nonce"] == header["x-nonce"] or exit()
                ]
        """,
        processes=2,
        max_batch_size=8,
        threads=1,
    )
    wrong: list[tuple[str, str]] = []
    counts = {200: 0, 500: 0}

    def call(number: int) -> None:
        chance = random.Random(number)
        port = api.replica.worker_ports[number % 2]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=WITHIN) as client:
            for _ in range(150):
                nonce = f"{chance.getrandbits(64):x}" + "x" * chance.choice((0, 10, 5000))
                if chance.random() < 0.02:
                    leave(port, nonce)
                    continue
                answer = client.post("/", json=nonce, params={"nonce": nonce}, headers={"x-nonce": nonce})
                counts[answer.status_code] += 1
                said = answer.text.removeprefix('{"nonce":').strip('" }')
                if answer.status_code == 200 and said != nonce:
                    wrong.append((nonce, answer.text))
                if answer.status_code == 500 and "x" * 10 in answer.text:
                    wrong.append((nonce, answer.text))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(24)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)

    assert not wrong
    assert counts[200] > 3000
    assert counts[500] > 10
    api.in_flight(0)
    requests = api.replica.metric("cortex_batch_size_sum")
    assert requests >= counts[200] + counts[500]
    assert api.replica.metric("cortex_batch_size_count") < requests


def leave(port: int, nonce: str) -> None:
    """Send a request and go."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        body = json.dumps(nonce).encode()
        head = f"POST /?nonce={nonce} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nx-nonce: {nonce}\r\n"
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


MODELS = """
    import time
    from pathlib import Path

    class Handler:
        def __init__(self, config, model_client):
            self.client = model_client

        def load_model(self, model_path):
            return Path(model_path).name

        def handle_post(self, payload):
            first = self.client.get_model()
            time.sleep(0.005)
            second = self.client.get_model()
            return [self.answer(each, first, second) for each in payload]

        def answer(self, each, first, second):
            if each == "stream":
                return (str(self.client.get_model()) for _ in range(3))
            if each == "callback":
                return [first, second], self.client.get_model
            return [first, second]
"""


def test_a_batch_uses_one_version_and_each_answer_names_it(serve: Start, tmp_path: Path) -> None:
    upstream = tmp_path / "upstream"
    publish(upstream, 1)
    api = serve(MODELS, multi_model_reloading=Models(path=str(upstream)))
    failures: list[str] = []
    done = threading.Event()

    def call(what: str) -> None:
        while not done.is_set():
            answer = api.post(what)
            said = answer.text if what == "stream" else "".join(answer.json())
            if answer.status_code != 200 or {f"trial:{version}" for version in said} != {
                answer.headers["x-cortex-model"]
            }:
                failures.append(f"{answer.status_code} {answer.text} {answer.headers}")

    callers = [threading.Thread(target=call, args=(what,)) for what in ("stream", "callback", *"abcdef")]
    for caller in callers:
        caller.start()
    for version in range(2, 8):
        publish(upstream, version)
        until(partial(now_is, api, version), within=WITHIN)
    done.set()
    for caller in callers:
        caller.join(WITHIN)

    assert not failures
    until(lambda: api.replica.metric("cortex_models_in_memory") == 1)


def now_is(api: Batched, version: int) -> bool:
    return bool(api.post("now").json() == [str(version)] * 2)


def publish(folder: Path, version: int) -> None:
    partial = folder.parent / "partial"
    partial.mkdir()
    (partial / "model.txt").write_text(str(version))
    folder.mkdir(exist_ok=True)
    partial.rename(folder / str(version))
