"""Every content this replica has to do with, and where its files are: upstream, on their way, or on this disk.

    known ──fetch──▶ on its way ──fetched──▶ on disk ──▶ retired: left the snapshot ──nobody uses it──▶ evicted
                                               └── the least recently used goes when a cache is full ──▶ known

With caches, what is on disk or on its way takes a place, and there are only so many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from cortex_core.models.manifest import Manifest
from cortex_core.models.tree import Version
from cortex_serve.agent.actions import Action, CancelFetch, Evict, Fetch
from cortex_serve.agent.disk import StoredVersion, Wanted
from cortex_serve.agent.disk_cache import DiskCache
from cortex_serve.agent.editions import Content, Edition

BACKGROUND_FETCHES = 16
"""Versions that nobody waits for and that are on their way at one time."""


class Stock:
    """All editions, by serial and by content.

    Args:
        limit: places on disk; None: as many as there is room for.
        out: takes the actions.
        is_next: whether an edition is on its way to serve; such a one keeps its place.

    Attributes:
        evictions: versions that were removed from disk so far.
    """

    def __init__(self, *, limit: int | None, out: list[Action], is_next: Callable[[Edition], bool]) -> None:
        self.evictions = 0
        self._out = out
        self._is_next = is_next
        self._cache = DiskCache(limit) if limit is not None else None
        self._editions: dict[int, Edition] = {}
        self._by_content: dict[Content, Edition] = {}  # those that are not retired
        self._retired: dict[int, Edition] = {}
        self._leftovers: dict[Content, StoredVersion] = {}  # on disk, not seen upstream yet
        self._backlog: dict[int, None] = {}  # to be fetched in the background
        self._in_background: set[int] = set()
        self._last_serial = 0

    def __len__(self) -> int:
        return len(self._editions)

    def __iter__(self) -> Iterator[Edition]:
        return iter(self._editions.values())

    def __contains__(self, content: Content) -> bool:
        """Whether it is upstream, serves, or is on its way."""
        return content in self._by_content

    @property
    def on_disk(self) -> int:
        return sum(edition.on_disk for edition in self) + len(self._leftovers)

    def get(self, serial: int) -> Edition | None:
        """None: it is gone."""
        return self._editions.get(serial)

    # what there is

    def open(self, present: Iterable[StoredVersion]) -> None:
        """These are on disk from an earlier life."""
        self._leftovers = {_content(stored.model, stored.version): stored for stored in present}

    def edition(
        self, model: str, location: str, version: Version, manifest: Manifest | None, *, now: float
    ) -> Edition:
        """The edition of a content that is upstream; a new one when there is none, or only a retired one."""
        content = _content(model, version)
        return self._by_content.get(content) or self._new(
            Edition(
                serial=self._last_serial + 1,
                model=model,
                location=location,
                version=version,
                manifest=manifest,
                seen_at=now,
            )
        )

    def drop_leftovers(self) -> None:
        """What is upstream was seen: of the earlier life's files, the rest goes, and what there is no place for."""
        self._out += [Evict(stored=stored) for stored in self._leftovers.values()]
        self._leftovers.clear()
        if self._cache is not None:
            for serial in self._cache.victims(0, self._can_go) or ():
                self._evict(self._editions[serial])

    def retire(self, edition: Edition) -> None:
        """It leaves the snapshot, for good."""
        edition.is_retired = True
        self._retired[edition.serial] = edition
        del self._by_content[edition.content]
        if edition.fetching:
            self._out.append(CancelFetch(serial=edition.serial))
            self._end_fetch(edition)
            edition.on_disk = True  # perhaps: it may have come a moment ago

    def sweep(self) -> None:
        """What is retired and not used any more leaves the disk."""
        for edition in [each for each in self._retired.values() if not each.in_use]:
            del self._retired[edition.serial], self._editions[edition.serial]
            heir = self._heir(edition)
            if edition.on_disk and heir is not None:
                self._hand_over(edition, heir)
            elif edition.on_disk:
                self._evict(edition)
            self._take_off_disk(edition)

    # fetching

    def fetch(self, edition: Edition, *, urgent: bool) -> bool:
        """Have it fetched, unless there is no place for it beside what is in use."""
        if edition.fetching == "urgent" or (edition.fetching and not urgent):
            return True
        if not self._make_room(edition):
            return False
        edition.fetching = "urgent" if urgent else "background"
        (self._in_background.discard if urgent else self._in_background.add)(edition.serial)
        self._backlog.pop(edition.serial, None)
        wanted = Wanted(
            serial=edition.serial,
            model=edition.model,
            location=edition.location,
            version=edition.version,
            manifest=edition.manifest,
            urgent=urgent,
        )
        self._out.append(Fetch(wanted=wanted))
        return True

    def fetch_some_time(self, editions: Iterable[Edition], *, now: float) -> None:
        """Have those that are not here fetched in the background."""
        self._backlog.update(
            (edition.serial, None)
            for edition in editions
            if edition.directory is None and not edition.fetching and not edition.fails(now)
        )

    def fetch_in_background(self) -> None:
        """Begin with what `fetch_some_time` was told, a few at a time."""
        while self._backlog and len(self._in_background) < BACKGROUND_FETCHES:
            serial = next(iter(self._backlog))
            edition = self._editions.get(serial)
            if edition is None or edition.is_retired or edition.directory is not None or edition.fetching:
                del self._backlog[serial]
            else:
                self.fetch(edition, urgent=False)

    def fetched(self, edition: Edition, directory: str) -> None:
        self._end_fetch(edition)
        self._put_on_disk(edition, directory)

    def not_fetched(self, edition: Edition) -> None:
        self._end_fetch(edition)
        self._take_off_disk(edition)

    def use(self, serials: Iterable[int]) -> None:
        """These were used, the last one last."""
        if self._cache is not None:
            self._cache.use(serials)

    # places and files

    def _new(self, edition: Edition) -> Edition:
        self._last_serial = edition.serial
        self._editions[edition.serial] = self._by_content[edition.content] = edition
        if self._leftovers.pop(edition.content, None) is not None:
            self._put_on_disk(edition, None)
        for retired in self._retired.values():
            if retired.content == edition.content and retired.on_disk:
                self._hand_over(retired, edition)
        return edition

    def _end_fetch(self, edition: Edition) -> None:
        edition.fetching = None
        self._in_background.discard(edition.serial)

    def _make_room(self, edition: Edition) -> bool:
        if self._cache is None or edition.serial in self._cache:
            return True
        victims = self._cache.victims(1, self._can_go)
        if victims is None:
            return False
        for serial in victims:
            self._evict(self._editions[serial])
        self._cache.take(edition.serial)
        return True

    def _can_go(self, serial: int) -> bool:
        """Whether nobody needs its files."""
        edition = self._editions[serial]
        if edition.in_use or self._is_next(edition):
            return False
        return edition.is_retired or self._heir(edition) is None

    def _heir(self, edition: Edition) -> Edition | None:
        """Who else needs its files: the same content under a later serial, or an earlier one that is still used."""
        others = (self._by_content.get(edition.content), *self._retired.values())
        same = (each for each in others if each is not None and each.content == edition.content)
        return next((each for each in same if each is not edition), None)

    def _hand_over(self, edition: Edition, heir: Edition) -> None:
        self._put_on_disk(heir, edition.directory)
        self._take_off_disk(edition)

    def _evict(self, edition: Edition) -> None:
        self._out.append(Evict(stored=edition.stored))
        self._take_off_disk(edition)
        self.evictions += 1

    def _put_on_disk(self, edition: Edition, directory: str | None) -> None:
        edition.on_disk = True
        edition.directory = edition.directory or directory
        if self._cache is not None and edition.serial not in self._cache:
            self._cache.take(edition.serial)

    def _take_off_disk(self, edition: Edition) -> None:
        edition.on_disk = False
        edition.directory = None
        if self._cache is not None:
            self._cache.leave(edition.serial)


def _content(model: str, version: Version) -> Content:
    return model, version.name, version.digest
