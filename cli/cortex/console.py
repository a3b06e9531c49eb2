"""The only module that reads from and writes to the terminal.

Results go to stdout, everything else to stderr. Colours, questions and the moving progress line need a
terminal; without one the same things are said in plain lines and nothing is asked. Text from elsewhere
(logs, errors, names) cannot control the terminal: control characters are shown, not sent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, Literal, Protocol

from cortex_core.errors import CortexError

Output = Literal["pretty", "json"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLUMN_GAP = "   "
_STYLES = {"header": "1", "good": "32", "bad": "31", "busy": "33"}
_STYLE_OF_CELL = {
    "live": "good", "ready": "good", "loaded": "good", "ok": "good",
    "updating": "busy", "starting": "busy", "initializing": "busy", "preparing": "busy", "warning": "busy",
    "error": "bad", "failed": "bad", "error (out of memory)": "bad", "error (image pull)": "bad",
}  # fmt: skip


def printable(text: str) -> str:
    """The text with control characters (but newline and tab) written out as `\\x1b`."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text.replace("\r\n", "\n"))


class ReaderGone(Exception):
    """Whoever read stdout has seen enough, as in `cortex logs iris | head`."""


class Progress(Protocol):
    """A line that says what is going on."""

    def show(self, text: str) -> None: ...


class Console:
    """One terminal, or what stands in for it.

    Args:
        stdin, stdout, stderr: text streams.
        environ: read for NO_COLOR and TERM.
    """

    def __init__(
        self, *, stdin: IO[str], stdout: IO[str], stderr: IO[str], environ: Mapping[str, str]
    ) -> None:
        self._stdin, self._stdout, self._stderr = stdin, stdout, stderr
        plain = bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"
        self._colours = stdout.isatty() and not plain
        self._moving = stderr.isatty() and environ.get("TERM") != "dumb"
        self.can_ask = stdin.isatty() and stderr.isatty()
        self.is_terminal = stdout.isatty()
        self.output: Output = "pretty"
        self.error_document: Callable[[CortexError, int], Any] = _error_document

    # results

    def result(self, text: str) -> None:
        """Write one result, with a newline."""
        self._write(printable(text) + "\n")

    def result_json(self, value: Any) -> None:
        """Write a document: structs, dictionaries, lists."""
        import msgspec

        encoded = msgspec.json.encode(value)
        self._write(msgspec.json.format(encoded, indent=2).decode() + "\n")

    def result_bytes(self, data: bytes) -> None:
        """Write bytes as they are."""
        stream = self._stdout.buffer  # type: ignore[attr-defined]  # a text stream over bytes, as sys.stdout is
        try:
            stream.write(data)
            stream.flush()
        except BrokenPipeError as error:
            raise ReaderGone from error

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write rows in columns that are three spaces apart."""
        self._write("".join(f"{line}\n" for line in self._table_lines(header, rows)))

    # everything else

    def note(self, text: str = "") -> None:
        self._stderr.write(printable(text) + "\n")
        self._stderr.flush()

    def warning(self, text: str) -> None:
        self.note(f"warning: {text}")

    def error(self, error: CortexError, *, exit_code: int) -> None:
        """Say what went wrong and what to do; with `-o json` on stdout as well, as a document."""
        problems = getattr(error, "problems", None)
        if problems:  # of an API file: each has its place, so `error:` stands before the count
            self.note(f"{error.message}\n\nerror: {problems[0].filename} has {_counted(problems)}")
        else:
            self.note(f"error: {error.message}")
        if error.hint:
            self.note(f"hint: {error.hint}")
        if self.output == "json":
            self.result_json(self.error_document(error, exit_code))

    def confirm(self, question: str) -> bool:
        """Ask yes or no; the answer to nothing is no. Only where `can_ask`."""
        return self._ask(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    def ask_secret(self, question: str) -> str:
        """Ask without showing what is typed. Only where `can_ask`."""
        from getpass import getpass

        return getpass(f"{question}: ").strip()

    def read_all(self) -> bytes:
        """All of stdin."""
        data: bytes = self._stdin.buffer.read()  # type: ignore[attr-defined]  # as in result_bytes
        return data

    @contextmanager
    def progress(self, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
        """One line on stderr that changes and goes away; without a terminal a line for each change."""
        if not self._moving:
            yield _PlainProgress(self.note)
            return
        import rich.console

        terminal = rich.console.Console(file=self._stderr, highlight=False, markup=False)
        with terminal.status("", spinner="dots") as status:
            yield _MovingProgress(status.update, clock=clock)

    def watch(self, title: str, draw: Callable[[Console], None], *, every: float = 2.0) -> None:
        """Clear the screen, write a header and let `draw` write, every so many seconds until interrupted."""
        if not self.is_terminal:
            raise CortexError("cannot watch: stdout is not a terminal", hint="drop --watch")
        while True:
            page = _Page(self)
            draw(page.console)
            now = time.strftime("%H:%M:%S")
            self._write(f"\x1b[H\x1b[2J{printable(title)}   {now}\n\n{page.text()}")
            time.sleep(every)

    def _write(self, text: str) -> None:
        try:
            self._stdout.write(text)
            self._stdout.flush()
        except BrokenPipeError as error:
            raise ReaderGone from error

    def _ask(self, question: str) -> str:
        self._stderr.write(printable(question))
        self._stderr.flush()
        return self._stdin.readline()

    def _table_lines(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
        cells = [[printable(cell).replace("\n", " ") for cell in row] for row in (header, *rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for number, row in enumerate(cells):
            yield _COLUMN_GAP.join(
                self._painted(cell, is_header=number == 0) + " " * (width - len(cell))
                for cell, width in zip(row, widths, strict=True)
            ).rstrip()

    def _painted(self, cell: str, *, is_header: bool) -> str:
        style = "header" if is_header else _STYLE_OF_CELL.get(cell)
        return f"\x1b[{_STYLES[style]}m{cell}\x1b[0m" if self._colours and style else cell


def _counted(problems: Sequence[object]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def _error_document(error: CortexError, exit_code: int) -> dict[str, Any]:
    return {"error": {"message": error.message, "hint": error.hint, "exit_code": exit_code}}


class _Page:
    """What one drawing of `watch` writes, kept until it is complete so that the screen does not flicker."""

    def __init__(self, console: Console) -> None:
        import copy
        import io

        self._buffer = io.StringIO()
        self.console = copy.copy(console)
        self.console._stdout = self._buffer

    def text(self) -> str:
        return self._buffer.getvalue()


class _PlainProgress:
    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._last = ""

    def show(self, text: str) -> None:
        if text != self._last:
            self._last = text
            self._write(text)


class _MovingProgress:
    def __init__(self, update: Callable[[str], None], *, clock: Callable[[], float]) -> None:
        self._update = update
        self._clock = clock
        self._started = clock()

    def show(self, text: str) -> None:
        self._update(f"{printable(text)}  ({self._clock() - self._started:.0f}s)")
