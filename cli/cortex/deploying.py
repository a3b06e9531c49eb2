"""Deploying: from an API file to live APIs.

    read → package → request → plan → deploy → follow

`read` checks the file as the operator will; `package` packs the folder around it; `request` uploads that;
`plan` asks the operator what would change; `deploy` does it; `follow` waits until each API is live or failed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cortex.environments import LOCAL
from cortex_core.errors import CortexError, NotFound, OperatorUnreachable
from cortex_core.operator_api import ApiResult, ApiStatus, Deployment, DeployRequest
from cortex_core.spec.types import Api

if TYPE_CHECKING:
    from cortex.operator_client import OperatorClient
    from cortex_core.project import Project
    from cortex_core.spec.load import ListLocations

DEFAULT_FILE = "cortex.yaml"
RECONNECT_TIMEOUT = 20.0
"""Seconds for which an operator may be away while a deployment is followed."""
_LONG_POLL = 10.0
_SHORT_POLL = 0.5
_FIRST_BACKOFF = 0.1
_LARGEST_BACKOFF = 2.0


class Questions(Protocol):
    """Asks about what may not be meant; the answer no is False."""

    def ask(self, question: str) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Document:
    """An API file that was read and found right.

    Attributes:
        folder: where it lies, absolute; what local paths of models in it are relative to.
        project: the folder around it; None when only the file counts.
    """

    name: str
    folder: Path
    text: str
    apis: tuple[Api, ...]
    project: Project | None = None


@dataclass(frozen=True, kw_only=True)
class Package:
    """A packed project."""

    archive: Path
    digest: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one API.

    Attributes:
        result: what the operator began.
        deployment: how it ended; None when there was nothing to wait for, or nobody waited.
        seconds: how long it took from the request on.
        timed_out: the wait ended before the deployment did.
    """

    result: ApiResult
    deployment: Deployment | None = None
    seconds: float = 0.0
    timed_out: bool = False

    @property
    def is_live(self) -> bool:
        return self.deployment is not None and self.deployment.state == "live"

    @property
    def error(self) -> str | None:
        """Why it failed, or None."""
        if self.result.error is not None:
            return self.result.error
        if self.timed_out:
            return f"not live after {self.seconds:.0f} s; the deployment goes on"
        if self.deployment is not None and self.deployment.state == "failed":
            return self.deployment.error or "the deployment failed"
        if self.deployment is not None and self.deployment.state == "superseded":
            return self.deployment.error or "a newer deployment has taken over"
        return None

    @property
    def failed(self) -> bool:
        return self.error is not None


def find(path: Path | None) -> Path:
    """The API file meant: the path, `cortex.yaml` in it when it is a folder, or `cortex.yaml` here.

    Raises:
        CortexError: there is no such file.
    """
    chosen = path or Path(DEFAULT_FILE)
    if str(chosen) == "-" or chosen.absolute().parts[1:2] in (("dev",), ("proc",)):
        raise CortexError(
            f"{chosen}: an API file cannot be read from a stream, because the folder it lies in is the project",
            hint="save it next to the code, and name that file",
        )
    if chosen.is_dir():
        chosen = chosen / DEFAULT_FILE
    if not chosen.is_file():
        raise CortexError(f"{chosen}: no such file", hint="write one with: cortex init")
    return chosen


def read(
    path: Path,
    *,
    with_project: bool = True,
    questions: Questions | None = None,
    list_locations: ListLocations | None = None,
) -> Document:
    """Read and validate an API file.

    Args:
        path: the file.
        with_project: look at the folder around it as well.
        questions: asked about large files and many files; None ships them.
        list_locations: lists the models; None does not look at them, the operator does.

    Raises:
        InvalidConfig: the file has problems, all of them.
        InvalidProject: the folder cannot be shipped.
    """
    from cortex_core.spec.load import load

    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CortexError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    project = _scan(path, questions) if with_project else None
    folder = path.absolute().parent
    apis = load(text, filename=str(path), project=project, folder=folder, list_locations=list_locations)
    return Document(name=path.name, folder=folder, text=text, apis=tuple(apis), project=project)


def read_spec(
    spec: Mapping[str, Any], project_folder: Path | None, *, name: str, relative_to: Path
) -> Document:
    """Validate one API that is given as a dictionary.

    Args:
        project_folder: the project; None when only the specification counts.
        name: what the specification is called in messages.
        relative_to: folder that local paths of models are relative to.

    Raises:
        InvalidConfig: the specification has problems, all of them.
        InvalidProject: the folder cannot be shipped.
    """
    import yaml

    from cortex_core.project import scan
    from cortex_core.spec.load import load

    text = yaml.safe_dump([dict(spec)], sort_keys=False)
    project = None if project_folder is None else scan(project_folder, name)
    folder = relative_to.absolute()
    apis = load(text, filename=name, project=project, folder=folder)
    return Document(name=name, folder=folder, text=text, apis=tuple(apis), project=project)


