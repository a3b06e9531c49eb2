"""The log of a worker: one JSON object a line, each with the id of the request it was written for.

    logger, print, sys.stderr, warnings  ── at once ──┐
    access (one per request)             ── batched ──┴─▶ LinePipe ──▶ supervisor ──▶ file

What is written below Python (C libraries, subprocesses, the interpreter's last words) goes to the process's
stdout and stderr, which are pipes too; the supervisor wraps it line by line (`log_files.py`).

Nothing here ever waits for the reader: what the pipe does not take is kept up to a limit, then dropped and
counted.
"""

from __future__ import annotations

import contextvars
import io
import logging
import os
import secrets
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent import futures
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any, TypeAlias

import msgspec

MAX_LINE = 5_000_000
"""Bytes of one message; what is longer is cut."""

MAX_WAITING = 2**25
"""Bytes of lines that may wait for the pipe; what comes on top is dropped."""

MAX_ACCESS_LINES = 50_000
_ACCESS_INTERVAL = 0.05
_MOST_PARTS = 200
_NO_TIME = '{"asctime":"1970-01-01T00:00:00.000Z'  # of the moment 0

logger = logging.getLogger("cortex")
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("cortex_request_id", default="")

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_STATUS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
_ExceptionTriple: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]


class LinePipe:
    """The writing end of a log pipe: takes whole lines, from any thread, and never blocks.

    Attributes:
        dropped: lines that could not be kept.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.dropped = 0
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._writing = threading.Lock()
        self._rest = memoryview(b"")

    @property
    def empty(self) -> bool:
        return not self._waiting and not self._rest

    def put(self, lines: bytes, *, count: int = 1) -> bool:
        """Write `count` complete lines, or keep them for later, or drop them.

        Returns:
            Whether nothing is left that somebody has to `drain` later.
        """
        if self._waiting_bytes > MAX_WAITING:
            self.dropped += count
            return False
        self._waiting_bytes += len(lines)
        self._waiting.append(lines)
        return self.drain()

    def drain(self) -> bool:
        """Write what waits, as far as the pipe takes it.

        Returns:
            Whether nothing waits any more.
        """
        while not self.empty:
            if not self._writing.acquire(blocking=False):
                return True  # whoever writes looks again when done
            try:
                if not self._write():
                    return False
            finally:
                self._writing.release()
        return True

    def flush(self, *, timeout: float) -> None:
        """Wait until everything is written, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.drain() and (left := deadline - time.monotonic()) > 0:
            writable = select.poll()  # select() cannot watch descriptors above 1023
            writable.register(self._descriptor, select.POLLOUT)
            writable.poll(left * 1000)

    def _write(self) -> bool:
        try:
            while not self.empty:
                if not self._rest:
                    self._rest = memoryview(self._waiting.popleft())
                written = os.write(self._descriptor, self._rest)
                self._rest = self._rest[written:]
                self._waiting_bytes -= written
        except BlockingIOError:
            return False
        except OSError:  # nobody reads any more; this process is about to end
            self._waiting.clear()
            self._rest = memoryview(b"")
            self._waiting_bytes = 0
        return True


