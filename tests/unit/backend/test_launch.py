"""What starts a replica, and how it is read back from a process that runs."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from cortex_core.release import Release, make_release
from cortex_core.spec.types import Autoscaling, Compute, Handler, Networking, RealtimeAPI, UpdateStrategy
from cortex_operator.backends import launch
from cortex_operator.backends.environments import Environment
from cortex_operator.backends.launch import Ports, Prepared, Slot
from cortex_operator.processes import Process


def release(env: dict[str, str] | None = None) -> Release:
    spec = RealtimeAPI(
        name="iris",
        handler=Handler(type="python", path="handler.py", env=env or {}),
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


def test_the_command_line() -> None:
    argv = launch.command(
        SLOT,
        Ports(serving=1, admin=2),
        prepared=prepared("d", {}),
        folder=Path("/h/replicas/iris-a:b-12"),
        logs=Path("/h/logs/iris"),
    )

    assert argv == [
        "/e/bin/python", "-m", "cortex_serve", "/h/replicas/iris-a:b-12/release.json",
        "--project", "/p", "--replica", "iris-a:b-12",
        "--host", "127.0.0.1", "--port", "1", "--admin-port", "2",
        "--log-dir", "/h/logs/iris",
    ]  # fmt: skip


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
        (["python", "--port", "1", "--admin-port", "2"], Ports(serving=1, admin=2)),
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
