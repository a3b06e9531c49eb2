"""Turning a class object into a file that can be shipped.

A class from a file is shipped as source: its statement, and of its module those that define what it uses,
directly or through them: imports, functions, classes, constants, also in `try`, `if` and the like. Nothing
else of the module is, so that a script which
defines a handler and then deploys it does not deploy again where it is loaded. A class without a file (typed
into an interpreter or a notebook) is shipped as a pickle.
"""

from __future__ import annotations

import ast
import inspect
import symtable
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
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
    """The statements of a module that its top-level `name` needs, in their order.

    Raises:
        CortexError: it uses what is defined only where the file is run as a script.
    """
    tree = ast.parse(module)
    tables = {each: _table(each) for each in tree.body}
    defining: dict[str, list[ast.stmt]] = {}
    for statement, table in tables.items():
        for bound in _bound(statement, table):
            defining.setdefault(bound, []).append(statement)
    names, pending = set[str](), [name]
    wanted: set[ast.stmt] = set()
    while pending:
        used = pending.pop()
        if used in names:
            continue
        names.add(used)
        statements = [each for each in defining.get(used, ()) if not _is_main_block(each)]
        if not statements and used in defining:
            raise CortexError(
                f"the class {name} uses {used}, which is defined below `if __name__ == '__main__'` only",
                hint=f"define {used} at the top level of the file",
            )
        wanted.update(statements)
        for each in statements:
            if not isinstance(each, (ast.Import, ast.ImportFrom)):
                pending += _used(tables[each])
    lines = module.splitlines()
    kept = [_source(each, names, lines) for each in tree.body if each in wanted or _is_for_all(each)]
    return "\n\n".join(kept) + "\n"


def _module_text(shipped: type) -> str | None:
    module = sys.modules.get(shipped.__module__)
    file = getattr(module, "__file__", None)
    if file is None:
        return None
    try:
        return Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _table(statement: ast.stmt) -> symtable.SymbolTable:
    """Python's own view of the names in one statement."""
    return symtable.symtable(ast.unparse(statement), "<statement>", "exec")


def _bound(statement: ast.stmt, table: symtable.SymbolTable) -> Iterator[str]:
    """Names that a top-level statement defines or changes."""
    for symbol in table.get_symbols():
        if symbol.is_assigned() or symbol.is_imported():
            yield symbol.get_name()
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    for target in targets:  # SETTINGS["a"] = 1
        while isinstance(target, (ast.Subscript, ast.Attribute)):
            target = target.value
            if isinstance(target, ast.Name):
                yield target.id


def _used(table: symtable.SymbolTable) -> Iterator[str]:
    """Names of the module that a statement uses; local variables of functions are not."""
    for symbol in table.get_symbols():
        # in the body of a class, a name that is assigned there may still be the module's when it is read
        if symbol.is_global() or (symbol.is_referenced() and table.get_type() in ("module", "class")):
            yield symbol.get_name()
    for below in table.get_children():
        yield from _used(below)


def _is_main_block(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )


def _is_for_all(statement: ast.stmt) -> bool:
    """Whether any other statement may depend on it: `from __future__ import …`, `from … import *`."""
    return isinstance(statement, ast.ImportFrom) and (
        statement.module == "__future__" or statement.names[0].name == "*"
    )


def _source(statement: ast.stmt, names: Set[str], lines: Sequence[str]) -> str:
    """The statement as it was written; an import with only the names that are needed."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        if not _is_for_all(statement):
            statement.names = [each for each in statement.names if _import_name(each) in names]
        return ast.unparse(statement)
    return "\n".join(lines[_first_line(statement) - 1 : statement.end_lineno])


def _import_name(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


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
