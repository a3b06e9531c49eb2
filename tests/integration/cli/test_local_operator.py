"""The real operator of this machine: started when needed, once, and gone after `down`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from support.installation import BIN, Installation, wait_for


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
    (cortex.home / "operator" / "state.db").mkdir()  # no database
    done = cortex.run("get", expect=6)
    assert "error: the local operator ended with exit code 1; the end of its log:\n  " in done.stderr
    assert done.stderr.endswith(f"hint: the whole log: {cortex.home}/operator/operator.log\n")
    (cortex.home / "operator" / "state.db").rmdir()


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
    assert len(states) == 12


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
