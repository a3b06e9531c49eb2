"""What the agent of a replica publishes and its workers follow: which models there are, and what to hold.

A snapshot is a file, replaced by rename, so it is always whole; a worker that starts anew reads it and knows all.
Which version "latest" means is not in it: that is the model's cell (`cells.py`), one number that all workers
read at every request, so they all switch at one moment.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cortex_core.spec.types import Struct

FILE = "snapshot.json"


class Servable(Struct):
    """One version of a model, with one content. When a version's content changes, that is another servable.

    Attributes:
        serial: its number in this replica, from 1, never given out again; greater is not newer.
        version: the directory's name; "1" when the model is unversioned.
        digest: of its files' names, sizes and etags.
        directory: absolute path of its files on this machine; None: not here yet, or not to be relied on without
            asking (`control.Want`).
        resident: every worker is to hold it in memory.
        error: why it cannot be had, for whoever asks for it by number; None when it can.
    """

    serial: int
    version: str
    digest: str
    directory: str | None = None
    resident: bool = False
    error: str | None = None

    @property
    def value(self) -> int:
        """What versions are ordered by."""
        return int(self.version)


class ServedModel(Struct):
    """A model and the versions that can be asked for.

    Attributes:
        name: `cortex_core.models.tree.DEFAULT_MODEL` for the model of `path`.
        cell: index of its cell, whose content is the serial of what "latest" means; 0 there: nothing yet, or
            nothing at this moment.
        target: serial of what "latest" is going to mean; 0: there is nothing.
        versions: by value, no two of the same value, except the one that is served and what will replace it:
            then the newer content comes last.
    """

    name: str
    cell: int
    target: int
    versions: tuple[Servable, ...]


class Snapshot(Struct):
    """Everything a worker has to know.

    Attributes:
        epoch: greater than that of all earlier snapshots of this replica's life.
        has_names: False for `path`: there is one model, whatever a handler calls it.
        models: by name.
    """

    epoch: int
    has_names: bool
    models: tuple[ServedModel, ...]


def publish(folder: Path, snapshot: Snapshot) -> None:
    """Replace the folder's snapshot."""
    partial = folder / f".{FILE}.partial"
    partial.write_bytes(msgspec.json.encode(snapshot))
    partial.replace(folder / FILE)


def read(folder: Path) -> Snapshot | None:
    """The folder's snapshot; None while there is none."""
    try:
        return _decoder.decode((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None


_decoder: msgspec.json.Decoder[Snapshot] = msgspec.json.Decoder(Snapshot)


def remove(folder: Path) -> None:
    """Forget the snapshot of an earlier life."""
    (folder / FILE).unlink(missing_ok=True)
