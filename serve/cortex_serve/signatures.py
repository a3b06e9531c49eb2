"""Which methods a handler has and which arguments they take, checked before anything is called.

`cortex_core.spec.contracts` is the whole table. Arguments are passed by keyword, so their order is free and a
keyword-only parameter is as good as any; `*args` and `**kwargs` are allowed and receive nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from cortex_core.spec.contracts import (
    BATCHED,
    CONTRACTS,
    VERBS,
    Contract,
    Method,
    meant_argument,
    missing_argument,
    missing_batched,
    missing_method,
    missing_rpc,
    must_not_be_async,
    must_not_yield,
    none_of,
    taken_rpc,
    unsupported,
    with_batching,
    with_models,
    without_self,
)

__all__ = ["CONTRACTS", "VERBS", "check", "declared"]


def check(
    cls: type,
    contract: Contract,
    *,
    reloads_models: bool = False,
    batches: bool = False,
    rpcs: Iterable[str] = (),
) -> list[str]:
    """Compare a class with its contract.

    Args:
        cls: the user's class.
        contract: one of `CONTRACTS`.
        reloads_models: the API has `multi_model_reloading`; `model_client` and `load_model` become required.
        batches: the API has `server_side_batching`; `handle_post` becomes required, and must return a list.
        rpcs: names of the gRPC service's methods.

    Returns:
        All problems, one sentence each; empty when the class fits.
    """
    contract = with_models(contract) if reloads_models else contract
    contract = with_batching(contract) if batches else contract
    return list(_problems(cls, contract, tuple(rpcs)))


def declared(function: Any) -> tuple[str, ...]:
    """The names a method can be given by keyword, `self` left out."""
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return tuple(each.name for each in parameters if each.kind in by_keyword and each.name != "self")


def _problems(cls: type, contract: Contract, rpcs: tuple[str, ...]) -> Iterator[str]:
    yield from _constructor_problems(cls, contract)
    for method in contract.methods:
        yield from _method_problems(cls, method, contract)
    for rpc in rpcs:
        yield from _rpc_problems(cls, rpc, rpcs, contract)
    yield from _one_of_problems(cls, contract)


def _constructor_problems(cls: type, contract: Contract) -> Iterator[str]:
    method = contract.constructor
    function: Any = cls.__init__  # type: ignore[misc]  # reading it from the user's class is the point
    if function is object.__init__:
        if method.takes:
            yield missing_method(cls.__name__, method)
        return
    if inspect.iscoroutinefunction(function):
        yield must_not_be_async(f"{cls.__name__}.__init__")
        return
    yield from _argument_problems(cls, method, function, contract)


def _method_problems(cls: type, method: Method, contract: Contract) -> Iterator[str]:
    if not _defines(cls, method.name):
        if method.required:
            yield missing_method(cls.__name__, method)
        return
    function = getattr(cls, method.name)
    if not callable(function):
        yield f"{cls.__name__}.{method.name}: must be a method, but it is of type {type(function).__name__!r}"
        return
    if inspect.iscoroutinefunction(function) and not method.may_be_async:
        yield must_not_be_async(f"{cls.__name__}.{method.name}")
    yield from _argument_problems(cls, method, function, contract)


def _defines(cls: type, name: str) -> bool:
    """Whether the class itself has it: every class is callable through its metaclass's `__call__`."""
    return any(name in vars(base) for base in cls.__mro__ if base is not object)


def _rpc_problems(cls: type, rpc: str, rpcs: tuple[str, ...], contract: Contract) -> Iterator[str]:
    if rpc in {method.name for method in contract.methods}:
        yield taken_rpc(cls.__name__, rpc)
        return
    method = Method(name=rpc, may_take=contract.rpc or ())
    if _defines(cls, rpc):
        yield from _method_problems(cls, method, contract)
        return
    own = [key for key, value in vars(cls).items() if callable(value) and key not in rpcs]
    yield missing_rpc(cls.__name__, rpc, contract, own)


def _one_of_problems(cls: type, contract: Contract) -> Iterator[str]:
    methods = contract.one_of
    present = [method for method in methods if callable(getattr(cls, method.name, None))]
    for method in present:
        yield from _argument_problems(cls, method, getattr(cls, method.name), contract)
    own = [key for key, value in vars(cls).items() if callable(value)]
    if contract.batches and BATCHED not in present:
        yield missing_batched(cls.__name__, own)
    elif contract.batches and _yields(getattr(cls, BATCHED.name)):
        yield must_not_yield(f"{cls.__name__}.{BATCHED.name}")
    elif methods and not present:
        yield none_of(cls.__name__, methods, own)


def _yields(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _argument_problems(cls: type, method: Method, function: Any, contract: Contract) -> Iterator[str]:
    where = f"{cls.__name__}.{method.name}"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        yield f"{where}: its arguments cannot be read; define it with `def`"
        return
    parameters = list(signature.parameters.values())
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [each for each in parameters if each.kind not in variadic]
    if not named or named[0] is not parameters[0] or named[0].name != "self":
        if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL and not named:
            return
        yield without_self(where, method, str(signature))
        named = [each for each in named if each.name in (*method.takes, *method.may_take)]
    else:
        named = named[1:]
    accepted = (*method.takes, *method.may_take)
    for parameter in named:
        if parameter.name not in accepted:
            yield unsupported(where, parameter.name, method, str(signature))
        elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            yield f"{where}: the argument {parameter.name!r} is passed by name; remove the '/' behind it"
    present = {name for each in named for name in (each.name, meant_argument(each.name, method))}
    for name in method.takes:
        if name not in present:
            yield missing_argument(where, name, method, str(signature), contract)
