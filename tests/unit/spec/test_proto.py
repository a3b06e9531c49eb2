from __future__ import annotations

import pytest

from cortex_core.spec.proto import Proto, closure, read
from cortex_core.spec.proto_compiler import Compiled, Rpc, compiled


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
    found = read(source.encode())
    assert (found.package, found.services) == (package, services)


def test_where_names_stand() -> None:
    source = "/* größer */ package a . b; service A {}\nservice\n  B {} package c;"
    assert read(source.encode()) == Proto(
        package="a.b",
        package_at=source.index("a . b"),
        services=("A", "B"),
        services_at=(source.index("A"), source.index("B")),
    )


def test_bytes_that_are_no_text() -> None:
    assert read(b"\xff package iris; \xfe").package == "iris"


@pytest.mark.parametrize(
    ("source", "imports"),
    [
        (
            'import "a.proto"; import public \'b/c.proto\'; import weak "d.proto";',
            ("a.proto", "b/c.proto", "d.proto"),
        ),
        ('// import "no.proto";\noption x = "import"; message M { string import = 1; }', ()),
        ('import "unfinished', ()),
        ("import nothing;", ()),
    ],
)
def test_imports(source: str, imports: tuple[str, ...]) -> None:
    assert read(source.encode()).imports == imports


def test_a_file_and_all_it_imports_of_the_project() -> None:
    files = {
        "a.proto": b'import "b.proto"; import "google/protobuf/empty.proto";',
        "b.proto": b'import "deep/c.proto"; import "a.proto";',
        "deep/c.proto": b"",
        "other.proto": b"",
    }
    assert set(closure("a.proto", files.get)) == {"a.proto", "b.proto", "deep/c.proto"}


def test_forms_of_rpcs() -> None:
    source = b"""
        edition = "2023";
        package a.b;
        import "google/protobuf/empty.proto";
        import public "deep/c.proto";
        message M { message N {} }
        service S {  // comments
          rpc One (M) returns (.a.b.M.N);
          rpc Two (stream M) returns (google.protobuf.Empty) { option deprecated = true; }
          rpc Three (deep.C) returns (stream M);
          rpc Four (stream M) returns (stream M) {}
        }
        service T {}
    """
    found = compiled(
        "a.proto", {"a.proto": source, "deep/c.proto": b'syntax = "proto2"; package deep; message C {}'}
    )
    assert found == Compiled(
        package="a.b",
        services={
            "S": (
                Rpc(name="One"),
                Rpc(name="Two", takes_stream=True),
                Rpc(name="Three", gives_stream=True),
                Rpc(name="Four", takes_stream=True, gives_stream=True),
            ),
            "T": (),
        },
    )


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ('syntax = "proto3";\nservice S { rpc A (B) returns (B) }', ('a.proto:2:35: expected ";"',)),
        ('syntax = "proto3";\nmessage M { int32 a = 1; int32 b = 1; }',
         ('a.proto:2:36: field number 1 has already been used in "M" by field "a". Next available field number is 2',)),
        ('syntax = "proto3"; import "../b.proto"; message M { b.N n = 1; }',
         ("a.proto:1:20: imports '../b.proto', which is not in the project; imports are relative to its root",)),
        ('syntax = "proto3"; import "a.proto";',
         ("a.proto:1:20: file recursively imports itself: a.proto -> a.proto",)),
        ('syntax = "proto9";',
         ('a.proto:1:10: unrecognized syntax identifier "proto9".  This parser only recognizes "proto2" and "proto3"',)),
    ],
)  # fmt: skip
def test_what_the_compiler_has_to_say(source: str, problems: tuple[str, ...]) -> None:
    found = compiled("a.proto", {"a.proto": source.encode()})
    heads = tuple(problem.partition("\n")[0] for problem in found.problems)
    assert (heads, found.services) == (problems, {})


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ("service S { rpc import(M) returns (M); }",
         ("a.proto:2:17: 'import' is a keyword of Python; rename the RPC",)),
        ("\tservice lambda {\n\trpc __init__(M) returns (stream None); }",
         ("a.proto:2:10: 'lambda' is a keyword of Python; rename the service",
          "a.proto:3:6: '__init__' cannot be a method of a handler; rename the RPC",
          "a.proto:3:34: 'None' is a keyword of Python; rename the message")),
        ("service S { rpc print(in.class.X) returns (M); }", ()),
    ],
)  # fmt: skip
def test_names_that_python_cannot_have(source: str, problems: tuple[str, ...]) -> None:
    """Those of packages are not seen there."""
    head = b'syntax = "proto3"; import "x.proto"; message M {} message None {}\n'
    imported = b'syntax = "proto3"; package in.class; message X {}'
    found = compiled("a.proto", {"a.proto": head + source.encode(), "x.proto": imported})
    assert tuple(problem.partition("\n")[0] for problem in found.problems) == problems
    assert bool(found.services) == (not problems)


@pytest.mark.parametrize("path", ["2a.proto", "2b/a.proto", "b/2a.proto", "b.2/a.proto", "a b.proto"])
def test_files_that_python_cannot_import(path: str) -> None:
    source = f'syntax = "proto3"; import "{path}";'.encode()
    found = compiled("a.proto", {"a.proto": source, path: b'syntax = "proto3";', "b-c/d.e.proto": b""})
    assert found.problems == (f"{path}: Python cannot import a module of such a name; rename the file",)


def test_problems_of_large_files_are_a_few() -> None:
    source = (
        'syntax = "proto3"; message M {\n' + "".join(f"  X{n} x{n} = {n + 1};\n" for n in range(100)) + "}"
    )
    assert len(compiled("a.proto", {"a.proto": source.encode()}).problems) == 20
