"""Releases that run in `stand_in_replica.py` instead of `cortex-serve`."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cortex_core import archive
from cortex_core.home import Home
from cortex_core.release import Release, make_release
from cortex_core.spec.types import (
    Autoscaling,
    Compute,
    Dependencies,
    Handler,
    Models,
    Networking,
    RealtimeAPI,
    UpdateStrategy,
)
from cortex_operator.backends.environments import Environment

SCRIPT = Path(__file__).with_name("stand_in_replica.py")


class StandInEnvironments:
    """Environments whose interpreter runs the stand-in, whatever module it is asked to run.

    Args:
        folder: where to put the interpreter.
    """

    def __init__(self, folder: Path) -> None:
        self.python = folder / "stand-in-python"
        self.python.write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {shlex.quote(str(SCRIPT))} "$@"\n'
        )
        self.python.chmod(0o700)
        self.prepared = 0
        self.extras: tuple[str, ...] = ()

    async def prepare(
        self,
        project: Path,
        dependencies: Dependencies,
        report: Callable[[str], None],
        *,
        release: str,
        env: Mapping[str, str] | None = None,
        extras: Sequence[str] = (),
    ) -> Environment:
        self.prepared += 1
        self.extras = tuple(extras)
        return Environment(python=self.python, digest=None, environ={"FROM_ENVIRONMENT": "yes"})

    async def sweep(self) -> None:
        """Nothing is ever half made."""

    async def remove_unused(self, *, in_use: Collection[str], kept: Collection[str]) -> None:
        """Nothing was made."""


@dataclass(frozen=True)
class _Files:
    """A project in memory."""

    contents: Mapping[str, bytes]
    folder: Path

    @property
    def files(self) -> Sequence[str]:
        return list(self.contents)

    def open(self, path: str) -> BinaryIO:
        file = self.folder / path
        file.write_bytes(self.contents[path])
        return file.open("rb")


def upload(home: Home, contents: Mapping[str, bytes], folder: Path) -> tuple[str, str]:
    """Put a project of these files into a home's bucket; answers its digest and URL."""
    packed = io.BytesIO()
    digest = archive.pack(_Files(contents, folder), packed)
    path = home.bucket / "projects" / f"{digest}.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed.getvalue())
    return digest, path.as_uri()


def stand_in_release(
    home: Home,
    folder: Path,
    *,
    name: str = "iris",
    config: Mapping[str, Any] | None = None,
    mem: str | None = None,
    env: Mapping[str, str] | None = None,
    handler: bytes = b"class Handler: ...\n",
    models: Models | None = None,
    processes: int = 1,
    threads: int = 1,
    protobuf_path: str | None = None,
) -> Release:
    """A release whose `config` tells the stand-in what to do; its project lies in the home's bucket.

    Args:
        home: where it will run.
        folder: an existing one for files on the way.
        handler: source of handler.py.
        models: those it follows.
        processes, threads: per replica and per process; each process has a port.
        protobuf_path: makes it a gRPC API.
    """
    digest, url = upload(home, {"handler.py": handler}, folder)
    spec = RealtimeAPI(
        name=name,
        handler=Handler(
            type="python",
            path="handler.py",
            config=dict(config or {}),
            env=dict(env or {}),
            multi_model_reloading=models,
            processes_per_replica=processes,
            threads_per_process=threads,
            protobuf_path=protobuf_path,
        ),
        networking=Networking(endpoint=f"/{name}"),
        compute=Compute(mem=mem),
        autoscaling=Autoscaling(target_replica_concurrency=1.0),
        update_strategy=UpdateStrategy(),
    )
    return make_release(spec, project_digest=digest, project_url=url, runtime_version="0")


def environ() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}
