"""The service Talk of `support.talk`, served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.talk import Served, Stubs, start


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Stubs:
    return Stubs(tmp_path_factory.mktemp("stubs"))


@pytest.fixture
def serve(tmp_path: Path, stubs: Stubs) -> Iterator[Callable[..., Served]]:
    """Serve a project's source."""
    running: list[Served] = []

    def serve_one(source: str, **options: Any) -> Served:
        folder = tmp_path / str(len(running))
        folder.mkdir()
        running.append(start(folder, source, stubs, **options))
        return running[-1]

    yield serve_one
    for served in running:
        served.close()


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[], Any]:
    """While it is closed, methods of the first project that wait do so."""

    @contextmanager
    def closed() -> Iterator[None]:
        file = tmp_path / "0/gate"
        file.touch()
        try:
            yield
        finally:
            file.unlink()

    return closed
