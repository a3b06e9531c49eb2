"""New versions are loaded once where they can break nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil
import pytest
from support.replicas import until, write_release

from cortex_core.models.tree import DEFAULT_MODEL
from cortex_core.spec.types import Models
from cortex_serve import snapshot
from cortex_serve.agent.trials import TrialResult, Trials
from cortex_serve.cells import Cells
from cortex_serve.log_files import LogFiles, RotatedFile
from cortex_serve.snapshot import Servable, ServedModel, Snapshot

PASSED = TrialResult(kind="passed")

SUPERVISOR = """
    import os, sys, time
    from pathlib import Path
    from cortex_serve.agent.trials import Trials
    from cortex_serve.cells import Cells
    from cortex_serve.log_files import LogFiles, RotatedFile

    release, project, models, directory = map(Path, sys.argv[1:])
    trials = Trials(
        release=release, project=project, models=models, cells=Cells.create().descriptor, environ=os.environ,
        logs=LogFiles(RotatedFile(models / "log"), replica="r"), load_timeout=60.0, done=print,
    )
    trials.submit(1, str(directory))
    time.sleep(60)
"""

RUNS_ITS_MODEL = """
    import os, signal, subprocess, sys, time
    from pathlib import Path

    class Handler:
        def __init__(self, config, model_client):
            self.client = model_client
            {constructor}

        def load_model(self, model_path):
            file = Path(model_path) / "load.py"
            told = {{**globals(), "handler": self, "folder": file.parent}}
            exec(compile(file.read_text(), str(file), "exec"), told)
            return told.get("model")

        def warm_up(self, model):
            if callable(model):
                model()

        def handle_get(self):
            return self.client.get_model()
"""


def handler(constructor: str = "pass") -> str:
    """A handler that loads a model by running its `load.py`, and warms it up by calling `model`."""
    return dedent(RUNS_ITS_MODEL).format(constructor=constructor)


@dataclass
class Court:
    """`Trials` with its surroundings."""

    folder: Path
    trials: Trials
    log_file: Path
    results: dict[int, list[TrialResult]] = field(default_factory=dict)
    serial: int = 0

    def submit(self, code: str = "") -> int:
        self.serial += 1
        self.trials.submit(self.serial, write_model(self.folder, self.serial, code))
        return self.serial

    def result(self, serial: int) -> TrialResult:
        until(lambda: serial in self.results, within=30)
        assert len(self.results[serial]) == 1
        return self.results[serial][0]

    def attempt(self, code: str = "") -> TrialResult:
        return self.result(self.submit(code))

    def noted(self, serial: int, name: str) -> str:
        """What a version's code wrote to a file beside it, as soon as it has."""
        path = self.folder / f"{serial}" / name
        text: str = until(lambda: path.exists() and path.read_text(), within=30)
        return text

    def lines(self) -> list[dict[str, Any]]:
        return (
            [json.loads(line) for line in self.log_file.read_text().splitlines()]
            if self.log_file.exists()
            else []
        )

    def said(self, text: str) -> dict[str, Any]:
        """The log line whose message contains the text, as soon as there is one."""
        line: dict[str, Any] = until(
            lambda: next((line for line in self.lines() if text in line["message"]), None)
        )
        return line


def write_model(folder: Path, version: int, code: str) -> str:
    directory = folder / str(version)
    directory.mkdir(parents=True)
    (directory / "load.py").write_text(dedent(code))
    return str(directory)


def publish_versions_5_and_6(models: Path) -> None:
    """6 is what workers hold, 5 is not on this machine."""
    here = write_model(models / "versions" / "before", 6, 'model = "six"')
    versions = (
        Servable(serial=101, version="5", digest="five"),
        Servable(serial=102, version="6", digest="six", directory=here, resident=True),
    )
    model = ServedModel(name=DEFAULT_MODEL, cell=0, target=102, versions=versions)
    snapshot.publish(models, Snapshot(epoch=1, has_names=False, models=(model,)))


def gone(pid: int) -> bool:
    """Whether a process has ended; soon, it does not matter when somebody waits for it."""
    try:
        until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    return True