class Log:
    """What a worker writes to its log with.

    Args:
        pipe: takes the lines.
        replica: the replica's id, part of each line.
        project: folder of the handler's files; tracebacks name them as their author does, relative to it.
    """

    def __init__(self, pipe: LinePipe, *, replica: str, project: str) -> None:
        self.logger = logger
        self.request_id = request_id
        self._pipe = pipe
        self._in_project = f'File "{project}/'
        self._quiet = not logger.isEnabledFor(logging.INFO)
        self._line = partial(_line, process=os.getpid(), replica=replica)
        self._access_line = _AccessLine(self._line)
        self._access: deque[str] = deque(maxlen=MAX_ACCESS_LINES)
        self._wanted = threading.Event()
        self._resting = True

    @property
    def dropped(self) -> int:
        """Lines lost so far because nobody took them."""
        return self._pipe.dropped

    def start(self) -> None:
        """Begin to write access lines in the background."""
        threading.Thread(target=self._write_batches, name="cortex-access-log", daemon=True).start()

    def access(self, method: str, path: str, status: int, seconds: float, request_id: str) -> None:
        """Note a request that was answered; costs the request a microsecond.

        The line is made here and now. Made later for many at once, it would keep the interpreter from requests for
        milliseconds.

        Args:
            seconds: time it took.
            request_id: of letters, digits, `.`, `_` and `-`.
        """
        if self._quiet:
            return
        if len(self._access) == MAX_ACCESS_LINES:
            self._pipe.dropped += 1
        self._access.append(self._access_line(time.time(), method, path, status, seconds, request_id))
        if self._resting:
            self._wake()

    def write(self, level: str, message: str, extra: dict[str, Any] | None = None) -> None:
        """Write one line now; `extra` gives it more keys."""
        if extra and isinstance(extra.get("exc_info"), str):
            extra = {**extra, "exc_info": extra["exc_info"].replace(self._in_project, 'File "')}
        line = self._line(time.time(), level, message, request_id=request_id.get(), extra=extra or {})
        if not self._pipe.put(line):
            self._wake()

    def close(self, *, timeout: float = 1.0) -> None:
        """Write what is left, waiting at most `timeout` seconds for the reader."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Lines):
                stream.end_lines()
        self._write_access_lines()
        self._pipe.flush(timeout=timeout)

    def _wake(self) -> None:
        self._resting = False
        self._wanted.set()

    def _write_batches(self) -> None:
        while True:
            self._resting = True
            if not self._access and self._pipe.empty:
                self._wanted.wait()
            self._resting = False
            self._wanted.clear()
            time.sleep(_ACCESS_INTERVAL)  # lets a batch gather
            self._write_access_lines()
            self._pipe.flush(timeout=1.0)

    def _write_access_lines(self) -> None:
        count = len(self._access)
        lines = [self._access.popleft() for _ in range(count)]
        if lines:
            self._pipe.put("".join(lines).encode(), count=count)


def open_log(descriptor: int, *, replica: str, level: str, project: str) -> Log:
    """Make the pipe `descriptor` this process's log: loggers, `print`, stderr, warnings, threads' last words.

    Args:
        level: of the API file: debug, info, warning or error.
        project: folder of the handler's files.
    """
    root = logging.getLogger()
    root.setLevel(level.upper())
    log = Log(LinePipe(descriptor), replica=replica, project=project)
    root.addHandler(_JsonLines(log))
    logging.captureWarnings(capture=True)
    sys.stdout = _Lines(sys.stdout, partial(log.write, "INFO"))
    sys.stderr = _Lines(sys.stderr, partial(log.write, "ERROR"))
    threading.excepthook = _log_dead_thread
    log.start()
    return log


def follow_threads() -> None:
    """Let the threads a handler starts inherit the context of the request that started them.

    Python does so only from 3.14 on, and only for `threading.Thread`; without it the lines they log could not
    be told from those of other requests.
    """
    start, submit = threading.Thread.start, futures.ThreadPoolExecutor.submit

    def start_in_context(thread: threading.Thread) -> None:
        if request_id.get():
            thread.run = partial(contextvars.copy_context().run, thread.run)  # type: ignore[method-assign]  # the point
        start(thread)

    def submit_in_context(
        pool: futures.ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **named: Any
    ) -> futures.Future[Any]:
        if request_id.get():
            function = partial(contextvars.copy_context().run, function)
        return submit(pool, function, *args, **named)

    threading.Thread.start = start_in_context  # type: ignore[assignment,method-assign]  # the point
    futures.ThreadPoolExecutor.submit = submit_in_context  # type: ignore[assignment,method-assign]  # the point


def json_line(
    at: float, level: str, message: str, *, process: int, replica: str, extra: dict[str, Any] | None = None
) -> bytes:
    """One line as every log of a replica has it.

    Args:
        at: seconds since the epoch.
        extra: more keys; those every line has cannot be replaced.
    """
    return _line(at, level, message, process=process, replica=replica, extra=extra or {})


def _line(
    at: float,
    level: str,
    message: str,
    *,
    process: int,
    replica: str,
    extra: dict[str, Any],
    request_id: str = "",
) -> bytes:
    if len(message) > MAX_LINE:
        message = f"{message[:MAX_LINE]} [line cut: {len(message)} characters]"
    fields = {"asctime": _timestamp(at), "levelname": level, "message": message, "process": process}
    fields["replica"] = replica
    if request_id:
        fields["request_id"] = request_id
    fields.update((key, value) for key, value in extra.items() if key not in fields)
    try:
        return _encode(fields) + b"\n"
    except (TypeError, ValueError, RecursionError):  # keys that are no text, lone surrogates, cycles
        return _encode({_readable(key): _readable(value) for key, value in fields.items()}) + b"\n"


class _AccessLine:
    """Makes the lines of requests that were answered, of parts that most of them share.

    Args:
        line: makes a line of any kind.
    """

    def __init__(self, line: Callable[..., bytes]) -> None:
        self._line = line
        self._parts: dict[tuple[str, str, int], tuple[str, str]] = {}
        self._any_id = secrets.token_hex()  # nobody can guess it, so no path holds it
        self._time = (0, "")

    def __call__(
        self, at: float, method: str, path: str, status: int, seconds: float, request_id: str
    ) -> str:
        before, after = self._parts.get((method, path, status)) or self._new_parts(method, path, status)
        moment = int(at * 1000)
        known, text = self._time
        if known != moment:
            text = _timestamp(at)
            self._time = (moment, text)
        return f'{{"asctime":"{text}{before}{request_id}{after}{seconds * 1000:.3f}}}\n'

    def _new_parts(self, method: str, path: str, status: int) -> tuple[str, str]:
        """What is around the time, the id and the latency."""
        extra = {
            "method": method,
            "path": path,
            "status_code": _STATUS.get(status, str(status)),
            "latency_ms": 0,
        }
        line = self._line(
            0.0, "INFO", f"{method} {path} {status}", request_id=self._any_id, extra=extra
        ).decode()
        before, after = line.removeprefix(_NO_TIME).removesuffix("0}\n").split(self._any_id)
        if len(self._parts) < _MOST_PARTS:  # clients may make up methods
            self._parts[method, path, status] = (before, after)
        return before, after


def _timestamp(at: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03d}Z"


def _readable(value: Any) -> Any:
    return value if isinstance(value, int | float) else str(value).encode(errors="backslashreplace").decode()


_encode = msgspec.json.Encoder(enc_hook=repr).encode


class _JsonLines(logging.Handler):
    """Turns log records into lines; keys given through `extra` become keys of the object."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            extra = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
            if record.exc_info and record.exc_info[0] is not None:
                extra["exc_info"] = "".join(traceback.format_exception(*record.exc_info))
            elif record.exc_text:
                extra["exc_info"] = record.exc_text
            if record.stack_info:
                extra["stack_info"] = record.stack_info
            self._log.write(record.levelname, record.getMessage(), extra)
        except Exception:  # noqa: BLE001  # a log line must never fail a request; logging says what is wrong
            self.handleError(record)


