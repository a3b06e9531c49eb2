"""Reads the logs of an API's replicas as one, by time.

Each replica writes `<replica>.jsonl`, which it renames to `.jsonl.1`, `.jsonl.2` … when it has grown. Who
reads keeps the files open, so renaming and deleting them takes nothing away. A line counts once its newline
is there. What is not a JSON object (printed by somebody else, torn by a crash) is wrapped into one.
"""

from __future__ import annotations

import asyncio
import heapq
import os
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from cortex_operator.backends.protocol import LogLine, LogQuery

SUFFIX = ".jsonl"
LINE_LIMIT = 8 * 1024 * 1024
"""Bytes of a line beyond which it is cut into pieces."""

_CHUNK = 256 * 1024
_BATCH = 1000
_POLL = 0.1
_ERROR_TAIL = 200


class _Record(msgspec.Struct):
    asctime: str = ""
    levelname: str = ""
    message: str = ""
    exc_info: str = ""


@dataclass(frozen=True, order=True)
class _Line:
    """A line and when it was written; within a file time does not go back."""

    at: str
    replica: str
    text: str


async def read(folder: Path, query: LogQuery) -> AsyncIterator[LogLine]:
    """The lines of all logs in a folder, oldest first.

    Args:
        folder: of one API; need not exist yet.
        query: which lines; with `follow` new lines, files and replicas are picked up within a second.
    """
    logs = _Logs(folder, query)
    try:
        earlier = await asyncio.to_thread(logs.earlier)
        while batch := await asyncio.to_thread(list, islice(earlier, _BATCH)):
            for line in batch:
                yield LogLine(replica=line.replica, text=line.text)
        while query.follow:
            lines = await asyncio.to_thread(logs.new)
            for line in lines:
                yield LogLine(replica=line.replica, text=line.text)
            if not lines:
                await asyncio.sleep(_POLL)
    finally:
        logs.close()


def last_error(folder: Path, replica: str, since: float) -> str | None:
    """The last error that a replica logged, on one line; one with a traceback says more than those after it.

    Args:
        folder: of its API.
        replica: its id.
        since: seconds since the epoch.
    """
    log = _ReplicaLog(folder / f"{replica}{SUFFIX}", since=since)
    try:
        log.skip_to_last(_ERROR_TAIL)
        records = [_decode(line.text.encode()) for line in log.lines() if line.at >= _stamp(since)]
    finally:
        log.close()
    errors = [record for record in records if record and record.levelname in ("ERROR", "CRITICAL")]
    raised = [record for record in errors if record.exc_info]
    return _one_line((raised or errors)[-1]) if errors else None


def prune(folder: Path, living: Collection[str], keep: int) -> None:
    """Delete the oldest logs of replicas that are gone, but for the newest `keep` of them."""
    gone = [path for path in folder.glob(f"*{SUFFIX}") if path.name.removesuffix(SUFFIX) not in living]
    for path in sorted(gone, key=lambda path: path.stat().st_mtime, reverse=True)[keep:]:
        for each in (path, *folder.glob(f"{path.name}.*")):
            each.unlink(missing_ok=True)


class _Logs:
    """The logs of a folder, including those that appear while we read."""

    def __init__(self, folder: Path, query: LogQuery) -> None:
        self._folder = folder
        self._query = query
        self._logs: dict[str, _ReplicaLog] = {}

    def earlier(self) -> Iterator[_Line]:
        """What is there already."""
        self._open_new()
        tail = self._query.tail
        if tail is not None:
            for log in self._logs.values():
                log.skip_to_last(tail)
        lines = self._wanted(heapq.merge(*(log.lines() for log in self._logs.values())))
        return lines if tail is None else iter(deque(lines, maxlen=tail))

    def new(self) -> list[_Line]:
        """What was written since the last call, or a good part of it."""
        self._open_new()
        lines = (line for log in self._logs.values() for line in islice(log.lines(), _BATCH))
        return sorted(self._wanted(lines))

    def close(self) -> None:
        for log in self._logs.values():
            log.close()

    def _open_new(self) -> None:
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            name = path.name.removesuffix(SUFFIX)
            if name not in self._logs and self._query.replica in (None, name):
                self._logs[name] = _ReplicaLog(path, since=self._query.since)

    def _wanted(self, lines: Iterator[_Line]) -> Iterator[_Line]:
        since = "" if self._query.since is None else _stamp(self._query.since)
        return (line for line in lines if line.at >= since)


