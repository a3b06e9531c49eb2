"""H-01 to H-05, H-07 to H-09: what a handler's source shows before anything starts: its syntax, class, methods, arguments.

The source is parsed, never run. What a statement only does when it runs (a base class, a decorator, an import)
is not guessed at, so a handler that works is never refused; the runtime looks at the class itself.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property, lru_cache
from importlib.util import decode_source

from cortex_core.spec.contracts import (
    BATCHED,
    VERBS,
    Contract,
    Method,
    meant_argument,
    meant_post,
    meant_rpc,
    missing_argument,
    missing_batched,
    missing_method,
    missing_rpc,
    must_not_be_async,
    must_not_yield,
    none_of,
    taken_rpc,
    unsupported,
    without_self,
)
from cortex_core.spec.problems import Place, closest

LARGEST_FILE = 1024 * 1024
MOST_REMEMBERED = 16

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_DYNAMIC = frozenset({"__getattr__", "exec", "globals", "locals", "modules", "setattr", "vars"})
"""Names by which a module can get a class that no statement of it defines."""


def problems(
    source: bytes,
    file: str,
    *,
    class_name: str,
    contract: Contract | None,
    rpcs: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """What is wrong in a handler's file.

    Args:
        source: its content; from a megabyte on it is not looked at.
        file: its name, for messages.
        class_name: the class it must have.
        contract: what the class must look like; None leaves that out.
        rpcs: names of the gRPC service's methods.

    Returns:
        One sentence for each problem, with its place and an excerpt below.
    """
    if len(source) > LARGEST_FILE:
        return ()
    return _problems(source, file, class_name, contract, rpcs)


@lru_cache(MOST_REMEMBERED)  # the APIs of a file often share one handler
def _problems(
    source: bytes, file: str, class_name: str, contract: Contract | None, rpcs: tuple[str, ...]
) -> tuple[str, ...]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's code; they see them when it runs
            module = ast.parse(source, filename=file)
        return tuple(_class_problems(module, _File(file, source), class_name, contract, rpcs))
    except SyntaxError as error:
        return (_syntax_problem(_File(file, source), error),)
    except ValueError as error:  # a zero byte
        return (f"{file}: {error}",)
    except (RecursionError, MemoryError):
        return ()  # nested too deep for the parser; importing it says more


class _File:
    """Says where something stands in a handler's file."""

    def __init__(self, name: str, source: bytes) -> None:
        self.name = name
        self._source = source

    def at(self, node: ast.stmt | ast.expr | ast.arg, word: str) -> Place:
        """A word of the line on which a node begins."""
        line = self.lines[node.lineno - 1]
        start = len(line.encode()[: node.col_offset].decode(errors="replace"))
        found = re.compile(rf"\b{re.escape(word)}\b").search(line, start)
        return self.place(node.lineno, found.start() if found else start, len(word) if found else 1)

    def place(self, line: int, start: int, width: int) -> Place:
        """Some characters of a line.

        Args:
            line: from 1.
            start: from 0.
        """
        return Place(
            filename=self.name, line=line, column=start + 1, width=width, source=self.lines[line - 1]
        )

    @cached_property
    def lines(self) -> list[str]:
        """As Python counts them."""
        try:
            text = decode_source(self._source)
        except (SyntaxError, LookupError, ValueError):  # in a comment, Python does not mind
            text = self._source.decode(errors="replace")
        return re.split(r"\r\n|\r|\n", text)


def _syntax_problem(file: _File, error: SyntaxError) -> str:
    if not error.lineno or error.lineno > len(file.lines):
        return f"{file.name}: {error.msg}"
    line = file.lines[error.lineno - 1].rstrip()
    if error.text is None or error.text.rstrip() != line:  # until Python 3.12, a part of an f-string
        start = len(line) - len(line.lstrip())
        return file.place(error.lineno, start, len(line) - start).told(error.msg)
    start = max(0, (error.offset or 1) - 1)
    end = error.end_offset - 1 if error.end_offset and error.end_lineno == error.lineno else start
    return file.place(error.lineno, start, max(1, end - start)).told(error.msg)