def trial_processes() -> list[psutil.Process]:
    """Started by this process or by those, and still there."""
    mine = psutil.Process().children(recursive=True)
    return [each for each in mine if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Court]]:
    """Starts trials for a handler's source code; in the end nothing may be left of them."""
    with ExitStack() as stack:

        def start(
            source: str | None = None, *, load_timeout: float = 20.0, publish: bool = False, **options: Any
        ) -> Court:
            models = tmp_path / "models"
            models.mkdir()
            if publish:
                publish_versions_5_and_6(models)
            release = write_release(
                tmp_path,
                source or handler(),
                processes=1,
                threads=1,
                multi_model_reloading=Models(path="file:///nowhere/"),
            )
            cells = Cells.create()
            stack.callback(os.close, cells.descriptor)
            log_file = tmp_path / "log.jsonl"
            logs = LogFiles(RotatedFile(log_file), replica="trial-0")
            logs.start()
            stack.callback(logs.close, timeout=5.0)
            folder = models / "versions" / "iris"
            results: dict[int, list[TrialResult]] = {}
            trials = Trials(
                release=release,
                project=tmp_path / "project",
                models=models,
                cells=cells.descriptor,
                environ=os.environ,
                logs=logs,
                load_timeout=load_timeout,
                done=lambda serial, result: results.setdefault(serial, []).append(result),
                **options,
            )
            stack.callback(trials.close)
            return Court(folder, trials, log_file, results)

        yield start
    assert trial_processes() == []


def test_what_loads_passes_and_is_not_heard_of(start: Callable[..., Court]) -> None:
    court = start()
    assert court.attempt('print("loading", file=sys.stderr); model = lambda: print("warm")') == PASSED
    assert court.lines() == []


@pytest.mark.parametrize(
    "code",
    [
        'raise ValueError("bad weights")',
        "sys.exit(3)",
        "raise MemoryError",
        'def model(): raise ValueError("not warm")',
    ],
)
def test_what_raises_is_left_to_the_workers(start: Callable[..., Court], code: str) -> None:
    assert start().attempt(code) == PASSED


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ('print("so far"); os.kill(os.getpid(), signal.SIGSEGV)', "was killed by SIGSEGV"),
        ('os.write(2, b"so far\\n"); os.abort()', "was killed by SIGABRT"),
        ('print("so far"); os._exit(3)', "exited with status 3"),
        ('print("so far"); os._exit(0)', "exited with status 0"),
        ('import ctypes; print("so far"); ctypes.CDLL(None).exit(4)', "exited with status 4"),
        ('print("so far")\ndef model(): os._exit(5)', "exited with status 5"),
    ],
)
def test_what_ends_its_process_fails(start: Callable[..., Court], code: str, error: str) -> None:
    court = start()
    assert court.attempt(code) == TrialResult(kind="failed", error=f"the process {error}")
    line = court.said(f"model iris: trial of version 1: the process {error}")
    assert line["levelname"] == "ERROR"
    assert "so far" in line["exc_info"]
    assert court.attempt() == PASSED


def test_a_killed_version_shows_where_it_was(start: Callable[..., Court]) -> None:
    court = start()
    court.attempt("def deep(): os.kill(os.getpid(), signal.SIGSEGV)\ndeep()")
    assert "load.py" in court.said("SIGSEGV")["exc_info"]


@pytest.mark.parametrize("code", ["time.sleep(60)", "import re; re.match('(a+)+$', 'a' * 40 + 'b')"])
def test_what_hangs_fails_and_says_where(start: Callable[..., Court], code: str) -> None:
    court = start(load_timeout=1.0)
    result = court.attempt(code)
    assert result == TrialResult(kind="failed", error="load_model did not finish within 1 s")
    assert "load.py" in court.said("did not finish")["exc_info"]


def test_what_hangs_only_as_a_fork_passes(start: Callable[..., Court]) -> None:
    """A lock that a thread held at the moment of the fork is never let go of."""
    source = handler("self.lock = held_for_a_second()") + dedent(
        """
        def held_for_a_second():
            import threading

            def hold():
                with lock:
                    held.set()
                    time.sleep(1)

            lock, held = threading.Lock(), threading.Event()
            threading.Thread(target=hold, daemon=True).start()
            held.wait()
            return lock
        """
    )
    court = start(source, load_timeout=2.0)
    serial = court.submit(
        """
        with (folder / "pids").open("a") as file:
            print(os.getpid(), file=file)
        with handler.lock:
            pass
        """
    )
    assert court.result(serial) == PASSED
    assert len(court.noted(serial, "pids").splitlines()) == 2


