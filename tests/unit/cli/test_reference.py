from __future__ import annotations

from pathlib import Path

from cortex.main import COMMANDS, EXIT_CODES
from cortex.reference import markdown

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"


def test_the_page_says_what_help_says() -> None:
    assert PAGE.read_text() == markdown(), "run: python -m cortex.reference > docs/cli.md"


def test_the_page_names_every_command_and_exit_code() -> None:
    text = PAGE.read_text()
    for name in COMMANDS:
        assert f"\n### cortex {name}\n" in text
    for code in (0, 1, 2, *EXIT_CODES.values(), 130):
        assert f"\n| {code} | " in text
