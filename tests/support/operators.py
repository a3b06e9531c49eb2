"""An operator over fakes, with projects and API files to give it."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from cortex_core import archive
from cortex_core.home import Home
from cortex_core.operator_api import ApiResult, ApiStatus, Deployment, DeployRequest
from cortex_core.spec.load import ListLocations
from cortex_operator.backends.protocol import Replica
from cortex_operator.clock import Clock
from cortex_operator.model_listings import list_locations
from cortex_operator.model_reports import Ask, Report
from cortex_operator.operator import Operator, create_operator
from support.fake_backend import FakeBackend
from support.fake_clock import FakeClock
from support.fake_gateway import FakeGateway

T = TypeVar("T")

HANDLER = """\
class Handler:
    def __init__(self, config, model_client=None):
        pass

    def load_model(self, model_path):
        return model_path

    def handle_post(self, payload):
        return payload
"""


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a test that waits for things."""
    return asyncio.run(scenario)


def config(name: str = "iris", *, endpoint: str | None = None, value: str = "1", more: str = "") -> str:
    """One RealtimeAPI as people write it."""
    networking = f"  networking:\n    endpoint: {endpoint}\n" if endpoint else ""
    return f"""\
- name: {name}
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    config:
      value: "{value}"
{networking}{more}"""


def scaled(least: int, most: int, initially: int | None = None) -> str:
    """The autoscaling section."""
    first = least if initially is None else initially
    return (
        f"  autoscaling:\n    min_replicas: {least}\n    max_replicas: {most}\n    init_replicas: {first}\n"
    )


@dataclass(frozen=True)
class Files:
    """A project tree in memory."""

    folder: Path
    files: Sequence[str] = ("handler.py",)

    def open(self, path: str) -> BinaryIO:
        return (self.folder / path).open("rb")


def packed(code: str) -> tuple[bytes, str]:
    """The archive of a project that is one handler.py, which differs by `code`, and its digest."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "handler.py").write_text(f"{HANDLER}# {code!r}\n")
        into = io.BytesIO()
        digest = archive.pack(Files(Path(folder)), into)
    return into.getvalue(), digest


async def no_models(_: Replica) -> Report:
    """What a replica says that has seen none yet."""
    return ()


@dataclass
class World:
    """One home, and what outlives the operators in it."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    backend: FakeBackend = field(default_factory=FakeBackend)
    gateway: FakeGateway = field(default_factory=FakeGateway)
    operators: list[Operator] = field(default_factory=list)
    list_locations: ListLocations = list_locations
    ask: Ask = no_models

    @property
    def home(self) -> Home:
        return Home(root=self.folder / "home", gateway_port=18888, operator_port=18889)

    @property
    def project(self) -> Path:
        """Where API files lie."""
        return self.folder / "project"

    @property
    def operator(self) -> Operator:
        return self.operators[-1]

    async def start(self, clock: Clock | None = None) -> Operator:
        """A new operator of this home, open."""
        operator = create_operator(
            self.home,
            self.backend,
            self.gateway,
            clock=clock or self.clock,
            list_locations=self.list_locations,
            ask=self.ask,
        )
        self.operators.append(operator)
        await operator.open()
        return operator

    async def upload(self, code: str) -> str:
        """A project in the bucket; its digest."""
        content, digest = packed(code)
        file = self.folder / "upload.tar.gz"
        file.write_bytes(content)
        await self.operator.add_project(digest, file)
        return digest

    async def begin(self, text: str, code: str = "first", *, force: bool = False) -> ApiResult:
        """Deploy a file of one API without waiting for it."""
        digest = await self.upload(code)
        request = DeployRequest(config=text, project_digest=digest, folder=str(self.project), force=force)
        response = await self.operator.deploy(request)
        (result,) = response.results
        return result

    async def deploy(self, text: str, code: str = "first", *, force: bool = False) -> Deployment:
        """Deploy a file of one API and let time pass until it is over and nothing is left to do."""
        return await self.finished(await self.begin(text, code, force=force))

    async def finished(self, result: ApiResult) -> Deployment:
        """A deployment when it is over."""
        assert result.deployment_id is not None, result
        while True:
            deployment = await self.operator.deployment(result.deployment_id)
            if deployment.finished_at is not None:
                await self.clock.advance(5)
                return deployment
            await self.clock.advance(1)

    async def status(self, name: str = "iris") -> ApiStatus:
        return await self.operator.status(name)
