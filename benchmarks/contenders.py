"""Who is compared: how each is started for a workload, asked, and read."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
from cores import SERVER, on_core
from environments import Unavailable, python_of
from load import Asked, Family
from support.installation import Installation, free_ports, wait_for
from support.replicas import NeverStarted, start_replica
from workloads import Workload

from cortex_core.spec.types import ServerSideBatching

HERE = Path(__file__).parent
START = 90
"""Seconds a server may take until it answers."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""For everyone: numpy on one core shall not start threads for more."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that answers.

    Attributes:
        url: without a path.
        family: its processes.
    """

    url: str
    family: Family


@dataclass(frozen=True, kw_only=True)
class Site:
    """What every server of a run is given.

    Attributes:
        folder: an empty one.
        config: of the handler.
    """

    folder: Path
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One server of the comparison.

    Attributes:
        name: on the command line.
        title: for people.
        start: starts it on the server's core and ends it.
        path: where the handler answers.
        wrap: the payload as this server wants it.
        unwrap: the handler's answer out of this server's.
        content_type: of requests; None: the workload's.
    """

    name: str
    title: str
    start: Callable[[Workload, Site], AbstractContextManager[Running]]
    path: str = "/"
    wrap: Callable[[Workload, Any], bytes] = lambda workload, payload: workload.encoded(payload)
    unwrap: Callable[[Workload, Any], Any] = lambda _, answer: answer
    content_type: str | None = None

    def ask(self, workload: Workload, running: Running, number: int) -> bytes:
        """Send a request and return the answer's body.

        Raises:
            OSError: there is none, or not with status 200.
        """
        request = urllib.request.Request(
            running.url + self.path,
            self.wrap(workload, workload.payload(number)),
            {"content-type": self.content_type or workload.content_type},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            body: bytes = response.read()
            return body

    def is_right(self, workload: Workload, number: int, body: bytes) -> bool:
        try:
            return bool(self.unwrap(workload, json.loads(body)) == workload.expected(number))
        except (ValueError, LookupError, TypeError):
            return False

    def asked(self, workload: Workload, running: Running, number: int, body: bytes) -> Asked:
        return Asked(
            url=running.url + self.path,
            body=self.wrap(workload, workload.payload(number)),
            content_type=self.content_type or workload.content_type,
            answer=body,
        )


@contextmanager
def replica(workload: Workload, site: Site) -> Iterator[Running]:
    """Ours, one worker, one thread."""
    size = workload.batch_size
    with served_by_us(
        site.folder,
        workload.source,
        config=dict(site.config),
        server_side_batching=ServerSideBatching(max_batch_size=size) if size else None,
    ) as running:
        yield running


@contextmanager
def served_by_us(folder: Path, source: str, **options: Any) -> Iterator[Running]:
    """`cortex-serve` with a release document, as a backend starts it.

    Args:
        options: of `support.replicas.start_replica`.

    Raises:
        Unavailable: it does not get ready.
    """
    with ExitStack() as stack:
        try:
            with on_core(SERVER):
                started = stack.enter_context(
                    start_replica(folder, source, environ=ONE_THREAD, wait=False, **options)
                )
            wait_for(
                lambda: started.process.poll() is not None or started.ready(),
                within=START,
                what="our replica is ready",
            )
        except (NeverStarted, TimeoutError, AssertionError) as error:
            raise Unavailable(str(error)) from None
        if started.process.poll() is not None:
            raise Unavailable("; ".join(started.messages()[-3:]))
        root = psutil.Process(started.process.pid)
        yield Running(
            url=f"http://127.0.0.1:{started.port}", family=lambda: [root, *root.children(recursive=True)]
        )


@contextmanager
def gateway(workload: Workload, site: Site) -> Iterator[Running]:
    """`cortex deploy` in a home of its own; operator, gateway and replica share the server's core."""
    project = site.folder / "project"
    project.mkdir()
    (project / "handler.py").write_text(workload.source)
    (project / "requirements.txt").write_text("scikit-learn==1.7.2\n" if workload.handler == "iris" else "")
    api = {
        "name": "compared",
        "kind": "RealtimeAPI",
        "handler": {"type": "python", "path": "handler.py", "config": dict(site.config), "env": ONE_THREAD},
    }
    (project / "cortex.yaml").write_text(json.dumps([api]))
    cortex = Installation(site.folder)
    try:
        with on_core(SERVER):
            cortex.run("deploy", "--yes", cwd=project, timeout=600)
        yield Running(url=cortex.url("compared"), family=cortex.processes)
    finally:
        cortex.down()


def peer(
    program: str, *, environment: str | None, style: str = ""
) -> Callable[[Workload, Site], AbstractContextManager[Running]]:
    """Starts `peers/<program>.py`.

    Args:
        environment: the peer whose environment it needs; None: ours.
        style: `BENCH_STYLE` of the program.
    """

    @contextmanager
    def start(workload: Workload, site: Site) -> Iterator[Running]:
        python = python_of(environment) if environment is not None else Path(sys.executable)
        port, *more = free_ports(3)
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(site.folder),
            "PYTHONPATH": str(HERE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BENTOML_DO_NOT_TRACK": "True",
            "BENCH_WORKLOAD": workload.handler,
            "BENCH_PORT": str(port),
            "BENCH_MORE_PORTS": " ".join(map(str, more)),
            "BENCH_BATCH_SIZE": str(workload.batch_size),
            "BENCH_CONFIG": json.dumps(dict(site.config)),
            "BENCH_FOLDER": str(site.folder),
            "BENCH_STYLE": style,
            **ONE_THREAD,
        }
        log = site.folder / "log"
        with on_core(SERVER), log.open("wb") as output:
            process = subprocess.Popen(
                [str(python), str(HERE / "peers" / f"{program}.py")],
                cwd=site.folder, env=variables, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        root = psutil.Process(process.pid)
        try:
            _wait_until_it_listens(process, port, log)
            yield Running(
                url=f"http://127.0.0.1:{port}", family=lambda: [root, *root.children(recursive=True)]
            )
        finally:
            _end(root, process)

    return start


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    def answers() -> bool:
        if process.poll() is not None:
            raise Unavailable(f"it ended: {' '.join(log.read_text(errors='replace').split())[-300:]}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2)
        except (urllib.error.HTTPError, HTTPException):
            return True
        except OSError:
            return False
        return True

    try:
        wait_for(answers, within=START, what="it answers")
    except AssertionError:
        raise Unavailable(f"it did not answer within {START} s") from None


def _end(root: psutil.Process, process: subprocess.Popen[bytes]) -> None:
    """It and all that it started: asked first, then killed."""
    try:
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for each in alive:
        each.kill()
    process.wait(10)


def _listed(workload: Workload, payload: Any) -> bytes:
    """BentoML's batches are made of lists."""
    return json.dumps({"payloads": [payload]}).encode() if workload.batch_size else workload.encoded(payload)


def _tensor(workload: Workload, payload: Any) -> bytes:
    """A request of MLServer's inference protocol."""
    datatype, shape, data = _input(workload.handler, payload)
    given = {"name": "given", "datatype": datatype, "shape": shape, "data": data}
    return json.dumps({"id": "1", "inputs": [given]}).encode()


def _input(handler: str, payload: Any) -> tuple[str, list[int], list[Any]]:
    if handler == "iris":
        return "FP64", [1, len(payload["row"])], payload["row"]
    if handler == "floats":
        return "FP64", [len(payload["values"])], payload["values"]
    if handler == "body":
        return "BYTES", [1], [base64.b64encode(payload).decode()]
    if handler == "batched":
        return "INT64", [1, 1], [payload["n"]]
    return "BYTES", [1], [json.dumps(payload)]


def _of_tensor(workload: Workload, answer: Any) -> Any:
    (output,) = answer["outputs"]
    data = output["data"]
    if workload.handler == "iris":
        return {"species": data[0]}
    if workload.handler == "floats":
        return {"sum": data[0]}
    if workload.handler == "body":
        return {"bytes": data[0], "last": data[1]}
    if workload.handler == "batched":
        return {"double": data[0]}
    return json.loads(data[0])


CONTENDERS = (
    Contender(name="ours", title="ours", start=replica),
    Contender(name="bare", title="bare granian", start=peer("granian_server", environment=None)),
    Contender(name="gateway", title="ours through the gateway", start=gateway, path=""),
    Contender(
        name="mlserver",
        title="MLServer",
        start=peer("mlserver_server", environment="mlserver"),
        path="/v2/models/model/infer",
        wrap=_tensor,
        unwrap=_of_tensor,
        content_type="application/json",
    ),
    Contender(
        name="mlserver-custom",
        title="MLServer, custom endpoint",
        start=peer("mlserver_server", environment="mlserver"),
        path="/predict",
    ),
    Contender(
        name="bentoml",
        title="BentoML",
        start=peer("bentoml_server", environment="bentoml"),
        path="/predict",
        wrap=_listed,
        unwrap=lambda workload, answer: answer[0] if workload.batch_size else answer,
    ),
    Contender(
        name="litserve",
        title="LitServe",
        start=peer("litserve_server", environment="litserve"),
        path="/predict",
    ),
    Contender(
        name="fastapi-async",
        title="FastAPI, async def",
        start=peer("fastapi_server", environment="fastapi", style="async"),
    ),
    Contender(
        name="fastapi-def",
        title="FastAPI, def",
        start=peer("fastapi_server", environment="fastapi", style="def"),
    ),
)

ML_SERVERS = ("mlserver", "bentoml", "litserve")
PEERS = (*ML_SERVERS, "mlserver-custom", "fastapi-async", "fastapi-def")
