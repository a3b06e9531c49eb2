"""What of a module is shipped with a class."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cortex import handler_source

SCRIPT = '''\
"""Trains, then deploys."""
import math
from collections import Counter

LIMIT = 3
UNUSED = print("trains for an hour")


def clipped(value):
    return min(value, scaled(LIMIT))


def scaled(value):
    return math.floor(value)


def unused():
    return UNUSED


def marked(cls):
    return cls


@marked
class Model:
    def handle_post(self, payload):
        return clipped(payload)


deploy(Model)
if __name__ == "__main__":
    deploy(Model)
'''


def test_only_what_the_class_uses() -> None:
    source = handler_source.needed(SCRIPT, "Model")
    for part in (
        "import math",
        "from collections import Counter",
        "LIMIT = 3",
        "def clipped",
        "def scaled",
        "@marked",
    ):
        assert part in source
    for part in ("UNUSED", "unused", "deploy", "__main__", "Trains"):
        assert part not in source


def test_shipped_source_has_the_name_that_is_asked_for() -> None:
    names: dict[str, object] = {}
    source = handler_source.needed(SCRIPT, "Model") + "\nHandler = Model\n"
    exec(source, names)  # it is the text above
    handler = names["Handler"]
    assert handler().handle_post(7) == 3  # type: ignore[operator]


class Local:
    """A class of this file."""

    def handle_post(self, payload: object) -> object:
        return payload


def test_class_of_a_file(tmp_path: Path) -> None:
    source = handler_source.of(Local, name="Handler")
    source.write(tmp_path)
    text = (tmp_path / "handler.py").read_text()
    assert text.endswith("\n\nHandler = Local\n")
    assert "test_class_of_a_file" not in text
    assert source.requirements == ()


def test_class_without_a_file_is_pickled(tmp_path: Path) -> None:
    class Nested:
        def handle_post(self, payload: object) -> object:
            return payload

    source = handler_source.of(Nested, name="Handler")
    source.write(tmp_path)
    assert source.requirements[0].startswith("cloudpickle==")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["handler.pickle", "handler.py"]
    names: dict[str, object] = {"__file__": str(tmp_path / "handler.py")}
    exec((tmp_path / "handler.py").read_text(), names)  # written above
    assert names["Handler"]().handle_post(1) == 1  # type: ignore[operator]
    assert sys.modules[Nested.__module__] is not None


def test_only_classes() -> None:
    with pytest.raises(TypeError, match="a class is needed, not int"):
        handler_source.of(3, name="Handler")  # type: ignore[arg-type]
