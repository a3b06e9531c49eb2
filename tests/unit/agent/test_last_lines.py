from __future__ import annotations

from cortex_serve.trial import LAST_LINES, MAX_OUTPUT, last_lines


def test_the_end_is_kept() -> None:
    output = b"".join(b"%d\n" % number for number in range(1000))
    lines = last_lines(output).splitlines()
    assert lines == [str(number) for number in range(1000 - LAST_LINES, 1000)]


def test_long_lines_are_cut() -> None:
    assert last_lines(b"x" * 100_000 + b"the end\n")[-8:] == "xthe end"
    assert len(last_lines(b"x" * 100_000)) == MAX_OUTPUT


def test_what_is_no_text_can_be_shown() -> None:
    assert last_lines(b"caf\xc3\xa9 \xff\n") == "café \N{REPLACEMENT CHARACTER}"


def test_a_crash_is_told_without_the_list_of_all_modules() -> None:
    crash = b"Fatal Python error: Aborted\n\n  File load.py\n\nExtension modules: numpy, scipy (total: 2)\n"
    assert last_lines(crash) == "Fatal Python error: Aborted\n\n  File load.py"
