"""Which version is served, example by example."""

from __future__ import annotations

from random import Random

import pytest
from support.rollouts import World, settled, stored

from cortex_core.models.settling import Pending
from cortex_core.models.tree import LayoutProblem
from cortex_serve import control
from cortex_serve.agent import actions, events
from cortex_serve.agent.failures import Remembered


def test_first_start_serves_the_highest_version_of_every_model():
    world = World({"iris": {"6": "a", "7": "a"}, "wine": {"1": "a"}}, workers=2)
    assert world.rollout.unready() == [
        "model iris: version 7 is being fetched",
        "model wine: version 1 is being fetched",
    ]
    world.run()
    assert (world.live("iris"), world.live("wine")) == ("7a", "1a")
    assert world.states("iris") == {"6": "available", "7": "live"}
    assert world.rollout.unready() == []
    assert world.on_disk() == {"/models/iris/6@a", "/models/iris/7@a", "/models/wine/1@a"}
    assert all(worker.held == {world.cell("iris"), world.cell("wine")} for worker in world.workers.values())
    assert not any(isinstance(each, actions.Try) for each in world.log)


def test_what_is_not_latest_is_fetched_after_all_latest_are_live():
    world = World({"a": {"1": "a", "2": "a"}, "b": {"1": "a", "2": "a"}}).run()
    fetched = [each.wanted for each in world.log if isinstance(each, actions.Fetch)]
    assert [(each.model, each.version.name, each.urgent) for each in fetched] == [
        ("a", "2", True),
        ("b", "2", True),
        ("a", "1", False),
        ("b", "1", False),
    ]


def test_in_the_background_16_are_fetched_at_a_time():
    world = World({"iris": {str(number): "a" for number in range(100)}})
    while world.live() is None:
        world.step(*world.steps()[0])
    assert len(world.fetches) == 16
    world.run()
    assert len(world.disk) == 100


def test_a_new_version_takes_over_when_every_worker_holds_it():
    world = World({"iris": {"6": "a"}}, workers=2).run()
    start = len(world.log)
    world.upstream["iris"]["7"] = "a"
    world.see()
    world.run()
    assert world.live() == "7a"
    assert world.served == {"iris": ["6a", "7a"]}
    assert [type(each).__name__ for each in world.log[start:]] == [
        "Publish",  # 7 is known
        "Fetch",
        "Try",
        "Publish",  # 7 is resident
        "Switch",
        "Note",
        "Publish",  # 6 is not
    ]
    assert [worker.held for worker in world.workers.values()] == [{world.cell()}] * 2
    assert world.rollout.counts().swaps == 1


def test_one_worker_that_is_late_holds_up_the_switch():
    world = World({"iris": {"6": "a"}}, workers=2).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    while ("load", 1) not in world.steps():
        world.step(*world.steps()[0])
    while ("load", 0) in world.steps() or ("follow", 0) in world.steps():
        world.step(*next(step for step in world.steps() if step[1] == 0))
    assert world.live() == "6a"
    world.step("load", 1)
    assert world.live() == "7a"


def test_a_worker_that_restarts_does_not_hold_up_the_switch():
    world = World({"iris": {"6": "a"}}, workers=2).run()
    world.end_worker(1)
    world.start_worker(1)
    world.upstream["iris"]["7"] = "a"
    world.see()
    while world.live() == "6a":
        world.step(*next(step for step in world.steps() if step != ("load", 1)))
    assert world.live() == "7a"
    world.run()
    assert world.workers[1].held == {world.cell()}


def test_the_last_worker_in_the_way_dies():
    world = World({"iris": {"6": "a"}}, workers=2).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    while world.steps() != [("load", 1)]:
        world.step(*next(step for step in world.steps() if step != ("load", 1)))
    assert world.live() == "6a"
    world.end_worker(1)
    assert world.live() == "7a"


def test_versions_that_come_faster_than_they_load_are_skipped_and_the_newest_is_reached():
    world = World({"iris": {"0": "a"}}).run()
    chance = Random(1)
    for number in range(1, 100):
        world.upstream["iris"][str(number)] = "a"
        world.see()
        world.step(*chance.choice(world.steps()))
    world.run()
    served = [int(each[:-1]) for each in world.served["iris"]]
    assert served == sorted(served)
    assert served[-1] == 99
    assert 10 < len(served) < 60