def _class_problems(
    module: ast.Module, file: _File, class_name: str, contract: Contract | None, rpcs: tuple[str, ...]
) -> Iterator[str]:
    bound = [name for node in _executed(module.body) for name in _bound(node)]
    if class_name not in bound:
        if "*" not in bound and not (_DYNAMIC | {class_name}) & _words(module):
            yield _missing_class(module, file, class_name)
        return
    definition = next(
        (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == class_name), None
    )
    is_plain = definition is not None and not (
        definition.bases or definition.keywords or definition.decorator_list
    )
    if definition is None or not is_plain or bound.count(class_name) > 1 or contract is None:
        return
    methods = _methods(definition)
    if contract.batches:
        yield from _batching_problems(module, definition, file)
    elif contract.one_of and not _may_have(VERBS, module):
        place = _instead_of(definition, meant_post(methods), file)
        yield place.told(none_of(class_name, contract.one_of, list(methods)))
    own = {method.name for method in contract.methods}
    for rpc in (rpc for rpc in rpcs if rpc in own):
        yield file.at(definition, definition.name).told(taken_rpc(class_name, rpc))
    rpcs = tuple(rpc for rpc in rpcs if rpc not in own)
    yield from _rpc_problems(module, definition, contract, rpcs, file)
    yield from _missing_methods(module, definition, contract, file)
    by_rpc = [Method(name=rpc, may_take=contract.rpc or ()) for rpc in rpcs]
    for method in (contract.constructor, *contract.methods, *contract.one_of, *by_rpc):
        if method.name in methods and not _may_be_replaced(method.name, module):
            yield from _method_problems(methods[method.name], method, contract, file, class_name)


def _missing_class(module: ast.Module, file: _File, class_name: str) -> str:
    own = {node.name: node for node in _executed(module.body) if isinstance(node, ast.ClassDef)}
    missing = f"there is no class named {class_name!r}"
    if not own:
        return f"{file.name}: {missing}"
    meant = closest(class_name, own)
    found = (
        f"did you mean {class_name!r} by {meant!r}?" if meant else f"it defines {', '.join(map(repr, own))}"
    )
    pointed = meant or next(iter(own))
    return file.at(own[pointed], pointed).told(f"{missing}; {found}")


def _instead_of(definition: ast.ClassDef, meant: str | None, file: _File) -> Place:
    """Where a method is missing: at the one that was meant to be it, or else at the class."""
    return file.at(_methods(definition)[meant], meant) if meant else file.at(definition, definition.name)


def _batching_problems(module: ast.Module, definition: ast.ClassDef, file: _File) -> Iterator[str]:
    """H-08: the method that answers batches is there, and returns a list."""
    methods = _methods(definition)
    if not _may_have(("post",), module):
        place = _instead_of(definition, meant_post(methods), file)
        yield place.told(missing_batched(definition.name, list(methods)))
    elif BATCHED.name in methods and not _may_be_replaced(BATCHED.name, module):
        body = _executed(methods[BATCHED.name].body)
        yields = [node for node in body if isinstance(node, ast.Yield | ast.YieldFrom)]
        if yields:
            first = min(yields, key=lambda node: (node.lineno, node.col_offset))
            yield file.at(first, "yield").told(must_not_yield(f"{definition.name}.{BATCHED.name}"))


