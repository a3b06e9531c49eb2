"""C-48 to C-64: what a handler gets when it asks for a model, while an agent changes what there is."""

from __future__ import annotations

import errno
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.model_agent import model, servable
from support.model_worker import Handler, InThread, Loaded, Worker, until

from cortex_core.models.errors import LoadFailed, ModelUnavailable, UnknownModel, UnknownVersion
from cortex_serve import control
from cortex_serve.models.table import Waits

Make = Callable[..., Worker]
SOON = Waits(fetch=10, room=0.05, replaced=0.05, fallback=0.05)


def paths(*models: Loaded) -> list[str]:
    return [each.path for each in models]


def test_residents_are_loaded_before_anyone_asks(worker: Make) -> None:
    it = worker()
    it.live(model(servable(6), servable(7, resident=True)))

    assert it.get().path == "/models/7/7"
    assert it.get() is it.get("whatever", "latest") is it.get(model_version=None) is it.get("", 7)
    assert it.handler.paths == ["/models/7/7"]
    loading, loaded = it.agent.messages
    assert loading == control.ModelLoading(serial=7)
    assert isinstance(loaded, control.ModelLoaded)
    assert loaded.seconds >= 0
    assert it.table.counts() == control.ModelCounts(hits=5, held=1)


def test_none_is_a_model(worker: Make) -> None:
    class Nothing(Handler):
        def load_model(self, model_path: str) -> Any:
            super().load_model(model_path)

    it = worker(handler=Nothing())
    it.live(model(servable(1, resident=True)))
    with it.request():
        assert [it.get(), it.get(), it.get(None, "1")] == [None, None, None]
    assert len(it.handler.paths) == 1


def test_models_with_names(worker: Make) -> None:
    it = worker(has_names=True)
    it.publish(model(servable(1, resident=True), name="a"), model(servable(2, "9", resident=True), name="b"))
    it.table.wait_until_held()
    assert paths(it.get("a"), it.get(model_name="b"), it.get("b", "9")) == [
        "/models/1/1",
        "/models/2/9",
        "/models/2/9",
    ]
    assert it.table.metadata() == {
        "a": {"versions": ["1"], "latest": None},
        "b": {"versions": ["9"], "latest": None},
    }


WRONG: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((), UnknownModel, "no model name was given; available: 'a'"),
    (("b",), UnknownModel, "there is no model 'b'; available: 'a'"),
    ((["a"],), UnknownModel, "there is no model '['a']'; available: 'a'"),
    (("a", "3"), UnknownVersion, "model 'a' has no version '3'; available: '2' and '1'"),
    (("a", "newest"), UnknownVersion, "the model version must be a whole number or \"latest\", got 'newest'"),
    (("a", "1"), LoadFailed, "model 'a': version '1' cannot be loaded: ValueError: bad magic"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), WRONG)
def test_c48_what_cannot_be_had(
    worker: Make, arguments: tuple[Any, ...], kind: type[Exception], message: str
) -> None:
    it = worker(has_names=True)
    it.publish(model(servable(1, error="ValueError: bad magic"), servable(2, resident=True), name="a"))
    with pytest.raises(kind) as caught:
        it.get(*arguments)
    assert str(caught.value) == message


def test_a_removed_model(worker: Make) -> None:
    it = worker()
    it.publish(model())
    with pytest.raises(
        UnknownVersion, match=r"^all versions of the model have been removed; add one to resume$"
    ):
        it.get()
    it.publish()
    with pytest.raises(UnknownModel, match=r"^no model is available$"):
        it.get()


def test_all_versions_failed(worker: Make) -> None:
    it = worker()
    it.publish(model(servable(1, error="EOFError"), target=0))
    with pytest.raises(LoadFailed, match=r"^model 'iris': version '1' cannot be loaded: EOFError$"):
        it.get()


