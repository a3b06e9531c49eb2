"""Big models come and go; the memory of a worker does not grow. (A thousand of them: `make bench-models`.)"""

from __future__ import annotations

from pathlib import Path

import httpx
from support.big_model import ALLOWED, MODEL_BYTES, taken, write_project
from support.installation import Installation, wait_for
from support.load import Load
from support.swapper import Directory

LOADS = 50


def test_versions_that_replace_one_another(cortex: Installation, project: Path) -> None:
    place = Directory(project.parent / "models")
    place.publish(1)
    write_project(project, f"      path: {place.location}\n", processes=2)
    cortex.run("deploy", "--yes", cwd=project, timeout=300)
    load = Load(cortex.url("big"), connections=4, models=True)
    load.start()
    wait_for(lambda: load.so_far().answers > 200, within=20, what="load")
    without_model = taken(cortex) - MODEL_BYTES
    try:
        for version in range(2, 2 + LOADS):
            place.publish(version)
            load.wait_for_version(version, within=15)
        wait_for(lambda: taken(cortex) <= without_model + ALLOWED, within=15, what="memory is given back")
    finally:
        report = load.stop()
    assert (report.failures, report.mixed, report.went_back) == ([], [], [])
    cortex.run("delete", "big", "--force")


def test_models_that_push_one_another_out_of_the_cache(cortex: Installation, project: Path) -> None:
    models = project.parent / "models"
    for number in range(3):
        Directory(models / f"model-{number}").publish(number)
    limits = "      cache_size: 1\n      disk_cache_size: 2\n"
    write_project(project, f"      dir: {models}\n{limits}", name="cached")
    cortex.run("deploy", "--yes", cwd=project, timeout=300)
    with httpx.Client() as client:
        ask(client, cortex, 0)
        without_model = taken(cortex) - MODEL_BYTES
        for load in range(LOADS):
            ask(client, cortex, load % 3)
        wait_for(lambda: taken(cortex) <= without_model + ALLOWED, within=15, what="memory is given back")
    cortex.run("delete", "cached", "--force")


def ask(client: httpx.Client, cortex: Installation, number: int) -> None:
    answer = client.post(cortex.url("cached"), json={"n": 1}, params={"model": f"model-{number}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["contents"] == [number]