@contextmanager
def package(project: Project, *, questions: Questions | None = None) -> Iterator[Package]:
    """The project as an archive, which is removed at the end.

    Raises:
        InvalidProject: a file cannot be read.
    """
    from cortex_core.archive import pack
    from cortex_core.project import LARGE_ARCHIVE_BYTES, mebibytes

    with tempfile.NamedTemporaryFile(prefix="cortex-", suffix=".tar.gz") as file:
        digest = pack(project, file)  # type: ignore[arg-type]  # a wrapper around a BinaryIO
        file.flush()
        size = file.tell()
        if size >= LARGE_ARCHIVE_BYTES:
            _insist(questions, f"the packed project is {mebibytes(size)}; upload it?")
        yield Package(archive=Path(file.name), digest=digest)


def request(
    client: OperatorClient, document: Document, package: Package | None, *, force: bool
) -> DeployRequest:
    """Upload the project, and say what is asked of the operator.

    Args:
        package: None lets each API keep the project it has.
        force: take over from an update in progress.
    """
    if package is not None:
        client.upload_project(package.digest, package.archive)
    return DeployRequest(
        config=document.text,
        config_name=document.name,
        project_digest=None if package is None else package.digest,
        folder=str(document.folder) if client.environment == LOCAL else None,
        force=force,
    )


def plan(client: OperatorClient, wanted: DeployRequest) -> tuple[ApiResult, ...]:
    """What `deploy` would do."""
    import msgspec

    return client.deploy(msgspec.structs.replace(wanted, dry_run=True))


def deploy(client: OperatorClient, wanted: DeployRequest) -> list[Outcome]:
    """Begin the deployments; see `follow`."""
    return [Outcome(result=result) for result in client.deploy(wanted)]


def follow(
    client: OperatorClient,
    outcomes: Sequence[Outcome],
    *,
    timeout: float,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Outcome]:
    """Wait until each deployment is live or has failed.

    Args:
        outcomes: as `deploy` returned them.
        timeout: seconds; what is not done by then is marked as timed out.
        report: told in a few words what is going on.
    """
    follower = _Follower(
        client=client, started=clock(), timeout=timeout, report=report, clock=clock, sleep=sleep
    )
    return follower.run(list(outcomes))


@dataclass(kw_only=True)
class _Follower:
    client: OperatorClient
    started: float
    timeout: float
    report: Callable[[str], None]
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    def run(self, outcomes: list[Outcome]) -> list[Outcome]:
        while pending := [number for number, outcome in enumerate(outcomes) if _is_pending(outcome)]:
            for number in pending:
                outcomes[number] = self._step(outcomes[number], alone=len(pending) == 1)
        return outcomes

    def _step(self, outcome: Outcome, *, alone: bool) -> Outcome:
        elapsed = self.clock() - self.started
        left = self.timeout - elapsed
        if left <= 0:
            return replace(outcome, timed_out=True, seconds=elapsed)
        deployment = self._ask(outcome, wait=min(left, _LONG_POLL if alone else _SHORT_POLL))
        if outcome.deployment is None or deployment.sequence != outcome.deployment.sequence:
            self.report(f"{deployment.api}: {_progress(deployment)}")
        return replace(outcome, deployment=deployment, seconds=self.clock() - self.started)

    def _ask(self, outcome: Outcome, *, wait: float) -> Deployment:
        """Ask how far it is; an operator that is being restarted is waited for."""
        deployment_id = outcome.result.deployment_id
        assert deployment_id is not None
        after = None if outcome.deployment is None else outcome.deployment.sequence
        wait = 0 if after is None else wait  # the first answer shows where it stands
        give_up = self.clock() + min(RECONNECT_TIMEOUT, self.timeout)
        backoff = _FIRST_BACKOFF
        while True:
            try:
                return self.client.deployment(deployment_id, wait=wait, after=after)
            except OperatorUnreachable:  # the loop is there to try again
                if self.clock() > give_up:
                    raise
            self.report(f"{outcome.result.name}: the operator does not answer, trying again")
            self.sleep(backoff)
            backoff = min(2 * backoff, _LARGEST_BACKOFF)


def api_of(client: OperatorClient, name: str) -> ApiStatus | None:
    """The API as it is now, if it is there."""
    try:
        return client.api(name)
    except NotFound:
        return None


def _scan(path: Path, questions: Questions | None) -> Project:
    from cortex_core.project import mebibytes, scan

    def keep(file: str, size: int) -> bool:
        return questions is None or questions.ask(f"{file} is {mebibytes(size)}; ship it?")

    project = scan(path.absolute().parent, path.name, keep=keep)
    for warning in project.warnings:
        if warning.path is None:
            _insist(questions, f"{warning.text}; ship them?")
    return project


def _insist(questions: Questions | None, question: str) -> None:
    if questions is not None and not questions.ask(question):
        raise CortexError(
            "nothing was deployed",
            hint="list what the API does not need in .cortexignore, as in .gitignore; "
            "a large model can be loaded in __init__ from elsewhere",
        )


def _is_pending(outcome: Outcome) -> bool:
    if outcome.result.deployment_id is None or outcome.result.error is not None or outcome.timed_out:
        return False
    return outcome.deployment is None or outcome.deployment.state in ("preparing", "starting", "switching")


def _progress(deployment: Deployment) -> str:
    if deployment.state == "starting" and not deployment.progress:
        return f"starting, {deployment.replicas_ready} of {deployment.replicas_requested} replicas ready"
    return deployment.progress or deployment.state
