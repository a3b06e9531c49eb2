"""Processes that outlive the operator, found again by asking the kernel; there are no pid files to go stale.

Every process started here leads a session of its own and carries two environment variables, which everything
it starts inherits: `CORTEX_PROCESS`, its marker (what it is, e.g. "gateway"), and `CORTEX_HOME`, whose it is.
The kernel keeps both for as long as the process lives, so who asks always gets the truth, whoever started it.

    leader      the process that was started with `spawn`
    members     all that carry its marker: the leader and what it started, also what left its session

A process is signalled only when it carries the marker at that moment: a pid that now belongs to somebody else
is never touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARKER = "CORTEX_PROCESS"
HOME = "CORTEX_HOME"

KILL_DEADLINE = 10.0
"""Seconds within which the kernel must have taken away what got SIGKILL."""

_PIDFD_OPEN: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
_POLL = 0.05
_LOOKS = 2
_RESEND = 0.2
_EXEC_DEADLINE = 1.0
_EXEC_POLL = 0.0005


class SurvivedError(Exception):
    """There are processes that did not die of SIGKILL within `KILL_DEADLINE`, e.g. stuck in the kernel."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process that carries a marker.

    Attributes:
        leader: whether it leads a session, as all that `spawn` starts do.
        started_at: seconds since the epoch.
        argv: its command line.
        environ: the environment it was started with.
    """

    pid: int
    marker: str
    home: Path
    leader: bool
    started_at: float
    argv: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    handle: psutil.Process = field(repr=False, compare=False)


def spawn(
    argv: Sequence[str],
    *,
    marker: str,
    home: Path,
    environ: Mapping[str, str],
    cwd: Path | None = None,
    output: Path | None = None,
) -> Process:
    """Start a process that goes on when we end. Whoever starts it awaits `ended`, which also reaps it.

    Args:
        argv: program and arguments.
        marker: what it is; unique in its home.
        home: the home it belongs to.
        environ: its whole environment, except for the two variables above.
        cwd: folder to run in; ours if None.
        output: file for what it prints, emptied first; None discards it.

    Raises:
        OSError: the program cannot be run, or the system has no room for another process.
    """
    home = home.resolve()
    environ = {MARKER: marker, HOME: str(home)} | {
        name: value for name, value in environ.items() if name not in (MARKER, HOME)
    }
    with contextlib.ExitStack() as files:
        sink = subprocess.DEVNULL
        if output is not None:
            sink = _open_private(output)
            files.callback(os.close, sink)
        child = subprocess.Popen(
            argv,
            env=environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    child.returncode = (
        0  # the child is `ended`'s from here on; this keeps Popen from waiting for it or warning
    )
    handle = psutil.Process(child.pid)
    return Process(
        pid=child.pid,
        marker=marker,
        home=home,
        leader=True,
        started_at=handle.create_time(),
        argv=tuple(argv),
        environ=environ,
        handle=handle,
    )


def find(home: Path) -> list[Process]:
    """The leaders that live in a home, oldest first; at most one for each marker."""
    return leaders(members(home))


def leaders(found: Sequence[Process]) -> list[Process]:
    """The leaders among members. What a leader started may lead a session too: the oldest is the one."""
    oldest: dict[str, Process] = {}
    for process in found:
        if process.leader:
            oldest.setdefault(process.marker, process)
    return list(oldest.values())


def members(home: Path, marker: str | None = None) -> list[Process]:
    """All living processes of a home, or of one marker in it, oldest first.

    Takes some ten microseconds for each process on the machine. Zombies are not alive.
    """
    home = home.resolve()
    found = [process for process in _carriers() if process.home == home and marker in (None, process.marker)]
    return sorted(found, key=lambda process: (process.started_at, process.pid))


def is_alive(process: Process) -> bool:
    """Whether it still runs; a zombie does not, nor does another process that got its pid."""
    try:
        return process.handle.is_running() and process.handle.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def ended(process: Process, *, pidfd_open: Callable[[int], int] | None = _PIDFD_OPEN) -> int | None:
    """Return as soon as it is dead, with its exit code, or the negative signal that killed it.

    The kernel tells that only of our own children (which are reaped here); of others the answer is None.

    Args:
        process: any process, child or not.
        pidfd_open: None where this Python has no such function; it is then looked after by polling.
    """
    try:
        pidfd = None if pidfd_open is None else pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if pidfd is None:
        while is_alive(process):
            await asyncio.sleep(_POLL)
    else:
        await _readable(pidfd, unless=lambda: not process.handle.is_running())
    return _reap(process.pid)


async def terminate(process: Process, *, grace: float) -> int | None:
    """Stop it and all it started; returns when they are gone. Does nothing to what is gone already.

    Args:
        process: a leader. It gets SIGTERM; the others get SIGKILL once it ended.
        grace: seconds after which it is killed too.

    Returns:
        As `ended` does.

    Raises:
        SurvivedError: something survived SIGKILL.
    """
    companions = _session(process)
    death = asyncio.ensure_future(ended(process))
    try:
        if _send(process, signal.SIGTERM):
            await asyncio.wait([death], timeout=grace)
        if not death.done() and _send(process, signal.SIGKILL):
            await asyncio.wait([death], timeout=KILL_DEADLINE)
        await sweep(process.home, process.marker, also=companions)
        return death.result() if death.done() else None
    finally:
        death.cancel()


async def sweep(home: Path, marker: str, *, also: Sequence[psutil.Process] = ()) -> None:
    """Kill everything that carries a marker, e.g. what a dead leader left behind, and wait until it is gone.

    Args:
        home, marker: whose members.
        also: processes to kill with them.

    Raises:
        SurvivedError: something survived SIGKILL.
    """
    for companion in also:
        with contextlib.suppress(psutil.NoSuchProcess):
            companion.kill()
    deadline = time.monotonic() + KILL_DEADLINE
    looks = 0  # one more than needed: a process that is just replacing its program is hard to see
    while looks < _LOOKS:
        remaining = await asyncio.to_thread(members, home, marker)
        looks = 0 if remaining else looks + 1
        for process in remaining:
            _send(process, signal.SIGKILL)
        if not await _all_ended(remaining, _RESEND) and time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in remaining)
            raise SurvivedError(f"{marker}: killed, but still there: pid {pids}")


async def _all_ended(dying: Sequence[Process], timeout: float) -> bool:
    if not dying:
        return True
    deaths = [asyncio.ensure_future(ended(process)) for process in dying]
    try:
        _, waiting = await asyncio.wait(deaths, timeout=timeout)
        return not waiting
    finally:
        for death in deaths:
            death.cancel()


def _open_private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW, 0o600)


def _carriers() -> Iterator[Process]:
    """All processes that carry a marker.

    We look again until we know every pid there is: what we looked at may have started another and ended just
    before we read it.
    """
    known: set[int] = set()
    while unknown := set(psutil.pids()) - known:
        known |= unknown
        for pid in unknown:
            if (process := _read(pid)) is not None:
                yield process


def _read(pid: int) -> Process | None:
    """What the kernel says about a process, or None if it carries no marker, is gone or not ours."""
    try:
        environ = _environ(pid)
        if MARKER not in environ or HOME not in environ:
            return None
        handle = psutil.Process(pid)
        return Process(
            pid=pid,
            marker=environ[MARKER],
            home=Path(environ[HOME]),
            leader=os.getsid(pid) == pid,
            started_at=handle.create_time(),
            argv=tuple(handle.cmdline()),
            environ=environ,
            handle=handle,
        )
    except (OSError, psutil.Error):
        return None


def _environ(pid: int) -> dict[str, str]:
    """The environment of a process that carries a marker; empty for others and for zombies."""
    raw = _raw_environ(pid)
    if f"{MARKER}=".encode() not in raw:
        return {}
    variables = (variable.partition(b"=") for variable in raw.split(b"\0") if variable)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in variables}


def _raw_environ(pid: int) -> bytes:
    file = Path(f"/proc/{pid}/environ")
    deadline = time.monotonic() + _EXEC_DEADLINE
    while not (raw := file.read_bytes()) and _is_in_exec(pid) and time.monotonic() < deadline:
        time.sleep(_EXEC_POLL)
    return raw


def _is_in_exec(pid: int) -> bool:
    """Whether a process that showed no environment has one: the kernel was just replacing its program."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    state, memory = fields[0], int(fields[20])
    start, end = int(fields[47]), int(fields[48])
    return state not in "ZX" and memory > 0 and (end == 0 or end > start)


