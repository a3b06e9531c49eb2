"""What of a module is shipped with a class."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cortex import handler_source
from cortex_core.errors import CortexError

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
        "LIMIT = 3",
        "def clipped",
        "def scaled",
        "@marked",
    ):
        assert part in source
    for part in ("UNUSED", "unused", "deploy", "__main__", "Trains", "Counter"):
        assert part not in source


def test_shipped_source_has_the_name_that_is_asked_for() -> None:
    names: dict[str, object] = {}
    source = handler_source.needed(SCRIPT, "Model") + "\nHandler = Model\n"
    exec(source, names)  # it is the text above
    handler = names["Handler"]
    assert handler().handle_post(7) == 3  # type: ignore[operator]


def shipped(script: str) -> tuple[str, dict[str, object]]:
    """What is shipped of a script with `Model`, and the names it defines where it is loaded."""
    source = handler_source.needed(script, "Model")
    names: dict[str, object] = {"__name__": "handler"}
    exec(source, names)  # it is the text below
    return source, names


def test_imports_that_the_class_does_not_use_stay() -> None:
    source, _ = shipped(
        "from __future__ import annotations\nimport no_such_module, math; import no_other.one as two\n"
        "import os.path\nfrom json import dumps, loads as read\n"
        "class Model:\n    def f(self, x):\n        return os.path.join(read(x), str(math.pi))\n"
    )
    assert source.startswith(
        "from __future__ import annotations\n\nimport math\n\nimport os.path\n\nfrom json import loads as read\n\n"
    )
    assert "no_" not in source


def test_definitions_below_try_and_if_are_shipped() -> None:
    source, names = shipped(
        "try:\n    import no_such_module as js\nexcept ImportError:\n    import json as js\n"
        "if True:\n    M = 5\nfor N in range(3):\n    pass\nwhile False:\n    unused = 1\n"
        "SETTINGS = {}\nSETTINGS['a'] = 1\nM += 1\n"
        "class Model:\n    def f(self):\n        return js.dumps([M, N, SETTINGS])\n"
    )
    assert names["Model"]().f() == '[6, 2, {"a": 1}]'  # type: ignore[operator]
    assert "unused" not in source


def test_a_local_variable_is_not_the_scripts_variable_of_that_name() -> None:
    source, _ = shipped(
        "class Model:\n    def f(self):\n        result = 1\n        return result\nresult = deploy(Model)\n"
    )
    assert "deploy" not in source


def test_what_only_the_script_has_is_refused() -> None:
    script = (
        "class Model:\n    def f(self):\n        return LIMIT\nif __name__ == '__main__':\n    LIMIT = 3\n"
    )
    with pytest.raises(CortexError, match="the class Model uses LIMIT, which is defined below `if __name__"):
        shipped(script)


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
