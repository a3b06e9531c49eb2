"""With caches: what is fetched when it is asked for, and what leaves the disk for it."""

from __future__ import annotations

from support.rollouts import World, stored

from cortex_serve import control
from cortex_serve.agent import actions
from cortex_serve.agent.disk_cache import CacheLimits

MANY = {f"m{number}": {"1": "a"} for number in range(6)}


def cached(upstream=MANY, *, disk=3, **more):
    return World(upstream, cache=CacheLimits(memory=2, disk=disk), **more)


def use(world: World, model: str, name: str = "1", *, used: tuple[int, ...] = (), keep: bool = False) -> int:
    """A request for a model that is in no memory; with `keep` it stays in memory, otherwise it is evicted."""
    serial = world.serial(model, name)
    world.want(0, serial, used)
    if serial in world.fetches:
        world.step("fetch", serial)
    world.load(0, serial)
    if not keep:
        world.drop(0, serial)
    return serial


def test_nothing_is_fetched_or_loaded_at_start_but_all_is_known():
    world = cached().run()
    assert world.rollout.unready() == []
    assert world.disk == {}
    assert [world.live(model) for model in MANY] == ["1a"] * 6
    assert "INFO 6 models are known; each is fetched and loaded when it is asked for" in world.notes()
    assert len([each for each in world.log if isinstance(each, actions.Publish)]) == 1
    kinds = [type(each).__name__ for each in world.log]
    assert kinds.index("Publish") < kinds.index("Switch")


def test_who_asks_gets_it():
    world = cached().run()
    serial = use(world, "m0")
    assert world.answers == [(0, control.Here(serial=serial, directory="/models/m0/1@a"))]
    use(world, "m0")
    assert len(world.answers) == 2
    assert sum(isinstance(each, actions.Fetch) for each in world.log) == 1


def test_only_what_is_in_memory_is_shown_as_live():
    world = cached().run()
    use(world, "m0", keep=True)
    assert world.states("m0") == {"1": "live"}
    assert world.states("m1") == {"1": "available"}


def test_many_who_ask_for_one_are_one_fetch():
    world = cached(workers=3).run()
    serial = world.serial("m0", "1")
    for number in (0, 1, 2):
        world.want(number, serial)
    assert len(world.fetches) == 1
    world.step("fetch", serial)
    assert [number for number, _ in world.answers] == [0, 1, 2]


def test_the_least_recently_used_leaves():
    world = cached().run()
    m0 = use(world, "m0")
    use(world, "m1")
    use(world, "m2")
    use(world, "m3", used=(m0,))
    assert world.on_disk() == {"/models/m0/1@a", "/models/m2/1@a", "/models/m3/1@a"}
    kinds = [type(each).__name__ for each in world.log]
    assert kinds.index("Evict") < len(kinds) - kinds[::-1].index("Fetch") - 1
    assert world.rollout.counts().evictions == 1
    assert world.rollout.counts().on_disk == 3


def test_what_is_in_memory_stays_on_disk():
    world = cached().run()
    use(world, "m0", keep=True)
    use(world, "m1")
    use(world, "m2")
    use(world, "m3")
    use(world, "m4")
    assert "/models/m0/1@a" in world.on_disk()


def test_while_everything_is_in_use_a_request_waits_for_room():
    world = cached().run()
    serials = [use(world, f"m{number}", keep=True) for number in range(3)]
    wanted = world.serial("m3", "1")
    world.want(0, wanted)
    assert world.fetches == {}
    world.tick(30)
    assert world.fetches == {}
    world.drop(0, serials[1])
    assert list(world.fetches) == [wanted]
    assert "/models/m1/1@a" not in world.on_disk()


def test_a_request_does_not_wait_for_room_for_ever():
    world = cached().run()
    serials = [use(world, f"m{number}", keep=True) for number in range(3)]
    wanted = world.serial("m3", "1")
    world.want(0, wanted)
    assert world.rollout.due() == world.now + 60
    world.tick(60)
    error = "there is no room in the disk cache: everything in it is in use"
    assert world.answers[-1] == (0, control.Here(serial=wanted, error=error, transient=True))
    world.drop(0, serials[1])
    assert world.fetches == {}


def test_a_fetch_that_fails_gives_its_place_back():
    world = cached(bad={("m0", "1", "a"): "storage_down"}, disk=1).run()
    serial = world.serial("m0", "1")
    world.want(0, serial)
    world.step("fetch", serial)
    assert world.answers == [(0, control.Here(serial=serial, error="storage_down", transient=True))]
    use(world, "m1")
    assert world.on_disk() == {"/models/m1/1@a"}
    assert world.live("m0") == "1a"


