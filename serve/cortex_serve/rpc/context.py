"""What a handler's method gets as `context`: what grpcio would give it, kept until the RPC ends.

Plain methods get a `grpc.ServicerContext`, coroutines a `grpc.aio.ServicerContext`. What the method says of its answer
(code, details, trailing metadata) is kept here, and sent by whoever answers the RPC (`calls`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from time import perf_counter
from typing import Any, NoReturn

import grpc
import grpc.aio

from cortex_serve.rpc.metadata import Metadata, sendable


class Aborted(Exception):  # raised by `abort`, which people know by that name
    """The method has called `context.abort`."""


class Cancelled(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """The client has gone, so there is nobody to read from or to write to."""


class Kept:
    """The part of both contexts that is the same.

    Args:
        real: grpcio's own context of the RPC.
        ends: `perf_counter` at which the server ends the RPC, if it does.

    Attributes:
        status: what the method has set or aborted with; None is OK.
        text: details of it.
        trailing: metadata that the method wants sent after the answer.
        aborted: the method has aborted; whatever it does then counts for nothing.
        active: neither ended nor given up by the client.
        compresses: the method has chosen a compression that the client has not been told of: grpcio does that by itself
            only where the answer is a stream.
    """

    def __init__(self, real: Any, ends: float | None) -> None:
        self.real = real
        self._ends = ends
        self.status: Any = None
        self.text = ""
        self.trailing: Metadata = ()
        self.aborted = False
        self.active = True
        self.compresses = False
        self._callbacks: list[Callable[[], object]] = []

    @property
    def has_status(self) -> bool:
        """Whether the method wants the RPC to end with a status that is not OK."""
        return self.status not in (None, grpc.StatusCode.OK)

    def end(self) -> list[Callable[[], object]]:
        """Note that the RPC has ended; returns what the method wants called then."""
        self.active = False
        callbacks, self._callbacks = self._callbacks, []
        return callbacks

    def invocation_metadata(self) -> Any:
        return self.real.invocation_metadata()

    def peer(self) -> Any:
        return self.real.peer()

    def peer_identities(self) -> Any:
        return self.real.peer_identities()

    def peer_identity_key(self) -> Any:
        return self.real.peer_identity_key()

    def auth_context(self) -> Any:
        return self.real.auth_context()

    def time_remaining(self) -> Any:
        given = self.real.time_remaining()
        if self._ends is None:
            return given
        ours = max(self._ends - perf_counter(), 0.0)
        return ours if given is None else min(given, ours)

    def set_trailing_metadata(self, trailing_metadata: Iterable[Any] | None) -> None:
        self.trailing = sendable(trailing_metadata)

    def trailing_metadata(self) -> Metadata:
        return self.trailing

    def set_code(self, code: Any) -> None:
        self.status = None if code is None else _code(code)

    def code(self) -> Any:
        return self.status

    def set_details(self, details: str | None) -> None:
        self.text = _text(details)

    def details(self) -> str:
        return self.text

    def set_compression(self, compression: Any) -> None:
        self.real.set_compression(compression)
        self.compresses = True

    def disable_next_message_compression(self) -> None:
        self.real.disable_next_message_compression()

    async def _send_first(self, metadata: Metadata) -> None:
        if not self.active:
            raise Cancelled("the client has gone")
        self.compresses = False
        await self.real.send_initial_metadata(metadata)

    def _abort(self, code: Any, details: str | None, trailing_metadata: Iterable[Any] | None) -> NoReturn:
        status, text, trailing = _code(code), _text(details), sendable(trailing_metadata)
        if status is grpc.StatusCode.OK:
            raise ValueError("context.abort needs a status code that is not OK")
        self.status, self.text, self.aborted = status, text, True
        self.trailing = trailing or self.trailing
        raise Aborted


class PlainContext(Kept, grpc.ServicerContext):  # type: ignore[misc]  # grpc has no types
    """For plain methods, which run on threads.

    Args:
        run: runs a coroutine on the server's event loop and waits for it.
        cancel: gives the RPC up.
    """

    def __init__(
        self,
        real: Any,
        ends: float | None,
        *,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        cancel: Callable[[], object],
    ) -> None:
        super().__init__(real, ends)
        self._run = run
        self._cancel = cancel

    def is_active(self) -> bool:
        return self.active

    def add_callback(self, callback: Callable[[], object]) -> bool:
        if self.active:
            self._callbacks.append(callback)
        return self.active

    def cancel(self) -> None:
        self._cancel()

    def send_initial_metadata(self, initial_metadata: Iterable[Any]) -> None:
        self._run(self._send_first(sendable(initial_metadata)))

    def abort(
        self, code: Any, details: str | None = "", trailing_metadata: Iterable[Any] | None = ()
    ) -> NoReturn:
        self._abort(code, details, trailing_metadata)

    def abort_with_status(self, status: Any) -> NoReturn:
        self._abort(status.code, status.details, status.trailing_metadata)


class AsyncContext(Kept, grpc.aio.ServicerContext):  # type: ignore[misc]  # grpc has no types
    """For coroutines.

    Args:
        read: the next message of a request that is a stream.
        write: sends a message of an answer that is one.
    """

    def __init__(
        self,
        real: Any,
        ends: float | None,
        *,
        read: Callable[[], Coroutine[Any, Any, Any]],
        write: Callable[[Any], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__(real, ends)
        self._read = read
        self._write = write

    async def read(self) -> Any:
        return await self._read()

    async def write(self, message: Any) -> None:
        await self._write(message)

    async def send_initial_metadata(self, initial_metadata: Iterable[Any]) -> None:
        await self._send_first(sendable(initial_metadata))

    async def abort(
        self, code: Any, details: str | None = "", trailing_metadata: Iterable[Any] | None = ()
    ) -> NoReturn:
        self._abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: Any) -> NoReturn:
        self._abort(status.code, status.details, status.trailing_metadata)

    def cancelled(self) -> bool:
        return not self.active

    def done(self) -> bool:
        return not self.active

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(lambda: callback(self))


def _code(code: Any) -> Any:
    """grpcio takes numbers, too."""
    for each in grpc.StatusCode:
        if code is each or code == each.value[0]:
            return each
    raise ValueError(f"{code!r} is no status code of gRPC; take one of grpc.StatusCode")


def _text(details: Any) -> str:
    if details is not None and not isinstance(details, str):
        raise TypeError(f"the details of a status must be a str, got {details!r}")
    return details or ""
