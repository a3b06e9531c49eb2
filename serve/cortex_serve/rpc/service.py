"""The service of a .proto file: its RPCs, their forms, and the classes of their messages."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from google.protobuf import descriptor_pb2, message_factory

from cortex_serve.handler import HandlerFailed


@dataclass(frozen=True, kw_only=True)
class Rpc:
    """One RPC.

    Attributes:
        name: also of the handler's method.
        request, response: classes of the messages.
        takes_stream, gives_stream: whether there may be any number of them.
    """

    name: str
    request: Any
    response: Any
    takes_stream: bool
    gives_stream: bool


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service.

    Attributes:
        name: with its package, e.g. "iris.Iris".
        rpcs: in the order of the file.
    """

    name: str
    rpcs: tuple[Rpc, ...]


def service_of(module: ModuleType, path: str) -> Service:
    """The only service of a compiled .proto file.

    Args:
        module: its `_pb2` module.
        path: of the .proto file, for messages.

    Raises:
        HandlerFailed: it has none, or several.
    """
    services = list(module.DESCRIPTOR.services_by_name.values())
    if len(services) != 1:
        raise HandlerFailed(f"{path}: the file must define exactly one service, found {len(services)}")
    [service] = services
    described = descriptor_pb2.ServiceDescriptorProto()
    service.CopyToProto(described)  # a method says itself whether it streams only since protobuf 5
    return Service(
        name=service.full_name,
        rpcs=tuple(
            Rpc(
                name=method.name,
                request=message_factory.GetMessageClass(method.input_type),
                response=message_factory.GetMessageClass(method.output_type),
                takes_stream=said.client_streaming,
                gives_stream=said.server_streaming,
            )
            for method, said in zip(service.methods, described.method, strict=True)
        ),
    )
