"""When a version may be acted on, and when it is gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from msgspec import structs
from support.listings import entry, listing

from cortex_core.models.manifest import FILE, Manifest, ManifestFile
from cortex_core.models.settling import KnownVersion, Observer, Place, Settled, read
from cortex_core.models.tree import DEFAULT_MODEL
from cortex_core.spec.types import Model, Models
from cortex_core.storage import Entry

SETTLE = 2.0
DIR = Models(dir="/m")
PATH = Models(path="/m")


@dataclass
class Follower:
    """An observer and the listings it gets, one each `step` seconds unless the listing says when."""

    models: Models
    observer: Observer
    now: float = 100.0

    @classmethod
    def of(cls, models: Models, previous: Iterable[KnownVersion] = ()) -> Follower:
        return cls(models, Observer(models, previous))

    def lists(
        self,
        entries: list[Entry],
        *,
        after: float = SETTLE,
        location: str = "/m",
        manifests: Mapping[Place, Manifest | str] | None = None,
        sealed: Collection[Place] = (),
    ) -> Settled:
        self.now += after
        judged = read(self.models, location, entries, "python")
        unread = self.observer.unread(judged)
        told = {place: (manifests or {})[place] for place in unread.manifests}
        judged = structs.replace(judged, manifests=told, sealed=frozenset(sealed) & unread.unsealed.keys())
        self.observer.listed(judged, began=self.now, ended=self.now, settle=SETTLE)
        return self.observer.settled()


def names(settled: Settled) -> dict[str, list[str]]:
    return {name: [version.name for version in model.versions] for name, model in settled.models.items()}


def manifest_of(**files: int) -> Manifest:
    return Manifest(files={path: ManifestFile(size=size, sha256="0" * 64) for path, size in files.items()})


def test_two_equal_listings_settle_a_version() -> None:
    follower = Follower.of(DIR)
    settled = follower.lists(listing("iris/7/a"))
    assert names(settled) == {}
    [pending] = settled.pending
    assert (pending.model, pending.version) == ("iris", "7")
    assert pending.why == "is listed; it may still be uploaded"
    assert follower.observer.due("/m") == follower.now + SETTLE
    settled = follower.lists(listing("iris/7/a"))
    assert names(settled) == {"iris": ["7"]}
    assert settled.pending == ()
    assert follower.observer.due("/m") is None


def test_equal_listings_must_lie_apart() -> None:
    follower = Follower.of(DIR)
    for _ in range(5):
        assert names(follower.lists(listing("iris/7/a"), after=SETTLE / 5)) == {}
    assert names(follower.lists(listing("iris/7/a"), after=SETTLE / 5 + 0.01)) == {"iris": ["7"]}


def test_one_version_that_changes_does_not_hold_up_another() -> None:
    follower = Follower.of(DIR)
    follower.lists(listing("iris/7/a", "iris/8/a"))
    settled = follower.lists(listing("iris/7/a", "iris/8/a", "iris/8/b"))
    assert names(settled) == {"iris": ["7"]}
    assert [each.version for each in settled.pending] == ["8"]


def test_what_disappears_between_two_equal_listings_is_not_settled_by_them() -> None:
    follower = Follower.of(DIR)
    follower.lists(listing("iris/7/a", "b/1/a"))
    follower.lists(listing("b/1/a"))
    assert "iris" not in names(follower.lists(listing("iris/7/a", "b/1/a")))


def test_what_a_storage_knows_to_be_whole_is_settled_at_once() -> None:
    settled = Follower.of(DIR).lists(listing("iris/7/a", "iris/8/a"), sealed=[("iris", "8")])
    assert names(settled) == {"iris": ["8"]}


def test_a_manifest_settles_at_once_what_it_names_and_nothing_else() -> None:
    follower = Follower.of(DIR)
    told = {("iris", "7"): manifest_of(a=3, b=3)}
    settled = follower.lists(listing(f"iris/7/{FILE}", "iris/7/a", "iris/7/stray"), manifests=told)
    assert names(settled) == {}
    assert settled.pending[0].why == f"{FILE} names what is not there in this size: 'b'"
    assert follower.observer.due("/m") is None
    short = [*listing(f"iris/7/{FILE}", "iris/7/a", "iris/7/stray"), entry("iris/7/b", size=2)]
    assert names(follower.lists(short, manifests=told)) == {}
    whole = listing(f"iris/7/{FILE}", "iris/7/a", "iris/7/b", "iris/7/stray")
    settled = follower.lists(whole, manifests=told)
    version = settled.models["iris"].latest
    assert [file.path for file in version.files] == ["a", "b", FILE]
    assert settled.manifests == told
    more = follower.lists([*whole, *listing("iris/7/later")])
    assert more == settled


def test_a_bad_manifest_keeps_its_version_pending() -> None:
    follower = Follower.of(DIR)
    for _ in range(3):
        settled = follower.lists(
            listing(f"iris/7/{FILE}", "iris/7/a"), manifests={("iris", "7"): "it is bad"}
        )
        assert names(settled) == {}
        assert settled.pending[0].why == "it is bad"


def test_content_that_changes_in_place_settles_anew_while_the_old_stays() -> None:
    follower = Follower.of(DIR)
    old = follower.lists([entry("iris/7/a", etag="old")], sealed=[("iris", "7")]).models["iris"].latest
    settled = follower.lists([entry("iris/7/a", etag="new")])
    assert settled.models["iris"].latest == old
    assert settled.pending[0].digest != old.digest
    assert follower.lists([entry("iris/7/a", etag="old")]).pending == ()
    follower.lists([entry("iris/7/a", etag="new")])
    settled = follower.lists([entry("iris/7/a", etag="new")])
    assert settled.models["iris"].latest.files[0].etag == "new"


def test_a_version_is_gone_after_three_listings_without_it() -> None:
    follower = Follower.of(DIR)
    both = listing("iris/7/a", "iris/8/a")
    follower.lists(both, sealed=[("iris", "7"), ("iris", "8")])
    one = listing("iris/7/a")
    assert [names(follower.lists(one)) for _ in range(3)] == [
        {"iris": ["7", "8"]},
        {"iris": ["7", "8"]},
        {"iris": ["7"]},
    ]
    assert follower.observer.due("/m") is None


def test_listings_without_a_version_must_be_successive_and_lie_apart() -> None:
    follower = Follower.of(DIR)
    both, one = listing("iris/7/a", "iris/8/a"), listing("iris/7/a")
    follower.lists(both, sealed=[("iris", "7"), ("iris", "8")])
    for entries in (one, one, both, one, one, both):
        assert names(follower.lists(entries)) == {"iris": ["7", "8"]}
    for _ in range(9):
        assert names(follower.lists(one, after=SETTLE / 10)) == {"iris": ["7", "8"]}


def test_a_model_is_gone_like_a_version() -> None:
    follower = Follower.of(DIR)
    follower.lists(listing("iris/7/a", "b/1/a"), sealed=[("iris", "7"), ("b", "1")])
    for _ in range(3):
        settled = follower.lists(listing("b/1/a"))
    assert names(settled) == {"b": ["1"]}


def test_an_empty_location_changes_nothing() -> None:
    follower = Follower.of(DIR)
    before = follower.lists(listing("iris/7/a"), sealed=[("iris", "7")])
    for entries in (listing(), listing("iris/7/"), listing(), listing()):
        settled = follower.lists(entries)
        assert settled.models == before.models
        assert "there are no models" in settled.problems[0].message
    assert follower.observer.due("/m") is None


def test_an_empty_location_counts_where_that_is_wished() -> None:
    follower = Follower.of(Models(dir="/m", on_missing="unload"))
    follower.lists(listing("iris/7/a"), sealed=[("iris", "7")])
    assert [names(follower.lists([])) for _ in range(3)] == [{"iris": ["7"]}, {"iris": ["7"]}, {}]


def test_a_layout_problem_removes_nothing_that_was_settled() -> None:
    follower = Follower.of(DIR)
    good = listing("iris/7/a", "lily/a")
    before = follower.lists(good, sealed=[("iris", "7"), ("lily", "1")])
    for _ in range(4):
        settled = follower.lists([*good, *listing("iris/7/b\\c", "lily/b\\c")])
        assert settled.models == before.models
        assert len(settled.problems) == 2


def test_of_two_versions_of_one_value_the_other_takes_over_when_it_is_settled() -> None:
    follower = Follower.of(DIR)
    follower.lists(listing("iris/007/a"), sealed=[("iris", "007")])
    both = listing("iris/007/a", "iris/7/a")
    assert names(follower.lists(both)) == {"iris": ["007"]}
    assert names(follower.lists(both)) == {"iris": ["7"]}


def test_a_model_that_becomes_versioned() -> None:
    follower = Follower.of(PATH)
    follower.lists(listing("a"), sealed=[(DEFAULT_MODEL, "1")])
    moved = listing("1/a", "2/a")
    settled = follower.lists(moved)
    assert settled.models[DEFAULT_MODEL].latest.prefix == ""
    settled = follower.lists(moved)
    assert [version.prefix for version in settled.models[DEFAULT_MODEL].versions] == ["1/", "2/"]


def test_what_was_known_before_is_there_before_anything_is_listed() -> None:
    version = Follower.of(DIR).lists(listing("iris/7/a"), sealed=[("iris", "7")]).models["iris"].latest
    known = [
        KnownVersion(model="iris", location=location, version=version) for location in ("/m", "/elsewhere")
    ]
    follower = Follower.of(DIR, known)
    settled = follower.observer.settled()
    assert settled.is_complete
    assert names(settled) == {"iris": ["7"]}
    settled = follower.lists(listing("iris/7/a", "iris/8/a"))
    assert names(settled) == {"iris": ["7"]}
    assert [each.version for each in settled.pending] == ["8"]


def test_of_two_contents_that_were_known_the_newer_one_is_there() -> None:
    def known(modified_ns: int) -> KnownVersion:
        content = [entry("iris/7/a", etag=str(modified_ns), modified_ns=modified_ns)]
        version = Follower.of(DIR).lists(content, sealed=[("iris", "7")]).models["iris"].latest
        return KnownVersion(model="iris", location="/m", version=version)

    for previous in ([known(1), known(2)], [known(2), known(1)]):
        settled = Follower.of(DIR, previous).observer.settled()
        assert settled.models["iris"].latest.files[0].etag == "2"


def test_what_was_known_with_a_manifest_needs_it_no_more() -> None:
    whole = listing(f"iris/7/{FILE}", "iris/7/a", "iris/7/stray")
    told = {("iris", "7"): manifest_of(a=3)}
    version = Follower.of(DIR).lists(whole, manifests=told).models["iris"].latest
    follower = Follower.of(DIR, [KnownVersion(model="iris", location="/m", version=version)])
    assert names(follower.lists(whole)) == {"iris": ["7"]}


def test_what_was_known_of_a_model_that_the_api_has_no_more_is_forgotten() -> None:
    version = Follower.of(DIR).lists(listing("iris/7/a"), sealed=[("iris", "7")]).models["iris"].latest
    known = [KnownVersion(model="iris", location="/m", version=version)]
    for models in (PATH, Models(paths=(Model(name="lily", path="/m"),))):
        assert names(Follower.of(models, known).observer.settled()) == {}


def test_all_is_complete_once_every_location_was_listed() -> None:
    follower = Follower.of(Models(paths=(Model(name="a", path="/m"), Model(name="b", path="/n"))))
    assert not follower.observer.settled().is_complete
    assert not follower.lists(listing("1/a")).is_complete
    settled = follower.lists([], location="/n")
    assert settled.is_complete
    settled = follower.lists(listing("1/a"))
    assert names(settled) == {"a": ["1"]}
    assert [problem.model for problem in settled.problems] == ["b"]


def test_an_equal_listing_in_which_nothing_is_to_be_settled_is_nothing() -> None:
    observer = Observer(DIR)
    judged = structs.replace(
        read(DIR, "/m", listing("iris/7/a"), "python"), sealed=frozenset([("iris", "7")])
    )
    assert observer.listed(judged, began=0, ended=0, settle=SETTLE)
    assert not observer.listed(judged, began=9, ended=9, settle=SETTLE)
