"""Stands for a replica's model agent where a worker's models are tested."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from cortex_core.models.tree import DEFAULT_MODEL
from cortex_serve import control
from cortex_serve.cells import Cells
from cortex_serve.snapshot import Servable, ServedModel, Snapshot, publish

M = TypeVar("M")


class ModelAgent:
    """An agent that does what a test says, and keeps what workers say.

    Attributes:
        cells: a cell for each model, in the order in which they were first published.
        messages: what was said, oldest first.
        snapshot: the newest.
    """

    def __init__(self, *, has_names: bool = True) -> None:
        self.cells = Cells.create()
        self.messages: list[control.Message] = []
        self.snapshot: Snapshot | None = None
        self.fetch: Callable[[control.Want], None] = lambda want: None
        self.hears: Callable[[control.Message], None] = lambda message: None
        self._has_names = has_names
        self._numbers: dict[str, int] = {}
        self._said = threading.Condition()

    def publish(self, *models: ServedModel) -> None:
        """Make these all the models there are."""
        epoch = 1 if self.snapshot is None else self.snapshot.epoch + 1
        numbered = [msgspec.structs.replace(each, cell=self.cell(each.name)) for each in models]
        self.snapshot = Snapshot(epoch=epoch, has_names=self._has_names, models=tuple(numbered))

    def cell(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    def switch(self, name: str, serial: int) -> None:
        """From here on this is the latest."""
        self.cells.write(self.cell(name), serial)

    def read(self) -> Snapshot | None:
        return self.snapshot

    def hear(self, message: control.Message) -> None:
        """What a worker's `send` is."""
        self.hears(message)
        with self._said:
            self.messages.append(message)
            self._said.notify_all()
        if isinstance(message, control.Want):
            self.fetch(message)

    def wait_for(self, message: control.Message, *, within: float = 10.0) -> None:
        """Until this was said; the time that a load took may be any."""
        with self._said:
            reached = self._said.wait_for(lambda: plain(message) in map(plain, self.messages), within)
        assert reached, f"{message} was not said, but {self.messages}"

    def said(self, kind: type[M]) -> list[M]:
        with self._said:
            return [each for each in self.messages if isinstance(each, kind)]


class RemoteAgent(ModelAgent):
    """An agent of a worker in another process.

    Args:
        folder: where it publishes.

    Attributes:
        descriptors: of the cells and of the worker's end of the control socket, for the worker to inherit.
    """

    def __init__(self, folder: Path, *, has_names: bool = True) -> None:
        super().__init__(has_names=has_names)
        self.folder = folder
        self._connection, self._worker = control.pair()
        self.descriptors = (self.cells.descriptor, self._worker.fileno())
        threading.Thread(target=self._listen, daemon=True).start()

    def publish(self, *models: ServedModel) -> None:
        super().publish(*models)
        assert self.snapshot is not None
        publish(self.folder, self.snapshot)
        self.tell(control.Follow())

    def tell(self, order: control.Order) -> None:
        self._connection.sendall(control.encode(order))

    def close(self) -> None:
        self._worker.close()
        self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while data := self._connection.recv(control.MAX_MESSAGE):
                self.hear(control.decode(data))


def plain(message: control.Message) -> control.Message:
    """Without how long something took."""
    return (
        msgspec.structs.replace(message, seconds=0.0) if isinstance(message, control.ModelLoaded) else message
    )


def model(*versions: Servable, name: str = DEFAULT_MODEL, target: int | None = None) -> ServedModel:
    """A model whose target is its highest version, unless it is named."""
    highest = versions[-1].serial if versions else 0
    return ServedModel(name=name, cell=0, target=highest if target is None else target, versions=versions)


def servable(
    serial: int,
    version: str | None = None,
    *,
    directory: str | None = "",
    resident: bool = False,
    error: str | None = None,
) -> Servable:
    """A servable that is on disk unless `directory` is None; its version is its serial unless it is named."""
    version = str(serial) if version is None else version
    return Servable(
        serial=serial,
        version=version,
        digest=f"{serial:064x}",
        directory=f"/models/{serial}/{version}" if directory == "" else directory,
        resident=resident,
        error=error,
    )
