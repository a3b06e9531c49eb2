"""What starts a replica, and how it is read back from a process that runs."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from cortex_core.release import Release, make_release
from cortex_core.spec.types import (
    Autoscaling,
    Compute,
    Handler,
    Models,
    Networking,
    RealtimeAPI,
    UpdateStrategy,
)
from cortex_operator.backends import launch
from cortex_operator.backends.environments import Environment
from cortex_operator.backends.launch import Ports, Prepared, Slot
from cortex_operator.processes import Process


def release(env: dict[str, str] | None = None, models: Models | None = None, processes: int = 1) -> Release:
    spec = RealtimeAPI(
        name="iris",
        handler=Handler(
            type="python",
            path="handler.py",
            env=env or {},
            multi_model_reloading=models,
            processes_per_replica=processes,
        ),
        networking=Networking(endpoint="/iris"),
        compute=Compute(),
        autoscaling=Autoscaling(target_replica_concurrency=1.0),
        update_strategy=UpdateStrategy(),
    )
    return make_release(spec, project_digest="ab", project_url="file:///b/ab.tar.gz", runtime_version="1")


def prepared(digest: str | None, environ: dict[str, str]) -> Prepared:
    return Prepared(
        project=Path("/p"),
        environment=Environment(python=Path("/e/bin/python"), digest=digest, environ=environ),
    )


SLOT = Slot(workload="iris-a:b", number=12)


def command_of(release: Release, ports: tuple[int, ...] = (1,)) -> list[str]:
    return launch.command(
        SLOT,
        release,
        Ports(serving=ports, admin=2),
        prepared=prepared("d", {}),
        folder=Path("/h/replicas/iris-a:b-12"),
        logs=Path("/h/logs/iris"),
    )


def test_the_command_line() -> None:
    assert command_of(release()) == [
        "/e/bin/python", "-m", "cortex_serve", "/h/replicas/iris-a:b-12/release.json",
        "--project", "/p", "--replica", "iris-a:b-12",
        "--host", "127.0.0.1", "--port", "1", "--admin-port", "2",
        "--log-dir", "/h/logs/iris",
    ]  # fmt: skip


def test_a_replica_with_models_has_a_folder_for_them() -> None:
    with_models = command_of(release(models=Models(path="/m/")))

    assert with_models == [*command_of(release()), "--models", "/h/replicas/iris-a:b-12/models"]


def test_each_process_has_a_port() -> None:
    assert launch.serving_processes(release(processes=3)) == 3

    command = command_of(release(processes=3), (1, 5, 7))

    assert [command[at + 1] for at, word in enumerate(command) if word == "--port"] == ["1", "5", "7"]


def test_a_slot_is_read_back_from_its_marker() -> None:
    assert Slot.of(SLOT.marker) == SLOT
    assert SLOT.replica == "iris-a:b-12"


@pytest.mark.parametrize(
    "marker", ["", "gateway", "replica", "replica:", "replica:a", "replica::1", "replica:a:x"]
)
def test_other_markers_belong_to_no_slot(marker: str) -> None:
    assert Slot.of(marker) is None


@pytest.mark.parametrize(
    ("argv", "ports"),
    [
        (["python", "--port", "1", "--admin-port", "2"], Ports(serving=(1,), admin=2)),
        (["python", "--port", "1", "--port", "3", "--admin-port", "2"], Ports(serving=(1, 3), admin=2)),
        (["python", "--port", "1"], None),
        (["python", "--port", "x", "--admin-port", "2"], None),
        (["python", "--port", "1", "--admin-port"], None),
        ([], None),
    ],
)
def test_ports_are_read_back_from_the_command_line(argv: list[str], ports: Ports | None) -> None:
    process = Process(
        pid=1,
        marker="",
        home=Path("/h"),
        leader=True,
        started_at=0.0,
        argv=tuple(argv),
        handle=psutil.Process(),
    )

    assert launch.ports_of(process) == ports


def test_the_environment_of_another_interpreter() -> None:
    inherited = {
        "HOME": "/root",
        "COLOR": "red",
        "PATH": "/bin",
        "PYTHONPATH": "/operator",
        "VIRTUAL_ENV": "/operator/venv",
        "CORTEX_TOKEN": "secret",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_SECRET_ACCESS_KEY": "needed",
        "CORTEX_MODEL_POLL_INTERVAL": "10",
    }
    own = prepared("d", {"VIRTUAL_ENV": "/e", "PATH": "/e/bin:/bin", "SHAPE": "round"})

    assert launch.environ(inherited, release({"COLOR": "blue", "SHAPE": "flat"}), prepared=own) == {
        "HOME": "/root",
        "COLOR": "blue",
        "PATH": "/e/bin:/bin",
        "VIRTUAL_ENV": "/e",
        "SHAPE": "round",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_SECRET_ACCESS_KEY": "needed",
        "CORTEX_MODEL_POLL_INTERVAL": "10",
    }


def test_the_operators_own_interpreter_keeps_what_it_is_used_to() -> None:
    inherited = {"PYTHONPATH": "/operator", "VIRTUAL_ENV": "/operator/venv"}

    assert launch.environ(inherited, release(), prepared=prepared(None, {})) == inherited


def test_a_release_is_left_and_read_back(tmp_path: Path) -> None:
    launch.write_release(tmp_path / "iris-a-0", release())

    assert launch.read_release(tmp_path / "iris-a-0") == release()
    assert [path.name for path in (tmp_path / "iris-a-0").iterdir()] == ["release.json"]


@pytest.mark.parametrize("content", ["", "{", "{}", '{"name": 1}'])
def test_a_release_that_is_none_cannot_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "release.json").write_text(content)

    assert launch.read_release(tmp_path) is None
    assert launch.read_release(tmp_path / "nothing") is None


def test_a_replicas_folder_is_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "iris-a-0"
    (folder / "models" / "iris" / "1").mkdir(parents=True)
    (folder / "models" / "iris" / "1" / "model.bin").write_bytes(b"x")

    launch.remove_folder(folder)
    launch.remove_folder(folder)

    assert list(tmp_path.iterdir()) == []


def test_only_copies_of_models_are_worth_keeping(tmp_path: Path) -> None:
    (tmp_path / "iris-a-0" / "models").mkdir(parents=True)
    (tmp_path / "iris-a-1").mkdir()
    (tmp_path / ".removed-1a2b" / "models").mkdir(parents=True)

    kept = [folder.name for folder in tmp_path.iterdir() if launch.is_worth_keeping(folder)]

    assert kept == ["iris-a-0"]
