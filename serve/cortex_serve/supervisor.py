"""The supervisor of a replica: keeps the workers alive, knows whether they are ready, ends them in order.

One thread (the main one) starts, watches and signals workers and keeps the time; it learns of deaths from
SIGCHLD, of readiness and counts from the workers' control sockets. Log and admin port have threads of their
own, which only read what is here.

    starting   until every worker has become ready once and a probe was answered. A worker that ends before it
               was ready ends the replica: its handler cannot be loaded
    running    a worker that ends is started again, at once the first time, then with growing delays; one that
               hangs (`overdue.py`) is aborted, so that the stacks of its threads are logged, or else killed
    leaving    after SIGTERM: workers finish what is in flight; after the grace, or a second signal, they are
               killed

With models, an agent decides what the workers hold (`agent/agent.py`). A worker that ends while it loads a model
is started again even before the replica was ready: the agent marks that version and has another one loaded, or
gives up.

A worker with one request thread builds its handler on that thread, in the first request; unless a client was
earlier, the supervisor sends it.

Ports and sockets are opened here and lent to the workers (`listeners.py`). While a worker is dead, connections go to
the others, or wait when there are none. Workers that serve gRPC open theirs themselves, and say that they are
ready when they have answered a health check, so nobody asks here.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cortex_core.runtime import EXIT_HANDLER_FAILED
from cortex_serve import control, probe
from cortex_serve.listeners import Listeners
from cortex_serve.log_files import LogFiles
from cortex_serve.overdue import Limits
from cortex_serve.slot import Slot
from cortex_serve.tally import ReplicaCounts, Tally
from cortex_serve.worker_process import WorkerProcess

COLLECT_WITHIN = 0.075
"""Seconds a scrape waits for workers to say what they counted; of those that are late, it shows the last."""

LOG_WITHIN = 5.0
PROBE_TIMEOUT = 5.0
FIRST_REQUEST_WITHIN = 0.5
_PROBE_AGAIN = 0.05


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run.

    Attributes:
        replica: the replica's id.
        release: path of the release document.
        project: folder of the extracted project.
        workers: how many.
        environ: the workers' environment.
        grace: seconds that requests in flight get at the end.
        limits: how long a worker may be busy.
        rpc: whether the workers serve gRPC.
    """

    replica: str
    release: Path
    project: Path
    workers: int
    environ: Mapping[str, str]
    grace: float
    limits: Limits
    rpc: bool = False


class Models(Protocol):
    """What the supervisor needs of an agent that follows models. All but `start` and `close` return at once.

    Attributes:
        folder: where the snapshot is.
        cells: descriptor of the shared memory.
    """

    @property
    def folder(self) -> Path: ...

    @property
    def cells(self) -> int: ...

    def start(self, give_up: Callable[[str], None]) -> None:
        """Begin. Once this returns, workers may be started, and find nothing that an earlier life published.

        Args:
            give_up: called, from any thread, if there is nothing that could be served.
        """

    def worker_started(self, number: int, tell: Callable[[control.Order], bool]) -> None: ...

    def said(self, number: int, message: control.Message) -> None: ...

    def worker_ended(self, number: int, how: str, *, out_of_memory: bool) -> None: ...

    def unready(self) -> list[str]:
        """Why workers cannot get ready yet."""

    def close(self) -> None:
        """Stop; within a second or so."""


