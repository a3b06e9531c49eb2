"""The log of a replica: what its workers and the supervisor write, in one file of JSON lines, rotated.

    pipes ──reader──▶ memory, bounded ──writer──▶ <replica>.jsonl, .jsonl.1, …

Two threads, so that a disk that is slow or full makes neither a worker wait nor the supervisor: the reader
always empties the pipes, what does not fit into memory is dropped and counted. A worker's pipes are read to
their end, also when it was killed.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cortex_serve.log import MAX_LINE, json_line

ROTATE_AT = 10 * 2**20
FILES = 5
MAX_WAITING = 32 * 2**20
"""Bytes that may wait for the disk."""

_CHUNK = 2**18
_MAX_SHOWN = MAX_LINE - 100
_MAX_BEGUN = 6 * MAX_LINE
"""Bytes kept of a line that is not complete: a message of `MAX_LINE` characters grows when it is escaped."""

Kind = Literal["lines", "stdout", "stderr"]
_LEVELS: dict[Kind, str] = {"lines": "ERROR", "stdout": "INFO", "stderr": "ERROR"}


class RotatedFile:
    """A file of lines that becomes `.1`, `.2`, … when it is full.

    Args:
        limit: bytes; a file larger than this gets no more lines.
        files: how many are kept, the one that is written included.
    """

    def __init__(self, path: Path, *, limit: int = ROTATE_AT, files: int = FILES) -> None:
        self._path = path
        self._limit = limit
        self._files = files
        self._descriptor: int | None = None
        self._size = 0

    def write(self, lines: bytes) -> None:
        """Append complete lines.

        Raises:
            OSError: they were not written, not even in part.
        """
        if self._descriptor is None:
            self._open()
        if self._size and self._size + len(lines) > self._limit:
            self._rotate()
        assert self._descriptor is not None
        written = os.write(self._descriptor, lines)
        if written < len(lines):
            os.ftruncate(self._descriptor, self._size)
            raise OSError(f"{self._path}: no space for {len(lines)} bytes")
        self._size += written

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        self.close()
        for number in range(self._files - 1, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path if number == 0 else self._path.with_name(f"{self._path.name}.{number}")


@dataclass(eq=False)
class _Source:
    """One pipe.

    Attributes:
        begun: the line that is not complete yet, as far as it is kept (the writer's).
        length: how many bytes it has so far (the writer's).
        gap: what follows was dropped; go on at the next line (the reader's).
    """

    kind: Kind
    process: int
    begun: bytearray = field(default_factory=bytearray)
    length: int = 0
    gap: bool = False

    def forget(self) -> None:
        self.begun.clear()
        self.length = 0


class LogFiles:
    """Collects the log of a replica.

    Args:
        file: where it goes.
        replica: the replica's id, on every line.
    """

    def __init__(self, file: RotatedFile, *, replica: str) -> None:
        self._file = file
        self._replica = replica
        self._dropped = 0
        self._unreported = 0
        self._waiting: deque[tuple[_Source | None, bytes | None]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._new: deque[tuple[int, _Source]] = deque()
        self._wake_reader, self._woken = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._woken, False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._reader = threading.Thread(target=self._read_pipes, name="cortex-log-reader", daemon=True)
        self._writer = threading.Thread(target=self._write_file, name="cortex-log-writer", daemon=True)

    @property
    def dropped(self) -> int:
        """Lines lost so far because memory or disk did not take them."""
        return self._dropped

    def start(self) -> None:
        self._reader.start()
        self._writer.start()

    def follow(self, descriptor: int, kind: Kind, *, process: int) -> None:
        """Read a pipe until its end, then close it.

        Args:
            kind: "lines" are ready-made JSON lines; the others are wrapped line by line.
            process: the pid that goes on the lines made here.
        """
        os.set_blocking(descriptor, False)
        self._new.append((descriptor, _Source(kind, process)))
        self._wake()

    def write(self, level: str, message: str, extra: dict[str, Any] | None = None) -> None:
        """Write a line of the supervisor's own."""
        line = json_line(time.time(), level, message, process=os.getpid(), replica=self._replica, extra=extra)
        self._queue(None, line)

    def close(self, *, timeout: float) -> None:
        """Read all pipes to their ends and write everything, taking at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        self._closing = True
        self._wake()
        self._reader.join(timeout)
        with self._changed:
            self._changed.notify_all()
        self._writer.join(max(deadline - time.monotonic(), 0.1))

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full of bytes that wake it up anyway
            os.write(self._woken, b"\0")

    def _read_pipes(self) -> None:
        while not self._closing or self._new or len(self._selector.get_map()) > 1:
            for key, _ in self._selector.select():
                if key.fd == self._wake_reader:
                    os.read(self._wake_reader, 4096)
                    self._follow_new()
                else:
                    self._read(key.fd, key.data)

    def _follow_new(self) -> None:
        while self._new:
            descriptor, source = self._new.popleft()
            self._selector.register(descriptor, selectors.EVENT_READ, source)

    def _read(self, descriptor: int, source: _Source) -> None:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return
        self._queue(source, data)
        if not data:
            self._selector.unregister(descriptor)
            os.close(descriptor)

    def _queue(self, source: _Source | None, data: bytes) -> None:
        """Hand over what was read; no data means that the source has ended."""
        with self._changed:
            if data and self._waiting_bytes > MAX_WAITING:
                self._drop(data.count(b"\n"))
                if source:
                    source.gap = True
                return
            if source and source.gap:
                _, newline, data = data.partition(b"\n")
                self._waiting.append((source, None))
                source.gap = not newline
            self._waiting_bytes += len(data)
            self._waiting.append((source, data))
            self._changed.notify_all()

    def _drop(self, lines: int) -> None:
        self._dropped += lines
        self._unreported += lines

    def _write_file(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closing and not self._reader.is_alive():
                        self._file.close()
                        return
                    self._changed.wait(0.05 if self._closing else None)
                source, data = self._waiting.popleft()
                self._waiting_bytes -= len(data or b"")
            self._take(source, data)

    def _take(self, source: _Source | None, data: bytes | None) -> None:
        if source is None:
            self._append(data or b"")
        elif data is None:
            source.forget()
        else:
            self._append(self._lines(source, data))

    def _append(self, lines: bytes) -> None:
        if not lines:
            return
        report = b""
        if self._unreported:
            message = f"{self._unreported} log lines were dropped: the disk was full or slow"
            report = json_line(time.time(), "ERROR", message, process=os.getpid(), replica=self._replica)
        try:
            self._file.write(report + lines)
        except OSError:
            self._drop(lines.count(b"\n"))
        else:
            if report:
                self._unreported = 0

    def _lines(self, source: _Source, data: bytes) -> bytes:
        """The complete JSON lines that `data` brings; the rest is kept for the next call."""
        complete, newline, rest = data.rpartition(b"\n")
        lines = []
        if newline:
            first, *others = complete.split(b"\n")
            self._begin(source, first)
            lines.append(self._end(source))
            if source.kind == "lines":
                lines += [b"\n".join(others), b"\n"] if others else []
            else:
                lines += [self._wrapped(source, other, len(other)) for other in others]
        self._begin(source, rest)
        if not data and source.length:
            lines.append(self._wrapped(source, bytes(source.begun), source.length))
        return b"".join(lines)

    def _begin(self, source: _Source, data: bytes) -> None:
        source.begun += data[: max(_MAX_BEGUN - source.length, 0)]
        source.length += len(data)

    def _end(self, source: _Source) -> bytes:
        line, length = bytes(source.begun), source.length
        source.forget()
        if source.kind == "lines" and length == len(line):
            return line + b"\n"
        return self._wrapped(source, line, length)

    def _wrapped(self, source: _Source, line: bytes, length: int) -> bytes:
        shown = line[:_MAX_SHOWN] if length > MAX_LINE else line
        message = shown.decode(errors="replace").removesuffix("\r")
        if length > MAX_LINE:
            message += f" [line cut: {length} bytes]"
        level = _LEVELS[source.kind]
        return json_line(time.time(), level, message, process=source.process, replica=self._replica)
