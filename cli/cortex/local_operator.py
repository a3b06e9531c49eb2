"""The operator of this machine: one for each CORTEX_HOME, started when it is first needed.

It is a process of its own (own session, output to operator.log) and outlives the command that started it.
When it has died, whatever it ran still runs; starting it again adopts all of that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cortex.operator_client import OTHER_PORTS, NotAnOperator, OperatorClient
from cortex_core.errors import Conflict, CortexError, OperatorUnreachable, TimedOut
from cortex_core.home import Home
from cortex_core.operator_api import Info
from cortex_core.version import __version__

START_TIMEOUT = 15.0
"""Seconds within which a new operator must answer."""
STOP_TIMEOUT = 30.0
"""Seconds within which a process must be gone once the operator said it stops."""
_POLL = 0.02
_LOG_LINES = 15


@dataclass(frozen=True, kw_only=True)
class LocalStatus:
    """What `cortex local status` shows."""

    running: bool
    home: str
    operator_url: str
    gateway_url: str
    pid: int | None = None
    version: str | None = None
    apis: int | None = None
    replicas: int | None = None


class LocalOperator:
    """The operator of a home.

    Args:
        home: its folder and ports.
        report: told in a few words what is going on.
    """

    def __init__(self, home: Home, *, report: Callable[[str], None]) -> None:
        self._home = home
        self._report = report

    def ensure(self) -> Info:
        """Return when the operator answers: started when it did not, replaced when of another version.

        Raises:
            OperatorUnreachable: it does not start, with the end of its log; or something else has its port.
        """
        info = self.running()
        if info is not None and info.version != __version__ and self.is_ours():
            self._report(
                f"replacing the local operator {info.version} by {__version__}; what runs goes on running"
            )
            self._stop(info, replicas=False)
            info = None
        return info or self._start()

    def running(self) -> Info | None:
        """Who answers at this home's operator port, if anybody.

        Raises:
            NotAnOperator: something that is not an operator.
        """
        with closing(self._client(token=None)) as client:
            try:
                return client.info()
            except NotAnOperator:
                raise
            except OperatorUnreachable:
                return None

    def down(self) -> bool:
        """Stop the operator and all it runs; return when the processes are gone.

        An operator that has died is started once more to clean up what it left.

        Returns:
            Whether there was anything to stop.
        """
        info = self.running()
        if info is None and not _anything_runs(self._home):
            return False
        info = info or self._start()
        self._report("stopping replicas, gateway and operator")
        self._stop(info, replicas=True)
        return True

    def status(self) -> LocalStatus:
        home = self._home
        stopped = LocalStatus(
            running=False, home=str(home.root), operator_url=home.operator_url, gateway_url=home.gateway_url
        )
        if self._home.token() is None:
            return stopped
        info = self.running()
        if info is None:
            return stopped
        with closing(self._client(token=self.token())) as client:
            apis = client.apis()
        return LocalStatus(
            running=True,
            home=str(home.root),
            operator_url=home.operator_url,
            gateway_url=info.gateway or home.gateway_url,
            pid=info.pid,
            version=info.version,
            apis=len(apis),
            replicas=sum(len(api.replicas) for api in apis),
        )

    def token(self) -> str:
        """The shared secret of the operator that answers.

        Raises:
            Conflict: this home never had one, so the operator is another home's.
        """
        token = self._home.token()
        if token is None:
            raise Conflict(
                f"the operator at {self._home.operator_url} belongs to another CORTEX_HOME", hint=OTHER_PORTS
            )
        return token

    def _client(self, *, token: str | None) -> OperatorClient:
        return OperatorClient(self._home.operator_url, token=token, environment="local")

    def is_ours(self) -> bool:
        """Whether the operator that answers takes this home's token."""
        token = self._home.token()
        if token is None:
            return False
        with closing(self._client(token=token)) as client:
            try:
                client.apis()
            except Conflict:
                return False
            except (OperatorUnreachable, TimedOut):
                raise
            except CortexError:  # it took the token, and cannot do more: its database is damaged
                return True
        return True

    def _start(self) -> Info:
        """Start the operator; commands that come at the same time wait for the one that does."""
        import filelock

        self._home.create()
        try:
            with filelock.FileLock(
                self._home.operator / "starting.lock", timeout=2 * START_TIMEOUT, mode=0o600
            ):
                return self.running() or self._start_now()
        except filelock.Timeout as error:
            raise TimedOut("another command has been starting the local operator for too long") from error

    def _start_now(self) -> Info:
        self._report("starting the local operator")
        log = self._home.operator / "operator.log"
        with log.open("ab") as output:
            log_start = output.tell()
            # started from inside a replica it would carry that replica's mark, and be ended with it
            environ = {key: value for key, value in self._home.environ().items() if key != "CORTEX_PROCESS"}
            process = subprocess.Popen(
                [sys.executable, "-m", "cortex_operator"],
                env=environ,
                cwd=self._home.operator,  # in the caller's folder, its modules would be found first
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and not process.poll():
            if process.returncode == 0:
                self._check_ports_of_the_running_one()
            info = self.running()
            if info is not None and self._home.token() is not None:
                process.returncode = 0  # it outlives us; nobody here waits for it
                return info
            time.sleep(_POLL)
        failed = (
            f"ended with exit code {process.poll()}"
            if process.poll()
            else f"did not answer in {START_TIMEOUT:g} s"
        )
        if process.poll() is None:
            process.terminate()
        raise OperatorUnreachable(
            f"the local operator {failed}; the end of its log:\n{_end_of(log, log_start)}",
            hint=f"the whole log: {log}",
        )

    def _check_ports_of_the_running_one(self) -> None:
        """Raise `Conflict` when this home's operator, for which ours made way, has another port."""
        port = str(self._home.operator_port)
        for environ in _operators(self._home):
            running = environ.get("CORTEX_OPERATOR_PORT", port)
            if running != port:
                ports = f"CORTEX_OPERATOR_PORT={running}"
                if gateway := environ.get("CORTEX_GATEWAY_PORT"):
                    ports += f" CORTEX_GATEWAY_PORT={gateway}"
                raise Conflict(
                    f"the operator of {self._home.root} runs already, at port {running} instead of {port}",
                    hint=f"use its ports: {ports}; to change them, run with these: cortex local down",
                )

    def _stop(self, info: Info, *, replicas: bool) -> None:
        """Ask it to stop and return when its process is gone."""
        import psutil

        try:
            process = psutil.Process(info.pid)
        except psutil.NoSuchProcess:
            return
        with closing(self._client(token=self.token())) as client:
            client.shutdown(replicas=replicas)
        try:
            process.wait(timeout=STOP_TIMEOUT)
        except psutil.TimeoutExpired as error:
            raise TimedOut(
                f"the local operator (process {info.pid}) did not end within {STOP_TIMEOUT:g} s",
                hint=f"its log: {self._home.operator / 'operator.log'}",
            ) from error


def _operators(home: Home) -> Iterator[dict[str, str]]:
    """The environment of each operator process of this home."""
    import psutil

    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if environ.get("CORTEX_HOME") == str(home.root) and "cortex_operator" in process.cmdline():
                yield environ
        except psutil.Error:  # it ended meanwhile, or belongs to somebody else
            continue


def _anything_runs(home: Home) -> bool:
    """Whether a process of this user was started for this home; a shell that has it set counts, too."""
    import psutil

    ours = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    for process in psutil.process_iter():
        try:
            if process.pid not in ours and process.environ().get("CORTEX_HOME") == str(home.root):
                return True
        except psutil.Error:  # it ended meanwhile, or belongs to somebody else
            continue
    return False


def _end_of(log: Path, start: int) -> str:
    """The last lines that were written after `start`."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:]) or "  (empty)"