def test_a_request_uses_one_version_from_start_to_end(worker: Make) -> None:
    it = worker()
    it.live(model(servable(6, resident=True)))
    with it.request() as use:
        before = it.get()
        it.live(model(servable(6, resident=True), servable(7, resident=True)))
        it.publish(model(servable(6), servable(7, resident=True)))
        elsewhere = InThread(it.get).result()
        assert it.get() is before is elsewhere is it.get(None, 6)
        assert it.get(None, "7").path == "/models/7/7"
        assert use.header() == "iris:6,iris:7"
    with it.request() as use:
        assert it.get().path == "/models/7/7"
        assert use.header() == "iris:7"
    assert it.get().path == "/models/7/7"


def test_a_replaced_version_is_the_old_one_until_the_request_ends(worker: Make) -> None:
    it = worker()
    it.live(model(servable(1, "7", resident=True)))
    with it.request() as use:
        before = it.get(None, 7)
        it.live(model(servable(1, "7", resident=True), servable(2, "7", resident=True)))
        assert it.get() is before
        it.publish(model(servable(2, "7", resident=True)))
        assert it.get(None, "007") is before
        assert use.header() == "iris:7"
    it.agent.wait_for(control.ModelDropped(serial=1))
    assert it.get(None, 7).path == "/models/2/7"


def test_c59_what_was_replaced_goes_when_its_last_request_has_ended(worker: Make) -> None:
    it = worker()
    it.live(model(servable(1, resident=True)))
    threads: list[str] = []
    gone = threading.Event()

    def went(_: object) -> None:
        threads.append(threading.current_thread().name)
        gone.set()

    with it.request():
        old = weakref.ref(it.get(), went)
        it.live(model(servable(1, resident=True), servable(2, resident=True)))
        with it.request():
            assert it.get().path == "/models/2/2"
        it.publish(model(servable(2, resident=True)))
        with pytest.raises(UnknownVersion):
            InThread(lambda: Worker.outside(lambda: it.get(None, 1))).result()
        assert it.table.counts().held == 2
        assert old() is not None
        assert it.agent.said(control.ModelDropped) == []
    it.agent.wait_for(control.ModelDropped(serial=1))
    assert gone.wait(5)
    assert threads == ["cortex-drop-models"], "what its end takes is not a request's business"
    assert it.table.counts().held == 1


def test_the_last_version_that_was_live_goes_but_what_is_asked_for_by_number_stays(worker: Make) -> None:
    it = worker()
    it.live(model(servable(1), servable(2, resident=True)))
    assert it.get(None, 1).path == "/models/1/1"
    it.live(model(servable(1), servable(2, resident=True), servable(3, resident=True)))
    it.publish(model(servable(1), servable(2), servable(3, resident=True)))
    it.agent.wait_for(control.ModelDropped(serial=2))
    assert it.get(None, 1).path == "/models/1/1"
    it.publish(model(servable(3, resident=True)))
    it.agent.wait_for(control.ModelDropped(serial=1))
    assert it.handler.paths == ["/models/2/2", "/models/1/1", "/models/3/3"]


def test_resource_policy_everything_leaves_before_the_next_comes(worker: Make) -> None:
    it = worker(waits=SOON)
    it.live(model(servable(1, resident=True)))
    assert it.get(None, 1).path == "/models/1/1"
    it.publish(model(servable(1), servable(2), target=0))
    it.agent.switch("_cortex_default", 0)
    it.agent.wait_for(control.ModelDropped(serial=1))
    with pytest.raises(ModelUnavailable, match=r"^model 'iris' is being replaced; try again$"):
        it.get()
    patient = InThread(it.get)
    with pytest.raises(ModelUnavailable):
        patient.result()
    it.publish(model(servable(1), servable(2, resident=True)))
    assert it.get().path == "/models/2/2", "the target will do until all workers have it"


def test_a_request_waits_while_its_model_is_replaced(worker: Make) -> None:
    it = worker()
    it.publish(model(servable(1), target=0))
    asked = InThread(it.get)
    it.publish(model(servable(1, resident=True)))
    assert asked.result().path == "/models/1/1"


