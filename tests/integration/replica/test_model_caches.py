"""Caches of models with several processes: what each holds, what the replica has on disk, and who gets what."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.replicas import RunningReplica, until

from cortex_core.spec.types import Models

Start = Callable[..., RunningReplica]

HANDLER = """
    import json, os, weakref
    from pathlib import Path

    class Model:
        def __init__(self, text):
            self.text = text

    class Handler:
        def __init__(self, config, model_client):
            self.client = model_client
            self.alive = weakref.WeakSet()
            self.most = 0

        def load_model(self, model_path):
            model = Model((Path(model_path) / "model.txt").read_text())
            self.alive.add(model)
            self.most = max(self.most, len(self.alive))
            return model

        def handle_get(self, query_params):
            model = self.client.get_model(query_params["name"])
            return {"process": os.getpid(), "model": model.text, "most": self.most}
"""
PROCESSES, MEMORY, MODELS, ROUNDS = 2, 2, 8, 120


def publish(folder: Path, name: str, version: int) -> None:
    partial = folder.parent / "partial"
    partial.mkdir()
    (partial / "model.txt").write_text(f"{name} {version}")
    (folder / name).mkdir(exist_ok=True)
    partial.rename(folder / name / str(version))


def test_each_process_keeps_its_limit_and_the_disk_one_for_all(start: Start, tmp_path: Path) -> None:
    """Both processes are asked for all models, far more than fit, while new versions come and old ones go."""
    upstream = tmp_path / "upstream"
    upstream.mkdir()
    names = [f"m{number}" for number in range(MODELS)]
    for name in names:
        publish(upstream, name, 1)
    caches = Models(dir=str(upstream), cache_size=MEMORY, disk_cache_size=PROCESSES * MEMORY)
    replica = start(HANDLER, processes=PROCESSES, multi_model_reloading=caches)
    published = dict.fromkeys(names, 1)
    wrong: list[str] = []
    most: dict[int, int] = defaultdict(int)
    done = threading.Event()

    def ask(port: int, seed: int) -> None:
        chance = random.Random(seed)
        seen = dict.fromkeys(names, 0)
        for _ in range(ROUNDS):
            name = chance.choice(names)
            status, body = replica.request("GET", path=f"/?name={name}", port=port)
            if status != 200:
                wrong.append(f"{status}: {body.decode()}")
                continue
            said = json.loads(body)
            got, version = said["model"].split()
            if got != name or not seen[name] <= int(version) <= published[name]:
                wrong.append(f"{name} after version {seen[name]}: {said['model']}")
            seen[name] = int(version)
            most[said["process"]] = max(most[said["process"]], said["most"])

    def swap() -> None:
        chance = random.Random(0)
        while not done.wait(0.05):
            name = chance.choice(names)
            published[name] += 1
            publish(upstream, name, published[name])
            if published[name] > 2:
                shutil.rmtree(upstream / name / str(published[name] - 2))

    def on_disk() -> None:
        while not done.wait(0.05):
            there = replica.metric("cortex_models_on_disk")
            if there > PROCESSES * MEMORY:
                wrong.append(f"{there} versions on disk")

    askers = [
        threading.Thread(target=ask, args=(port, 10 * index + seed))
        for index, port in enumerate(replica.worker_ports)
        for seed in range(2)
    ]
    others = [threading.Thread(target=swap), threading.Thread(target=on_disk)]
    for thread in (*askers, *others):
        thread.start()
    for thread in askers:
        thread.join(60)
    done.set()
    for thread in others:
        thread.join(60)

    assert not wrong
    assert len(most) == PROCESSES, "a process was not asked"
    assert all(count <= MEMORY for count in most.values()), "more models in a process than it may hold"
    assert replica.metric("cortex_models_in_memory") <= PROCESSES * MEMORY
    assert replica.metric("cortex_model_cache_evictions_total") > MODELS
    assert replica.metric("cortex_worker_restarts_total") == 0
    for name in names:
        for port in replica.worker_ports:
            until(partial(is_latest, replica, name, port, published[name]))


def is_latest(replica: RunningReplica, name: str, port: int, version: int) -> bool:
    return latest(replica, name, port) == f"{name} {version}"


def latest(replica: RunningReplica, name: str, port: int) -> str:
    status, body = replica.request("GET", path=f"/?name={name}", port=port)
    assert status == 200, body
    return str(json.loads(body)["model"])


def test_a_full_disk_cache_is_shared_fairly(start: Start, tmp_path: Path) -> None:
    """One process holds as much as it may; the other one still gets what it is asked for, at once."""
    upstream = tmp_path / "upstream"
    upstream.mkdir()
    for name in "abcd":
        publish(upstream, name, 1)
    caches = Models(dir=str(upstream), cache_size=2, disk_cache_size=4)
    replica = start(HANDLER, processes=2, multi_model_reloading=caches)
    one, other = replica.worker_ports
    for name in "ab":
        latest(replica, name, one)
    started = time.monotonic()
    assert [latest(replica, name, other) for name in "cdcd"] == ["c 1", "d 1", "c 1", "d 1"]
    assert [latest(replica, name, one) for name in "abab"] == ["a 1", "b 1", "a 1", "b 1"]
    assert time.monotonic() - started < 10
    assert replica.metric("cortex_models_on_disk") == 4
    assert replica.metric("cortex_model_disk_evictions_total") == 0
