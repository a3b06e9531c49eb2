"""Which requests leave, and when: on simulated time, for any arrivals, batches and departures."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from cortex_core.spec.types import ServerSideBatching
from cortex_serve.batching.queue import HEADROOM, Policy, Queue

MILLISECOND = 1_000_000

gaps = st.lists(st.floats(0, 0.05), min_size=1, max_size=60)
sizes = st.integers(2, 12)


@dataclass(frozen=True)
class Left:
    """A batch, when it left, and how many waited then."""

    at: float
    requests: list[int]
    waiting: int


@dataclass
class Simulation:
    """One handler that runs what its queue gives it."""

    policy: Policy
    call: float
    item: float
    arrived: list[float] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    late: list[tuple[float, int]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)

    def run(self, gaps: list[float], *, goes: frozenset[int] = frozenset()) -> Simulation:
        """Let requests arrive after each other by `gaps`; those in `goes` go when the next one arrives."""
        self.queue: Queue[int] = Queue(self.policy)
        self.free_at: float | None = None
        self.running = 0
        now = 0.0
        for number, gap in enumerate(gaps):
            now += gap
            self._pass_until(now)
            if number - 1 in goes and self.queue.drop(number - 1):
                self.gone.append(number - 1)
            self.arrived.append(now)
            busy = None if self.free_at is None else max(self.free_at - now, 0.0)
            if self.queue.in_time(busy):
                self.queue.put(number, now)
                self._start(now)
            else:
                self.refused.append(number)
        self._pass_until(now + 1e9)
        return self

    def seconds(self, size: int) -> float:
        return self.call + self.item * size

    def _pass_until(self, end: float) -> None:
        while (now := self._next()) is not None and now <= end:
            if self.free_at is not None:
                self.queue.learn(self.running, self.seconds(self.running))
                self.free_at = None
            self._start(now)

    def _next(self) -> float | None:
        return self.queue.due() if self.free_at is None else self.free_at

    def _start(self, now: float) -> None:
        due = self.queue.due()
        if self.free_at is not None or due is None or due > now:
            return
        waiting = len(self.queue)
        taken = self.queue.take(now)
        self.late += [(now, request) for request in taken.late]
        assert [self.arrived[request] for request, _ in taken.batch] == [at for _, at in taken.batch]
        self.running = len(taken.batch)
        self.free_at = now + self.seconds(self.running)
        self.left.append(Left(now, [request for request, _ in taken.batch], waiting))

    @property
    def answered(self) -> list[int]:
        return [request for batch in self.left for request in batch.requests]

    def done(self, batch: Left) -> float:
        return batch.at + self.seconds(len(batch.requests))


def everything_is_accounted_for(simulation: Simulation, gaps: list[float], size: int) -> None:
    late = [request for _, request in simulation.late]
    outcomes = [*simulation.answered, *late, *simulation.refused, *simulation.gone]
    assert sorted(outcomes) == list(range(len(gaps)))
    assert simulation.answered == sorted(simulation.answered), "the order was not kept"
    assert all(1 <= len(batch.requests) <= size for batch in simulation.left)


@given(gaps, sizes, st.floats(0, 0.03), st.floats(0, 0.01), st.frozensets(st.integers(0, 60)))
def test_greedy(gaps: list[float], size: int, call: float, item: float, goes: frozenset[int]) -> None:
    simulation = Simulation(Policy(max_batch_size=size), call, item).run(gaps, goes=goes)

    everything_is_accounted_for(simulation, gaps, size)
    assert not simulation.late
    assert not simulation.refused
    free_at = 0.0
    for batch in simulation.left:
        assert batch.at == max(free_at, simulation.arrived[batch.requests[0]]), "it waited for something"
        assert len(batch.requests) == min(size, batch.waiting), "it left somebody behind"
        free_at = simulation.done(batch)


@given(
    gaps,
    sizes,
    st.floats(0, 0.03),
    st.floats(0, 0.01),
    st.floats(0.001, 0.1),
    st.frozensets(st.integers(0, 60)),
)
def test_interval(
    gaps: list[float], size: int, call: float, item: float, interval: float, goes: frozenset[int]
) -> None:
    policy = Policy(max_batch_size=size, interval=interval)
    simulation = Simulation(policy, call, item).run(gaps, goes=goes)

    everything_is_accounted_for(simulation, gaps, size)
    assert not simulation.late
    free_at = 0.0
    for batch in simulation.left:
        first = simulation.arrived[batch.requests[0]]
        full_at = simulation.arrived[batch.requests[-1]] if len(batch.requests) == size else None
        assert batch.at <= max(free_at, first + interval), "the interval ended long ago"
        if full_at is not None:
            assert batch.at <= max(free_at, full_at), "a full batch waited"
        else:
            assert batch.at >= first + interval, "it did not wait for others"
        free_at = simulation.done(batch)


@given(gaps, sizes, st.floats(0.001, 0.03), st.floats(0, 0.01), st.floats(0.005, 0.3))
def test_target(gaps: list[float], size: int, call: float, item: float, target: float) -> None:
    policy = Policy(max_batch_size=size, target=target)
    simulation = Simulation(policy, call, item).run(gaps)

    everything_is_accounted_for(simulation, gaps, size)
    free_at = 0.0
    for batch in simulation.left:
        assert batch.at >= free_at
        free_at = simulation.done(batch)
    for now, request in simulation.late:
        could_be = now + simulation.seconds(size)
        assert could_be > simulation.arrived[request] + target * HEADROOM, (
            "it could have been answered in time"
        )
    assert simulation.answered, "nobody was answered at all"


def test_a_target_that_is_easily_met_refuses_nobody() -> None:
    simulation = Simulation(Policy(max_batch_size=8, target=1.0), 0.002, 0.001).run([0.002] * 500)

    assert len(simulation.answered) == 500


def test_overload_is_answered_in_time_and_the_rest_refused() -> None:
    """In batches of 15, which leave twice in 0.1 s, the handler answers 333 in a second; 2000 come."""
    policy = Policy(max_batch_size=64, target=0.1)
    simulation = Simulation(policy, 0.03, 0.001).run([0.0005] * 20_000)

    settled = simulation.left[40:]
    waits = [
        simulation.done(batch) - simulation.arrived[request]
        for batch in settled
        for request in batch.requests
    ]
    assert max(waits) <= 0.1
    useful = sum(len(batch.requests) for batch in settled)
    busy = simulation.done(settled[-1]) - settled[0].at
    most = int((0.1 * HEADROOM / 2 - 0.03) / 0.001)
    assert useful / busy >= 0.9 * most / simulation.seconds(most), "capacity was given away"
    assert len(simulation.refused) + len(simulation.late) + len(simulation.answered) == 20_000


def test_a_target_that_cannot_be_met_answers_one_after_the_other() -> None:
    simulation = Simulation(Policy(max_batch_size=8, target=0.01), 0.05, 0.001).run([0.02] * 100)

    assert len(simulation.answered) == 34, "one for every three that come while it runs"


def test_batches_grow_carefully_while_their_cost_is_unknown() -> None:
    simulation = Simulation(Policy(max_batch_size=64, target=10.0), 0.05, 0.0).run([0.0] * 50)

    assert [len(batch.requests) for batch in simulation.left[:4]] == [1, 1, 2, 4]


def test_policy_of_an_api_file() -> None:
    spec = ServerSideBatching(max_batch_size=8, batch_interval=20 * MILLISECOND)
    assert Policy.of(spec) == Policy(max_batch_size=8, interval=0.02)
    spec = ServerSideBatching(max_batch_size=8, target_latency=100 * MILLISECOND)
    assert Policy.of(spec) == Policy(max_batch_size=8, target=0.1)


def test_an_empty_queue() -> None:
    queue: Queue[str] = Queue(Policy(max_batch_size=2))

    assert queue.due() is None
    assert not queue.drop("never came")
    assert queue.take(0.0).batch == []
