"""Follows the locations of an API's models: lists them, again and again, and tells what has settled.

A directory of this machine is listed when something happens in it, a bucket every few seconds; both also when time
alone may settle something. Each location is listed by itself: one that fails or hangs does not hold up another.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Condition, RLock, Thread, Timer
from typing import TYPE_CHECKING, TypeAlias

from msgspec import structs

from cortex_core.errors import CortexError, StorageUnavailable
from cortex_core.models import manifest
from cortex_core.models.layout import locations
from cortex_core.models.manifest import InvalidManifest, Manifest
from cortex_core.models.settling import KnownVersion, Listing, Observer, Place, Settled, read
from cortex_core.models.tree import Layout, Version
from cortex_core.spec.types import Models, Struct
from cortex_core.storage import Entry, LocalStorage, Storage, open_storage
from cortex_core.storage.deadline import Deadline, DeadlinePassed
from cortex_serve.agent.watching import Watch

if TYPE_CHECKING:
    from cortex_serve.agent.disk import StoredVersion

MOST_THREADS = 8
MOST_WATCHED = 8
"""Local directories that are watched; a file watch has threads of its own. Others are listed every few seconds."""

LOCAL_SECONDS = 120.0

_DEBOUNCE_SECONDS = 0.01
_LOCAL_SETTLE_SECONDS = 0.5
_SETTLE_SECONDS = 2.0
_REST = 5
"""Between two listings of a location lies so many times what the last one took."""

_LONGEST_PAUSE = 60.0
_EVENT_SECONDS = 1.0
"""After which an event that announces a change will not come any more."""

_CLOSE_SECONDS = 2.0

PATIENCE = 5.0
"""Seconds that what is known from before waits for locations that do not answer."""

Report: TypeAlias = Callable[[str, str], None]


class LocationStatus(Struct):
    """How following a location goes.

    Attributes:
        checked_at: when it was last listed successfully, seconds since the epoch.
        failing_since: when the first of the failures in a row was, seconds since the epoch; None: it works.
        error: of the last failure.
        passes: successful listings so far.
        seconds: the last of them took.
    """

    location: str
    checked_at: float | None = None
    failing_since: float | None = None
    error: str | None = None
    passes: int = 0
    seconds: float | None = None


class Source:
    """Follows all locations of an API, from `start` to `close`.

    Args:
        models: the section of the API file.
        layout: what one version must hold.
        changed: called with what has settled, each time that is something else; from threads of the source's, one
            call at a time, in order; must return soon. First called when every location was listed, or could not be
            (or did not answer within `patience` seconds) while `previous` holds something of it.
        report: takes a level ("INFO", "WARNING") and a line for the log; called when a location begins to fail or
            works again, not at every pass.
        poll_interval: seconds between two listings of a location in which nothing is known to happen.
        previous: versions that are on this machine's disk already.
        open_storage: makes a location's storage.
        open_watch: makes the watch of a local directory.
        patience: seconds that `previous` waits for locations that do not answer.
        local_seconds: how long one look at a local directory may take; it may be on a network that is away.
        clock: monotonic seconds.
        wall_clock: seconds since the epoch.

    Raises:
        CortexError: a location has no storage.
    """

    def __init__(
        self,
        models: Models,
        layout: Layout,
        *,
        changed: Callable[[Settled], None],
        report: Report,
        poll_interval: float,
        previous: Iterable[StoredVersion] = (),
        open_storage: Callable[[str], Storage] = open_storage,
        open_watch: Callable[[Path, Callable[[], None]], Watch] = Watch,
        patience: float = PATIENCE,
        local_seconds: float = LOCAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._models = models
        self._layout = layout
        self._changed = changed
        self._report = report
        self._interval = poll_interval
        self._open_watch = open_watch
        self._local_seconds = local_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        known = (
            KnownVersion(model=each.model, location=each.location, version=each.version) for each in previous
        )
        self._observing = RLock()  # who may ask and tell the observer, and call `changed`
        self._observer = Observer(models, known)
        self._settled: Settled | None = None
        self._turn = Condition()  # who lists which location
        self._closed = False
        self._followed = {each: self._follow(each, open_storage(each)) for each in locations(models)}
        self._watch()
        self._impatience = Timer(patience, self._go_without)
        self._impatience.daemon = True
        self._threads = [
            Thread(target=self._run, name=f"cortex-source-{number}", daemon=True)
            for number in range(min(len(self._followed), MOST_THREADS))
        ]

    def start(self) -> None:
        """Begin to list."""
        for thread in self._threads:
            thread.start()
        self._impatience.start()

    def close(self) -> None:
        """End. Threads that wait for a storage are left to end by themselves; `changed` is called no more."""
        self._impatience.cancel()
        with self._observing, self._turn:
            self._closed = True
            self._turn.notify_all()
        until = self._clock() + _CLOSE_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(until - self._clock(), 0))
        for followed in self._followed.values():
            if followed.watch is not None and not followed.is_looking:
                followed.watch.close()

    def _go_without(self) -> None:
        """Tell what is known from before; locations that have not answered yet may take minutes."""
        with self._observing:
            for followed in self._followed.values():
                followed.is_tried = True
            self._tell()

    def storage(self, location: str) -> Storage:
        """Where a location's files are."""
        return self._followed[location].storage

    def locations(self) -> list[LocationStatus]:
        """How following each goes, as in the API file."""
        return [followed.status for followed in self._followed.values()]

    def _follow(self, location: str, storage: Storage) -> _Followed:
        is_local = isinstance(storage, LocalStorage)
        return _Followed(
            storage=storage,
            status=LocationStatus(location=location),
            settle=_LOCAL_SETTLE_SECONDS if is_local else min(_SETTLE_SECONDS, self._interval / 4),
        )

    def _watch(self) -> None:
        local = [each for each in self._followed.values() if isinstance(each.storage, LocalStorage)]
        for followed in local[:MOST_WATCHED]:
            if isinstance(followed.storage, LocalStorage):
                followed.watch = self._open_watch(followed.storage.root, partial(self._wake, followed))
        if len(local) > MOST_WATCHED:
            self._report(
                "INFO",
                f"models: {len(local)} local directories; all but the first {MOST_WATCHED} are not watched but listed "
                f"every {self._interval:g} seconds",
            )

    def _run(self) -> None:
        while (followed := self._next()) is not None:
            began = self._clock()
            try:
                self._pass(followed, began)
                pause = self._interval
            except Exception as error:  # noqa: BLE001  whatever it is, the location is looked at again
                self._failed(followed, error)
                pause = self._pause(followed.failures)
            self._done(followed, began, pause)

    def _next(self) -> _Followed | None:
        """The location to be listed next, when its time has come; None: no more."""
        with self._turn:
            while not self._closed:
                waiting = [each for each in self._followed.values() if not each.is_running]
                first = min(waiting, key=lambda each: each.due, default=None)
                now = self._clock()
                if first is not None and first.due <= now:
                    first.is_running, first.is_woken = True, False
                    return first
                self._turn.wait(None if first is None else first.due - now)
        return None

    def _wake(self, followed: _Followed) -> None:
        with self._turn:
            followed.is_woken = True
            due = max(self._clock() + _DEBOUNCE_SECONDS, followed.rests_until)
            if not followed.is_running and due < followed.due:
                followed.due = due
                self._turn.notify_all()

    def _done(self, followed: _Followed, began: float, pause: float) -> None:
        with self._observing:
            settling = self._observer.due(followed.status.location) if not followed.failures else None
        with self._turn:
            now = self._clock()
            followed.rests_until = now + _REST * (now - began)
            dues = [now + pause]
            if settling is not None:
                dues.append(max(settling, followed.rests_until))
            if followed.is_woken:
                dues.append(max(now + _DEBOUNCE_SECONDS, followed.rests_until))
            followed.due = min(dues)
            followed.is_running = False
            self._turn.notify_all()

    def _pause(self, failures: int) -> float:
        """After a failure; at random, so that many replicas do not come back at once. Never much longer than between
        two listings: what happens is to be seen soon after the storage works again."""
        seconds = self._interval * (1 if failures == 1 else 2)
        return max(min(seconds, _LONGEST_PAUSE), self._interval) * random.uniform(0.5, 1)  # noqa: S311  not a secret

    def _pass(self, followed: _Followed, began: float) -> None:
        look = partial(self._look, followed)
        listing = (
            _in_time(self._local_seconds, followed, look)
            if isinstance(followed.storage, LocalStorage)
            else look()
        )
        ended = self._clock()
        self._worked(followed, ended - began)
        with self._observing:
            if self._observer.listed(listing, began=began, ended=ended, settle=followed.settle):
                self._tell()

    def _look(self, followed: _Followed) -> Listing:
        """Everything that has to be had from the storage."""
        self._ensure_watch(followed)
        entries = list(followed.storage.list())
        listing, is_new = followed.listing, entries != followed.entries
        if listing is None or is_new or followed.is_unread:
            self._notice_unannounced(followed, is_new=listing is not None and is_new)
            listing = self._judged(followed, entries)
        followed.entries, followed.listing = entries, listing
        return listing

    def _judged(self, followed: _Followed, entries: Sequence[Entry]) -> Listing:
        listing = read(self._models, followed.status.location, entries, self._layout)
        with self._observing:
            unread = self._observer.unread(listing)
        sealed = [each for each, version in unread.unsealed.items() if _is_sealed(followed.storage, version)]
        return structs.replace(
            listing, manifests=_manifests(followed, unread.manifests), sealed=frozenset(sealed)
        )

    def _worked(self, followed: _Followed, seconds: float) -> None:
        before = followed.status
        now = self._wall_clock()
        followed.failures, followed.is_tried = 0, True
        followed.status = LocationStatus(
            location=before.location, checked_at=now, passes=before.passes + 1, seconds=seconds
        )
        if before.failing_since is not None:
            missed = now - before.failing_since
            self._report("INFO", f"models at {before.location}: listed again after {missed:.0f} seconds")

    def _failed(self, followed: _Followed, error: Exception) -> None:
        text = str(error) if isinstance(error, CortexError) else f"{type(error).__name__}: {error}"
        hint = error.hint if isinstance(error, CortexError) else None
        status = followed.status
        followed.failures += 1
        followed.status = structs.replace(
            status, failing_since=status.failing_since or self._wall_clock(), error=text
        )
        if followed.failures == 1:
            advice = f" ({hint})" if hint else ""
            self._report(
                "WARNING", f"models at {status.location}: not listed, so changes are not seen: {text}{advice}"
            )
        if not followed.is_tried:
            with self._observing:
                followed.is_tried = True
                self._tell()

    def _tell(self) -> None:
        if self._closed or not all(each.is_tried for each in self._followed.values()):
            return
        settled = self._observer.settled()
        if settled.is_complete and settled != self._settled:
            self._settled = settled
            self._changed(settled)

    def _ensure_watch(self, followed: _Followed) -> None:
        if followed.watch is None:
            return
        try:
            followed.watch.ensure()
        except OSError as error:
            self._say_unwatched(followed, f"{error.strerror}; raise fs.inotify.max_user_watches")
            return
        if followed.unannounced is None or followed.watch.events != followed.unannounced[0]:
            followed.unannounced = None
        elif self._clock() - followed.unannounced[1] >= _EVENT_SECONDS:
            self._say_unwatched(
                followed, "the system does not announce changes there; is it a network folder, or are inotify "
                "watches used up (fs.inotify.max_user_watches)?"
            )  # fmt: skip
        followed.events_before, followed.events = followed.events, followed.watch.events

    def _notice_unannounced(self, followed: _Followed, *, is_new: bool) -> None:
        """A change that was found though no event came since the listing before; it may still be on its way."""
        if followed.watch is not None and is_new and followed.events == followed.events_before:
            followed.unannounced = (followed.events, self._clock())

    def _say_unwatched(self, followed: _Followed, why: str) -> None:
        if not followed.is_told:
            followed.is_told = True
            self._report(
                "WARNING",
                f"models at {followed.status.location}: changes are seen every {self._interval:g} seconds only: {why}",
            )


