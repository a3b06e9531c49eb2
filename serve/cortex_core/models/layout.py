"""From listings to models: which directories are versions, and what each must hold."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import structs

from cortex_core.models.tree import DEFAULT_MODEL, Layout, LayoutProblem, Model, ModelFile, ModelTree, Version
from cortex_core.models.versions import MOST_DIGITS, is_version
from cortex_core.models.wording import named, quoted
from cortex_core.names import name_problem
from cortex_core.spec.types import Compute, Handler, Models, Struct

if TYPE_CHECKING:  # a storage is not needed to judge what it lists
    from cortex_core.storage.protocol import Entry

HIGHEST_TENSORFLOW_VERSION = 2**63 - 1

_SHARD = "variables/variables.data-00000-of-"
_REQUIRED: Mapping[Layout, tuple[str, ...]] = {
    "python": (),
    "tensorflow": ("saved_model.pb", "variables/variables.index"),
    "tensorflow-inf": ("saved_model.pb",),
}
_PLAIN = re.compile(r"\w[\w.=-]{,199}(?:/\w[\w.=-]{,199})*", re.ASCII)
_LONGEST_PLAIN = 1000


def read_models(models: Models, listings: Mapping[str, Iterable[Entry]], layout: Layout) -> ModelTree:
    """Models, their versions, and every problem there is.

    A model's directory is versioned as soon as one of its directories is named by digits 0-9 only; otherwise
    it is itself the model, in version "1". Versions are ordered by value and keep their names. Objects that
    only mark a directory (a key that ends in `/`, no content) are as if they were not there.

    At deploy, every problem is an error. In a replica every problem is reported and affects nothing but what
    it is about: a model or version that a problem `rejects` is not in the tree, the rest is. (Whether what is
    not in the tree any more goes on being served is for others to decide: listings may lie.)

    | problem                                                            | in a replica                  |
    |--------------------------------------------------------------------|-------------------------------|
    | files or other directories beside version directories             | ignored                       |
    | two versions of one value ("7", "007")                             | the one with fewer zeros      |
    | tensorflow without its first variables shard                       | the version is in the tree    |
    | tensorflow without saved_model.pb (or variables.index)             | the version is not            |
    | a key that cannot be a file (`..`, `\\`, control characters, …)     | the version is not            |
    | one path as file and directory, or listed with two contents        | the version is not            |
    | more digits than `MOST_DIGITS`; tensorflow: beyond 64 bits         | the version is not            |
    | nothing below a model's location                                   | the model is not              |
    | `dir`: loose files, reserved or impossible names, nothing at all   | ignored; other models are in  |

    Args:
        models: the section of the API file; exactly one of path, paths and dir is set.
        listings: by location as written there (`locations`), everything below it, in any order. Whatever it
            holds, it is judged, never an exception. A listing must be complete: for a location that cannot
            be listed now, hand in what was listed last.
        layout: what one version must hold.

    Raises:
        KeyError: a location is missing in `listings`.
    """
    listed = {location: _without_markers(listings[location]) for location in locations(models)}
    if models.dir is not None:
        found = list(_models_in(_Directory(location=models.dir, layout=layout, entries=listed[models.dir])))
    else:
        found = [
            _read_model(_Directory(location=location, layout=layout, entries=listed[location], model=name))
            for name, location in _named_locations(models)
        ]
    return ModelTree(
        models={each.model.name: each.model for each in found if each.model is not None},
        problems=tuple(sorted((problem for each in found for problem in each.problems), key=_order)),
        has_names=models.path is None,
    )


def locations(models: Models) -> tuple[str, ...]:
    """What has to be listed, as written; each once."""
    if models.dir is not None:
        return (models.dir,)
    return tuple(dict.fromkeys(location for _, location in _named_locations(models)))


def layout_of(handler: Handler, compute: Compute) -> Layout:
    """What one version of an API's models must hold."""
    if handler.type == "python":
        return "python"
    return "tensorflow-inf" if compute.inf else "tensorflow"


def _named_locations(models: Models) -> Iterator[tuple[str, str]]:
    if models.path is not None:
        yield DEFAULT_MODEL, models.path
    for model in models.paths or ():
        yield model.name, model.path


def _order(problem: LayoutProblem) -> tuple[str, str, str, str]:
    return problem.model or "", problem.version or "", problem.directory, problem.message


def _without_markers(listing: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in listing if entry.key and (entry.size or not entry.key.endswith("/"))]