class _ReplicaLog:
    """One replica's files, read as one stream that may grow, be rotated, and be truncated meanwhile."""

    def __init__(self, path: Path, *, since: float | None) -> None:
        self._path = path
        self._replica = path.name.removesuffix(SUFFIX)
        self._files = []
        for file in self._open_all():
            if since is None or os.fstat(file.fileno()).st_mtime >= since:
                self._files.append(file)
            else:
                file.close()
        self._pending: deque[bytes] = deque()
        self._rest = b""
        self._at = ""

    def lines(self) -> Iterator[_Line]:
        """Complete lines from where the last reading stopped to what is the end now."""
        while self._pending or self._read_on():
            if self._pending:
                yield self._line(self._pending.popleft())

    def skip_to_last(self, count: int) -> None:
        """Begin that many lines before the end; only before anything was read."""
        for index, file in reversed(list(enumerate(self._files))):
            count -= _seek_to_last(file, count)
            if count <= 0:
                for older in self._files[:index]:
                    older.close()
                del self._files[:index]
                return

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def _read_on(self) -> bool:
        """Read a piece or go on to the next file; False when there is nothing more now."""
        if not self._files:
            self._files = self._open_all()
            return bool(self._files)
        file = self._files[0]
        if chunk := file.read(_CHUNK):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._pending.extend(line for line in lines if line.strip())
            if len(self._rest) > LINE_LIMIT:
                self._end_line()
            return True
        if len(self._files) > 1:
            self._end_line()
            self._files.pop(0).close()
            return True
        if os.fstat(file.fileno()).st_size < file.tell():
            file.seek(0)
            self._rest = b""
            return True
        # What was written to the old file between our read and its renaming is read before we go on.
        self._files += self._newer(file)
        return len(self._files) > 1

    def _end_line(self) -> None:
        if self._rest.strip():
            self._pending.append(self._rest)
        self._rest = b""

    def _newer(self, file: BinaryIO) -> list[BinaryIO]:
        """The files that are newer than this one; all, when it has been deleted."""
        try:
            if os.path.samestat(self._path.stat(), os.fstat(file.fileno())):
                return []
        except FileNotFoundError:
            return []  # in the middle of being rotated
        found = self._open_all()
        same = [os.path.samestat(os.fstat(each.fileno()), os.fstat(file.fileno())) for each in found]
        older = same.index(True) + 1 if True in same else 0
        for each in found[:older]:
            each.close()
        return found[older:]

    def _open_all(self) -> list[BinaryIO]:
        """All files, oldest first.

        The newest is opened first: when they are renamed meanwhile, we meet one twice and miss none.
        """
        found: dict[int, BinaryIO] = {}
        number = 0
        while True:
            path = self._path if number == 0 else Path(f"{self._path}.{number}")
            try:
                file = path.open("rb", buffering=0)
            except FileNotFoundError:
                if number > 0:
                    return list(reversed(found.values()))
            else:
                if found.setdefault(os.fstat(file.fileno()).st_ino, file) is not file:
                    file.close()
            number += 1

    def _line(self, raw: bytes) -> _Line:
        record = _decode(raw)
        if record is not None:
            self._at = max(self._at, record.asctime)
            return _Line(self._at, self._replica, raw.decode(errors="replace"))
        self._at = self._at or _stamp(self._path.stat().st_mtime)
        wrapped = {"asctime": self._at, "levelname": "INFO", "message": raw.decode(errors="replace")}
        return _Line(self._at, self._replica, msgspec.json.encode(wrapped).decode())


def _seek_to_last(file: BinaryIO, count: int) -> int:
    """Go to the beginning of the last `count` complete lines; answers how many there are, if fewer."""
    position = file.seek(0, os.SEEK_END)
    newlines = 0
    while position > 0:
        start = max(0, position - _CHUNK)
        file.seek(start)
        block = file.read(position - start)
        newlines += block.count(b"\n")
        if newlines > count:
            end = len(block)
            for _ in range(count + 1 - (newlines - block.count(b"\n"))):
                end = block.rindex(b"\n", 0, end)
            file.seek(start + end + 1)
            return count
        position = start
    file.seek(0)
    return newlines


def _decode(raw: bytes) -> _Record | None:
    try:
        return _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


_DECODER = msgspec.json.Decoder(_Record)


def _one_line(record: _Record) -> str:
    parts = [*record.message.strip().splitlines()[:1], *record.exc_info.strip().splitlines()[-1:]]
    return ": ".join(part.strip() for part in parts)


def _stamp(seconds: float) -> str:
    """A time as `asctime` has it; such texts sort by time."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