def test_what_fails_only_as_a_fork_passes(start: Callable[..., Court]) -> None:
    source = handler("self.built_by = os.getpid()")
    assert start(source).attempt("if handler.built_by != os.getpid(): os.abort()") == PASSED


def test_what_takes_too_much_memory_fails_for_now(start: Callable[..., Court]) -> None:
    court = start(memory_limit=64 * 2**20)
    result = court.attempt("model = bytearray(b'x') * (256 * 2**20); time.sleep(20)")
    error = "it needs more memory than the 64 MiB that are free"
    assert result == TrialResult(kind="failed", error=error, transient=True)
    assert court.attempt("model = bytearray(b'x') * (16 * 2**20); time.sleep(0.2)") == PASSED


def test_what_is_killed_by_the_kernel_fails_for_now(start: Callable[..., Court]) -> None:
    result = start().attempt("os.kill(os.getpid(), signal.SIGKILL)")
    assert (result.kind, result.transient) == ("failed", True)
    assert result.error == "the process was killed by SIGKILL, as the kernel does for want of memory"


def test_what_a_version_started_ends_with_it(start: Callable[..., Court]) -> None:
    court = start()
    serial = court.submit(
        """
        child = subprocess.Popen(["sleep", "60"])
        (folder / "pid").write_text(str(child.pid))
        """
    )
    assert court.result(serial) == PASSED
    assert gone(int(court.noted(serial, "pid")))


@pytest.mark.parametrize(
    ("constructor", "error", "text"),
    [
        (
            'raise ValueError("no weights")',
            "the handler cannot be built in a trial process",
            "ValueError: no weights",
        ),
        (
            "os.abort()",
            "the trial process was killed by SIGABRT while the handler was being built",
            "Fatal Python error: Aborted",
        ),
    ],
)
def test_without_a_handler_there_are_no_trials(
    start: Callable[..., Court], constructor: str, error: str, text: str
) -> None:
    court = start(handler(constructor))
    assert court.attempt() == TrialResult(kind="unavailable", error=error)
    line = court.said(error)
    assert line["levelname"] == "WARNING"
    assert text in line["exc_info"]
    assert court.attempt() == TrialResult(kind="unavailable", error=error)


def test_versions_are_tried_in_order_by_one_process(start: Callable[..., Court]) -> None:
    court = start()
    code = '(folder / "parent").write_text(str(os.getppid())); (folder / "at").write_text(str(time.time()))'
    serials = [court.submit(code) for _ in range(10)]
    assert [court.result(serial) for serial in serials] == [PASSED] * 10
    assert len({court.noted(serial, "parent") for serial in serials}) == 1
    times = [float(court.noted(serial, "at")) for serial in serials]
    assert times == sorted(times)


def test_one_that_takes_long_does_not_keep_others_waiting(start: Callable[..., Court]) -> None:
    court = start()
    slow = court.submit("time.sleep(15)")
    assert court.attempt() == PASSED
    assert slow not in court.results


def test_a_second_chance_when_the_process_dies(start: Callable[..., Court]) -> None:
    court = start()
    code = """
        with (folder / "pids").open("a") as file:
            print(os.getppid(), os.getpid(), subprocess.Popen(["sleep", "60"]).pid, file=file, flush=True)
        while not (folder / "go").exists():
            time.sleep(0.02)
    """
    serial = court.submit(code)
    process, child, grandchild = map(int, court.noted(serial, "pids").split())
    os.kill(process, signal.SIGKILL)
    until(lambda: len(court.noted(serial, "pids").splitlines()) == 2, within=20)
    assert all(gone(pid) for pid in (process, child, grandchild))
    (court.folder / str(serial) / "go").touch()
    assert court.result(serial) == PASSED
    assert court.said("the process that tries new versions of models was killed by SIGKILL")


def test_no_third_chance(start: Callable[..., Court]) -> None:
    court = start()
    result = court.attempt("os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)")
    assert result == TrialResult(kind="unavailable", error="the trial process was killed by SIGKILL")


def test_the_process_ends_when_there_is_nothing_to_try(start: Callable[..., Court]) -> None:
    court = start(idle=0.3)
    assert court.attempt() == PASSED
    until(lambda: trial_processes() == [])
    assert court.attempt() == PASSED


