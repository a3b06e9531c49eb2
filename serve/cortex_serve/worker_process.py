"""One worker as the supervisor sees it: a process, a control socket, and three pipes that carry its log."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import get_args

from cortex_serve import control
from cortex_serve.control import Message, WorkerSettings
from cortex_serve.log_files import Kind, LogFiles
from cortex_serve.overdue import Limits, Watch

PIPE_SIZE = 2**20
"""Bytes a worker can write before somebody has to read."""

KILL_WITHIN = 5.0

_F_SETPIPE_SZ = 1031


class WorkerProcess:
    """A started worker.

    Must be made by a thread that lives as long as the supervisor: the kernel ends the worker when that thread
    ends.

    Attributes:
        number: which of the replica's workers it is, from 1.
        pid: the process.
        stopped: it was told to end.
        hung_up: its end of the control socket is closed: it ends or has ended.
        control: our end of the socket pair; readable when there is a message, or when it ended.
        first_request: connection with the request in whose thread it builds its handler, or None.
        ready_at: monotonic time at which it became ready, or None.
        report: what it last said it had counted, or None.
        loading: serials of the models that it is loading now.
        watch: whether it hangs; None until it is ready.
    """

    def __init__(
        self,
        number: int,
        *,
        release: Path,
        project: Path,
        replica: str,
        address: tuple[str, int],
        listener: socket.socket | None,
        turn: int,
        first_request: bool,
        models: Path | None,
        cells: int,
        environ: Mapping[str, str],
        limits: Limits,
        logs: LogFiles,
    ) -> None:
        self.number = number
        self.hung_up = False
        self.stopped = False
        self.first_request: socket.socket | None = None
        self.ready_at: float | None = None
        self.report: control.Report | None = None
        self.reported_at = 0.0
        self.loading: set[int] = set()
        self.watch: Watch | None = None
        self._limits = limits
        self.control, theirs = control.pair()
        self.control.setblocking(False)
        pipes: dict[Kind, tuple[int, int]] = {kind: os.pipe() for kind in get_args(Kind)}
        settings = WorkerSettings(
            release=str(release),
            project=str(project),
            replica=replica,
            supervisor=os.getpid(),
            listener=listener.fileno() if listener is not None else -1,
            host=address[0],
            port=address[1],
            control=theirs.fileno(),
            log=pipes["lines"][1],
            turn=turn,
            first_request=first_request,
            models=str(models) if models is not None else None,
            cells=cells,
        )
        try:
            self._process = _start(settings, environ, stdout=pipes["stdout"][1], stderr=pipes["stderr"][1])
        except BaseException:
            for reading, _ in pipes.values():
                os.close(reading)
            self.control.close()
            raise
        finally:
            theirs.close()
            for _, writing in pipes.values():
                os.close(writing)
        self.pid = self._process.pid
        for kind, (reading, _) in pipes.items():
            with suppress(OSError):  # this user's pipes are large already
                fcntl.fcntl(reading, _F_SETPIPE_SZ, PIPE_SIZE)
            logs.follow(reading, kind, process=self.pid)

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.pid})"

    @property
    def hangs(self) -> bool:
        return self.watch is not None and self.watch.reason is not None

    @property
    def ready(self) -> bool:
        return self.ready_at is not None

    def ready_for(self) -> float | None:
        """Seconds since it became ready; None when it never was."""
        return time.monotonic() - self.ready_at if self.ready_at is not None else None

    def messages(self) -> list[Message]:
        """What it said since the last call; notes readiness, counts and what it is loading."""
        messages = []
        while not self.hung_up and (data := self._receive()):
            message = control.decode(data)
            messages.append(message)
            if isinstance(message, control.Ready):
                self.ready_at = time.monotonic()
                self.watch = Watch(self._limits, now=self.ready_at)
                self._end_first_request()
            elif isinstance(message, control.Report):
                self.report, self.reported_at = message, time.monotonic()
                if self.watch is not None:
                    self.watch.reported(message.requests.oldest_call, now=self.reported_at)
            elif isinstance(message, control.ModelLoading):
                self.loading.add(message.serial)
            elif isinstance(message, control.ModelLoaded | control.ModelFailed):
                self.loading.discard(message.serial)
        if messages and self.watch is not None:
            self.watch.heard(now=time.monotonic(), loading=bool(self.loading))
        return messages

    def ask_for_report(self) -> None:
        """Have it report now; from any thread."""
        self.tell(control.Collect())

    def tell(self, order: control.Order) -> bool:
        """Send it an order; from any thread.

        Returns:
            False when it has so many waiting that this one was not sent.
        """
        try:
            self.control.send(control.encode(order), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:  # it is ending
            return True
        return True

    def stop(self) -> None:
        """Have it finish what is in flight and end; one that has nothing in flight yet is killed."""
        self.stopped = True
        if self.watch is not None:
            self.watch.leaves(now=time.monotonic())
        self._process.send_signal(signal.SIGTERM if self.ready else signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it now and wait until it is gone."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel; nothing can be done
            self._process.wait(KILL_WITHIN)

    def close(self) -> None:
        """Let go of what is left of it once it has ended."""
        self.hung_up = True
        self.control.close()
        self._end_first_request()

    def describe_end(self, status: int) -> str:
        """How it ended, in words."""
        return f"hung and {describe(status)}" if self.hangs else describe(status)

    def ended(self) -> int | None:
        """Its exit status, negative for a signal, or None while it runs."""
        return self._process.poll()

    def _end_first_request(self) -> None:
        if self.first_request is not None:
            self.first_request.close()
            self.first_request = None

    def _receive(self) -> bytes:
        while True:
            try:
                data = self.control.recv(control.MAX_MESSAGE)
            except BlockingIOError:
                return b""
            except ConnectionResetError:  # it ended without having read all orders; what it said comes next
                continue
            self.hung_up = not data
            return data


def describe(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _start(
    settings: WorkerSettings, environ: Mapping[str, str], *, stdout: int, stderr: int
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "cortex_serve.worker", control.encode(settings).decode()],
        cwd="/",  # the folder of `-m` comes first on the worker's import path, and must hold no modules
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=[
            descriptor
            for descriptor in (
                settings.listener,
                settings.control,
                settings.log,
                settings.turn,
                settings.cells,
            )
            if descriptor != -1
        ],
    )
