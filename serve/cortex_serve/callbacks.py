"""Functions that run once their response was sent.

They run on a few threads of their own, so requests do not wait for them. Their failures are logged and harm
nothing. When too many wait, the thread that answered the request runs the next one itself: that slows new
requests down instead of letting work pile up.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeAlias

from cortex_serve import tracebacks
from cortex_serve.background import result_of

MAX_WAITING = 256

Callback: TypeAlias = Callable[[], Any]


class Callbacks:
    """Runs callbacks.

    Args:
        threads: that run them; they end with the callbacks.
        logger: where failures go.
    """

    def __init__(self, threads: futures.ThreadPoolExecutor, *, logger: logging.Logger) -> None:
        self._pool = threads
        self._waiting: set[futures.Future[None]] = set()
        self._logger = logger

    def submit(self, callback: Callback, loop: Callable[[], asyncio.AbstractEventLoop]) -> bool:
        """Run it soon, in the context of the caller.

        Args:
            callback: sync or async.
            loop: gives the event loop for what an async one returns.

        Returns:
            False if too many wait already; the caller is to `run` it then.
        """
        if len(self._waiting) >= MAX_WAITING:
            return False
        future = self._pool.submit(contextvars.copy_context().run, self.run, callback, loop)
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return True

    def run(self, callback: Callback, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        """Run it now; never raises."""
        try:
            result = callback()
            if inspect.isawaitable(result):
                result_of(result, loop())
        except BaseException as error:  # the user's code may raise anything
            self._logger.error(  # noqa: TRY400 - with the user's part of the traceback only
                "a callback raised %s after its response was sent",
                type(error).__name__,
                exc_info=(type(error), error, tracebacks.from_first_user_frame(error)),
            )

    def close(self, *, timeout: float) -> None:
        """Let those that wait finish, for at most `timeout` seconds."""
        futures.wait(set(self._waiting), timeout)
        self._pool.shutdown(wait=False, cancel_futures=True)
