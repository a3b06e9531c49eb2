"""The main job as a person does it: deploy, ask, change, look back, undo, delete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.installation import Installation
from support.projects import write_versioned


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("counted")


def version(cortex: Installation) -> str:
    return str(json.loads(cortex.run("predict", "counted", '{"n": 1}').stdout)["version"])


def test_from_nothing_to_a_live_prediction(cortex: Installation, folder: Path) -> None:
    write_versioned(folder, version="1")
    deployed = cortex.run("deploy", "--yes", cwd=folder)
    assert "counted" in deployed.stdout
    assert version(cortex) == "1"


def test_get_shows_the_api(cortex: Installation, folder: Path) -> None:
    api = cortex.api("counted")
    assert api["status"]["status_code"] == "status_live"
    assert api["status"]["replica_counts"]["updated"]["ready"] == 1
    assert api["endpoint"] == cortex.url("counted")
    assert api["spec"]["handler"]["config"] == {"version": "1"}
    assert api["release_id"]
    assert "counted" in cortex.run("get").stdout


def test_the_same_again_changes_nothing(cortex: Installation, folder: Path) -> None:
    before = cortex.api("counted")
    assert "up to date" in cortex.run("deploy", "--yes", cwd=folder).stdout
    after = cortex.api("counted")
    assert after["replicas"][0]["pid"] == before["replicas"][0]["pid"]


def test_a_change_replaces_the_release(cortex: Installation, folder: Path) -> None:
    write_versioned(folder, version="2")
    cortex.run("deploy", "--yes", cwd=folder)
    assert version(cortex) == "2"


def test_a_change_around_the_code_keeps_the_replicas(cortex: Installation, folder: Path) -> None:
    before = cortex.api("counted")["replicas"][0]["pid"]
    with (folder / "cortex.yaml").open("a") as file:
        file.write("  networking:\n    endpoint: /other\n")
    cortex.run("deploy", "--yes", cwd=folder)
    api = cortex.api("counted")
    assert api["endpoint"] == cortex.url("other")
    assert api["replicas"][0]["pid"] == before
    assert version(cortex) == "2"


def test_logs_show_what_the_handler_prints(cortex: Installation, folder: Path) -> None:
    write_versioned(folder, version="3")
    code = (folder / "handler.py").read_text()
    (folder / "handler.py").write_text(
        code + '\n    def handle_get(self):\n        print("somebody looked")\n        return "ok"\n'
    )
    cortex.run("deploy", "--yes", cwd=folder)
    assert cortex.run("predict", "counted", "--method", "GET").stdout.strip() == "ok"
    assert "somebody looked" in cortex.run("logs", "counted").stdout


def test_refresh_starts_new_replicas_of_the_same_release(cortex: Installation) -> None:
    before = cortex.api("counted")
    cortex.run("refresh", "counted")
    after = cortex.api("counted")
    assert after["release_id"] == before["release_id"]
    assert after["replicas"][0]["pid"] != before["replicas"][0]["pid"]


def test_patch_changes_the_configuration_with_the_project_that_is_there(
    cortex: Installation, folder: Path
) -> None:
    write_versioned(folder, version="4")
    (folder / "handler.py").write_text("raise RuntimeError('patch must not ship this')\n")
    cortex.run("patch", cwd=folder)
    assert version(cortex) == "4"


def test_history_and_rollback(cortex: Installation) -> None:
    history = cortex.json("history", "counted")
    assert len(history) >= 5
    assert [entry["current"] for entry in history].count(True) == 1
    cortex.run("rollback", "counted")
    assert version(cortex) == "3"
    oldest = history[-1]["release_id"]
    cortex.run("rollback", "counted", oldest)
    assert version(cortex) == "1"


def test_an_unknown_api_is_not_found(cortex: Installation) -> None:
    missing = cortex.run("get", "nothing", expect=3)
    assert missing.stdout == ""
    assert "nothing" in missing.stderr


def test_invalid_files_are_refused_before_anything_happens(cortex: Installation, project: Path) -> None:
    write_versioned(project, version="1")
    text = (project / "cortex.yaml").read_text().replace("processes_per_replica", "proceses_per_replica")
    (project / "cortex.yaml").write_text(text)
    for command in ("validate", "deploy"):
        refused = cortex.run(command, cwd=project, expect=1)
        assert (
            "cortex.yaml:6:5: counted.handler.proceses_per_replica: unknown key"
            in refused.stderr + refused.stdout
        )
        assert "did you mean 'processes_per_replica'?" in refused.stderr + refused.stdout


def test_delete_removes_the_api_and_its_processes(cortex: Installation) -> None:
    pid = cortex.api("counted")["replicas"][0]["pid"]
    cortex.run("delete", "counted", "--force")
    assert pid not in {process.pid for process in cortex.processes()}
    cortex.run("get", "counted", expect=3)
    cortex.run("delete", "counted", "--force", expect=3)
