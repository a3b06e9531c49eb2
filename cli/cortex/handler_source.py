"""Turning a class object into a file that can be shipped.

A class from a file is shipped as source: its statement, and of its module the imports, functions, classes
and constants that it uses, directly or through them. Nothing else of the module is, so that a script which
defines a handler and then deploys it does not deploy again where it is loaded. A class without a file (typed
into an interpreter or a notebook) is shipped as a pickle.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cortex_core.errors import CortexError

FILE = "handler.py"
PICKLE = "handler.pickle"


@dataclass(frozen=True, kw_only=True)
class Source:
    """What stands for a class in a project.

    Attributes:
        files: content by name.
        requirements: packages that loading it needs.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def of(shipped: type, *, name: str) -> Source:
    """A class as a project's `handler.py`.

    Args:
        shipped: the class.
        name: what it has to be called there.

    Raises:
        CortexError: it has no source, and cloudpickle is not installed.
    """
    if not inspect.isclass(shipped):
        raise TypeError(f"a class is needed, not {type(shipped).__name__}")
    text = _module_text(shipped)
    if text is None or "." in shipped.__qualname__:
        return _pickled(shipped, name=name)
    source = needed(text, shipped.__name__)
    if shipped.__name__ != name:
        source += f"\n\n{name} = {shipped.__name__}\n"
    return Source(files={FILE: source.encode()})


def needed(module: str, name: str) -> str:
    """The statements of a module that its top-level `name` needs, in their order, with all imports."""
    tree = ast.parse(module)
    defining = {bound: statement for statement in tree.body for bound in _bound(statement)}
    wanted: set[ast.stmt] = set()
    pending = [name]
    while pending:
        statement = defining.get(pending.pop())
        if statement is not None and statement not in wanted:
            wanted.add(statement)
            pending += [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
    kept = [each for each in tree.body if each in wanted or isinstance(each, (ast.Import, ast.ImportFrom))]
    lines = module.splitlines()
    return "\n\n".join("\n".join(lines[_first_line(each) - 1 : each.end_lineno]) for each in kept) + "\n"


def _module_text(shipped: type) -> str | None:
    module = sys.modules.get(shipped.__module__)
    file = getattr(module, "__file__", None)
    if file is None:
        return None
    try:
        return Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement defines."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield statement.name
        case ast.Assign() | ast.AnnAssign():
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
        case _:
            return


def _first_line(statement: ast.stmt) -> int:
    decorators = getattr(statement, "decorator_list", [])
    lines: list[int] = [statement.lineno, *(each.lineno for each in decorators)]
    return min(lines)


def _pickled(shipped: type, *, name: str) -> Source:
    try:
        import cloudpickle  # type: ignore[import-untyped]  # it has no types
    except ImportError as error:
        raise CortexError(
            f"the class {shipped.__qualname__} has no source file, so it has to be pickled",
            hint="pip install cloudpickle, or define the class at the top level of a file",
        ) from error
    loader = (
        "from pathlib import Path\n\nimport cloudpickle\n\n"
        f'{name} = cloudpickle.loads(Path(__file__).with_name("{PICKLE}").read_bytes())\n'
    )
    module = sys.modules.get(shipped.__module__)
    if module is not None and module.__name__ != "__main__":
        cloudpickle.register_pickle_by_value(module)  # it is not there where the class is loaded
    return Source(
        files={FILE: loader.encode(), PICKLE: cloudpickle.dumps(shipped)},
        requirements=(f"cloudpickle=={cloudpickle.__version__}",),
    )
