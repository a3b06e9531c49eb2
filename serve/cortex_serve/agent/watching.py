"""Tells at once that something happened in a directory, or that its path leads to another one now.

What happened is not told: whoever is woken lists. Events are a hint that may be missing (network folders, the system's
limit of watches), so nobody relies on them alone.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

from watchdog import events
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from cortex_core.spec.types import Struct

_MOST_LINKS = 8
_ATTEMPTS = 3

_KINDS = [
    getattr(events, name)
    for name in (
        *("FileCreatedEvent", "FileModifiedEvent", "FileMovedEvent", "FileDeletedEvent", "FileAttribEvent"),
        *("DirCreatedEvent", "DirMovedEvent", "DirDeletedEvent"),
    )
    if hasattr(events, name)  # FileAttribEvent is newer than the others
]
"""Not those of reading: a listing would cause the next."""

_FORGETS_WHAT_MOVES_IN = not hasattr(events, "FileAttribEvent")
"""watchdog before 7, the newest for Python 3.10, does not watch directories that are moved into one it watches."""


class Watch:
    """Watches a directory and all below it, whether or not it exists yet.

    Its path may be made, removed, renamed into place, or be a link that is swapped: the directories in which that
    happens are watched too. Not for several threads at once.

    Args:
        root: the directory's path.
        woken: called at every event, from other threads; must return at once.
    """

    def __init__(self, root: Path, woken: Callable[[], None]) -> None:
        logging.getLogger("watchdog").setLevel(
            logging.CRITICAL
        )  # what it cannot do is noticed here, in other words
        self.events = 0
        self._root = root
        self._woken = woken
        self._observer: BaseObserver | None = None
        self._watched: tuple[_Watched, ...] = ()
        self._is_outdated = False

    def ensure(self) -> None:
        """Watch what the path leads to now. To be called before each listing: from then on nothing is missed.

        Raises:
            OSError: the system has no watches left. The next call tries again.
        """
        for _ in range(_ATTEMPTS):
            watched = tuple(_watched(self._root))
            if watched == self._watched and self._is_alive() and not self._is_outdated:
                return
            self.close()
            self._is_outdated = False
            self._observer = self._observing(watched)
            self._watched = watched

    def close(self) -> None:
        """Watch nothing more; an event may still come."""
        if self._observer is not None:
            # it waits for threads that may sleep for half a second
            Thread(target=self._observer.stop, name="cortex-watch-end", daemon=True).start()
        self._observer, self._watched = None, ()

    def _is_alive(self) -> bool:
        """A thread of watchdog's ends when what it watches is removed."""
        observer = self._observer
        return observer is not None and all(emitter.is_alive() for emitter in list(observer.emitters))

    def _observing(self, watched: tuple[_Watched, ...]) -> BaseObserver:
        observer = Observer()
        try:
            observer.start()
            for each in watched:
                handler = _Handler(each, self._event, self._directory_came)
                observer.schedule(
                    handler, str(each.folder), recursive=each.names is None, event_filter=_KINDS
                )
        except FileNotFoundError:
            pass  # removed meanwhile; `ensure` looks again
        except OSError:
            observer.stop()
            raise
        return observer

    def _event(self) -> None:
        self.events += 1
        self._woken()

    def _directory_came(self) -> None:
        self._is_outdated = _FORGETS_WHAT_MOVES_IN


class _Watched(Struct):
    """A folder that is watched.

    Attributes:
        names: entries that matter; None: all, and all below.
        identity: device and inode.
    """

    folder: Path
    names: frozenset[str] | None
    identity: tuple[int, int]


class _Handler(FileSystemEventHandler):
    def __init__(
        self, watched: _Watched, woken: Callable[[], None], directory_came: Callable[[], None]
    ) -> None:
        self._watched = watched
        self._woken = woken
        self._directory_came = directory_came

    def on_any_event(self, event: FileSystemEvent) -> None:
        if isinstance(event, events.DirCreatedEvent | events.DirMovedEvent):
            self._directory_came()
        names = self._watched.names
        paths = [Path(os.fsdecode(path)) for path in (event.src_path, event.dest_path) if path]
        if names is None or any(path.name in names or path == self._watched.folder for path in paths):
            self._woken()


def _watched(root: Path) -> Iterator[_Watched]:
    names: defaultdict[Path, set[str]] = defaultdict(set)
    for folder, name in _deciding(root):
        names[folder].add(name)
    for folder in names:
        yield from _existing(folder, frozenset(names[folder]))
    yield from _existing(Path(os.path.realpath(root)), None)


def _existing(folder: Path, names: frozenset[str] | None) -> Iterator[_Watched]:
    if folder.is_dir():
        status = folder.stat()
        yield _Watched(folder=folder, names=names, identity=(status.st_dev, status.st_ino))


def _deciding(path: Path) -> Iterator[tuple[Path, str]]:
    """Folders and the names in them that decide where a path leads, as far as it leads anywhere."""
    for _ in range(_MOST_LINKS):
        while not path.parent.is_dir() and path.parent != path:
            path = path.parent
        folder = Path(os.path.realpath(path.parent))
        yield folder, path.name
        if not path.is_symlink():
            return
        path = folder / path.readlink()