def _rpc_problems(
    module: ast.Module, definition: ast.ClassDef, contract: Contract, rpcs: tuple[str, ...], file: _File
) -> Iterator[str]:
    """H-07: a method for each RPC."""
    words = _words(module)
    bound = {name for node in _executed(definition.body) for name in _bound(node)}
    texts = {
        node.value
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    methods = [name for name in _methods(definition) if name not in rpcs]
    for rpc in rpcs:
        if rpc not in bound and not (_DYNAMIC | {rpc}) & (words | texts):
            place = _instead_of(definition, meant_rpc(rpc, methods), file)
            yield place.told(missing_rpc(definition.name, rpc, contract, methods))


def _missing_methods(
    module: ast.Module, definition: ast.ClassDef, contract: Contract, file: _File
) -> Iterator[str]:
    """H-05, H-09: the constructor, and methods with fixed names, are there."""
    words = _words(module)
    bound = {name for node in _executed(definition.body) for name in _bound(node)}
    for method in (contract.constructor, *contract.methods):
        if method.required and method.name not in bound and not (_DYNAMIC | {method.name}) & words:
            place = file.at(definition, definition.name)
            yield place.told(missing_method(definition.name, method))


def _methods(definition: ast.ClassDef) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """The methods that are what is written: defined once, without decorators, directly in the class."""
    names = [name for node in _executed(definition.body) for name in _bound(node)]
    return {
        node.name: node
        for node in definition.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.decorator_list
        and names.count(node.name) == 1
    }


def _method_problems(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    method: Method,
    contract: Contract,
    file: _File,
    class_name: str,
) -> Iterator[str]:
    """H-04, H-05, H-09: `async` and the arguments, as the runtime looks at them."""
    where, signature = f"{class_name}.{method.name}", f"({ast.unparse(function.args)})"
    if isinstance(function, ast.AsyncFunctionDef) and not method.may_be_async:
        yield file.at(function, "async").told(must_not_be_async(where))
    positional = [*function.args.posonlyargs, *function.args.args]
    if function.args.vararg and not positional:
        return  # it gets the instance
    declared = [*positional, *function.args.kwonlyargs]
    accepted = (*method.takes, *method.may_take)
    if declared and declared[0].arg == "self":
        for argument in declared[1:]:
            if argument.arg not in accepted:
                unknown = unsupported(where, argument.arg, method, signature)
                yield file.at(argument, argument.arg).told(unknown)
    else:
        place = file.at(declared[0], declared[0].arg) if declared else file.at(function, method.name)
        yield place.told(without_self(where, method, signature))
    present = {name for each in declared for name in (each.arg, meant_argument(each.arg, method))}
    for name in method.takes:
        if name not in present:
            missing = missing_argument(where, name, method, signature, contract)
            yield file.at(function, method.name).told(missing)


def _may_have(verbs: Collection[str], module: ast.Module) -> bool:
    """Whether the name of a method for one of these stands anywhere, or may be put together."""
    names = {f"handle_{verb}" for verb in verbs}
    return bool((names | _DYNAMIC) & _words(module)) or any(
        isinstance(node, ast.Constant) and isinstance(node.value, str) and "handle_" in node.value
        for node in ast.walk(module)
    )


def _may_be_replaced(method: str, module: ast.Module) -> bool:
    """Whether something may take a method's place once the class is there."""
    return bool(_DYNAMIC & _words(module)) or any(
        isinstance(node, ast.Attribute) and node.attr == method and isinstance(node.ctx, ast.Store)
        for node in ast.walk(module)
    )


def _words(module: ast.Module) -> set[str]:
    """All names that stand in a module."""
    words = set[str]()
    for node in ast.walk(module):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name):
                words.add(name)
            case ast.AsyncFunctionDef(name=name) | ast.alias(name=name):
                words.add(name)
            case ast.Global(names=names):
                words.update(names)
    return words


def _executed(statements: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """What runs when these do: all that is in them, but not the bodies of functions and classes."""
    pending = list(statements)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, _SCOPES):
            pending += ast.iter_child_nodes(node)


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that a statement, or a part of one, gives a value; `*` for those of another module."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.alias(name=name, asname=asname):
            yield asname or name.partition(".")[0]
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
