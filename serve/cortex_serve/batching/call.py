"""One call of `handle_post` for several requests: what it gets, and an answer for each from what it returns.

What goes wrong for the whole batch is said to everyone in our words: the handler's may hold what one of the
callers sent.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cortex_core.models.errors import LoadFailed, ModelUnavailable
from cortex_serve import response
from cortex_serve.background import outcome
from cortex_serve.response import Answer

if TYPE_CHECKING:
    from cortex_serve.application import Application
    from cortex_serve.models.request import Use


class Member(Protocol):
    """A request of a batch."""

    @property
    def request_id(self) -> str: ...

    @property
    def arguments(self) -> dict[str, Any]:
        """What `handle_post` declares, for this request."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The server's."""


@dataclass(frozen=True, kw_only=True)
class Called:
    """What came of a call of the handler.

    Attributes:
        answers: one for each request, in their order.
        models: value of the header that names the models that the batch used.
        context: of the call.
        use: of models; whoever gets this releases it when the answers are sent.
    """

    answers: list[Answer]
    models: str
    context: contextvars.Context
    use: Use | None


class BatchCall:
    """Calls a handler with batches.

    Args:
        application: whose handler it is.
        call: its method, sync or async.
        begin: makes what a batch uses of models; None for an API without models.
    """

    def __init__(
        self, application: Application, call: Callable[..., Any], *, begin: Callable[[], Use] | None
    ) -> None:
        self._application = application
        self._method = call
        self._begin = begin

    def __call__(self, members: Sequence[Member]) -> Called:
        """Call the handler; never raises."""
        return contextvars.copy_context().run(self._run, members)

    def _run(self, members: Sequence[Member]) -> Called:
        self._application.log.request_id.set(",".join(member.request_id for member in members))
        use = self._use()
        answers = self._answers(members)
        models = use.header() if use is not None else ""
        return Called(answers=answers, models=models, context=contextvars.copy_context(), use=use)

    def _use(self) -> Use | None:
        if self._begin is None:
            return None
        from cortex_serve.models.request import current

        use = self._begin()
        current.set(use)
        return use

    def _answers(self, members: Sequence[Member]) -> list[Answer]:
        try:
            result = self._call(members)
            if not isinstance(result, list):
                return self._all_wrong(members, f"a value of type {type(result).__name__!r}")
            if len(result) != len(members):
                return self._all_wrong(members, f"{_counted(len(result), 'result')}")
            values = list(result)
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything; everyone is answered
            return self._all_failed(members, error)
        return [self._answer(member, value) for member, value in zip(members, values, strict=True)]

    def _call(self, members: Sequence[Member]) -> Any:
        names = members[0].arguments
        arguments = {name: [member.arguments[name] for member in members] for name in names}
        value = self._method(**arguments)
        if not inspect.isawaitable(value):
            return value
        running = asyncio.run_coroutine_threadsafe(outcome(value), members[0].loop)
        try:
            result, error = running.result(self._application.request_timeout)
        except futures.TimeoutError:  # the handler's own are in `error`
            raise _Ended from None
        finally:
            running.cancel()
        if error is not None:
            raise error
        return result

    def _answer(self, member: Member, value: Any) -> Answer:
        """Now, not when it is sent: by then the handler may have used its objects for the next batch."""
        try:
            return response.answer(value)
        except BaseException as error:  # noqa: BLE001 - the user's objects may raise anything
            return self._application.failed(error, member.request_id)

    def _all_wrong(self, members: Sequence[Member], returned: str) -> list[Answer]:
        message = (
            f"handle_post returned {returned} for {_counted(len(members), 'request')}; "
            "with server_side_batching it must return a list with one element for each request, in their order"
        )
        self._application.log.logger.error("%s", message)
        return [response.text_error(500, message) for _ in members]

    def _all_failed(self, members: Sequence[Member], error: BaseException) -> list[Answer]:
        if isinstance(error, _Ended):
            limit = self._application.request_timeout
            self._application.log.logger.warning(
                "a call of handle_post was ended: it did not finish within %g s", limit
            )
            return [self._application.timed_out(member.request_id) for member in members]
        self._application.log_failure(error)
        if isinstance(error, LoadFailed | ModelUnavailable):
            message = "a model that the requests of this batch need is not available; try again"
            again = ("retry-after", "1")
            return [
                response.error(503, "model_unavailable", message, member.request_id, again)
                for member in members
            ]
        return [response.text_error(500, "internal server error") for _ in members]


class _Ended(Exception):
    """A coroutine took longer than requests may take."""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
