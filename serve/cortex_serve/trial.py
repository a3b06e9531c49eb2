"""A process that loads new model versions before workers do, so that one that kills or hangs its process costs nothing.

It builds the handler once. For each version it then forks: the child calls `load_model` and `warm_up` and ends.
What counts is not what they return, or raise (a worker raises it too, and survives), but how the child ended:

    passed        they returned or raised
    failed        the child was killed, exited, ran past `load_timeout`, or took more memory than there is
    unavailable   there was no such child: the handler cannot be built here, or no process can be started

A fork is quick, but only a copy of one thread: locks that other threads held (of a numeric library, of the
handler) stay locked in it, and some libraries refuse to work. So a fork acquits, but does not convict: a version
whose child was killed, exited or hung is loaded once more in a process that was started anew, and that one's
end is what counts. (Want of memory needs no second look.)

Nothing that a child starts outlives it, unless it leaves the child's process group. What it writes is kept up to
its last lines, and told only when the version failed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import io
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from cortex_core import release as releases
from cortex_core.errors import CortexError
from cortex_core.models.tree import shown
from cortex_core.release import Release
from cortex_core.runtime import EXIT_HANDLER_FAILED
from cortex_core.spec.types import Struct, models_of, source_of
from cortex_serve import control, snapshot, tracebacks
from cortex_serve import log as log_lines
from cortex_serve.cells import Cells
from cortex_serve.free_memory import free_memory, own_memory
from cortex_serve.models.loader import called
from cortex_serve.worker_process import describe

if TYPE_CHECKING:
    from cortex_serve.models.table import ModelTable

MEMORY_INTERVAL = 0.05
"""Seconds between two looks at what a child takes."""

LAST_LINES = 50
MAX_OUTPUT = 8_000
"""Characters of a child's last lines, at most; so a message is never too long, however they are escaped."""

MAX_OUTPUT_BYTES = 4 * MAX_OUTPUT
CHUNK = 2**16
"""Bytes a pipe holds."""

BUILD_AGAIN = 10.0
"""Seconds that building the handler once more may take, on top of thrice what it took here."""

_NICE = 5  # who serves goes first
_KILL_ME_FIRST = "1000"
_PR_SET_PDEATHSIG = 1
_ORPHANED = 70
_LOADING = b"L"
_RETURNED = b"LR"


class TrialSettings(Struct):
    """What a trial process is told on its command line; the descriptors are inherited.

    Attributes:
        release: path of the release document.
        project: folder of the extracted project.
        parent: pid of who started it; without that one it ends.
        models: folder with the replica's models and their snapshot.
        cells: shared memory with a number for each model.
        load_timeout: seconds that `load_model` and `warm_up` may take.
        copies: how many processes are going to load what passes.
        memory_limit: bytes a version may take; None: what is free, divided among the copies.
        orders: socket with `Try` messages; -1: there is only one, `directory`.
        directory: what to load, in this process itself.
        progress: where that one notes how far it got.
    """

    release: str
    project: str
    parent: int
    models: str
    cells: int
    load_timeout: float
    copies: int = 1
    memory_limit: int | None = None
    orders: int = -1
    directory: str | None = None
    progress: int = -1


class TrialResult(Struct):
    """What came of a trial.

    Attributes:
        kind: see the module's text.
        error: why it failed, or why there was no trial; one line. None when it passed.
        transient: whether the same may pass later.
    """

    kind: Literal["passed", "failed", "unavailable"]
    error: str | None = None
    transient: bool = False


class Try(Struct):
    """Load what is in `directory`. Answered by `Begun`, perhaps twice, and `Ended`."""

    serial: int
    directory: str


class Built(Struct, tag=True):
    """The handler was built.

    Attributes:
        seconds: it took.
    """

    seconds: float


class Unfit(Struct, tag=True):
    """The handler cannot be built here; the process ends."""

    error: str


class Begun(Struct, tag=True):
    """A child loads a version.

    Attributes:
        group: its process group, to be killed should this process die.
    """

    serial: int
    group: int


class Ended(Struct, tag=True):
    """A version has been tried.

    Attributes:
        output: the child's last lines, if it failed.
    """

    serial: int
    result: TrialResult
    output: str = ""


