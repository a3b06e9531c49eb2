"""What projects written for Cortex 0.35 expect of the process they run in."""

from __future__ import annotations

import copy
import logging
import sys
from types import ModuleType
from typing import Any

from cortex_core.spec.types import Handler


def install(logger: logging.Logger) -> None:
    """Make `from cortex_internal.lib.log import logger` work in this process."""
    package, library, log = (ModuleType(f"cortex_internal{name}") for name in ("", ".lib", ".lib.log"))
    for parent in (package, library):
        parent.__path__ = []
    package.lib = library  # type: ignore[attr-defined]  # modules made here
    library.log = log  # type: ignore[attr-defined]
    log.logger = logger  # type: ignore[attr-defined]
    for module in (package, library, log):
        sys.modules[module.__name__] = module


def config(handler: Handler) -> dict[str, Any]:
    """The constructor's `config`: the handler's own copy of what the API file says."""
    return copy.deepcopy(handler.config)
