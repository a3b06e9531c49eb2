"""What the operator can be asked to do; the HTTP API is a thin layer over this."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from cortex_core import operator_api
from cortex_core.errors import Conflict, CortexError, DeployFailed, NotFound
from cortex_core.home import Home
from cortex_core.operator_api import (
    ApiResult,
    ApiStatus,
    DeployRequest,
    DeployResponse,
    Event,
    HistoryEntry,
    Info,
    Message,
    Metrics,
    ModelStatus,
    NetworkStats,
)
from cortex_core.release import Release, make_release
from cortex_core.spec.endpoint import canonical
from cortex_core.spec.load import ListLocations
from cortex_core.spec.neighbours import users_of
from cortex_core.spec.types import Api, is_grpc, models_of
from cortex_core.storage import open_storage
from cortex_core.version import __version__
from cortex_operator import model_listings, plan, status
from cortex_operator.backends.protocol import Backend, LogLine, LogQuery, Notice, Replica
from cortex_operator.clock import Bell, Clock, SystemClock, heard
from cortex_operator.deployments import Limits
from cortex_operator.gateway.protocol import Gateway, GatewayFailed, Upstream
from cortex_operator.model_listings import ModelListings
from cortex_operator.model_reports import AdminPorts, Ask, ModelReports
from cortex_operator.plan import Deployed, Requested
from cortex_operator.projects import Projects
from cortex_operator.reconciler import Reconciler
from cortex_operator.routes import of_api
from cortex_operator.specs import read_specs
from cortex_operator.state import Reason, State, StoredApi, StoredDeployment

logger = logging.getLogger(__name__)

MOST_LISTING = 2
"""Deploys whose models are listed at the same time; listing takes threads, and can take long."""

UNUSED_PROJECT_AGE = 3600.0
"""Seconds that an uploaded project is kept without being deployed."""


def create_operator(
    home: Home,
    backend: Backend,
    gateway: Gateway,
    *,
    clock: Clock | None = None,
    limits: Limits | None = None,
    list_locations: ListLocations = model_listings.list_locations,
    ask: Ask | None = None,
) -> Operator:
    """Put an operator together; `open` starts it.

    Args:
        list_locations: lists models when a file is deployed.
        ask: asks a replica what its models do; None asks at its admin port.

    Raises:
        StateUnusable: its database cannot be used.
    """
    home.create()
    return Operator(
        home=home,
        backend=backend,
        gateway=gateway,
        clock=clock or SystemClock(),
        limits=limits or Limits(),
        list_locations=list_locations,
        ask=ask,
    )


class Operator:
    """The control plane of one home."""

    def __init__(
        self,
        *,
        home: Home,
        backend: Backend,
        gateway: Gateway,
        clock: Clock,
        limits: Limits,
        list_locations: ListLocations,
        ask: Ask | None,
    ) -> None:
        self._home = home
        self._backend = backend
        self._gateway = gateway
        self._clock = clock
        self._bell = Bell()
        self._state = State(home.operator / "state.db", now=clock.now, changed=self._bell.ring)
        self._projects = Projects(bucket=open_storage(home.bucket.as_uri()), folder=home.projects)
        self._admin_ports = AdminPorts()
        ask = ask or self._admin_ports.ask
        self._reconciler = Reconciler(
            state=self._state, backend=backend, gateway=gateway, clock=clock, limits=limits, ask=ask
        )
        self._reports = ModelReports(ask, clock=clock)
        self._list_locations = list_locations
        self._listing = asyncio.Semaphore(MOST_LISTING)
        self._planning = asyncio.Lock()  # who decides what shall run
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Adopt what runs and go on with what was interrupted.

        Raises:
            GatewayFailed: the gateway cannot be started.
        """
        await asyncio.to_thread(self._projects.sweep)
        await self._reconciler.open()
        await self._sweep_projects()
        self._sweep_soon()

    async def close(self) -> None:
        """Stop; what runs goes on running and is adopted by the next operator."""
        await self._end_sweep()
        await self._end_reports()
        await self._reconciler.close()
        self._state.close()

    async def shut_down(self) -> None:
        """Stop, and all replicas and the gateway with it; the next operator starts them again."""
        await self._end_sweep()
        await self._end_reports()
        await self._reconciler.shut_down()
        self._state.close()

    def info(self, *, pid: int) -> Info:
        return Info(version=__version__, backend=self._backend.name, gateway=self._home.gateway_url, pid=pid)

    # projects

    async def has_project(self, digest: str) -> bool:
        """Whether a project need not be uploaded; it will not be swept for a while then."""
        found = await asyncio.to_thread(self._projects.exists, digest)
        if found:
            self._state.use_project(digest)
        return found

    async def add_project(self, digest: str, upload: Path) -> bool:
        """Keep an uploaded archive; False when it was there already.

        Raises:
            UnsafeArchive: it is damaged, dangerous or not what its digest says.
        """
        self._state.use_project(digest)
        return await asyncio.to_thread(self._projects.add, digest, upload)

    # changing what runs

    async def deploy(self, request: DeployRequest) -> DeployResponse:
        """Validate a file, plan, and unless it is a dry run begin to carry the plan out.

        Raises:
            InvalidConfig: with all problems; nothing was done.
            NotFound: the project was not uploaded, or an API to patch is not deployed.
        """
        listings = ModelListings(self._list_locations)
        async with self._listing:
            await asyncio.to_thread(listings.prepare, request.config, _folder(request))
        async with self._planning:
            await self._sweep_projects()
            self._sweep_soon()
            requested = await self._requested(request, listings)
            planned = plan.plan(requested, self._deployed(), force=request.force)
            if request.dry_run:
                return DeployResponse(results=tuple(_as_dry_run(each) for each in planned))
            releases = {each.release.name: each.release for each in requested}
            reason: Reason = "patch" if request.project_digest is None else "deploy"
            return DeployResponse(
                results=tuple(
                    self._carry_out(each, releases[each.name], reason, request.config) for each in planned
                )
            )

    async def refresh(self, name: str, *, force: bool = False) -> ApiResult:
        """Replace all replicas of an API by new ones of the same release.

        Raises:
            NotFound: no such API.
            Conflict: it is not live, or is being updated.
        """
        stored = self._existing(name)
        if not force:
            self._refuse_while_updating(
                name, hint=f"wait until that is done, or: cortex refresh {name} --force"
            )
        if stored.live is None:
            raise Conflict(f"{name} is not live, so there is nothing to refresh", hint="cortex deploy")
        release = self._release(name, stored.live.release_id)
        return self._begin(_updating(release), release, "refresh", self._submitted(release), fresh=True)

    async def rollback(self, name: str, release_id: str | None = None) -> ApiResult:
        """Deploy an older release of an API again.

        Args:
            release_id: which, or the beginning of its id; None is the one that was live before.

        Raises:
            NotFound: no such API or release.
            Conflict: it is being updated, or its endpoint belongs to another API now.
        """
        stored = self._existing(name)
        self._refuse_while_updating(name, hint=f"wait until that is done: cortex get {name} --watch")
        release = self._release_to_return_to(stored, release_id)
        live = None if stored.live is None else self._release(name, stored.live.release_id)
        if live is not None and live.id == release.id:
            message = f"{name} ({release.kind}) is up to date: {release.id} is the live release"
            return ApiResult(
                name=name, kind=release.kind, action="up to date", message=message, release_id=release.id
            )
        self._refuse_taken_endpoint(release)
        result = _updating(release)
        if live is not None:
            result = msgspec.structs.replace(
                result,
                changes=tuple(plan.changes(live, release)),
                replaces_replicas=live.replica_digest != release.replica_digest,
            )
        return self._begin(result, release, "rollback", self._submitted(release))

    async def delete(self, name: str, *, keep_cache: bool = False) -> Message:
        """Remove an API; returns when its route and replicas are gone.

        Args:
            keep_cache: keep its releases and logs.

        Raises:
            NotFound: no such API.
            Conflict: a TrafficSplitter uses it.
        """
        stored = self._state.api(name)
        if stored is None:
            raise _unknown(name)
        if users := set(users_of(name, self._deployed_specs())):
            raise Conflict(
                f"{name} is used by {', '.join(sorted(users))}",
                hint="delete these first, or deploy them without it",
            )
        if not stored.deleting:
            self._state.mark_deleting(name, keep_cache=keep_cache)
            self._bell.ring()
        await self._reconciler.delete(name)
        if self._state.api(name) is not None:
            raise DeployFailed(f"{name} could not be deleted completely", hint=f"cortex delete {name}")
        async with self._planning:
            await self._sweep_projects()
        self._sweep_soon()
        return Message(message=f"deleted {name}")

    # looking

    async def statuses(self) -> list[ApiStatus]:
        """All APIs, by name."""
        return await self._statuses(self._names())

    async def status(self, name: str) -> ApiStatus:
        """One API. Raises `NotFound`."""
        self._existing(name)
        found = await self._statuses([name])
        if not found:  # deleted meanwhile
            raise _unknown(name)
        return found[0]

    async def deployment(
        self, deployment_id: str, *, wait: float = 0.0, after: int | None = None
    ) -> operator_api.Deployment:
        """A deployment; with `wait` as soon as it is newer than `after` or over, or that many seconds passed.

        Raises:
            NotFound: no such deployment, or its API was deleted.
        """
        deadline = self._clock.monotonic() + wait
        while True:
            ring = self._bell.listen()
            deployment = self._state.deployment(deployment_id)
            if deployment is None:
                raise NotFound(f"there is no deployment {deployment_id}; its API may have been deleted")
            left = deadline - self._clock.monotonic()
            known = after is None or deployment.sequence <= after
            if deployment.finished or not known or left <= 0:
                return deployment.shown()
            await heard(ring, self._clock, left)

    def history(self, name: str) -> list[HistoryEntry]:
        """The deployments of the releases that are kept, newest first. Raises `NotFound`."""
        live = self._existing(name).live
        deployments = self._state.deployments(name)
        current = next(
            (
                each.id
                for each in deployments
                if live is not None
                and each.release_id == live.release_id
                and each.state in ("live", "switching")
            ),
            None,
        )
        return [
            HistoryEntry(
                release_id=release.id,
                deployed_at=each.started_at,
                reason=each.reason,
                state=each.state,
                current=each.id == current,
                project_id=release.project_digest,
            )
            for each in deployments
            if (release := self._state.release(name, each.release_id)) is not None
        ]

    def logs(self, name: str, query: LogQuery) -> AsyncIterator[LogLine]:
        """Log lines of an API. Raises `NotFound` at once."""
        self._existing(name)
        return self._backend.logs(name, query)

    def events(self, *, api: str | None = None, tail: int | None = None) -> list[Event]:
        """What happened, oldest first."""
        return self._state.events(api=api, tail=tail)

    # what is deployed

    def _existing(self, name: str) -> StoredApi:
        stored = self._state.api(name)
        if stored is None or stored.deleting:
            raise _unknown(name)
        return stored

    def _release(self, name: str, release_id: str) -> Release:
        release = self._state.release(name, release_id)
        assert release is not None, "what is live or in progress is never pruned"
        return release

    def _submitted(self, release: Release) -> str:
        return self._state.submitted(release.name, release.id) or ""

    def _shall_run(self, stored: StoredApi) -> Release:
        """The upcoming release, else the live one, else the one that was tried last."""
        deployment = self._newest(stored)
        if deployment.finished and stored.live is not None:
            return self._release(stored.name, stored.live.release_id)
        return self._release(stored.name, deployment.release_id)

    def _newest(self, stored: StoredApi) -> StoredDeployment:
        deployment = self._state.deployment(stored.deployment_id)
        assert deployment is not None, "an API's newest deployment is never pruned"
        return deployment

    def _deployed(self) -> dict[str, Deployed]:
        deployed = {}
        for stored in self._state.apis():
            upcoming = self._state.unfinished(stored.name)
            deployed[stored.name] = Deployed(
                live=None if stored.live is None else self._release(stored.name, stored.live.release_id),
                upcoming=None if upcoming is None else self._release(stored.name, upcoming.release_id),
                deployment_id=None if upcoming is None else upcoming.id,
                deleting=stored.deleting,
            )
        return deployed

    def _deployed_specs(self) -> list[Api]:
        """What new files have to get along with: everything live or about to be."""
        return [
            release.spec
            for each in self._deployed().values()
            for release in (each.live, each.upcoming)
            if release is not None
        ]

    # deploying

    async def _requested(self, request: DeployRequest, listings: ModelListings) -> list[Requested]:
        """The file's APIs as releases, validated."""
        projects = {name: self._shall_run_digest(name) for name in self._names()}
        specs = await asyncio.to_thread(
            partial(
                read_specs,
                request.config,
                filename=request.config_name,
                folder=_folder(request),
                list_locations=listings,
                deployed=self._deployed_specs(),
                project_digest=request.project_digest,
                project_of=projects.get,
                open_project=self._projects.open,
            )
        )
        requested = []
        for spec in specs:
            digest = request.project_digest or projects[spec.name]
            release = make_release(
                spec,
                project_digest=digest,
                project_url=self._projects.url(digest),
                runtime_version=__version__,
            )
            requested.append(
                Requested(
                    release=release,
                    refusals=_texts(self._backend.refusals(release)),
                    notices=_texts(self._backend.ignored(release)),
                )
            )
        return requested

    def _names(self) -> list[str]:
        return [each.name for each in self._state.apis() if not each.deleting]

    def _shall_run_digest(self, name: str) -> str:
        return self._shall_run(self._existing(name)).project_digest

    def _carry_out(self, planned: ApiResult, release: Release, reason: Reason, submitted: str) -> ApiResult:
        if planned.action not in plan.TO_DO:
            return planned
        try:
            return self._begin(planned, release, reason, submitted)
        except CortexError as error:  # the others of the file go on
            code = "conflict" if isinstance(error, Conflict) else "failed"
            return plan.failed(planned, error.message, code=code)

    def _begin(
        self, planned: ApiResult, release: Release, reason: Reason, submitted: str, *, fresh: bool = False
    ) -> ApiResult:
        """Write the deployment down and start it.

        Args:
            fresh: new replicas even though those that run would do.
        """
        stored = self._state.api(release.name)
        live = None if stored is None else stored.live
        kept = live is not None and not fresh and self._runs_same(live.release_id, release)
        deployment_id = secrets.token_hex(6)
        workload_id = live.workload_id if live is not None and kept else f"{release.name}-{deployment_id}"
        self._state.begin(
            StoredDeployment(
                id=deployment_id,
                api=release.name,
                release_id=release.id,
                state="preparing",
                sequence=1,
                replicas_requested=plan.replicas_for(release, None if live is None else live.replicas),
                replicas_ready=0,
                started_at=self._clock.now(),
                workload_id=workload_id,
                reason=reason,
            ),
            release,
            submitted=submitted,
        )
        self._reconciler.deploy(release.name)
        return msgspec.structs.replace(planned, deployment_id=deployment_id)

    def _runs_same(self, live_release: str, release: Release) -> bool:
        return self._release(release.name, live_release).replica_digest == release.replica_digest

    def _refuse_while_updating(self, name: str, *, hint: str) -> None:
        if self._state.unfinished(name) is not None:
            raise Conflict(f"{name} is already updating", hint=hint)

    def _refuse_taken_endpoint(self, release: Release) -> None:
        endpoint = canonical(release.spec.networking.endpoint)
        for spec in self._deployed_specs():
            if spec.name != release.name and canonical(spec.networking.endpoint) == endpoint:
                raise Conflict(f"the endpoint {endpoint} of that release is used by {spec.name} now")

    def _release_to_return_to(self, stored: StoredApi, wanted: str | None) -> Release:
        history = self._state.deployments(stored.name)
        if wanted is None:
            current = None if stored.live is None else stored.live.release_id
            ids = [
                each.release_id for each in history if each.state == "live" and each.release_id != current
            ][:1]
        else:
            ids = sorted({each.release_id for each in history if each.release_id.startswith(wanted)})
        found = [release for each in ids if (release := self._state.release(stored.name, each)) is not None]
        if not found:
            what = f"no release {wanted}" if wanted else "no earlier release that was live"
            raise NotFound(f"{stored.name} has {what}", hint=f"cortex history {stored.name}")
        if len(found) > 1:
            raise Conflict(f"several releases begin with {wanted}: {', '.join(each.id for each in found)}")
        return found[0]

    async def _sweep_projects(self) -> None:
        """Drop projects that nobody can go back to any more."""
        for digest in self._state.unused_projects(before=self._clock.now() - UNUSED_PROJECT_AGE):
            await asyncio.to_thread(self._projects.remove, digest)
            self._state.forget_project(digest)

    def _sweep_soon(self) -> None:
        """Have what was prepared for releases that are gone removed; nobody has to wait for that."""
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep_prepared())

    async def _sweep_prepared(self) -> None:
        kept = {
            release.id
            for each in self._deployed().values()
            for release in (each.live, each.upcoming)
            if release is not None
        }
        try:
            await self._backend.sweep(kept)
        except Exception:  # the next sweep tries again; nothing depends on it
            logger.exception("what no release needs any more could not be removed")

    async def _end_reports(self) -> None:
        await self._reports.close()
        await self._admin_ports.close()

    async def _end_sweep(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})

    # status

    async def _statuses(self, names: Sequence[str]) -> list[ApiStatus]:
        replicas = await self._backend.observe()
        self._reports.forget(replicas)
        models, (in_flight, stats) = await asyncio.gather(
            asyncio.gather(*(self._models(name, of_api(replicas, name)) for name in names)), self._traffic()
        )
        return [
            self._status(
                stored,
                of_api(replicas, name),
                of_each,
                in_flight.get(name, {}),
                stats.get(name, NetworkStats()),
            )
            for name, of_each in zip(names, models, strict=True)
            if (stored := self._state.api(name)) is not None and not stored.deleting
        ]

    async def _models(self, name: str, replicas: Sequence[Replica]) -> tuple[ModelStatus, ...]:
        stored = self._state.api(name)
        follows_models = stored is not None and models_of(self._shown(stored).spec) is not None
        return await self._reports.of(replicas) if follows_models else ()

    def _shown(self, stored: StoredApi) -> Release:
        """The live release; while it is being updated, an API is reached there. Else the one that shall run."""
        if stored.live is not None:
            return self._release(stored.name, stored.live.release_id)
        return self._shall_run(stored)

    def _status(
        self,
        stored: StoredApi,
        replicas: Sequence[Replica],
        models: tuple[ModelStatus, ...],
        in_flight: Mapping[Upstream, int],
        stats: NetworkStats,
    ) -> ApiStatus:
        release = self._shall_run(stored)
        deployment = self._newest(stored)
        observed = status.Observed(
            api=stored,
            deployment=deployment,
            min_replicas=status.min_replicas(release.spec),
            replicas=tuple(replicas),
            now=self._clock.now(),
        )
        shown = self._shown(stored)
        return ApiStatus(
            spec=shown.spec,
            status=status.status(observed),
            endpoint=f"{self._home.gateway_url}{shown.spec.networking.endpoint}",
            release_id=shown.id,
            last_updated=stored.updated_at,
            deployment_id=deployment.id,
            project_id=shown.project_digest,
            metrics=Metrics(network_stats=stats),
            models=models,
            replicas=status.shown_replicas(observed, in_flight),
            api_versions=tuple(dict.fromkeys(each.release_id for each in self.history(stored.name))),
            grpc_ports={"insecure": self._home.gateway_port} if is_grpc(shown.spec) else None,
        )

    async def _traffic(self) -> tuple[Mapping[str, Mapping[Upstream, int]], Mapping[str, NetworkStats]]:
        """What the gateway counts; nothing while it is being restarted."""
        try:
            return await self._gateway.in_flight(), await self._gateway.stats()
        except GatewayFailed:
            return {}, {}


def _updating(release: Release) -> ApiResult:
    return ApiResult(
        name=release.name,
        kind=release.kind,
        action="updating",
        message=f"updating {release.name} ({release.kind})",
        release_id=release.id,
        replaces_replicas=True,
    )


def _folder(request: DeployRequest) -> Path | None:
    """Where the API file lies; None: on another machine."""
    folder = None if request.folder is None else Path(request.folder)
    return folder if folder is not None and folder.is_absolute() else None


def _as_dry_run(planned: ApiResult) -> ApiResult:
    return (
        msgspec.structs.replace(planned, action="unchanged")
        if planned.action == plan.NOTHING_TO_DO
        else planned
    )


def _texts(notices: Sequence[Notice]) -> tuple[str, ...]:
    return tuple(f"{each.path}: {each.text}" if each.path else each.text for each in notices)


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no API '{name}'", hint="cortex get shows all APIs")
