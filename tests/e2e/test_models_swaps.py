"""Versions of a model come while requests run: none fails, none is answered by two versions, none goes back."""

from __future__ import annotations

from pathlib import Path

from support.installation import Installation, wait_for
from support.load import Load
from support.swapper import FAULTS, Directory, Fault, fault_of, write_project

VERSIONS = 25

REASONS: dict[Fault, str] = {
    "raises": "the weights are of another shape",
    "hangs": "2 s",
    "dies": "SIGSEGV",
    "eats memory": "memory",
    "is corrupt": "second.txt",
}
"""What the error of a version has to name, by its fault."""


def test_every_fifth_version_is_broken_in_another_way(cortex: Installation, project: Path) -> None:
    place = Directory(project.parent / "models")
    place.publish(1)
    write_project(project, place.location)
    cortex.run("deploy", "--yes", cwd=project)

    load = Load(cortex.url("swapped"), connections=6, models=True)
    load.start()
    try:
        for version in range(2, VERSIONS + 1):
            place.publish(version, fault_of(version))
            if fault_of(version) is None:
                load.wait_for_version(version, within=15)
            else:
                wait_until_failed(cortex, version)
        models = {row["version"]: row for row in cortex.api("swapped")["models"]}
    finally:
        report = load.stop()

    assert report.failures == []
    assert report.mixed == []
    assert report.went_back == []
    assert report.answers > 1000
    good = [version for version in range(1, VERSIONS + 1) if fault_of(version) is None]
    assert report.seen == {str(version) for version in good}
    overlaps = [report.overlap(version) for version in good[1:]]
    assert all(overlap is not None and overlap <= 0 for overlap in overlaps), overlaps

    assert models[str(max(good))]["state"] == "live"
    broken = {fault: models[str(version)] for version in models_broken() if (fault := fault_of(version))}
    assert set(broken) == set(FAULTS)
    for fault, row in broken.items():
        assert row["state"] == "failed"
        assert REASONS[fault] in row["error"], (fault, row)


def test_a_version_that_is_unloaded_before_the_next_is_loaded(cortex: Installation, project: Path) -> None:
    """For models that do not fit into memory twice; requests wait meanwhile."""
    place = Directory(project.parent / "models")
    place.publish(1)
    write_project(project, place.location, name="unloaded", extra="      swap_policy: resource\n")
    cortex.run("deploy", "--yes", cwd=project)
    faults: dict[int, Fault] = {4: "raises", 6: "hangs"}
    load = Load(cortex.url("unloaded"), connections=6, models=True)
    load.start()
    try:
        for version in range(2, 8):
            place.publish(version, faults.get(version))
            if version not in faults:
                load.wait_for_version(version, within=15)
            else:
                wait_until_failed(cortex, version, name="unloaded")
    finally:
        report = load.stop()
    assert (report.failures, report.mixed, report.went_back) == ([], [], [])
    assert report.seen == {"1", "2", "3", "5", "7"}


def models_broken() -> list[int]:
    return [version for version in range(1, VERSIONS + 1) if fault_of(version) is not None]


def wait_until_failed(cortex: Installation, version: int, name: str = "swapped") -> None:
    def failed() -> bool:
        return (str(version), "failed") in {
            (row["version"], row["state"]) for row in cortex.api(name)["models"]
        }

    wait_for(failed, within=30, what=f"version {version} is known to be broken")
