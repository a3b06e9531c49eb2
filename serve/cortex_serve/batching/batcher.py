"""One batch after the other: who runs them, who answers, who keeps the time.

    put ─▶ Queue ─▶ a thread of the handler: take, call ─▶ attendant: answer each request
                       ▲                        │
                       └── the next batch, while the last one's answers are sent

The attendant is one thread. It also starts batches whose interval has ended and answers requests whose time is
up, whether they wait or run: whoever takes a request out of the unanswered ones answers it, nobody else does.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from cortex_serve.batching.counts import BatchCounts, Counter
from cortex_serve.batching.queue import Queue


class Request(Protocol):
    """A request that waits for its batch. Its methods are called once at most, by one thread, and do not raise."""

    def refuse(self) -> None:
        """Answer that it could not be answered in time."""

    def expire(self) -> None:
        """Answer that it took too long."""

    def send_elsewhere(self) -> None:
        """Answer that it was not begun, and had better be sent elsewhere."""


R = TypeVar("R", bound=Request)

Reply = Callable[[], None]
"""Sends the answer of one request; does not raise."""


@dataclass(frozen=True)
class _Close:
    """Ends the attendant."""


class Batcher(Generic[R]):
    """Runs batches, one at a time.

    Args:
        queue: decides which requests leave, and when.
        call: calls the handler; returns how each of the requests is answered, in their order. Does not raise.
            What it returns may be made only when it is looked at, while the next batch runs.
        submit: runs a function soon, on a thread of the handler.
        running: entered while a batch runs (`Stats.on_thread` or `Stats.coroutine`).
        limit: requests that may be unanswered at a time.
        timeout: seconds until a request is answered in any case.
        clock: monotonic seconds.

    Attributes:
        turns_away: the batch that runs may hang, so no request is taken in.
    """

    def __init__(
        self,
        queue: Queue[R],
        call: Callable[[Sequence[R]], Iterable[Reply]],
        *,
        submit: Callable[[Callable[[], None]], object],
        running: Callable[[], AbstractContextManager[None]],
        limit: int,
        timeout: float,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._queue = queue
        self._call = call
        self._submit = submit
        self._running = running
        self._limit = limit
        self._timeout = timeout
        self._clock = clock
        self.turns_away = False
        self._counter = Counter()
        self._lock = threading.Lock()  # who may look at the queue, and at what follows
        self._unanswered: OrderedDict[R, float] = OrderedDict()  # with their deadlines, the earliest first
        self._free_at: float | None = None  # when the batch that runs should be done
        self._replies: SimpleQueue[Iterable[tuple[R, Reply]] | _Close] = SimpleQueue()
        self._attendant = threading.Thread(target=self._attend, name="cortex-batching", daemon=True)

    def start(self) -> None:
        self._attendant.start()

    def close(self) -> None:
        """End the attendant when it has sent what there is to send."""
        self._replies.put(_Close())

    def put(self, request: R, *, age: float = 0.0) -> bool:
        """Take a request in.

        Args:
            age: seconds of its time that are gone already.

        Returns:
            False if it is one too many, or would not be answered in time, or is turned away; it is the caller's then.
        """
        now = self._clock()
        with self._lock:
            busy = None if self._free_at is None else max(self._free_at - now, 0.0)
            if self.turns_away or len(self._unanswered) >= self._limit or not self._queue.in_time(busy):
                return False
            sleeps = not self._unanswered or (busy is None and not self._queue)
            self._unanswered[request] = now + self._timeout - age
            self._queue.put(request, now)
            self._start_what_is_due(now)
        if sleeps:
            self._replies.put(())  # the attendant knows of no time yet
        return True

    def drop(self, request: R) -> bool:
        """Give a request up.

        Returns:
            Whether it was unanswered; it is the caller's then.
        """
        with self._lock:
            self._queue.drop(request)
            return self._unanswered.pop(request, None) is not None

    def turn_away(self) -> None:
        """Take no more requests in, and send those elsewhere that wait; until `let_in`."""
        with self._lock:
            self.turns_away = True
            waited = self._queue.empty()
        self._replies.put([(request, request.send_elsewhere) for request in waited])

    def let_in(self) -> None:
        self.turns_away = False

    def counts(self) -> BatchCounts:
        with self._lock:
            return self._counter.snapshot(waiting=len(self._queue))

    def _start_what_is_due(self, now: float) -> None:
        due = self._queue.due()
        if self._free_at is None and due is not None and due <= now:
            self._free_at = now
            self._submit(self._run)

    def _run(self) -> None:
        """Run the next batch."""
        now = self._clock()
        with self._lock:
            taken = self._queue.take(now)
            requests = [request for request, _ in taken.batch]
            if requests:
                self._counter.add(now - arrived for _, arrived in taken.batch)
            self._free_at = now + self._queue.seconds(len(requests))
        if taken.late:
            self._replies.put([(request, request.refuse) for request in taken.late])
        replies: Iterable[Reply] = ()
        if requests:
            with self._running():
                replies = self._call(requests)
        with self._lock:
            done = self._clock()
            if requests:
                self._queue.learn(len(requests), done - now)
            self._free_at = None
            self._start_what_is_due(done)
        self._replies.put(zip(requests, replies, strict=True))  # last: the attendant looks what is due next

    def _attend(self) -> None:
        while True:
            try:
                replies = self._replies.get(timeout=self._time_left())
            except Empty:
                replies = ()
            if isinstance(replies, _Close):
                return
            self._send(replies)
            self._send(self._overdue())

    def _time_left(self) -> float | None:
        """Seconds until there is something to do, or None."""
        with self._lock:
            times = [next(iter(self._unanswered.values()))] if self._unanswered else []
            due = self._queue.due()
            if self._free_at is None and due is not None:
                times.append(due)
            return max(min(times) - self._clock(), 0.0) if times else None

    def _overdue(self) -> list[tuple[R, Reply]]:
        """Start a batch if it is time to; returns requests whose time is up."""
        now = self._clock()
        late: list[tuple[R, Reply]] = []
        with self._lock:
            for request, deadline in self._unanswered.items():
                if deadline > now:
                    break
                self._queue.drop(request)
                late.append((request, request.expire))
            self._start_what_is_due(now)
        return late

    def _send(self, replies: Iterable[tuple[R, Reply]]) -> None:
        for request, reply in replies:
            with self._lock:
                unanswered = self._unanswered.pop(request, None) is not None
            if unanswered:
                reply()