@dataclass(kw_only=True, eq=False)
class _Followed:
    """One location and how following it goes.

    Attributes:
        settle: seconds between two listings that count as two.
        due: when it is to be listed next.
        rests_until: before which no event leads to a listing.
        is_running: a thread is at it.
        is_woken: an event came since the listing began.
        is_looking: a look at it has not ended, even if nobody waits for it any more.
        is_tried: it was listed, or could not be.
        entries: the last listing; `listing`: what it says.
        is_unread: a manifest could not be read, so that an equal listing may say more.
        manifests: that were read for versions which are not settled yet: etag and result.
        events: of the watch, before the last listing; `events_before`: before the one before.
        unannounced: events at a change that none announced, and when that was found.
        is_told: that changes are not seen at once.
    """

    storage: Storage
    status: LocationStatus
    settle: float
    watch: Watch | None = None
    due: float = float("-inf")
    rests_until: float = float("-inf")
    failures: int = 0
    is_running: bool = False
    is_woken: bool = False
    is_looking: bool = False
    is_tried: bool = False
    entries: Sequence[Entry] = ()
    listing: Listing | None = None
    is_unread: bool = False
    manifests: dict[Place, tuple[str, Manifest | str]] = field(default_factory=dict)
    events: int = 0
    events_before: int = 0
    unannounced: tuple[int, float] | None = None
    is_told: bool = False