@pytest.mark.parametrize("bad", ["raises", "kills", "unfetchable"])
def test_a_bad_new_version_costs_nothing(bad):
    world = World({"iris": {"6": "a"}}, workers=2, bad={("iris", "7", "a"): bad}).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    world.run()
    assert world.live() == "6a"
    assert world.states() == {"6": "live", "7": "failed"}
    assert world.snapshot.models[0].versions[1].error == world.error("7")
    assert len(world.workers) == 2
    assert sum(note.startswith("ERROR model iris: version 7 cannot be") for note in world.notes()) == 1
    assert world.gave_up is None


def test_a_bad_version_is_tried_again_when_its_content_changes():
    world = World({"iris": {"6": "a"}}, bad={("iris", "7", "a"): "raises"}).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    world.run(wait=True)
    assert world.live() == "6a"
    world.upstream["iris"]["7"] = "b"
    world.see()
    world.run()
    assert world.live() == "7b"
    assert world.states() == {"6": "available", "7": "live"}
    assert world.on_disk() == {"/models/iris/6@a", "/models/iris/7@b"}


def test_without_trials_a_version_that_fails_in_one_worker_fails_everywhere():
    world = World({"iris": {"6": "a"}}, workers=2, trials=False).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    while ("load", 1) not in world.steps():
        world.step(*world.steps()[0])
    world.bad["iris", "7", "a"] = "raises"
    world.run()
    assert world.live() == "6a"
    assert world.error("7") == "raises"
    assert [worker.held for worker in world.workers.values()] == [{world.cell()}] * 2


def test_without_a_trial_it_goes_on():
    world = World({"iris": {"6": "a"}}).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    world.step(*world.steps()[0])
    (serial,) = world.tries
    world.tries.clear()
    world.handle(events.NoTrial(serial=serial))
    world.run()
    assert world.live() == "7a"