def _session(process: Process) -> list[psutil.Process]:
    """The other processes of a leader's session; they may have cleaned their environment of the marker."""
    if not is_alive(process):
        return []
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if pid != process.pid and os.getsid(pid) == process.pid:
                found.append(psutil.Process(pid))
    return found


def _send(process: Process, number: signal.Signals) -> bool:
    """Signal the process if it carries its marker; answers whether it did.

    The pidfd is taken first: whatever happens to the pid afterwards, the signal goes to what was looked at.
    """
    with contextlib.ExitStack() as stack:
        try:
            pidfd = None if _PIDFD_OPEN is None else _PIDFD_OPEN(process.pid)
            if pidfd is not None:
                stack.callback(os.close, pidfd)
            environ = _environ(process.pid)
            if (environ.get(MARKER), environ.get(HOME)) != (process.marker, str(process.home)):
                return False
            if pidfd is not None:
                signal.pidfd_send_signal(pidfd, number)
            else:
                os.kill(process.pid, number)
        except (ProcessLookupError, FileNotFoundError, PermissionError):
            return False
        return True


async def _readable(pidfd: int, *, unless: Callable[[], bool]) -> None:
    """Wait until the process behind a pidfd is dead, and close it; `unless` is asked once we listen."""
    loop = asyncio.get_running_loop()
    died = asyncio.Event()
    loop.add_reader(pidfd, died.set)
    try:
        if not unless():
            await died.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _reap(pid: int) -> int | None:
    """The exit code of a dead child, or None if it is none of ours or was reaped before."""
    try:
        reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if reaped else None
