"""Reads the APIs of a file that is to be deployed or patched, each with the project it will have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cortex_core.errors import NotFound
from cortex_core.spec.load import ListLocations, load
from cortex_core.spec.problems import InvalidConfig, Problem
from cortex_core.spec.types import Api
from cortex_operator.projects import ProjectFolder

_KEPT_OR_OWNED = (".kind", ".protobuf_path", ".endpoint")
"""Ends of the paths that may conflict with what is deployed."""


class ConflictingConfig(InvalidConfig):
    """The file is sound by itself; all its problems come from what is deployed."""


def read_specs(
    text: str,
    *,
    filename: str,
    folder: Path | None,
    deployed: Sequence[Api],
    list_locations: ListLocations,
    project_digest: str | None,
    project_of: Callable[[str], str | None],
    open_project: Callable[[str], ProjectFolder],
) -> list[Api]:
    """The typed specs of a file, validated against its project and what is deployed.

    Args:
        text, filename: the API file.
        folder: where it lies, if on this machine.
        deployed: specs the file has to get along with.
        list_locations: lists the models.
        project_digest: the project of all its APIs, or None when each keeps its own.
        project_of: the project an API has now, or None when it is not deployed.
        open_project: the files of a project.

    Raises:
        InvalidConfig: all problems; `ConflictingConfig` when an API's kind, protocol or endpoint conflicts
            with what is deployed, and that is all.
        NotFound: a project is not there, or an API that shall keep its project is not deployed.
    """
    project = None if project_digest is None else open_project(project_digest)
    try:
        specs = load(
            text,
            filename=filename,
            project=project,
            deployed=deployed,
            folder=folder,
            list_locations=list_locations,
        )
    except InvalidConfig as invalid:
        alone = _problems(text, filename, None, project)
        if not alone and all(each.path.endswith(_KEPT_OR_OWNED) for each in invalid.problems):
            raise ConflictingConfig(invalid.problems, hint=invalid.hint) from invalid
        raise
    if project is not None:
        return specs
    projects: dict[str, list[str]] = {}
    for spec in specs:
        digest = project_of(spec.name)
        if digest is None:
            raise NotFound(
                f"{spec.name} is not deployed, so it has no project that could be kept", hint="cortex deploy"
            )
        projects.setdefault(digest, []).append(spec.name)
    problems = [
        problem
        for digest, names in projects.items()
        for problem in _problems(text, filename, deployed, open_project(digest))
        if problem.path.partition(".")[0] in names
    ]
    if problems:
        raise InvalidConfig(problems)
    return specs


def _problems(
    text: str, filename: str, deployed: Sequence[Api] | None, project: ProjectFolder | None
) -> tuple[Problem, ...]:
    try:
        load(text, filename=filename, project=project, deployed=deployed)
    except InvalidConfig as invalid:
        return invalid.problems
    return ()
