"""What the compiler says of a .proto file: the RPCs of its services, or what is wrong and where.

protoc runs in a process of its own: it writes its complaints to the descriptor of stderr, which others use.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import lru_cache
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cortex_core.spec.problems import Place

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

COMPILE_WITHIN = 30.0
"""Seconds; it takes a tenth of one."""

MOST_PROBLEMS = 20
MOST_REMEMBERED = 8

_COMPLAINT = re.compile(r"(?P<file>.+?\.proto):(?P<line>\d+):(?P<column>\d+): (?P<text>.+)")
_WORD = re.compile(r"[\w.]+")
_NOT_FOUND = re.compile(r"(?P<file>.+): (?:File not found\.|Backslashes, .+)")
_IMPORT = re.compile(r'Import "(?P<file>.+)" was not found or had errors\.')
_NOISE = ("warning: ", "Suggested field numbers", "Interpreting non ascii")

_PROTOC = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from grpc_tools import protoc
sys.exit(protoc.main(sys.argv))
"""


class Rpc(msgspec.Struct, frozen=True, kw_only=True):
    """One RPC.

    Attributes:
        name: also of the handler's method.
        takes_stream, gives_stream: whether its request, its answer is a stream.
    """

    name: str
    takes_stream: bool = False
    gives_stream: bool = False


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """A .proto file that was compiled.

    Attributes:
        package: its dotted name, or None.
        services: the RPCs of each service, by its name.
        problems: one sentence each, with the place and an excerpt below; then the rest is empty.
    """

    package: str | None = None
    services: dict[str, tuple[Rpc, ...]] = {}
    problems: tuple[str, ...] = ()


def is_installed() -> bool:
    """Whether there is a compiler here."""
    return importlib.util.find_spec("grpc_tools") is not None


def compiled(path: str, sources: Mapping[str, bytes]) -> Compiled:
    """Compile a .proto file.

    Args:
        path: of the file.
        sources: the file and what it imports, by path; without what comes with the compiler (google/protobuf/…).
    """
    return _compiled(path, tuple(sorted(sources.items())))


@lru_cache(MOST_REMEMBERED)  # several rules, and the APIs of a file, ask about the same one
def _compiled(path: str, sources: tuple[tuple[str, bytes], ...]) -> Compiled:
    with tempfile.TemporaryDirectory(prefix="cortex-proto-") as folder:
        root, descriptors = Path(folder, "files"), Path(folder, "descriptors")
        for name, source in sources:
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source)
        command = [
            f"--proto_path={root}", f"--descriptor_set_out={descriptors}", "--include_source_info", path,
        ]  # fmt: skip
        try:
            done = _protoc(command)
        except subprocess.TimeoutExpired:
            return Compiled(problems=(f"{path}: compiling it took longer than {COMPILE_WITHIN:g} s",))
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace")
            problems = tuple(_problems(said, root, dict(sources))) or (
                f"{path}: cannot be compiled: {said.strip()}",
            )
            return Compiled(problems=problems[:MOST_PROBLEMS])
        return _described(descriptors.read_bytes(), dict(sources))


def _protoc(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Without site-packages' start-up files, which take as long as compiling."""
    spec = importlib.util.find_spec("grpc_tools")
    assert spec is not None
    assert spec.origin is not None
    tools = Path(spec.origin).parent
    command = [
        sys.executable, "-I", "-S", "-c", _PROTOC, str(tools.parent), *arguments, f"--proto_path={tools / '_proto'}",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, timeout=COMPILE_WITHIN, check=False)


def _problems(said: str, root: Path, sources: Mapping[str, bytes]) -> Iterator[str]:
    """The compiler's complaints in our words; what only follows from others is left out."""
    lines = said.replace(f"{root}/", "").splitlines()
    missing = {found["file"] for line in lines if (found := _NOT_FOUND.fullmatch(line))}
    told = set[str]()
    for line in lines:
        complaint = _COMPLAINT.fullmatch(line)
        if complaint is None or complaint["text"].startswith(_NOISE):
            continue
        text = complaint["text"]
        imported = _IMPORT.fullmatch(text)
        if imported is None and missing and text.endswith(" is not defined."):
            continue
        if imported is not None and imported["file"] not in missing:
            continue
        if imported is not None:
            text = (
                f"imports {imported['file']!r}, which is not in the project; imports are relative to its root"
            )
        place = _place(complaint["file"], sources, int(complaint["line"]), int(complaint["column"]))
        problem = place.told(f"{text[:1].lower()}{text[1:].rstrip('.')}")
        if problem not in told:
            told.add(problem)
            yield problem


def _place(file: str, sources: Mapping[str, bytes], line: int, column: int) -> Place:
    """Where something is; the compiler counts bytes, and a tab up to the next multiple of eight."""
    lines = sources.get(file, b"").split(b"\n")
    raw = lines[line - 1] if line <= len(lines) else b""
    before = bisect_left(range(len(raw)), column - 1, key=lambda length: len(raw[:length].expandtabs(8)))
    start = len(raw[:before].decode(errors="replace"))
    source = raw.decode(errors="replace").rstrip()
    word = _WORD.match(source, start)
    return Place(filename=file, line=line, column=start + 1, width=len(word[0]) if word else 1, source=source)


def _described(descriptors: bytes, sources: Mapping[str, bytes]) -> Compiled:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    [file] = FileDescriptorSet.FromString(descriptors).file
    problems = tuple(_unusable_names(file, sources))
    if problems:
        return Compiled(problems=problems[:MOST_PROBLEMS])
    return Compiled(
        package=file.package or None,
        services={
            service.name: tuple(
                Rpc(
                    name=method.name,
                    takes_stream=method.client_streaming,
                    gives_stream=method.server_streaming,
                )
                for method in service.method
            )
            for service in file.service
        },
    )


def _unusable_names(file: FileDescriptorProto, sources: Mapping[str, bytes]) -> Iterator[str]:
    """Names that are fine in a .proto file, but not in the modules that it is compiled to, or in a handler."""
    spans = {tuple(location.path): location.span for location in file.source_code_info.location}

    def told(what: str, *path: int) -> str:
        line, column, *_ = spans[path]
        return _place(file.name, sources, line + 1, column + 1).told(what)

    for name in sources:
        if not _is_importable(name):
            yield f"{name}: Python cannot import a module of such a name; rename the file"
    for number, service in enumerate(file.service):
        at = (_SERVICE, number)
        if iskeyword(service.name):
            yield told(f"{service.name!r} is a keyword of Python; rename the service", *at, _NAME)
        for which, method in enumerate(service.method):
            here = (*at, _METHOD, which)
            if iskeyword(method.name):
                yield told(f"{method.name!r} is a keyword of Python; rename the RPC", *here, _NAME)
            if method.name.startswith("__"):
                yield told(f"{method.name!r} cannot be a method of a handler; rename the RPC", *here, _NAME)
            for kind, message in ((_REQUEST, method.input_type), (_ANSWER, method.output_type)):
                name = message.rpartition(".")[2]
                if iskeyword(name):
                    yield told(f"{name!r} is a keyword of Python; rename the message", *here, kind)


def _is_importable(file: str) -> bool:
    """Whether the modules of a file can be imported by a statement."""
    *packages, stem = file.removesuffix(".proto").replace("-", "_").replace("/", ".").split(".")
    return all(name.isidentifier() for name in (*packages, f"{stem}_pb2"))


_SERVICE, _NAME, _METHOD, _REQUEST, _ANSWER = 6, 1, 2, 2, 3
"""Fields of descriptors, by which places in a file are named."""
