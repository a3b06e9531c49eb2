"""The Python client: what the command line does, as methods.

import cortex

client = cortex.client()
client.deploy_realtime_api({"name": "hello", "kind": "RealtimeAPI", "handler": {"type": "python"}}, Handler)
client.get_api("hello")
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cortex import deploying, deployment_report, handler_source
from cortex.console import Console
from cortex.deploying import Outcome
from cortex.environments import Environment
from cortex.operator_client import OperatorClient, exception_of
from cortex.session import Session
from cortex_core.errors import CortexError, DeployFailed, TimedOut

CONFIG_NAME = "cortex.yaml"
DEPLOY_TIMEOUT = 1200.0


class InvalidKindForMethod(CortexError):
    """The method deploys another kind of API than the specification says."""


def client(env: str | None = None) -> Client:
    """A client of an environment.

    Args:
        env: its name; None is the default one.

    Raises:
        NotFound: there is no such environment.
    """
    session = _session()
    return Client(session, session.environments.choose(env))


def new_client(name: str, operator_endpoint: str, token: str | None = None) -> Client:
    """Configure an environment, and return a client of it.

    Args:
        operator_endpoint: the operator's URL.
        token: the operator's shared secret; None keeps the one that is configured.

    Raises:
        OperatorUnreachable: no operator answers there.
        CortexError: it does not take the token.
    """
    from cortex.configuring import configure

    session = _session()
    return Client(session, configure(session, name, endpoint=operator_endpoint, token=token))


def env_list() -> list[dict[str, str]]:
    """The environments: name and operator_endpoint of each."""
    return [
        {"name": each.name, "operator_endpoint": each.operator_endpoint}
        for each in _session().environments.all()
    ]


def env_delete(name: str) -> None:
    """Forget an environment; what runs there goes on running.

    Raises:
        NotFound: there is no such environment.
    """
    _session().environments.delete(name)


class Client:
    """Deploys to one environment and looks at what runs there. Use `cortex.client()` to make one.

    Every method may raise OperatorUnreachable and TimedOut.
    """

    def __init__(self, session: Session, environment: Environment) -> None:
        self._session = session
        self._environment = environment

    @property
    def env_name(self) -> str:
        return self._environment.name

    def deploy(
        self, api_spec: Mapping[str, Any], project_dir: str | Path, force: bool = True, wait: bool = False
    ) -> dict[str, Any]:
        """Deploy one API of any kind.

        Args:
            api_spec: what stands in an API file, as a dictionary; relative paths of models start at `project_dir`.
            project_dir: the folder to ship.
            force: take over from an update in progress.
            wait: return when it is live, with the API itself.

        Returns:
            {"api", "message", "error"}; with `wait`, the API as `get_api` returns it.

        Raises:
            InvalidConfig: the specification is wrong.
            InvalidProject: the folder cannot be shipped.
            DeployFailed: with `wait`: it did not get live; the text has the end of its log.
        """
        folder = Path(project_dir)
        return self._deploy(api_spec, folder, force=force, wait=wait, relative_to=folder)

    def _deploy(
        self, api_spec: Mapping[str, Any], project: Path, *, force: bool, wait: bool, relative_to: Path
    ) -> dict[str, Any]:
        document = deploying.read_spec(api_spec, project, name=CONFIG_NAME, relative_to=relative_to)
        assert document.project is not None
        with deploying.package(document.project) as package, self._operator() as operator:
            wanted = deploying.request(operator, document, package, force=force)
            (outcome,) = deploying.deploy(operator, wanted)
            return self._concluded(operator, outcome, wait=wait)

    def deploy_realtime_api(
        self,
        api_spec: Mapping[str, Any],
        handler: type,
        requirements: Sequence[str] | None = None,
        conda_packages: Sequence[str] | None = None,
        force: bool = True,
        wait: bool = False,
    ) -> dict[str, Any]:
        """Deploy a class as a RealtimeAPI.

        Args:
            api_spec: as for `deploy`; `handler.type` must be there, `handler.path` must not. Relative paths of
                models start at the working directory.
            handler: shipped as source with what it uses of its module; as a pickle when it has no source.
            requirements: packages as in requirements.txt.
            conda_packages: packages as in conda-packages.txt.

        Raises:
            InvalidKindForMethod: the specification is of another kind.
            ValueError: the specification says where the handler is, too.
        """
        return self._deploy_class(
            "RealtimeAPI", api_spec, handler, requirements, conda_packages, force=force, wait=wait
        )

    def deploy_async_api(
        self,
        api_spec: Mapping[str, Any],
        handler: type,
        requirements: Sequence[str] | None = None,
        conda_packages: Sequence[str] | None = None,
        force: bool = True,
    ) -> dict[str, Any]:
        """Deploy a class as an AsyncAPI; see `deploy_realtime_api`."""
        return self._deploy_class("AsyncAPI", api_spec, handler, requirements, conda_packages, force=force)

    def deploy_batch_api(
        self,
        api_spec: Mapping[str, Any],
        handler: type,
        requirements: Sequence[str] | None = None,
        conda_packages: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Deploy a class as a BatchAPI; see `deploy_realtime_api`."""
        return self._deploy_class("BatchAPI", api_spec, handler, requirements, conda_packages)

    def deploy_task_api(
        self,
        api_spec: Mapping[str, Any],
        task: type,
        requirements: Sequence[str] | None = None,
        conda_packages: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Deploy a class as a TaskAPI; see `deploy_realtime_api`."""
        return self._deploy_class("TaskAPI", api_spec, task, requirements, conda_packages)

    def deploy_traffic_splitter(self, api_spec: Mapping[str, Any]) -> dict[str, Any]:
        """Deploy a TrafficSplitter; see `deploy_realtime_api`."""
        _check_kind(api_spec, "TrafficSplitter")
        with tempfile.TemporaryDirectory(prefix="cortex-") as folder:
            return self.deploy(api_spec, folder)

    def get_api(self, name: str) -> dict[str, Any]:
        """The API as `cortex get NAME -o json` shows it.

        Raises:
            NotFound: it is not deployed.
        """
        with self._operator() as operator:
            return _plain(operator.api(name))

    def list_apis(self) -> list[dict[str, Any]]:
        """All APIs, each as `get_api` returns it."""
        with self._operator() as operator:
            return [_plain(api) for api in operator.apis()]

    def refresh(self, name: str, force: bool = False) -> dict[str, Any]:
        """Replace an API's replicas by new ones; returns {"api", "message", "error"}."""
        with self._operator() as operator:
            return self._concluded(operator, Outcome(result=operator.refresh(name, force=force)), wait=False)

    def patch(self, api_spec: Mapping[str, Any], force: bool = False) -> list[dict[str, Any]]:
        """Change a deployed API without shipping its project again; returns [{"api", "message", "error"}]."""
        document = deploying.read_spec(api_spec, None, name=CONFIG_NAME, relative_to=Path.cwd())
        with self._operator() as operator:
            outcomes = deploying.deploy(operator, deploying.request(operator, document, None, force=force))
            return [self._concluded(operator, outcome, wait=False) for outcome in outcomes]

    def delete(self, name: str, keep_cache: bool = False) -> None:
        """Stop an API and remove it; returns when it is gone.

        Raises:
            NotFound: it is not deployed.
        """
        with self._operator() as operator:
            operator.delete(name, keep_cache=keep_cache)

    def stream_api_logs(self, name: str) -> None:
        """Print an API's log until interrupted."""
        from cortex import logs

        with self._operator() as operator:
            logs.show(operator, name, logs.Query(follow=True), console=self._session.console)

    @contextmanager
    def _operator(self) -> Iterator[OperatorClient]:
        with self._session.operator(self._environment) as operator:
            yield operator

    def _deploy_class(
        self,
        kind: str,
        api_spec: Mapping[str, Any],
        shipped: type,
        requirements: Sequence[str] | None,
        conda_packages: Sequence[str] | None,
        *,
        force: bool = True,
        wait: bool = False,
    ) -> dict[str, Any]:
        """Write a project around the class and deploy that."""
        _check_kind(api_spec, kind)
        section, class_name = ("definition", "Task") if kind == "TaskAPI" else ("handler", "Handler")
        given = dict(api_spec.get(section) or {})
        if "path" in given:
            raise ValueError(f"{section}.path and a class exclude each other; to ship a folder, use deploy()")
        with tempfile.TemporaryDirectory(prefix="cortex-") as name:
            folder = Path(name)
            source = handler_source.of(shipped, name=class_name)
            source.write(folder)
            _write_lines(folder / "requirements.txt", [*(requirements or ()), *source.requirements])
            _write_lines(folder / "conda-packages.txt", conda_packages or ())
            spec = {**api_spec, section: {**given, "path": handler_source.FILE}}
            return self._deploy(spec, folder, force=force, wait=wait, relative_to=Path.cwd())

    def _concluded(self, operator: OperatorClient, outcome: Outcome, *, wait: bool) -> dict[str, Any]:
        if wait:
            with self._session.console.progress() as progress:
                (outcome,) = deploying.follow(
                    operator, [outcome], timeout=DEPLOY_TIMEOUT, report=progress.show
                )
        api = deploying.api_of(operator, outcome.result.name)
        if not wait:
            return _plain(deployment_report.as_json(outcome, api))
        if outcome.failed:
            failure: type[CortexError] = TimedOut if outcome.timed_out else DeployFailed
            if outcome.result.code is not None:
                failure = exception_of(outcome.result.code)
            lines = deployment_report.failure_lines(outcome, api)
            raise failure("\n".join(lines).removeprefix("error: "))
        return _plain(api)


def _session() -> Session:
    console = Console(stdin=sys.stdin, stdout=sys.stdout, stderr=sys.stderr, environ=os.environ)
    return Session(environ=os.environ, console=console)


def _check_kind(api_spec: Mapping[str, Any], kind: str) -> None:
    if api_spec.get("kind") != kind:
        raise InvalidKindForMethod(
            f"this method deploys a {kind}, the specification is of kind {api_spec.get('kind')}"
        )


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    if lines:
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _plain(value: Any) -> dict[str, Any]:
    """Structs as dictionaries."""
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain
