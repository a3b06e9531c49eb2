"""What one request uses of models: the same of each from its start to its end.

The carriers of an application with models set `current` for each request. What was resolved once is remembered
there, and what is in use does not leave memory. A request ends when its answer was sent, its callbacks have run and
no thread works for it any more; what still runs in its context then is outside of requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

from cortex_serve.models.holding import GONE, Holding

MOST_NAMED = 64
"""Models in one header; browsers and proxies have their limits."""

current: ContextVar[Use | None] = ContextVar("cortex_models", default=None)
"""Of the request being answered; None outside of requests."""

_counting = threading.Lock()


class Use:
    """The models of one request.

    Args:
        given_back: called once with what it used, when it has ended.

    Attributes:
        latest: what "latest" was answered with, by the model's name.
        is_open: it has not ended.
    """

    __slots__ = ("_given_back", "_holders", "_taken", "is_open", "latest")

    def __init__(self, given_back: Callable[[Collection[Holding]], None]) -> None:
        self.latest: dict[str, Any] = {}
        self.is_open = True
        self._taken: dict[tuple[str, int], tuple[Holding, Any]] = {}
        self._holders = 1
        self._given_back = given_back

    def version(self, key: tuple[str, int]) -> Any:
        """The version that this request used before; `GONE` if it did not."""
        taken = self._taken.get(key)
        return GONE if taken is None else taken[1]

    def take(self, holding: Holding, *, latest: bool, waited: bool = False) -> Any:
        """Use it from here on, unless another content of this version is in use already: then that.

        Args:
            latest: it was asked for as the latest.
            waited: this request is among the holding's users since before it was loaded.

        Returns:
            The model; `GONE` when it has left meanwhile.
        """
        taken = self._taken.get(holding.key)
        if taken is None:
            holding.users.add(self)
            model = holding.kept if waited else holding.model
            if model is not GONE and self.is_open:
                taken = self._taken.setdefault(holding.key, (holding, model))
            if taken is None or taken[0] is not holding or not self.is_open:
                holding.users.discard(self)
                self._given_back((holding,))
                if taken is None:
                    return GONE
        return self.latest.setdefault(holding.key[0], taken[1]) if latest else taken[1]

    def uses(self, holding: Holding) -> bool:
        """Whether this very content is in use here."""
        taken = self._taken.get(holding.key)
        return taken is not None and taken[0] is holding

    def header(self) -> str:
        """Value of `x-cortex-model`: what was used so far, in the order of first use; empty if nothing was."""
        labels = [holding.label for holding, _ in self._taken.values()]
        return ",".join(labels[:MOST_NAMED])

    def hold(self) -> None:
        """Keep it open until one more `release`."""
        with _counting:
            self._holders += 1

    def release(self) -> None:
        """The request, or something that it waits for, has ended."""
        with _counting:
            self._holders -= 1
            if self._holders:
                return
        self.is_open = False
        self.latest = {}
        taken, self._taken = self._taken, {}
        if taken:
            holdings = [holding for holding, _ in taken.values()]
            taken.clear()  # before anyone may think that nothing is in use: the last reference is theirs
            for holding in holdings:
                holding.users.discard(self)
            self._given_back(holdings)


class Threads(ThreadPoolExecutor):
    """Threads whose work keeps its request open until it is done, also when nobody waits for it any more."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        use = current.get()
        if use is None or not use.is_open:
            return super().submit(function, *args, **kwargs)
        use.hold()
        try:
            future = super().submit(function, *args, **kwargs)
        except BaseException:
            use.release()
            raise
        future.add_done_callback(lambda _: use.release())
        return future
