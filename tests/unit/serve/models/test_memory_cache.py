"""C-61, C-62, A14: the cache against the simplest thing that does the same."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cortex_serve.models.memory_cache import MemoryCache

SIZE = 3
NAMES = st.sampled_from("abcdef")


class Reference(RuleBasedStateMachine):
    """A list of what is loaded, the last used last, and a set of what is loading."""

    def __init__(self) -> None:
        super().__init__()
        self.busy: set[str] = set()
        self.loaded: list[str] = []
        self.loading: set[str] = set()
        self.evictions = 0
        self.cache = MemoryCache[str](SIZE, in_use=self.busy.__contains__)

    @rule(name=NAMES)
    def ask(self, name: str) -> None:
        if name in self.loaded:
            self.cache.used(name)
            self.loaded.remove(name)
            self.loaded.append(name)
        elif name not in self.loading:
            self._reserve(name)

    def _reserve(self, name: str) -> None:
        free = [each for each in self.loaded if each not in self.busy]
        if len(self.loaded) + len(self.loading) < SIZE:
            expected: tuple[str, ...] | None = ()
        else:
            expected = (free[0],) if free else None
        assert self.cache.reserve(name) == expected
        if expected is not None:
            self.loading.add(name)
            self.loaded = [each for each in self.loaded if each not in expected]
            self.evictions += len(expected)

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.loading)))
        self.cache.loaded(name)
        self.loading.remove(name)
        self.loaded.append(name)

    @precondition(lambda self: self.loading or self.loaded)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted({*self.loading, *self.loaded})))
        self.cache.free(name)
        self.loading.discard(name)
        self.loaded = [each for each in self.loaded if each != name]

    @rule(name=NAMES)
    def take(self, name: str) -> None:
        self.busy.add(name)

    @rule(name=NAMES)
    def give_back(self, name: str) -> None:
        self.busy.discard(name)

    @invariant()
    def the_limit_holds(self) -> None:
        assert len(self.cache) == len(self.loaded) + len(self.loading) <= SIZE
        assert self.cache.evictions == self.evictions


TestMemoryCache = Reference.TestCase
TestMemoryCache.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_what_is_in_use_stays_and_the_next_oldest_goes() -> None:
    busy = {"a"}
    cache = MemoryCache[str](2, in_use=busy.__contains__)
    for name in "ab":
        assert cache.reserve(name) == ()
        cache.loaded(name)
    assert cache.reserve("c") == ("b",)
    assert cache.reserve("d") is None, "one is in use, one is loading"
    busy.clear()
    assert cache.reserve("d") == ("a",)
    assert (len(cache), cache.evictions) == (2, 2)
