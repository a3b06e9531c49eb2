"""A worker process: builds the handler, serves requests, tells the supervisor how it is doing.

It never outlives its supervisor: the kernel kills it when that dies, and where the kernel cannot, the end of
the control socket does.
"""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cortex_core import release as releases
from cortex_core.errors import CortexError
from cortex_core.models.tree import shown
from cortex_core.release import Release
from cortex_core.runtime import EXIT_CANNOT_START, EXIT_HANDLER_FAILED
from cortex_core.spec.types import models_of, source_of
from cortex_serve import control, snapshot, tracebacks
from cortex_serve.cells import Cells
from cortex_serve.control import WorkerSettings
from cortex_serve.doubt import Doubt, Pulse
from cortex_serve.environment import serves_grpc
from cortex_serve.handler import HandlerFailed
from cortex_serve.listeners import BACKLOG, let_in, turn_away
from cortex_serve.log import Log, follow_threads, open_log
from cortex_serve.stats import Stats

if TYPE_CHECKING:
    from cortex_serve.models.table import ModelTable

REPORT_INTERVAL = 0.5
LEAVE_WITHIN = 5.0
"""Seconds that threads and exit handlers of the user's code may take after the last answer."""

_PR_SET_PDEATHSIG = 1
_ORPHANED = 70

_Application = TypeVar("_Application")


def main() -> int:
    """Run one worker, with its settings as JSON in the only argument."""
    settings = control.decode_settings(sys.argv[1])
    _die_with(settings.supervisor)
    _keep_to_itself(settings)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the whole group; the supervisor decides
    _keep_signals_of_children_apart()
    faulthandler.enable()  # who hangs is aborted, and leaves the stacks of its threads, but no image of its memory
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    release = releases.read(Path(settings.release))
    source = source_of(release.spec)
    level = source.log_level if source else "info"
    log = open_log(settings.log, replica=settings.replica, level=level, project=settings.project)
    follow_threads()
    try:
        return _serve(settings, release, log)
    finally:
        log.close()


def _serve(settings: WorkerSettings, release: Release, log: Log) -> int:
    supervisor = _Supervisor(socket.socket(fileno=settings.control), log)
    models = _models(settings, release, supervisor, log)
    supervisor.start(models)
    try:
        run = (_rpc if serves_grpc(release) else _http)(settings, release, log, supervisor, models)
    except HandlerFailed as failure:
        _log_failure(log, failure)
        return EXIT_HANDLER_FAILED
    try:
        run()
    except CortexError as failure:
        log.write("ERROR", failure.message)
        return EXIT_CANNOT_START
    supervisor.report()
    _leave_soon(0)
    return 0


def _http(
    settings: WorkerSettings, release: Release, log: Log, supervisor: _Supervisor, models: ModelTable | None
) -> Callable[[], None]:
    """Build the application.

    Returns:
        What serves it to its end.
    """
    from cortex_serve import application, server
    from cortex_serve.first_request import BuiltByFirstRequest

    def build() -> application.Application:
        return _built(
            lambda: application.create_application(release, cls, log=log, models=models), settings, models
        )

    cls = application.load_handler(release, Path(settings.project), log=log)
    threads = application.threads_of(release)
    served: application.Application | BuiltByFirstRequest
    if settings.first_request and threads == 1 and application.answers_on_threads(release, cls):
        served = BuiltByFirstRequest(build, ready=supervisor.ready, failed=partial(_end_failed, log))
        started = supervisor.loaded
    else:
        served = build()
        started = partial(supervisor.ready, served.stats)

    def close_the_door() -> None:
        turn_away(settings.listener)
        if served.batching is not None:
            served.batching.batcher.turn_away()

    def open_the_door() -> None:
        let_in(settings.listener)
        if served.batching is not None:
            served.batching.batcher.let_in()

    def begin() -> None:
        supervisor.doubts(
            Doubt(
                application.limit_of(release),
                pulse=_pulse() if application.cancels(cls) else None,
                oldest_call=lambda: served.stats.oldest_call(),
                oldest_on_thread=lambda: served.stats.oldest_on_thread(),
                turn_away=close_the_door,
                let_in=open_the_door,
            )
        )
        started()

    def run() -> None:
        _listen(settings.listener)
        server.run(
            served,
            listener=settings.listener,
            threads=threads,
            in_flight=lambda: served.stats.snapshot().in_flight,
            started=begin,
            leaves=partial(supervisor.doubts, None),
            left=lambda: served.close(),
        )

    return run


