"""Runs the user's `load_model` and `warm_up` on threads of its own, a few at a time.

A call that does not return in time is given up: its thread goes on, as threads cannot be ended, but nobody waits
for it and it no longer counts.
"""

from __future__ import annotations

import errno
import inspect
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from cortex_core.models.errors import ModelError, ModelUnavailable
from cortex_core.models.wording import clipped
from cortex_serve import tracebacks
from cortex_serve.models.disposal import free_memory
from cortex_serve.models.turns import ShortTurns

AT_A_TIME = 4

_LONGEST_ERROR = 500
_TRANSIENT = (MemoryError, ConnectionError, TimeoutError, ModelUnavailable)
_TRANSIENT_ERRNO = (errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there is no model.

    Attributes:
        error: one line.
        transient: whether the same may work later.
        exception: what the user's code raised.
        hangs_at: where it was when it was given up.
    """

    error: str
    transient: bool
    exception: BaseException | None = None
    hangs_at: str | None = None


class Work(Protocol):
    """One load. `begin` may wait; `call` is the user's code; then `end` or `fail`, or neither if it is not wanted."""

    def begin(self) -> bool:
        """Get ready; False: it is not wanted any more."""

    def call(self) -> Any:
        """Load and warm up."""

    def end(self, model: Any, seconds: float) -> None: ...

    def fail(self, failure: Failure) -> None: ...


class _Job:
    __slots__ = ("abandoned", "is_spare", "thread", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.thread: threading.Thread | None = None
        self.is_spare = False
        self.abandoned: bool | None = None
        """None while the user's code has not ended; then whether it ended too late."""


class Loader:
    """The threads.

    Args:
        timeout: seconds that the user's code may take for one model.
        at_a_time: how many models may be loading.
    """

    def __init__(self, *, timeout: float, at_a_time: int = AT_A_TIME) -> None:
        self._timeout = timeout
        self._free = at_a_time
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._mine = threading.local()
        self._short_turns = ShortTurns()

    def submit(self, work: Work, *, urgent: bool) -> None:
        """Load it soon; what a request waits for before what it does not."""
        with self._lock:
            if urgent:
                self._waiting.appendleft(_Job(work))
            else:
                self._waiting.append(_Job(work))
        self._start_waiting()

    def hurry(self, work: Work) -> None:
        """A request waits for it now."""
        with self._lock:
            for job in self._waiting:
                if job.work is work:
                    self._waiting.remove(job)
                    self._waiting.appendleft(job)
                    return

    def current(self) -> Work | None:
        """What the calling thread loads."""
        job: _Job | None = getattr(self._mine, "job", None)
        return job.work if job else None

    @contextmanager
    def spare(self) -> Iterator[None]:
        """Let another load run while a load waits for that; elsewhere this does nothing."""
        job: _Job | None = getattr(self._mine, "job", None)
        with self._lock:
            counts = job is not None and not job.is_spare and not job.abandoned
            if job is not None:
                job.is_spare = True
        if job is None or not counts:
            yield
            return
        self._give_back()
        try:
            yield
        finally:
            with self._lock:
                job.is_spare = False
                if not job.abandoned:
                    self._free -= 1  # below zero, maybe: then the next ones wait

    def _start_waiting(self) -> None:
        while True:
            with self._lock:
                if self._free <= 0 or not self._waiting:
                    return
                self._free -= 1
                job = self._waiting.popleft()
                job.thread = threading.Thread(
                    target=self._run, args=(job,), name="cortex-load-model", daemon=True
                )
            try:
                job.thread.start()
            except RuntimeError as error:  # the system has no thread left for us
                with self._lock:
                    self._free += 1
                job.work.fail(Failure(error=one_line(error), transient=True))

    def _give_back(self) -> None:
        with self._lock:
            self._free += 1
        self._start_waiting()

    def _run(self, job: _Job) -> None:
        self._mine.job = job
        try:
            try:
                wanted = job.work.begin()
            except ModelError as error:
                job.abandoned = False
                job.work.fail(Failure(error=error.message, transient=True, exception=error))
                return
            if wanted:
                self._call(job)
            else:
                job.abandoned = False
        finally:
            if not job.abandoned:
                self._give_back()

    def _call(self, job: _Job) -> None:
        watch = threading.Timer(self._timeout, self._abandon, (job,))
        watch.daemon = True
        watch.start()
        started = perf_counter()
        model: Any = None
        failure: Failure | None = None
        try:
            with self._short_turns:
                model = job.work.call()
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            failure = failure_of(error)
        watch.cancel()
        with self._lock:
            if job.abandoned is None:
                job.abandoned = False
        if job.abandoned:
            return
        if failure is None:
            job.work.end(model, perf_counter() - started)
        else:
            job.work.fail(failure)
            failure = None  # it leads to all that the user's code had in memory
            free_memory()

    def _abandon(self, job: _Job) -> None:
        with self._lock:
            if job.abandoned is not None:
                return
            job.abandoned = True
            counted = not job.is_spare
        error = f"did not finish within {self._timeout:g} seconds"
        job.work.fail(Failure(error=error, transient=False, hangs_at=_position(job.thread)))
        if counted:
            self._give_back()


def called(load_model: Callable[..., Any], warm_up: Callable[..., Any] | None, directory: str) -> Any:
    """The model in a directory, warmed up."""
    model = load_model(model_path=directory)
    if inspect.iscoroutine(model):
        model.close()
        raise TypeError("load_model returned a coroutine; define it with `def`")
    if warm_up is not None:
        warm_up(model=model)
    return model


def failure_of(error: BaseException) -> Failure:
    """What became of a load whose user's code raised this."""
    is_transient = isinstance(error, _TRANSIENT) or (
        isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO
    )
    return Failure(error=one_line(error), transient=is_transient, exception=error)


def one_line(error: BaseException) -> str:
    """`ValueError: the first line of what it says`."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - the user's own exception, whose text may raise
        lines = []
    name = type(error).__name__
    return clipped(f"{name}: {lines[0]}" if lines else name, most=_LONGEST_ERROR)


def _position(thread: threading.Thread | None) -> str | None:
    """The user's frames of a running thread, as Python prints them, with files of the project by their short names."""
    frame = sys._current_frames().get(thread.ident or 0) if thread else None
    if frame is None:
        return None
    stack = [each for each in traceback.extract_stack(frame) if not tracebacks.is_carrier(each.filename)]
    own = [each for each in stack if not each.filename.endswith(("/threading.py",))]
    text = "".join(traceback.format_list(own)).replace(f'File "{Path.cwd()}/', 'File "')
    return text.rstrip("\n") or None
