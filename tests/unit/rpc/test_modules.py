"""Modules in memory: found wherever they are imported from, whatever lies beside them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cortex_serve.rpc.modules import MemoryFinder


@pytest.fixture
def offer() -> Iterator[Callable[[dict[str, bytes]], None]]:
    """Make modules importable, until the end of the test."""
    before, path = set(sys.modules), list(sys.path)
    offered: list[MemoryFinder] = []

    def add(sources: dict[str, bytes]) -> None:
        offered.append(MemoryFinder(sources))
        sys.meta_path.insert(0, offered[-1])

    yield add
    for finder in offered:
        sys.meta_path.remove(finder)
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sys.path[:] = path


def test_modules_import_each_other(offer: Callable[[dict[str, bytes]], None]) -> None:
    offer(
        {
            "talk_pb2": b"from deep.er import text_pb2\nvalue = text_pb2.value",
            "deep.er.text_pb2": b"value = 5",
        }
    )
    assert importlib.import_module("talk_pb2").value == 5
    assert importlib.import_module("deep.er.text_pb2").value == 5
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("deep.other_pb2")


def test_what_was_generated_before_stands_back(
    offer: Callable[[dict[str, bytes]], None], tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/__init__.py").write_text("kept = True")
    (tmp_path / "deep/old.py").write_text("value = 'theirs'")
    (tmp_path / "deep/text_pb2.py").write_text("value = 'theirs'")
    sys.path.insert(0, str(tmp_path))
    offer({"deep.text_pb2": b"value = 'ours'"})
    assert importlib.import_module("deep.text_pb2").value == "ours"
    assert importlib.import_module("deep").kept
    assert importlib.import_module("deep.old").value == "theirs"


def test_a_traceback_names_the_module(offer: Callable[[dict[str, bytes]], None]) -> None:
    offer({"broken_pb2": b"1 / 0"})
    with pytest.raises(ZeroDivisionError) as caught:
        importlib.import_module("broken_pb2")
    assert str(caught.traceback[-1].path) == "<compiled broken_pb2>"
