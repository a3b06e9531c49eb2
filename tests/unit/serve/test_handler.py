"""Loading and building the user's class, and what its author sees when that fails."""

from __future__ import annotations

import os
import pickle
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from cortex_serve import compat
from cortex_serve.handler import HandlerFailed, construct, enter, load_class


@pytest.fixture(autouse=True)
def same_process_afterwards() -> Iterator[None]:
    """Loading a handler is meant to change the process."""
    folder, path, modules = Path.cwd(), list(sys.path), dict(sys.modules)
    yield
    os.chdir(folder)
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return folder


def failure(folder: Path, path: str = "handler.py") -> str:
    with pytest.raises(HandlerFailed) as failed:
        load_class(folder, path)
    return failed.value.message


def test_the_class_of_a_module_in_the_project(tmp_path: Path) -> None:
    write(
        tmp_path,
        handler="import os, helper\nclass Handler:\n    where, name = os.getcwd(), helper.NAME",
        helper="NAME = 'helper'",
    )
    enter(tmp_path, None)

    cls = load_class(tmp_path, "handler.py")

    assert (cls.where, cls.name) == (str(tmp_path), "helper")  # type: ignore[attr-defined]  # the user's
    assert cls.__module__ == "handler"
    assert pickle.loads(pickle.dumps(cls)) is cls


def test_python_path(tmp_path: Path) -> None:
    write(tmp_path, src__handler="import deep\nfrom deep import Handler", src__deep="class Handler: pass")
    enter(tmp_path, "src/")

    assert load_class(tmp_path, "src/handler.py").__module__ == "deep"
    assert sys.path[0] == str(tmp_path / "src")
    assert Path.cwd() == tmp_path


def test_the_last_binding_wins_and_imported_names_count(tmp_path: Path) -> None:
    write(
        tmp_path,
        handler="class Handler: n = 1\nfrom helper_two import Handler",
        helper_two="class Handler: n = 2",
    )
    enter(tmp_path, None)

    assert load_class(tmp_path, "handler.py").n == 2  # type: ignore[attr-defined]  # the user's


@pytest.mark.parametrize("name", ["json", "pytest", "cortex_serve", "with-dash", "class"])
def test_a_file_named_like_another_module_replaces_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("class Handler: pass")
    before = sys.modules.get(name)
    enter(tmp_path, None)

    assert load_class(tmp_path, f"{name}.py").__name__ == "Handler"
    if name != "class":
        assert sys.modules.get(name) is before


def test_no_class(tmp_path: Path) -> None:
    write(tmp_path, handler="from pathlib import Path\nclass Predictor: pass\nclass _Base: pass")
    enter(tmp_path, None)

    assert failure(tmp_path) == "handler.py: there is no class named 'Handler'; it defines 'Predictor'"


def test_no_class_at_all(tmp_path: Path) -> None:
    write(tmp_path, handler="")
    enter(tmp_path, None)

    assert failure(tmp_path) == "handler.py: there is no class named 'Handler'"
    with pytest.raises(HandlerFailed, match=r"^handler\.py: there is no class named 'Task'$"):
        load_class(tmp_path, "handler.py", name="Task")


def test_no_class_but_a_function(tmp_path: Path) -> None:
    write(tmp_path, handler="def Handler(config): pass")
    enter(tmp_path, None)

    assert failure(tmp_path) == "Handler in handler.py: must be a class, but it is of type 'function'"


def test_a_failing_import_shows_the_users_frames_only(tmp_path: Path) -> None:
    write(tmp_path, handler="import helper_three", helper_three="def load():\n    import nump_y\nload()")
    enter(tmp_path, None)

    lines = failure(tmp_path).splitlines()
    assert "\n".join(line for line in lines if line.strip(" ~^") or not line) == textwrap.dedent(f"""\
        importing handler.py failed:

        Traceback (most recent call last):
          File "{tmp_path}/handler.py", line 1, in <module>
            import helper_three
          File "{tmp_path}/helper_three.py", line 3, in <module>
            load()
          File "{tmp_path}/helper_three.py", line 2, in load
            import nump_y
        ModuleNotFoundError: No module named 'nump_y'""")
    assert "handler" not in sys.modules


def test_a_syntax_error_shows_the_line(tmp_path: Path) -> None:
    write(tmp_path, handler="class Handler\n    pass")
    enter(tmp_path, None)

    message = failure(tmp_path)
    assert message.startswith(f'importing handler.py failed:\n\n  File "{tmp_path}/handler.py", line 1\n')
    assert message.endswith("\nSyntaxError: expected ':'")


@pytest.mark.parametrize("statement", ["import sys; sys.exit('stop')", "raise SystemExit('stop')"])
def test_a_module_that_exits_is_a_failure(tmp_path: Path, statement: str) -> None:
    write(tmp_path, handler=statement)
    enter(tmp_path, None)

    assert failure(tmp_path).endswith("\nSystemExit: stop")


