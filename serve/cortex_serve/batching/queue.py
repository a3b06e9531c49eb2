"""Which of the requests that wait leave as a batch, and when. No clock, no thread, no handler."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from cortex_core.spec.types import ServerSideBatching, Struct
from cortex_serve.batching.cost_model import CostModel

HEADROOM = 0.9
"""Share of the target latency that batches may use; the rest is for reading requests and sending answers."""

T = TypeVar("T")


class Policy(Struct):
    """How batches are made; at most one of interval and target is set.

    Attributes:
        max_batch_size: most requests in a batch.
        interval: seconds that the first request of a batch waits for others; None: for nothing but the batch
            that runs.
        target: seconds within which a request shall be answered; batches are kept so small that one which just
            missed a batch still can be, and what cannot be is refused.
    """

    max_batch_size: int
    interval: float | None = None
    target: float | None = None

    @classmethod
    def of(cls, spec: ServerSideBatching) -> Policy:
        return cls(
            max_batch_size=spec.max_batch_size,
            interval=spec.batch_interval / 1e9 if spec.batch_interval is not None else None,
            target=spec.target_latency / 1e9 if spec.target_latency is not None else None,
        )


@dataclass(frozen=True, kw_only=True)
class Taken(Generic[T]):
    """What has left the queue.

    Attributes:
        batch: requests in the order of their arrival, each with the time of it.
        late: those that cannot be answered in time any more.
    """

    batch: list[tuple[T, float]]
    late: list[T]


class Queue(Generic[T]):
    """Requests that wait, in the order of their arrival. Times are seconds of one monotonic clock.

    Args:
        policy: how batches are made.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._target = policy.target * HEADROOM if policy.target is not None else None
        self._cost = CostModel()
        self._arrived: OrderedDict[T, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._arrived)

    def put(self, request: T, now: float) -> None:
        self._arrived[request] = now

    def drop(self, request: T) -> bool:
        """Take out a request that was given up; False if it does not wait (any more)."""
        return self._arrived.pop(request, None) is not None

    def empty(self) -> list[T]:
        """Take out all that wait."""
        waited = list(self._arrived)
        self._arrived.clear()
        return waited

    def learn(self, size: int, seconds: float) -> None:
        """Note how long a batch took."""
        if self._target is not None:
            self._cost.observe(size, seconds)

    def seconds(self, size: int) -> float:
        """How long a batch will take; 0 while that is not known."""
        return self._cost.seconds(size)

    def in_time(self, busy: float | None) -> bool:
        """Whether one more request would be answered within the target.

        Args:
            busy: seconds until the batch that runs is done; None if none runs.
        """
        if self._target is None or (busy is None and not self._arrived):
            return True  # even if the target cannot be kept: with nothing to run, nothing would be learned
        size = self._most()
        batches, others = divmod(len(self._arrived), size)
        wait = (busy or 0.0) + batches * self._cost.seconds(size)
        return wait + self._cost.seconds(others + 1) <= self._target

    def due(self) -> float | None:
        """When a batch is to leave, if the handler is free then; None while nothing waits."""
        if not self._arrived:
            return None
        first = next(iter(self._arrived.values()))
        if self._policy.interval is None or len(self._arrived) >= self._policy.max_batch_size:
            return first
        return first + self._policy.interval

    def take(self, now: float) -> Taken[T]:
        """Let the next batch leave; empty if nothing waits."""
        most, late = self._most(), []
        if self._target is not None:
            while len(self._arrived) > 1:  # the last one runs in any case, see `in_time`
                first, arrived = next(iter(self._arrived.items()))
                done = now + self._cost.seconds(min(most, len(self._arrived)))
                if done <= arrived + self._target:
                    break
                del self._arrived[first]
                late.append(first)
        count = min(most, len(self._arrived))
        return Taken(batch=[self._arrived.popitem(last=False) for _ in range(count)], late=late)

    def _most(self) -> int:
        """Requests in a batch: after one that just left, another must fit into the target."""
        if self._target is None:
            return self._policy.max_batch_size
        return min(self._policy.max_batch_size, self._cost.most_within(self._target / 2))