Message = Built | Unfit | Begun | Ended

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
encode = msgspec.json.encode
decode = _decoder.decode


def main() -> int:
    """Run one trial process, with its settings as JSON in the only argument."""
    settings = msgspec.json.decode(sys.argv[1], type=TrialSettings)
    os.setpgid(0, 0)  # not a session: with autogroups, niceness counts only among those of one
    _die_with(settings.parent)
    _keep_to_itself(settings)
    if settings.directory is not None:
        return _load_here(settings, settings.directory)
    orders = socket.socket(fileno=settings.orders)
    started = time.monotonic()
    try:
        instance = _build(settings)
    except Exception as error:  # noqa: BLE001 - the user's code runs in there
        text = error.message if isinstance(error, CortexError) else tracebacks.text(error)
        orders.send(encode(Unfit(error=text[-MAX_OUTPUT:])))
        return EXIT_HANDLER_FAILED
    seconds = time.monotonic() - started
    gc.collect()
    gc.freeze()  # children need not look at, and so copy, what is there already
    orders.send(encode(Built(seconds=seconds)))
    _Court(settings, orders, instance, build_again=BUILD_AGAIN + 3 * seconds).run()
    return 0


def last_lines(output: bytes) -> str:
    """The end of what a process wrote, as far as people want to see it."""
    lines = output.decode(errors="replace").splitlines()
    noise = "Extension modules: "  # hundreds, in one line below the stack
    told = [line for line in lines if not line.startswith(noise)]
    return "\n".join(told[-LAST_LINES:])[-MAX_OUTPUT:].strip("\n")


class _Court:
    """Tries versions, several at once if it is asked to."""

    def __init__(
        self, settings: TrialSettings, orders: socket.socket, instance: Any, *, build_again: float
    ) -> None:
        self._settings = settings
        self._orders = orders
        self._instance = instance
        self._build_again = build_again
        self._attempts: list[_Attempt] = []

    def run(self) -> None:
        """Obey until nobody gives orders any more."""
        while self._obey():
            for attempt in list(self._attempts):
                attempt.read()
                if attempt.has_ended():
                    self._finish(attempt)
                else:
                    attempt.check()
        for attempt in self._attempts:
            attempt.end()

    def _obey(self) -> bool:
        """Wait for something to do, and take an order if there is one; False when there will be none."""
        poll = select.poll()
        poll.register(self._orders, select.POLLIN)
        for attempt in self._attempts:
            for descriptor in attempt.descriptors():
                poll.register(descriptor, select.POLLIN)
        ready = poll.poll(MEMORY_INTERVAL * 1000 if self._attempts else None)
        if self._orders.fileno() not in dict(ready):
            return True
        try:
            data = self._orders.recv(control.MAX_MESSAGE)
        except ConnectionResetError:  # it ended without having read all that was said
            return False
        if data:
            self._begin(msgspec.json.decode(data, type=Try), alone=False)
        return bool(data)

    def _begin(self, order: Try, *, alone: bool) -> None:
        start = partial(_spawn, self._settings) if alone else self._fork
        try:
            attempt = _Attempt(order, self._settings, start, alone=alone, seconds=self._build_again)
        except OSError as error:
            reason = f"no process can be started: {error}"
            self._say(Ended(serial=order.serial, result=TrialResult(kind="unavailable", error=reason)))
            return
        self._attempts.append(attempt)
        self._say(Begun(serial=order.serial, group=attempt.pid))

    def _fork(self, directory: str, output: int, progress: int) -> int:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # whatever the handler made of it
                stream.flush()
        parent = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other threads: see the module's text
            pid = os.fork()
        if pid == 0:
            status = _ORPHANED
            try:
                os.setpgid(0, 0)
                _die_with(parent)
                self._orders.close()
                os.dup2(output, 1)
                os.dup2(output, 2)
                _load(self._instance, directory, progress, self._settings.load_timeout)
                status = 0
            finally:
                os._exit(status)
        with suppress(OSError):  # it has done so, or ended
            os.setpgid(pid, pid)
        return pid

    def _finish(self, attempt: _Attempt) -> None:
        self._attempts.remove(attempt)
        result = attempt.end()
        if result.kind != "passed" and not result.transient and not attempt.alone:
            self._begin(attempt.order, alone=True)
            return
        output = last_lines(bytes(attempt.output)) if result.kind != "passed" else ""
        self._say(Ended(serial=attempt.order.serial, result=result, output=output))

    def _say(self, message: Message) -> None:
        with suppress(OSError):  # nobody listens: no order will come either
            self._orders.send(encode(message))


