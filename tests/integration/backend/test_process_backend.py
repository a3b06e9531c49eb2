"""Replicas as real processes: started, watched, started again, adopted, removed without a trace."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.fake_clock import FakeClock
from support.installation import free_ports
from support.stand_in import StandInEnvironments, environ, stand_in_release

from cortex_core.home import Home
from cortex_core.release import Release
from cortex_core.runtime import GRPC_REQUIREMENTS, S3_REQUIREMENTS
from cortex_core.spec.types import Models
from cortex_operator import processes
from cortex_operator.backends import launch
from cortex_operator.backends.environments import Environment
from cortex_operator.backends.launch import Ports, Prepared, Slot
from cortex_operator.backends.memory_groups import MemoryGroup, MemoryGroups
from cortex_operator.backends.process import RETURN_SECONDS, ProcessBackend
from cortex_operator.backends.protocol import LogQuery, PreparationFailed, Replica, Workload
from cortex_operator.backends.replica_process import LAST_WORDS
from cortex_operator.clock import Clock
from cortex_operator.processes import Process

DEADLINE = 20.0
MODELS = Models(path="/models/")


class Bench:
    """A home, a backend on it, and what tests do with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(root=folder / "home")
        self.home.create()
        self.environments = StandInEnvironments(folder)
        self.backend = self.new_backend()

    def new_backend(self, *, limit_memory: bool = True, clock: Clock | None = None) -> ProcessBackend:
        return ProcessBackend(
            self.home,
            environ={**environ(), "CORTEX_TOKEN": "secret", "COLOR": "red"},
            environments=self.environments,
            grace=3,
            silence=1,
            limit_memory=limit_memory,
            clock=clock,
        )

    def release(self, **options: Any) -> Release:
        return stand_in_release(self.home, self.folder, **options)

    async def run(self, release: Release, *, workload: str = "iris-a", replicas: int = 1) -> None:
        await self.backend.prepare(release, lambda _: None)
        await self.backend.apply(Workload(id=workload, release=release, replicas=replicas))

    async def run_ready(self, replicas: int = 1, **options: Any) -> list[Replica]:
        await self.run(self.release(**options), replicas=replicas)
        return await self.all_ready(replicas)

    async def until(self, condition: Callable[[list[Replica]], bool]) -> list[Replica]:
        async def wait() -> list[Replica]:
            while not condition(replicas := await self.backend.observe()):
                await self.backend.changed()
            return replicas

        return await asyncio.wait_for(wait(), DEADLINE)

    async def all_ready(self, count: int = 1) -> list[Replica]:
        return await self.until(lambda all_: [each.state for each in all_] == ["ready"] * count)

    async def restarted(self) -> Replica:
        (replica,) = await self.until(lambda all_: all_[0].restarts > 0 and all_[0].state == "ready")
        return replica

    async def ask(self, replica: Replica, path: str) -> Any:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            return (await client.get(f"http://{replica.host}:{replica.ports[0]}{path}")).json()

    async def tell(self, replica: Replica, path: str) -> None:
        """Ask for something that ends the replica before it answers."""
        with pytest.raises(httpx.HTTPError):
            await self.ask(replica, path)

    def log_error(self, replica: Replica, message: str, *, ago: float) -> None:
        """Replace the replica's log by an error, as if it had logged nothing since."""
        at = datetime.fromtimestamp(time.time() - ago, timezone.utc).isoformat(timespec="milliseconds")
        record = {"asctime": at.replace("+00:00", "Z"), "levelname": "ERROR", "message": message}
        (self.home.logs / replica.api / f"{replica.id}.jsonl").write_text(json.dumps(record) + "\n")

    def living(self) -> list[Process]:
        return processes.members(self.home.root)


@asynccontextmanager
async def bench_in(folder: Path) -> AsyncIterator[Bench]:
    bench = Bench(folder)
    await bench.backend.open()
    try:
        yield bench
    finally:
        await bench.backend.close()
        for marker in {process.marker for process in bench.living()}:
            await processes.sweep(bench.home.root, marker)


Scene = Callable[[Bench], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scene], None]:
    async def scene(act: Scene) -> None:
        async with bench_in(tmp_path) as bench:
            await act(bench)

    return lambda act: asyncio.run(asyncio.wait_for(scene(act), 60))


