"""A worker's models, without a worker: a table that follows an agent in this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from cortex_serve.models.request import Use, current
from cortex_serve.models.table import ModelTable, Waits
from cortex_serve.snapshot import ServedModel
from support.installation import wait_for
from support.model_agent import ModelAgent


class Loaded:
    """What the handler loads; can be referred to weakly."""

    def __init__(self, path: str) -> None:
        self.path = path


class Handler:
    """Loads at once, unless a test says otherwise.

    Attributes:
        paths: that were loaded, in order.
        gates: what loading a path waits for.
        errors: what loading a path raises.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.errors: dict[str, BaseException] = {}
        self.gates: dict[str, threading.Event] = {}

    def load_model(self, model_path: str) -> Any:
        self.paths.append(model_path)
        if model_path in self.gates:
            self.gates[model_path].wait(20)
        if model_path in self.errors:
            raise self.errors[model_path]
        return Loaded(model_path)


class Worker:
    """A table, its agent and its handler."""

    def __init__(
        self, *, cache_size: int | None, load_timeout: float, waits: Waits, has_names: bool, handler: Any
    ) -> None:
        self.agent = ModelAgent(has_names=has_names)
        self.handler = handler
        self.table = ModelTable(
            self.agent.cells,
            read_snapshot=self.agent.read,
            send=self.agent.hear,
            cache_size=cache_size,
            load_timeout=load_timeout,
            names=lambda name: "iris" if name.startswith("_") else name,
            logger=logging.getLogger("cortex"),
            waits=waits,
        )
        self.get = self.table.client.get_model
        self.table.bind(handler)
        self.table.start()

    def publish(self, *models: ServedModel) -> None:
        self.agent.publish(*models)
        self.table.follow()

    def live(self, model: ServedModel) -> None:
        """Publish a model whose target is the latest, in memory if it is resident."""
        self.publish(model)
        self.table.wait_until_held()
        self.agent.switch(model.name, model.target)

    @staticmethod
    def outside(call: Callable[[], Any]) -> Any:
        """Call it outside of the request that the context is of."""
        token = current.set(None)
        try:
            return call()
        finally:
            current.reset(token)

    @contextmanager
    def request(self) -> Iterator[Use]:
        use = self.table.use()
        token = current.set(use)
        try:
            yield use
        finally:
            current.reset(token)
            use.release()


class InThread:
    """A call on a thread of its own, in a copy of the context."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=copy_context().run, args=(self._run, call), daemon=True)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join(15)
        assert not self._thread.is_alive(), "it has not returned"
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._result = call()
        except BaseException as error:  # for `result`
            self._error = error


def until(condition: Callable[[], Any], what: str) -> None:
    wait_for(condition, within=10, what=what)
