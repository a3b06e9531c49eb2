"""`python -m cortex_operator` as the command line starts it, with the real backend and gateway."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest
from support.installation import free_ports, wait_for

from cortex_core.home import Home
from cortex_core.operator_api import Problem

STARTED_WITHIN = 20.0


class Process:
    """The operator's process of a home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.running: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [sys.executable, "-m", "cortex_operator"],
            env=self.home.environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(started)
        return started

    def start_and_wait(self) -> subprocess.Popen[str]:
        started = self.start()
        wait_for(lambda: self.get("/v1/apis") is not None, within=STARTED_WITHIN, what="the operator answers")
        return started

    def get(self, path: str) -> httpx.Response | None:
        try:
            token = self.home.token_file.read_text()
            url = self.home.operator_url + path
            answer = httpx.get(url, headers={"authorization": f"Bearer {token}"}, timeout=STARTED_WITHIN)
        except (OSError, httpx.HTTPError):
            return None
        return answer if answer.status_code == 200 else None

    def until_answered(self, path: str, *, method: str = "GET") -> httpx.Response:
        """The first answer, whatever it says."""
        answers: list[httpx.Response] = []

        def answered() -> bool:
            try:
                token = self.home.token_file.read_text()
                url = self.home.operator_url + path
                headers = {"authorization": f"Bearer {token}"}
                answers.append(httpx.request(method, url, headers=headers, timeout=STARTED_WITHIN))
            except (OSError, httpx.ConnectError):
                return False
            return True

        wait_for(answered, within=STARTED_WITHIN, what="the operator answers")
        return answers[0]

    def left(self) -> list[psutil.Process]:
        """Processes of the home besides the operator."""
        found = []
        ours = {each.pid for each in self.running}
        for process in psutil.process_iter():
            try:
                if process.environ().get("CORTEX_HOME") == str(self.home.root) and process.pid not in ours:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def end(self) -> None:
        """End the operators, and the gateway that one of them may have left."""
        for each in self.running:
            each.kill()
            each.communicate()
        for process in self.left():
            process.kill()


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Process]:
    gateway_port, operator_port = free_ports(2)
    process = Process(Home(root=tmp_path / "home", gateway_port=gateway_port, operator_port=operator_port))
    yield process
    process.end()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=STARTED_WITHIN)
    return process.returncode, output


def test_one_serves_a_home_and_a_second_one_says_so(operator: Process) -> None:
    operator.start_and_wait()
    assert operator.home.token_file.stat().st_mode & 0o777 == 0o600
    code, output = ended(operator.start())
    assert code == 0
    assert f"another operator serves {operator.home.root} already" in output


def test_sigterm_stops_it_and_leaves_the_gateway_which_the_next_one_adopts(operator: Process) -> None:
    first = operator.start_and_wait()
    token = operator.home.token_file.read_text()
    gateway = {each.pid for each in operator.left()}
    assert gateway
    first.send_signal(signal.SIGTERM)
    code, output = ended(first)
    assert (code, "Traceback" in output) == (0, False), output
    assert {each.pid for each in operator.left()} == gateway

    operator.start_and_wait()
    assert {each.pid for each in operator.left()} == gateway
    assert operator.home.token_file.read_text() == token


def test_shutting_down_leaves_nothing(operator: Process) -> None:
    process = operator.start_and_wait()
    token = operator.home.token_file.read_text()
    answer = httpx.post(
        operator.home.operator_url + "/v1/shutdown",
        params={"replicas": "true"},
        headers={"authorization": f"Bearer {token}"},
        timeout=30,
    )
    assert answer.status_code == 200
    code, output = ended(process)
    assert (code, "Traceback" in output) == (0, False), output
    assert operator.left() == []
    assert [each.name for each in operator.home.gateway.rglob("*") if each.is_socket()] == []


def test_what_its_starter_made_is_made_private(operator: Process) -> None:
    operator.home.create()
    (operator.home.operator / "operator.log").touch(0o644)
    operator.start_and_wait()
    files = [each for each in operator.home.operator.iterdir() if each.is_file()]
    assert {each.name: oct(each.stat().st_mode & 0o777) for each in files} == {
        each.name: "0o600" for each in files
    }


def test_a_port_in_use_is_said_to_be(operator: Process) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", operator.home.operator_port))
        other.listen()
        code, output = ended(operator.start())
    assert code == 1
    assert f"127.0.0.1:{operator.home.operator_port}" in output
    assert "CORTEX_OPERATOR_PORT" in output
    assert "Traceback" not in output


def test_a_gateway_that_cannot_start_is_said_to_be(operator: Process) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", operator.home.gateway_port))
        other.listen()
        code, output = ended(operator.start())
    assert code == 1
    assert str(operator.home.gateway_port) in output
    assert "Traceback" not in output


def test_a_damaged_database_is_said_to_be(operator: Process) -> None:
    operator.home.create()
    (operator.home.operator / "state.db").write_bytes(os.urandom(8192))
    process = operator.start()
    answer = operator.until_answered("/v1/apis")
    problem = msgspec.json.decode(answer.content, type=Problem)
    assert (answer.status_code, problem.code) == (503, "unavailable")
    assert "state.db is damaged" in problem.message
    code, output = ended(process)
    assert code == 1
    assert "state.db is damaged" in output
    assert "Traceback" not in output


def test_with_a_damaged_database_everything_can_still_be_ended(operator: Process) -> None:
    first = operator.start_and_wait()
    first.send_signal(signal.SIGTERM)
    ended(first)
    assert operator.left() != []
    (operator.home.operator / "state.db").write_bytes(os.urandom(8192))
    second = operator.start()
    answer = operator.until_answered("/v1/shutdown?replicas=true", method="POST")
    assert answer.status_code == 200
    _, output = ended(second)
    assert "Traceback" not in output
    assert operator.left() == []
