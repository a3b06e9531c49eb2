"""What holds for every listing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st
from support.listings import entry

from cortex_core.models.layout import read_models
from cortex_core.models.tree import Layout, ModelTree, Version
from cortex_core.models.versions import resolve
from cortex_core.spec.types import Model, Models
from cortex_core.storage import Entry

PARTS = st.sampled_from(
    (
        *("1", "2", "01", "10", "-3", "+3", "٣", str(2**63), "9" * 129, "v1", "_cortex_default"),
        *(
            "saved_model.pb",
            "saved_model.pbtxt",
            "variables",
            "variables.index",
            "variables.data-00000-of-00001",
        ),
        *("", ".", "..", "a", "A", "b\\c", "d\0", "\udcff", "C:", "e" * 256, "größe", "x\n"),
    )
)
KEYS = st.one_of(st.lists(PARTS, max_size=6).map("/".join), st.text(max_size=12))
ENTRIES = st.builds(
    entry,
    KEYS,
    size=st.sampled_from((0, 1, 2)),
    etag=st.sampled_from(("a", "b", "")),
    modified_ns=st.integers(-1, 3),
)
LISTINGS = st.lists(ENTRIES, max_size=25)
LAYOUTS = st.sampled_from(get_args(Layout))
SECTIONS = st.sampled_from(
    (
        Models(path="s3://b/m/"),
        Models(dir="/m"),
        Models(paths=(Model(name="a", path="/m"), Model(name="b", path="/m/"))),
    )
)

GOOD_PARTS = st.sampled_from(("a", "b", "größe", "x.y", ".z", "7"))
GOOD_PATHS = st.lists(GOOD_PARTS, min_size=1, max_size=3).map("/".join).map(lambda path: f"{path}.bin")
FILES = st.dictionaries(GOOD_PATHS, st.tuples(st.integers(0, 9), st.text(max_size=3)), min_size=1, max_size=5)
NUMBERS = st.from_regex(r"0{0,2}[1-9][0-9]{0,20}", fullmatch=True)
VERSIONED = st.dictionaries(NUMBERS, FILES, min_size=1, max_size=6)


def read(models: Models, entries: list[Entry], layout: Layout = "python") -> ModelTree:
    return read_models(models, {"s3://b/m/": entries, "/m": entries, "/m/": entries}, layout)


def listing_of(versions: dict[str, dict[str, tuple[int, str]]]) -> list[Entry]:
    return [
        entry(f"{name}/{path}", size=size, etag=etag)
        for name, files in versions.items()
        for path, (size, etag) in files.items()
    ]


def only_version(entries: list[Entry]) -> Version:
    (version,) = read(Models(path="/m"), entries).find().versions
    return version


@given(SECTIONS, LISTINGS, LAYOUTS)
def test_any_listing_can_be_read_explained_and_asked(
    models: Models, entries: list[Entry], layout: Layout
) -> None:
    tree = read(models, entries, layout)
    for problem in tree.problems:
        problem.explained().encode()
        assert str(problem).isprintable()
    for name, model in tree.models.items():
        assert tree.find(name) is model
        assert resolve(model) is model.latest
        values = [version.value for version in model.versions]
        assert values == sorted(set(values))
        for version in model.versions:
            assert resolve(model, version.name) is resolve(model, version.value) is version


@given(SECTIONS, LISTINGS, LAYOUTS)
def test_what_is_read_is_what_was_listed_and_stays_in_its_place(
    models: Models, entries: list[Entry], layout: Layout
) -> None:
    listed = {(each.key, each.size, each.etag, each.modified_ns) for each in entries}
    for model in read(models, entries, layout).models.values():
        for version in model.versions:
            paths = [file.path for file in version.files]
            assert paths == sorted(set(paths))
            for file in version.files:
                assert (version.prefix + file.path, file.size, file.etag, file.modified_ns) in listed
                assert not {"", ".", ".."} & set(file.path.split("/"))
                assert not any(character in file.path for character in "\\\0\n\udcff")


@given(SECTIONS, LISTINGS, LAYOUTS, st.randoms(use_true_random=False))
def test_the_order_of_a_listing_means_nothing(
    models: Models, entries: list[Entry], layout: Layout, chance: random.Random
) -> None:
    shuffled = chance.sample(entries, len(entries))
    assert read(models, shuffled, layout) == read(models, entries, layout)


@given(SECTIONS, LISTINGS, LAYOUTS)
def test_markers_mean_nothing(models: Models, entries: list[Entry], layout: Layout) -> None:
    markers = [entry(f"{each.key.rpartition('/')[0]}/", size=0) for each in entries]
    assert read(models, [*markers, *entries, entry("")], layout) == read(models, entries, layout)


@given(VERSIONED)
def test_versions_are_ordered_by_value(versions: dict[str, dict[str, tuple[int, str]]]) -> None:
    tree = read(Models(path="/m"), listing_of(versions))
    found = tree.find().versions
    assert [version.value for version in found] == sorted({int(name) for name in versions})
    assert {version.name for version in found} | {problem.version for problem in tree.problems} == set(
        versions
    )
    for version in found:  # of one value, the least padded
        assert len(version.name) == min(len(name) for name in versions if int(name) == version.value)


@given(VERSIONED, ENTRIES.filter(lambda each: not _is_in_a_version(each.key)))
def test_d06_a_stray_never_removes_or_changes_a_version(
    versions: dict[str, dict[str, tuple[int, str]]], stray: Entry
) -> None:
    entries = listing_of(versions)
    before = read(Models(path="/m"), entries)
    after = read(Models(path="/m"), [*entries, stray])
    assert after.models == before.models
    is_marker = not stray.key or (stray.key.endswith("/") and not stray.size)
    assert len(after.problems) == len(before.problems) + (not is_marker)


def _is_in_a_version(key: str) -> bool:
    name, slash, _ = key.partition("/")
    return bool(slash) and name.isascii() and name.isdigit()


@given(VERSIONED, LISTINGS)
def test_what_is_wrong_in_one_version_does_not_touch_another(
    versions: dict[str, dict[str, tuple[int, str]]], entries: list[Entry]
) -> None:
    """D07, A8: whatever lands in version 0, which is not among the others."""
    wild = [replace(each, key=f"0/{each.key}") for each in entries]
    before = read(Models(path="/m"), listing_of(versions)).find().versions
    after = read(Models(path="/m"), [*listing_of(versions), *wild]).find().versions
    assert tuple(version for version in after if version.value) == before


@given(FILES, FILES)
def test_the_digest_is_that_of_paths_sizes_and_etags(
    one: dict[str, tuple[int, str]], other: dict[str, tuple[int, str]]
) -> None:
    first, second = only_version(listing_of({"1": one})), only_version(listing_of({"2": other}))
    assert (first.digest == second.digest) == (one == other)


@given(FILES, st.data())
def test_the_digest_changes_with_every_single_change(
    files: dict[str, tuple[int, str]], data: st.DataObject
) -> None:
    entries = listing_of({"1": files})
    place = data.draw(st.integers(0, len(entries) - 1))
    old = entries[place]
    digest = only_version(entries).digest
    changed = [
        replace(old, size=old.size + 1),
        replace(old, etag=f"{old.etag}x"),
        replace(old, key=f"{old.key}x"),
    ]
    for new in changed:
        assert only_version([*entries[:place], new, *entries[place + 1 :]]).digest != digest
    touched = replace(old, modified_ns=old.modified_ns + 1)
    assert only_version([*entries[:place], touched, *entries[place + 1 :]]).digest == digest


def test_the_digest_does_not_run_files_together() -> None:
    one = [entry("1/a", size=1, etag="x"), entry("1/b", size=2, etag="y")]
    other = [entry("1/a", size=1, etag="x" + "b\x002\x001\x00y")]
    assert only_version(one).digest != only_version(other).digest
    assert only_version([entry("1/a", etag="\udcff")]).digest != only_version([entry("1/a", etag="")]).digest
