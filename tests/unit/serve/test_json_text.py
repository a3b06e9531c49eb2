"""`json_text` against the standard library it stands in for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_serve import json_text

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))  # with lone surrogates
)
keys = st.text() | st.integers() | st.floats() | st.booleans() | st.none()
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    """Equality where NaN equals itself, and 1, 1.0 and True are three values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(documents)
def test_what_is_written_is_read_as_the_standard_librarys(value: Any) -> None:
    assert same(json.loads(json_text.encode(value)), json.loads(json.dumps(value)))


@given(documents, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-be"]), st.booleans())
def test_what_is_read_is_what_the_standard_library_reads(value: Any, encoding: str, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode(encoding, "surrogatepass")
    assert same(json_text.decode(body), json.loads(body))


@given(st.binary(max_size=60) | st.text('[]{}",:0123456789eE.+-tfnaulrsNI\\ ', max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused_as_by_the_standard_library(body: bytes) -> None:
    assert same(outcome(json_text.decode, body), outcome(json.loads, body))


def outcome(decode: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return decode(body)
    except ValueError as error:
        return f"{type(error)}: {error}"


class Text(str):
    __slots__ = ()


class Number(float):
    __slots__ = ()


@pytest.mark.parametrize(
    "value", [Text("a"), [Number(1.5)], {"a": Text("b")}, {Text("a"): 1}, {"a": Number("nan")}]
)
def test_subclasses_are_written_as_what_they_derive_from(value: Any) -> None:
    assert json_text.encode(value) == json.dumps(value, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "value", [{1}, b"x", [b"x"], {"a": {"b": object()}}, 1j, [..., 1], {(1, 2): 3}, {b"k": 1}]
)
def test_what_the_standard_library_refuses_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        json_text.encode(value)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_depth(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"

    def nested(levels: int) -> bytes:
        inner = b"1" if opening != b"[" else b""
        return opening * levels + inner + closing * levels

    json_text.decode(nested(json_text.MAX_DEPTH))
    for levels in (json_text.MAX_DEPTH + 1, json_text.MAX_DEPTH + 4, 700, 100_000):
        with pytest.raises(ValueError, match=r"^nested more than 512 deep$"):
            json_text.decode(nested(levels))


def test_depth_is_found_in_what_is_not_json_and_in_every_encoding() -> None:
    deep = "[" * 100_000
    documents = [deep.encode(encoding) for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32")]
    documents += [f'["\\\\","\\"[",{deep}'.encode(), f"{deep}{{\\".encode(), f'{{"a":{deep}}}"'.encode()]
    for body in documents:
        with pytest.raises(ValueError, match=r"^nested more than 512 deep$"):
            json_text.decode(body)


def test_breadth_is_not_depth() -> None:
    body = json.dumps([[[1.0, 2.0], {"a": "]][["}]] * 5000).encode()
    assert json_text.decode(body) == json.loads(body)


@pytest.mark.parametrize("body", [b"1" * 5000, b'{"a": -' + b"1" * 5000 + b"}"])
def test_an_integer_too_long_for_python_is_refused_in_our_words(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^an integer in it has too many digits$"):
        json_text.decode(body)