Play = Callable[[Scene], None]


def kill(replica: Replica, number: signal.Signals = signal.SIGKILL) -> None:
    assert replica.pid is not None
    os.kill(replica.pid, number)


def test_a_killed_replica_is_back_at_once_on_its_port(play: Play) -> None:
    async def act(bench: Bench) -> None:
        first, second = await bench.run_ready(2)
        kill(first)
        killed_at = time.monotonic()

        again, same = await bench.until(lambda all_: all_[0].restarts == 1 and all_[0].state == "ready")

        assert time.monotonic() - killed_at < 3
        assert (again.ports, again.admin_port) == (first.ports, first.admin_port)
        assert again.pid != first.pid
        assert again.failure is None
        assert same == second

    play(act)


def test_while_it_is_down_the_reason_is_shown(play: Play) -> None:
    async def act(bench: Bench) -> None:
        (replica,) = await bench.run_ready()
        await bench.tell(replica, "/exit/7")

        (down,) = await bench.until(lambda all_: all_[0].failure is not None)
        assert down.failure == "exited with code 7"
        kill(await bench.restarted())
        (down,) = await bench.until(lambda all_: all_[0].failure is not None)
        assert down.failure == "killed by signal 9 (SIGKILL)"

    play(act)


def test_a_crash_loop_backs_off_and_tells_the_last_error(play: Play) -> None:
    async def act(bench: Bench) -> None:
        began = time.monotonic()
        await bench.run(bench.release(config={"fail": "bad weights", "code": 3}))

        (replica,) = await bench.until(lambda all_: all_[0].restarts == 4)

        assert replica.state == "failed"
        assert (
            replica.failure == "exited with code 3: the handler could not be loaded: ValueError: bad weights"
        )
        assert time.monotonic() - began >= 0.1 + 0.2 + 0.4
        assert bench.living() == []

    play(act)


def test_an_old_error_is_not_blamed_for_a_death(play: Play) -> None:
    async def act(bench: Bench) -> None:
        (replica,) = await bench.run_ready()
        bench.log_error(replica, "ValueError: of an old request", ago=LAST_WORDS + 1)
        await bench.tell(replica, "/exit/7")

        (down,) = await bench.until(lambda all_: all_[0].failure is not None)

        assert down.failure == "exited with code 7"

    play(act)


def test_of_a_signal_nothing_but_the_signal_is_said(play: Play) -> None:
    async def act(bench: Bench) -> None:
        (replica,) = await bench.run_ready()
        bench.log_error(replica, "ValueError: of a request just now", ago=0)
        kill(replica)

        (down,) = await bench.until(lambda all_: all_[0].failure is not None)

        assert down.failure == "killed by signal 9 (SIGKILL)"

    play(act)


def test_what_prints_no_log_is_quoted_from_its_output(play: Play) -> None:
    async def act(bench: Bench) -> None:
        bench.environments.python.write_text(
            "#!/bin/sh\necho first; echo 'No module named cortex_serve'; exit 1\n"
        )
        await bench.run(bench.release())

        (replica,) = await bench.until(lambda all_: all_[0].state == "failed")

        assert replica.failure == "exited with code 1: No module named cortex_serve"

    play(act)


def test_a_program_that_cannot_run_is_a_failure(play: Play) -> None:
    async def act(bench: Bench) -> None:
        await bench.backend.prepare(release := bench.release(), lambda _: None)
        bench.environments.python.write_text("#!/does/not/exist\n")
        await bench.backend.apply(Workload(id="iris-a", release=release, replicas=1))

        (replica,) = await bench.until(lambda all_: all_[0].state == "failed")

        assert replica.failure is not None
        assert "No such file" in replica.failure

    play(act)


def test_unready_is_initializing_and_not_restarted(play: Play) -> None:
    async def act(bench: Bench) -> None:
        (replica,) = await bench.run_ready()
        await bench.ask(replica, "/unready")

        (replica,) = await bench.until(lambda all_: all_[0].state != "ready")

        assert (replica.state, replica.restarts) == ("initializing", 0)

    play(act)


