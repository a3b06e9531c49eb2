from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from cortex_core import dotenv
from cortex_core.errors import InvalidProject

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/home/me", "GREETING": "hello", "SAME": "same"}


def read(folder: Path, text: str, deadline: float = 20.0) -> dict[str, str]:
    (folder / ".env").write_text(text)
    return dotenv.read(folder / ".env", ENVIRON, deadline=deadline)


def failure(folder: Path, text: str, deadline: float = 20.0) -> str:
    with pytest.raises(InvalidProject) as caught:
        read(folder, text, deadline)
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# nothing\n\n", {}),
        ("A=1\nB=two", {"A": "1", "B": "two"}),
        ("export A=1", {"A": "1"}),
        ("A=", {"A": ""}),
        ("A='one two'\nB=\"$GREETING $A\"", {"A": "one two", "B": "hello one two"}),
        ("A='$GREETING'", {"A": "$GREETING"}),
        ("A=~/x", {"A": "/home/me/x"}),
        ("A=$(printf '%s' computed)", {"A": "computed"}),
        ("A='two\nlines'", {"A": "two\nlines"}),
        ("A='ü=ü'", {"A": "ü=ü"}),
        ("A=$'\\xff'", {"A": "\udcff"}),
        ("GREETING=bye", {"GREETING": "bye"}),
        ("SAME=same", {}),
        ("PATH=/nowhere", {"PATH": "/nowhere"}),
        ("CORTEX_LOG_LEVEL=DEBUG", {"CORTEX_LOG_LEVEL": "DEBUG"}),
        ("cd /\nA=1", {"A": "1"}),
        ("f() { :; }\nA=1", {"A": "1"}),
        ("unset GREETING\nA=1", {"A": "1"}),
        ("echo said; echo also >&2; A=1", {"A": "1"}),
        ("A=$(cat cert.pem)", {"A": "certificate"}),
    ],
)
def test_variables(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    (tmp_path / "cert.pem").write_text("certificate")
    assert read(tmp_path, text) == expected


def test_without_a_file_nothing_is_set(tmp_path: Path) -> None:
    assert dotenv.read(tmp_path / ".env", ENVIRON) == {}


def test_a_failing_line_is_explained(tmp_path: Path) -> None:
    message = failure(tmp_path, "A=1\necho something\nno-such-command\nB=2\n")
    assert message.startswith(".env failed with status 127:\nsomething\n")
    assert "./.env: line 3: no-such-command: command not found" in message


def test_wrong_syntax_is_explained(tmp_path: Path) -> None:
    message = failure(tmp_path, "A='never closed\n")
    assert message.startswith(".env failed with status ")
    assert "unexpected EOF while looking for matching" in message


def test_a_false_command_without_output_is_explained(tmp_path: Path) -> None:
    assert failure(tmp_path, "false") == ".env failed with status 1"


def test_a_file_that_ends_the_shell_is_explained(tmp_path: Path) -> None:
    assert failure(tmp_path, "A=1; exit 0") == ".env ended the shell before its last line ('exit'?)"


def test_a_file_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    started = time.monotonic()
    message = failure(tmp_path, "sleep 600 & echo $! > pid; wait", deadline=0.5)
    assert message == ".env did not finish within 0.5 s"
    assert time.monotonic() - started < 15
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_reading_input_ends_at_once(tmp_path: Path) -> None:
    assert read(tmp_path, "read A || A=nothing") == {"A": "nothing"}


def test_output_is_cut_to_its_end(tmp_path: Path) -> None:
    message = failure(tmp_path, "seq 100000 >&2; false")
    assert len(message) < 2100
    assert message.endswith("\n99999\n100000")


def test_without_bash_it_says_so(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1")
    with pytest.raises(InvalidProject, match="cannot be read without bash"):
        dotenv.read(tmp_path / ".env", {"PATH": str(tmp_path)})


def is_gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
