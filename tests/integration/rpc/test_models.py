"""Models under gRPC: one version for each RPC, named in its trailing metadata; swaps that no RPC notices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.installation import wait_for
from support.model_agent import RemoteAgent, model, servable
from support.talk import Served

from cortex_serve import control

SOURCE = """
    import time
    from pathlib import Path
    from cortex_internal.lib.log import logger
    from shared.text_pb2 import Text

    held = Path("../held").absolute()


    class Model:
        def __init__(self, path):
            self.path = path

        def __del__(self):
            logger.info("%s went", self.path)


    class Handler:
        def __init__(self, config, proto_module_pb2, model_client):
            self.client = model_client
            self.first = model_client.get_model("a").path

        def load_model(self, model_path):
            return Model(model_path)

        def used(self):
            return Text(text=self.client.get_model("a").path)

        def wait(self):
            deadline = time.monotonic() + 20
            while held.exists() and time.monotonic() < deadline:
                time.sleep(0.005)

        def Echo(self, payload):
            if payload.text:
                self.client.get_model(payload.text, 9)
            return self.used()

        def Count(self, payload):
            yield self.used()
            self.wait()
            yield self.used()

        def Join(self, payload):
            words = [self.used().text for each in payload]
            return Text(text=" ".join(words))

        def Chat(self, payload):
            for each in payload:
                yield self.used()

        def Nothing(self): ...
"""

ASYNC = (
    SOURCE.replace("def Echo", "async def Echo")
    .replace("def Count", "async def Count")
    .replace("self.wait()\n", "await asyncio.to_thread(self.wait)\n")
    .replace("import time", "import asyncio, time")
    .replace("def Chat", "async def Chat")
    .replace("for each in payload:", "async for each in payload:")
)
"""Join stays a plain method beside coroutines."""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RemoteAgent]:
    agent = RemoteAgent(tmp_path / "models")
    agent.folder.mkdir()
    yield agent
    agent.close()


@pytest.fixture(params=[SOURCE, ASYNC], ids=["plain", "async"])
def api(request: pytest.FixtureRequest, agent: RemoteAgent, serve: Callable[..., Served]) -> Served:
    publish(agent, 1)
    return serve(request.param, threads=2, agent=agent)


def publish(agent: RemoteAgent, *serials: int) -> None:
    """Have these versions in memory, the last one being the target; a version's serial is its number."""
    agent.publish(model(*(servable(serial, resident=True) for serial in serials), name="a"))


def switch(agent: RemoteAgent, old: int, new: int) -> None:
    """As an agent does: the old and the new, then the cell, then the new."""
    publish(agent, old, new)
    agent.wait_for(control.ModelLoaded(serial=new, seconds=0.0))
    agent.switch("a", new)
    publish(agent, new)


def path_of(number: int) -> str:
    return f"/models/{number}/{number}"


def test_rpcs_name_what_they_used(api: Served) -> None:
    for call in (
        lambda: api.stub.Echo.with_call(api.text()),
        lambda: api.stub.Join.with_call(iter([api.text()])),
    ):
        answer, ended = call()
        assert answer.text == path_of(1)
        assert dict(ended.trailing_metadata())["x-cortex-model"] == "a:1"
    for stream in (api.stub.Count(api.text()), api.stub.Chat(iter([api.text()]))):
        assert {each.text for each in stream} == {path_of(1)}
        assert dict(stream.trailing_metadata())["x-cortex-model"] == "a:1"


def test_what_cannot_be_had(api: Served) -> None:
    for name, details in (
        ("x", "there is no model 'x'; available: 'a'"),
        ("a", "model 'a' has no version '9'; available: '1'"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            api.stub.Echo(api.text(name))
        error: Any = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, details)
        request_id = dict(error.trailing_metadata())["x-request-id"]
        lines = [line for line in api.log(request_id=request_id) if "text" in line]
        assert [(line["level"], line["text"]) for line in lines] == [("WARNING", details)]


def test_an_rpc_keeps_its_version_until_it_ends(api: Served, agent: RemoteAgent, tmp_path: Path) -> None:
    held = tmp_path / "0/held"
    held.touch()
    stream = api.stub.Count(api.text())
    assert next(stream).text == path_of(1)
    switch(agent, 1, 2)
    wait_for(lambda: api.stub.Echo(api.text()).text == path_of(2), within=10, what="the new version")
    assert control.ModelDropped(serial=1) not in agent.messages
    held.unlink()
    assert [each.text for each in stream] == [path_of(1)]
    assert dict(stream.trailing_metadata())["x-cortex-model"] == "a:1"
    agent.wait_for(control.ModelDropped(serial=1))
    api.wait_for_log(f"{path_of(1)} went")


def test_a_client_that_leaves_gives_its_model_back(api: Served, agent: RemoteAgent, tmp_path: Path) -> None:
    held = tmp_path / "0/held"
    held.touch()
    stream = api.stub.Count(api.text())
    assert next(stream).text == path_of(1)
    stream.cancel()
    switch(agent, 1, 2)
    held.unlink()
    agent.wait_for(control.ModelDropped(serial=1))


def test_swaps_under_load_fail_nobody_and_go_forward(api: Served, agent: RemoteAgent) -> None:
    finished = threading.Event()

    def call_on(form: str) -> list[int]:
        stub = api.stubs.stub(channel := api.connect())
        versions: list[int] = []
        while not finished.is_set():
            if form == "Echo":
                found = [stub.Echo(api.text(), timeout=20).text]
            elif form == "Join":
                found = stub.Join(map(api.text, "abc"), timeout=20).text.split()
            else:
                found = [each.text for each in stub.Chat(map(api.text, "abc"), timeout=20)]
            assert len(set(found)) == 1
            versions.append(int(found[0].split("/")[-1]))
        channel.close()
        return versions

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(call_on, form) for form in ("Echo", "Echo", "Join", "Chat")]
        try:
            for old in range(1, 21):
                switch(agent, old, old + 1)
        finally:
            finished.set()
        for client in clients:
            versions = client.result()
            assert versions == sorted(versions)
            assert len(set(versions)) > 3