def _in_time(seconds: float, followed: _Followed, look: Callable[[], Listing]) -> Listing:
    """A look at a directory whose file system may hang: then it is left alone until it answers."""
    if followed.is_looking:
        raise StorageUnavailable(f"its file system has not answered for more than {seconds:g} seconds")

    def looking() -> Listing:
        followed.is_looking = True
        try:
            return look()
        finally:
            followed.is_looking = False

    try:
        return Deadline(seconds).run(looking)
    except DeadlinePassed:
        raise StorageUnavailable(f"its file system does not answer within {seconds:g} seconds") from None


def _is_sealed(storage: Storage, version: Version) -> bool:
    """Whether a listed version is known to be whole. What is sealed now must still be what was listed before."""
    if not storage.sealed(version.prefix):
        return False
    listed = {(version.prefix + file.path, file.size, file.etag) for file in version.files}
    return {(entry.key, entry.size, entry.etag) for entry in storage.list(version.prefix)} == listed


def _manifests(followed: _Followed, versions: Mapping[Place, Version]) -> dict[Place, Manifest | str]:
    """Those of these versions, several at once, each read once for each etag."""
    known = followed.manifests
    followed.manifests, followed.is_unread = {}, False
    with ThreadPoolExecutor(MOST_THREADS) as threads:
        results = threads.map(lambda place: _manifest(followed, place, versions[place], known), versions)
        return dict(zip(versions, results, strict=True))


def _manifest(
    followed: _Followed, place: Place, version: Version, known: Mapping[Place, tuple[str, Manifest | str]]
) -> Manifest | str:
    (file,) = (each for each in version.files if each.path == manifest.FILE)
    if file.size > manifest.MAX_BYTES:
        return f"{manifest.FILE} is bigger than {manifest.MAX_BYTES} bytes"
    etag, told = known.get(place, (None, ""))
    if etag != file.etag:
        try:
            content = followed.storage.read(version.prefix + manifest.FILE)
            if len(content) != file.size:
                raise StorageUnavailable("it is being replaced")
            told = manifest.parse(content)
        except InvalidManifest as error:
            told = error.message
        except CortexError as error:
            followed.is_unread = True
            return f"{manifest.FILE} cannot be read: {error}"
    followed.manifests[place] = (file.etag, told)
    return told
