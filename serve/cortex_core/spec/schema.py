"""The shape of an API file: `schemas/*.schema.json`, and what is said when a file does not have it.

The schemas are ordinary JSON Schemas that editors can use. Their keyword `errorMessage` holds the words for
the rule it stands beside; everything else is worded here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from cortex_core import shipped
from cortex_core.spec.problems import MOST_FINDINGS, Finding, Path, closest, listed, same_beginning, shown

ROOT = "cortex.schema.json"
FILES = (ROOT, "handler.schema.json", "networking.schema.json", "scaling.schema.json", "values.schema.json")
MOST_APIS = 1000

Schema: TypeAlias = dict[str, Any]

_NOUNS = {
    "object": "a map",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
}
_FORMER = {"predictor": "handler"}
"""Keys as earlier versions of Cortex named them."""
_URGENCY = ("type", "not", "enum", "minLength", "pattern")
"""Of several errors about one value the first of these is told."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the API file, as the schemas know it."""

    is_required: bool
    default: Any = None


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong about the shape of a file's content.

    Attributes:
        findings: at most a thousand.
        is_complete: whether these are all, so that everything they do not name can be relied on.
    """

    findings: list[Finding]
    is_complete: bool


def check(value: Any, known: list[Finding]) -> Shape:
    """Compare a file's content with the schemas.

    Args:
        value: the content.
        known: what was found before; nothing is said twice about the same place.
    """
    if isinstance(value, list) and len(value) > MOST_APIS:
        too_many = Finding(path=(), message=f"must be at most {MOST_APIS} APIs, got {len(value)}")
        return Shape(findings=[too_many], is_complete=False)
    silent = {path for finding in known for path in finding.blocked}
    told: dict[tuple[Path, str], tuple[int, Finding]] = {}
    ranked = _ranked(value)
    for urgency, finding in islice(ranked, MOST_FINDINGS):
        place = (finding.path, finding.message if finding.about_missing else "")
        if finding.path not in silent and urgency < told.get(place, (len(_URGENCY) + 1,))[0]:
            told[place] = (urgency, finding)
    found = [finding for _, finding in told.values()]
    refused = {finding.path for finding in found if finding.is_refused}
    return Shape(
        findings=[finding for finding in found if not _is_inside(finding, refused)],
        is_complete=next(ranked, None) is None,
    )


def _ranked(value: Any) -> Iterator[tuple[int, Finding]]:
    for error in _validator().iter_errors(value):
        urgency = _URGENCY.index(error.validator) if error.validator in _URGENCY else len(_URGENCY)
        for finding in _findings(error):
            yield urgency, finding


def _is_inside(finding: Finding, refused: set[Path]) -> bool:
    """Whether it is about the inside of something that should not be there at all."""
    end = len(finding.path) + (0 if finding.is_refused else 1)
    return any(finding.path[:length] in refused for length in range(end))


@cache
def keys() -> dict[str, Key]:
    """Every key of an API, dotted, with `[]` for the entries of a list: "handler.models.paths[].name"."""
    return dict(_keys(schemas()[ROOT]["$defs"]["api"], ROOT, ""))


@cache
def schemas() -> dict[str, Schema]:
    """The schemas by file name."""
    return {name: shipped.schema(name) for name in FILES}


def _keys(schema: Schema, file: str, path: str) -> Iterator[tuple[str, Key]]:
    branches = [schema, *(branch.get("then", {}) for branch in schema.get("allOf", ()))]
    required = {name for branch in branches for name in branch.get("required", ())}
    for name, written in schema.get("properties", {}).items():
        inner, inner_file = _merged(written, file)
        if inner.get("not") == {}:
            continue
        dotted = f"{path}.{name}" if path else name
        yield dotted, Key(is_required=name in required, default=inner.get("default"))
        yield from _keys(inner, inner_file, dotted)
    if "items" in schema:
        inner, inner_file = _merged(schema["items"], file)
        yield from _keys(inner, inner_file, f"{path}[]")


def _merged(schema: Schema, file: str) -> tuple[Schema, str]:
    """A schema together with the one it refers to, and the file that one is in."""
    if "$ref" not in schema:
        return schema, file
    name, pointer = schema["$ref"].split("#")
    target: Any = schemas()[name or file]
    for part in pointer.strip("/").split("/"):
        target = target[part]
    inner, inner_file = _merged(target, name or file)
    return {**inner, **schema}, inner_file


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry, Resource

    strict = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: type(value) is int,
            "number": lambda _, value: type(value) in (int, float),
        }
    )
    validator = extend(  # type: ignore[no-untyped-call]  # its stubs leave it untyped
        Draft202012Validator, validators={"pattern": _pattern}, type_checker=strict
    )
    registry = Registry().with_resources(
        (name, Resource.from_contents(schema)) for name, schema in schemas().items()
    )
    return validator(schemas()[ROOT], registry=registry)


def _pattern(_: Any, pattern: str, instance: Any, schema: Schema) -> Iterator[Any]:
    """`pattern` with `$` as in JavaScript: only the end of the text, not also before a last line break."""
    from jsonschema import ValidationError

    if not isinstance(instance, str) or len(instance) > schema.get("maxLength", len(instance)):
        return  # maxLength says so, and no pattern has to work on a text without end
    if not re.search(pattern.replace("$", r"\Z"), instance):
        yield ValidationError(schema.get("errorMessage", "does not match"))


def _findings(error: Any) -> Iterator[Finding]:
    path: Path = tuple(error.absolute_path)
    if len(path) < 2 and error.validator in ("type", "minItems"):
        yield _entry_finding(error, path)
    elif "propertyNames" in error.absolute_schema_path:
        yield Finding(path=(*path, error.instance), message=error.schema["errorMessage"], at_key=True)
    elif error.validator == "additionalProperties" and error.validator_value is False:
        yield from _unknown_keys(error, path)
    elif error.validator == "required":
        yield from _missing_keys(error, path)
    elif error.validator == "not" and error.validator_value == {}:
        message = f"not supported here: {error.schema['errorMessage']}"
        yield Finding(path=path, message=message, at_key=True, is_refused=True)
    elif error.validator == "type" and error.instance is None:
        yield Finding(path=path, message=_null(error, path))
    else:
        yield Finding(path=path, message=_wording(error))


def _entry_finding(error: Any, path: Path) -> Finding:
    """The root is not a list, or an entry is not a map (F-01), or there is no entry (F-02)."""
    if error.validator == "minItems" or (error.instance is None and not path):
        return Finding(path=path, message="at least one API must be configured")
    message = (
        f"the file must contain a list of maps, one for each API ('- name: …'); got {shown(error.instance)}"
    )
    return Finding(path=path, message=message)


def _unknown_keys(error: Any, path: Path) -> Iterator[Finding]:
    valid = error.schema["properties"]
    refused = _refused(error.schema, error.instance)
    usable = [name for name in valid if name not in refused]
    for key in error.instance:
        if key in valid:
            continue
        meant = _FORMER.get(key) if _FORMER.get(key) in usable else None
        meant = (
            meant or closest(key, usable) or (None if _sections_with(key) else same_beginning(key, usable))
        )
        blocks = ((*path, key), (*path, meant)) if meant else ((*path, key),)
        yield Finding(
            path=(*path, key),
            message=f"unknown key; {_advice(key, meant, usable)}",
            at_key=True,
            blocks=blocks,
        )


def _refused(schema: Schema, instance: Any) -> set[str]:
    """The keys that a map may not have, given what else is in it."""
    branches = [
        branch["then"]
        for branch in schema.get("allOf", ())
        if "then" in branch and _validator().evolve(schema=branch["if"]).is_valid(instance)
    ]
    return {
        name
        for branch in (schema, *branches)
        for name, key in branch.get("properties", {}).items()
        if key.get("not") == {}
    }


def _advice(key: str, meant: str | None, valid: Sequence[str]) -> str:
    if meant:
        return f"did you mean '{meant}'?"
    sections = _sections_with(key)
    if sections:
        names = [f"'{path}'" if path else "the API itself" for path in sections]
        return f"it belongs in {listed(names, 'or')}"
    return f"valid here: {', '.join(valid)}"


def _sections_with(key: str) -> list[str]:
    """The outermost sections that have the key."""
    sections = [dotted.rpartition(".")[0] for dotted in keys() if dotted.rpartition(".")[2] == key]
    outermost = min((section.count(".") for section in sections), default=0)
    return [section for section in sections if section.count(".") == outermost]


def _missing_keys(error: Any, path: Path) -> Iterator[Finding]:
    reason = error.schema.get("errorMessage")
    for key in error.validator_value:
        if key not in error.instance:
            message = f"missing key '{key}'" + (f" ({reason})" if reason else "")
            yield Finding(path=path, message=message, at_key=True, about_missing=True, blocks=((*path, key),))


def _null(error: Any, path: Path) -> str:
    key = keys().get(_dotted(path))
    types = error.validator_value
    is_section = bool({"object", "array"} & set([types] if isinstance(types, str) else types))
    refused = "cannot be empty or null" if is_section else "cannot be null"
    if key is None or key.is_required:
        return refused
    return f"{refused}; give a value, or remove the key to get the default"


def _dotted(path: Path) -> str:
    return "".join("[]" if isinstance(part, int) else f".{part}" for part in path[1:]).removeprefix(".")


def _wording(error: Any) -> str:
    own = error.schema.get("errorMessage")
    if own:
        return f"{own}, got {shown(error.instance)}"
    return _WORDS[error.validator](error.validator_value, error.instance)


def _type(expected: str | list[str], value: Any) -> str:
    types = [expected] if isinstance(expected, str) else expected
    message = (
        f"must be {listed([_NOUNS[name] for name in types if name != 'null'], 'or')}, got {shown(value)}"
    )
    if "string" in types and isinstance(value, bool | int | float):
        return f"{message}; write it in quotes"
    if isinstance(value, str) and "string" not in types and _reads_as(types, value):
        return f"{message}; remove the quotes"
    return message


def _reads_as(types: list[str], text: str) -> bool:
    """Whether the text without quotes would be of one of the types."""
    return (
        ("boolean" in types and text in ("true", "false"))
        or ("integer" in types and re.fullmatch(r"-?[0-9]+", text) is not None)
        or ("number" in types and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) is not None)
    )


def _enum(valid: list[str], value: Any) -> str:
    meant = closest(value, valid) if isinstance(value, str) else None
    message = f"must be one of {', '.join(valid)}; got {shown(value)}"
    return f"{message}; did you mean '{meant}'?" if meant else message


_WORDS: dict[str, Callable[[Any, Any], str]] = {
    "type": _type,
    "enum": _enum,
    "minimum": lambda limit, value: f"must be at least {limit}, got {shown(value)}",
    "maximum": lambda limit, value: f"must be at most {limit}, got {shown(value)}",
    "exclusiveMinimum": lambda limit, value: f"must be greater than {limit}, got {shown(value)}",
    "exclusiveMaximum": lambda limit, value: f"must be less than {limit}, got {shown(value)}",
    "minLength": lambda _limit, _value: "cannot be empty",
    "maxLength": lambda limit, value: f"must be at most {limit} characters, got {len(value)}: {shown(value)}",
    "minItems": lambda _limit, _value: "cannot be empty",
}
