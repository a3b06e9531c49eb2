"""Listings and what is read from them; ids are those of the acceptance list and of the old defects."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from support.listings import entry, listing, saved_model

from cortex_core.models.layout import layout_of, locations, read_models
from cortex_core.models.tree import Layout, ModelTree
from cortex_core.models.versions import MOST_DIGITS
from cortex_core.spec import types
from cortex_core.spec.types import Models

ROOT = "s3://bucket/models"
EMPTY = "there is no model: the directory is empty or does not exist"
BESIDE = "only directories named by digits 0-9 may be beside versions; found also"


def read(*keys: str, layout: Layout = "python") -> ModelTree:
    return read_models(Models(path=ROOT), {ROOT: listing(*keys)}, layout)


def read_dir(*keys: str, layout: Layout = "python") -> ModelTree:
    return read_models(Models(dir=ROOT), {ROOT: listing(*keys)}, layout)


def versions(tree: ModelTree) -> dict[str, list[str]]:
    return {name: [version.name for version in model.versions] for name, model in tree.models.items()}


def problems(tree: ModelTree) -> list[str]:
    return [str(problem).removeprefix(ROOT) for problem in tree.problems]


@dataclass(frozen=True)
class Row:
    id: str
    keys: list[str]
    versions: list[str]
    problems: list[str] = field(default_factory=list)
    layout: Layout = "python"


HUGE = "9" * MOST_DIGITS
TOO_LONG = "9" * (MOST_DIGITS + 1)
SHARD = "variables/variables.data-00000-of-00001"
INDEX = "variables/variables.index"

ONE_MODEL = [
    # versioned or not, order, latest
    Row("C-44 unversioned", ["model.pkl", "data.txt", "more/x"], ["1"]),
    Row("C-44 ordered by value", ["10/m", "9/m", "100/m", "9/n"], ["9", "10", "100"]),
    Row("C-44 version zero", ["0/m", "1/m"], ["0", "1"]),
    Row("C-44 markers", ["", "1/", "2/", "2/m", "3/sub/", "3/m"], ["2", "3"]),
    Row("C-44 only markers", ["", "1/", "1/sub/"], [], [f": {EMPTY}"]),
    Row("C-44 nothing", [], [], [f": {EMPTY}"]),
    Row("C-44 a file named by digits is not a version", ["3", "model.pkl"], ["1"]),
    Row("C-44 directories that are no versions", ["v1/m", "v2/m"], ["1"]),
    # which names are versions
    Row("C-45 padded", ["007/m", "10/m"], ["007", "10"]),
    Row("C-45 padded is the highest (D08)", ["1/m", "02/m"], ["1", "02"]),
    Row("C-45 huge", ["1/m", f"{2**63}/m", f"{HUGE}/m"], ["1", str(2**63), HUGE]),
    Row(
        "C-45 too many digits",
        ["1/m", f"{TOO_LONG}/m"],
        ["1"],
        [f"/{TOO_LONG}: a version has at most 128 digits, this one 129"],
    ),
    Row("C-45 negative", ["-3/m", "1/m"], ["1"], [f": {BESIDE} '-3/'"]),
    Row("C-45 plus", ["+3/m", "1/m"], ["1"], [f": {BESIDE} '+3/'"]),
    Row("C-45 only a negative one", ["-3/m"], ["1"]),
    Row("C-45 not ASCII", ["٣/m", "²/m", "１/m", "1/m"], ["1"], [f": {BESIDE} '²/', '٣/' and '１/'"]),
    Row("C-45 other numbers", ["1.0/m", "1e3/m", "0x1/m", "1_0/m", " 3/m", "2/m"], ["2"],
        [f": {BESIDE} ' 3/', '0x1/', '1.0/', '1_0/' and '1e3/'"]),
    Row("C-45 two of one value", ["07/m", "7/m", "007/m", "1/m"], ["1", "7"],
        ["/007: has the same value as version '7'", "/07: has the same value as version '7'"]),
    Row("C-45 two of one value, all padded", ["007/m", "07/m"], ["07"],
        ["/007: has the same value as version '07'"]),
    Row("C-45 the unpadded one is not whole", [*saved_model("07/"), "7/saved_model.pb"], ["07"],
        [f"/7: '{INDEX}' is missing"], "tensorflow"),
    # strays beside versions
    Row("D06 file", ["1/m", "2/m", "README.md"], ["1", "2"], [f": {BESIDE} 'README.md'"]),
    Row("D06 directory", ["1/m", "2/m", "tmp/x", "tmp/y"], ["1", "2"], [f": {BESIDE} 'tmp/'"]),
    Row("D06 a file named by digits", ["1/m", "2"], ["1"], [f": {BESIDE} '2'"]),
    Row("D06 a version's name as file and directory", ["1/m", "1"], ["1"], [f": {BESIDE} '1'"]),
    Row("D06 many", ["1/m", *"abcdefgh"], ["1"], [f": {BESIDE} 'a', 'b', 'c', 'd', 'e' and 3 more"]),
    Row("D07 stray", [*saved_model("1/"), "x"], ["1"], [f": {BESIDE} 'x'"], "tensorflow"),
    # what one version holds
    Row("C-46 tensorflow", saved_model(), ["1"], [], "tensorflow"),
    Row("C-46 tensorflow, more files", [*saved_model("5/"), "5/assets/a", "5/x"], ["5"], [], "tensorflow"),
    Row("C-46 inferentia", ["saved_model.pb", "x"], ["1"], [], "tensorflow-inf"),
    Row("C-46 inferentia, versions", ["1/saved_model.pb", "2/x"], ["1"],
        ["/2: 'saved_model.pb' is missing"], "tensorflow-inf"),
    Row("C-46 tensorflow, nothing of it", ["model.pkl"], [],
        [f": 'saved_model.pb' and '{INDEX}' are missing"], "tensorflow"),
    Row("C-46 pbtxt", ["saved_model.pbtxt", INDEX, SHARD], [],
        [": 'saved_model.pb' is missing ('saved_model.pbtxt' is not read)"], "tensorflow"),
    Row("C-46 no shard: in a replica only said", ["1/saved_model.pb", f"1/{INDEX}"], ["1"],
        ["/1: 'variables/variables.data-00000-of-...' is missing"], "tensorflow"),
    Row("C-46 another shard", ["saved_model.pb", INDEX, "variables/variables.data-00001-of-00002"], ["1"],
        [": 'variables/variables.data-00000-of-...' is missing"], "tensorflow"),
    Row("C-45 tensorflow has 64 bits", [*saved_model(f"{2**63}/"), *saved_model(f"{2**63 - 1}/")],
        [str(2**63 - 1)],
        [f"/{2**63}: TensorFlow Serving has no versions above 9223372036854775807"], "tensorflow"),
    Row("D07 one of several is incomplete",
        [*saved_model("1/"), *saved_model("2/", without=["saved_model.pb"]), *saved_model("3/", without=[INDEX])],
        ["1"], ["/2: 'saved_model.pb' is missing", f"/3: '{INDEX}' is missing"], "tensorflow"),
    # keys that cannot be files
    Row("A8 parent", ["1/m", "2/m", "2/../1/m"], ["1"],
        ["/2: '2/../1/m' cannot be a file of a model: its name leads out of the folder"]),
    Row("A8 absolute", ["1/m", "2//etc/passwd"], ["1"],
        ["/2: '2//etc/passwd' cannot be a file of a model: its name is an absolute path"]),
    Row("A8 drive", ["1/m", "2/C:/x"], ["1"],
        ["/2: '2/C:/x' cannot be a file of a model: its name begins with a drive letter"]),
    Row("A8 backslash", ["1/m", "2/a\\b"], ["1"],
        ["/2: '2/a\\b' cannot be a file of a model: its name has a backslash"]),
    Row("A8 NUL", ["1/m", "2/a\0b"], ["1"],
        [r"/2: '2/a\x00b' cannot be a file of a model: its name has a control character"]),
    Row("A8 line feed at the end", ["1/m", "2/a\n"], ["1"],
        [r"/2: '2/a\n' cannot be a file of a model: its name has a control character"]),
    Row("A8 empty part", ["1/m", "2/a//b"], ["1"],
        ["/2: '2/a//b' cannot be a file of a model: its name has an empty part"]),
    Row("A8 not UTF-8", ["1/m", "2/\udce4"], ["1"],
        [r"/2: '2/\udce4' cannot be a file of a model: its name is not UTF-8"]),
    Row("A8 long part", ["1/m", "2/" + "x" * 256], ["1"],
        [f"/2: '2/{'x' * 118}…' cannot be a file of a model: its name is too long"]),
    Row("A8 long", ["1/m", "2/" + "x/" * 600 + "x"], ["1"],
        [f"/2: '2/{'x/' * 59}…' cannot be a file of a model: its name is too long"]),
    Row("A8 several", ["1/m", "2/../x", "2/a\\b", "2/m"], ["1"],
        ["/2: '2/../x' cannot be a file of a model: its name leads out of the folder (and 1 more)"]),
    Row("A8 of no version", ["1/m", "../2/m", "/3/m", "./4/m"], ["1"], [f": {BESIDE} '../', './' and '/'"]),
    Row("A8 unversioned", ["m", "../x"], [],
        [": '../x' cannot be a file of a model: its name leads out of the folder"]),
    Row("A8 file and directory", ["1/m", "2/a", "2/a/b/c"], ["1"], ["/2: 'a' is a file and a directory"]),
]  # fmt: skip


@pytest.mark.parametrize("row", ONE_MODEL, ids=lambda row: row.id)
def test_one_model(row: Row) -> None:
    tree = read(*row.keys, layout=row.layout)
    assert problems(tree) == row.problems
    assert versions(tree) == ({"_cortex_default": row.versions} if row.versions else {})


def test_a_version_says_what_to_fetch() -> None:
    tree = read("007/model.pkl", "007/data/x.txt", "3/model.pkl")
    model = tree.find()
    assert (model.name, model.location, model.is_versioned) == ("_cortex_default", ROOT, True)
    latest = model.latest
    assert (latest.name, latest.value, latest.prefix) == ("007", 7, "007/")
    assert [file.path for file in latest.files] == ["data/x.txt", "model.pkl"]
    assert (latest.files[0].size, latest.files[0].etag, latest.files[0].modified_ns) == (3, "a", 1)


def test_an_unversioned_model_is_its_directory() -> None:
    model = read_dir("iris/model.pkl").find("iris")
    assert not model.is_versioned
    assert (model.latest.name, model.latest.value, model.latest.prefix) == ("1", 1, "iris/")
    assert [file.path for file in model.latest.files] == ["model.pkl"]


NAMED_BY_DIR = [
    (
        "C-47 versioned and not",
        ["text/m", "sentiment/24753823/m", "sentiment/26234288/m"],
        {"sentiment": ["24753823", "26234288"], "text": ["1"]},
        [],
    ),
    (
        "C-47 loose files",
        ["a/m", "z.txt", "b.txt"],
        {"a": ["1"]},
        [": only directories of models may be here; found also 'b.txt' and 'z.txt'"],
    ),
    (
        "C-47 (S-36) reserved",
        ["a/m", "_cortex_default/1/m"],
        {"a": ["1"]},
        [": '_cortex_default' is reserved and cannot be the name of a model"],
    ),
    (
        "C-47 impossible names",
        ["a/m", "../b/m", "/etc/passwd", "c\0/m", "d\\e/m"],
        {"a": ["1"]},
        [": '/etc/passwd' belongs to no model: its name is an absolute path (and 3 more)"],
    ),
    (
        "C-47 a long name",
        ["a/m", "b" * 256 + "/m"],
        {"a": ["1"]},
        [f": '{'b' * 120}…' belongs to no model: its name is too long"],
    ),
    (
        "C-47 other names are fine",
        ["gpt-2.1 (small)/m", "größe/m", "7/m", ".hidden/m"],
        {".hidden": ["1"], "7": ["1"], "gpt-2.1 (small)": ["1"], "größe": ["1"]},
        [],
    ),
    (
        "C-47 nothing (D09)",
        ["", "a/", "a/1/"],
        {},
        [": there are no models: the directory is empty or does not exist"],
    ),
    (
        "C-47 problems of one do not touch another",
        ["a/1/m", "a/x", "b/1/..", "b/2/m", "c/.."],
        {"a": ["1"], "b": ["2"]},
        [
            f"/a: {BESIDE} 'x'",
            "/b/1: 'b/1/..' cannot be a file of a model: its name leads out of the folder",
            "/c: 'c/..' cannot be a file of a model: its name leads out of the folder",
        ],
    ),
    ("C-47 neighbours (A8)", ["text/m", "text-generator/m"], {"text": ["1"], "text-generator": ["1"]}, []),
]


@pytest.mark.parametrize(
    ("keys", "expected", "wrong"), [row[1:] for row in NAMED_BY_DIR], ids=[row[0] for row in NAMED_BY_DIR]
)
def test_models_in_a_directory(keys: list[str], expected: dict[str, list[str]], wrong: list[str]) -> None:
    tree = read_dir(*keys)
    assert versions(tree) == expected
    assert problems(tree) == wrong


def test_c47_an_incomplete_model_is_skipped() -> None:
    tree = read_dir(*saved_model("good/"), *saved_model("good/2/"), "bad/x", layout="tensorflow")
    assert versions(tree) == {"good": ["2"]}
    assert [(problem.model, problem.version, problem.rejects) for problem in tree.problems] == [
        ("bad", None, True),
        ("good", None, False),
    ]


def test_c43_models_are_named_by_paths() -> None:
    models = Models(
        paths=(
            types.Model(name="a", path="s3://bucket/a/"),
            types.Model(name="b", path="s3://bucket/b"),
            types.Model(name="again", path="s3://bucket/b"),
            types.Model(name="gone", path="/data/gone/"),
        )
    )
    assert locations(models) == ("s3://bucket/a/", "s3://bucket/b", "/data/gone/")
    tree = read_models(
        models,
        {
            "s3://bucket/a/": iter(listing("m")),
            "s3://bucket/b": iter(listing("2/m", "3/m")),
            "/data/gone/": (),
        },
        "python",
    )
    assert versions(tree) == {"a": ["1"], "b": ["2", "3"], "again": ["2", "3"]}
    assert [str(problem) for problem in tree.problems] == [f"/data/gone: {EMPTY}"]
    assert tree.problems[0].model == "gone"


def test_every_location_must_have_been_listed() -> None:
    with pytest.raises(KeyError):
        read_models(Models(path=ROOT), {}, "python")
    assert locations(Models(dir=ROOT)) == locations(Models(path=ROOT)) == (ROOT,)


def test_what_problems_reject() -> None:
    tree = read(*saved_model("1/", without=[SHARD]), "2/x", *saved_model("01/"), "x", layout="tensorflow")
    assert [(problem.version, problem.rejects) for problem in tree.problems] == [
        (None, False),  # stray
        ("01", True),  # same value as 1
        ("1", False),  # no shard
        ("2", True),
    ]


def test_a5_a_listing_may_repeat_itself_but_not_contradict_itself() -> None:
    repeated = [entry("1/m", modified_ns=5), entry("1/m", modified_ns=7), entry("1/m", modified_ns=6)]
    tree = read_models(Models(path=ROOT), {ROOT: repeated}, "python")
    assert [file.modified_ns for file in tree.find().latest.files] == [7]
    assert tree.problems == ()
    contradicted = [entry("1/m"), entry("1/m", etag="b"), entry("1/m"), entry("2/m")]
    tree = read_models(Models(path=ROOT), {ROOT: contradicted}, "python")
    assert versions(tree) == {"_cortex_default": ["2"]}
    assert problems(tree) == ["/1: 'm' is listed with two contents"]


def test_a_marker_with_content_is_a_key_that_cannot_be_a_file() -> None:
    tree = read_models(Models(path=ROOT), {ROOT: [entry("1/a/"), entry("2/m")]}, "python")
    assert versions(tree) == {"_cortex_default": ["2"]}
    assert problems(tree) == ["/1: '1/a/' cannot be a file of a model: its name has an empty part"]


@pytest.mark.parametrize(
    ("handler", "inf", "layout"),
    [
        ("python", 0, "python"),
        ("python", 1, "python"),
        ("tensorflow", 0, "tensorflow"),
        ("tensorflow", 1, "tensorflow-inf"),
    ],
)
def test_the_layout_of_an_api(handler: str, inf: int, layout: str) -> None:
    section = types.Handler(path="handler.py", type="python" if handler == "python" else "tensorflow")
    assert layout_of(section, types.Compute(inf=inf)) == layout
