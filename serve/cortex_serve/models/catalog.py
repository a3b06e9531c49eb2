"""A snapshot, prepared for questions: which model and which version a handler means."""

from __future__ import annotations

from functools import cached_property

from cortex_core.models.tree import DEFAULT_MODEL, no_such_model
from cortex_core.models.versions import no_such_version
from cortex_core.spec.types import Struct
from cortex_serve.snapshot import Servable, ServedModel, Snapshot


class Place(Struct):
    """A servable and its model."""

    model: ServedModel
    servable: Servable


class Catalog:
    """What there is, by one snapshot.

    Attributes:
        epoch: of the snapshot; -1 before the first one.
        has_names: False for `path`: there is one model, whatever a handler calls it.
        cells: by the model's name.
    """

    def __init__(self, snapshot: Snapshot | None) -> None:
        models = snapshot.models if snapshot else ()
        self.epoch = snapshot.epoch if snapshot else -1
        self.has_names = snapshot is None or snapshot.has_names
        self.models = {model.name: model for model in models}
        self.cells = {model.name: model.cell for model in models}

    @cached_property
    def places(self) -> dict[int, Place]:
        """All servables by serial."""
        return {
            servable.serial: Place(model=model, servable=servable)
            for model in self.models.values()
            for servable in model.versions
        }

    def residents(self) -> list[Place]:
        """What every worker is to hold."""
        return [place for place in self.places.values() if place.servable.resident]

    def model(self, name: object) -> ServedModel:
        """The model that a handler means.

        Raises:
            UnknownModel: there is none; with the names that there are.
        """
        if not self.has_names:
            name = DEFAULT_MODEL
        known = self.models.get(name) if isinstance(name, str) else None
        if known is None:
            raise no_such_model(name, self.models)
        return known

    def version(self, model: ServedModel, value: int, *, asked: object, served: int) -> Servable:
        """The version of this value.

        Args:
            model: of this catalog.
            asked: the version as the handler wrote it, for the message.
            served: serial of the latest; where a version's content is being replaced, that is the one to use.

        Raises:
            UnknownVersion: there is none.
        """
        found = [each for each in model.versions if each.value == value]
        if not found:
            raise no_such_version(model.name, asked, [each.version for each in model.versions])
        return next((each for each in found if each.serial == served), found[-1])
