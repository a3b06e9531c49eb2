"""C-43 to C-64 over HTTP: which model a request gets, what its answer says of it, and when models go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.installation import wait_for
from support.model_agent import RemoteAgent, model, servable

from cortex_serve import control
from cortex_serve.snapshot import ServedModel

if TYPE_CHECKING:
    from conftest import Served

SOURCE = """
    import asyncio, threading, time
    from pathlib import Path
    from cortex_internal.lib.log import logger
    from starlette.exceptions import HTTPException

    held = Path("../held").absolute()


    class Model:
        def __init__(self, path):
            self.path = path

        def __del__(self):
            logger.info("%s went on %s", self.path, threading.current_thread().name)


    class Handler:
        def __init__(self, config, model_client):
            self.config, self.client = config, model_client
            self.first = model_client.get_model("a").path

        def load_model(self, model_path):
            self.config["greeting"]  # the instance is there also when the constructor asks for a model
            if "broken" in model_path:
                raise ValueError("bad")
            return Model(model_path)

        def wait(self):
            while held.exists():
                time.sleep(0.01)

        def handle_get(self, query_params):
            names = query_params.getlist("name")
            found = [self.client.get_model(name, query_params.get("version")).path for name in names]
            if "wait" in query_params:
                self.wait()
                found += [self.client.get_model(name).path for name in names]
            return {"found": found, "first": self.first}

        def handle_put(self, query_params):
            self.client.get_model("a")
            raise HTTPException(418, "teapot") if "http" in query_params else ValueError("mine")

        def handle_delete(self):
            def chunks():
                yield self.client.get_model("a").path + " "
                self.wait()
                yield self.client.get_model("a").path + " " + self.client.get_model("b").path
            return chunks()

        def handle_patch(self):
            def after():
                self.wait()
                logger.info("afterwards %s", self.client.get_model("a").path)
            return self.client.get_model("a").path, after
