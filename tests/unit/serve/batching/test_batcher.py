"""Who runs batches and who answers: with threads of the handler that a test steps through, and time that it turns."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from cortex_serve.batching.batcher import Batcher, Reply
from cortex_serve.batching.queue import Policy, Queue

WITHIN = 20.0


class Caller:
    """A request, and what it was answered."""

    def __init__(self, nonce: int = 0) -> None:
        self.nonce = nonce
        self.answers: list[object] = []
        self.answered = threading.Event()

    def reply(self, answer: object) -> None:
        self.answers.append(answer)
        self.answered.set()

    def refuse(self) -> None:
        self.reply("refused")

    def expire(self) -> None:
        self.reply("expired")

    def send_elsewhere(self) -> None:
        self.reply("sent elsewhere")

    def wait(self) -> object:
        assert self.answered.wait(WITHIN), "nobody answered"
        return self.answers[0]


class Clock:
    """Stands still until it is turned; who asks may be any thread."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Steps:
    """Threads of the handler: what is submitted runs when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, function: Callable[[], None]) -> None:
        self.waiting.append(function)

    def run(self) -> None:
        self.waiting.pop(0)()


class Desk:
    """A batcher whose handler answers each caller with its nonce."""

    def __init__(self, policy: Policy, *, limit: int = 1000, timeout: float = 3600.0) -> None:
        self.clock = Clock()
        self.steps = Steps()
        self.batches: list[list[Caller]] = []
        self.running = 0
        self.meanwhile: Callable[[], object] = lambda: None
        self.batcher: Batcher[Caller] = Batcher(
            Queue(policy),
            self.call,
            submit=self.steps.submit,
            running=self.run,
            limit=limit,
            timeout=timeout,
            clock=self.clock,
        )
        self.batcher.start()

    def call(self, callers: Sequence[Caller]) -> list[Reply]:
        assert self.running == 1
        self.meanwhile()
        self.batches.append(list(callers))
        return [lambda caller=caller: caller.reply(caller.nonce) for caller in callers]  # type: ignore[misc]  # bound now

    @contextmanager
    def run(self) -> Iterator[None]:
        self.running += 1
        yield
        self.running -= 1

    def put(self, count: int, first: int = 0) -> list[Caller]:
        callers = [Caller(first + number) for number in range(count)]
        assert all(self.batcher.put(caller) for caller in callers)
        return callers


@pytest.fixture
def desk() -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(policy: Policy, **options: float) -> Desk:
        desks.append(Desk(policy, **options))  # type: ignore[arg-type]  # limit and timeout
        return desks[-1]

    yield make
    for each in desks:
        each.batcher.close()


def test_a_lone_request_leaves_at_once(desk: Callable[..., Desk]) -> None:
    one = desk(Policy(max_batch_size=4))
    [caller] = one.put(1)
    assert len(one.steps.waiting) == 1
    one.steps.run()

    assert caller.wait() == 0


def test_those_that_come_while_a_batch_runs_leave_together(desk: Callable[..., Desk]) -> None:
    one = desk(Policy(max_batch_size=4))
    callers = one.put(6)
    assert len(one.steps.waiting) == 1, "one batch at a time"
    one.steps.run()
    one.steps.run()

    assert [caller.wait() for caller in callers] == list(range(6))
    assert [[caller.nonce for caller in batch] for batch in one.batches] == [[0, 1, 2, 3], [4, 5]]
    assert not one.steps.waiting
    assert one.batcher.counts().requests == 6


def test_a_full_batch_leaves_before_its_interval_ends(desk: Callable[..., Desk]) -> None:
    one = desk(Policy(max_batch_size=3, interval=1000.0))
    one.put(2)
    assert not one.steps.waiting
    one.put(1, first=2)

    assert len(one.steps.waiting) == 1


def test_the_attendant_starts_a_batch_when_its_interval_has_ended(desk: Callable[..., Desk]) -> None:
    one = desk(Policy(max_batch_size=3, interval=0.01))
    callers = one.put(2)
    assert not one.steps.waiting
    one.clock.now += 0.01
    wait_until(lambda: bool(one.steps.waiting))
    one.steps.run()

    assert [caller.wait() for caller in callers] == [0, 1]


def test_too_many(desk: Callable[..., Desk]) -> None:
    one = desk(Policy(max_batch_size=2), limit=3)
    one.put(3)

    assert not one.batcher.put(Caller())
    one.steps.run()
    wait_until(lambda: one.batcher.put(Caller()))


def test_who_gave_up_is_not_called_for(desk: Callable[..., Desk]) -> None:
    one = desk(Policy(max_batch_size=4))
    stays, goes = one.put(2)
    assert one.batcher.drop(goes)
    assert not one.batcher.drop(goes)
    one.steps.run()

    assert stays.wait() == 0
    assert one.batches == [[stays]]
    assert not goes.answers
    assert one.batcher.counts().requests == 1


def test_everyone_gave_up(desk: Callable[..., Desk]) -> None:
    one = desk(Policy(max_batch_size=4))
    for caller in one.put(2):
        one.batcher.drop(caller)
    one.steps.run()
    [caller] = one.put(1)
    one.steps.run()

    assert caller.wait() == 0
    assert one.batches == [[caller]]


def test_who_gave_up_while_its_batch_runs_is_not_answered(desk: Callable[..., Desk]) -> None:
    one = desk(Policy(max_batch_size=4))
    stays, goes = one.put(2)
    one.meanwhile = lambda: one.batcher.drop(goes)
    one.steps.run()

    assert stays.wait() == 0
    assert not goes.answers


def test_time_is_up_while_waiting_and_while_running(desk: Callable[..., Desk]) -> None:
    one = desk(Policy(max_batch_size=1), timeout=0.02)
    runs, waits = one.put(2)
    one.clock.now += 0.02

    assert [runs.wait(), waits.wait()] == ["expired", "expired"]
    one.steps.run()
    wait_until(lambda: not one.steps.waiting)
    assert runs.answers == ["expired"], "answered twice"


def test_age_counts(desk: Callable[..., Desk]) -> None:
    one = desk(Policy(max_batch_size=1), timeout=1000.0)
    caller = Caller()
    assert one.batcher.put(caller, age=1001.0)

    assert caller.wait() == "expired"


def test_late_requests_are_refused(desk: Callable[..., Desk]) -> None:
    one = desk(Policy(max_batch_size=1, target=0.1))
    first, second, third = one.put(3)
    one.clock.now += 0.2
    one.steps.run()

    assert [first.wait(), second.wait()] == ["refused", "refused"]
    assert third.wait() == 2


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(WITHIN / 0.002)):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("it never came true")


@pytest.mark.parametrize(
    "policy", [Policy(max_batch_size=8), Policy(max_batch_size=8, interval=0.001)], ids=str
)
def test_everyone_gets_one_answer_and_it_is_theirs(policy: Policy) -> None:
    """Many threads at once, some of which give up, and a handler that fails for one batch in a hundred."""
    chance = random.Random(3)

    def call(callers: Sequence[Caller]) -> list[Reply]:
        if chance.random() < 0.01:
            return [lambda caller=caller: caller.reply("failed") for caller in callers]  # type: ignore[misc]  # bound now
        return [lambda caller=caller: caller.reply(caller.nonce) for caller in callers]  # type: ignore[misc]  # bound now

    pool = ThreadPoolExecutor(1)
    running = ThreadPoolExecutor(8)
    batcher: Batcher[Caller] = Batcher(
        Queue(policy), call, submit=pool.submit, running=no_one, limit=10_000, timeout=WITHIN
    )
    batcher.start()

    def caller(number: int) -> tuple[int, bool, list[object]]:
        mine = Caller(number)
        assert batcher.put(mine)
        gave_up = number % 50 == 0 and batcher.drop(mine)
        if not gave_up:
            mine.wait()
        return number, gave_up, mine.answers

    outcomes = list(running.map(caller, range(20_000)))
    batcher.close()
    pool.shutdown()
    running.shutdown()
    for number, gave_up, answers in outcomes:
        assert answers == ([] if gave_up else [number]) or (answers == ["failed"] and not gave_up)
    assert any(answers == ["failed"] for _, _, answers in outcomes)
    counts = batcher.counts()
    assert counts.requests == sum(counts.waits) <= 20_000


@contextmanager
def no_one() -> Iterator[None]:
    yield


def test_while_the_batch_that_runs_may_hang_those_that_wait_go_elsewhere(desk: Callable[..., Desk]) -> None:
    made = desk(Policy(max_batch_size=2))
    running = made.put(2)
    waiting = made.put(3, first=2)
    made.meanwhile = made.batcher.turn_away
    made.steps.run()
    assert [caller.wait() for caller in waiting] == ["sent elsewhere"] * 3
    assert not made.batcher.put(Caller())
    assert made.batcher.counts().waiting == 0
    assert [caller.wait() for caller in running] == [0, 1]  # it did not hang
    made.batcher.let_in()
    made.meanwhile = lambda: None
    [later] = made.put(1, first=9)
    made.steps.run()
    assert later.wait() == 9
    assert made.batches == [running, [later]]