def test_closing_ends_what_hangs_and_what_waits(start: Callable[..., Court]) -> None:
    court = start()
    serial = court.submit(
        """
        child = subprocess.Popen(["sleep", "60"])
        (folder / "pids").write_text(f"{os.getppid()} {os.getpid()} {child.pid}")
        import re; re.match('(a+)+$', 'a' * 40 + 'b')
        """
    )
    waits = court.submit()
    pids = [int(pid) for pid in court.noted(serial, "pids").split()]
    began = time.monotonic()
    court.trials.close()
    assert time.monotonic() - began < 3
    assert all(gone(pid) for pid in pids)
    assert court.results == {}
    assert waits not in court.results


def test_closing_while_the_handler_is_being_built(start: Callable[..., Court]) -> None:
    court = start(handler("time.sleep(60)"))
    court.submit()
    until(trial_processes)
    court.trials.close()
    assert trial_processes() == []


def test_a_constructor_may_ask_for_what_workers_hold(start: Callable[..., Court]) -> None:
    source = handler('assert self.client.get_model() == "six"')
    court = start(source, publish=True)
    assert court.attempt() == PASSED


def test_a_constructor_that_asks_for_more_is_not_waited_for(start: Callable[..., Court]) -> None:
    court = start(handler("self.client.get_model(model_version=5)"), publish=True)
    assert court.attempt().kind == "unavailable"
    assert "it is not fetched for a trial" in court.said("cannot be built")["exc_info"]


def test_a_version_that_writes_without_end_delays_only_itself(start: Callable[..., Court]) -> None:
    court = start(load_timeout=1.5)
    loud = court.submit("while True: os.write(1, b'x' * 65536)")
    assert court.attempt() == PASSED
    assert court.result(loud).error == "load_model did not finish within 1.5 s"
    assert len(court.said("did not finish")["exc_info"]) <= 8000


def test_the_memory_of_several_workers(start: Callable[..., Court]) -> None:
    court = start(memory_limit=64 * 2**20, copies=3)
    result = court.attempt("model = bytearray(b'x') * (256 * 2**20); time.sleep(20)")
    assert result.error == "it needs more than 64 MiB of memory, and 192 MiB are free for 3 processes"


def test_numeric_libraries_work_in_a_fork(start: Callable[..., Court]) -> None:
    """Their threads are not copied; they start new ones."""
    court = start(handler("import numpy; numpy.ones((600, 600)) @ numpy.ones((600, 600))"))
    code = """
        import joblib, numpy, sklearn.ensemble
        model = sklearn.ensemble.RandomForestRegressor(4, n_jobs=2)
        model.fit(numpy.ones((600, 600)) @ numpy.ones((600, 600)), numpy.ones(600))
        joblib.dump(model, folder / "model")
        joblib.load(folder / "model").predict(numpy.ones((2, 600)))
        with (folder / "pids").open("a") as file:
            print(os.getpid(), file=file)
    """
    code = dedent(code) + "\nmodel = None"
    serial = court.submit(code)
    assert court.result(serial) == PASSED
    assert len(court.noted(serial, "pids").splitlines()) == 1


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    api = Models(path="file:///nowhere/")
    release = write_release(tmp_path, handler(), processes=1, threads=1, multi_model_reloading=api)
    code = '(folder / "pids").write_text(f"{os.getppid()} {os.getpid()}"); time.sleep(60)'
    directory = write_model(tmp_path / "iris", 1, code)
    paths = [str(path) for path in (release, tmp_path / "project", tmp_path, directory)]
    with subprocess.Popen([sys.executable, "-c", dedent(SUPERVISOR), *paths]) as supervisor:
        noted = tmp_path / "iris" / "1" / "pids"
        pids = until(lambda: noted.exists() and noted.read_text()).split()
        supervisor.kill()
    assert len(pids) == 2
    assert all(gone(int(pid)) for pid in pids)


def test_a_handler_that_writes_into_the_conversation_is_given_up(start: Callable[..., Court]) -> None:
    source = handler("write_to_all_sockets()") + dedent(
        """
        def write_to_all_sockets():
            for each in os.listdir("/proc/self/fd"):
                try:
                    if os.readlink(f"/proc/self/fd/{each}").startswith("socket:"):
                        os.write(int(each), b"hello")
                except OSError:
                    pass
        """
    )
    result = start(source).attempt()
    assert result.kind == "unavailable"
    assert result.error is not None
    assert result.error.startswith("the trial process cannot be talked to: ")
