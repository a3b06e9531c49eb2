"""Whatever happens, in whatever order: what must hold at every moment (`support.rollouts`), and where it ends."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.rollouts import Bad, World

from cortex_serve.agent.disk_cache import CacheLimits

MODELS = st.sampled_from(["iris", "wine"])
VERSIONS = st.sampled_from(["0", "1", "2", "10"])
CONTENTS = st.sampled_from(["a", "b", "c"])
BAD: list[Bad] = ["raises", "kills", "out_of_memory", "no_memory", "unfetchable", "corrupt", "storage_down"]


class Replica(RuleBasedStateMachine):
    """A replica whose models are published, changed and removed, whose workers die, whose requests ask."""

    policy = "availability"
    cache: CacheLimits | None = None

    @initialize(
        upstream=st.dictionaries(MODELS, st.dictionaries(VERSIONS, CONTENTS, min_size=1)),
        bad=st.dictionaries(st.tuples(MODELS, VERSIONS, CONTENTS), st.sampled_from(BAD), max_size=6),
        workers=st.integers(1, 3),
        trials=st.booleans(),
        all_required=st.booleans(),
    )
    def start(self, upstream, bad, workers, trials, all_required) -> None:
        self.count = workers
        self.world = World(
            upstream,
            bad=bad,
            workers=workers,
            trials=trials,
            all_required=all_required,
            policy=self.policy,
            cache=self.cache,
        )

    @rule(model=MODELS, name=VERSIONS, content=CONTENTS)
    def publish(self, model: str, name: str, content: str) -> None:
        self.world.upstream.setdefault(model, {})[name] = content
        self.world.see()

    @rule(model=MODELS, name=VERSIONS)
    def remove(self, model: str, name: str) -> None:
        versions = self.world.upstream.get(model, {})
        versions.pop(name, None)
        if not versions:
            self.world.upstream.pop(model, None)
        self.world.see()

    @rule(model=MODELS)
    def remove_model(self, model: str) -> None:
        self.world.upstream.pop(model, None)
        self.world.see()

    @rule(data=st.data(), times=st.integers(1, 6))
    def go_on(self, data, times: int) -> None:
        for _ in range(times):
            steps = self.world.steps()
            if not steps:
                return
            self.world.step(*data.draw(st.sampled_from(steps)))

    @rule(seconds=st.sampled_from([0.5, 5, 31, 60, 700]))
    def wait(self, seconds: float) -> None:
        self.world.tick(seconds)

    @precondition(lambda self: self.world.workers)
    @rule(data=st.data())
    def kill(self, data) -> None:
        self.world.end_worker(data.draw(st.sampled_from(sorted(self.world.workers))))

    @rule()
    def restart(self) -> None:
        for number in set(range(self.count)) - self.world.workers.keys():
            self.world.start_worker(number)

    @precondition(lambda self: self.world.workers and self.world.servables)
    @rule(data=st.data())
    def ask(self, data) -> None:
        """A request needs a servable that its worker does not hold."""
        worker = self.world.workers[data.draw(st.sampled_from(sorted(self.world.workers)))]
        known = sorted(worker.known().keys() - worker.held)
        if known:
            self.world.want(worker.number, data.draw(st.sampled_from(known)))

    @precondition(lambda self: self.world.pinned)
    @rule(data=st.data())
    def load_what_was_asked_for(self, data) -> None:
        number, serial = data.draw(st.sampled_from(sorted(self.world.pinned)))
        if serial not in self.world.workers[number].held:
            assert self.world.directory_of(serial) in self.world.on_disk()
            self.world.load(number, serial)

    @precondition(lambda self: self.cache is not None)
    @rule(data=st.data())
    def evict_from_memory(self, data) -> None:
        held = [
            (number, serial)
            for number, worker in self.world.workers.items()
            for serial in worker.held
            if not any(each.resident and each.serial == serial for each in worker.known().values())
        ]
        if held:
            self.world.drop(*data.draw(st.sampled_from(sorted(held))))

    @invariant()
    def rows_can_be_shown(self) -> None:
        self.world.rollout.models()
        self.world.rollout.unready()
        self.world.rollout.counts()

    def teardown(self) -> None:
        """In the end nothing is bad for a while any more, and the highest good version of each model serves."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.bad = {
            place: bad
            for place, bad in world.bad.items()
            if bad not in ("out_of_memory", "no_memory", "storage_down")
        }
        self.drop_what_requests_hold()
        world.run(wait=True)
        self.drop_what_requests_hold()
        world.run(wait=True)
        known = {model: versions for model, versions in world.upstream.items() if versions}
        for model, versions in known.items():
            self.serves_the_best(model, versions)
        if self.cache is None:
            there = {f"/models/{m}/{v}@{c}" for m, versions in known.items() for v, c in versions.items()}
            serving = {world.directory_of(serial) for serial in world.cells.values() if serial}
            assert world.on_disk() <= there | serving
        assert world.rollout.counts().servables <= sum(map(len, known.values())) + len(known)

    def drop_what_requests_hold(self) -> None:
        for number, serial in list(self.world.pinned):
            if serial in self.world.workers[number].held:
                self.world.drop(number, serial)
            else:
                del self.world.pinned[number, serial]
                self.world.handle_failed(number, serial)

    def serves_the_best(self, model: str, versions: dict[str, str]) -> None:
        """The highest good one, unless what is better is not known, or what is worse."""
        good = {
            int(name): content for name, content in versions.items() if not self.is_bad(model, name, content)
        }
        live = self.world.live(model)
        if not good:
            return
        assert live is not None
        name, content = live[:-1], live[-1]
        if int(name) == max(good) and versions.get(name) == content:
            return
        is_last_good = name in versions and self.is_bad(model, name, versions[name])
        if self.cache is None:
            assert is_last_good
            assert int(name) >= max(good)
        else:  # or nobody has asked for it yet
            assert is_last_good or self.is_bad(model, name, content)

    def is_bad(self, model: str, name: str, content: str) -> bool:
        return (model, name, content) in self.world.bad


class Availability(Replica):
    pass


class Resource(Replica):
    policy = "resource"


class Cached(Replica):
    cache = CacheLimits(memory=2, disk=3)


TestAvailability = Availability.TestCase
TestResource = Resource.TestCase
TestCached = Cached.TestCase
TestAvailability.settings = TestResource.settings = TestCached.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