def test_a_new_latest_of_a_model_that_nobody_holds_is_just_switched_to():
    world = cached().run()
    world.upstream["m0"] = {"1": "a", "2": "a"}
    start = len(world.log)
    world.see()
    assert world.live("m0") == "2a"
    assert [type(each).__name__ for each in world.log[start:]] == ["Publish", "Switch", "Note", "Publish"]
    assert world.log[start + 2].message == "model m0: version 2 is live (was 1)"


def test_a_new_latest_of_a_model_that_is_held_is_loaded_first():
    world = cached().run()
    use(world, "m0", keep=True)
    world.workers[0].is_ready = True
    world.upstream["m0"] = {"2": "a"}
    world.see()
    assert world.live("m0") == "1a"
    world.run()
    assert world.live("m0") == "2a"
    assert world.workers[0].held == {world.cell("m0")}
    assert world.on_disk() == {"/models/m0/2@a"}


def test_without_room_beside_what_is_in_use_it_is_switched_to_without_loading():
    world = cached(disk=2).run()
    use(world, "m0", keep=True)
    use(world, "m1", keep=True)
    world.upstream["m0"]["2"] = "a"
    world.see()
    assert world.live("m0") == "2a"


def test_a_bad_new_latest_that_is_held_in_its_old_version_changes_nothing():
    world = cached(bad={("m0", "2", "a"): "raises"}).run()
    use(world, "m0", keep=True)
    world.upstream["m0"]["2"] = "a"
    world.see()
    world.run()
    assert world.live("m0") == "1a"
    assert world.states("m0") == {"1": "live", "2": "failed"}


def test_a_latest_that_fails_when_it_is_asked_for_gives_way_to_the_next_lower():
    world = cached({"m0": {"1": "a", "2": "a"}}, bad={("m0", "2", "a"): "raises"}).run()
    assert world.live("m0") == "2a"
    serial = world.serial("m0", "2")
    world.want(0, serial)
    world.step("fetch", serial)
    world.load(0, serial)
    assert world.live("m0") == "1a"
    assert world.error("2", "m0") == "raises"
    world.upstream["m0"]["2"] = "b"
    world.see()
    assert world.live("m0") == "2b"


def test_a_latest_for_which_there_is_no_room_in_memory_stays_the_latest():
    world = cached({"m0": {"1": "a", "2": "a"}}, bad={("m0", "2", "a"): "no_memory"}).run()
    serial = world.serial("m0", "2")
    world.want(0, serial)
    world.step("fetch", serial)
    world.load(0, serial)
    assert world.live("m0") == "2a"


def test_a_restart_uses_what_is_on_disk_within_the_limit():
    present = tuple(stored(f"m{number}", "1") for number in range(5))
    gone = (stored("m9", "1"),)
    world = cached(present=present + gone, disk=3).run()
    assert len(world.disk) == 3
    world.upstream.pop("m9", None)
    use(world, "m3")
    assert len(world.disk) == 3


def test_a_version_that_is_gone_leaves_the_disk_when_nobody_holds_it():
    world = cached().run()
    serial = use(world, "m0", keep=True)
    world.upstream.pop("m0")
    world.see()
    assert world.on_disk() == {"/models/m0/1@a"}
    world.drop(0, serial)
    assert world.on_disk() == set()


def test_a_thousand_models_in_a_small_cache():
    world = cached({f"m{number}": {"1": "a", "2": "a"} for number in range(1000)}, disk=25).run()
    for number in range(1000):
        use(world, f"m{number}", "2")
    assert len(world.disk) == 25
    assert "/models/m999/2@a" in world.on_disk()


def test_what_is_about_to_be_loaded_keeps_its_place():
    world = cached({"m0": {"1": "a"}, "m1": {"1": "a"}}, disk=2).run()
    use(world, "m0", keep=True)
    world.upstream["m0"] = {"2": "a"}
    world.see()
    while "/models/m0/2@a" not in world.on_disk() or world.tries:
        world.step(*next(step for step in world.steps() if step[0] in ("fetch", "try")))
    wanted = world.serial("m1", "1")
    world.want(0, wanted)
    assert world.fetches == {}
    assert "/models/m0/2@a" in world.on_disk()
    world.run()
    assert world.live("m0") == "2a"
    assert world.answers[-1] == (0, control.Here(serial=wanted, directory="/models/m1/1@a"))


def test_files_stay_while_the_same_content_is_held_under_its_earlier_serial():
    world = cached({"m0": {"1": "a"}, "m1": {"1": "a"}}, disk=1).run()
    before = use(world, "m0", keep=True)
    model = world.upstream.pop("m0")
    world.see()
    world.upstream["m0"] = model
    world.see()
    assert world.serial("m0", "1") != before
    wanted = world.serial("m1", "1")
    world.want(0, wanted)
    assert world.on_disk() == {"/models/m0/1@a"}
    world.drop(0, before)
    assert list(world.fetches) == [wanted]
    assert world.on_disk() == set()
