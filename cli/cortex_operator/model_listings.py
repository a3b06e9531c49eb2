"""What lies at the locations of models while a file is deployed."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from cortex_core.errors import CortexError
from cortex_core.models import listing
from cortex_core.spec.load import Listing, ListLocations, load

SECONDS = 20.0
"""For all locations of a file; who deploys waits for it, and so does their HTTP client."""


def list_locations(locations: Collection[str]) -> dict[str, Listing]:
    """Everything below each location, or why it cannot be listed."""
    return listing.list_locations(locations, seconds=SECONDS)


class ModelListings:
    """Lists each location once.

    Args:
        list_locations: does it.
    """

    def __init__(self, list_locations: ListLocations) -> None:
        self._list_locations = list_locations
        self._known: dict[str, Listing] = {}

    def __call__(self, locations: Collection[str]) -> dict[str, Listing]:
        new = [location for location in locations if location not in self._known]
        if new:
            self._known.update(self._list_locations(new))
        return {location: self._known[location] for location in locations if location in self._known}

    def prepare(self, text: str, folder: Path | None) -> None:
        """List what a file names, so that whoever reads it next need not wait; what is wrong in it does not matter."""
        with suppress(CortexError):
            load(text, folder=folder, list_locations=self)
