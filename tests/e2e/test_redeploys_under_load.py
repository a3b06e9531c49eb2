"""Changing a live API loses no request, and a broken change changes nothing."""

from __future__ import annotations

from pathlib import Path

from support.installation import Installation
from support.load import Load
from support.projects import write_versioned

REDEPLOYS = 10


def test_ten_redeploys_and_a_broken_one(cortex: Installation, project: Path) -> None:
    write_versioned(project, version="0")
    cortex.run("deploy", "--yes", cwd=project)

    load = Load(cortex.url("counted"))
    load.start()
    try:
        for version in range(1, REDEPLOYS + 1):
            write_versioned(project, version=str(version))
            cortex.run("deploy", "--yes", cwd=project)

        write_versioned(
            project, version="broken", extra="\nraise RuntimeError('the model file is corrupt')\n"
        )
        broken = cortex.run("deploy", "--yes", cwd=project, expect=1)
        answers_after_broken = load.so_far().answers
    finally:
        report = load.stop()

    assert report.failures == []
    assert report.seen == {str(version) for version in range(REDEPLOYS + 1)}
    assert report.answers > 1000
    assert load.so_far().answers >= answers_after_broken
    assert "RuntimeError: the model file is corrupt" in broken.stderr
    assert 'handler.py", line' in broken.stderr
    assert "cortex_serve" not in broken.stderr, "the traceback shows frames that are not the user's"
    assert cortex.api("counted")["status"]["status_code"] == "status_live"