def test_a_pickled_class(tmp_path: Path) -> None:
    class AnyName:
        def __init__(self, config: object) -> None:
            self.config = config

        def handle_post(self, payload: object) -> object:
            return payload

    (tmp_path / "handler.pickle").write_bytes(cloudpickle.dumps(AnyName))

    cls = load_class(tmp_path, "handler.pickle")

    assert cls.__name__ == "AnyName"
    assert construct(cls, {"config": 1}).handle_post(2) == 2


def test_pickled_with_what_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "handler.pickle").write_bytes(b"cdill._dill\n_create_type\n.")

    with pytest.raises(HandlerFailed) as failed:
        load_class(tmp_path, "handler.pickle")

    assert failed.value.message == (
        "handler.pickle: was pickled with dill, which is not installed beside the handler; "
        "add dill to the project's requirements.txt"
    )


def test_a_broken_pickle(tmp_path: Path) -> None:
    (tmp_path / "handler.pickle").write_bytes(b"not a pickle")
    assert failure(tmp_path, "handler.pickle").startswith("unpickling handler.pickle failed:\n\n")

    (tmp_path / "handler.pickle").write_bytes(pickle.dumps(7))
    assert failure(tmp_path, "handler.pickle") == "handler.pickle: must be a class, but it is of type 'int'"


def test_constructors_get_what_they_declare_in_any_order() -> None:
    class Handler:
        def __init__(self, metrics_client: str, *, config: str, **more: object) -> None:
            self.given = (metrics_client, config, more)

    available = {"config": "c", "model_client": "unasked", "metrics_client": "m"}
    assert construct(Handler, available).given == ("m", "c", {})

    class Task:
        pass

    assert isinstance(construct(Task, available), Task)


def test_a_failing_constructor_shows_the_call_and_the_users_frames(tmp_path: Path) -> None:
    write(
        tmp_path,
        handler="""\
        class Handler:
            def __init__(self, config):
                try:
                    config["model"]
                except KeyError as error:
                    raise ValueError("no model") from error
        """,
    )
    enter(tmp_path, None)
    cls = load_class(tmp_path, "handler.py")

    with pytest.raises(HandlerFailed) as failed:
        construct(cls, {"config": {}})

    message = failed.value.message
    assert message.startswith("Handler(config) raised:\n\nTraceback (most recent call last):\n")
    assert "KeyError: 'model'" in message
    assert "The above exception was the direct cause" in message
    assert message.endswith(
        f'File "{tmp_path}/handler.py", line 6, in __init__\n    raise ValueError("no model") from error\n'
        "ValueError: no model"
    )
    assert "cortex_serve" not in message


def test_the_logger_of_old_projects(tmp_path: Path) -> None:
    import logging

    logger = logging.getLogger("of-old-projects")
    compat.install(logger)
    write(tmp_path, handler="from cortex_internal.lib.log import logger\nclass Handler: log = logger")
    enter(tmp_path, None)

    assert load_class(tmp_path, "handler.py").log is logger  # type: ignore[attr-defined]  # the user's


class Meta(type):
    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        return super().__call__(*arguments, **named)


class Plain:
    def __init__(self, config: str) -> None:
        self.config = config
        self.seen = list(BOUND)


class Made(Plain):
    def __new__(cls, config: str) -> Made:
        made = super().__new__(cls)
        made.early = config  # type: ignore[attr-defined]  # a test's
        return made


class ByMeta(Plain, metaclass=Meta):
    pass


class Other:
    def __new__(cls, config: str) -> Any:
        return config

    def __init__(self, config: str) -> None:
        raise AssertionError("not called for what is not an instance")


BOUND: list[Any] = []


@pytest.mark.parametrize("cls", [Plain, Made, ByMeta])
def test_an_instance_is_bound_before_its_constructor_runs(cls: type) -> None:
    BOUND.clear()
    instance = construct(cls, {"config": "c"}, BOUND.append)
    assert [instance] == BOUND
    assert (type(instance), instance.config) == (cls, "c")
    assert instance.seen == ([] if cls is ByMeta else [instance]), "who makes its instances binds them late"
    assert cls is not Made or instance.early == "c"


def test_a_class_may_make_something_else() -> None:
    assert construct(Other, {"config": "c"}, lambda _: None) == construct(Other, {"config": "c"}) == "c"


def test_a_constructor_that_raises_after_it_was_bound() -> None:
    class Handler:
        def __init__(self) -> None:
            raise ValueError("mine")

    with pytest.raises(HandlerFailed) as failed:
        construct(Handler, {}, lambda _: None)
    assert failed.value.message.startswith("Handler() raised:\n\nTraceback")
    assert "handler.py" not in failed.value.message.replace("test_handler.py", "")