def test_what_a_replica_waits_for_is_shown(play: Play) -> None:
    async def act(bench: Bench) -> None:
        told = "fetching model iris version 7: 1.2 of 2.0 GB"
        await bench.run(bench.release(config={"ready_after": 0.5, "waiting_for": told}))

        (waiting,) = await bench.until(lambda all_: all_[0].waiting_for is not None)
        (ready,) = await bench.all_ready()

        assert (waiting.state, waiting.waiting_for) == ("initializing", told)
        assert ready.waiting_for is None

    play(act)


def test_copies_of_models_outlive_a_replica_that_dies_and_go_with_one_that_is_removed(play: Play) -> None:
    async def act(bench: Bench) -> None:
        (replica,) = await bench.run_ready(models=MODELS)
        assert await bench.ask(replica, "/models") == ["start-0"]
        kill(replica)
        again = await bench.restarted()
        assert await bench.ask(again, "/models") == ["start-0", "start-1"]

        await bench.backend.remove("iris-a")

        assert list(bench.home.replicas.iterdir()) == []

    play(act)


def test_copies_of_models_outlive_an_operator_that_was_away_when_their_replica_died(play: Play) -> None:
    async def act(bench: Bench) -> None:
        release = bench.release(models=MODELS)
        await bench.run(release)
        (first,) = await bench.all_ready()
        await bench.backend.close()
        (process,) = processes.find(bench.home.root)
        kill(first)
        await asyncio.wait_for(processes.ended(process), DEADLINE)
        bench.backend = bench.new_backend()
        await bench.backend.open()
        assert await bench.backend.observe() == []

        await bench.run(release)

        (again,) = await bench.all_ready()
        assert await bench.ask(again, "/models") == ["start-0", "start-1"]

    play(act)


def test_copies_of_models_that_nobody_came_back_for_are_swept(play: Play) -> None:
    async def act(bench: Bench) -> None:
        for name in ("iris-gone-0", "iris-a-0"):
            (bench.home.replicas / name / "models").mkdir(parents=True)
        await bench.backend.close()
        clock = FakeClock()
        bench.backend = bench.new_backend(clock=clock)
        await bench.backend.open()
        await bench.run(release := bench.release(models=MODELS))

        await bench.backend.sweep({release.id})
        assert sorted(path.name for path in bench.home.replicas.iterdir()) == ["iris-a-0", "iris-gone-0"]
        await clock.advance(RETURN_SECONDS + 1)
        await bench.backend.sweep({release.id})

        assert [path.name for path in bench.home.replicas.iterdir()] == ["iris-a-0"]

    play(act)


@pytest.mark.parametrize(
    ("location", "extras"),
    [("s3://bucket/models/", S3_REQUIREMENTS), ("file:///models/", ()), ("/models/", ())],
)
def test_models_in_s3_need_more_in_their_environment(
    play: Play, location: str, extras: tuple[str, ...]
) -> None:
    async def act(bench: Bench) -> None:
        await bench.backend.prepare(bench.release(models=Models(dir=location)), lambda _: None)

        assert bench.environments.extras == extras

    play(act)


def test_serving_grpc_needs_more_in_its_environment(play: Play) -> None:
    async def act(bench: Bench) -> None:
        await bench.backend.prepare(bench.release(protobuf_path="iris.proto"), lambda _: None)

        assert bench.environments.extras == GRPC_REQUIREMENTS

    play(act)


def test_the_environment_of_a_replica(play: Play) -> None:
    async def act(bench: Bench) -> None:
        (replica,) = await bench.run_ready(env={"COLOR": "blue", "SHAPE": "$(touch /tmp/no) 'round'\n"})

        seen = await bench.ask(replica, "/environ")

        assert (seen["COLOR"], seen["SHAPE"]) == ("blue", "$(touch /tmp/no) 'round'\n")
        assert seen["FROM_ENVIRONMENT"] == "yes"
        assert "CORTEX_TOKEN" not in seen
        assert seen["CORTEX_HOME"] == str(bench.home.root)
        assert (Path(seen["cwd"]) / "handler.py").is_file()

    play(act)


