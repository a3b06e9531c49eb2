"""The schemas, the commented reference files and the typed spec tell the same story."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from cortex_core import shipped
from cortex_core.spec import document, schema
from cortex_core.spec.load import load
from cortex_core.spec.types import Api
from cortex_core.spec.units import parse_duration

REFERENCES = ("realtime-python", "realtime-tensorflow", "async", "batch", "task", "traffic-splitter")
FREE = ("handler.config", "definition.config", "handler.env", "definition.env")
"""Maps whose keys are the user's."""


def reference(name: str) -> str:
    return shipped.config(f"reference/{name}.yaml")


def written_keys(value: Any, path: str = "") -> Iterator[str]:
    """Dotted keys of a value, as `schema.keys` names them."""
    if isinstance(value, dict) and path not in FREE:
        for key, inner in value.items():
            dotted = f"{path}.{key}" if path else key
            yield dotted
            yield from written_keys(inner, dotted)
    elif isinstance(value, list):
        for entry in value:
            yield from written_keys(entry, f"{path}[]" if path else "")


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_is_valid(name: str) -> None:
    assert load(reference(name), filename=f"{name}.yaml")


@pytest.mark.parametrize("name", REFERENCES)
def test_every_key_of_a_reference_has_a_comment(name: str) -> None:
    first_api = reference(name).split("\n\n")[1]
    bare = [
        line
        for line in first_api.splitlines()
        if re.match(r"\s*(- )?[a-z_]+:", line)
        and "#" not in line
        and not re.match(r"\s*(networking|autoscaling):$", line)
    ]
    repeated = [
        line for line in bare if re.match(r"\s*(- name: (large|iris-.)|path:|weight: |threshold: )", line)
    ]
    assert bare == repeated


def test_references_and_schemas_have_the_same_keys() -> None:
    written = {
        key for name in REFERENCES for key in written_keys(document.read(reference(name), name)[0].root.value)
    }
    assert written == schema.keys().keys()


def test_reference_files_are_all_known() -> None:
    folder = Path(__file__).parents[3] / "configs" / "reference"
    assert {path.stem for path in folder.glob("*.yaml")} == set(REFERENCES)


@pytest.mark.parametrize("name", schema.FILES)
def test_schema_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(shipped.schema(name))


def test_schema_files_are_all_known() -> None:
    folder = Path(__file__).parents[3] / "schemas"
    assert {path.name for path in folder.glob("*.json")} == set(schema.FILES)


def test_defaults_of_the_schemas_are_those_of_the_spec() -> None:
    models = "multi_model_reloading: {path: s3://a}"
    [api] = load(f"- {{name: a, kind: RealtimeAPI, handler: {{type: python, path: a.py, {models}}}}}\n")
    spec = msgspec.to_builtins(api)
    compared = 0
    for dotted, key in schema.keys().items():
        section, _, field = dotted.rpartition(".")
        if key.default is None or dotted.startswith(("apis", "definition", "handler.models.")):
            continue
        value = spec
        for part in dotted.split("."):
            value = value[part]
        is_duration = isinstance(key.default, str) and (section == "autoscaling" or field == "load_timeout")
        assert value == (parse_duration(key.default) if is_duration else key.default), field
        compared += 1
    assert compared > 15


@pytest.mark.parametrize("name", REFERENCES)
def test_typed_spec_survives_json(name: str) -> None:
    for api in load(reference(name)):
        assert msgspec.json.decode(msgspec.json.encode(api), type=Api) == api


def test_what_is_not_shipped() -> None:
    with pytest.raises(FileNotFoundError):
        shipped.config("reference/nothing.yaml")
    with pytest.raises(FileNotFoundError):
        shipped.schema("nothing.schema.json")