def test_a_cell_may_be_ahead_of_the_message_about_the_snapshot(worker: Make) -> None:
    it = worker()
    it.live(model(servable(1, resident=True)))
    it.agent.publish(model(servable(1), servable(2, resident=True)))
    it.agent.switch("_cortex_default", 2)
    assert it.get().path == "/models/2/2"


# -- on demand


def test_c49_many_wait_for_one_load(worker: Make) -> None:
    it = worker()
    it.handler.gates["/models/1/1"] = gate = threading.Event()
    it.live(model(servable(1), servable(2, resident=True)))
    asked = [InThread(lambda: it.get(None, 1)) for _ in range(20)]
    until(lambda: it.table.counts().misses == 20, "all of them wait")
    assert it.get().path == "/models/2/2", "other models are not blocked"
    gate.set()
    first, *others = [each.result() for each in asked]
    assert all(each is first for each in others)
    assert it.handler.paths == ["/models/2/2", "/models/1/1"]


def test_c64_what_is_not_here_is_wanted_once_and_loaded_when_it_is(worker: Make) -> None:
    it = worker()
    it.live(model(servable(1, directory=None), servable(2, resident=True)))
    asked = [InThread(lambda: it.get(None, 1)) for _ in range(5)]
    it.agent.wait_for(control.Want(serial=1))
    until(lambda: it.table.counts().misses == 5, "all of them wait")
    it.table.answer(control.Here(serial=1, directory="/fetched/1"))
    assert {each.result().path for each in asked} == {"/fetched/1"}
    assert it.agent.said(control.Want) == [control.Want(serial=1)]


def test_what_cannot_be_fetched(worker: Make) -> None:
    it = worker()
    it.live(model(servable(1, directory=None), servable(2, resident=True)))
    asked = [InThread(lambda: it.get(None, 1)) for _ in range(3)]
    until(lambda: it.table.counts().misses == 3, "all of them wait")
    it.table.answer(control.Here(serial=1, error="access denied"))
    for each in asked:
        with pytest.raises(LoadFailed, match=r"^model 'iris': version '1' cannot be loaded: access denied$"):
            each.result()
    again = InThread(lambda: it.get(None, 1))
    until(lambda: len(it.agent.said(control.Want)) == 2, "the next request asks again")
    it.table.answer(control.Here(serial=1, directory="/fetched/1"))
    assert again.result().path == "/fetched/1"


def test_what_is_not_fetched_in_time(worker: Make) -> None:
    it = worker(waits=Waits(fetch=0.05, room=0, replaced=0, fallback=0), load_timeout=0.05)
    it.publish(model(servable(1, directory=None)))
    with pytest.raises(ModelUnavailable, match="takes long to be fetched and loaded; try again"):
        it.get(None, 1)
    it.table.answer(control.Here(serial=1, directory="/fetched/1"))
    it.agent.wait_for(control.ModelDropped(serial=1))  # nobody needs it: it may leave the disk
    assert it.handler.paths == []


def test_what_leaves_while_it_is_waited_for(worker: Make) -> None:
    it = worker()
    it.live(model(servable(1, directory=None), servable(2, resident=True)))
    asked = InThread(lambda: it.get(None, 1))
    it.agent.wait_for(control.Want(serial=1))
    it.publish(model(servable(2, resident=True)))
    with pytest.raises(UnknownVersion, match=r"^the model has no version '1'; available: '2'$"):
        asked.result()


def test_what_leaves_while_it_is_loaded_is_given_to_who_waits_and_goes(worker: Make) -> None:
    it = worker()
    it.handler.gates["/models/1/1"] = gate = threading.Event()
    it.live(model(servable(1), servable(2, resident=True)))
    asked = InThread(lambda: it.get(None, 1))
    it.agent.wait_for(control.ModelLoading(serial=1))
    it.publish(model(servable(2, resident=True)))
    gate.set()
    assert asked.result().path == "/models/1/1"
    it.agent.wait_for(control.ModelDropped(serial=1))