def test_remove_leaves_nothing(play: Play) -> None:
    async def act(bench: Bench) -> None:
        await bench.run_ready(2, config={"ignore_sigterm": True, "leave_behind": True})
        assert len(bench.living()) == 4

        await asyncio.wait_for(bench.backend.remove("iris-a"), 10)

        assert bench.living() == []
        assert list(bench.home.replicas.iterdir()) == []

    play(act)


def test_what_a_dead_replica_left_is_gone_before_the_next_starts(play: Play) -> None:
    async def act(bench: Bench) -> None:
        (replica,) = await bench.run_ready(config={"leave_behind": True})
        left = {process.pid for process in bench.living()} - {replica.pid}
        kill(replica)

        await bench.restarted()

        assert not left & {process.pid for process in bench.living()}

    play(act)


def test_scaled_down_and_up_again_before_it_is_gone(play: Play) -> None:
    async def act(bench: Bench) -> None:
        release = bench.release(config={"ignore_sigterm": True})
        await bench.run(release, replicas=2)
        _, second = await bench.all_ready(2)

        await bench.run(release, replicas=1)
        await bench.run(release, replicas=2)

        _, again = await bench.until(
            lambda all_: [each.state for each in all_] == ["ready"] * 2 and all_[1].pid != second.pid
        )
        assert again.id == second.id

    play(act)


def test_two_homes_do_not_touch_each_other(play: Play, tmp_path_factory: pytest.TempPathFactory) -> None:
    async def act(bench: Bench) -> None:
        mine = await bench.run_ready(2)
        async with bench_in(tmp_path_factory.mktemp("other")) as other:
            assert await other.backend.observe() == []
            await other.backend.remove("iris-a")
            await other.run_ready(1)
            await other.backend.remove("iris-a")

        assert await bench.backend.observe() == mine

    play(act)


OPERATOR = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.stand_in import StandInEnvironments, environ
from cortex_core.home import Home
from cortex_core import release
from cortex_operator.backends.process import ProcessBackend
from cortex_operator.backends.protocol import Workload

async def main():
    folder = Path({folder!r})
    backend = ProcessBackend(
        Home(root=folder / "home"), environ=environ(), environments=StandInEnvironments(folder), grace=3
    )
    await backend.open()
    wanted = release.read(folder / "wanted.json")
    await backend.apply(Workload(id="iris-a", release=wanted, replicas=2))
    while [each.state for each in await backend.observe()] != ["ready"] * 2:
        await backend.changed()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def run_in_an_operator_that_is_killed(bench: Bench, release: Release) -> None:
    from cortex_core import release as releases

    (bench.folder / "wanted.json").write_bytes(releases.encode(release))
    source = textwrap.dedent(OPERATOR).format(tests=str(Path(__file__).parents[2]), folder=str(bench.folder))
    operator = await asyncio.create_subprocess_exec(sys.executable, "-c", source, stdout=subprocess.PIPE)
    assert operator.stdout is not None
    assert await asyncio.wait_for(operator.stdout.readline(), DEADLINE) == b"ready\n"
    operator.kill()
    await operator.wait()


def test_a_new_operator_adopts_what_a_killed_one_ran(play: Play) -> None:
    async def act(bench: Bench) -> None:
        release = bench.release()
        await run_in_an_operator_that_is_killed(bench, release)
        running = {process.pid for process in processes.find(bench.home.root)}
        await bench.backend.close()
        bench.backend = bench.new_backend()

        await bench.backend.open()

        first, second = await bench.backend.observe()
        assert [first.state, second.state] == ["ready", "ready"]
        assert {first.pid, second.pid} == running
        assert (first.api, first.workload, first.release_id) == ("iris", "iris-a", release.id)
        await bench.run(release, replicas=2)
        assert await bench.backend.observe() == [first, second]

        kill(first)
        again, _ = await bench.until(lambda all_: all_[0].restarts == 1 and all_[0].state == "ready")
        assert again.ports == first.ports
        await bench.backend.remove("iris-a")
        assert bench.living() == []

    play(act)


def test_each_process_of_a_replica_has_a_port_that_it_keeps(play: Play) -> None:
    async def act(bench: Bench) -> None:
        (replica,) = await bench.run_ready(processes=3)
        assert len({*replica.ports, replica.admin_port}) == 4
        assert [await bench.ask(replica, "/") for _ in replica.ports] == [{}] * 3
        kill(replica)

        assert (await bench.restarted()).ports == replica.ports

    play(act)


