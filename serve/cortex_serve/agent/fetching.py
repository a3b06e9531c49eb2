"""Fetches versions in a few threads: the urgent ones first, each once."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Protocol

from cortex_core.errors import CortexError
from cortex_core.storage.protocol import Stopped, Storage
from cortex_serve.agent.disk import FetchFailed, Wanted

THREADS = 4


class Fetches(Protocol):
    """What is used of a `Disk`."""

    def fetch(self, wanted: Wanted, storage: Storage, stopped: Callable[[], bool]) -> Path: ...


class Fetcher:
    """A queue of versions, and the threads that fetch them.

    One thread is kept for what is urgent, so that big versions that nobody waits for never delay what somebody
    waits for. What waits is not bounded here: it is as much as the caller wants at a time. Nothing is retried.

    Args:
        disk: where versions go.
        storage_of: the storage that is rooted at a location.
        done: called from the threads, once for each submitted version that was not cancelled, with its directory or
            why it cannot be had.
        report: takes a level and a line for the log.
        threads: versions at a time.
    """

    def __init__(
        self,
        disk: Fetches,
        storage_of: Callable[[str], Storage],
        *,
        done: Callable[[int, Path | FetchFailed], None],
        report: Callable[[str, str], None],
        threads: int = THREADS,
    ) -> None:
        self._disk = disk
        self._storage_of = storage_of
        self._done = done
        self._report = report
        self._changed = Condition()
        self._urgent: dict[int, _Job] = {}
        self._others: dict[int, _Job] = {}
        self._running: dict[int, _Job] = {}
        self._closed = False
        self._threads = [
            Thread(target=self._work, args=(number == 0 and threads > 1,), name="cortex-fetch", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, wanted: Wanted) -> None:
        """Fetch a version. One that is under way is not fetched twice, but may become urgent."""
        with self._changed:
            if self._closed or wanted.serial in self._running or wanted.serial in self._urgent:
                return
            job = self._others.pop(wanted.serial, None) or _Job(wanted)
            (self._urgent if wanted.urgent else self._others)[wanted.serial] = job
            self._changed.notify_all()

    def cancel(self, serial: int) -> None:
        """Forget a version: `done` is not called for it after this, unless it is being called right now."""
        with self._changed:
            for jobs in (self._urgent, self._others, self._running):
                if (job := jobs.pop(serial, None)) is not None:
                    job.stopped.set()

    def close(self, timeout: float = 5.0) -> None:
        """Cancel everything. Threads that hang in the operating system after `timeout` seconds are left behind."""
        with self._changed:
            self._closed = True
            for serial in [*self._urgent, *self._others, *self._running]:
                self.cancel(serial)
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, only_urgent: bool) -> None:
        while (job := self._next(only_urgent)) is not None:
            result = self._fetch(job)
            with self._changed:
                cancelled = self._running.get(job.wanted.serial) is not job
                if not cancelled:
                    del self._running[job.wanted.serial]
            if result is not None and not cancelled:
                self._done(job.wanted.serial, result)

    def _next(self, only_urgent: bool) -> _Job | None:
        """What to fetch now; waits for it. None: nothing any more."""
        with self._changed:
            while not self._closed:
                jobs = self._urgent or ({} if only_urgent else self._others)
                if jobs:
                    serial = next(iter(jobs))
                    job = self._running[serial] = jobs.pop(serial)
                    return job
                self._changed.wait()
            return None

    def _fetch(self, job: _Job) -> Path | FetchFailed | None:
        """None: it was cancelled."""
        wanted = job.wanted
        try:
            return self._disk.fetch(wanted, self._storage_of(wanted.location), job.stopped.is_set)
        except Stopped:
            return None
        except FetchFailed as error:
            return error
        except CortexError as error:  # there is no such storage, or not yet
            return FetchFailed(error.message, hint=error.hint, transient=True)
        except Exception as error:  # noqa: BLE001  a defect of ours must not stop the others
            self._report(
                "ERROR",
                f"fetching version {wanted.version.name} failed unexpectedly: {traceback.format_exc()}",
            )
            return FetchFailed(
                f"fetching failed unexpectedly ({type(error).__name__}); see the log", transient=True
            )


class _Job:
    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.stopped = Event()
