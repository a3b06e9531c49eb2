"""Replicas that follow a directory of models: what they serve, what they say of it, and what survives what."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from support.buckets import environ, new_bucket
from support.fault_proxy import Fault, fault_proxy
from support.replicas import RunningReplica, until
from support.s3_server import running_s3
from support.swapper import Prefix

from cortex_core.operator_api import ModelStatus
from cortex_core.runtime import EXIT_HANDLER_FAILED
from cortex_core.spec.types import Models

Start = Callable[..., RunningReplica]

WITHIN = 30.0

HANDLER = """
    import os, signal, time
    from pathlib import Path

    class Handler:
        def __init__(self, config, model_client):
            self.client = model_client

        def load_model(self, model_path):
            folder = Path(model_path)
            how = (folder / "model.txt").read_text()
            with open("loads", "a") as loads:
                loads.write(f"{folder.name}\\n")
            if how == "crashes":
                os.kill(os.getpid(), signal.SIGSEGV)
                time.sleep(60)
            if how == "exits":
                os._exit(3)
            if how == "raises":
                raise ValueError("bad weights: " + "0" * 200_000)
            while how == "waits" and not os.path.exists("go"):
                time.sleep(0.01)
            return folder.name

        def handle_get(self, query_params):
            names = [query_params["name"]] if "name" in query_params else []
            return self.client.get_model(*names, model_version=query_params.get("version", "latest"))
"""

METRICS = {
    "cortex_model_swaps_total",
    "cortex_model_fetch_failures_total",
    "cortex_model_load_failures_total",
    "cortex_model_polls_total",
    "cortex_model_poll_age_seconds",
    "cortex_model_cache_hits_total",
    "cortex_model_cache_misses_total",
    "cortex_model_cache_evictions_total",
    "cortex_model_disk_evictions_total",
    "cortex_models_in_memory",
    "cortex_models_on_disk",
}


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    folder = tmp_path / "upstream"
    folder.mkdir()
    return folder


def publish(folder: Path, version: int | str, how: str = "loads", **more: str) -> None:
    """Have a version appear at once.

    Args:
        how: what happens when it is loaded.
        more: further files, by name; `__` stands for `.`, and `_` for `-`.
    """
    partial = folder.parent / "partial"
    partial.mkdir()
    (partial / "model.txt").write_text(how)
    for name, text in more.items():
        (partial / name.replace("__", ".").replace("_", "-")).write_text(text)
    folder.mkdir(exist_ok=True)
    partial.rename(folder / str(version))


def models(replica: RunningReplica) -> dict[str, ModelStatus]:
    """The rows of `/models`, by version."""
    status, text = replica.admin("/models")
    assert status == 200
    return {row.version: row for row in msgspec.json.decode(text, type=list[ModelStatus])}


def until_state(replica: RunningReplica, version: int, state: str) -> ModelStatus:
    def row() -> ModelStatus | None:
        found = models(replica).get(str(version))
        return found if found is not None and found.state == state else None

    try:
        found: ModelStatus = until(row, within=WITHIN)
    except TimeoutError:
        raise AssertionError(f"{version} is not {state}: {models(replica)}; {replica.messages()}") from None
    return found


def until_ready(replica: RunningReplica) -> None:
    try:
        until(replica.ready, within=WITHIN)
    except TimeoutError:
        raise AssertionError(f"not ready: {replica.admin('/readyz')}; {replica.messages()}") from None


def served(replica: RunningReplica, query: str = "") -> str:
    status, body = replica.request("GET", path=f"/?{query}")
    assert status == 200, body
    return body.decode()


def project(replica: RunningReplica) -> Path:
    return replica.log_file.parent.parent / "project"


def loads(replica: RunningReplica, version: int) -> int:
    """How often a version's load was begun."""
    file = project(replica) / "loads"
    return file.read_text().splitlines().count(str(version)) if file.exists() else 0


def are_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=5)[1]


def test_it_is_ready_when_its_model_is_live(start: Start, upstream: Path) -> None:
    publish(upstream, 7, "waits")
    replica = start(HANDLER, processes=2, wait=False, multi_model_reloading=Models(path=str(upstream)))
    loading = until_state(replica, 7, "loading")
    assert (loading.name, loading.loaded_at, loading.error) == ("trial", None, None)
    status, text = replica.admin("/readyz")
    assert status == 503
    assert json.loads(text)["reasons"] == [
        "0 of 2 workers are ready",
        "model trial: version 7 is being loaded",
    ]
    before = time.time()
    (project(replica) / "go").touch()
    until_ready(replica)
    live = models(replica)["7"]
    assert live.state == "live"
    assert live.digest == loading.digest
    assert live.loaded_at is not None
    assert before - 1 <= live.loaded_at <= time.time() + 1
    assert live.modified_at is not None
    assert live.modified_at <= before
    assert live.checked_at is not None
    assert served(replica) == "7"
    assert replica.stop() == 0


