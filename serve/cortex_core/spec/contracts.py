"""What the runtime expects of a user's class: its methods and the arguments they may declare.

`CONTRACTS` is the whole table. The runtime holds the class itself against it (`cortex_serve.signatures`), and
reading an API file holds the source against it (`handler_file`), in the same words.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of the user's class.

    Attributes:
        takes: names it must declare.
        may_take: names it may declare.
        required: whether the class must define it.
        may_be_async: whether `async def` will do.
    """

    name: str
    takes: tuple[str, ...] = ()
    may_take: tuple[str, ...] = ()
    required: bool = True
    may_be_async: bool = True


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What the runtime expects of a class.

    Attributes:
        constructor: `__init__`.
        methods: those with fixed names.
        one_of: methods of which at least one must be defined.
        rpc: names a method of a gRPC service may declare; None where there is no gRPC.
        reloads_models: the API has `multi_model_reloading`, which takes more.
        batches: the API has `server_side_batching`, so `handle_post` answers several requests at once.
    """

    constructor: Method
    methods: tuple[Method, ...] = ()
    one_of: tuple[Method, ...] = ()
    rpc: tuple[str, ...] | None = None
    reloads_models: bool = False
    batches: bool = False


VERBS = ("post", "get", "put", "patch", "delete")


def _constructor(*takes: str, may_take: tuple[str, ...] = ("metrics_client",)) -> Method:
    return Method(name="__init__", takes=takes, may_take=may_take, required=bool(takes), may_be_async=False)


_REQUEST = ("payload", "query_params", "headers")
_HTTP = tuple(Method(name=f"handle_{verb}", may_take=_REQUEST) for verb in VERBS)
_RPC = ("payload", "context")
_ASYNC = (Method(name="handle_async", may_take=("payload", "request_id")),)
_BATCH = (
    Method(name="handle_batch", may_take=("payload", "batch_id")),
    Method(name="on_job_complete", required=False),
)
_MODELS = ("model_client", "metrics_client")
_JOB = ("job_spec", "metrics_client")

CONTRACTS: dict[tuple[str, str, Literal["http", "grpc", None]], Contract] = {
    ("RealtimeAPI", "python", "http"): Contract(
        constructor=_constructor("config", may_take=_MODELS), one_of=_HTTP
    ),
    ("RealtimeAPI", "python", "grpc"): Contract(
        constructor=_constructor("config", "proto_module_pb2", may_take=_MODELS), rpc=_RPC
    ),
    ("RealtimeAPI", "tensorflow", "http"): Contract(
        constructor=_constructor("config", "tensorflow_client"), one_of=_HTTP
    ),
    ("RealtimeAPI", "tensorflow", "grpc"): Contract(
        constructor=_constructor("config", "proto_module_pb2", "tensorflow_client"), rpc=_RPC
    ),
    ("AsyncAPI", "python", None): Contract(constructor=_constructor("config"), methods=_ASYNC),
    ("AsyncAPI", "tensorflow", None): Contract(
        constructor=_constructor("config", "tensorflow_client"), methods=_ASYNC
    ),
    ("BatchAPI", "python", None): Contract(constructor=_constructor("config", may_take=_JOB), methods=_BATCH),
    ("BatchAPI", "tensorflow", None): Contract(
        constructor=_constructor("config", "tensorflow_client", may_take=_JOB), methods=_BATCH
    ),
    ("TaskAPI", "python", None): Contract(
        constructor=_constructor(), methods=(Method(name="__call__", takes=("config",)),)
    ),
}


_LOADING = (
    Method(name="load_model", takes=("model_path",), may_be_async=False),
    Method(name="warm_up", takes=("model",), required=False, may_be_async=False),
)


def with_models(contract: Contract) -> Contract:
    """The contract of an API with `multi_model_reloading`."""
    constructor = contract.constructor
    return replace(
        contract,
        constructor=replace(
            constructor,
            takes=(*constructor.takes, "model_client"),
            may_take=tuple(name for name in constructor.may_take if name != "model_client"),
        ),
        methods=(*contract.methods, *_LOADING),
        reloads_models=True,
    )


BATCHED = next(method for method in _HTTP if method.name == "handle_post")
"""The method that answers batches."""


def with_batching(contract: Contract) -> Contract:
    """The contract of an API with `server_side_batching`."""
    return replace(contract, batches=True)


def missing_method(where: str, method: Method) -> str:
    """What is said of a class without a method that it needs.

    Args:
        where: the class.
    """
    return f"{where}: the method {method.name!r} is missing; define `{_example(method)}`"


def _example(method: Method) -> str:
    return f"def {method.name}({', '.join(('self', *(method.takes or method.may_take)))})"


def missing_batched(where: str, own: Collection[str]) -> str:
    """What is said of a class without the method that answers batches.

    Args:
        where: the class.
        own: names of the methods it does define.
    """
    advice = _meaning(BATCHED.name, meant_post(own)) or f"define `{_example(BATCHED)}`"
    return f"{where}: the method {BATCHED.name!r} is missing, which 'server_side_batching' needs; {advice}"


def must_not_yield(where: str) -> str:
    """What is said of a method that answers batches and is a generator, asynchronous or not."""
    return (
        f"{where}: must not `yield`, because the API has 'server_side_batching'; return a list with one element "
        "for each request (an element may be a generator)"
    )


def missing_rpc(where: str, rpc: str, contract: Contract, own: Collection[str]) -> str:
    """What is said of a class without the method of an RPC.

    Args:
        where: the class.
        own: names of the methods it does define.
    """
    example = _example(Method(name=rpc, may_take=contract.rpc or ()))
    advice = _meaning(rpc, meant_rpc(rpc, own)) or f"define `{example}`"
    return (
        f"{where}: the method {rpc!r} is missing, which the service in the protobuf file declares; {advice}"
    )


def taken_rpc(where: str, rpc: str) -> str:
    """What is said of an RPC with the name of a method that the runtime calls itself.

    Args:
        where: the class.
    """
    return f"{where}: {rpc!r}, an RPC in the protobuf file, is a method that 'multi_model_reloading' needs; rename the RPC"


def meant_rpc(rpc: str, own: Collection[str]) -> str | None:
    """The method, of a class's own, that was probably meant to answer an RPC."""
    typed = {name.replace("_", "").lower(): name for name in own if not name.startswith("_")}
    meant = typed.get(rpc.replace("_", "").lower())
    return meant or next(iter(difflib.get_close_matches(rpc, typed.values(), n=1)), None)