class _Lines(io.TextIOBase):
    """Stands in for `sys.stdout` and `sys.stderr`: each complete line becomes a line of the log.

    Every thread completes its own lines, so that they are not mixed up. `buffer` and the file descriptor are
    the real ones.
    """

    def __init__(self, original: Any, write_line: Callable[[str], None]) -> None:
        self.buffer = original.buffer
        self._original = original
        self._write_line = write_line
        self._begun: dict[int, str] = {}  # by thread

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in the stubs
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]  # as above
        return "backslashreplace"

    def fileno(self) -> int:
        return int(self._original.fileno())

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        *lines, rest = (self._begun.pop(thread, "") + text).split("\n")
        if len(rest) > MAX_LINE:
            lines, rest = [*lines, rest], ""
        if rest:
            self._begun[thread] = rest
        for line in lines:
            self._write_line(line.rstrip("\r"))
        return len(text)

    def flush(self) -> None:
        self._original.flush()

    def end_lines(self) -> None:
        """Make lines of what threads have begun."""
        for thread in list(self._begun):
            self._write_line(self._begun.pop(thread, ""))
        self.flush()


def _log_dead_thread(dead: threading.ExceptHookArgs) -> None:
    if dead.exc_type is SystemExit or dead.exc_value is None:
        return
    name = dead.thread.name if dead.thread else "?"
    triple: _ExceptionTriple = (dead.exc_type, dead.exc_value, dead.exc_traceback)
    logger.error("thread %s died: %s", name, dead.exc_type.__name__, exc_info=triple)