def test_metrics_follow_what_happens(start: Start, upstream: Path) -> None:
    publish(upstream, 1)
    replica = start(HANDLER, processes=2, multi_model_reloading=Models(path=str(upstream)))
    text = replica.admin("/metrics")[1]
    shown = {line.split("{")[0] for line in text.splitlines() if line.startswith("cortex_model")}
    assert shown == METRICS
    assert 'api_name="trial"' in text
    assert replica.metric("cortex_model_swaps_total") == 0
    assert replica.metric("cortex_models_in_memory") == 2
    assert replica.metric("cortex_models_on_disk") == 1
    assert replica.metric("cortex_model_polls_total") >= 1
    assert 0 <= replica.metric("cortex_model_poll_age_seconds") < WITHIN
    hits = replica.metric("cortex_model_cache_hits_total")
    for _ in range(5):
        served(replica)
    assert replica.metric("cortex_model_cache_hits_total") == hits + 5

    publish(upstream, 2)
    until_state(replica, 2, "live")
    assert replica.metric("cortex_model_swaps_total") == 1
    until(lambda: replica.metric("cortex_models_in_memory") == 2, within=WITHIN)  # not 4: the old one goes
    assert replica.metric("cortex_models_on_disk") == 2
    misses = replica.metric("cortex_model_cache_misses_total")
    assert served(replica, "version=1") == "1"
    assert replica.metric("cortex_model_cache_misses_total") == misses + 1

    publish(upstream, 3, "raises")
    failed = until_state(replica, 3, "failed")
    assert failed.error is not None
    assert failed.error.startswith("ValueError: bad weights: 000")
    assert len(failed.error) < 2000
    assert replica.metric("cortex_model_load_failures_total") == 1
    assert replica.metric("cortex_model_fetch_failures_total") == 0

    described = {"files": {"model.txt": {"size": 5, "sha256": "0" * 64}}}
    publish(upstream, 4, cortex_manifest__json=json.dumps(described))
    failed = until_state(replica, 4, "failed")
    assert "model.txt" in (failed.error or "")
    assert replica.metric("cortex_model_fetch_failures_total") >= 1
    assert replica.metric("cortex_model_load_failures_total") == 1
    assert replica.metric("cortex_model_swaps_total") == 1
    assert replica.metric("cortex_worker_restarts_total") == 0
    assert served(replica) == "2"


def test_metrics_of_caches(start: Start, upstream: Path) -> None:
    for name in "abc":
        publish(upstream / name, 1)
    caches = Models(dir=str(upstream), cache_size=1, disk_cache_size=2)
    replica = start(HANDLER, multi_model_reloading=caches)
    assert replica.metric("cortex_models_in_memory") == 0
    assert replica.metric("cortex_models_on_disk") == 0
    for name in "aab":
        assert served(replica, f"name={name}") == "1"
    assert replica.metric("cortex_model_cache_hits_total") == 1
    assert replica.metric("cortex_model_cache_misses_total") == 2
    assert replica.metric("cortex_model_cache_evictions_total") == 1
    assert replica.metric("cortex_models_in_memory") == 1
    assert replica.metric("cortex_models_on_disk") == 2
    assert replica.metric("cortex_model_disk_evictions_total") == 0
    assert served(replica, "name=c") == "1"
    assert replica.metric("cortex_models_on_disk") == 2
    assert replica.metric("cortex_model_disk_evictions_total") == 1
    counters = [name for name in METRICS if name.endswith("_total")]
    before = {name: replica.metric(name) for name in counters}
    [worker] = replica.worker_pids()
    os.kill(worker, signal.SIGKILL)
    until(lambda: replica.worker_pids() not in ([], [worker]), within=WITHIN)
    assert replica.metric("cortex_models_in_memory") == 0
    assert all(replica.metric(name) >= before[name] for name in counters)


