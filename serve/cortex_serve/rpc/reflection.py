"""grpc.reflection: lets clients such as grpcurl ask which services there are and what their messages look like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

_NAMES = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
"""v1 has the very messages of v1alpha; newer clients ask it first."""


def handlers(service: str, leaving: asyncio.Event) -> tuple[Any, ...]:
    """The services, as grpcio takes them.

    Args:
        service: the full name of what is served.
        leaving: when it is set, open streams end: they would keep the server until their clients please to go.
    """
    servicer = reflection.aio.ReflectionServicer((service, "grpc.health.v1.Health", _NAMES[0]))

    async def answer(requests: AsyncIterable[Any], context: Any) -> AsyncIterator[Any]:
        async for response in servicer.ServerReflectionInfo(_until(leaving, requests), context):
            yield response

    handler = grpc.stream_stream_rpc_method_handler(
        answer,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return tuple(
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in _NAMES
    )


async def _until(event: asyncio.Event, items: AsyncIterable[Any]) -> AsyncIterator[Any]:
    """The items that come until the event is set."""
    over = asyncio.ensure_future(event.wait())
    iterator = aiter(items)
    try:
        while True:
            item = asyncio.ensure_future(anext(iterator, None))
            await asyncio.wait({item, over}, return_when=asyncio.FIRST_COMPLETED)
            if not item.done():
                item.cancel()
                return
            if item.result() is None:
                return
            yield item.result()
    finally:
        over.cancel()