def _rpc(
    settings: WorkerSettings, release: Release, log: Log, supervisor: _Supervisor, models: ModelTable | None
) -> Callable[[], None]:
    """The same for gRPC."""
    from cortex_serve.rpc import serving

    loaded = serving.load_handler(release, Path(settings.project), log=log)
    served = _built(
        lambda: serving.create_application(release, loaded, log=log, models=models), settings, models
    )

    def turn_away(turned: bool) -> None:
        served.turns_away = turned

    def begin() -> None:
        supervisor.doubts(
            Doubt(
                serving.limit_of(release),
                pulse=_pulse() if serving.cancels(loaded) else None,
                oldest_call=served.stats.oldest_call,
                oldest_on_thread=served.stats.oldest_on_thread,
                turn_away=partial(turn_away, True),
                let_in=partial(turn_away, False),
            )
        )
        supervisor.hang_up = served.hang_up
        supervisor.ready(served.stats)

    def run() -> None:
        serving.run(
            served,
            host=settings.host,
            port=settings.port,
            in_flight=lambda: served.stats.snapshot().in_flight,
            started=begin,
        )
        served.close()

    return run


def _built(
    create: Callable[[], _Application], settings: WorkerSettings, models: ModelTable | None
) -> _Application:
    """Create the application, and wait for the first models."""
    if models is not None:
        gc.freeze()  # not later: what is frozen is never collected, and models come and go
    with _turn(settings.turn):
        built = create()
    if models is None:
        gc.freeze()  # what is loaded stays; collections need not look at it again
    else:
        models.start()
        models.wait_until_held()
    return built


def _pulse() -> Pulse:
    """Of the event loop that runs."""
    import asyncio

    return Pulse(asyncio.get_running_loop().call_soon_threadsafe)


def _listen(descriptor: int) -> None:
    """Have the worker's socket listen; it may do so already."""
    listener = socket.socket(fileno=descriptor)
    listener.listen(BACKLOG)
    listener.detach()


def _models(
    settings: WorkerSettings, release: Release, supervisor: _Supervisor, log: Log
) -> ModelTable | None:
    models = models_of(release.spec)
    if settings.models is None or models is None:
        return None
    from cortex_serve.models.table import ModelTable

    return ModelTable(
        Cells(settings.cells),
        read_snapshot=partial(snapshot.read, Path(settings.models)),
        send=supervisor.tell,
        cache_size=models.cache_size,
        load_timeout=models.load_timeout / 1e9,
        names=partial(shown, api=release.name),
        logger=log.logger,
    )


def _log_failure(log: Log, failure: BaseException) -> None:
    text = failure.message if isinstance(failure, CortexError) else tracebacks.text(failure)
    log.write("ERROR", "the handler cannot be loaded", {"exc_info": text})


def _end_failed(log: Log, failure: BaseException) -> None:
    """End from a request's thread: the main one waits for a signal."""
    _log_failure(log, failure)
    log.close()
    os._exit(EXIT_HANDLER_FAILED)


@contextmanager
def _turn(descriptor: int) -> Iterator[None]:
    """Wait until no other worker of the replica is here; a worker that dies inside gives it up."""
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)