def test_processes_that_share_a_port_are_adopted_and_get_their_own_when_started_again(play: Play) -> None:
    """So an earlier version started them."""

    async def act(bench: Bench) -> None:
        release = bench.release(processes=2)
        slot = Slot(workload="iris-a", number=0)
        folder, logs = bench.home.replicas / slot.replica, bench.home.logs / "iris"
        launch.write_release(folder, release)
        logs.mkdir(parents=True)
        project = bench.folder / "project"
        project.mkdir()
        environment = Environment(python=bench.environments.python, digest=None, environ={})
        serving, admin = free_ports(2)
        ports = Ports(serving=(serving,), admin=admin)
        prepared = Prepared(project=project, environment=environment)
        processes.spawn(
            launch.command(slot, release, ports, prepared=prepared, folder=folder, logs=logs),
            marker=slot.marker,
            home=bench.home.root,
            environ=environ(),
        )
        await bench.backend.close()
        bench.backend = bench.new_backend()
        await bench.backend.open()
        (adopted,) = await bench.all_ready(1)
        assert (adopted.ports, adopted.admin_port) == (ports.serving, ports.admin)

        kill(adopted)

        assert len((await bench.restarted()).ports) == 2

    play(act)


def test_what_died_or_was_left_while_nobody_looked_is_cleared_away(play: Play) -> None:
    async def act(bench: Bench) -> None:
        release = bench.release(config={"leave_behind": True})
        await bench.run(release, replicas=2)
        first, second = await bench.all_ready(2)
        await bench.backend.close()
        (process,) = [each for each in processes.find(bench.home.root) if each.pid == first.pid]
        kill(first)
        await asyncio.wait_for(processes.ended(process), DEADLINE)
        bench.backend = bench.new_backend()

        await bench.backend.open()

        assert [each.id for each in await bench.backend.observe()] == [second.id]
        assert [path.name for path in bench.home.replicas.iterdir()] == [second.id]
        assert {process.marker for process in bench.living()} == {"replica:iris-a:1"}
        await bench.run(release, replicas=2)
        await bench.all_ready(2)

    play(act)


def test_a_replica_whose_release_is_lost_is_ended_and_started_anew(play: Play) -> None:
    async def act(bench: Bench) -> None:
        (replica,) = await bench.run_ready()
        await bench.backend.close()
        (bench.home.replicas / replica.id / "release.json").write_text("{")
        bench.backend = bench.new_backend()

        await bench.backend.open()

        assert await bench.backend.observe() == []
        assert bench.living() == []

    play(act)


def test_a_replica_that_hangs_does_not_hold_up_its_removal(play: Play) -> None:
    async def act(bench: Bench) -> None:
        (replica,) = await bench.run_ready()
        kill(replica, signal.SIGSTOP)

        await asyncio.wait_for(bench.backend.remove("iris-a"), 15)

        assert bench.living() == []

    play(act)


def test_a_replica_that_hangs_is_killed_and_started_again(play: Play) -> None:
    async def act(bench: Bench) -> None:
        (replica,) = await bench.run_ready()
        kill(replica, signal.SIGSTOP)

        (down,) = await bench.until(lambda all_: all_[0].failure is not None)
        assert down.failure == "killed: it answered nothing for 1 s"
        again = await bench.restarted()
        assert again.pid != replica.pid

    play(act)


def test_a_project_is_extracted_once_and_prepared_again_when_it_is_gone(play: Play) -> None:
    async def act(bench: Bench) -> None:
        release = bench.release()
        told: list[str] = []
        await bench.backend.prepare(release, told.append)
        await bench.backend.prepare(release, told.append)

        assert told == ["extracting the project"]
        assert bench.environments.prepared == 1
        assert (bench.home.projects / release.project_digest / "handler.py").is_file()

    play(act)


def test_a_project_that_is_lost_is_a_preparation_that_fails(play: Play) -> None:
    async def act(bench: Bench) -> None:
        release = bench.release()
        Path(httpx.URL(release.project_url).path).unlink()

        with pytest.raises(PreparationFailed, match="the project could not be extracted"):
            await bench.backend.prepare(release, lambda _: None)

    play(act)


