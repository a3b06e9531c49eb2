"""`cortex-serve RELEASE …`: run one replica. What it promises is in `cortex_core.runtime`."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cortex_core import dotenv
from cortex_core import release as releases
from cortex_core.errors import CortexError
from cortex_core.release import Release
from cortex_core.runtime import EXIT_CANNOT_START, EXIT_HANDLER_FAILED, REQUEST_TIMEOUT, SHUTDOWN_GRACE
from cortex_core.spec.types import Handler, RealtimeAPI, models_of, request_timeout_of, source_of
from cortex_serve.environment import handler_environment, serves_grpc
from cortex_serve.listeners import MAX_CONNECTIONS, Listeners
from cortex_serve.log_files import LogFiles, RotatedFile
from cortex_serve.overdue import Limits
from cortex_serve.supervisor import Plan, Supervisor

if TYPE_CHECKING:
    from cortex_serve.agent.agent import Agent


def run() -> NoReturn:
    """The process: `main`, and its end. Threads that hang in a file system that is away do not hold that up."""
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a replica to its end; returns its exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(0)
    )  # until the supervisor listens, there is nothing to finish
    _allow_many_connections()
    logs = LogFiles(RotatedFile(options.log_dir / f"{options.replica}.jsonl"), replica=options.replica)
    logs.start()
    try:
        return _run(options, logs)
    except CortexError as error:
        return _give_up(logs, error.message, EXIT_HANDLER_FAILED)
    except _CannotStart as error:
        return _give_up(logs, f"the replica cannot start: {error}", EXIT_CANNOT_START)
    except Exception:
        logs.write("ERROR", "the supervisor failed", {"exc_info": traceback.format_exc()})
        logs.close(timeout=1.0)
        raise


class _CannotStart(Exception):
    """What the command line asks for cannot be had."""


def _run(options: argparse.Namespace, logs: LogFiles) -> int:
    try:
        release = releases.read(options.release)
        source = source_of(release.spec)
        handler = source if isinstance(source, Handler) else None
        workers = handler.processes_per_replica if handler is not None else 1
        rpc = serves_grpc(release)
        listeners = Listeners(options.host, options.ports, workers, listen=not rpc)
        admin_listeners = Listeners(options.host, [options.admin_port], 1)
    except (OSError, ValueError) as error:
        raise _CannotStart(str(error)) from error
    ports = [port for _, port in listeners.addresses]
    where = {"port": ports[0], "ports": ports, "admin_port": admin_listeners.addresses[0][1]}
    logs.write("INFO", f"{release.kind} {release.name}, release {release.id}: starting", where)
    project = options.project.absolute()
    environ = handler_environment(
        release, path=options.release, project=project, port=ports[0], inherited=os.environ
    )
    plan = Plan(
        replica=options.replica,
        release=options.release,
        project=project,
        workers=workers,
        environ=environ | dotenv.read(project / ".env", environ),
        grace=options.grace,
        limits=_limits(release, handler),
        rpc=rpc,
    )

    agent = _agent(release, options, plan, logs)

    def open_admin_port() -> None:
        from cortex_serve import admin  # while the workers start: importing these takes as long as they do
        from cortex_serve.metrics import Metrics

        admin_listener = admin_listeners.lend(1)
        assert admin_listener is not None
        admin.serve(
            admin_listener,
            admin.Pages(
                health=supervisor.health,
                unready=supervisor.unready,
                metrics=Metrics(release.name, supervisor.counts, agent.counts if agent else None).render,
                models=agent.models if agent else list,
            ),
        )

    supervisor = Supervisor(plan, listeners=listeners, logs=logs, models=agent, started=open_admin_port)
    return supervisor.run()


def _limits(release: Release, handler: Handler | None) -> Limits:
    """How long its workers may be busy."""
    models = models_of(release.spec)
    return Limits(
        request=request_timeout_of(handler) if handler is not None else REQUEST_TIMEOUT,
        load=models.load_timeout / 1e9 if models is not None else 0.0,
    )


def _agent(release: Release, options: argparse.Namespace, plan: Plan, logs: LogFiles) -> Agent | None:
    """What follows the API's models, if it has any."""
    models = models_of(release.spec)
    if models is None or not isinstance(release.spec, RealtimeAPI):
        return None
    from cortex_serve.agent.agent import Agent
    from cortex_serve.agent.parts import ReplicaParts

    # access to S3 may be part of the API file's `env`, or of the project's `.env`
    os.environ.update({name: value for name, value in plan.environ.items() if name.startswith("AWS_")})
    folder: Path = options.models or options.log_dir / f"{options.replica}.models"
    return Agent(ReplicaParts(folder, spec=release.spec, models=models, plan=plan, logs=logs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cortex-serve", description="Run one replica of an API.")
    parser.add_argument("release", metavar="RELEASE", type=_absolute, help="the release document (JSON)")
    parser.add_argument(
        "--project", metavar="DIR", type=_absolute, required=True, help="the extracted project"
    )
    parser.add_argument("--replica", metavar="ID", required=True, help="the replica's id")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port",
        dest="ports",
        metavar="PORT",
        type=int,
        action="append",
        required=True,
        help="port of the API, once for each worker or once for all; 0: any",
    )
    parser.add_argument("--admin-port", type=int, required=True, help="port for health and metrics; 0: any")
    parser.add_argument(
        "--log-dir", metavar="DIR", type=_absolute, required=True, help="where the log is written"
    )
    parser.add_argument(
        "--models",
        metavar="DIR",
        type=_absolute,
        help="where copies of models are kept (default: in DIR of --log-dir)",
    )
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=float,
        default=SHUTDOWN_GRACE,
        help="time for requests in flight after SIGTERM (default: %(default)s)",
    )
    return parser


def _absolute(path: str) -> Path:
    return Path(path).absolute()


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(4 * MAX_CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _give_up(logs: LogFiles, message: str, status: int) -> int:
    logs.write("ERROR", message)
    logs.close(timeout=1.0)
    print(f"cortex-serve: {message}", file=sys.stderr)  # noqa: T201  # for whoever started it by hand
    return status