class _Directory(Struct):
    """A directory to be read, and the way its problems are told.

    Attributes:
        prefix: what all keys of `entries` begin with.
    """

    location: str
    layout: Layout
    entries: list[Entry]
    prefix: str = ""
    model: str | None = None
    version: str | None = None

    def problem(self, message: str, *, rejects: bool = False) -> LayoutProblem:
        return LayoutProblem(
            model=self.model,
            version=self.version,
            directory=f"{self.location.rstrip('/')}/{self.prefix}".rstrip("/"),
            message=message,
            rejects=rejects,
            layout=self.layout,
            keys=tuple(sorted(entry.key[len(self.prefix) :] for entry in self.entries)),
        )

    def of_model(self, name: str, entries: list[Entry]) -> _Directory:
        return structs.replace(self, prefix=f"{self.prefix}{name}/", entries=entries, model=name)

    def of_version(self, name: str, entries: list[Entry]) -> _Directory:
        return structs.replace(self, prefix=f"{self.prefix}{name}/", entries=entries, version=name)


class _Found(Struct):
    problems: Sequence[LayoutProblem]
    model: Model | None = None


def _models_in(directory: _Directory) -> Iterator[_Found]:
    """Every directory of a `dir` is a model."""
    loose: set[str] = set()
    folders: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in directory.entries:
        name, slash, _ = entry.key.partition("/")
        if slash:
            folders[name].append(entry)
        else:
            loose.add(name)
    yield _Found(problems=list(_problems_of_dir(directory, loose, folders)))
    for name in sorted(folders):
        if name != DEFAULT_MODEL and _can_be_name(name):
            yield _read_model(directory.of_model(name, folders[name]))


def _problems_of_dir(
    directory: _Directory, loose: Collection[str], folders: Mapping[str, Sequence[Entry]]
) -> Iterator[LayoutProblem]:
    if not directory.entries:
        yield directory.problem("there are no models: the directory is empty or does not exist", rejects=True)
    if loose:
        yield directory.problem(f"only directories of models may be here; found also {named(loose)}")
    if DEFAULT_MODEL in folders:
        yield directory.problem(f"'{DEFAULT_MODEL}' is reserved and cannot be the name of a model")
    wrong = [name for name in folders if not _can_be_name(name)]
    if wrong:
        key = min(entry.key for entry in folders[min(wrong)])
        yield directory.problem(f"{quoted(key)} belongs to no model: {name_problem(key)}{_and_more(wrong)}")


def _can_be_name(name: str) -> bool:
    return _is_plain(name) or name_problem(name) is None


def _is_plain(path: str) -> bool:
    """Whether a path cannot have a problem; finds out faster than `name_problem` does."""
    return len(path) <= _LONGEST_PLAIN and _PLAIN.fullmatch(path) is not None


def _and_more(problems: Collection[object]) -> str:
    return f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""


def _read_model(directory: _Directory) -> _Found:
    start = len(directory.prefix)
    beside: set[str] = set()
    folders: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in directory.entries:
        key = entry.key
        end = key.find("/", start)
        name = key[start:end]
        if end != -1 and (name in folders or is_version(name)):
            folders[name].append(entry)
        else:
            beside.add(key[start:] if end == -1 else f"{name}/")
    return _versioned(directory, folders, beside) if folders else _unversioned(directory)


def _unversioned(directory: _Directory) -> _Found:
    if not directory.entries:
        message = "there is no model: the directory is empty or does not exist"
        return _Found(problems=[directory.problem(message, rejects=True)])
    version, problems = _read_version("1", directory)
    return _found(directory, [] if version is None else [version], problems, is_versioned=False)


def _versioned(directory: _Directory, folders: Mapping[str, list[Entry]], beside: Collection[str]) -> _Found:
    versions: dict[int, Version] = {}
    problems: list[LayoutProblem] = []
    if beside:
        message = f"only directories named by digits 0-9 may be beside versions; found also {named(beside)}"
        problems.append(directory.problem(message))
    for name in sorted(folders, key=lambda name: (len(name), name)):  # of one value, the least padded first
        folder = directory.of_version(name, folders[name])
        version, wrong = _read_version(name, folder)
        problems += wrong
        if version is None:
            continue
        winner = versions.setdefault(version.value, version)
        if winner is not version:
            problems.append(
                folder.problem(f"has the same value as version {quoted(winner.name)}", rejects=True)
            )
    return _found(directory, [versions[value] for value in sorted(versions)], problems, is_versioned=True)


