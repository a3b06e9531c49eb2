"""What a request uses of models, and when it has ended."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest
from support.model_agent import model, servable

from cortex_serve.models.catalog import Place
from cortex_serve.models.holding import GONE, Holding
from cortex_serve.models.request import MOST_NAMED, Threads, Use, current


def holding(name: str, version: str = "7", *, serial: int = 1) -> Holding:
    it = servable(serial, version)
    made = Holding(Place(model=model(it, name=name), servable=it), name)
    made.model = f"{name}:{version}@{serial}"
    return made


class Ends:
    """Keeps what was given back."""

    def __init__(self) -> None:
        self.holdings: list[Holding] = []

    def __call__(self, holdings: Any) -> None:
        self.holdings += holdings


NAMES = [
    ("iris", "iris:7"),
    ("a,b:c%d", "a%2Cb%3Ac%25d:7"),
    ("größe 1", "gr%C3%B6%C3%9Fe%201:7"),
    ("tab\tnew\n", "tab%09new%0A:7"),
    ("~!\"#$&'()*+-./;<=>?@[\\]^_`{|}", "~!\"#$&'()*+-./;<=>?@[\\]^_`{|}:7"),
]


@pytest.mark.parametrize(("name", "label"), NAMES)
def test_names_in_the_header(name: str, label: str) -> None:
    use = Use(Ends())
    assert use.header() == ""
    use.take(holding(name), latest=True)
    assert use.header() == label
    assert label.isascii()
    assert label.isprintable()


def test_the_header_is_in_the_order_of_first_use_and_not_too_long() -> None:
    use = Use(Ends())
    for name in ("b", "a", "b"):
        use.take(holding(name), latest=True)
    assert use.header() == "b:7,a:7"
    for number in range(100):
        use.take(holding(str(number)), latest=False)
    assert use.header().count(",") == MOST_NAMED - 1


def test_one_content_of_a_version_is_used() -> None:
    ends = Ends()
    use = Use(ends)
    old, new = holding("iris", serial=1), holding("iris", "007", serial=2)
    assert use.take(old, latest=False) == use.take(new, latest=True) == "iris:7@1"
    assert use.uses(old)
    assert not use.uses(new)
    assert (old.users, new.users) == ({use}, set())


def test_what_has_left_is_not_taken() -> None:
    use = Use(Ends())
    it = holding("iris")
    it.leave()
    assert use.take(it, latest=True) is GONE
    assert it.users == set()
    assert use.header() == ""


def test_it_ends_with_the_last_that_holds_it() -> None:
    ends = Ends()
    use = Use(ends)
    it = holding("iris")
    use.take(it, latest=True)
    use.hold()
    use.release()
    assert (use.is_open, it.users, ends.holdings) == (True, {use}, [])
    use.release()
    assert (use.is_open, it.users, ends.holdings) == (False, set(), [it])
    assert use.take(it, latest=True) is GONE, "what runs on in its context is outside of requests"


def test_work_on_threads_keeps_the_request_open_also_when_it_is_cancelled() -> None:
    use = Use(Ends())
    go_on = threading.Event()
    token = current.set(use)
    with Threads(1) as threads:
        running: Future[Any] = threads.submit(go_on.wait, 10)
        waiting: Future[Any] = threads.submit(print)
        use.release()
        assert waiting.cancel()
        assert use.is_open
        go_on.set()
        running.result(10)
    current.reset(token)
    assert not use.is_open
    with Threads(1) as threads:
        assert threads.submit(int, "7").result(10) == 7
