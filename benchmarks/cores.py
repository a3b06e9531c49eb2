"""Which core does what: servers on one, load on another, so that neither takes time from the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_ALLOWED = sorted(os.sched_getaffinity(0))
SERVER, LOAD = (_ALLOWED[0], _ALLOWED[1]) if len(_ALLOWED) > 1 else (_ALLOWED[0], _ALLOWED[0])


def described() -> str:
    if SERVER == LOAD:
        return f"server AND load on core {SERVER}, the only one: figures say little"
    return f"server pinned to core {SERVER}, load to core {LOAD}"


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """The calling thread, and every process and thread that it starts meanwhile, runs on this core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
