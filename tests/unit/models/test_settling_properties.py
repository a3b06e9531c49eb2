"""Whatever a storage lies: what comes out in the end is what is really there, and nothing half-done on the way."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from support.listings import entry

from cortex_core.models.layout import read_models
from cortex_core.models.manifest import FILE, Manifest, ManifestFile
from cortex_core.models.settling import MISSES, Listing, Observer, Settled, read
from cortex_core.spec.types import Models
from cortex_core.storage import Entry

DIR = Models(dir="/m")
KEYS = [f"{model}/{version}/{file}" for model in "ab" for version in ("1", "2") for file in "xyz"]
TREES = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(("e", "f")), min_size=1)
PAUSES = st.sampled_from((0.1, 1.0, 3.0))
LIES = st.lists(
    st.tuples(
        st.one_of(TREES, st.none()), st.sets(st.sampled_from(KEYS)), st.booleans(), st.booleans(), PAUSES
    ),
    max_size=14,
)
"""Each pass: a new truth or none; keys that the listing drops; whether it is stale; whether it fails; the pause."""

SETTLE = 1.0


def entries_of(tree: dict[str, str]) -> list[Entry]:
    return [entry(key, etag=etag) for key, etag in tree.items()]


def places(settled: Settled) -> set[tuple[str, str]]:
    return {(model.name, version.name) for model in settled.models.values() for version in model.versions}


@given(TREES, LIES)
def test_whatever_listings_say_the_last_stable_one_holds_in_the_end(
    first: dict[str, str],
    lies: list[tuple[dict[str, str] | None, set[str], bool, bool, float]],
) -> None:
    observer, now = Observer(DIR), 0.0
    truth, last = first, first
    judged: Listing | None = None
    missing: Counter[tuple[str, str]] = Counter()
    listed: list[dict[tuple[str, str], str]] = []
    before: set[tuple[str, str]] = set()

    def look(tree: dict[str, str]) -> None:
        nonlocal before, judged
        again = read(DIR, "/m", entries_of(tree), "python")
        judged = judged if judged == again and judged is not None else again
        observer.listed(judged, began=now, ended=now, settle=SETTLE)
        there = {(m.name, v.name): v.digest for m in judged.tree.models.values() for v in m.versions}
        listed.append(there)
        settled = observer.settled()
        after = places(settled)
        for place in before | after:
            missing[place] = 0 if place in there or judged.is_empty else missing[place] + 1
        assert all(missing[place] >= MISSES for place in before - after)
        for model in settled.models.values():
            for version in model.versions:
                digests = [seen.get((model.name, version.name)) for seen in listed]
                assert any(one == two == version.digest for one, two in itertools.pairwise(digests)), (
                    "settled without two equal listings in a row"
                )
        assert observer.settled() == settled
        before = after

    for new, dropped, is_stale, fails, pause in lies:
        now += pause
        last, truth = truth, new or truth
        if not fails:
            shown = last if is_stale else truth
            look({key: etag for key, etag in shown.items() if key not in dropped})
    for _ in range(MISSES + 2):
        now += SETTLE
        look(truth)
    settled = observer.settled()
    assert settled.models == read_models(DIR, {"/m": entries_of(truth)}, "python").models
    assert settled.pending == ()
    assert observer.due("/m") is None


FILES = [f"f{number}" for number in range(4)]


@given(st.permutations([*FILES, FILE]), st.lists(st.integers(0, 3), min_size=5, max_size=5), st.booleans())
def test_with_a_manifest_nothing_is_settled_before_all_is_there(
    order: list[str], cut: list[int], is_slow: bool
) -> None:
    """Every file comes, first with some of its bytes, then with all."""
    told = Manifest(files={path: ManifestFile(size=3, sha256="0" * 64) for path in FILES})
    observer, now = Observer(DIR), 0.0
    uploaded: dict[str, int] = {}
    is_ready = False
    for path, size in zip(order, cut, strict=True):
        for come in (size, 3):
            uploaded[path] = come
            for _ in range(1 + is_slow):
                now += SETTLE / 2 if FILE not in uploaded else SETTLE
                judged = read(
                    DIR,
                    "/m",
                    [entry(f"a/1/{each}", size=size, etag=str(size)) for each, size in uploaded.items()],
                    "python",
                )
                unread = observer.unread(judged)
                whole: Manifest | str = told if uploaded.get(FILE) == 3 else "not JSON"
                judged = structs.replace(judged, manifests=dict.fromkeys(unread.manifests, whole))
                observer.listed(judged, began=now, ended=now, settle=SETTLE * 1.5)
                is_ready = len(uploaded) == 5 and set(uploaded.values()) == {3}
                by_manifest = {
                    version.files for model in observer.settled().models.values() for version in model.versions
                    if any(file.path == FILE for file in version.files)
                }  # fmt: skip
                assert bool(by_manifest) == is_ready
    assert is_ready
    assert observer.settled().manifests == {("a", "1"): told}


def test_an_upload_in_every_order_of_files_is_never_settled_in_between() -> None:
    for order in itertools.permutations(range(5)):
        observer, now = Observer(DIR), 0.0
        for end in range(1, 6):
            now += SETTLE
            judged = read(DIR, "/m", [entry(f"a/1/{number}") for number in order[:end]], "python")
            observer.listed(judged, began=now, ended=now, settle=SETTLE)
            assert observer.settled().models == {}
        observer.listed(judged, began=now + SETTLE, ended=now + SETTLE, settle=SETTLE)
        assert len(observer.settled().models["a"].latest.files) == 5