def test_workers_that_are_killed_come_back_with_what_is_served(start: Start, upstream: Path) -> None:
    publish(upstream, 1)
    replica = start(HANDLER, processes=2, multi_model_reloading=Models(path=str(upstream)))
    answers: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                answers.append(int(served(replica)))
            except ConnectionError:
                continue  # it was in flight where it was killed
            except AssertionError:
                answers.append(-1)
                raise

    client = threading.Thread(target=ask)
    client.start()
    try:
        for version, before_publishing in zip((2, 3, 4, 5), itertools.cycle((True, False)), strict=False):
            victim = until(lambda: len(replica.worker_pids()) == 2 and replica.worker_pids()[0])
            if before_publishing:
                os.kill(victim, signal.SIGKILL)
            publish(upstream, version)
            until_state(replica, version, "live")
            if not before_publishing:
                os.kill(victim, signal.SIGKILL)
            until(lambda: len(set(replica.worker_pids()) - {victim}) == 2, within=WITHIN)  # noqa: B023  # at once
            assert {served(replica) for _ in range(20)} == {str(version)}
    finally:
        is_over.set()
        client.join()
    assert answers == sorted(answers)
    assert set(answers) <= {1, 2, 3, 4, 5}
    assert replica.metric("cortex_worker_restarts_total") == 4
    assert [row.state for row in models(replica).values()].count("failed") == 0


def test_what_kills_its_worker_at_the_start_is_left_out_also_by_the_next_life(
    start: Start, upstream: Path
) -> None:
    publish(upstream, 1)
    publish(upstream, 2, "crashes")
    declared = Models(path=str(upstream))
    replica = start(HANDLER, processes=2, wait=False, multi_model_reloading=declared)
    until_ready(replica)
    assert {served(replica) for _ in range(10)} == {"1"}
    failed = models(replica)["2"]
    assert failed.state == "failed"
    assert failed.error == "the process was killed by SIGSEGV while it was being loaded"
    assert replica.stop() == 0
    tried = loads(replica, 2)
    assert tried in (1, 2)

    ports = (replica.port, replica.admin_port)
    again = start(HANDLER, processes=2, wait=False, ports=ports, multi_model_reloading=declared)
    until_ready(again)
    assert served(again) == "1"
    assert models(again)["2"] == msgspec.structs.replace(failed, checked_at=models(again)["2"].checked_at)
    assert loads(again, 2) == tried
    assert again.metric("cortex_worker_restarts_total") == 0


def test_what_hangs_at_the_start_is_left_out(start: Start, upstream: Path) -> None:
    publish(upstream, 1)
    publish(upstream, 2, "waits")
    declared = Models(path=str(upstream), load_timeout=10**9)
    replica = start(HANDLER, processes=2, wait=False, multi_model_reloading=declared)
    until_ready(replica)
    assert served(replica) == "1"
    failed = models(replica)["2"]
    assert (failed.state, "1 s" in (failed.error or "")) == ("failed", True), failed
    family = replica.family()
    assert replica.stop() == 0  # though the load still hangs
    assert are_gone(family)


def test_a_constructor_may_ask_for_a_model_also_if_the_highest_version_is_broken(
    start: Start, upstream: Path
) -> None:
    publish(upstream, 1)
    publish(upstream, 2, "raises")
    source = HANDLER.replace(
        "self.client = model_client", "self.client = model_client; self.first = model_client.get_model()"
    ).replace(
        "def handle_get", "def handle_put(self):\n            return self.first\n\n        def handle_get"
    )
    replica = start(source, processes=2, wait=False, multi_model_reloading=Models(path=str(upstream)))
    until_ready(replica)
    assert [replica.request("PUT") for _ in range(5)] == [(200, b"1")] * 5
    assert replica.metric("cortex_worker_restarts_total") == 0


def test_a_worker_without_file_descriptors_follows_once_it_has_some_again(
    start: Start, upstream: Path
) -> None:
    source = """
        import os, threading, time

        class Handler:
            def __init__(self, config, model_client):
                self.client = model_client

            def load_model(self, model_path):
                return os.path.basename(model_path)

            def handle_get(self):
                return self.client.get_model()

            def handle_put(self):
                threading.Thread(target=self.take_all).start()

            def take_all(self):
                taken = []
                while not os.path.exists("go"):
                    try:
                        taken.append(os.open("/dev/null", os.O_RDONLY))
                    except OSError:
                        time.sleep(0.001)
                for each in taken:
                    os.close(each)
    """
    publish(upstream, 1)
    replica = start(source, multi_model_reloading=Models(path=str(upstream)))
    [worker] = replica.worker_pids()
    psutil.Process(worker).rlimit(psutil.RLIMIT_NOFILE, (256, 256))
    replica.request("PUT")
    until(lambda: psutil.Process(worker).num_fds() >= 255, within=WITHIN)
    publish(upstream, 2)
    until(lambda: any("Too many open files" in str(line) for line in replica.log()), within=WITHIN)
    (project(replica) / "go").touch()
    until_state(replica, 2, "live")
    assert served(replica) == "2"
    assert replica.worker_pids() == [worker]


