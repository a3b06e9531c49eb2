"""The id a request goes by: the one it brought, if that is harmless, else a new one."""

from __future__ import annotations

import itertools
import re
import secrets

_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Makes ids that no other process makes."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(10)
        self._numbers = itertools.count(1)

    def of(self, given: str | None) -> str:
        """The id of a request.

        Args:
            given: what it brought as `x-request-id`.
        """
        if given and _HARMLESS.fullmatch(given):
            return given
        return f"{self._prefix}{next(self._numbers):012x}"
