"""A directory of a thousand models, of which 5 are in memory and 250 on disk."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from support.installation import Installation, wait_for

MODELS = 1000
IN_MEMORY = 5
ON_DISK = 250
REQUESTS = 1200
CLIENTS = 4

HANDLER = """
from pathlib import Path


class Handler:
    def __init__(self, config, model_client):
        self.client = model_client

    def load_model(self, model_path):
        return Path(model_path, "name.txt").read_text()

    def handle_get(self, query_params):
        return self.client.get_model(query_params["model"])
"""

CONFIG = """
- name: many
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    threads_per_process: 4
    multi_model_reloading:
      dir: ../models
      cache_size: 5
      disk_cache_size: 250
"""


def test_a_thousand_models(cortex: Installation, project: Path) -> None:
    models = project.parent / "models"
    for number in range(MODELS):
        add(models, f"model-{number}")
    (project / "handler.py").write_text(HANDLER)
    (project / "cortex.yaml").write_text(CONFIG)
    cortex.run("deploy", "--yes", cwd=project)

    asked = random.Random(5)
    names = [f"model-{asked.randrange(asked.choice((10, MODELS)))}" for _ in range(REQUESTS)]
    assert len(set(names)) > ON_DISK
    (copies,) = cortex.home.glob("**/models/versions")
    on_disk = []

    def ask(client: httpx.Client, chosen: list[str]) -> None:
        for number, name in enumerate(chosen):
            answer = client.get(cortex.url("many"), params={"model": name})
            assert (answer.status_code, answer.text) == (200, name), answer.text
            if number % 10 == 0:
                on_disk.append(versions_in(copies))

    with httpx.Client(timeout=30) as client, ThreadPoolExecutor(CLIENTS) as clients:
        parts = [names[number::CLIENTS] for number in range(CLIENTS)]
        list(clients.map(ask, [client] * CLIENTS, parts, timeout=100))
        assert ON_DISK // 2 < max(on_disk) <= ON_DISK

        add(models, "newcomer")
        query = {"model": "newcomer"}
        wait_for(
            lambda: client.get(cortex.url("many"), params=query).status_code == 200,
            within=30,
            what="a new model",
        )
    rows = cortex.api("many")["models"]
    assert {row["name"] for row in rows} == {f"model-{number}" for number in range(MODELS)} | {"newcomer"}
    assert 0 < sum(row["loaded_at"] is not None for row in rows) <= IN_MEMORY


def versions_in(copies: Path) -> int:
    """How many there are now; others come and go meanwhile."""
    walked = os.walk(copies)  # which passes over what is gone
    return sum(len(folders) for folder, folders, _ in walked if Path(folder).parent == copies)


def add(models: Path, name: str) -> None:
    partial = models.with_name("partial")
    partial.mkdir(parents=True)
    (partial / "name.txt").write_text(name)
    models.mkdir(exist_ok=True)
    partial.rename(models / name)