def _found(
    directory: _Directory,
    versions: Sequence[Version],
    problems: Sequence[LayoutProblem],
    *,
    is_versioned: bool,
) -> _Found:
    if directory.model is None or not versions:
        return _Found(problems=problems)
    model = Model(
        name=directory.model,
        location=directory.location,
        versions=tuple(versions),
        is_versioned=is_versioned,
    )
    return _Found(problems=problems, model=model)


def _read_version(name: str, directory: _Directory) -> tuple[Version | None, list[LayoutProblem]]:
    start = len(directory.prefix)
    files = {entry.key[start:]: entry for entry in directory.entries}
    wrong = (
        _wrong_with_number(name, directory.layout)
        or _wrong_with_keys(files)
        or _wrong_with_repeated(files, directory)
        or _wrong_with_files(files, directory.layout)
    )
    if wrong is not None:
        return None, [directory.problem(wrong, rejects=True)]
    problems = []
    if directory.layout == "tensorflow" and not any(path.startswith(_SHARD) for path in files):
        problems.append(directory.problem(f"'{_SHARD}...' is missing"))
    return _version(name, directory.prefix, files), problems


def _wrong_with_number(name: str, layout: Layout) -> str | None:
    if len(name) > MOST_DIGITS:
        return f"a version has at most {MOST_DIGITS} digits, this one {len(name)}"
    if layout != "python" and int(name) > HIGHEST_TENSORFLOW_VERSION:
        return f"TensorFlow Serving has no versions above {HIGHEST_TENSORFLOW_VERSION}"
    return None


def _wrong_with_keys(files: Mapping[str, Entry]) -> str | None:
    if _is_plain("/".join(files)):  # then each of them is
        return None
    wrong = {
        files[path].key: why
        for path in files
        if not _is_plain(path) and (why := name_problem(path)) is not None
    }
    if not wrong:
        return None
    first = min(wrong)
    return f"{quoted(first)} cannot be a file of a model: {wrong[first]}{_and_more(wrong)}"


def _wrong_with_repeated(files: dict[str, Entry], directory: _Directory) -> str | None:
    """A listing may repeat itself, not contradict itself. Of repeated entries, `files` gets the newest."""
    if len(files) == len(directory.entries):
        return None
    contradicted = set()
    for entry in directory.entries:
        path = entry.key[len(directory.prefix) :]
        known = files[path]
        if (known.size, known.etag) != (entry.size, entry.etag):
            contradicted.add(path)
        elif entry.modified_ns > known.modified_ns:
            files[path] = entry
    return f"{quoted(min(contradicted))} is listed with two contents" if contradicted else None


def _wrong_with_files(files: Collection[str], layout: Layout) -> str | None:
    both = _file_and_directory(files)
    if both is not None:
        return f"{quoted(both)} is a file and a directory"
    missing = [path for path in _REQUIRED[layout] if path not in files]
    if not missing:
        return None
    unread = " ('saved_model.pbtxt' is not read)" if "saved_model.pbtxt" in files else ""
    return f"{named(missing)} {'is' if len(missing) == 1 else 'are'} missing{unread}"


def _file_and_directory(files: Collection[str]) -> str | None:
    """A path that is a file, and a directory of another one."""
    folders = _folders(files)
    while folders:
        both = [folder for folder in folders if folder in files]
        if both:
            return min(both)
        folders = _folders(folders)
    return None


def _folders(paths: Iterable[str]) -> set[str]:
    return {path[: path.rfind("/")] for path in paths if "/" in path}


def _version(name: str, prefix: str, files: Mapping[str, Entry]) -> Version:
    found = tuple(
        [
            ModelFile(
                path=path, size=(entry := files[path]).size, etag=entry.etag, modified_ns=entry.modified_ns
            )
            for path in sorted(files)
        ]
    )
    return version_of(name, prefix, found)


def version_of(name: str, prefix: str, files: tuple[ModelFile, ...]) -> Version:
    """The version that these files, by path, are."""
    lines = [f"{file.path}\0{file.size}\0{len(file.etag)}\0{file.etag}" for file in files]
    digest = hashlib.sha256("".join(lines).encode(errors="surrogatepass")).hexdigest()
    return Version(name=name, prefix=prefix, files=files, digest=digest)
