"""Processes that use a models folder and are killed before a chosen step, or after some time.

Run as a program it starts them: forked from a process that has imported everything, each takes milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.stored_models import Bucket, closed_disk, never

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "tempfile.mkstemp", "shutil.rmtree"}
"""What Python announces before it asks the operating system to change a folder."""

Run = Callable[..., bool]


@contextmanager
def running() -> Iterator[Run]:
    """A function that has a piece of work done in a process, and says whether it was done to its end."""
    argv = [sys.executable, "-m", "support.killed_disk"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None

        def run(
            work: str, models: Path, bucket: Path, *, step: int | None = None, seconds: float | None = None
        ) -> bool:
            print(json.dumps([work, str(models), str(bucket), step, seconds]), file=program.stdin, flush=True)
            status = int(program.stdout.readline())
            assert status in (0, -signal.SIGKILL), status
            return status == 0

        try:
            yield run
        finally:
            program.stdin.close()
            program.wait(60)


def change(models: Path, bucket: Path) -> None:
    """One life of a replica: a version comes, one goes, one gets another content."""
    source = Bucket(bucket)
    disk = closed_disk(models)
    [old] = disk.open()
    disk.fetch(source.wanted("iris", "8"), source.storage, never)
    disk.remove(old)
    disk.fetch(source.wanted("iris", "7"), source.storage, never)
    disk.fetch(source.wanted("new", "1"), source.storage, never)
    disk.close()


def start(models: Path, bucket: Path) -> None:
    """The start of a replica."""
    closed_disk(models).open()


def churn(models: Path, bucket: Path) -> None:
    """Fetch and remove for ever."""
    source = Bucket(bucket)
    disk = closed_disk(models)
    disk.open()
    while True:
        for version in ("7", "8"):
            disk.fetch(source.wanted("iris", version), source.storage, never)
        for version in ("7", "8"):
            disk.remove(source.stored("iris", version))


def main() -> None:
    works = {work.__name__: work for work in (change, start, churn)}
    for line in sys.stdin:
        name, models, bucket, step, seconds = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if step is not None:
                    sys.addaudithook(_killing(models, step))
                works[name](Path(models), Path(bucket))
                status = 0
            finally:
                os._exit(status)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _killing(models: str, step: int) -> Callable[[str, tuple[object, ...]], None]:
    """Ends this process before its `step`th step (from 0) in the folder."""
    steps = 0

    def kill(event: str, args: tuple[object, ...]) -> None:
        nonlocal steps
        if event in STEPS and any(str(arg).startswith(models) for arg in args):
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1

    return kill


if __name__ == "__main__":
    main()
