"""A method of the handler that answers an RPC: what it takes and returns, between bytes and Python."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from cortex_serve import signatures
from cortex_serve.rpc.service import Rpc


class WrongAnswer(Exception):  # named after what is wrong
    """What the method returned or yielded cannot be sent; the text says why."""


class InvalidMessage(ValueError):  # as above
    """A request's bytes are not what the .proto file says."""


class Method:
    """What answering one RPC takes.

    Args:
        rpc: as the .proto file declares it.
        call: the handler's bound method.

    Attributes:
        is_async: it is a coroutine function or an asynchronous generator; others are called on a thread.
    """

    def __init__(self, rpc: Rpc, call: Callable[..., Any]) -> None:
        names = signatures.declared(call)
        self.rpc = rpc
        self.is_async = waits(call)
        self._call = call
        self._payload = "payload" in names
        self._context = "context" in names
        self._parse = rpc.request.FromString
        self._name = rpc.response.DESCRIPTOR.full_name

    def __call__(self, payload: Any, context: Any) -> Any:
        """Call the handler's method with those of the arguments that it declares."""
        arguments = {}
        if self._payload:
            arguments["payload"] = payload
        if self._context:
            arguments["context"] = context
        return self._call(**arguments)

    def parsed(self, message: bytes) -> Any:
        """A message of the request.

        Raises:
            InvalidMessage: it is none.
        """
        try:
            return self._parse(message)
        except DecodeError as error:
            name = self.rpc.request.DESCRIPTOR.full_name
            raise InvalidMessage(f"what was sent is not a message of type {name}") from error

    def encoded(self, value: Any) -> bytes:
        """A message of the answer.

        Raises:
            WrongAnswer: it is none.
        """
        if not isinstance(value, self.rpc.response):
            descriptor = getattr(value, "DESCRIPTOR", None)
            if getattr(descriptor, "full_name", None) != self._name:
                verb = "yield messages" if self.rpc.gives_stream else "return a message"
                raise WrongAnswer(f"{self.rpc.name} must {verb} of type {self._name}, got {_shown(value)}")
        data: bytes = value.SerializeToString()
        return data

    def stream(self, value: Any) -> Any:
        """What a method with a stream as its answer returned, if that is one."""
        if not isinstance(value, Iterable | AsyncIterable) or isinstance(value, str | bytes | dict):
            raise WrongAnswer(
                f"{self.rpc.name} must yield messages of type {self._name}, or return an iterator of them, "
                f"got {_shown(value)}"
            )
        return value


def waits(call: Any) -> bool:
    """Whether a method belongs on the event loop."""
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def _shown(value: Any) -> str:
    descriptor = getattr(value, "DESCRIPTOR", None)
    full_name = getattr(descriptor, "full_name", None)
    if value is None:
        return "None"
    return f"a message of type {full_name}" if full_name else f"an object of type {type(value).__name__!r}"
