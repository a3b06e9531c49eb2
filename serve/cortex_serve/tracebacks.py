"""The user's traceback: from their first frame on, without ours.

People read a traceback to find their own mistake. The frames of this runtime, of the import system and of
what carried the call say nothing about it and are left out.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

_OURS = str(Path(__file__).parent)
_CARRIERS = ("<frozen importlib", "<frozen runpy")
_STREAMING = ("/site-packages/starlette/", "/site-packages/anyio/")
_LIBRARY = ("/concurrent/futures/thread.py", "/concurrent/futures/_base.py", "/contextlib.py")


def from_first_user_frame(error: BaseException) -> TracebackType | None:
    """The part of the error's traceback that begins in the user's code; None if no frame is theirs."""
    frame = error.__traceback__
    while frame is not None and is_carrier(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    return frame


def text(error: BaseException) -> str:
    """The error as Python prints it, from the user's first frame on."""
    lines = traceback.format_exception(type(error), error, from_first_user_frame(error))
    return "".join(lines).rstrip("\n")


def words(error: BaseException) -> str:
    """What the error says, also where its `__str__` fails."""
    return str(traceback.TracebackException(type(error), error, None, lookup_lines=False))


def is_carrier(filename: str) -> bool:
    """Whether a file's frames say nothing about the user's code."""
    return (
        filename.startswith((_OURS, *_CARRIERS))
        or filename.endswith(_LIBRARY)
        or any(package in filename for package in _STREAMING)
    )