def test_load_model_may_ask_for_another_model(worker: Make) -> None:
    class Composed(Handler):
        get: Any

        def load_model(self, model_path: str) -> Any:
            loaded = super().load_model(model_path)
            if model_path.endswith(("2", "3", "4", "5", "6", "7")):
                loaded.base = self.get("base")
            if model_path.endswith("8"):
                self.get("selfish")
            return loaded

    handler = Composed()
    it = worker(handler=handler, has_names=True)
    handler.get = it.get
    it.publish(
        model(servable(1), name="base"),
        *(model(servable(number, resident=True), name=f"model-{number}") for number in range(2, 8)),
        model(servable(8), name="selfish"),
    )
    it.table.wait_until_held()
    assert {it.get(f"model-{number}").base for number in range(2, 8)} == {it.get("base")}
    with pytest.raises(LoadFailed, match="load_model asks for the model that it is to load"):
        it.get("selfish")


# -- failures


def failures(worker: Worker) -> list[control.ModelFailed]:
    return worker.agent.said(control.ModelFailed)


FAILURES: list[tuple[BaseException, str, bool]] = [
    (ValueError("bad magic\nsecond line"), "ValueError: bad magic", False),
    (SystemExit(3), "SystemExit: 3", False),
    (KeyboardInterrupt(), "KeyboardInterrupt", False),
    (GeneratorExit(), "GeneratorExit", False),
    (MemoryError(), "MemoryError", True),
    (ConnectionResetError("peer"), "ConnectionResetError: peer", True),
    (TimeoutError(), "TimeoutError", True),
    (OSError(errno.ENOSPC, "No space left"), "OSError: [Errno 28] No space left", True),
    (FileNotFoundError(errno.ENOENT, "No such file"), "FileNotFoundError: [Errno 2] No such file", False),
    (ValueError("\x1b[31m" + "x" * 1000), "ValueError: \\x1b[31m" + "x" * 480 + "…", False),
]


@pytest.mark.parametrize(
    ("error", "line", "transient"), FAILURES, ids=[type(row[0]).__name__ for row in FAILURES]
)
def test_c54_a_version_that_cannot_be_loaded(
    worker: Make, caplog: pytest.LogCaptureFixture, error: BaseException, line: str, transient: bool
) -> None:
    it = worker()
    it.handler.errors["/models/7/7"] = error
    it.live(model(servable(6, resident=True)))
    it.publish(model(servable(6, resident=True), servable(7, resident=True)))
    until(lambda: failures(it), "the agent is told")
    assert failures(it) == [control.ModelFailed(serial=7, error=line, transient=transient)]
    assert it.get().path == "/models/6/6"
    for _ in range(3):
        with pytest.raises(LoadFailed) as caught:
            it.get(None, 7)
        assert caught.value.message == f"model 'iris': version '7' cannot be loaded: {line}"
        assert caught.value.summary == "model 'iris': version '7' cannot be loaded"
    it.publish(model(servable(6, resident=True), servable(7, resident=True)))  # not known of the failure yet
    assert it.handler.paths == ["/models/6/6", "/models/7/7"]
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.getMessage() == "model iris: version 7 cannot be loaded"
    assert record.exc_info
    assert record.exc_info[1] is error


def test_a_failed_version_is_loaded_again_when_the_agent_says_so(worker: Make) -> None:
    it = worker()
    it.handler.errors["/models/1/1"] = MemoryError()
    it.publish(model(servable(1, resident=True)))
    until(lambda: failures(it), "the agent is told")
    it.publish(model(servable(1, error="MemoryError")))
    with pytest.raises(LoadFailed, match="MemoryError"):
        it.get()
    it.handler.errors.clear()
    it.publish(model(servable(1, resident=True)))
    it.table.wait_until_held()
    assert it.get().path == "/models/1/1"


def test_who_asked_for_the_latest_gets_the_last_good_one_when_the_agent_moves_back(worker: Make) -> None:
    it = worker(waits=Waits(fetch=10, fallback=10))
    it.handler.errors["/models/7/7"] = ValueError("bad")
    it.publish(model(servable(6), servable(7)))
    asked = InThread(it.get)
    until(lambda: failures(it), "the agent is told")
    it.publish(model(servable(6), servable(7, error="ValueError: bad"), target=6))
    assert asked.result().path == "/models/6/6"