"""

ASYNC_SOURCE = SOURCE.replace("def handle_get", "async def handle_get").replace(
    "self.wait()\n                found", "await asyncio.to_thread(self.wait)\n                found"
)


def named(name: str, *serials: int, target: int | None = None) -> ServedModel:
    """A model all of whose versions are resident, but those below the target."""
    target = serials[-1] if target is None else target
    return model(*(servable(each, resident=each >= target) for each in serials), name=name, target=target)


class Live:
    """A served project and its agent."""

    def __init__(self, served: Served, agent: RemoteAgent, held: Path) -> None:
        self.served = served
        self.agent = agent
        self.held = held

    def get(self, method: str = "GET", **query: str) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=20) as client:
            return client.request(method, self.served.url, params=query)

    def hold(self) -> None:
        """Make requests that wait wait."""
        self.held.touch()

    def release(self) -> None:
        self.held.unlink(missing_ok=True)

    def switch(self, *models: ServedModel) -> None:
        """As an agent does: the old and the new, then the cells, then the new."""
        self.agent.publish(*models)
        for each in models:
            for resident in each.versions:
                if resident.resident:
                    self.agent.wait_for(control.ModelLoaded(serial=resident.serial, seconds=0.0))
            self.agent.switch(each.name, each.target)


@pytest.fixture(params=["wsgi", "asgi", "async"])
def live(request: pytest.FixtureRequest, serve: Callable[..., Served], tmp_path: Path) -> Iterator[Live]:
    """Models `a` (1 and 2, the latter live) and `b` (3)."""
    models = tmp_path / "models"
    models.mkdir()
    agent = RemoteAgent(models)
    agent.publish(named("a", 1, 2, target=2), named("b", 3))
    agent.switch("a", 2)
    agent.switch("b", 3)
    is_async = request.param == "async"
    carrier = "asgi" if is_async else request.param
    served = serve(ASYNC_SOURCE if is_async else SOURCE, carrier=carrier, threads=4, agent=agent)
    yield Live(served, agent, tmp_path / "held")
    (tmp_path / "held").unlink(missing_ok=True)
    served.close()
    agent.close()


def test_requests_name_what_they_used(live: Live) -> None:
    latest = live.get(name="a")
    assert latest.json() == {"found": ["/models/2/2"], "first": "/models/2/2"}
    assert latest.headers["x-cortex-model"] == "a:2"
    assert live.get(name="a", version="1").headers["x-cortex-model"] == "a:1"
    both = httpx.get(live.served.url + "?name=b&name=a&name=b", trust_env=False)
    assert both.headers["x-cortex-model"] == "b:3,a:2"
    assert "x-cortex-model" not in live.get().headers
    info = httpx.get(live.served.url + "info", trust_env=False)
    assert info.json() == {
        "model_metadata": {
            "a": {"versions": ["1", "2"], "latest": "2"},
            "b": {"versions": ["3"], "latest": "3"},
        }
    }
    assert "x-cortex-model" not in info.headers


def test_errors_of_the_handler_name_the_model_too(live: Live) -> None:
    for query, status in (({}, 500), ({"http": "1"}, 418)):
        answer = live.get("PUT", **query)
        assert (answer.status_code, answer.headers["x-cortex-model"]) == (status, "a:2")


ERRORS: list[tuple[dict[str, str], int, str, str, str]] = [
    ({"name": "x"}, 404, "unknown_model", "there is no model 'x'; available: 'a', 'b' and 'c'", ""),
    ({"name": "a", "version": "9"}, 404, "unknown_version", "model 'a' has no version '9'; available: '4', '2' and '1'", ""),
    ({"name": "a", "version": "4"}, 503, "model_failed", "model 'a': version '4' cannot be loaded", ": ValueError: bad"),
    ({"name": "c"}, 503, "model_unavailable", "model 'c' is being replaced; try again", ""),
]  # fmt: skip


def test_what_cannot_be_had(live: Live) -> None:
    versions = (servable(1), servable(2, resident=True), servable(4, directory="/broken"))
    live.agent.publish(
        model(*versions, name="a", target=2), named("b", 3), model(servable(5), name="c", target=0)
    )
    for query, status, code, message, cause in ERRORS:
        answer = wait_for(
            lambda query=query, code=code: (
                got if (got := live.get(**query)).json().get("code") == code else None
            ),
            within=10,
            what=code,
        )
        assert answer.status_code == status
        request_id = answer.headers["x-request-id"]
        assert answer.json() == {"code": code, "message": message, "request_id": request_id}
        assert answer.headers.get("retry-after") == ("1" if code == "model_unavailable" else None)
        lines = [line for line in live.served.log(request_id=request_id) if "text" in line]
        assert [(line["level"], line["text"]) for line in lines] == [("WARNING", message + cause)]


def test_c53_a_request_keeps_its_model_until_it_ends(live: Live) -> None:
    live.hold()
    answers: list[Any] = []
    kept = threading.Thread(target=lambda: answers.append(live.get(name="a", wait="1")), daemon=True)
    streamed = httpx.stream("DELETE", live.served.url, trust_env=False, timeout=20)
    with streamed as response:
        chunks = response.iter_text()
        assert next(chunks) == "/models/2/2 "
        assert response.headers["x-cortex-model"] == "a:2"
        called = live.get("PATCH")
        assert (called.text, called.headers["x-cortex-model"]) == ("/models/2/2", "a:2")
        kept.start()
        live.switch(named("a", 1, 2, 6, target=6), named("b", 3))
        assert live.get(name="a").json()["found"] == ["/models/6/6"]
        live.agent.publish(named("a", 6), named("b", 3))
        assert live.agent.said(control.ModelDropped) == []
        live.release()
        assert "".join(chunks) == "/models/2/2 /models/3/3"
    kept.join(20)
    before, after = answers[0].json()["found"]
    assert before == after
    live.served.wait_for_log("afterwards /models/2/2")
    live.agent.wait_for(control.ModelDropped(serial=2))
    live.served.wait_for_log("/models/2/2 went on cortex-drop-models")


def test_c64_what_is_not_here_is_fetched_while_the_request_waits(live: Live) -> None:
    live.agent.fetch = lambda want: live.agent.tell(control.Here(serial=want.serial, directory="/fetched"))
    live.agent.publish(
        model(servable(2, resident=True), servable(7, directory=None), name="a", target=2), named("b", 3)
    )
    fetched = wait_for(
        lambda: got if (got := live.get(name="a", version="7")).status_code == 200 else None,
        within=10,
        what="version 7 is known",
    )
    assert fetched.json()["found"] == ["/fetched"]
    assert fetched.headers["x-cortex-model"] == "a:7"


def test_a_swap_under_load_never_fails_and_never_goes_back(live: Live) -> None:
    stop = threading.Event()
    seen: list[list[int]] = [[], []]
    failed: list[Any] = []

    def ask(mine: list[int]) -> None:
        with httpx.Client(trust_env=False, timeout=20) as client:
            while not stop.is_set():
                answer = client.get(live.served.url, params={"name": "a"})
                serial = int(answer.headers.get("x-cortex-model", "a:0")[2:])
                if answer.status_code != 200 or answer.json()["found"] != [f"/models/{serial}/{serial}"]:
                    failed.append(answer)
                mine.append(serial)

    clients = [threading.Thread(target=ask, args=(mine,), daemon=True) for mine in seen]
    for each in clients:
        each.start()
    for serial in range(10, 30):
        live.switch(named("a", serial - 1 if serial > 10 else 2, serial), named("b", 3))
        live.agent.publish(named("a", serial), named("b", 3))
    wait_for(lambda: all(mine and mine[-1] == 29 for mine in seen), within=10, what="all have the last one")
    stop.set()
    for each in clients:
        each.join(20)
    assert failed == []
    assert all(mine == sorted(mine) for mine in seen)
    wait_for(lambda: len(live.agent.said(control.ModelDropped)) == 20, within=10, what="the old ones go")
