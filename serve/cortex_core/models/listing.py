"""Listing several locations at once, within one deadline."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import unquote, urlsplit

from cortex_core import storage
from cortex_core.errors import CortexError, StorageUnavailable
from cortex_core.storage.protocol import Entry, Storage

THREADS = 16

OpenStorage = Callable[[str], Storage]


def list_locations(
    locations: Collection[str], *, seconds: float, open_storage: OpenStorage = storage.open_storage
) -> dict[str, Sequence[Entry] | CortexError]:
    """Everything below each location, or why it cannot be listed.

    Args:
        locations: as `open_storage` takes them.
        seconds: after which a location that is not listed yet counts as one that does not answer. What is still
            being listed then goes on in the background, to no effect.
    """
    wanted = list(dict.fromkeys(locations))
    todo, done = SimpleQueue[str](), SimpleQueue[tuple[str, "Sequence[Entry] | Exception"]]()
    for location in wanted:
        todo.put(location)
    late = threading.Event()

    def work() -> None:
        while not late.is_set():
            try:
                location = todo.get_nowait()
            except Empty:
                return
            done.put((location, _listed(location, open_storage)))

    for _ in range(min(THREADS, len(wanted))):
        threading.Thread(target=work, name="list-models", daemon=True).start()
    found: dict[str, Sequence[Entry] | CortexError] = {
        location: StorageUnavailable(f"{location} did not answer within {seconds:g} seconds")
        for location in wanted
    }
    end = time.monotonic() + seconds
    try:
        for _ in wanted:
            location, listing = done.get(timeout=max(0.0, end - time.monotonic()))
            if isinstance(listing, Exception) and not isinstance(listing, CortexError):
                raise listing
            found[location] = listing
    except Empty:
        pass
    finally:
        late.set()
    return found


def _listed(location: str, open_storage: OpenStorage) -> Sequence[Entry] | Exception:
    try:
        opened = open_storage(location)
        _check_folder(opened.url)
        return list(opened.list())
    except Exception as error:  # noqa: BLE001  # it is raised, or told, by who asked for the listing
        return error


def _check_folder(url: str) -> None:
    """Tell a folder that cannot be read from an empty one."""
    if not url.startswith("file://"):
        return
    folder = Path(unquote(urlsplit(url).path) or "/")
    try:
        is_folder = folder.is_dir()
        is_file = not is_folder and folder.exists()
    except PermissionError:
        is_folder, is_file, readable = True, False, False
    else:
        readable = not is_folder or os.access(folder, os.R_OK | os.X_OK)
    if is_file:
        raise CortexError(f"{folder} is a file, not a directory")
    if not readable:
        raise CortexError(
            f"{folder} cannot be read: permission denied", hint="let the operator's user read it"
        )