def missing_argument(where: str, name: str, method: Method, signature: str, contract: Contract) -> str:
    """What is said of an argument that a method must declare.

    Args:
        where: the method.
        name: the argument.
        signature: what the method declares.
        contract: of the class.
    """
    is_ours = contract.reloads_models and name == "model_client"
    because = " because the API has 'multi_model_reloading'" if is_ours else ""
    return f"{where}: the argument {name!r} is missing; it is defined as `{method.name}{signature}`{because}"


def without_self(where: str, method: Method, signature: str) -> str:
    """What is said of a method that does not take its instance.

    Args:
        where: the method.
        signature: what it declares.
    """
    return f"{where}: the first argument must be 'self'; it is defined as `{method.name}{signature}`"


def must_not_be_async(where: str) -> str:
    """What is said of an `async` method that has to be a plain one."""
    return f"{where}: must not be `async`"


def unsupported(where: str, name: str, method: Method, signature: str) -> str:
    """What is said of an argument that a method may not declare.

    Args:
        where: the method, e.g. "Handler.handle_post".
        name: the argument.
        signature: what the method declares, e.g. "(self, paylod)".
    """
    meant = meant_argument(name, method)
    suggestion = f"; did you mean {meant!r}?" if meant else "."
    takes = ", ".join(("self", *method.takes, *method.may_take))
    return (
        f"{where}: the argument {name!r} is not supported{suggestion} It may take: {takes}; "
        f"it is defined as `{method.name}{signature}`"
    )


def meant_argument(name: str, method: Method) -> str | None:
    """The argument, of those a method may declare, that was probably meant by one that it may not."""
    accepted = (*method.takes, *method.may_take)
    words = sorted(name.split("_"))
    close = [each for each in accepted if sorted(each.split("_")) == words]
    close = close or difflib.get_close_matches(name, accepted, n=1, cutoff=0.65)
    return next(iter(close), None)


def none_of(where: str, methods: tuple[Method, ...], own: Collection[str]) -> str:
    """What is said of a class that defines none of the methods of which it needs one.

    Args:
        where: the class.
        own: names of the methods it does define.
    """
    names = ", ".join(repr(method.name) for method in methods)
    advice = _meaning("handle_post", meant_post(own))
    return f"{where}: at least one of {names} must be defined" + (f"; {advice}" if advice else "")


def meant_post(own: Collection[str]) -> str | None:
    """The method, of a class's own, that was probably meant to be `handle_post`."""
    others = [name for name in own if name[0] != "_" and name not in {method.name for method in _HTTP}]
    return next(iter(difflib.get_close_matches("handle_post", others, n=1)), None)


def _meaning(name: str, meant: str | None) -> str:
    return f"did you mean {name!r} by {meant!r}?" if meant else ""