def test_who_asked_for_the_latest_is_told_when_there_is_no_other(worker: Make) -> None:
    it = worker()
    it.handler.errors["/models/7/7"] = ValueError("bad")
    it.publish(model(servable(7)))
    with pytest.raises(LoadFailed, match="ValueError: bad"):
        it.get()


@pytest.mark.parametrize("hangs", [1, 4])
def test_a9_loads_that_hang_are_given_up_and_block_nothing(
    worker: Make, caplog: pytest.LogCaptureFixture, hangs: int
) -> None:
    it = worker(load_timeout=0.5, has_names=True)
    stuck = [servable(number, resident=True) for number in range(1, hangs + 1)]
    gates = [it.handler.gates.setdefault(f"/models/{n}/{n}", threading.Event()) for n in range(1, hangs + 1)]
    it.publish(*(model(each, name=f"stuck-{each.serial}") for each in stuck))
    it.publish(
        *(model(each, name=f"stuck-{each.serial}") for each in stuck),
        model(servable(9, resident=True), name="good"),
    )
    assert it.get("good").path == "/models/9/9"
    until(lambda: len(failures(it)) == hangs, "all are given up")
    assert {(each.error, each.transient) for each in failures(it)} <= {
        ("did not finish within 0.5 seconds", False)
    }
    logged = [each.getMessage() for each in caplog.records if "cannot be loaded" in each.getMessage()]
    assert len(logged) == hangs
    assert all("is still at" in text and "gates[model_path].wait" in text for text in logged)
    for gate in gates:
        gate.set()
    with pytest.raises(LoadFailed, match="did not finish"):
        it.get("stuck-1")
    assert len(failures(it)) == hangs, "what comes too late is not heard of"


def test_warm_up_comes_before_the_first_request(worker: Make) -> None:
    class Warm(Handler):
        def warm_up(self, model: Loaded) -> None:
            model.path += " warm"
            if "/2/" in model.path:
                raise RuntimeError("cold")

    it = worker(handler=Warm())
    it.live(model(servable(1, resident=True)))
    assert it.get().path == "/models/1/1 warm"
    with pytest.raises(UnknownVersion):
        it.get(None, 2)
    it.publish(model(servable(1, resident=True), servable(2)))
    with pytest.raises(LoadFailed, match="RuntimeError: cold"):
        it.get(None, 2)


def test_a_coroutine_is_no_model(worker: Make) -> None:
    class Late(Handler):
        def load_model(self, model_path: str) -> Any:
            async def load() -> None: ...

            return load()

    it = worker(handler=Late())
    it.publish(model(servable(1)))
    with pytest.raises(LoadFailed, match="TypeError: load_model returned a coroutine; define it with `def`"):
        it.get()


# -- the cache


def cached(worker: Make, count: int, *, size: int, **options: Any) -> Worker:
    it = worker(cache_size=size, has_names=True, **options)
    it.agent.fetch = lambda want: it.table.answer(
        control.Here(serial=want.serial, directory=f"/{want.serial}")
    )
    it.publish(*(model(servable(n, directory=None), name=f"m{n}") for n in range(1, count + 1)))
    for number in range(1, count + 1):
        it.agent.switch(f"m{number}", number)
    return it


def test_c61_the_least_recently_used_makes_room(worker: Make) -> None:
    it = cached(worker, 4, size=2)
    order = [1, 2, 1, 3, 1, 2, 4]
    assert paths(*(it.get(f"m{number}") for number in order)) == [f"/{number}" for number in order]
    assert it.handler.paths == ["/1", "/2", "/3", "/2", "/4"]
    assert [each.serial for each in it.agent.said(control.ModelDropped)] == [2, 3, 1]
    assert it.table.counts() == control.ModelCounts(hits=2, misses=5, evictions=3, held=2)
    assert [each.used for each in it.agent.said(control.Want)] == [(), (1,), (2, 1), (3, 1), (2,)]


