"""Successive listings in, what may be acted on out: complete versions only, and nothing gone that may come back.

Listings lie: an upload is half done, a storage forgets keys for a moment, pages are stale. A version is settled when

a. it has a manifest, and every file that the manifest names is listed with its size; else
b. its storage knows that it was put there whole, by one rename; else
c. it looks the same in two successive listings, some time apart.

A version is gone when `MISSES` successive listings, some time apart, do not have it. One that changes in place, or that
a layout problem rejects, is not gone: its last settled content stays until the new one is settled. A location that
lists nothing at all is more likely broken than meant, and changes nothing, unless `on_missing` is unload.

Pure: time, listings, manifests and what storages know are arguments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from msgspec import structs

from cortex_core.models import manifest
from cortex_core.models.layout import locations, read_models, version_of
from cortex_core.models.manifest import Manifest
from cortex_core.models.tree import DEFAULT_MODEL, Layout, LayoutProblem, Model, ModelTree, Version
from cortex_core.models.wording import named
from cortex_core.spec.types import Models, Struct

if TYPE_CHECKING:  # a storage is not needed to judge what it lists
    from cortex_core.storage.protocol import Entry

MISSES = 3
"""Successive listings without a version after which it is gone."""

Place: TypeAlias = tuple[str, str]
"""A model's name and a version's."""


class Pending(Struct):
    """A version, or a version's new content, that was seen and may not be acted on yet.

    Attributes:
        digest: of what is listed of it.
        why: what it waits for, one line.
    """

    model: str
    version: str
    digest: str
    why: str


class Settled(Struct):
    """What there is, as far as it can be relied on.

    Attributes:
        models: by name; only settled versions, with the files that are to be fetched.
        manifests: by model and version, of those whose manifest was read. A version that was known before the first
            listing and has not changed since has none here.
        pending: by model and version.
        problems: what is wrong with the locations as they were listed last.
        has_names: False for `path`.
        is_complete: every location was listed, or versions of it were known before.
    """

    models: Mapping[str, Model]
    manifests: Mapping[Place, Manifest]
    pending: tuple[Pending, ...]
    problems: tuple[LayoutProblem, ...]
    has_names: bool
    is_complete: bool


class KnownVersion(Struct):
    """A version that was settled in an earlier life of the replica."""

    model: str
    location: str
    version: Version


class Listing(Struct):
    """One complete listing of one location, judged.

    Attributes:
        tree: what `layout.read_models` says of it.
        is_empty: nothing was listed.
        manifests: of all that `Observer.unread` named; a string says why there is none.
        sealed: versions of which their storage says so.
    """

    location: str
    tree: ModelTree
    is_empty: bool
    manifests: Mapping[Place, Manifest | str] = {}
    sealed: frozenset[Place] = frozenset()


def read(models: Models, location: str, entries: Sequence[Entry], layout: Layout) -> Listing:
    """A complete listing of one of the locations, judged; what is `Unread` of it is not in it yet.

    Args:
        models: the section of the API file, with all its locations.
    """
    if models.paths is not None:
        there = tuple(each for each in models.paths if each.path == location)
        models = structs.replace(models, paths=there)
    return Listing(
        location=location,
        tree=read_models(models, {location: entries}, layout),
        is_empty=all(entry.key.endswith("/") and not entry.size for entry in entries),
    )


class Unread(Struct):
    """What has to be found out about a listing's versions before the `Observer` gets it.

    Attributes:
        manifests: versions whose manifest has to be read.
        unsealed: versions of which their storage has to be asked whether they are sealed.
    """

    manifests: Mapping[Place, Version]
    unsealed: Mapping[Place, Version]


class Observer:
    """Follows the locations of one API. Not for several threads at once.

    Args:
        models: the section of the API file.
        previous: what is known to have been settled before; those of other locations are ignored, and of several
            contents of one version all but the one that was written last.
    """

    def __init__(self, models: Models, previous: Iterable[KnownVersion] = ()) -> None:
        self._models = models
        self._locations = {location: _Location(name=location) for location in locations(models)}
        for known in sorted(previous, key=_written_ns):
            if known.location in self._locations and _is_of(models, known):
                place = (known.model, known.version.name)
                self._locations[known.location].seen[place] = _Seen(settled=known.version)
        for each in self._locations.values():
            each.judge()

    def unread(self, listing: Listing) -> Unread:
        """What has to be found out about a new listing before it is handed in."""
        seen = self._locations[listing.location].seen
        manifests: dict[Place, Version] = {}
        unsealed: dict[Place, Version] = {}
        for place, version in _versions(listing.tree):
            known = seen.get(place)
            if known is not None and known.settled is not None and _still(known.settled, version):
                continue
            (manifests if _has_manifest(version) else unsealed)[place] = version
        return Unread(manifests=manifests, unsealed=unsealed)

    def listed(self, listing: Listing, *, began: float, ended: float, settle: float) -> bool:
        """A location was listed. An error is no listing: then nothing has happened.

        Args:
            listing: the same object again when the location lists what it listed before.
            began: when the listing began, monotonic seconds.
            ended: when it ended.
            settle: seconds that must lie between two listings for them to count as two.

        Returns:
            Whether `settled` may be something else now.
        """
        location = self._locations[listing.location]
        if listing is location.listing and location.due() is None:
            return False
        moment = _Moment(began=began, ended=ended, settle=settle)
        location.look(listing, moment, keeps=self._models.on_missing == "keep")
        return True

    def due(self, location: str) -> float | None:
        """When another listing will tell more than this one did, even if it is equal; None: it will not."""
        return self._locations[location].due()

    def settled(self) -> Settled:
        """What may be acted on now; equal to what it was before as long as nothing has happened."""
        all_locations = self._locations.values()
        models = {model.name: model for location in all_locations for model in location.models}
        pending = [each for location in all_locations for each in location.pending]
        return Settled(
            models={name: models[name] for name in sorted(models)},
            manifests={
                place: seen.manifest
                for location in all_locations
                for place, seen in location.seen.items()
                if seen.manifest is not None
            },
            pending=tuple(sorted(pending, key=lambda each: (each.model, each.version))),
            problems=tuple(problem for location in all_locations for problem in location.problems),
            has_names=self._models.path is None,
            is_complete=all(location.listing or location.seen for location in all_locations),
        )


class _Moment(Struct):
    """When a listing was taken."""

    began: float
    ended: float
    settle: float

    def follows(self, earlier: float) -> bool:
        return self.began - earlier >= self.settle


@dataclass(kw_only=True)
class _Seen:
    """One version, over time.

    Attributes:
        settled: what may be acted on.
        manifest: of `settled`.
        candidate: what is listed now and not settled: its prefix and digest.
        since: when the first of the successive listings with the candidate had ended.
        why: what the candidate waits for.
        misses: successive listings without the version.
        missed_at: when the last of them had ended.
        due: when a listing will tell more.
    """

    settled: Version | None = None
    manifest: Manifest | None = None
    candidate: tuple[str, str] | None = None
    since: float = 0.0
    why: str | None = None
    misses: int = 0
    missed_at: float = 0.0
    due: float | None = None

    def present(self, version: Version, listing: Listing, place: Place, moment: _Moment) -> None:
        self.misses, self.due = 0, None
        if self.settled is not None and _still(self.settled, version):
            self._wait_for_nothing()
        elif _has_manifest(version):
            self._by_manifest(version, listing.manifests[place])
        elif place in listing.sealed or (self.candidate == _identity(version) and moment.follows(self.since)):
            self._settle(version, None)
        else:
            if self.candidate != _identity(version):
                self.since = moment.ended
            self._wait(version, "is listed; it may still be uploaded")
            self.due = self.since + moment.settle

    def rejected(self) -> None:
        """It is there, but as something that cannot be a version."""
        self.misses, self.due = 0, None
        self._wait_for_nothing()

    def missing(self, moment: _Moment) -> None:
        self._wait_for_nothing()
        if not self.misses or moment.follows(self.missed_at):
            self.misses += 1
            self.missed_at = moment.ended
        self.due = self.missed_at + moment.settle

    @property
    def is_gone(self) -> bool:
        return self.misses >= MISSES or (self.settled is None and self.candidate is None)

    def _by_manifest(self, version: Version, told: Manifest | str) -> None:
        if isinstance(told, str):
            self._wait(version, told)
            return
        listed = {file.path: file.size for file in version.files}
        missing = [path for path, file in told.files.items() if listed.get(path) != file.size]
        if missing:
            self._wait(version, f"{manifest.FILE} names what is not there in this size: {named(missing)}")
            return
        files = tuple(file for file in version.files if file.path in told.files or file.path == manifest.FILE)
        self._settle(version_of(version.name, version.prefix, files), told)

    def _settle(self, version: Version, told: Manifest | None) -> None:
        self.settled, self.manifest = version, told
        self._wait_for_nothing()

    def _wait(self, version: Version, why: str) -> None:
        self.candidate, self.why = _identity(version), why

    def _wait_for_nothing(self) -> None:
        self.candidate, self.why = None, None


@dataclass(kw_only=True)
class _Location:
    """One location, over time. `listing`: the last one. `models`, `pending`: what follows from all of them."""

    name: str
    seen: dict[Place, _Seen] = field(default_factory=dict)
    listing: Listing | None = None
    models: Sequence[Model] = ()
    pending: Sequence[Pending] = ()

    @property
    def problems(self) -> Sequence[LayoutProblem]:
        return self.listing.tree.problems if self.listing is not None else ()

    def due(self) -> float | None:
        return min((seen.due for seen in self.seen.values() if seen.due is not None), default=None)

    def look(self, listing: Listing, moment: _Moment, *, keeps: bool) -> None:
        self.listing = listing
        versions = dict(_versions(listing.tree))
        for place, version in versions.items():
            self.seen.setdefault(place, _Seen()).present(version, listing, place, moment)
        rejected = _Rejected(listing.tree.problems)
        for place, seen in self.seen.items():
            if place in versions:
                continue
            if place in rejected or (listing.is_empty and keeps):
                seen.rejected()
            else:
                seen.missing(moment)
        self.seen = {place: seen for place, seen in self.seen.items() if not seen.is_gone}
        self.judge()

    def judge(self) -> None:
        """Bring `models` and `pending` up to date."""
        of_models: defaultdict[str, dict[int, tuple[bool, Version]]] = defaultdict(dict)
        listed = {place for place, _ in _versions(self.listing.tree)} if self.listing is not None else set()
        for place, seen in self.seen.items():
            if seen.settled is not None:
                versions = of_models[place[0]]
                known = versions.get(seen.settled.value)
                if known is None or not known[0]:  # of one value, the one that the layout chose
                    versions[seen.settled.value] = (place in listed, seen.settled)
        self.models = [
            self._model(name, [versions[value][1] for value in sorted(versions)])
            for name, versions in of_models.items()
        ]
        self.pending = [
            Pending(model=model, version=version, digest=seen.candidate[1], why=seen.why)
            for (model, version), seen in self.seen.items()
            if seen.candidate is not None and seen.why is not None
        ]

    def _model(self, name: str, versions: Sequence[Version]) -> Model:
        known = self.listing.tree.models.get(name) if self.listing is not None else None
        is_versioned = known.is_versioned if known is not None else any(map(_is_directory, versions))
        return Model(name=name, location=self.name, versions=tuple(versions), is_versioned=is_versioned)


class _Rejected:
    """Versions that are there, but that a layout problem keeps out of the tree."""

    def __init__(self, problems: Iterable[LayoutProblem]) -> None:
        self._places = {(each.model, each.version) for each in problems if each.rejects and each.keys}

    def __contains__(self, place: Place) -> bool:
        return place in self._places or (place[0], None) in self._places


def _written_ns(known: KnownVersion) -> int:
    return max(file.modified_ns for file in known.version.files)


def _is_of(models: Models, known: KnownVersion) -> bool:
    """Whether the API file still has this model at this location."""
    if models.dir is not None:
        return known.location == models.dir
    if models.path is not None:
        return (known.model, known.location) == (DEFAULT_MODEL, models.path)
    return any((known.model, known.location) == (each.name, each.path) for each in models.paths or ())


def _versions(tree: ModelTree) -> Iterator[tuple[Place, Version]]:
    for model in tree.models.values():
        for version in model.versions:
            yield (model.name, version.name), version


def _identity(version: Version) -> tuple[str, str]:
    return version.prefix, version.digest


def _has_manifest(version: Version) -> bool:
    return any(file.path == manifest.FILE for file in version.files)


def _still(settled: Version, version: Version) -> bool:
    """Whether what is listed is what was settled; files that its manifest does not name do not count."""
    if settled.prefix != version.prefix or not _has_manifest(settled):
        return _identity(settled) == _identity(version)
    listed = {file.path: (file.size, file.etag) for file in version.files}
    return all(listed.get(file.path) == (file.size, file.etag) for file in settled.files)


def _is_directory(version: Version) -> bool:
    return version.prefix.endswith(f"{version.name}/")