@pytest.mark.parametrize(
    "bad", ["raises", "kills", "unfetchable", "out_of_memory", "no_memory", "storage_down"]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_latest_at_first_start_gives_way_to_the_next_lower(bad, workers):
    world = World({"iris": {"5": "a", "6": "a", "7": "a"}}, workers=workers, bad={("iris", "7", "a"): bad})
    world.run()
    assert world.live() == "6a"
    assert world.states()["7"] == "failed"
    assert world.gave_up is None
    assert world.rollout.unready() == []


def test_a_model_whose_every_version_is_bad_gives_up_and_says_why():
    bad = {("iris", "6", "a"): "raises", ("iris", "7", "a"): "kills"}
    world = World({"iris": {"6": "a", "7": "a"}, "wine": {"1": "a"}}, bad=bad).run()
    assert world.gave_up == (
        "model iris: version 7 cannot be loaded: the process was killed by SIGSEGV while it was being loaded; "
        "model iris: version 6 cannot be loaded: raises"
    )


def test_in_a_dir_other_models_go_on():
    world = World(
        {"iris": {"7": "a"}, "wine": {"1": "a"}}, bad={("iris", "7", "a"): "raises"}, all_required=False
    )
    world.run()
    assert world.gave_up is None
    assert world.rollout.unready() == []
    assert (world.live("iris"), world.live("wine")) == (None, "1a")


def test_a_dir_without_any_good_model_gives_up():
    bad = {("iris", "7", "a"): "raises", ("wine", "1", "a"): "raises"}
    world = World({"iris": {"7": "a"}, "wine": {"1": "a"}}, bad=bad, all_required=False).run()
    assert world.gave_up == (
        "model iris: version 7 cannot be loaded: raises; model wine: version 1 cannot be loaded: raises"
    )


def test_a_storage_that_is_down_at_start_is_waited_for():
    world = World({"iris": {"7": "a"}}, bad={("iris", "7", "a"): "storage_down"}).run()
    assert world.gave_up is None
    assert world.rollout.unready() == ["model iris: version 7 cannot be fetched: storage_down"]
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        assert world.rollout.due() == world.now + seconds
        world.tick(seconds)
        world.run()
    assert sum("cannot be fetched" in note for note in world.notes()) == 1
    world.bad.clear()
    world.tick(60)
    world.run()
    assert world.live() == "7a"


def test_a_file_that_is_not_what_its_manifest_says_is_fetched_three_times():
    world = World({"iris": {"7": "a"}}, bad={("iris", "7", "a"): "corrupt"}).run(wait=True)
    assert sum(isinstance(each, actions.Fetch) for each in world.log) == 3
    assert world.gave_up == "model iris: version 7 cannot be fetched: corrupt"


def test_a_passing_failure_to_load_is_tried_again_later_and_later():
    world = World({"iris": {"6": "a"}}, bad={("iris", "7", "a"): "no_memory"}).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    world.run()
    for seconds in (30, 60, 120, 240, 480, 600, 600):
        assert world.states()["7"] == "failed"
        world.tick(seconds)
        assert world.states()["7"] == "loading"
        world.run()
    world.bad.clear()
    world.tick(600)
    world.run()
    assert world.live() == "7a"
    assert world.error("7") is None


def test_a_failure_stays_visible_when_a_newer_version_is_live():
    world = World({"iris": {"6": "a"}}, bad={("iris", "7", "a"): "no_memory"}).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    world.run()
    world.upstream["iris"]["8"] = "a"
    world.see()
    world.run()
    world.tick(3600)
    assert world.states() == {"6": "available", "7": "failed", "8": "live"}
    assert world.error("7") is not None


def test_a_restart_finds_its_files_and_does_not_try_what_killed_a_worker():
    first = World({"iris": {"6": "a", "7": "a"}}, bad={("iris", "7", "a"): "kills"}).run()
    assert first.live() == "6a"
    digest = stored("iris", "7").version.digest
    error = "the process was killed by SIGSEGV while it was being loaded"
    assert first.remembered == (Remembered(model="iris", version="7", digest=digest, error=error),)

    present = (*first.disk.values(), stored("iris", "3"))
    second = World(first.upstream, present=present, failures=first.remembered, bad=first.bad).run()
    assert second.live() == "6a"
    assert not any(isinstance(each, events.WorkerEnded) for each in second.log)
    assert second.error("7") == error
    assert second.on_disk() == {"/models/iris/6@a", "/models/iris/7@a"}

    second.upstream["iris"]["7"] = "b"
    second.see()
    second.run()
    assert second.live() == "7b"
    assert second.remembered == ()


def test_a_worker_that_is_killed_while_it_loads_what_another_holds_just_restarts():
    world = World({"iris": {"7": "a"}}, workers=2).run()
    world.end_worker(1)
    world.start_worker(1)
    world.say(1, control.ModelLoading(serial=world.cell()))
    world.end_worker(1, "was killed by SIGSEGV")
    world.run()
    assert (world.live(), world.error("7")) == ("7a", None)


def test_what_did_load_before_gets_a_second_chance():
    world = World({"iris": {"6": "a", "7": "a"}}).run()
    world.end_worker(0)
    world.bad["iris", "7", "a"] = "kills"
    world.start_worker(0)
    world.step("load", 0)
    assert world.live() == "7a"
    world.start_worker(0)
    world.step("load", 0)
    assert world.live() is None
    world.run()
    assert world.live() == "6a"


def test_of_several_that_were_being_loaded_when_a_worker_died_the_innocent_are_found_out():
    names = {"a": {"1": "a"}, "b": {"1": "a"}, "c": {"1": "a", "2": "a"}}
    world = World(names, bad={("b", "1", "a"): "kills"}, all_required=False)
    while world.fetches:
        world.step("fetch", min(world.fetches))
    for model in "abc":
        world.say(0, control.ModelLoading(serial=world.serial(model, "2" if model == "c" else "1")))
    world.end_worker(0, "was killed by SIGSEGV")
    world.run()
    assert [world.live(model) for model in "abc"] == [None, None, "1a"]
    world.run(wait=True)
    assert [world.live(model) for model in "abc"] == ["1a", None, "2a"]
    assert len(world.remembered) == 1


def test_content_that_changes_in_place_takes_over_and_the_old_goes():
    world = World({"iris": {"7": "a"}}, workers=2).run()
    world.upstream["iris"]["7"] = "b"
    world.see()
    world.run()
    assert world.served["iris"] == ["7a", "7b"]
    assert world.on_disk() == {"/models/iris/7@b"}
    assert "INFO model iris: version 7 is live with its new content" in world.notes()


def test_bad_content_in_place_leaves_the_old_content_serving_also_by_number():
    world = World({"iris": {"6": "a", "7": "a"}}, bad={("iris", "7", "b"): "raises"}).run()
    world.upstream["iris"]["7"] = "b"
    world.see()
    world.run()
    assert world.live() == "7a"
    assert [(each.version, each.error) for each in world.snapshot.models[0].versions] == [
        ("6", None),
        ("7", None),
    ]
    assert [(row.version, row.state, row.error) for row in world.rollout.models()] == [
        ("6", "available", None),
        ("7", "live", None),
        ("7", "failed", "raises in the trial"),
    ]


def test_content_that_changes_back_while_the_new_one_loads():
    world = World({"iris": {"7": "a"}}).run()
    world.upstream["iris"]["7"] = "b"
    world.see()
    while not world.tries:
        world.step(*world.steps()[0])
    world.upstream["iris"]["7"] = "a"
    world.see()
    world.run()
    assert world.served["iris"] == ["7a"]
    assert world.on_disk() == {"/models/iris/7@a"}


def test_content_that_changes_back_later_is_another_servable_with_the_same_files():
    world = World({"iris": {"7": "a"}}).run()
    first = world.cell()
    world.upstream["iris"]["7"] = "b"
    world.see()
    while world.live() != "7b":
        world.step(*world.steps()[0])
    world.upstream["iris"]["7"] = "a"
    world.see()
    assert world.fetches == {}
    world.run()
    assert world.live() == "7a"
    assert world.cell() != first
    assert world.on_disk() == {"/models/iris/7@a"}


def test_the_served_version_is_removed():
    world = World({"iris": {"5": "a", "6": "a", "7": "a"}}, workers=2).run()
    del world.upstream["iris"]["7"]
    world.see()
    assert world.live() == "7a"
    world.run()
    assert world.served["iris"] == ["7a", "6a"]
    assert world.on_disk() == {"/models/iris/5@a", "/models/iris/6@a"}
    assert world.notes()[-1] == "INFO model iris: version 6 is live (was 7, which is gone)"


def test_the_served_version_is_removed_and_no_other_can_be_loaded():
    world = World({"iris": {"6": "a", "7": "a"}}, bad={("iris", "6", "a"): "raises"}).run()
    del world.upstream["iris"]["7"]
    world.see()
    world.run()
    assert world.live() == "7a"
    assert world.gave_up is None


def test_the_served_version_is_removed_while_its_successor_cannot_be_fetched():
    world = World({"iris": {"6": "a", "7": "a"}}, bad={("iris", "8", "a"): "storage_down"}).run()
    world.upstream["iris"] = {"6": "a", "8": "a"}
    world.see()
    world.run()
    assert world.live() == "7a"  # gone, but in memory: better than going back
    world.bad.clear()
    world.tick(2.0)
    world.run()
    assert world.served["iris"] == ["7a", "8a"]


def test_the_served_version_is_removed_and_its_successor_is_broken():
    world = World({"iris": {"6": "a", "7": "a"}}, bad={("iris", "8", "a"): "raises"}).run()
    world.upstream["iris"] = {"6": "a", "8": "a"}
    world.see()
    world.run()
    assert world.served["iris"] == ["7a", "6a"]


def test_a_version_is_removed_while_it_is_on_its_way():
    for steps in range(8):
        world = World({"iris": {"6": "a"}}).run()
        world.upstream["iris"]["7"] = "a"
        world.see()
        for _ in range(steps):
            if world.steps():
                world.step(*world.steps()[0])
        del world.upstream["iris"]["7"]
        world.see()
        world.run()
        assert world.live() == "6a"
        assert world.on_disk() == {"/models/iris/6@a"}


def test_a_whole_model_is_removed_and_comes_back():
    world = World({"iris": {"7": "a"}, "wine": {"1": "a"}}, all_required=False).run()
    cell, before = world.snapshot.models[0].cell, world.cell()
    iris = world.upstream.pop("iris")
    world.see()
    assert world.cells[cell] == 0
    world.run()
    assert world.on_disk() == {"/models/wine/1@a"}
    assert "INFO model iris is gone: it is served no more" in world.notes()
    world.upstream["iris"] = iris
    world.see()
    world.run()
    assert world.live() == "7a"
    assert world.snapshot.models[0].cell == cell
    assert world.cell() != before


def test_a_model_that_comes_back_at_once_keeps_its_files():
    world = World({"iris": {"7": "a"}, "wine": {"1": "a"}}).run()
    iris = world.upstream.pop("iris")
    world.see()
    world.upstream["iris"] = iris
    world.see()
    world.run()
    assert world.live() == "7a"
    assert sum(isinstance(each, actions.Fetch) for each in world.log) == 2
    assert world.on_disk() == {"/models/iris/7@a", "/models/wine/1@a"}


def test_a_layout_flips_between_versions_and_none():
    world = World({"iris": {"6": "a", "7": "a"}}).run()
    world.upstream["iris"] = {"1": "a"}
    world.see()
    world.run()
    assert world.live() == "1a"
    world.upstream["iris"] = {"0": "a"}
    world.see()
    world.run()
    assert world.live() == "0a"
    assert world.on_disk() == {"/models/iris/0@a"}


def test_an_incomplete_view_removes_nothing():
    world = World({"iris": {"7": "a"}, "wine": {"1": "a"}}).run()
    world.handle(events.Seen(settled=settled({"iris": {"7": "a"}}, is_complete=False)))
    world.run()
    assert world.live("wine") == "1a"


def test_under_resource_the_old_is_dropped_before_the_new_is_loaded():
    world = World({"iris": {"6": "a"}}, workers=2, policy="resource").run()
    start = len(world.log)
    world.upstream["iris"] = {"7": "a"}
    world.see()
    most = 0
    while world.steps():
        world.step(*world.steps()[0])
        most = max(most, *(len(worker.held) for worker in world.workers.values()))
    assert world.live() == "7a"
    assert most == 1
    assert [type(each).__name__ for each in world.log[start:]] == [
        "Publish",  # 7 is known
        "Fetch",
        "Switch",  # to nothing
        "Publish",  # 6 is not resident
        "Publish",  # 7 is
        "Switch",
        "Note",
        "Publish",  # 6 is gone
        "Evict",
    ]
    switches = [each.serial for each in world.log[start:] if isinstance(each, actions.Switch)]
    assert switches == [0, world.cell()]


def test_under_resource_a_bad_version_lets_the_old_one_come_back():
    world = World({"iris": {"6": "a"}}, policy="resource", bad={("iris", "7", "a"): "raises"}).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    world.run()
    assert world.live() == "6a"
    assert world.states() == {"6": "live", "7": "failed"}
    assert world.notes()[-1] == "INFO model iris: version 6 serves again"


def test_under_resource_a_worker_that_does_not_drop_is_waited_for_30_seconds():
    world = World({"iris": {"6": "a"}}, policy="resource").run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    world.step("fetch", 2)
    world.step("follow", 0)
    assert world.steps() == [("drop", 0)]
    assert world.rollout.due() == world.now + 30
    world.tick(30)
    world.step("follow", 0)
    world.step("load", 0)
    assert world.live() == "7a"


def test_an_older_version_is_fetched_for_who_asks():
    world = World({"iris": {"6": "a", "7": "a"}}, workers=2)
    while world.live() is None:
        world.step(*world.steps()[0])
    six = world.serial("iris", "6")
    world.want(0, six)
    world.want(1, six)
    assert world.fetches[six].urgent
    world.step("fetch", six)
    assert world.answers == [
        (number, control.Here(serial=six, directory="/models/iris/6@a")) for number in (0, 1)
    ]
    del world.upstream["iris"]["6"]
    world.see()
    world.run()
    assert "/models/iris/6@a" in world.on_disk()
    for number in (0, 1):
        del world.pinned[number, six]
        world.say(number, control.ModelFailed(serial=six, error="x", transient=True))
        if number == 0:
            assert "/models/iris/6@a" in world.on_disk()
    assert "/models/iris/6@a" not in world.on_disk()


def test_who_asks_for_what_cannot_be_fetched_hears_why():
    world = World({"iris": {"6": "a", "7": "a"}}, bad={("iris", "6", "a"): "storage_down"}).run()
    six = world.serial("iris", "6")
    world.want(0, six)
    error = control.Here(serial=six, error="storage_down", transient=True)
    assert world.answers == [(0, error)]
    world.tick(1)
    world.run()
    world.tick(1.5)  # it is tried again after 2 seconds by itself, and after 1 on request
    world.want(0, six)
    assert six in world.fetches
    world.run()
    assert world.answers == [(0, error)] * 2


def test_who_asks_for_what_is_gone_is_told():
    world = World({"iris": {"6": "a", "7": "a"}}).run()
    six = world.serial("iris", "6")
    del world.upstream["iris"]["6"]
    world.see()
    world.want(0, six)
    assert world.answers == [(0, control.Here(serial=six, error="it has just been replaced", transient=True))]


def test_a_worker_killed_by_an_older_version_is_not_killed_by_it_twice():
    world = World({"iris": {"6": "a", "7": "a"}}, bad={("iris", "6", "a"): "kills"}).run()
    six = world.serial("iris", "6")
    world.load(0, six)
    world.run()
    assert world.live() == "7a"
    assert world.snapshot.models[0].versions[0].error == world.error("6")
    assert len(world.remembered) == 1


def test_what_killed_a_worker_for_want_of_memory_is_not_loaded_on_demand_again():
    world = World({"iris": {"6": "a", "7": "a"}}, bad={("iris", "6", "a"): "out_of_memory"}).run()
    world.load(0, world.serial("iris", "6"))
    world.run()
    world.tick(3600.0)
    world.run()
    assert world.live() == "7a"
    assert world.snapshot.models[0].versions[0].error == world.error("6") is not None


def test_a_load_that_never_ends_is_a_failure():
    world = World({"iris": {"6": "a"}}).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    while ("load", 0) not in world.steps():
        world.step(*world.steps()[0])
    world.say(0, control.ModelLoading(serial=world.serial("iris", "7")))
    world.tick(630)
    assert world.live() == "6a"
    assert world.error("7") == "loading has not come to an end within 600 seconds"


def test_what_is_pending_or_wrong_is_shown():
    pending = Pending(model="iris", version="8", digest="f" * 64, why="is listed; it may still be uploaded")
    world = World({"iris": {"7": "a"}}).run()
    world.see(pending=(pending,))
    assert world.states() == {"7": "live", "8": "pending"}
    assert world.error("8") == "is listed; it may still be uploaded"


def test_what_is_served_though_its_location_is_empty_says_so():
    problem = LayoutProblem(
        model="iris", version=None, directory="s3://b/iris", message="it is empty", rejects=True, layout="python", keys=()
    )  # fmt: skip
    world = World({"iris": {"6": "a", "7": "a"}}).run()
    world.see(problems=(problem,))
    assert world.states() == {"6": "available", "7": "live"}
    assert world.error("7") == "s3://b/iris: it is empty"
    assert world.error("6") is None
    world.see(problems=(problem,))
    world.see()
    assert world.notes()[-2:] == [
        "WARNING models: s3://b/iris: it is empty",
        "INFO models: nothing is wrong with locations any more",
    ]


def test_notes_say_what_went_live_and_how_long_it_took():
    world = World({"iris": {"6": "a"}}).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    world.now += 2.5
    world.run()
    note = next(each for each in reversed(world.log) if isinstance(each, actions.Note))
    assert note == actions.Note(
        level="INFO",
        message="model iris: version 7 is live (was 6)",
        fields={
            "model": "iris",
            "version": "7",
            "digest": stored("iris", "7").version.digest[:12],
            "seconds": 2.5,
            "load_seconds": 0.5,
        },
    )


@pytest.mark.parametrize("policy", ["availability", "resource"])
def test_nothing_is_left_of_a_thousand_versions(policy):
    world = World({"iris": {"0": "a"}}, policy=policy).run()
    for number in range(1, 1000):
        world.upstream["iris"] = {str(number): "a"}
        world.see()
        world.run()
    assert world.live() == "999a"
    assert len(world.disk) == 1
    assert len(world.rollout.models()) == 1
    assert world.rollout.counts().servables == 1
    assert world.snapshot.models[0].cell == 0


def test_what_is_being_tried_stays_on_disk_whatever_else_happens_to_it():
    world = World({"iris": {"6": "a"}}, bad={("iris", "7", "a"): "no_memory"}).run()
    world.upstream["iris"]["7"] = "a"
    world.see()
    seven = world.serial("iris", "7")
    world.step("fetch", seven)
    assert seven in world.tries
    world.step("follow", 0)
    world.want(0, seven)
    world.load(0, seven)
    assert world.states()["7"] == "failed"
    del world.upstream["iris"]["7"]
    world.see()
    assert "/models/iris/7@a" in world.on_disk()
    world.step("try", seven)
    assert world.on_disk() == {"/models/iris/6@a"}
