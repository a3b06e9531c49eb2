"""One servable in a worker's memory, or on its way there, and who uses it."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from cortex_serve.models.catalog import Place

GONE: Final = object()
"""Stands where a model was that has left; `None` is a model as good as any."""

_VISIBLE = "!\"#$&'()*+-./;<=>?@[\\]^_`{|}~"


class Holding:
    """A model that is loading, loaded, leaving or gone.

    Who takes it first joins `users`, then reads `model`; who lets it leave first makes `model` `GONE`, then reads
    `users`. So a model that someone got is never taken for unused, without a lock for those who get it.

    Attributes:
        place: what it is.
        key: the model's name and the version's value.
        label: what the header `x-cortex-model` says of it.
        model: what `load_model` returned; `GONE` before, and once it has left.
        users: requests that use it or wait for it, and whoever else must not lose it.
        by_number: some request asked for this very version.
        is_leaving: it is not given out any more.
        is_gone: it is in memory no longer.
    """

    __slots__ = ("_parting", "by_number", "is_gone", "is_leaving", "key", "label", "model", "place", "users")

    def __init__(self, place: Place, shown: str) -> None:
        self.place = place
        self.key = (place.model.name, place.servable.value)
        self.label = f"{quote(shown, safe=_VISIBLE)}:{place.servable.version}"
        self.model: Any = GONE
        self.users: set[object] = set()
        self.by_number = False
        self.is_leaving = False
        self.is_gone = False
        self._parting: Any = None

    def leave(self) -> None:
        """Give it to nobody any more; it stays in memory until `forget`."""
        self._parting = self.model
        self.model = GONE
        self.is_leaving = True

    @property
    def kept(self) -> Any:
        """The model, also while it leaves; only for a user that joined before it left."""
        return self._parting if self.is_leaving else self.model

    def forget(self) -> None:
        """Let go of the model: whatever its end takes happens on the calling thread."""
        self._parting = None
        self.is_gone = True
