"""The rules about what lies at the locations of models, when a file is deployed (S-36, S-37)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from msgspec import structs

from cortex_core.errors import CortexError
from cortex_core.models.layout import locations, read_models
from cortex_core.models.tree import Layout, LayoutProblem
from cortex_core.spec import build
from cortex_core.spec.location import is_relative
from cortex_core.spec.problems import Finding
from cortex_core.spec.rules import LOCATIONS, MODEL_SECTIONS
from cortex_core.spec.types import Models, Struct
from cortex_core.spec.view import View

if TYPE_CHECKING:  # a storage is not needed to judge what it lists
    from cortex_core.storage.protocol import Entry

MOST_EXPLAINED = 3
"""Problems of one section that are told with the layouts that are accepted and the one that was found."""
MOST_TOLD = 20

Listing: TypeAlias = "Sequence[Entry] | CortexError"
"""Everything below a location, or why it cannot be listed."""

ListLocations: TypeAlias = Callable[[Collection[str]], Mapping[str, Listing]]
"""Lists locations, all at once; what is not in the answer is not judged."""


def check(apis: Sequence[View], folder: Path | None, list_locations: ListLocations) -> Iterator[Finding]:
    """Apply the rules to all APIs of a file.

    Args:
        folder: that of the file; None: it lies on another machine, so no location can be relative to it.
        list_locations: called at most once.
    """
    sections = [section for api in apis for section in _sections(api, folder)]
    wanted = dict.fromkeys(location for section in sections for location in section.lasting_locations())
    listings = list_locations(wanted) if wanted else {}
    for section in sections:
        yield from _relative_to_nothing(section)
        yield from _unreadable(section, listings)
        yield from _wrong_layouts(section, listings)


class _Section(Struct):
    """`models` or `multi_model_reloading` of one API, with nothing wrong in it so far.

    Attributes:
        path: of the section, with dots.
        places: where each location stands: the model's name in `paths`, the location, the keys below the section.
    """

    api: View
    path: str
    models: Models
    layout: Layout
    places: tuple[tuple[str | None, str, tuple[str | int, ...]], ...]

    def lasting_locations(self) -> list[str]:
        return [location for location in locations(self.models) if not is_relative(location)]

    def finding(self, keys: tuple[str | int, ...], message: str) -> Finding:
        return self.api.finding(self.path, message, *keys)


def _sections(api: View, folder: Path | None) -> Iterator[_Section]:
    for path in MODEL_SECTIONS:
        keys = [f"{path}.{key}" for key in LOCATIONS]
        if not api.has(path) or not api.is_sound("handler.type", *keys):
            continue
        section = {key: value for key, value in api.get(path).items() if key in LOCATIONS and value}
        models = build.models(section, folder)
        if models is not None and len(section) == 1:
            yield _Section(
                api=api, path=path, models=models, layout=_layout(api), places=tuple(_places(models))
            )


def _layout(api: View) -> Layout:
    if api.get("handler.type") == "python":
        return "python"
    inferentia = api.values("compute.inf")
    return "tensorflow-inf" if inferentia is not None and inferentia[0] else "tensorflow"


def _places(models: Models) -> Iterator[tuple[str | None, str, tuple[str | int, ...]]]:
    for index, model in enumerate(models.paths or ()):
        yield model.name, model.path, ("paths", index, "path")
    for key in ("path", "dir"):
        location = getattr(models, key)
        if location is not None:
            yield None, location, (key,)


def _relative_to_nothing(section: _Section) -> Iterator[Finding]:
    for _, location, keys in section.places:
        if is_relative(location):
            message = (
                "a relative path means nothing to an operator on another machine; write an absolute path of that "
                "machine, or s3://bucket/prefix"
            )
            yield section.finding(keys, message)


def _unreadable(section: _Section, listings: Mapping[str, Listing]) -> Iterator[Finding]:
    for _, location, keys in section.places:
        listing = listings.get(location)
        if isinstance(listing, CortexError):
            advice = f" ({listing.hint})" if listing.hint else ""
            yield section.finding(keys, f"the models cannot be listed: {listing.message}{advice}")


def _wrong_layouts(section: _Section, listings: Mapping[str, Listing]) -> Iterator[Finding]:
    listed = {
        location: listing for location, listing in listings.items() if not isinstance(listing, CortexError)
    }
    models = section.models
    paths = tuple(model for model in models.paths or () if model.path in listed)
    if not paths and (models.path or models.dir) not in listed:
        return
    tree = read_models(structs.replace(models, paths=paths or None), listed, section.layout)
    for number, problem in enumerate(tree.problems[:MOST_TOLD]):
        message = problem.explained() if number < MOST_EXPLAINED else str(problem)
        yield section.finding(_place(section, problem), message)
    more = len(tree.problems) - MOST_TOLD
    if more > 0:
        keys = _place(section, tree.problems[-1])
        yield section.finding(keys, f"and {more} more problems in the layout of these models")


def _place(section: _Section, problem: LayoutProblem) -> tuple[str | int, ...]:
    """The keys of the location that a problem is about."""
    directory = f"{problem.directory}/"
    fitting = [
        keys
        for name, location, keys in section.places
        if name in (None, problem.model) and directory.startswith(location)
    ]
    return fitting[0] if fitting else section.places[0][2]
