"""Every rule about a handler's methods, with its exact words."""
# ruff: noqa: E501 - two tables: a case a line, the words as they are shown

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import wraps
from typing import Any

import pytest

from cortex_serve.signatures import CONTRACTS, check

HTTP = CONTRACTS["RealtimeAPI", "python", "http"]
GRPC = CONTRACTS["RealtimeAPI", "python", "grpc"]
TF_HTTP = CONTRACTS["RealtimeAPI", "tensorflow", "http"]
TF_GRPC = CONTRACTS["RealtimeAPI", "tensorflow", "grpc"]
ASYNC = CONTRACTS["AsyncAPI", "python", None]
TF_ASYNC = CONTRACTS["AsyncAPI", "tensorflow", None]
BATCH = CONTRACTS["BatchAPI", "python", None]
TF_BATCH = CONTRACTS["BatchAPI", "tensorflow", None]
TASK = CONTRACTS["TaskAPI", "python", None]

VERBS = "'handle_post', 'handle_get', 'handle_put', 'handle_patch', 'handle_delete'"


def handler(constructor: str | None = "self, config", body: str = "", **methods: str) -> type:
    """A class `Handler` with methods of the given parameters."""
    lines = ["class Handler:", f"    {body or 'pass'}"]
    if constructor is not None:
        lines.append(f"    def __init__({constructor}): pass")
    lines += [f"    def {name}({parameters}): pass" for name, parameters in methods.items()]
    namespace: dict[str, Any] = {}
    exec("\n".join(lines), namespace)
    made: type = namespace["Handler"]
    return made


POST = {"handle_post": "self"}
GOOD = [
    (HTTP, {}, handler(**POST)),
    (HTTP, {}, handler("self, config, model_client, metrics_client", handle_post="self, payload, query_params, headers")),
    (HTTP, {}, handler("self, metrics_client, config", handle_get="self, headers, payload", handle_delete="self")),
    (HTTP, {}, handler("self, *, config", handle_post="self, *, payload", handle_put="self, /, payload")),
    (HTTP, {}, handler("self, config, *args, **kwargs", handle_post="self, *args, payload, **kwargs")),
    (HTTP, {}, handler(body="handle_get = 3", **POST)),
    (HTTP, {}, handler(helper="self, anything, at_all", **POST)),
    (HTTP, {"reloads_models": True}, handler("self, config, model_client", load_model="self, model_path", **POST)),
    (HTTP, {"reloads_models": True}, handler("self, *, model_client, config", load_model="self, *, model_path", warm_up="self, model", **POST)),
    (HTTP, {"batches": True}, handler(handle_post="self, payload")),
    (GRPC, {"rpcs": ["Predict", "Info"]}, handler("self, config, proto_module_pb2, model_client", Predict="self, payload", Info="self, context")),
    (TF_HTTP, {}, handler("self, tensorflow_client, config", **POST)),
    (TF_GRPC, {"rpcs": ["Predict"]}, handler("self, config, proto_module_pb2, tensorflow_client, metrics_client", Predict="self")),
    (ASYNC, {}, handler("self, config, metrics_client", handle_async="self, request_id, payload")),
    (TF_ASYNC, {}, handler("self, config, tensorflow_client", handle_async="self")),
    (BATCH, {}, handler("self, config, job_spec", handle_batch="self, batch_id, payload", on_job_complete="self")),
    (TF_BATCH, {}, handler("self, config, tensorflow_client, job_spec, metrics_client", handle_batch="self")),
    (TASK, {}, handler(None, __call__="self, config")),
    (TASK, {}, handler("self, metrics_client", __call__="self, config")),
]  # fmt: skip


@pytest.mark.parametrize(("contract", "options", "cls"), GOOD)
def test_fitting(contract: Any, options: dict[str, Any], cls: type) -> None:
    assert check(cls, contract, **options) == []