def test_what_would_kill_workers_costs_none_while_they_serve(start: Start, upstream: Path) -> None:
    publish(upstream, 1)
    replica = start(HANDLER, processes=2, multi_model_reloading=Models(path=str(upstream)))
    workers = replica.worker_pids()
    publish(upstream, 2, "crashes")
    assert "SIGSEGV" in (until_state(replica, 2, "failed").error or "")
    publish(upstream, 3, "exits")
    assert "status 3" in (until_state(replica, 3, "failed").error or "")
    assert replica.worker_pids() == workers
    assert replica.metric("cortex_worker_restarts_total") == 0
    assert served(replica) == "1"
    publish(upstream, 4)
    until_state(replica, 4, "live")
    assert served(replica) == "4"


def test_it_ends_when_nothing_can_be_served_and_says_why(start: Start, upstream: Path) -> None:
    publish(upstream, 1, "raises")
    publish(upstream, 2, "crashes")
    replica = start(HANDLER, processes=2, wait=False, multi_model_reloading=Models(path=str(upstream)))
    family = replica.family()
    assert replica.wait(within=WITHIN) == EXIT_HANDLER_FAILED
    reason = next(line for line in replica.messages() if line.startswith("model trial: version 2 cannot"))
    assert "killed by SIGSEGV" in reason
    assert any("version 1 cannot be loaded: ValueError: bad weights" in line for line in replica.messages())
    assert are_gone(family)


@pytest.mark.parametrize("workers_serve", [False, True], ids=["at the start", "in a trial"])
def test_sigterm_during_a_load_ends_it_soon(start: Start, upstream: Path, workers_serve: bool) -> None:
    publish(upstream, 1, "loads" if workers_serve else "waits")
    replica = start(
        HANDLER, processes=2, wait=workers_serve, multi_model_reloading=Models(path=str(upstream))
    )
    if workers_serve:
        publish(upstream, 2, "waits")
    until(lambda: loads(replica, 2 if workers_serve else 1), within=WITHIN)
    family = replica.family()
    began = time.monotonic()
    assert replica.stop() == 0
    assert time.monotonic() - began < 5
    assert are_gone(family)


def test_nothing_is_left_when_it_is_killed_during_a_trial(start: Start, upstream: Path) -> None:
    publish(upstream, 1)
    replica = start(HANDLER, multi_model_reloading=Models(path=str(upstream)))
    publish(upstream, 2, "waits")
    until(lambda: loads(replica, 2), within=WITHIN)
    family = replica.family()
    assert len(family) > 2
    replica.signal(signal.SIGKILL)
    replica.wait()
    assert are_gone(family)


def test_sigterm_while_a_fetch_hangs_ends_it_soon(start: Start) -> None:
    with running_s3() as port, fault_proxy(port) as proxy:
        place = Prefix(port, new_bucket(port))
        place.upload("1", {"model.txt": b"loads"})
        proxy.add(Fault(match=r"^GET [^ ]*/1/model\.txt", times=1000, hang=True))
        variables: dict[str, Any] = {**environ(proxy.port), "CORTEX_MODEL_POLL_INTERVAL": "0.5"}
        declared = Models(path=place.location)
        replica = start(HANDLER, wait=False, environ=variables, multi_model_reloading=declared)
        until(lambda: proxy.count(r"^GET [^ ]*/1/model\.txt"), within=WITHIN)
        assert any("version 1 is being fetched" in reason for reason in reasons(replica))
        family = replica.family()
        began = time.monotonic()
        assert replica.stop() == 0
        assert time.monotonic() - began < 5
        assert are_gone(family)


@pytest.mark.parametrize("text", ["often", "0", "nan"])
def test_a_poll_interval_that_is_none_ends_it_with_words(start: Start, upstream: Path, text: str) -> None:
    publish(upstream, 1)
    replica = start(
        HANDLER,
        wait=False,
        environ={"CORTEX_MODEL_POLL_INTERVAL": text},
        multi_model_reloading=Models(path=str(upstream)),
    )
    assert replica.wait() == EXIT_HANDLER_FAILED
    words = f"CORTEX_MODEL_POLL_INTERVAL must be seconds between 0.1 and 86400, not '{text}'"
    assert replica.messages()[-1] == words


def reasons(replica: RunningReplica) -> list[str]:
    found: list[str] = json.loads(replica.admin("/readyz")[1])["reasons"]
    return found
