"""No input makes reading an API file fail in any other way than with problems that point into the file."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_core import shipped
from cortex_core.spec import document, schema
from cortex_core.spec.load import InvalidConfig, load
from cortex_core.spec.types import Api

REFERENCES = tuple(
    shipped.config(f"reference/{name}.yaml")
    for name in ("realtime-python", "realtime-tensorflow", "async", "batch", "task", "traffic-splitter")
)
KEYS = sorted({part for dotted in tuple(schema.keys()) for part in dotted.replace("[]", "").split(".")})
VALUES = (
    "RealtimeAPI", "AsyncAPI", "BatchAPI", "TaskAPI", "TrafficSplitter", "python", "tensorflow", "onnx",
    "handler.py", "a.proto", "s3://a/b", "./m", "10s", "-5s", "99999999999999h", "20Mi", "1e99", "0%", "100%",
    "iris", "_cortex_default",
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(VALUES)
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=5)), inner, max_size=6),
    ),
    max_leaves=30,
)
YAML_PIECES = st.sampled_from(
    (
        *"-:?{}[],&*!|>'\"%@`#~=<\t\n\r \u2028\x85\ufeff\x00é😀",
        "\n  ",
        "\n- ",
        ": ",
        "- name: a\n",
        "&a ",
        "*a ",
        "<<: *a",
        "!!python/object:x ",
        "--- ",
        "...\n",
        "yes",
        "010",
        "0x",
        "1e400",
        ".nan",
        "9" * 30,
        "\\",
        "\\ud800",
        *KEYS,
        *VALUES,
    )
)
DEPLOYED = load(REFERENCES[0] + REFERENCES[5])


class Files:
    """A project that has what the references name."""

    files = frozenset({"handler.py", "task.py", "src/a.py", "service.proto", "a.proto"})

    def read(self, path: str) -> bytes:
        return b"package realtime_grpc; service Service {}"


def check(text: str | bytes) -> list[Api] | None:
    """Load it; problems must lie in the source, be printable and in order."""
    try:
        apis = load(text, project=Files(), deployed=DEPLOYED)
    except InvalidConfig as caught:
        check_problems(caught)
        return None
    for api in apis:
        assert msgspec.json.decode(msgspec.json.encode(api), type=Api) == api
    return apis


def check_problems(invalid: InvalidConfig) -> None:
    assert invalid.problems
    places = [(problem.line, problem.column) for problem in invalid.problems]
    assert places == sorted(places)
    for problem in invalid.problems:
        assert 1 <= problem.column <= max(1, len(problem.source))
        assert 1 <= problem.width <= max(1, len(problem.source) - problem.column + 1)
        head, source, carets, *_ = problem.render().split("\n")
        assert head.startswith(f"cortex.yaml:{problem.line}:{problem.column}: ")
        assert len(carets) <= max(len(source), 8)
        assert not any(name in head for name in ("cortex_core", "msgspec", "jsonschema", "<class", "Error("))
    invalid.render().encode()


@given(st.text(max_size=200))
@settings(deadline=None)
def test_any_text(text: str) -> None:
    check(text)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes(data: bytes) -> None:
    check(data)


@given(st.text(alphabet=st.characters(), max_size=20))
@settings(deadline=None)
def test_text_with_surrogates(text: str) -> None:
    check(text)


@given(st.lists(YAML_PIECES, max_size=40).map("".join))
@settings(max_examples=60, deadline=None)
def test_any_pieces_of_yaml(text: str) -> None:
    check(text)


@given(NESTED)
@settings(max_examples=100, deadline=None)
def test_any_nested_data(value: Any) -> None:
    check(json.dumps(value))


@st.composite
def mutated_data(draw: st.DrawFn) -> str:
    """A reference file with some of its values or keys replaced."""
    root = document.read(draw(st.sampled_from(REFERENCES)), "")[0].root.value
    root = msgspec.json.decode(msgspec.json.encode(root))
    for _ in range(draw(st.integers(1, 4))):
        place: Any = root
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            change = draw(st.sampled_from(("replace", "remove", "add")))
            if change == "replace":
                place[key] = draw(NESTED)
            elif change == "remove":
                del place[key]
            elif isinstance(place, dict):
                place[draw(st.sampled_from(KEYS))] = draw(NESTED)
            break
    return json.dumps(root)


@given(mutated_data())
@settings(max_examples=60, deadline=None)
def test_mutated_references(text: str) -> None:
    check(text)


@given(st.sampled_from(REFERENCES), st.data())
@settings(max_examples=100, deadline=None)
def test_mutated_text_of_references(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = min(len(text), start + data.draw(st.integers(0, 20)))
    check(text[:start] + data.draw(st.lists(YAML_PIECES, max_size=4).map("".join)) + text[end:])


@pytest.mark.parametrize("text", REFERENCES)
def test_every_value_knows_its_place(text: str) -> None:
    """What is written at a scalar's span, read on its own, is the scalar."""
    read, findings = document.read(text, "cortex.yaml")
    assert findings == []
    scalars = list(_scalars(read.root))
    assert len(scalars) > 5
    for node in scalars:
        span = node.span
        assert span.line == span.end_line
        written = read.lines[span.line - 1][span.column - 1 : span.end_column - 1]
        assert document.read(written, "")[0].root.value == node.value


@given(st.dictionaries(st.text("abcé😀", min_size=1, max_size=5), st.integers(0, 9), min_size=1, max_size=5))
@settings(deadline=None)
def test_every_key_knows_its_place(entries: dict[str, int]) -> None:
    text = "".join(f"{key}: {value}\n" for key, value in entries.items())
    read, _ = document.read(text, "cortex.yaml")
    for key in entries:
        span = read.find((key,), at_key=True)
        assert read.lines[span.line - 1][span.column - 1 : span.end_column - 1] == key


def _scalars(node: document.Node) -> list[document.Node]:
    if not isinstance(node.value, dict | list):
        return [node]
    return [inner for child in node.children.values() for inner in _scalars(child)]
