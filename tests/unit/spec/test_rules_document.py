"""docs/rules.md names every rule that code and tests name, with messages that people really see."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[3]
ID = re.compile(r"\b[FYVKSH]-[0-9]{2}\b")
ROW = re.compile(r"\| (?P<id>[A-Z]-[0-9]{2}) \| (?P<rule>.+) \| (?P<message>`.+`|\*.+\*) \|")
NOT_IN_THE_TABLE = ("*not a check*", "*checked when deploying*", "*checked when deleting*")


class Rule(NamedTuple):
    id: str
    message: str


def documented() -> list[Rule]:
    text = (ROOT / "docs/rules.md").read_text(encoding="utf-8")
    return [Rule(row["id"], row["message"]) for row in ROW.finditer(text)]


def messages() -> dict[str, list[str]]:
    """What the table of messages expects, by id."""
    found: dict[str, list[str]] = {}
    for label, expected in _rows():
        found.setdefault(label.split()[0], []).extend(expected)
    return found


def _rows() -> Iterator[tuple[str, list[str]]]:
    table = runpy.run_path(str(Path(__file__).with_name("test_messages.py")))
    for name in ("FILE", "VALUES", "SECTIONS", "RULES"):
        yield from ((row.id, row.expected) for row in table[name])
    for name in ("FILES", "DEPLOYED", "LISTED"):
        yield from ((row[0], row[-1]) for row in table[name])


MESSAGES = messages()
DOCUMENTED = documented()
CHECKED = [rule for rule in DOCUMENTED if rule.message not in NOT_IN_THE_TABLE]


def test_every_line_of_the_tables_is_read_and_ids_are_unique_and_in_order() -> None:
    text = (ROOT / "docs/rules.md").read_text(encoding="utf-8")
    ids = [rule.id for rule in DOCUMENTED]
    assert ids == re.findall(r"^\| ([A-Z]-[0-9]+)", text, re.MULTILINE)
    for group in "FYVKSH":
        numbers = [name for name in ids if name.startswith(group)]
        assert numbers == sorted(numbers)
    assert len(set(ids)) == len(ids)


def test_every_id_in_the_code_is_documented() -> None:
    sources = sorted((ROOT / "serve/cortex_core/spec").glob("*.py"))
    named = {name for source in sources for name in ID.findall(source.read_text(encoding="utf-8"))}
    assert len(named) > 20
    assert named <= {rule.id for rule in DOCUMENTED}


def test_the_table_of_messages_has_exactly_the_documented_checks() -> None:
    assert set(MESSAGES) == {rule.id for rule in CHECKED}


@pytest.mark.parametrize("rule", CHECKED, ids=lambda rule: rule.id)
def test_the_documented_message_is_one_that_people_see(rule: Rule) -> None:
    pattern = ".+".join(re.escape(part) for part in rule.message.strip("`").split("…"))
    assert any(re.search(rf": {pattern}($|; did you mean|; valid here)", seen) for seen in MESSAGES[rule.id])
