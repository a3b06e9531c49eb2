from __future__ import annotations

import pytest

from cortex_core.spec.proto import Proto, read


@pytest.mark.parametrize(
    ("source", "package", "services"),
    [
        ("package iris; service Iris {}", "iris", ("Iris",)),
        ("package a . b;\nservice\n  S\n{ rpc service (package) returns (x); }", "a.b", ("S",)),
        ("// package no;\n/* service No {} */ package yes; // service No {}", "yes", ()),
        ("option x = \"package no; service No {\"; service 'No' {} service Yes {}", None, ("", "Yes")),
        ('option x = "a\\"; service No {}"; service Yes {}', None, ("Yes",)),
        ("message service { string package = 1; } service A {} service B {}", None, ("A", "B")),
        ("option x = 'http://a'; package iris;", "iris", ()),
        ("} } service A {}", None, ("A",)),
        ("/* never ends package iris;", None, ()),
        ("", None, ()),
    ],
)
def test_package_and_services(source: str, package: str | None, services: tuple[str, ...]) -> None:
    assert read(source.encode()) == Proto(package=package, services=services)


def test_bytes_that_are_no_text() -> None:
    assert read(b"\xff package iris; \xfe").package == "iris"