BAD = [
    # the constructor
    (HTTP, {}, handler(None, **POST), ["Handler: the method '__init__' is missing; define `def __init__(self, config)`"]),
    (HTTP, {}, handler("self", **POST), ["Handler.__init__: the argument 'config' is missing; it is defined as `__init__(self)`"]),
    (HTTP, {}, handler("config", **POST), [
        "Handler.__init__: the first argument must be 'self'; it is defined as `__init__(config)`",
    ]),
    (HTTP, {}, handler("self, config, modle_client", **POST), [
        "Handler.__init__: the argument 'modle_client' is not supported; did you mean 'model_client'? "
        "It may take: self, config, model_client, metrics_client; it is defined as `__init__(self, config, modle_client)`",
    ]),
    (HTTP, {}, handler("self, config, tensorflow_client", **POST), [
        "Handler.__init__: the argument 'tensorflow_client' is not supported. "
        "It may take: self, config, model_client, metrics_client; it is defined as `__init__(self, config, tensorflow_client)`",
    ]),
    (HTTP, {}, handler("self, config, /", **POST), [
        "Handler.__init__: the argument 'config' is passed by name; remove the '/' behind it",
    ]),
    (TF_HTTP, {}, handler(**POST), [
        "Handler.__init__: the argument 'tensorflow_client' is missing; it is defined as `__init__(self, config)`",
    ]),
    # verbs
    (HTTP, {}, handler(), [f"Handler: at least one of {VERBS} must be defined"]),
    (HTTP, {}, handler(body="handle_post = None"), [f"Handler: at least one of {VERBS} must be defined"]),
    (HTTP, {}, handler(handel_post="self"), [
        f"Handler: at least one of {VERBS} must be defined; did you mean 'handle_post' by 'handel_post'?",
    ]),
    (HTTP, {}, handler(handle_post="self, paylod", handle_get="payload"), [
        "Handler.handle_post: the argument 'paylod' is not supported; did you mean 'payload'? "
        "It may take: self, payload, query_params, headers; it is defined as `handle_post(self, paylod)`",
        "Handler.handle_get: the first argument must be 'self'; it is defined as `handle_get(payload)`",
    ]),
    (HTTP, {}, handler(handle_post="self, payload, *, threshold=0.5"), [
        "Handler.handle_post: the argument 'threshold' is not supported. "
        "It may take: self, payload, query_params, headers; it is defined as `handle_post(self, payload, *, threshold=0.5)`",
    ]),
    (HTTP, {}, handler(handle_post="self, payload, /"), [
        "Handler.handle_post: the argument 'payload' is passed by name; remove the '/' behind it",
    ]),
    (HTTP, {}, handler(handle_post=""), [
        "Handler.handle_post: the first argument must be 'self'; it is defined as `handle_post()`",
    ]),
    # options of the API
    (HTTP, {"reloads_models": True}, handler(**POST), [
        "Handler.__init__: the argument 'model_client' is missing; it is defined as `__init__(self, config)` "
        "because the API has 'multi_model_reloading'",
        "Handler: the method 'load_model' is missing; define `def load_model(self, model_path)`",
    ]),
    (HTTP, {"reloads_models": True}, handler("self, config, model_client", load_model="self, path", **POST), [
        "Handler.load_model: the argument 'path' is not supported. "
        "It may take: self, model_path; it is defined as `load_model(self, path)`",
        "Handler.load_model: the argument 'model_path' is missing; it is defined as `load_model(self, path)`",
    ]),
    (HTTP, {"reloads_models": True}, handler("self, config, model_client", load_model="self, model_path", warm_up="self, path", **POST), [
        "Handler.warm_up: the argument 'path' is not supported. "
        "It may take: self, model; it is defined as `warm_up(self, path)`",
        "Handler.warm_up: the argument 'model' is missing; it is defined as `warm_up(self, path)`",
    ]),
    (HTTP, {"batches": True}, handler(handle_get="self"), [
        "Handler: the method 'handle_post' is missing, which 'server_side_batching' needs; "
        "define `def handle_post(self, payload, query_params, headers)`",
    ]),
    (HTTP, {"batches": True}, handler(handel_post="self", _handle_post="self"), [
        "Handler: the method 'handle_post' is missing, which 'server_side_batching' needs; "
        "did you mean 'handle_post' by 'handel_post'?",
    ]),
    # gRPC
    (GRPC, {"rpcs": ["Predict", "Info"]}, handler(Predict="self, payload, headers"), [
        "Handler.__init__: the argument 'proto_module_pb2' is missing; it is defined as `__init__(self, config)`",
        "Handler.Predict: the argument 'headers' is not supported. "
        "It may take: self, payload, context; it is defined as `Predict(self, payload, headers)`",
        "Handler: the method 'Info' is missing, which the service in the protobuf file declares; "
        "define `def Info(self, payload, context)`",
    ]),
    (GRPC, {"rpcs": ["Predict"]}, handler("self, config, module_proto_pb2", Predict="self"), [
        "Handler.__init__: the argument 'module_proto_pb2' is not supported; did you mean 'proto_module_pb2'? "
        "It may take: self, config, proto_module_pb2, model_client, metrics_client; "
        "it is defined as `__init__(self, config, module_proto_pb2)`",
    ]),
    (GRPC, {"rpcs": ["load_model"], "reloads_models": True},
     handler("self, config, proto_module_pb2, model_client", load_model="self, model_path"), [
        "Handler: 'load_model', an RPC in the protobuf file, is a method that 'multi_model_reloading' needs; rename the RPC",
    ]),
    # jobs
    (ASYNC, {}, handler(handle_post="self"), [
        "Handler: the method 'handle_async' is missing; define `def handle_async(self, payload, request_id)`",
    ]),
    (ASYNC, {}, handler(body="handle_async = 1"), [
        "Handler.handle_async: must be a method, but it is of type 'int'",
    ]),
    (ASYNC, {}, handler("self, config, job_spec", handle_async="self, headers"), [
        "Handler.__init__: the argument 'job_spec' is not supported. "
        "It may take: self, config, metrics_client; it is defined as `__init__(self, config, job_spec)`",
        "Handler.handle_async: the argument 'headers' is not supported. "
        "It may take: self, payload, request_id; it is defined as `handle_async(self, headers)`",
    ]),
    (BATCH, {}, handler(on_job_complete="self, job"), [
        "Handler: the method 'handle_batch' is missing; define `def handle_batch(self, payload, batch_id)`",
        "Handler.on_job_complete: the argument 'job' is not supported. "
        "It may take: self; it is defined as `on_job_complete(self, job)`",
    ]),
    (TF_BATCH, {}, handler(handle_batch="self"), [
        "Handler.__init__: the argument 'tensorflow_client' is missing; it is defined as `__init__(self, config)`",
    ]),
    (TASK, {}, handler(None), ["Handler: the method '__call__' is missing; define `def __call__(self, config)`"]),
    (TASK, {}, handler("self, config", __call__="self"), [
        "Handler.__init__: the argument 'config' is not supported. "
        "It may take: self, metrics_client; it is defined as `__init__(self, config)`",
        "Handler.__call__: the argument 'config' is missing; it is defined as `__call__(self)`",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("contract", "options", "cls", "problems"), BAD)
def test_not_fitting(contract: Any, options: dict[str, Any], cls: type, problems: list[str]) -> None:
    assert check(cls, contract, **options) == problems


def test_the_table_covers_every_kind_and_type() -> None:
    assert len(CONTRACTS) == 9


def test_methods_may_be_async_and_generators_and_decorated() -> None:
    def decorated(method: Any) -> Any:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call

    class Handler:
        def __init__(self, config: dict[str, Any]) -> None: ...

        async def handle_post(self, payload: Any) -> None: ...

        async def handle_get(self, headers: Any) -> AsyncIterator[str]:
            yield ""

        def handle_put(self, query_params: Any) -> Iterator[str]:
            yield ""

        @decorated
        def handle_patch(self, payload: Any) -> None: ...

    assert check(Handler, HTTP) == []


def test_batches_are_answered_by_a_list_and_by_no_generator() -> None:
    class Handler:
        def __init__(self, config: dict[str, Any]) -> None: ...

        def handle_post(self, payload: list[Any]) -> Iterator[str]:
            yield ""

    class Async(Handler):
        async def handle_post(self, payload: list[Any]) -> AsyncIterator[str]:  # type: ignore[override]  # another one
            yield ""

    class Streams(Handler):
        async def handle_post(self, payload: list[Any]) -> list[Iterator[str]]:  # type: ignore[override]  # another one
            return [iter("") for _ in payload]

    advice = (
        "must not `yield`, because the API has 'server_side_batching'; return a list with one element for each "
        "request (an element may be a generator)"
    )
    assert check(Handler, HTTP, batches=True) == [f"Handler.handle_post: {advice}"]
    assert check(Async, HTTP, batches=True) == [f"Async.handle_post: {advice}"]
    assert check(Streams, HTTP, batches=True) == []
    assert check(Handler, HTTP) == []


def test_a_constructor_must_not_be_async() -> None:
    class Handler:
        async def __init__(self, config: dict[str, Any]) -> None: ...  # type: ignore[misc]  # the mistake

        def handle_post(self) -> None: ...

    assert check(Handler, HTTP) == ["Handler.__init__: must not be `async`"]


def test_static_and_class_methods_have_no_self() -> None:
    class Handler:
        def __init__(self, config: dict[str, Any]) -> None: ...

        @staticmethod
        def handle_post(payload: Any) -> None: ...

        @classmethod
        def handle_get(cls) -> None: ...

    assert check(Handler, HTTP) == [
        "Handler.handle_post: the first argument must be 'self'; it is defined as "
        "`handle_post(payload: 'Any') -> 'None'`",
        "Handler.handle_get: the first argument must be 'self'; it is defined as `handle_get() -> 'None'`",
    ]


def test_inherited_methods_count() -> None:
    class Handler(handler(**POST)):  # type: ignore[misc]  # a class made at run time
        pass

    assert check(Handler, HTTP) == []
