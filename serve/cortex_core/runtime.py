"""How a backend starts a replica: the command line, the requirements and the signals they agree on.

A replica is one `cortex-serve` process and the workers below it. Whoever starts it gives it

    cortex-serve RELEASE.json --project DIR --replica ID --host HOST --port PORT [--port PORT …]
                 --admin-port PORT --log-dir DIR [--models DIR]

where RELEASE.json is a `cortex_core.release.Release`, DIR the extracted project, and the DIR of `--models` is this
replica's alone: there it keeps its copies of models, also for its next start. It serves the API's contract (HTTP, path
`/`; or gRPC) on a PORT for each worker, or on one that all workers share; and on the admin port `/healthz`, `/readyz`,
`/metrics` and `/models`.

- Connections to the port of a worker that is dead are refused. While no worker is ready, they wait at the port of one.
- It is live once `/readyz` answers 200: every worker has built its handler and a probe went through the
  request path. Until then, and after SIGTERM, `/readyz` answers 503 with JSON saying why: `{"reasons": [...]}`, the
  first in general, others in particular ("fetching model iris version 7: 1.2 of 2.0 GB").
- It writes its log, one JSON object a line, to `<log-dir>/<replica>.jsonl`, rotated to `.jsonl.1`, `.jsonl.2` …
- SIGTERM: finish what is in flight, within `SHUTDOWN_GRACE` seconds, exit 0. A second SIGTERM: now, exit 143.
- A handler that cannot be loaded ends the replica with `EXIT_HANDLER_FAILED`; the traceback is in the log. What
  keeps the replica itself from starting, e.g. a port in use, ends it with `EXIT_CANNOT_START`.
- It closes a connection on which no complete request head came for `IDLE_TIMEOUT` seconds. Whoever keeps idle
  connections to it must let go of them earlier, else a request can meet a connection that is being closed.
"""

from __future__ import annotations

from collections.abc import Sequence

SHUTDOWN_GRACE = 60.0
IDLE_TIMEOUT = 60.0
EXIT_HANDLER_FAILED = 1
EXIT_CANNOT_START = 3

REQUIREMENTS = (
    "granian>=2.8.9,<2.9",
    "msgspec>=0.19",
    "prometheus-client>=0.20",
    "python-multipart>=0.0.18",
    "starlette>=0.40",
    "watchdog>=4.0",
)
"""What the runtime needs beside a handler; ranges, because handlers pin too."""

S3_REQUIREMENTS = ("boto3>=1.40",)
"""What it needs in addition for models in S3."""

GRPC_REQUIREMENTS = (
    "grpcio>=1.60",
    "grpcio-health-checking>=1.60",
    "grpcio-reflection>=1.60",
    "grpcio-tools>=1.60",
    "protobuf>=4.22",
)
"""What it needs in addition for a handler with a .proto file."""

NOT_BEGUN = "x-cortex-not-begun"
"""Header of a 503, or metadata of a gRPC call that is ended with UNAVAILABLE: nothing was done, and the gateway sends it
again."""

REQUEST_TIMEOUT = 3600.0
"""Seconds a request may take where the API does not say (`handler.request_timeout`)."""


def command(
    *,
    python: str,
    release: str,
    project: str,
    replica: str,
    host: str,
    ports: Sequence[int],
    admin_port: int,
    log_dir: str,
    models: str | None = None,
) -> list[str]:
    """The argv of one replica.

    Args:
        python: interpreter of the handler's environment.
        release: path of the release document.
        project: folder of the extracted project.
        replica: the replica's id.
        host: address to listen on.
        ports: TCP ports, one for each worker; or a single one that all share.
        admin_port: TCP port.
        log_dir: existing folder for the log.
        models: folder for copies of models, made when it is needed; None for an API without models.
    """
    return [
        python, "-m", "cortex_serve", release,
        "--project", project, "--replica", replica,
        "--host", host, *(word for port in ports for word in ("--port", str(port))),
        "--admin-port", str(admin_port),
        "--log-dir", log_dir, *(("--models", models) if models is not None else ()),
    ]  # fmt: skip
