from __future__ import annotations

import io
import json

import pytest

from cortex.console import Console, printable
from cortex_core.errors import CortexError, NotFound


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def console(
    *, stdin: str = "", terminal: bool = False, environ: dict[str, str] | None = None
) -> tuple[Console, io.StringIO, io.StringIO]:
    make = Terminal if terminal else io.StringIO
    stdout, stderr = make(), make()
    made = Console(stdin=make(stdin), stdout=stdout, stderr=stderr, environ=environ or {"TERM": "xterm"})
    return made, stdout, stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\nb\rc", "a\nb\\x0dc"),
        ("\x9b\x7fü", "\\x9b\\x7fü"),
    ],
)
def test_remote_text_cannot_control_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_results_and_the_rest_go_to_different_streams() -> None:
    made, stdout, stderr = console()
    made.result("r\x07")
    made.note("n")
    made.warning("w")
    assert (stdout.getvalue(), stderr.getvalue()) == ("r\\x07\n", "n\nwarning: w\n")


def test_columns_are_three_spaces_apart_and_cells_stay_on_their_line() -> None:
    made, stdout, _ = console()
    made.table(["a", "long header", ""], [["1", "x\ny", "current"], ["222", "z", ""]])
    assert stdout.getvalue() == "a     long header\n1     x y           current\n222   z\n"


def test_colours_only_on_a_terminal_that_wants_them() -> None:
    for environ, coloured in [
        ({"TERM": "xterm"}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ]:
        made, stdout, _ = console(terminal=True, environ=environ)
        made.table(["status"], [["live"]])
        assert ("\x1b[32mlive\x1b[0m" in stdout.getvalue()) is coloured
    made, stdout, _ = console()
    made.table(["status"], [["live"]])
    assert "\x1b" not in stdout.getvalue()


def test_errors_are_documents_with_output_json() -> None:
    made, stdout, stderr = console()
    made.error(NotFound("gone", hint="look"), exit_code=3)
    assert (stdout.getvalue(), stderr.getvalue()) == ("", "error: gone\nhint: look\n")
    made.output = "json"
    made.error(CortexError("gone"), exit_code=1)
    assert json.loads(stdout.getvalue()) == {"error": {"message": "gone", "hint": None, "exit_code": 1}}


@pytest.mark.parametrize(
    ("answer", "expected"), [("y\n", True), ("Yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_confirm(answer: str, expected: bool) -> None:
    made, _, stderr = console(stdin=answer, terminal=True)
    assert made.can_ask
    assert made.confirm("sure?") is expected
    assert stderr.getvalue() == "sure? [y/N] "


def test_nobody_to_ask_without_a_terminal() -> None:
    assert not console()[0].can_ask


def test_progress_without_a_terminal_is_a_line_for_each_change() -> None:
    made, _, stderr = console()
    with made.progress() as progress:
        for text in ("a", "a", "b"):
            progress.show(text)
    assert stderr.getvalue() == "a\nb\n"


def test_progress_on_a_terminal_is_one_line_with_the_time() -> None:
    made, _, stderr = console(terminal=True)
    times = iter([0.0, 2.0])
    with made.progress(clock=lambda: next(times)) as progress:
        progress.show("starting\x1b")
    assert "starting\\x1b  (2s)" in stderr.getvalue()
