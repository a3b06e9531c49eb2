"""C-43, C-44, C-45: which model and which version a handler means."""

from __future__ import annotations

from typing import Any

import pytest
from support.listings import listing

from cortex_core.errors import CortexError
from cortex_core.models.errors import ModelError, UnknownModel, UnknownVersion
from cortex_core.models.layout import read_models
from cortex_core.models.tree import Model, ModelTree
from cortex_core.models.versions import MOST_DIGITS, resolve
from cortex_core.spec.types import Models

HUGE = "9" * MOST_DIGITS


def by_path(*keys: str) -> ModelTree:
    return read_models(Models(path="/m"), {"/m": listing(*keys)}, "python")


def by_dir(*keys: str) -> ModelTree:
    return read_models(Models(dir="/m"), {"/m": listing(*keys)}, "python")


MODEL = by_path("1/m", "007/m", "0/m", f"{HUGE}/m").find()


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (None, HUGE),
        ("latest", HUGE),
        ("1", "1"),
        (1, "1"),
        ("01", "1"),
        ("007", "007"),  # D08
        ("7", "007"),
        (7, "007"),
        ("00", "0"),
        (0, "0"),
        (HUGE, HUGE),
        (int(HUGE), HUGE),
    ],
)
def test_a_version_is_found(version: str | int | None, name: str) -> None:
    assert resolve(MODEL, version).name == name


def test_d08_a_padded_version_can_be_the_latest() -> None:
    assert resolve(by_path("1/m", "0002/m").find(), "latest").name == "0002"


def test_the_name_as_written_comes_before_the_value() -> None:
    model = by_path("7/m", "07/m").find()
    assert resolve(model, "7").name == "7"
    assert resolve(model, "07").name == "7"  # what has the same value as another is not in the tree


def test_an_unversioned_model_has_version_1() -> None:
    model = by_path("m").find()
    for version in (None, "latest", "1", 1):
        assert resolve(model, version) == model.latest
    with pytest.raises(UnknownVersion, match=r"^the model has no version '2'; available: '1'$"):
        resolve(model, 2)


AVAILABLE = f"available: '{'9' * 120}…', '007', '1' and '0'"
NOT_THERE: list[tuple[Any, str]] = [
    ("2", f"the model has no version '2'; {AVAILABLE}"),
    (2, f"the model has no version '2'; {AVAILABLE}"),
    ("9" * 5000, f"the model has no version '{'9' * 120}…'; {AVAILABLE}"),
    (10**5000, f"the model has no version '{hex(10**5000)[:120]}…'; {AVAILABLE}"),
]
NO_VERSIONS: list[tuple[Any, str]] = [
    ("abc", "'abc'"),
    ("", "''"),
    ("-1", "'-1'"),
    ("+1", "'+1'"),
    (" 1", "' 1'"),
    ("1.0", "'1.0'"),
    ("٣", "'٣'"),
    ("Latest", "'Latest'"),
    ("../1", "'../1'"),
    ("1\n", r"'1\n'"),
    ("x" * 5000, f"'{'x' * 120}…'"),
    (-1, "'-1'"),
    (-(10**5000), f"'{hex(-(10**5000))[:120]}…'"),
    (True, "'True'"),
    (1.0, "'1.0'"),
    (["1"], "'list'"),
]


@pytest.mark.parametrize(("version", "message"), NOT_THERE, ids=["str", "int", "long str", "long int"])
def test_a_version_that_is_not_there(version: str | int, message: str) -> None:
    with pytest.raises(UnknownVersion) as caught:
        resolve(MODEL, version)
    assert caught.value.message == message


@pytest.mark.parametrize(("version", "shown"), NO_VERSIONS, ids=[shown[:12] for _, shown in NO_VERSIONS])
def test_what_no_version_can_be(version: Any, shown: str) -> None:
    with pytest.raises(UnknownVersion) as caught:
        resolve(MODEL, version)
    assert caught.value.message == f'the model version must be a whole number or "latest", got {shown}'


def test_the_highest_versions_are_named() -> None:
    model: Model = by_dir(*(f"iris/{number}/m" for number in range(8))).find("iris")
    with pytest.raises(UnknownVersion) as caught:
        resolve(model, 8)
    assert (
        caught.value.message
        == "model 'iris' has no version '8'; available: '7', '6', '5', '4', '3' and 3 more"
    )


@pytest.mark.parametrize("name", [None, "", "anything"])
def test_c43_the_model_of_path_needs_no_name_and_ignores_one(name: str | None) -> None:
    assert by_path("m").find(name).name == "_cortex_default"


UNKNOWN: list[tuple[Any, str]] = [
    (None, "no model name was given; available: 'a', 'b', 'c', 'd', 'e' and 1 more"),
    ("x", "there is no model 'x'; available: 'a', 'b', 'c', 'd', 'e' and 1 more"),
    ("a\0", r"there is no model 'a\x00'; available: 'a', 'b', 'c', 'd', 'e' and 1 more"),
    (["a"], "there is no model '['a']'; available: 'a', 'b', 'c', 'd', 'e' and 1 more"),
]


@pytest.mark.parametrize(("name", "message"), UNKNOWN)
def test_c43_a_model_that_is_not_there(name: Any, message: str) -> None:
    tree = by_dir(*(f"{letter}/m" for letter in "fedcba"))
    assert tree.find("f").name == "f"
    with pytest.raises(UnknownModel) as caught:
        tree.find(name)
    assert caught.value.message == message


@pytest.mark.parametrize("tree", [by_path(), by_dir()])
def test_no_model_at_all(tree: ModelTree) -> None:
    with pytest.raises(UnknownModel, match=r"^no model is available$"):
        tree.find("a")


def test_all_errors_have_one_base() -> None:
    assert issubclass(UnknownModel, ModelError)
    assert issubclass(UnknownVersion, ModelError)
    assert issubclass(ModelError, CortexError)
