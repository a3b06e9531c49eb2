"""Has new model versions loaded in a trial process (`cortex_serve.trial`), and says what came of it.

The process is started by the first version to try and ended when there was none for a while. Versions are tried
one after another; only one that takes long does not keep the others waiting.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cortex_serve import control, trial
from cortex_serve.log_files import LogFiles
from cortex_serve.trial import BUILD_AGAIN, TrialResult, TrialSettings, Try
from cortex_serve.worker_process import describe

__all__ = ["TrialResult", "Trials"]

AT_ONCE = 4
SLOW = 2.0
"""Seconds after which the next one is begun although this one has not ended."""

START_WITHIN = 600.0
LEAVE_WITHIN = 0.5
KILL_WITHIN = 5.0

_TICK = 0.25
_GRACE = 30.0
"""Seconds that the process may be late with an answer before it is taken for dead."""

_EXPLANATION = "new versions of models are loaded by the workers without having been tried"


@dataclass(kw_only=True)
class _Job:
    """A version to try.

    Attributes:
        again: the process died once while it was being tried.
        sent_at: monotonic time at which the process was asked.
        begun_at: monotonic time at which the first child began, or None.
        group: process group of the child that loads it, or None.
    """

    serial: int
    directory: str
    again: bool = False
    sent_at: float = 0.0
    begun_at: float | None = None
    group: int | None = None


class Trials:
    """Tries versions.

    Args:
        release: path of the release document.
        project: folder of the extracted project.
        models: folder with the replica's models and their snapshot.
        cells: descriptor of the shared memory with a number for each model.
        environ: as the workers get it.
        logs: takes what a version said before it failed.
        load_timeout: seconds that `load_model` and `warm_up` may take.
        done: called once for each version, from a thread of its own.
        idle: seconds without a version after which the process is ended.
        copies: how many processes are going to load what passes.
        memory_limit: bytes a version may take; None: what is free, divided among the copies.
    """

    def __init__(
        self,
        *,
        release: Path,
        project: Path,
        models: Path,
        cells: int,
        environ: Mapping[str, str],
        logs: LogFiles,
        load_timeout: float,
        done: Callable[[int, TrialResult], None],
        idle: float = 60.0,
        copies: int = 1,
        memory_limit: int | None = None,
    ) -> None:
        self._settings = TrialSettings(
            release=str(release),
            project=str(project),
            parent=os.getpid(),
            models=str(models),
            cells=cells,
            load_timeout=load_timeout,
            copies=copies,
            memory_limit=memory_limit,
        )
        self._environ = environ
        self._logs = logs
        self._done = done
        self._idle = idle
        self._waiting: deque[_Job] = deque()
        self._running: dict[int, _Job] = {}
        self._process: _TrialProcess | None = None
        self._busy_at = time.monotonic()
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="cortex-trials", daemon=True)
        self._thread.start()

    def submit(self, serial: int, directory: str) -> None:
        """Have the version in `directory` tried; `done` says what came of it."""
        self._waiting.append(_Job(serial=serial, directory=directory))
        os.eventfd_write(self._woken, 1)

    def close(self) -> None:
        """End everything, within a second or so; what has not been answered never is."""
        self._closing = True
        os.eventfd_write(self._woken, 1)
        self._thread.join(LEAVE_WITHIN + KILL_WITHIN)

    def _run(self) -> None:
        while not self._closing:
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 - whoever submitted waits for an answer
                self._give_up(f"the trial process cannot be talked to: {error!r}")
        self._end_process()

    def _step(self) -> None:
        self._begin_what_may()
        self._wait()
        if self._process is not None:
            self._listen(self._process)
        if self._process is not None:
            self._end_what_is_over(self._process)

    # in order

    def _begin_what_may(self) -> None:
        while self._waiting and self._may_begin():
            job = self._waiting.popleft()
            self._running[job.serial] = job
            try:
                self._process = self._process or _TrialProcess(self._settings, self._environ)
            except OSError as error:
                self._give_up(f"no process can be started: {error}")
                return
            job.sent_at = time.monotonic()
            self._process.order(Try(serial=job.serial, directory=job.directory))

    def _may_begin(self) -> bool:
        now = time.monotonic()
        slow = all(job.begun_at is not None and now - job.begun_at >= SLOW for job in self._running.values())
        return slow and len(self._running) < AT_ONCE

    def _wait(self) -> None:
        """Until there is something to do, or to look at the clock."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        for descriptor in self._process.descriptors() if self._process is not None else ():
            poll.register(descriptor, select.POLLIN)
        poll.poll(None if self._process is None else _TICK * 1000)
        with suppress(BlockingIOError):
            os.eventfd_read(self._woken)

    def _listen(self, process: _TrialProcess) -> None:
        for message in process.messages():
            if isinstance(message, trial.Built):
                process.built_in = message.seconds
            elif isinstance(message, trial.Unfit):
                self._give_up("the handler cannot be built in a trial process", message.error)
                return
            elif isinstance(message, trial.Begun):
                job = self._running[message.serial]
                job.begun_at, job.group = job.begun_at or time.monotonic(), message.group
            else:
                self._ended(self._running[message.serial], message)
        if process.hung_up:
            self._died(process)

    def _end_what_is_over(self, process: _TrialProcess) -> None:
        now = time.monotonic()
        if self._running:
            self._busy_at = now
        elif not self._waiting and now - self._busy_at >= self._idle:
            self._end_process()
            return
        if process.built_in is None:
            if now - process.started_at >= START_WITHIN:
                self._give_up(f"the handler is not built within {START_WITHIN:g} s")
            return
        most = 2 * self._settings.load_timeout + BUILD_AGAIN + 5 * process.built_in + _GRACE
        for job in list(self._running.values()):
            if now - job.sent_at >= most:
                job.again = True  # it has had its chance
                process.hung_up = True
        if process.hung_up:
            self._died(process)

    def _ended(self, job: _Job, ended: trial.Ended) -> None:
        if ended.result.kind != "passed" and ended.output:
            version = Path(job.directory)
            name = f"model {version.parent.name}: trial of version {version.name}"
            self._logs.write("ERROR", f"{name}: {ended.result.error}", {"exc_info": ended.output})
        self._answer(job, ended.result)

    def _answer(self, job: _Job, result: TrialResult) -> None:
        self._running.pop(job.serial, None)
        self._busy_at = time.monotonic()
        self._done(job.serial, result)

    # when something is wrong with the process

    def _died(self, process: _TrialProcess) -> None:
        """Give versions that were being tried a second chance; the process may have died of one of them."""
        how = describe(self._end_process())
        if process.built_in is None:
            self._give_up(f"the trial process {how} while the handler was being built", process.last_lines())
            return
        self._logs.write("WARNING", f"the process that tries new versions of models {how}")
        for job in reversed(list(self._running.values())):
            if job.again:
                self._answer(job, _unavailable(f"the trial process {how}"))
            else:
                del self._running[job.serial]
                self._waiting.appendleft(_Job(serial=job.serial, directory=job.directory, again=True))

    def _give_up(self, reason: str, text: str = "") -> None:
        """Answer everything that there is no trial."""
        self._end_process()
        message = f"{_EXPLANATION}: {reason}"
        self._logs.write("WARNING", message, {"exc_info": text} if text else None)
        jobs = [*self._running.values()]
        while self._waiting:
            jobs.append(self._waiting.popleft())
        for job in jobs:
            self._answer(job, _unavailable(reason))

    def _end_process(self) -> int:
        """End the process, if there is one, and all that it started; returns its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        status = process.end()
        for job in self._running.values():
            if job.group is not None:
                with suppress(ProcessLookupError):
                    os.killpg(job.group, signal.SIGKILL)
        return status


class _TrialProcess:
    """A started trial process.

    Must be made by a thread that outlives it: the kernel ends it when that thread ends.

    Attributes:
        started_at: monotonic time.
        built_in: seconds that building the handler took, or None while it is being built.
        hung_up: it ends or has ended.
    """

    def __init__(self, settings: TrialSettings, environ: Mapping[str, str]) -> None:
        self.started_at = time.monotonic()
        self.built_in: float | None = None
        self.hung_up = False
        self._output = bytearray()
        self._orders, theirs = control.pair()
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._orders.setblocking(False)
        try:
            self._process = subprocess.Popen(
                trial.command(msgspec.structs.replace(settings, orders=theirs.fileno())),
                cwd="/",  # as for workers
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                pass_fds=(theirs.fileno(), settings.cells),
            )
        except BaseException:
            os.close(self._reading)
            self._orders.close()
            raise
        finally:
            theirs.close()
            os.close(writing)

    def descriptors(self) -> list[int]:
        """What becomes readable when there is something to do."""
        return [each for each in (self._orders.fileno(), self._reading) if each != -1]

    def order(self, order: Try) -> None:
        """Ask for a trial; if the process has ended, `messages` will tell."""
        with suppress(OSError):
            self._orders.send(trial.encode(order))

    def messages(self) -> list[trial.Message]:
        """What it said since the last call."""
        self._read()
        messages = []
        while not self.hung_up:
            try:
                data = self._orders.recv(control.MAX_MESSAGE)
            except BlockingIOError:
                break
            except ConnectionResetError:  # it ended without having read all orders; what it said comes next
                continue
            if data:
                messages.append(trial.decode(data))
            self.hung_up = not data
        return messages

    def last_lines(self) -> str:
        """The end of what it wrote."""
        return trial.last_lines(bytes(self._output))

    def end(self) -> int:
        """End it and what it started, within a moment; returns its exit status, negative for a signal."""
        self._orders.close()
        with suppress(OSError):
            self._wait(LEAVE_WITHIN)
        with suppress(ProcessLookupError):
            os.killpg(
                self._process.pid, signal.SIGKILL
            )  # before it is waited for: until then the number is its
        self._process.kill()
        self._read()
        self._forget_output()
        try:
            return self._process.wait(KILL_WITHIN)
        except subprocess.TimeoutExpired:  # stuck in the kernel; nothing can be done
            return -signal.SIGKILL

    def _wait(self, seconds: float) -> None:
        ended = os.pidfd_open(self._process.pid)
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            poll.poll(seconds * 1000)
        finally:
            os.close(ended)

    def _read(self) -> None:
        if self._reading == -1:
            return
        try:
            data = os.read(self._reading, trial.CHUNK)
        except BlockingIOError:
            return
        self._output += data
        del self._output[: -trial.MAX_OUTPUT_BYTES]
        if not data:
            self._forget_output()

    def _forget_output(self) -> None:
        if self._reading != -1:
            os.close(self._reading)
            self._reading = -1


def _unavailable(reason: str) -> TrialResult:
    return TrialResult(kind="unavailable", error=reason)