class _Supervisor:
    """The other end of the control socket.

    Attributes:
        hang_up: closes all connections that can be closed.
    """

    def __init__(self, connection: socket.socket, log: Log) -> None:
        self._connection = connection
        self._log = log
        self._stats: Stats | None = None
        self._models: ModelTable | None = None
        self._is_behind = False
        self._reported_at = 0.0
        self._doubt: Doubt | None = None
        self.hang_up: Callable[[], object] = lambda: None

    def start(self, models: ModelTable | None) -> None:
        self._models = models
        if models is not None:
            models.follow()
        threading.Thread(target=self._listen, name="cortex-control", daemon=True).start()

    def doubts(self, doubt: Doubt | None) -> None:
        """Have it look at the calls from now on, or nothing any more."""
        self._doubt = doubt

    def loaded(self) -> None:
        self.tell(control.Loaded())

    def ready(self, stats: Stats) -> None:
        self._stats = stats
        self.tell(control.Ready())

    def report(self) -> None:
        self._reported_at = time.monotonic()
        if self._stats is not None:
            report = control.Report(
                requests=self._stats.snapshot(),
                log_lines_dropped=self._log.dropped,
                models=self._models.counts() if self._models is not None else None,
                batches=self._stats.batches() if self._stats.batches is not None else None,
            )
            with suppress(OSError):  # it is gone, or so busy that a report more or less says nothing
                self._connection.send(control.encode(report))

    def tell(self, message: control.Message) -> None:
        """Say something that must not get lost, from any thread; waits for as long as the supervisor is busy."""
        data = control.encode(message)
        while True:
            try:
                self._connection.send(data)
            except TimeoutError:
                continue
            except OSError:  # it is gone, and so is this process, in a moment
                return
            else:
                return

    def _listen(self) -> None:
        while True:
            if self._is_behind:
                self._follow()
            self._connection.settimeout(self._until_next_look())
            with suppress(TimeoutError):
                self._hear()
            if time.monotonic() - self._reported_at >= REPORT_INTERVAL:
                self.report()  # however many orders come: who says nothing is thought to hang

    def _until_next_look(self) -> float:
        """Seconds."""
        doubt = self._doubt
        doubted = doubt.look() if doubt is not None else REPORT_INTERVAL
        return max(0.001, min(doubted, self._reported_at + REPORT_INTERVAL - time.monotonic()))

    def _hear(self) -> None:
        try:
            data = self._connection.recv(control.MAX_MESSAGE)
        except ConnectionResetError:
            data = b""
        if not data:
            os._exit(_ORPHANED)
        self._obey(control.decode_order(data))

    def _obey(self, order: control.Order) -> None:
        if isinstance(order, control.Collect):
            self.report()
        elif isinstance(order, control.HangUp):
            self.hang_up()
        elif self._models is None:
            return
        elif isinstance(order, control.Follow):
            self._follow()
        else:
            self._models.answer(order)

    def _follow(self) -> None:
        """What cannot be read now is read in a moment: nobody would say again that it is there."""
        assert self._models is not None
        try:
            self._models.follow()
        except OSError as error:
            if not self._is_behind:
                self._log.write("ERROR", f"what models to load cannot be read: {error}; trying again")
            self._is_behind = True
        else:
            self._is_behind = False


def _die_with(supervisor: int) -> None:
    """Have the kernel kill this process when the supervisor ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != supervisor:  # it ended before the kernel was told
        sys.exit(_ORPHANED)


def _keep_to_itself(settings: WorkerSettings) -> None:
    """Keep what was inherited from what the handler starts, and `/` from the import path."""
    for descriptor in (settings.listener, settings.control, settings.log, settings.turn, settings.cells):
        if descriptor != -1:
            os.set_inheritable(descriptor, False)
    sys.path[:] = [entry for entry in sys.path if entry != os.sep]


def _keep_signals_of_children_apart() -> None:
    """Have what the handler forks end by a SIGTERM of its own, without word to this process.

    It inherits what this one does about that signal: write into a pipe that both have. The signal waits until that is undone.
    """
    forking = threading.local()

    def hold() -> None:
        forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, forking.mask)

    def undo() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=undo)


def _leave_soon(status: int) -> None:
    """End also when threads of the handler would go on for ever."""
    watchdog = threading.Timer(LEAVE_WITHIN, os._exit, (status,))
    watchdog.daemon = True
    watchdog.start()


if __name__ == "__main__":
    sys.exit(main())