class _Attempt:
    """A child that loads a version.

    Args:
        start: starts it, given the directory and descriptors for its output and its progress; returns its pid.
        alone: it was started anew, not forked.
        seconds: it may take before it has begun to load; from then on it has `load_timeout`.

    Attributes:
        output: the end of what it wrote.
    """

    def __init__(
        self,
        order: Try,
        settings: TrialSettings,
        start: Callable[[str, int, int], int],
        *,
        alone: bool,
        seconds: float,
    ) -> None:
        self.order = order
        self.alone = alone
        self.output = bytearray()
        self._load_timeout = settings.load_timeout
        self._copies = settings.copies
        self._limit = settings.memory_limit
        if self._limit is None and (free := free_memory()) is not None:
            self._limit = free // settings.copies
        self._memory_before = own_memory(os.getpid())
        self._verdict: TrialResult | None = None
        self._deadline = time.monotonic() + seconds
        self._loading = False
        self._progress = self._reading = self._ended = -1
        self.pid = 0
        try:
            self._start(start)
        except OSError:
            self.end()
            raise

    def _start(self, start: Callable[[str, int, int], int]) -> None:
        self._progress = os.memfd_create("cortex-trial")
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        try:
            self.pid = start(self.order.directory, writing, self._progress)
        finally:
            os.close(writing)
        self._ended = os.pidfd_open(self.pid)

    def descriptors(self) -> list[int]:
        """What becomes readable when there is something to do; after its last word, only its end is."""
        return [self._ended] if self._reading == -1 else [self._ended, self._reading]

    def read(self) -> None:
        """Take some of what it wrote, all that fits into a pipe."""
        if self._reading == -1:
            return
        try:
            data = os.read(self._reading, CHUNK)
        except BlockingIOError:
            return
        self.output += data
        del self.output[:-MAX_OUTPUT_BYTES]
        if not data:
            os.close(self._reading)
            self._reading = -1

    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        return bool(poll.poll(0))

    def check(self) -> None:
        """Kill it if it takes too long, or too much."""
        if self._verdict is not None:
            return
        if not self._loading and self._noted() == _LOADING:
            self._loading = True
            self._deadline = time.monotonic() + self._load_timeout
        if time.monotonic() >= self._deadline:
            self._kill(self._too_late())
        elif self._limit is not None and own_memory(self.pid) - self._memory_before > self._limit:
            self._kill(TrialResult(kind="failed", error=self._too_much(self._limit), transient=True))

    def end(self) -> TrialResult:
        """Kill what is left of it, and let go of it."""
        status = self._reap() if self.pid else 0
        self.read()
        progress = self._noted()
        for descriptor in (self._ended, self._progress, self._reading):
            if descriptor != -1:
                os.close(descriptor)
        return self._result(status, progress)

    def _noted(self) -> bytes:
        return os.pread(self._progress, len(_RETURNED), 0) if self._progress != -1 else b""

    def _reap(self) -> int:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # before it is waited for: until then the number is its
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:  # the handler waits for all children
            return 0

    def _result(self, status: int, progress: bytes) -> TrialResult:
        if progress == _RETURNED:
            return TrialResult(kind="passed")
        if self._verdict is not None:
            return self._verdict
        if progress != _LOADING:
            reason = f"the process {describe(status)} before it could load anything"
            return TrialResult(kind="unavailable", error=reason)
        if status == -signal.SIGKILL:
            reason = f"the process {describe(status)}, as the kernel does for want of memory"
            return TrialResult(kind="failed", error=reason, transient=True)
        return TrialResult(kind="failed", error=f"the process {describe(status)}")

    def _kill(self, verdict: TrialResult) -> None:
        self._verdict = verdict
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _too_late(self) -> TrialResult:
        if not self._loading:
            return TrialResult(kind="unavailable", error="the handler cannot be built again in time")
        seconds = _seconds(self._load_timeout)
        return TrialResult(kind="failed", error=f"load_model did not finish within {seconds}")

    def _too_much(self, limit: int) -> str:
        if self._copies == 1:
            return f"it needs more memory than the {_size(limit)} that are free"
        free = _size(limit * self._copies)
        return (
            f"it needs more than {_size(limit)} of memory, and {free} are free for {self._copies} processes"
        )