def limits_memory(bench: Bench) -> bool:
    """Whether memory can be limited here; where not, that must be said before anything is deployed."""
    can = MemoryGroups.detect("test") is not None
    told = [notice.path for notice in bench.backend.ignored(bench.release(mem="128Mi"))]
    assert told == ([] if can else ["compute.mem"])
    return can


def test_a_replica_beyond_its_memory_is_killed_by_the_kernel_and_says_so(play: Play) -> None:
    async def act(bench: Bench) -> None:
        if not limits_memory(bench):
            return
        (replica,) = await bench.run_ready(mem="128Mi")
        assert replica.pid is not None
        group = MemoryGroup.of(replica.pid)
        assert group is not None
        assert group.limit() == 128 * 2**20
        await bench.tell(replica, "/grow/400")

        (down,) = await bench.until(lambda all_: all_[0].failure is not None)
        assert down.state == "killed_oom"
        assert down.failure is not None
        assert down.failure.startswith("killed by the kernel: out of memory (limit 128 MiB, peak 1")
        await bench.restarted()

        await bench.backend.remove("iris-a")
        assert not group.path.exists()

    play(act)


def test_a_replica_that_lost_a_worker_to_its_memory_limit_says_so_while_it_serves(play: Play) -> None:
    async def act(bench: Bench) -> None:
        if not limits_memory(bench):
            return
        (replica,) = await bench.run_ready(mem="128Mi")
        await bench.ask(replica, "/allocate/400")

        (told,) = await bench.until(lambda all_: all_[0].failure is not None and all_[0].state == "ready")

        assert (told.restarts, told.pid) == (0, replica.pid)
        assert told.failure is not None
        assert told.failure.startswith(
            "a worker was killed by the kernel: out of memory (limit 128 MiB, peak 1"
        )

    play(act)


def test_an_adopted_replica_keeps_its_memory_limit(play: Play) -> None:
    async def act(bench: Bench) -> None:
        if not limits_memory(bench):
            return
        (replica,) = await bench.run_ready(mem="128Mi")
        await bench.backend.close()
        bench.backend = bench.new_backend()
        await bench.backend.open()
        await bench.tell(replica, "/grow/400")

        (down,) = await bench.until(lambda all_: all_[0].failure is not None)

        assert down.state == "killed_oom"
        await bench.backend.remove("iris-a")

    play(act)


def test_without_memory_groups_the_limit_is_ignored_and_that_is_said(play: Play) -> None:
    async def act(bench: Bench) -> None:
        await bench.backend.close()
        bench.backend = bench.new_backend(limit_memory=False)
        await bench.backend.open()
        assert [notice.path for notice in bench.backend.ignored(bench.release(mem="128Mi"))] == [
            "compute.mem"
        ]

        (replica,) = await bench.run_ready(mem="128Mi")

        assert replica.pid is not None
        assert MemoryGroup.of(replica.pid) is None

    play(act)


def test_logs_are_read_through_the_backend(play: Play) -> None:
    async def act(bench: Bench) -> None:
        first, second = await bench.run_ready(2)
        for replica, text in ((first, "one"), (second, "two"), (first, "three")):
            await bench.ask(replica, f"/log/{text}")
            await asyncio.sleep(0.002)  # they are ordered by milliseconds

        lines = [line async for line in bench.backend.logs("iris", LogQuery(tail=3))]

        assert [(line.replica, json.loads(line.text)["message"]) for line in lines] == [
            (first.id, "one"),
            (second.id, "two"),
            (first.id, "three"),
        ]

    play(act)


def test_observe_is_quick_and_apply_returns_at_once(play: Play) -> None:
    async def act(bench: Bench) -> None:
        release = bench.release(config={"fail": "at once"})
        await bench.backend.prepare(release, lambda _: None)
        began = time.perf_counter()
        await bench.backend.apply(Workload(id="iris-a", release=release, replicas=20))
        applied = time.perf_counter()
        assert len(await bench.backend.observe()) == 20
        assert applied - began < 0.5
        assert time.perf_counter() - applied < 0.1
        await bench.backend.remove("iris-a")

    play(act)
