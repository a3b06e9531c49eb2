"""The Python client of Cortex; the command line is in the same package.

Names are imported when they are used, so that `import cortex` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cortex_core.version import __version__

if TYPE_CHECKING:
    from cortex.python_client import Client, InvalidKindForMethod, client, env_delete, env_list, new_client
    from cortex_core.errors import (
        Conflict,
        CortexError,
        DeployFailed,
        InvalidProject,
        NotFound,
        OperatorUnreachable,
        TimedOut,
    )
    from cortex_core.spec.problems import InvalidConfig

__all__ = [
    "Client",
    "Conflict",
    "CortexError",
    "DeployFailed",
    "InvalidConfig",
    "InvalidKindForMethod",
    "InvalidProject",
    "NotFound",
    "OperatorUnreachable",
    "TimedOut",
    "__version__",
    "client",
    "env_delete",
    "env_list",
    "new_client",
]

_MODULES = {
    "cortex.python_client": (
        "Client", "InvalidKindForMethod", "client", "env_delete", "env_list", "new_client",
    ),
    "cortex_core.errors": (
        "Conflict", "CortexError", "DeployFailed", "InvalidProject", "NotFound",
        "OperatorUnreachable", "TimedOut",
    ),
    "cortex_core.spec.problems": ("InvalidConfig",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'cortex' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
