"""From `path` in an API file to an instance of the user's class.

    enter(project, python_path)   the process works in the project from here on
    load_class(...)               import `handler.py`, or unpickle `handler.pickle`
    construct(...)                call the class with those of the arguments on offer that it declares

Everything that goes wrong in the user's code becomes `HandlerFailed`, whose text is what they need to see.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cortex_core.errors import CortexError
from cortex_core.spec.types import Handler
from cortex_serve import compat, tracebacks
from cortex_serve.metrics_client import MetricsClient
from cortex_serve.signatures import declared

if TYPE_CHECKING:
    from cortex_serve.models.table import ModelTable

_ALIAS = "cortex_handler"


class HandlerFailed(CortexError):
    """The handler cannot be loaded or built; the message holds the user's traceback or all problems."""


def enter(project: Path, python_path: str | None) -> None:
    """Make the project the working directory and its `python_path` the first place to import from.

    Args:
        project: the project's root.
        python_path: folder to import from, relative to the project; None is the project itself.
    """
    os.chdir(project)
    folder = str(project / python_path) if python_path else str(project)
    sys.path[:] = [folder, *(entry for entry in sys.path if entry != folder)]


def load_class(project: Path, path: str, *, name: str = "Handler") -> type:
    """Import the module, or unpickle the file, that holds the user's class.

    Args:
        project: the project's root.
        path: of the `.py` or `.pickle` file, relative to the project.
        name: what the class must be called in a module; a pickled class may have any name.

    Raises:
        HandlerFailed: there is no such class, or the user's code raised.
    """
    if path.endswith(".pickle"):
        found = _unpickle(project / path, path)
        where = path
    else:
        module = _import(project / path, path)
        if not hasattr(module, name):
            raise HandlerFailed(f"{path}: there is no class named {name!r}{_classes(module)}")
        found = getattr(module, name)
        where = f"{name} in {path}"
    if not isinstance(found, type):
        raise HandlerFailed(f"{where}: must be a class, but it is of type {type(found).__name__!r}")
    return found


def offered(spec: Handler, models: ModelTable | None, **more: Any) -> dict[str, Any]:
    """All arguments that a constructor may declare.

    Args:
        models: that the handler uses; None for an API without models.
        more: what this kind of API offers beside them.
    """
    metrics_client = MetricsClient(os.environ.get("HOST_IP", "127.0.0.1"))
    available = {"config": compat.config(spec), "metrics_client": metrics_client, **more}
    return available if models is None else {**available, "model_client": models.client}


def construct(cls: type, available: Mapping[str, Any], bind: Callable[[Any], None] | None = None) -> Any:
    """Build the handler with those of the available arguments that its constructor declares.

    Args:
        bind: called with the instance before its constructor runs, which may so use what needs it.

    Raises:
        HandlerFailed: the constructor raised.
    """
    arguments = {name: available[name] for name in declared(cls.__init__) if name in available}  # type: ignore[misc]  # the class is the user's; signatures.check has read it
    try:
        return cls(**arguments) if bind is None else _bound(cls, arguments, bind)
    except (Exception, SystemExit) as error:
        call = ", ".join(arguments)
        raise HandlerFailed(f"{cls.__name__}({call}) raised:\n\n{tracebacks.text(error)}") from error


def _bound(cls: type, arguments: dict[str, Any], bind: Callable[[Any], None]) -> Any:
    """What calling the class does, in two steps."""
    if type(cls).__call__ is not type.__call__:  # its metaclass decides how instances are made
        instance = cls(**arguments)
        bind(instance)
        return instance
    make: Any = cls.__new__
    instance = make(cls) if make is object.__new__ else make(cls, **arguments)
    bind(instance)
    if isinstance(instance, cls):
        instance.__init__(**arguments)  # type: ignore[misc]  # the very thing that `cls()` does
    return instance


def _import(file: Path, path: str) -> ModuleType:
    name = _module_name(file)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise HandlerFailed(f"{path}: cannot be imported; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise HandlerFailed(f"importing {path} failed:\n\n{tracebacks.text(error)}") from error
    return module


def _module_name(file: Path) -> str:
    """The name the file has when the user's other modules import it, unless something else owns that name."""
    if not file.stem.isidentifier() or file.stem in sys.modules:
        return _ALIAS
    try:
        spec = importlib.util.find_spec(file.stem)
    except (ImportError, ValueError):
        return _ALIAS
    mine = spec is None or (spec.origin is not None and Path(spec.origin).resolve() == file.resolve())
    return file.stem if mine else _ALIAS


def _unpickle(file: Path, path: str) -> Any:
    try:
        with file.open("rb") as stream:
            return pickle.load(stream)  # noqa: S301 - the user's own class, shipped with their project
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("dill", "cloudpickle"):
            raise HandlerFailed(
                f"{path}: was pickled with {error.name}, which is not installed beside the handler; "
                f"add {error.name} to the project's requirements.txt"
            ) from error
        raise HandlerFailed(f"unpickling {path} failed:\n\n{tracebacks.text(error)}") from error
    except (Exception, SystemExit) as error:
        raise HandlerFailed(f"unpickling {path} failed:\n\n{tracebacks.text(error)}") from error


def _classes(module: ModuleType) -> str:
    classes = [key for key, value in vars(module).items() if isinstance(value, type) and key[0] != "_"]
    own = [key for key in classes if getattr(module, key).__module__ == module.__name__]
    return f"; it defines {', '.join(repr(key) for key in own)}" if own else ""
