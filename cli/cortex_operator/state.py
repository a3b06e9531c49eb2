"""What shall run, kept on disk: APIs, their releases and deployments, and what happened.

What *does* run is never written here; that is asked of the backend. One process writes. Every method is one
transaction that is on disk when it returns, so the operator may be killed between any two of them.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from cortex_core import operator_api, release
from cortex_core.errors import CortexError
from cortex_core.operator_api import Event
from cortex_core.release import Release
from cortex_core.spec.types import Struct

Reason = Literal["deploy", "patch", "refresh", "rollback"]
S = TypeVar("S", bound=Struct)

KEPT_RELEASES = 20
KEPT_DEPLOYMENTS = 100
KEPT_EVENTS = 2000

MIGRATIONS = (
    """
    CREATE TABLE apis (
        name TEXT PRIMARY KEY, created_at REAL NOT NULL, updated_at REAL NOT NULL,
        live_release TEXT, workload_id TEXT, replicas INTEGER NOT NULL,
        deployment_id TEXT NOT NULL, deleting INTEGER NOT NULL, keep_cache INTEGER NOT NULL
    );
    CREATE TABLE releases (
        api TEXT NOT NULL, id TEXT NOT NULL, document BLOB NOT NULL, submitted TEXT NOT NULL,
        created_at REAL NOT NULL, PRIMARY KEY (api, id)
    );
    CREATE TABLE deployments (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, api TEXT NOT NULL,
        finished INTEGER NOT NULL, document BLOB NOT NULL
    );
    CREATE INDEX deployments_of_api ON deployments (api, number);
    CREATE TABLE events (number INTEGER PRIMARY KEY AUTOINCREMENT, api TEXT NOT NULL, document BLOB NOT NULL);
    CREATE TABLE projects (digest TEXT PRIMARY KEY, used_at REAL NOT NULL);
    """,
)
"""The statements that lead from each schema version to the next; only ever appended to."""


class StateUnusable(CortexError):
    """The database cannot be opened, read or written; nothing was changed in it."""


class Live(Struct, frozen=True):
    """What an API runs now: at the gateway, or about to be."""

    release_id: str
    workload_id: str
    replicas: int


class StoredApi(Struct, frozen=True):
    """An API as it shall be.

    Attributes:
        live: None until a deployment got that far.
        deployment_id: its newest deployment.
        deleting: it shall be gone; nothing else may happen to it.
        keep_cache: when it is gone, keep its releases and logs.
    """

    name: str
    created_at: float
    updated_at: float
    live: Live | None
    deployment_id: str
    deleting: bool = False
    keep_cache: bool = False


class StoredDeployment(operator_api.Deployment, frozen=True, kw_only=True):
    """A deployment with what only the operator needs to know of it.

    Attributes:
        workload_id: what runs it; the live workload's when its replicas are kept.
        previous: what was live when it switched, to go back to.
    """

    workload_id: str
    reason: Reason
    previous: Live | None = None

    @property
    def finished(self) -> bool:
        return self.state in ("live", "failed", "superseded")

    def shown(self) -> operator_api.Deployment:
        """As the HTTP API shows it."""
        return msgspec.convert(self, operator_api.Deployment, from_attributes=True)


class State:
    """The operator's database.

    Args:
        path: the file; created, readable by its owner only.
        now: the wall clock, seconds since the epoch.
        changed: called after every change of a deployment.

    Raises:
        StateUnusable: the file is damaged, of a newer version, or cannot be opened.
    """

    def __init__(
        self, path: Path, *, now: Callable[[], float], changed: Callable[[], None] = lambda: None
    ) -> None:
        self._now = now
        self._changed = changed
        self._connection = _open(path)

    def close(self) -> None:
        self._connection.close()

    # APIs

    def api(self, name: str) -> StoredApi | None:
        rows = self._connection.execute("SELECT * FROM apis WHERE name = ?", (name,)).fetchall()
        return _api(rows[0]) if rows else None

    def apis(self) -> list[StoredApi]:
        """All, by name."""
        return [_api(row) for row in self._connection.execute("SELECT * FROM apis ORDER BY name")]

    def mark_deleting(self, name: str, *, keep_cache: bool) -> None:
        """Decide that an API shall be gone; its deployment in progress, if any, is over."""
        with self._transaction():
            self._supersede(name, "the API was deleted")
            self._connection.execute(
                "UPDATE apis SET deleting = 1, keep_cache = ?, updated_at = ? WHERE name = ?",
                (keep_cache, self._now(), name),
            )
            self._event(name, "info", "deleting" + (", history and logs are kept" if keep_cache else ""))

    def forget(self, name: str) -> None:
        """Drop a deleted API, and unless its cache is kept its releases and deployments."""
        with self._transaction():
            stored = self.api(name)
            self._connection.execute("DELETE FROM apis WHERE name = ?", (name,))
            if stored is not None and not stored.keep_cache:
                self._connection.execute("DELETE FROM releases WHERE api = ?", (name,))
                self._connection.execute("DELETE FROM deployments WHERE api = ?", (name,))
            self._event(name, "info", "deleted")

    # releases

    def release(self, api: str, release_id: str) -> Release | None:
        row = self._connection.execute(
            "SELECT document FROM releases WHERE api = ? AND id = ?", (api, release_id)
        ).fetchone()
        return None if row is None else release.decode(row["document"])

    def submitted(self, api: str, release_id: str) -> str | None:
        """The API file's text as it was given for that release."""
        row = self._connection.execute(
            "SELECT submitted FROM releases WHERE api = ? AND id = ?", (api, release_id)
        ).fetchone()
        return None if row is None else str(row["submitted"])

    # deployments

    def deployment(self, deployment_id: str) -> StoredDeployment | None:
        row = self._connection.execute(
            "SELECT document FROM deployments WHERE id = ?", (deployment_id,)
        ).fetchone()
        return None if row is None else _deployment(row)

    def deployments(self, api: str) -> list[StoredDeployment]:
        """All that are kept, newest first."""
        rows = self._connection.execute(
            "SELECT document FROM deployments WHERE api = ? ORDER BY number DESC", (api,)
        )
        return [_deployment(row) for row in rows]

    def unfinished(self, api: str) -> StoredDeployment | None:
        """The deployment in progress; there is never more than one."""
        row = self._connection.execute(
            "SELECT document FROM deployments WHERE api = ? AND finished = 0 ORDER BY number DESC", (api,)
        ).fetchone()
        return None if row is None else _deployment(row)

    def begin(self, deployment: StoredDeployment, release_: Release, *, submitted: str) -> None:
        """Store a new deployment and its release; the one in progress, if any, is superseded."""
        now = self._now()
        with self._transaction():
            self._supersede(deployment.api, "taken over by a newer deployment")
            self._connection.execute(
                "INSERT INTO releases VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (api, id) "
                "DO UPDATE SET document = excluded.document, submitted = excluded.submitted",
                (deployment.api, release_.id, release.encode(release_), submitted, now),
            )
            self._connection.execute(
                "INSERT INTO deployments (id, api, finished, document) VALUES (?, ?, 0, ?)",
                (deployment.id, deployment.api, msgspec.json.encode(deployment)),
            )
            self._connection.execute(
                "INSERT INTO apis VALUES (?, ?, ?, NULL, NULL, 0, ?, 0, 0) "
                "ON CONFLICT (name) DO UPDATE SET deployment_id = excluded.deployment_id",
                (deployment.api, now, now, deployment.id),
            )
            self._event(
                deployment.api, "info", f"{deployment.reason} of release {release_.id} started", deployment.id
            )
        self._changed()

    def progress(self, deployment_id: str, text: str, *, ready: int | None = None) -> None:
        """Note what is going on; nothing is written when that is known already."""
        self._update(deployment_id, progress=text, **({} if ready is None else {"replicas_ready": ready}))

    def starting(self, deployment_id: str) -> None:
        """The project is prepared; replicas may start."""
        self._update(deployment_id, state="starting", progress="starting")

    def switching(self, deployment_id: str) -> None:
        """Replicas are ready: from now on this release is the live one."""
        with self._transaction():
            deployment = self._unfinished(deployment_id)
            if deployment is None:
                return
            stored = self.api(deployment.api)
            assert stored is not None
            live = Live(
                release_id=deployment.release_id,
                workload_id=deployment.workload_id,
                replicas=deployment.replicas_requested,
            )
            self._set_live(deployment.api, live)
            self._store(
                deployment,
                state="switching",
                progress="switching",
                replicas_ready=deployment.replicas_requested,
                previous=stored.live,
            )
        self._changed()

    def live(self, deployment_id: str) -> None:
        """The gateway serves it: the deployment is done."""
        with self._transaction():
            deployment = self._unfinished(deployment_id)
            if deployment is None:
                return
            self._store(deployment, state="live", progress="live", finished_at=self._now())
            self._event(deployment.api, "info", f"release {deployment.release_id} is live", deployment.id)
            self._prune(deployment.api)
        self._changed()

    def failed(self, deployment_id: str, error: str, *, log_tail: Sequence[str] = ()) -> None:
        """It will not get live; if it had switched, what was live before is live again."""
        with self._transaction():
            deployment = self._unfinished(deployment_id)
            if deployment is None:
                return
            if deployment.state == "switching":
                self._set_live(deployment.api, deployment.previous)
            self._store(
                deployment, state="failed", error=error, log_tail=tuple(log_tail), finished_at=self._now()
            )
            self._event(deployment.api, "error", error, deployment.id)
            self._prune(deployment.api)
        self._changed()

    # events

    def event(self, api: str, level: Literal["info", "warning", "error"], message: str) -> None:
        """Note something for people to read."""
        with self._transaction():
            self._event(api, level, message)

    def events(self, *, api: str | None = None, tail: int | None = None) -> list[Event]:
        """The newest ones, oldest first."""
        rows = self._connection.execute(
            "SELECT document FROM events WHERE :api IS NULL OR api = :api ORDER BY number DESC LIMIT :tail",
            {"api": api, "tail": KEPT_EVENTS if tail is None else max(0, tail)},
        ).fetchall()
        return [msgspec.json.decode(row["document"], type=Event) for row in reversed(rows)]

    # projects in the bucket

    def use_project(self, digest: str) -> None:
        """Note that a project was uploaded or asked for, so that it is not swept before it is deployed."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO projects VALUES (?, ?) "
                "ON CONFLICT (digest) DO UPDATE SET used_at = excluded.used_at",
                (digest, self._now()),
            )

    def unused_projects(self, *, before: float) -> list[str]:
        """Digests that no kept release needs and nobody used since `before` (seconds since the epoch)."""
        rows = self._connection.execute("SELECT digest FROM projects WHERE used_at < ?", (before,))
        candidates = {str(row["digest"]) for row in rows}
        kept = self._connection.execute("SELECT document FROM releases")
        return sorted(candidates - {release.decode(row["document"]).project_digest for row in kept})

    def forget_project(self, digest: str) -> None:
        with self._transaction():
            self._connection.execute("DELETE FROM projects WHERE digest = ?", (digest,))

    # inside a transaction

    def _update(self, deployment_id: str, **changes: Any) -> None:
        deployment = self._unfinished(deployment_id)
        if deployment is None or all(getattr(deployment, key) == value for key, value in changes.items()):
            return
        with self._transaction():
            self._store(deployment, **changes)
        self._changed()

    def _unfinished(self, deployment_id: str) -> StoredDeployment | None:
        """The deployment unless it is over: nothing may change it then."""
        deployment = self.deployment(deployment_id)
        return None if deployment is None or deployment.finished else deployment

    def _store(self, deployment: StoredDeployment, **changes: Any) -> None:
        changed: StoredDeployment = msgspec.structs.replace(
            deployment, sequence=deployment.sequence + 1, **changes
        )
        self._connection.execute(
            "UPDATE deployments SET document = ?, finished = ? WHERE id = ?",
            (msgspec.json.encode(changed), changed.finished, changed.id),
        )

    def _supersede(self, api: str, why: str) -> None:
        if (deployment := self.unfinished(api)) is not None:
            self._store(deployment, state="superseded", error=why, finished_at=self._now())

    def _set_live(self, api: str, live: Live | None) -> None:
        columns = (None, None, 0) if live is None else (live.release_id, live.workload_id, live.replicas)
        self._connection.execute(
            "UPDATE apis SET live_release = ?, workload_id = ?, replicas = ?, updated_at = ? WHERE name = ?",
            (*columns, self._now(), api),
        )

    def _event(
        self,
        api: str,
        level: Literal["info", "warning", "error"],
        message: str,
        deployment_id: str | None = None,
    ) -> None:
        event = Event(at=self._now(), api=api, level=level, message=message, deployment_id=deployment_id)
        self._connection.execute(
            "INSERT INTO events (api, document) VALUES (?, ?)", (api, msgspec.json.encode(event))
        )
        self._connection.execute(
            "DELETE FROM events WHERE number <= (SELECT max(number) FROM events) - ?", (KEPT_EVENTS,)
        )

    def _prune(self, api: str) -> None:
        """Keep the releases that were deployed last, and the one that is live."""
        deployments = self.deployments(api)[:KEPT_DEPLOYMENTS]
        newest = list(dict.fromkeys(each.release_id for each in deployments))
        stored = self.api(api)
        live = stored.live if stored is not None else None
        kept = set(newest[:KEPT_RELEASES]) | ({live.release_id} if live is not None else set())
        for row in self._connection.execute("SELECT id FROM releases WHERE api = ?", (api,)).fetchall():
            if row["id"] not in kept:
                self._connection.execute("DELETE FROM releases WHERE api = ? AND id = ?", (api, row["id"]))
        keep = {each.id for each in deployments if each.release_id in kept}
        for row in self._connection.execute("SELECT id FROM deployments WHERE api = ?", (api,)).fetchall():
            if row["id"] not in keep:
                self._connection.execute("DELETE FROM deployments WHERE id = ?", (row["id"],))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StateUnusable(f"the operator's database cannot be written: {error}") from error
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _open(path: Path) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
        path.chmod(0o600)
        connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    except (OSError, sqlite3.Error) as error:
        raise StateUnusable(f"the operator's database {path} cannot be opened: {error}") from error
    connection.row_factory = sqlite3.Row
    try:
        _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _migrate(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise _damaged(path, str(error)) from error
    except StateUnusable:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA busy_timeout = 5000")
    verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    if verdict != "ok":
        raise _damaged(path, verdict)


def _damaged(path: Path, why: str) -> StateUnusable:
    return StateUnusable(
        f"the operator's database {path} is damaged: {why}; what runs goes on running",
        hint="put a backup in its place, or move it away "
        f"(mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')}), which stops what it knew of, and deploy again",
    )


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise StateUnusable(
            f"the operator's database {path} was written by a newer version of cortex "
            f"(schema {version}, this version knows {len(MIGRATIONS)})",
            hint="use that version again: pip install --upgrade cortex-deploy",
        )
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {statements}; PRAGMA user_version = {number}; COMMIT;")


def _api(row: sqlite3.Row) -> StoredApi:
    live = None
    if row["live_release"] is not None:
        live = Live(release_id=row["live_release"], workload_id=row["workload_id"], replicas=row["replicas"])
    return StoredApi(
        name=row["name"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        live=live,
        deployment_id=row["deployment_id"],
        deleting=bool(row["deleting"]),
        keep_cache=bool(row["keep_cache"]),
    )


def _deployment(row: sqlite3.Row) -> StoredDeployment:
    return msgspec.json.decode(row["document"], type=StoredDeployment)
