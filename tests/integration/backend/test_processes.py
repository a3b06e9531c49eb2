"""Processes that outlive whoever started them: found, watched and ended, and never confused with others."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cortex_operator import processes
from cortex_operator.processes import Process

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for process in processes.members(tmp_path):
        os.kill(process.pid, signal.SIGKILL)


def start(home: Path, *argv: str, marker: str = "thing", output: Path | None = None) -> Process:
    return processes.spawn(argv or SLEEP, marker=marker, home=home, environ=dict(os.environ), output=output)


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def run(awaitable: Awaitable[object], seconds: float = 30) -> object:
    return asyncio.run(asyncio.wait_for(awaitable, seconds))


def test_found_with_its_marker_argv_and_environment(home: Path) -> None:
    started = processes.spawn(SLEEP, marker="gateway", home=home, environ={**os.environ, "COLOR": "red"})

    (found,) = processes.find(home)

    assert (found.pid, found.marker, found.argv) == (started.pid, "gateway", tuple(SLEEP))
    assert found.environ["COLOR"] == "red"
    assert abs(found.started_at - time.time()) < 5
    assert os.getsid(found.pid) == found.pid


def test_two_homes_do_not_see_each_other(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    start(home)

    assert processes.find(other) == []


def test_a_home_is_the_same_by_another_path(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("links") / "home"
    link.symlink_to(home)
    started = start(link)

    assert [process.pid for process in processes.find(home)] == [started.pid]


def test_what_it_starts_is_a_member_and_no_leader(home: Path) -> None:
    start(home, "/bin/sh", "-c", "sleep 600 & setsid sleep 600 & wait")
    wait_until(lambda: len(processes.members(home)) == 3)

    assert len(processes.find(home)) == 1


@pytest.mark.parametrize("pidfd_open", [getattr(os, "pidfd_open", None), None], ids=["pidfd", "polling"])
def test_ended_tells_how_a_child_died(home: Path, pidfd_open: Callable[[int], int] | None) -> None:
    exiting = start(home, sys.executable, "-c", "raise SystemExit(3)")
    killed = start(home)
    os.kill(killed.pid, signal.SIGKILL)

    assert run(processes.ended(exiting, pidfd_open=pidfd_open)) == 3
    assert run(processes.ended(killed, pidfd_open=pidfd_open)) == -signal.SIGKILL
    with pytest.raises(ChildProcessError):
        os.waitpid(killed.pid, os.WNOHANG)  # was reaped


def test_ended_notices_the_death_of_somebody_elses_child_at_once(home: Path) -> None:
    spawn = (
        "import os, pathlib; from cortex_operator import processes;"
        f"home = pathlib.Path({str(home)!r});"
        f"processes.spawn({SLEEP!r}, marker='thing', home=home, environ=dict(os.environ))"
    )
    subprocess.run([sys.executable, "-c", spawn], check=True, timeout=30)
    (stranger,) = processes.find(home)

    async def kill_and_wait() -> float:
        waiting = asyncio.create_task(processes.ended(stranger))
        await asyncio.sleep(0)
        killed_at = time.monotonic()
        os.kill(stranger.pid, signal.SIGKILL)
        assert await waiting is None
        return time.monotonic() - killed_at

    assert run(kill_and_wait()) < 1


def test_a_zombie_is_dead(home: Path) -> None:
    child = start(home, "/bin/true")
    wait_until(lambda: not processes.is_alive(child))  # nobody reaped it

    assert processes.members(home) == []
    assert run(processes.ended(child)) == 0


def test_terminate_asks_first(home: Path, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7));"
        "print('up', flush=True); time.sleep(600)"
    )
    output = tmp_path / "output"
    polite = start(home, sys.executable, "-c", code, output=output)
    wait_until(lambda: output.read_text() == "up\n")

    assert run(processes.terminate(polite, grace=10)) == 7


def test_terminate_kills_what_does_not_listen(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    stubborn = start(home, sys.executable, "-c", STUBBORN, output=output)
    wait_until(lambda: output.read_text() == "up\n")

    assert run(processes.terminate(stubborn, grace=0.2)) == -signal.SIGKILL
    assert processes.members(home) == []


def test_terminate_takes_what_left_the_session(home: Path) -> None:
    leader = start(home, "/bin/sh", "-c", "(setsid setsid sleep 600 &) & sleep 600 & wait")
    wait_until(lambda: len(processes.members(home)) == 3)

    run(processes.terminate(leader, grace=5))

    assert processes.members(home) == []


def test_terminate_takes_what_dropped_the_marker_but_stayed_in_the_session(
    home: Path, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    leader = start(home, "/bin/sh", "-c", f"env -i sleep 600 & echo $! > {pid_file}; wait")
    wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    pid = int(pid_file.read_text())
    wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"))

    run(processes.terminate(leader, grace=5))

    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_terminate_of_the_dead_is_quiet_and_sweeps(home: Path) -> None:
    leader = start(home, "/bin/sh", "-c", "sleep 600 & sleep 600 & exit 0")
    assert run(processes.ended(leader)) == 0
    assert len(processes.members(home)) == 2
    assert processes.find(home) == []

    run(processes.terminate(leader, grace=5))

    assert processes.members(home) == []


def test_a_stranger_with_the_same_pid_is_never_signalled(home: Path) -> None:
    ours = start(home)
    run(processes.terminate(ours, grace=5))
    with subprocess.Popen(["sleep", "600"]) as stranger:
        reused = dataclasses.replace(ours, pid=stranger.pid)

        run(processes.terminate(reused, grace=0.1))

        assert stranger.poll() is None
        stranger.kill()


def test_another_marker_is_left_alone(home: Path) -> None:
    one, other = start(home, marker="replica:a:0"), start(home, marker="replica:a:1")

    run(processes.terminate(one, grace=5))

    assert [process.pid for process in processes.members(home)] == [other.pid]


def test_output_is_private_and_starts_empty(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    run(processes.ended(start(home, "/bin/echo", "one", output=output)))
    run(processes.ended(start(home, "/bin/echo", "two", output=output)))

    assert output.read_text() == "two\n"
    assert output.stat().st_mode & 0o777 == 0o600


def test_a_program_that_is_not_there_is_an_error(home: Path) -> None:
    with pytest.raises(FileNotFoundError):
        start(home, str(home / "nothing"))