def _spawn(settings: TrialSettings, directory: str, output: int, progress: int) -> int:
    """Start a process of its own that loads one version."""
    alone = msgspec.structs.replace(
        settings, parent=os.getpid(), orders=-1, directory=directory, progress=progress
    )
    process = subprocess.Popen(
        command(alone),
        cwd="/",  # as for workers
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=(settings.cells, progress),
    )
    process.returncode = 0  # it is waited for by its number, as forks are
    with suppress(OSError):  # it has done so, or is another program already, which does
        os.setpgid(process.pid, process.pid)
    return process.pid


def command(settings: TrialSettings) -> list[str]:
    """The argv of a trial process."""
    return [sys.executable, "-m", "cortex_serve.trial", encode(settings).decode()]


def _load_here(settings: TrialSettings, directory: str) -> int:
    try:
        instance = _build(settings)
    except Exception:  # noqa: BLE001 - the user's code runs in there
        traceback.print_exc()
        return EXIT_HANDLER_FAILED
    _load(instance, directory, settings.progress, settings.load_timeout)
    os._exit(0)


def _load(instance: Any, directory: str, progress: int, load_timeout: float) -> None:
    """Load as a worker does, noting how far it gets; whatever is raised is as good as a return."""
    with suppress(OSError):  # so that people see where it hangs, also if it never lets go of the interpreter
        faulthandler.dump_traceback_later(max(load_timeout - 1, 0.8 * load_timeout), file=2)
    os.write(progress, _LOADING)
    with suppress(BaseException):  # SystemExit too: in a worker's thread it is one like others
        called(instance.load_model, getattr(instance, "warm_up", None), directory)
    os.write(progress, _RETURNED[len(_LOADING) :])


def _build(settings: TrialSettings) -> Any:
    """The handler's instance, built as a worker does."""
    from cortex_serve import application

    release = releases.read(Path(settings.release))
    log = _Log()
    source = source_of(release.spec)
    logging.basicConfig(
        level=(source.log_level if source else "info").upper(), format="%(levelname)s %(message)s"
    )
    cls = application.load_handler(release, Path(settings.project), log=log)
    return application.create_application(release, cls, log=log, models=_models(settings, release)).instance


def _models(settings: TrialSettings, release: Release) -> ModelTable | None:
    """For a constructor that asks for models: it gets those that workers hold, from this machine's disk."""
    models = models_of(release.spec)
    if models is None:
        return None
    from cortex_serve.models.table import ModelTable

    def refuse(message: control.Message) -> None:
        if isinstance(message, control.Want):
            table.answer(control.Here(serial=message.serial, error="it is not fetched for a trial"))

    table = ModelTable(
        Cells(settings.cells),
        read_snapshot=partial(snapshot.read, Path(settings.models)),
        send=refuse,
        cache_size=models.cache_size,
        load_timeout=settings.load_timeout,
        names=partial(shown, api=release.name),
        logger=log_lines.logger,
    )
    table.follow()
    return table


class _Log:
    """What the handler writes goes to stderr, and from there nowhere, unless a version fails."""

    logger = log_lines.logger
    request_id: ContextVar[str] = log_lines.request_id

    def access(self, method: str, path: str, status: int, seconds: float, request_id: str) -> None:
        """Nothing is requested here."""


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before the kernel was told
        os._exit(_ORPHANED)


def _keep_to_itself(settings: TrialSettings) -> None:
    """Be the first to give way, and keep what was inherited from what the handler starts."""
    with suppress(OSError):
        os.nice(_NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_KILL_ME_FIRST)
    for descriptor in (settings.orders, settings.cells, settings.progress):
        if descriptor != -1:
            os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the whole group; the supervisor decides
    faulthandler.enable(file=2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what dies flushes nothing
    sys.path[:] = [entry for entry in sys.path if entry != os.sep]


def _seconds(seconds: float) -> str:
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
