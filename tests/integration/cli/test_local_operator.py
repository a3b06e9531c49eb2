"""The real operator of this machine: started when needed, once, and gone after `down`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from support.installation import BIN, Installation, free_ports, wait_for

from cortex.local_operator import START_TIMEOUT


@pytest.fixture
def cortex(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path)
    yield installation
    installation.down()


def test_up_status_down(cortex: Installation) -> None:
    assert cortex.json("local", "status")["running"] is False
    assert cortex.processes() == []
    up = cortex.json("local", "up")
    assert (up["running"], up["apis"], up["replicas"]) == (True, 0, 0)
    assert cortex.json("local", "up")["pid"] == up["pid"]
    assert cortex.run("local", "down").stdout == "stopped\n"
    assert cortex.processes() == []
    assert cortex.run("local", "down").stdout == "nothing was running\n"
    assert cortex.json("local", "status")["running"] is False


def test_commands_that_come_together_start_one(cortex: Installation) -> None:
    started = [
        subprocess.Popen(
            [str(BIN / "cortex"), "get", "-o", "json"], env=dict(cortex.environ), stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in started:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert json.loads(output) == [{"env_name": "local", "apis": [], "error": None}]
    operators = [each for each in cortex.processes() if "cortex_operator" in each.cmdline()]
    assert len(operators) == 1


def test_down_cleans_up_after_a_killed_operator(cortex: Installation) -> None:
    pid = cortex.json("local", "up")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(pid), within=10, what="the operator is gone")
    cortex.run("local", "down")
    assert cortex.processes() == []


def test_an_operator_that_cannot_start_shows_its_log(cortex: Installation) -> None:
    cortex.home.mkdir(parents=True)
    (cortex.home / "operator").mkdir()
    (cortex.home / "operator" / "lock").mkdir()  # cannot be locked
    done = cortex.run("get", expect=6)
    assert "error: the local operator ended with exit code 1; the end of its log:\n  " in done.stderr
    assert done.stderr.endswith(f"hint: the whole log: {cortex.home}/operator/operator.log\n")
    (cortex.home / "operator" / "lock").rmdir()


def test_with_a_damaged_database_all_can_still_be_ended_and_begun_anew(cortex: Installation) -> None:
    cortex.run("local", "up")
    cortex.run("local", "down")
    state = cortex.home / "operator" / "state.db"
    state.write_bytes(b"\x07" * 5000)
    done = cortex.run("get", expect=6)
    assert f"error: the operator's database {state} is damaged" in done.stderr
    assert f"mv {state} {state}.damaged" in done.stderr
    cortex.run("get", expect=6)
    cortex.run("local", "down")
    state.unlink()
    cortex.run("get")


def test_a_port_that_something_else_has(cortex: Installation) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", int(cortex.environ["CORTEX_OPERATOR_PORT"])))
        findings = {
            each["check"]: each for each in json.loads(cortex.run("doctor", "-o", "json", expect=1).stdout)
        }
    assert findings["operator port"]["state"] == "failed"
    assert "CORTEX_OPERATOR_PORT" in findings["operator port"]["fix"]


def test_doctor_of_a_healthy_machine(cortex: Installation, tmp_path: Path) -> None:
    cortex.run("local", "up")
    done = cortex.run("doctor", "-o", "json", cwd=tmp_path)
    states = {each["check"]: each["state"] for each in json.loads(done.stdout)}
    assert set(states.values()) == {"ok"}
    assert len(states) == 13


def test_doctor_finds_faults(cortex: Installation, tmp_path: Path) -> None:
    (tmp_path / "cortex.yaml").write_text("- name: x\n")
    config = tmp_path / "config"
    config.mkdir()
    (config / "cli.yaml").write_text("- nothing")
    cortex.home.mkdir(mode=0o755)
    done = cortex.run("doctor", "-o", "json", cwd=tmp_path, expect=1)
    found = {each["check"]: (each["state"], each["fix"]) for each in json.loads(done.stdout)}
    assert found["api file"] == ("failed", "cortex validate")
    assert found["environments"] == ("failed", "correct the file, or remove it and run: cortex env configure")
    assert found["home"] == ("warning", f"chmod 700 {cortex.home}")
    (config / "cli.yaml").unlink()


def test_doctor_finds_a_damaged_state(cortex: Installation, tmp_path: Path) -> None:
    folder = cortex.home / "operator"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "state.db").write_bytes(b"\x07" * 5000)
    findings = doctor(cortex, tmp_path)
    assert findings["state"]["state"] == "failed"
    assert findings["state"]["message"] == f"{folder}/state.db is damaged: file is not a database"
    (folder / "state.db").unlink()


def test_doctor_of_a_home_that_is_a_file(cortex: Installation, tmp_path: Path) -> None:
    cortex.home.touch()
    findings = doctor(cortex, tmp_path)
    assert findings["home"]["message"] == f"{cortex.home} cannot be written: Not a directory"
    cortex.home.unlink()


def test_something_else_at_the_operators_port_does_not_blame_the_gateways(
    cortex: Installation, tmp_path: Path
) -> None:
    server = ThreadingHTTPServer(
        ("127.0.0.1", int(cortex.environ["CORTEX_OPERATOR_PORT"])), BaseHTTPRequestHandler
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        findings = doctor(cortex, tmp_path)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
    assert findings["operator port"]["state"] == "failed"
    assert findings["gateway port"]["state"] == "ok"


def test_other_ports_than_those_of_the_running_operator(cortex: Installation) -> None:
    cortex.run("local", "up")
    used = cortex.environ
    gateway, operator = free_ports(2)
    cortex.environ = {**used, "CORTEX_GATEWAY_PORT": str(gateway), "CORTEX_OPERATOR_PORT": str(operator)}
    started = time.monotonic()
    done = cortex.run("get", expect=4)
    assert time.monotonic() - started < START_TIMEOUT
    running = used["CORTEX_OPERATOR_PORT"]
    assert f"error: the operator of {cortex.home} runs already, at port {running}" in done.stderr
    assert f"CORTEX_OPERATOR_PORT={running}" in done.stderr
    cortex.environ = used


def doctor(cortex: Installation, folder: Path) -> dict[str, dict[str, str]]:
    """The findings by check, of a machine that has a fault."""
    done = cortex.run("doctor", "-o", "json", cwd=folder, expect=1)
    return {each["check"]: each for each in json.loads(done.stdout)}


def test_life_of_an_api(cortex: Installation, tmp_path: Path) -> None:
    cortex.run("init", "hello", cwd=tmp_path)
    cortex.run("deploy", "hello", cwd=tmp_path)
    assert cortex.run("predict", "hello", '{"name": "Ada"}').stdout == '{"text":"Hello, Ada!"}'
    handler = tmp_path / "hello" / "handler.py"
    handler.write_text(handler.read_text() + "\n\nraise LookupError('on purpose')\n")
    failed = cortex.run("deploy", "hello", cwd=tmp_path, expect=1)
    assert "LookupError: on purpose" in failed.stderr
    assert "the release before goes on serving" in failed.stderr
    assert cortex.run("predict", "hello", '{"name": "Ada"}').stdout == '{"text":"Hello, Ada!"}'
    assert "ready" in cortex.run("logs", "hello").stdout
    cortex.run("refresh", "hello")
    assert len(cortex.json("history", "hello")) >= 2
    assert cortex.run("delete", "hello").stdout == "deleted hello\n"
    cortex.run("get", "hello", expect=3)