def test_c62_what_is_in_use_stays_and_loads_wait_for_room(worker: Make) -> None:
    it = cached(worker, 3, size=2)
    with it.request():
        first, second = it.get("m1"), it.get("m2")
        third = InThread(lambda: Worker.outside(lambda: it.get("m3")))
        until(lambda: it.table.counts().misses == 3, "it waits")
        assert (it.get("m1"), it.get("m2")) == (first, second)
        assert it.handler.paths == ["/1", "/2"]
        assert it.table.counts().held == 2
        del first, second
    assert third.result().path == "/3"
    assert [each.serial for each in it.agent.said(control.ModelDropped)] == [1]


def test_c62_a_full_cache_is_told_in_time(worker: Make) -> None:
    it = cached(worker, 3, size=2, waits=SOON)
    with it.request():
        it.get("m1"), it.get("m2")
        with pytest.raises(ModelUnavailable, match=r"^every model in the cache is in use; try again$"):
            it.get("m3")
    assert [each.serial for each in it.agent.said(control.Want)] == [
        1,
        2,
    ]  # of the third, the agent never heard
    assert it.get("m3").path == "/3"


def test_c62_memory_has_room_before_the_disk_is_asked_for_some(worker: Make) -> None:
    """The disk may have no more places than memory; what memory holds must not be in the way there."""
    it = cached(worker, 2, size=1)
    it.get("m1"), it.get("m2")
    said = [type(each) for each in it.agent.messages if isinstance(each, control.Want | control.ModelDropped)]
    assert said == [control.Want, control.ModelDropped, control.Want]


def test_the_agent_hears_of_a_load_before_anyone_gets_the_model(worker: Make) -> None:
    """Else a request could have it dropped, and the agent hear that first."""
    it = cached(worker, 1, size=1)
    held: list[int] = []
    it.agent.hears = lambda message: (
        held.append(it.table.counts().held) if isinstance(message, control.ModelLoaded) else None
    )
    it.get("m1")
    assert held == [0]


def test_a_new_version_takes_a_place_and_the_old_one_gives_it_back(worker: Make) -> None:
    it = cached(worker, 1, size=2)
    assert it.get("m1").path == "/1"
    it.live(model(servable(1, directory=None), servable(2, resident=True), name="m1"))
    it.publish(model(servable(1, directory=None), servable(2), name="m1"))
    it.agent.wait_for(control.ModelDropped(serial=1))
    assert it.get("m1").path == "/models/2/2"
    assert it.table.counts() == control.ModelCounts(hits=1, misses=1, held=1)


def test_a14_many_threads_many_models_one_small_cache(worker: Make) -> None:
    size, models, threads, rounds = 5, 50, 32, 25
    alive: weakref.WeakSet[Loaded] = weakref.WeakSet()
    most: list[int] = []

    class Counting(Handler):
        def load_model(self, model_path: str) -> Any:
            most.append(len(alive) + 1)
            loaded = super().load_model(model_path)
            alive.add(loaded)
            return loaded

    it = cached(worker, models, size=size, handler=Counting(), waits=Waits(room=20))

    def ask(seed: int) -> None:
        for step in range(rounds):
            number = (seed * 7 + step * step * 3 + step) % models + 1
            with it.request() as use:
                got = it.get(f"m{number}")
                assert got.path == f"/{number}"
                assert got is it.get(f"m{number}")
                assert use.header() == f"m{number}:{number}"
                del got

    gc.freeze()  # as a worker does once its handler is built
    try:
        asking = [
            InThread(lambda seed=number: Worker.outside(lambda: ask(seed))) for number in range(threads)
        ]
        for each in asking:
            each.result()
    finally:
        gc.unfreeze()
    counts = it.table.counts()
    assert len(it.handler.paths) == counts.evictions + counts.held
    assert counts.hits + counts.misses >= threads * rounds
    assert counts.held == size
    gc.collect()
    assert len(alive) == size
    assert max(most) <= size