class Supervisor:
    """Runs one replica.

    Args:
        plan: what to run.
        listeners: where the workers listen; closed when it leaves.
        logs: where everything that is written goes.
        models: follows the API's models, if it has any.
        started: called once the first workers have been started.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        listeners: Listeners,
        logs: LogFiles,
        models: Models | None = None,
        started: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._listeners = listeners
        self._logs = logs
        self._models = models
        self._started = started
        self._slots = [Slot(number=n, port=port) for n, (_, port) in enumerate(listeners.addresses, start=1)]
        self._turn = os.memfd_create("cortex-turn")
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._reported = threading.Condition()
        self._tally = Tally()
        self._given_up: str | None = None
        self._probe_failure: str | None = "no probe request was answered yet"
        self._probing = False
        self._was_ready = False
        self._kill_at: float | None = None
        self._leaving = False
        self._status: int | None = None

    def run(self) -> int:
        """Run the replica to its end, in the main thread.

        Returns:
            The exit status of the replica.
        """
        self._listen_to_signals()
        if self._models is not None:
            self._models.start(self._give_up)
        for slot in self._slots:
            self._start(slot)
        self._started()
        while self._status is None:
            for key, _ in self._selector.select(self._time_left()):
                key.data()
            self._start_what_is_due()
            self._replace_what_hangs()
            self._end_when_the_grace_is_over()
        self._end()
        return self._status

    def unready(self) -> list[str]:
        """Why the replica should get no requests; nothing when it should. From any thread."""
        if self._leaving:
            return ["the replica is shutting down"]
        ready = sum(slot.ready for slot in self._slots)
        if self._was_ready:
            return [] if ready else ["no worker is ready"]
        waiting = self._models.unready() if self._models is not None else []
        if ready < len(self._slots):
            return [f"{ready} of {len(self._slots)} workers are ready", *waiting]
        if waiting:
            return ["the models are not loaded yet", *waiting]
        return [self._probe_failure] if self._probe_failure else []

    def health(self) -> dict[str, Any]:
        """What the replica is doing, as JSON. From any thread."""
        return {
            "replica": self._plan.replica,
            "pid": os.getpid(),
            "ready": not self.unready(),
            "leaving": self._leaving,
            "workers": [slot.health() for slot in self._slots],
        }

    def counts(self) -> ReplicaCounts:
        """What all workers have counted, asked now. From any thread."""
        asked = time.monotonic()
        for worker in self._ready_workers():
            worker.ask_for_report()
        with self._reported:
            self._reported.wait_for(
                lambda: all(worker.reported_at >= asked for worker in self._ready_workers()), COLLECT_WITHIN
            )
            ready = self._ready_workers()
            return self._tally.with_reports(
                [worker.report for worker in ready if worker.report],
                workers_ready=len(ready),
                worker_restarts=sum(slot.restarts.count for slot in self._slots),
                log_lines_dropped=self._logs.dropped,
            )

    def _ready_workers(self) -> list[WorkerProcess]:
        return [slot.worker for slot in self._slots if slot.worker is not None and slot.worker.ready]

    # starting

    def _listen_to_signals(self) -> None:
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._be_woken)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def _start(self, slot: Slot) -> None:
        slot.start_at = None
        try:
            worker = WorkerProcess(
                slot.number,
                release=self._plan.release,
                project=self._plan.project,
                replica=self._plan.replica,
                address=self._listeners.addresses[slot.number - 1],
                listener=self._listeners.lend(slot.number),
                turn=self._turn,
                first_request=self._listeners.can_choose,
                models=self._models.folder if self._models is not None else None,
                cells=self._models.cells if self._models is not None else -1,
                environ=self._plan.environ,
                limits=self._plan.limits,
                logs=self._logs,
            )
        except OSError as error:
            delay = slot.restarts.next(ready_for=None)
            slot.start_at = time.monotonic() + delay
            self._log("ERROR", f"worker {slot.number} cannot be started, next try in {delay:g} s: {error}")
            return
        slot.worker = worker
        self._selector.register(worker.control, selectors.EVENT_READ, lambda: self._listen_to(worker))
        if self._models is not None:
            self._models.worker_started(slot.number, worker.tell)

    def _start_what_is_due(self) -> None:
        for slot in self._slots:
            is_due = slot.start_at is not None and slot.start_at <= time.monotonic()
            if is_due and not self._leaving and not self._one_comes_first():
                self._start(slot)

    def _one_comes_first(self) -> bool:
        """Whether all who connect wait for the one worker that starts; no other constructor shall keep it from that."""
        started = any(slot.worker is not None for slot in self._slots)
        return self._was_ready and started and not any(slot.ready for slot in self._slots)

    # watching

    def _time_left(self) -> float | None:
        """Seconds until there is something to do, or None."""
        one_first = self._one_comes_first()
        times = [self._kill_at, *(slot.due() for slot in self._slots if slot.worker or not one_first)]
        first = min((at for at in times if at is not None), default=math.inf)
        return max(first - time.monotonic(), 0) if first < math.inf else None

    def _be_woken(self) -> None:
        with suppress(BlockingIOError):
            for number in self._woken.recv(4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._leave(signal.Signals(number))
        if self._given_up is not None and not self._leaving:
            self._log("ERROR", self._given_up)
            self._status = EXIT_HANDLER_FAILED
        for slot in self._slots:
            if slot.worker is not None and (status := slot.worker.ended()) is not None:
                self._ended(slot, slot.worker, status)

    def _listen_to(self, worker: WorkerProcess) -> None:
        with self._reported:
            messages = worker.messages()
            self._reported.notify_all()
        if self._models is not None:
            for message in messages:
                self._models.said(worker.number, message)
        if any(isinstance(message, control.Loaded) for message in messages):
            self._send_first_request(worker)
        if any(isinstance(message, control.Ready) for message in messages):
            self._log("INFO", f"{worker} is ready")
            self._prefer_ready_workers()
            self._probe_when_all_are_ready()
        if worker.hung_up:
            self._forget(worker)

    def _send_first_request(self, worker: WorkerProcess) -> None:
        """Have a worker's request thread build the handler; if this fails, so many wait that one of them does."""
        address = self._listeners.addresses[worker.number - 1]
        try:
            worker.first_request = probe.caller(address, timeout=FIRST_REQUEST_WITHIN)
            self._listeners.only(worker.number, caller=worker.first_request.getsockname()[1])
            probe.ask(worker.first_request, address)
        except OSError:
            self._listeners.heed(worker.number)
        self._prefer_ready_workers()

    def _forget(self, worker: WorkerProcess) -> None:
        with suppress(
            KeyError, ValueError
        ):  # forgotten already, and perhaps closed since the selector woke us
            self._selector.unregister(worker.control)

    def _probe_when_all_are_ready(self) -> None:
        if not self._was_ready and not self._probing and all(slot.ready for slot in self._slots):
            self._probing = True
            threading.Thread(target=self._probe, name="cortex-probe", daemon=True).start()

    def _probe(self) -> None:
        while not self._was_ready and not self._leaving:
            if self._models is None or not self._models.unready():
                self._probe_failure = self._answered_wrongly()
                self._was_ready = self._probe_failure is None
            if not self._was_ready:
                time.sleep(_PROBE_AGAIN)
        if self._was_ready:
            self._log("INFO", "replica is ready")

    def _answered_wrongly(self) -> str | None:
        addresses = () if self._plan.rpc else dict.fromkeys(self._listeners.addresses)
        failures = (probe.failure(address, timeout=PROBE_TIMEOUT) for address in addresses)
        return next((failure for failure in failures if failure is not None), None)

    def _ended(self, slot: Slot, worker: WorkerProcess, status: int) -> None:
        self._listen_to(worker)
        self._forget(worker)
        with self._reported:
            if worker.report is not None:
                self._tally.keep(worker.report)
            slot.worker = None
        worker.close()
        self._listeners.heed(slot.number)  # it may have hung
        if any(each.ready for each in self._slots):
            self._listeners.let_go(slot.number)
        if self._models is not None:
            # nobody but the kernel kills those that do not hang, for want of memory
            killed = status == -signal.SIGKILL and not worker.hangs
            self._models.worker_ended(slot.number, worker.describe_end(status), out_of_memory=killed)
        what = f"{worker} {worker.describe_end(status)}"
        if self._leaving:
            self._log("INFO" if worker.stopped and not worker.hangs else "ERROR", what)
            if not any(each.worker for each in self._slots):
                self._status = 0
        elif not self._was_ready and not worker.ready and not worker.loading:
            self._log("ERROR", f"{what} before it was ready")
            self._status = EXIT_HANDLER_FAILED
        else:
            delay = slot.restarts.next(ready_for=worker.ready_for())
            slot.start_at = time.monotonic() + delay
            self._log("ERROR", f"{what}; it is started again" + (f" in {delay:g} s" if delay else ""))
        self._prefer_ready_workers()

    def _prefer_ready_workers(self) -> None:
        if self._leaving:
            return
        ready = [slot.number for slot in self._slots if slot.ready]
        if ready:
            self._listeners.prefer(ready)
        else:
            first = min(self._slots, key=lambda slot: (slot.worker is None, slot.start_at or 0.0))
            self._listeners.wait_at(first.number)

    def _replace_what_hangs(self) -> None:
        for slot in self._slots:
            worker = slot.worker
            if worker is None or worker.watch is None:
                continue
            step = worker.watch.look(time.monotonic())
            if step == "ask":
                worker.ask_for_report()
            elif step == "warn":
                quiet = (
                    "is silent: something holds the interpreter's lock (GIL), or the machine is overloaded"
                )
                self._log("WARNING", f"{worker} {quiet}")
            elif step == "give up":
                fate = "ended" if self._leaving else "replaced"
                why = f"{worker.watch.reason}; the stacks of its threads follow"
                self._log("ERROR", f"{worker} is {fate}: {why}")
                worker.tell(control.HangUp())
            elif step == "abort":
                worker.send_signal(signal.SIGABRT)
            elif step == "kill":
                worker.send_signal(signal.SIGKILL)

    def _give_up(self, reason: str) -> None:
        """End, because nothing can be served. From any thread."""
        self._given_up = reason
        self._wake.send(b"\0")

    # leaving

    def _leave(self, reason: signal.Signals) -> None:
        if self._leaving:
            self._log("INFO", f"second signal ({reason.name}): ending now")
            self._status = 128 + reason
            return
        self._log("INFO", f"{reason.name}: finishing what is in flight, for {self._plan.grace:g} s at most")
        self._leaving = True
        self._kill_at = time.monotonic() + self._plan.grace
        self._listeners.close()
        for slot in self._slots:
            slot.start_at = None
            if slot.worker is not None:
                slot.worker.stop()
        if not any(slot.worker for slot in self._slots):
            self._status = 0

    def _end_when_the_grace_is_over(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            self._log("ERROR", f"not finished after {self._plan.grace:g} s: ending what is left")
            self._status = 0

    def _end(self) -> None:
        """Kill what still runs, and write the log to its end."""
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.kill()
        if self._models is not None:
            self._models.close()
        self._log("INFO", f"replica ends with status {self._status}")
        self._logs.close(timeout=LOG_WITHIN)

    def _log(self, level: str, message: str) -> None:
        self._logs.write(level, message)
