"""What a listing says: models, their versions, and what is wrong. Values; `layout.py` makes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

from cortex_core.models.drawing import accepted, drawn
from cortex_core.models.errors import UnknownModel
from cortex_core.models.wording import clipped, named, quoted
from cortex_core.spec.types import Struct

DEFAULT_MODEL = "_cortex_default"
"""What the model of `path` is called inside; nobody types it."""


def shown(name: str, *, api: str) -> str:
    """What people call a model: the one of `path` goes by its API's name."""
    return api if name == DEFAULT_MODEL else name


Layout: TypeAlias = Literal["python", "tensorflow", "tensorflow-inf"]


class ModelFile(Struct, gc=False):
    """One file of a version.

    Attributes:
        path: below the version's directory, with `/`; it leads nowhere else.
        size: bytes.
        etag: changes whenever the content is written anew.
        modified_ns: when that was, nanoseconds since the epoch; decides nothing.
    """

    path: str
    size: int
    etag: str
    modified_ns: int


class Version(Struct):
    """One version of a model.

    Attributes:
        name: the directory's, exactly as written; "1" when the model is unversioned.
        prefix: what `ModelFile.path` follows in the location's keys: "", "7/", "iris/", "iris/007/".
        files: at least one, by path.
        digest: SHA-256 over path, size and etag of every file, 64 hex digits: equal as long as nothing was
            written, added or removed.
    """

    name: str
    prefix: str
    files: tuple[ModelFile, ...]
    digest: str

    @property
    def value(self) -> int:
        """What versions are ordered by."""
        return int(self.name)


class Model(Struct):
    """One model.

    Attributes:
        location: as written in the API file.
        versions: at least one, by value; no two of the same value.
        is_versioned: whether versions are directories; otherwise the directory is the only version.
    """

    name: str
    location: str
    versions: tuple[Version, ...]
    is_versioned: bool

    @property
    def latest(self) -> Version:
        """The highest."""
        return self.versions[-1]


class LayoutProblem(Struct):
    """Something in a listing that should not be as it is; see `layout.read_models` for what follows from it.

    Attributes:
        model: None when it is about a `dir` as a whole.
        version: the directory's name; None when it is about the model as a whole.
        directory: what it is about, in full: the `dir`, the model's or the version's directory.
        message: what is wrong, one line.
        rejects: whether the model or the version it is about is not in the tree.
        layout: what was looked for.
        keys: what is in `directory`, sorted; for `explained`.
    """

    model: str | None
    version: str | None
    directory: str
    message: str
    rejects: bool
    layout: Layout
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"{clipped(self.directory, most=_LONGEST_DIRECTORY)}: {self.message}"

    def explained(self) -> str:
        """The whole story, for who can change it: what is wrong, what is accepted, what was found."""
        root = f"{clipped(self.directory, most=_LONGEST_DIRECTORY)}/"
        scope = "models" if self.model is None else "model" if self.version is None else "version"
        wanted = "\n\nor\n\n".join(drawn(root, nodes) for nodes in accepted(self.layout, scope))
        return (
            f"{self}\n\naccepted (type: {_TYPES[self.layout]}):\n\n{wanted}\n\n"
            f"found:\n\n{drawn(root, self.keys) if self.keys else '  nothing'}"
        )


_LONGEST_DIRECTORY = 1024
_TYPES = {
    "python": "python",
    "tensorflow": "tensorflow",
    "tensorflow-inf": "tensorflow, on Inferentia",
}


class ModelTree(Struct):
    """What is there, by one listing of every location.

    Attributes:
        models: those with a version that can be served, by name.
        problems: by model, then version.
        has_names: False for `path`: there is at most one model, whatever it is called.
    """

    models: Mapping[str, Model]
    problems: tuple[LayoutProblem, ...]
    has_names: bool

    def find(self, name: str | None = None) -> Model:
        """The model that a handler means by `name`, which is ignored where models have no names (`path`).

        Raises:
            UnknownModel: there is none; with the names that there are.
        """
        if not self.has_names:
            name = DEFAULT_MODEL
        model = self.models.get(name) if isinstance(name, str) else None
        if model is None:
            raise no_such_model(name, self.models)
        return model


def no_such_model(name: object, available: Collection[str]) -> UnknownModel:
    """What is said of a model that is not there.

    Args:
        name: that was asked for; None when none was.
        available: names of those that are there.
    """
    if not available:
        return UnknownModel("no model is available")
    wrong = "no model name was given" if name is None else f"there is no model {quoted(str(name))}"
    return UnknownModel(f"{wrong}; available: {named(available)}")
