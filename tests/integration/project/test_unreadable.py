"""What the user may not read; needs a user who is not allowed everything."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cortex_core.errors import InvalidProject
from cortex_core.project import scan

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A project of somebody who is not root, as whom the test then runs."""
    root = Path(tempfile.mkdtemp()).resolve()
    privileged = os.geteuid() == 0
    if privileged:
        os.chown(root, NOBODY, -1)
        os.seteuid(NOBODY)
    try:
        yield root
    finally:
        if privileged:
            os.seteuid(0)
        for path in root.iterdir():
            path.chmod(0o700)
        shutil.rmtree(root)


def test_files_and_folders_that_cannot_be_read_are_all_named(folder: Path) -> None:
    (folder / "handler.py").write_text("")
    (folder / "secret.txt").write_text("")
    (folder / "secret.txt").chmod(0o000)
    (folder / "private").mkdir(mode=0o000)
    with pytest.raises(InvalidProject) as caught:
        scan(folder, "cortex.yaml")
    assert caught.value.message.splitlines()[1:] == [
        "  private/: cannot be read: Permission denied",
        "  secret.txt: cannot be read: Permission denied",
    ]
